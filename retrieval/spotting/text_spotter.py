"""What reads the text of one picture. Another engine is one more class of this kind."""

from typing import NamedTuple

import numpy as np


class TextLine(NamedTuple):
    """A line of text as it was read in one picture.

    Attributes:
        text: not empty, without blanks at its ends.
        score: how sure the engine is, in [0, 1].
        corners: (4, 2) float64 x and y in pixels, clockwise from the upper left of the text.
    """

    text: str
    score: float
    corners: np.ndarray


class TextSpotter:
    """An engine. It belongs to the process that made it, and works in one thread."""

    def spot(self, picture: np.ndarray) -> list[TextLine]:
        """Find and read the lines of text.

        Args:
            picture: (H, W, 3) uint8 RGB.

        Returns:
            The lines, from the top down; empty where there is no text.
        """
        raise NotImplementedError
