"""Helpers of the tests of made-up data."""

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from data_loader.synthetic.demo import DemoOptions
from tools import make_data
from utils.cli import run_cli

OPTIONS = DemoOptions(looks=4, words=4, clips_per_pair=2, seed=3)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def decode(path: Path) -> np.ndarray:
    """All frames of a video, (F, H, W, 3)."""
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def run(arguments: str) -> int:
    """The exit code of the command."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr("sys.argv", ["make_data", *arguments.split()])
        run_cli(make_data.main)
    return ended.value.code
