"""A stand-in for RapidOCR, where the text is of no account; runs of the command, and fixtures."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest

import spot_text
from retrieval.spotting.text_spotter import TextLine, TextSpotter
from tests.videos import write_video
from utils.cli import run_cli

BOX = np.array([[1, 2], [40, 2], [40, 12], [1, 12]], dtype=np.float64)


class SameText(TextSpotter):
    """Reads the same line in every picture, after a while."""

    def __init__(self, pause: float = 0.0, **_: object) -> None:
        self._pause = pause

    def spot(self, picture: np.ndarray) -> list[TextLine]:
        time.sleep(self._pause)
        return [TextLine("Grand Hotel", 0.9, BOX)]


@pytest.fixture(scope="module", name="clip")
def make_clip(tmp_path_factory) -> bytes:
    """A small video's bytes."""
    return write_video(tmp_path_factory.mktemp("clip") / "a.mp4", 12).read_bytes()


@pytest.fixture(name="same_text")
def use_same_text(monkeypatch):
    """The engine is a stand-in, in the worker processes, too: they are forked."""
    monkeypatch.setattr(spot_text, "RapidOcrSpotter", SameText)


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


def put(folder: Path, clip: bytes, *names: str) -> Path:
    """Copy the clip to these names in a folder; returns the folder."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(clip)
    return folder
