"""The command of the frame cache on a small TextVR, and the data sets that read what it made."""

from pathlib import Path

import pytest

from base.config import Config
from data_loader.datasets.text_video_dataset import TextVideoDataset
from parse_config import load_config
from tests.conftest import ROOT, tiny
from tools import cache_frames
from trainer.build import build_dataset

CONFIG = ROOT / "configs/demo/vision.json"


def overrides(demo: Path, data_dir: Path, *more: str) -> list[str]:
    """A tiny configuration's ``--set`` texts: the demo's text model, the videos of ``data_dir``."""
    return [*tiny(demo), f"data_loader.args.data_dir={data_dir}", *more]


def arguments(texts: list[str], *options: str) -> list[str]:
    """The command line."""
    changes = [part for text in texts for part in ("--set", text)]
    return ["cache_frames", "-c", str(CONFIG), *changes, "--workers", "1", *options]


def run(texts: list[str], *options: str) -> int:
    """Run the command in this process; returns its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", arguments(texts, *options))
        return cache_frames.main()


def config_of(texts: list[str]) -> Config:
    return load_config(CONFIG, texts)


def dataset(texts: list[str], cache: Path | None, training: bool = False) -> TextVideoDataset:
    """What training, or test, reads: from the cache, or from the videos where there is none."""
    changes = {"frame_cache": None if cache is None else str(cache)}
    changes |= {} if training else {"split": "test"}
    return build_dataset(config_of(texts), 0, training=training, **changes)
