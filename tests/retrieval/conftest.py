"""A small fusion model's checkpoint and an index of the demonstration's test videos."""

import json
import logging
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from base.config import resolve_config
from base.registry import ARCHITECTURES
from parse_config import load_config
from retrieval.index.embedding import ModelFile
from retrieval.index.ocr_text import OcrFolder
from retrieval.index.query_embedder import shrink_weight
from retrieval.index.update import IndexOptions, UpdateResult, update_index
from tests.conftest import ROOT, tiny
from tests.retrieval.frame_colours import FrameColours, write_colour_model, write_colours
from trainer.build import build_model
from utils.checkpoint.files import save_checkpoint
from utils.cli import run_cli
from utils.files import write_json

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Library:
    """Videos, their OCR documents, and a model's checkpoint."""

    videos: Path
    ocr: Path
    checkpoint: Path

    @property
    def model(self) -> ModelFile:
        return ModelFile(self.checkpoint, load_config(self.checkpoint.parent / "config.json"))

    def index(self, out: Path, **options: object) -> UpdateResult:
        return update_index(
            self.videos, out, self.model, OcrFolder(self.ocr), IndexOptions(**options)
        )


@pytest.fixture(scope="session")
def make_checkpoint(demo, tmp_path_factory):
    """Return a function: kind of the demo -> a checkpoint of freshly initialised weights.

    They are such as half precision holds, in which an index keeps the query encoder's: so what it
    finds can be compared exactly with what the model gives.
    """

    def make(kind: str = "fusion", *changes: str) -> Path:
        folder = tmp_path_factory.mktemp("runs") / kind
        folder.mkdir()
        sets = tiny(demo)
        if kind == "dual_encoder":
            sets = [change for change in sets if not change.startswith("arch.")]
            sets.append(f"arch.args.tower={demo}/tower")
        config = load_config(ROOT / f"configs/demo/{kind}.json", [*sets, *changes])
        write_json(folder / "config.json", resolve_config(config))
        weights = build_model(config, CPU).state_dict()
        weights = {name: shrink_weight(weight).float() for name, weight in weights.items()}
        save_checkpoint(folder / "model.pth", {"state_dict": weights})
        return folder / "model.pth"

    return make


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint) -> Path:
    return make_checkpoint()


@pytest.fixture(scope="session")
def test_names(demo) -> list[str]:
    """The test videos, in the annotation file's order."""
    return [entry["path"] for entry in json.loads((demo / "TextVR_test.json").read_text())]


@pytest.fixture
def library(demo, checkpoint, test_names, tmp_path) -> Library:
    """A copy of the eight test videos and their documents, to be changed."""
    for source, target in (("Videos", "my videos"), ("Kwai_VideoOCR", "my ocr")):
        for name in test_names:
            file = Path(name) if source == "Videos" else Path(name).with_suffix(".json")
            (tmp_path / target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(demo / source / file, tmp_path / target / file)
    return Library(tmp_path / "my videos", tmp_path / "my ocr", checkpoint)


@pytest.fixture(scope="session")
def built(demo, checkpoint, test_names, tmp_path_factory) -> tuple[Path, Library]:
    """An index that is only read, and what it was made from."""
    folder = tmp_path_factory.mktemp("built")
    for name in test_names:
        (folder / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(demo / "Videos" / name, folder / "videos" / name)
    library = Library(folder / "videos", demo / "Kwai_VideoOCR", checkpoint)
    library.index(folder / "my.index")
    return folder / "my.index", library


@pytest.fixture
def copy(built, tmp_path) -> Path:
    """A copy of the index that may be damaged."""
    return Path(shutil.copytree(built[0], tmp_path / "copy.index"))


@pytest.fixture(scope="module")
def colours(demo, tmp_path_factory) -> Iterator[tuple[Path, ModelFile]]:
    """Two videos, in one of which red is seen from second 6 to 8; and a model. Read only.

    The model's architecture is registered as long as a module's tests run.
    """
    registered = dict(ARCHITECTURES._entries)
    ARCHITECTURES.register("FrameColours")(FrameColours)
    folder = tmp_path_factory.mktemp("colours")
    write_colours(folder / "videos/moment.mp4", ("blue", 6), ("red", 2), ("blue", 6))
    write_colours(folder / "videos/short.mp4", ("cyan", 0.5))
    yield folder / "videos", write_colour_model(folder / "run", demo)
    ARCHITECTURES._entries = registered


@pytest.fixture
def run_script(monkeypatch, capsys):
    """Return a function that runs a script here; it gives the exit code, stdout and stderr."""

    def run(script, *command: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, command)])
        with pytest.raises(SystemExit) as caught:
            run_cli(script.main)
        captured = capsys.readouterr()
        logging.getLogger().handlers.clear()
        return caught.value.code, captured.out, captured.err

    return run
