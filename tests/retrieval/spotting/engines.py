"""A stand-in for RapidOCR, where the text is of no account; and runs of the command."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest

import spot_text
from retrieval.spotting.text_spotter import TextLine, TextSpotter
from utils.cli import run_cli

BOX = np.array([[1, 2], [40, 2], [40, 12], [1, 12]], dtype=np.float64)


class SameText(TextSpotter):
    """Reads the same line in every picture, after a while."""

    def __init__(self, pause: float = 0.0, **_: object) -> None:
        self._pause = pause

    def spot(self, picture: np.ndarray) -> list[TextLine]:
        time.sleep(self._pause)
        return [TextLine("Grand Hotel", 0.9, BOX)]


def command(*arguments: object) -> int:
    """Run spot_text.py here; returns its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["spot_text.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            run_cli(spot_text.main)
    return caught.value.code


def documents(out: Path) -> list[str]:
    """The files in a folder of documents, temporary ones included."""
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
