"""Stand-in engines for tests where the text doesn't matter; runs of the command; a video."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest

import spot_text
from base.registry import TEXT_SPOTTERS
from retrieval.spotting.folder import IDENTITY_FILE
from retrieval.spotting.text_spotter import TextLine, TextSpotter
from tests.videos import write_video
from utils.cli import run_cli

BOX = np.array([[1, 2], [40, 2], [40, 12], [1, 12]], dtype=np.float64)


@TEXT_SPOTTERS.register("same_text")
class SameText(TextSpotter):
    """Reads the same line in every picture."""

    pause = 0.0

    def identity(self) -> dict[str, str]:
        return {"engine": "same_text"}

    def spot(self, picture: np.ndarray) -> list[TextLine]:
        time.sleep(self.pause)
        return [TextLine("Grand Hotel", 0.9, BOX)]


@TEXT_SPOTTERS.register("slow_text")
class SlowText(SameText):
    """Takes its time."""

    pause = 0.2


@pytest.fixture(scope="module", name="clip")
def make_clip(tmp_path_factory) -> bytes:
    """A small video's bytes."""
    return write_video(tmp_path_factory.mktemp("clip") / "a.mp4", 12).read_bytes()


def run_command(*arguments: object) -> int:
    """Run spot_text.py here; returns its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["spot_text.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            run_cli(spot_text.main)
    return caught.value.code


def spot(*arguments: object) -> int:
    """Run spot_text.py with the engine of this file."""
    return run_command("--engine", "same_text", *arguments)


def list_documents(out: Path) -> list[str]:
    """The files in a folder of documents, temporary ones included; not the engine's name."""
    files = (path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    return sorted(name for name in files if name != IDENTITY_FILE)


def put(folder: Path, clip: bytes, *names: str) -> Path:
    """Copy the clip to these names in a folder; returns the folder."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(clip)
    return folder
