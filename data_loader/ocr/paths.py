"""Paths of OCR documents: one rule for every data set and command.

Documents mirror the videos' paths in another folder and add ``.json`` to the file's full name:
``a/talk.mp4`` has ``a/talk.mp4.json``. The published form, ``a/talk.json``, is read
where there is no other; where two videos would share it (``talk.mp4`` and ``talk.mov``) it is
used for neither, with a warning. A document that an annotation names comes first where it exists.
"""

import logging
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from utils.files import FileFinder

logger = logging.getLogger(__name__)


def name_document(video: str) -> str:
    """Return the path of a video's document: ``a/talk.mp4`` -> ``a/talk.mp4.json``."""
    return f"{video}.json"


def name_published_document(video: str) -> str:
    """Return the path of a video's document in the published form: ``a/talk.json``."""
    return str(PurePosixPath(video).with_suffix(".json"))


def find_document(
    folder: Path, video: str, given: str | None = None, finder: FileFinder | None = None
) -> Path:
    """Return the document of one video, which may be missing.

    Args:
        folder: of the documents.
        video: POSIX path within the folder of the videos.
        given: document that an annotation names; it comes before the one named after the video.
        finder: of a caller that looks for many.
    """
    finder = finder or FileFinder()
    named = finder.locate(folder, name_document(video))
    if given is None:
        is_there = os.path.isfile(named)
        return named if is_there else finder.locate(folder, name_published_document(video))
    path = finder.locate(folder, given)
    return named if not os.path.isfile(path) and os.path.isfile(named) else path


def find_documents(folder: Path, videos: Sequence[str]) -> list[Path | None]:
    """Return the documents of all ``videos`` of a folder; None where two could share one."""
    full_names, finder = set(map(name_document, videos)), FileFinder()
    owners = defaultdict(list)
    for video in videos:
        owners[name_published_document(video)].append(video)
    documents, ambiguous = [], set()
    for video in videos:
        published, full = name_published_document(video), folder / name_document(video)
        path: Path | None = find_document(folder, video, finder=finder)
        if path != full:
            name = path.relative_to(folder).as_posix()
            if name in full_names or (name != published and name in owners):
                # Of another video: x.mp4 beside x.mp4.mov, or one whose name is spelled so.
                path = full
            elif len(owners[published]) > 1 and os.path.isfile(path):
                ambiguous.add(published)
                path = None
        documents.append(path)
    for name in sorted(ambiguous):
        owner_names = " and of ".join(owners[name])
        logger.warning(
            f"{folder / name}: could be the text of {owner_names}, so it is used for none of them; "
            f"name it after its video, for example {name_document(owners[name][0])}"
        )
    return documents
