"""Text spotting engines: the interface of a registered one, and how it is built by its name."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from base.registry import TEXT_SPOTTERS
from utils.errors import UserError


class TextLine(NamedTuple):
    """A line of text as it was read in one picture."""

    text: str  # not empty, without blanks at its ends
    score: float  # how sure the engine is, in [0, 1]
    corners: np.ndarray  # (4, 2) float64 x and y in pixels, clockwise from the text's upper left


class TextSpotter(ABC):
    """An engine that reads the text of one picture, in one thread.

    Making one only checks its options; models are loaded by ``load``, in the process that reads.
    Register it in ``TEXT_SPOTTERS`` and import its module in ``retrieval.registrations``:
    ``spot_text.py --engine NAME`` takes it.
    """

    # What ``spot`` has noticed in the last picture beside its lines, as JSON values; None: nothing.
    noticed: Any = None

    @abstractmethod
    def identity(self) -> dict[str, str]:
        """Return what its readings depend on: the engine, its version, models, script.

        Documents of two identities are never mixed in one folder. Called before ``load``; raises
        ``UserError`` where a package is not installed or a file can't be read.
        """

    def load(self) -> None:  # noqa: B027 - an engine may have nothing to load
        """Load what ``spot`` needs; raises ``UserError`` where that can't be done."""

    def reset(self) -> None:  # noqa: B027 - an engine may notice nothing
        """Forget what was noticed, before another video."""

    def restore(self, noticed: Any) -> None:  # noqa: B027 - likewise
        """Take in what ``noticed`` was, of a picture that an earlier run has read."""

    def confirm(self, text: str) -> bool:
        """Whether a text that was read still counts; called for each when a video is read."""
        return True

    def describe_unread(self) -> str | None:
        """Return what couldn't be read since ``reset``, and the remedy, in a line; None: nothing.

        Called once, when a video is read to its end.
        """
        return None

    @abstractmethod
    def spot(self, picture: np.ndarray) -> list[TextLine]:
        """Find and read the lines of text of a picture (H, W, 3) uint8 RGB, from the top down."""


def build_spotter(engine: str, options: Mapping[str, Any]) -> TextSpotter:
    """Build a registered engine; options that are None are left to its defaults.

    Raises:
        UserError: there is no such engine, it has no such option, or an option is wrong.
    """
    make = TEXT_SPOTTERS.get(engine)
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        if name not in inspect.signature(make).parameters:
            raise UserError(f'--{name}: the engine "{engine}" has no such option; leave it out')
    return make(**given)


def check_engine(spotter: TextSpotter, identity: Mapping[str, str] | None) -> None:
    """Raise ``UserError`` where the engine on this machine is another one than elsewhere."""
    found = spotter.identity()
    if found != identity:
        raise UserError(
            f"its text engine is another one ({describe_identity(found)}) than where the command "
            f"was given ({describe_identity(identity or {})}); install the same version there"
        )


def describe_identity(identity: Mapping[str, str]) -> str:
    """Return an engine's identity in one line, with as much of a checksum as people compare."""
    parts = {key: value[:12] if len(value) == 64 else value for key, value in identity.items()}
    return ", ".join(f"{key} {value}" for key, value in parts.items())
