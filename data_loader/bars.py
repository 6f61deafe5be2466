"""A progress bar for work that is silent otherwise, and may be long."""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from tqdm import tqdm

from utils.distributed import ranks

T = TypeVar("T")

SHOWN_AFTER_S = 1.0  # what is done before that needs no bar


def watched(items: Sequence[T], text: str, unit: str) -> Iterable[T]:
    """Iterate with a bar on stderr, in the first process, where it takes more than a moment."""
    return tqdm(
        items, desc=text, unit=unit, delay=SHOWN_AFTER_S, dynamic_ncols=True,
        disable=not ranks().is_first,
    )  # fmt: skip
