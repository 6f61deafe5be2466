"""Split lists of Frozen in Time's layouts: one id a line."""

import logging
from pathlib import Path

from data_loader.annotations import AnnotationError, read_text

logger = logging.getLogger(__name__)


def read_list(path: Path) -> list[str]:
    """Read a list of ids, one a line, in its order; blank lines count as none.

    An id that stands there again is taken once, with a warning.

    Raises:
        AnnotationError: the file can't be read, or holds no id.
    """
    lines = [line.strip() for line in read_text(path).splitlines()]
    listed = [line for line in lines if line]
    ids = list(dict.fromkeys(listed))
    if not ids:
        raise AnnotationError(f"{path}: lists nothing")
    if len(ids) < len(listed):
        logger.warning(
            "%s: %d lines repeat an id; each is taken once", path, len(listed) - len(ids)
        )
    return ids
