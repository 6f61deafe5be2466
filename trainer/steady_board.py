"""A board that can't be written any more does not end the run."""

import logging
from collections.abc import Callable, Mapping

from numpy.typing import NDArray

from trainer.boards import Axis, Board

logger = logging.getLogger(__name__)


class SteadyBoard:
    """Hands everything on until that fails: then says so, and shows nothing from there on.

    Args:
        board: the one to hand on to.
    """

    def __init__(self, board: Board) -> None:
        self._board = board

    def scalars(self, values: Mapping[str, float], axis: Axis, place: int) -> None:
        """Add a point to each named curve."""
        self._try(lambda board: board.scalars(values, axis, place))

    def histogram(self, name: str, values: NDArray, axis: Axis, place: int) -> None:
        """Add the distribution of (n,) numbers."""
        self._try(lambda board: board.histogram(name, values, axis, place))

    def image(self, name: str, image: NDArray, axis: Axis, place: int) -> None:
        """Add a (3, H, W) uint8 picture."""
        self._try(lambda board: board.image(name, image, axis, place))

    def text(self, name: str, text: str, axis: Axis, place: int) -> None:
        """Add a text in Markdown."""
        self._try(lambda board: board.text(name, text, axis, place))

    def flush(self) -> None:
        """Let what was added be seen."""
        self._try(lambda board: board.flush())

    def close(self) -> None:
        """Finish writing."""
        self._try(lambda board: board.close())

    def _try(self, call: Callable[[Board], None]) -> None:
        try:
            call(self._board)
        except OSError as error:  # of an earlier call, too: boards write from a thread
            name = type(self._board).__name__
            logger.error("NOT WRITTEN: %s (%s); it shows no more of this run", name, error)
            self._board = Board()
