"""A pretrained image-text tower as the model of an index: zero-shot, without a checkpoint."""

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import data_loader.registrations  # noqa: F401
import model.registrations  # noqa: F401
import trainer.registrations  # noqa: F401
from base.config import Config, resolve_config
from parsing.config_builder import build_config
from parsing.json_files import read_config
from retrieval.errors import IndexFolderError
from retrieval.index.config_paths import find_relative_paths
from retrieval.index.embedding import ModelFile
from retrieval.index.hub import OPEN_CLIP, HubError, locate_model
from retrieval.index.layout import config_file
from utils.errors import UserError

ARCHITECTURE = "DualEncoder"
NUM_FRAMES = 8  # of a window: of 10 s one every 1.25 s, a compromise with the time on a CPU
PROJECT = Path(__file__).parents[2]
_MAX_NAME = 100  # characters of a configuration's name


class TowerModel(ModelFile):
    """A tower by its name, its folder, or ``open_clip:NAME``; raises ``UserError``.

    Its files are looked for when they are first needed, so that an index in which nothing is to be
    embedded is brought up to date without them.

    Args:
        tower: what ``--model`` takes.
        overrides: ``KEY=VALUE`` texts that change the configuration.
        kept: file of the configuration, as the index that the tower made has it; None: a new one.
    """

    def __init__(self, tower: str, overrides: Sequence[str] = (), kept: Path | None = None) -> None:
        folder = Path(tower.removeprefix(OPEN_CLIP))
        if folder.is_dir():  # the same one, wherever the next command is run
            tower = tower.replace(str(folder), str(folder.absolute()))
        values = {"path": None, "tower": tower}  # frozen, as every ModelFile is
        for name, value in (values | {"_overrides": overrides, "_kept": kept}).items():
            object.__setattr__(self, name, value)

    @property
    def name(self) -> str:
        """What finds the tower again."""
        return self.tower

    @property
    def is_kept(self) -> bool:
        """Whether it is the index, and not its user, that says which tower it is."""
        return self._kept is not None

    @cached_property
    def config(self) -> Config:
        """The configuration, with the tower's folder: what is given a folder asks no hub."""
        place = self._locate()
        if self._kept is None:
            return make_tower_config(self.tower, place, self._overrides)
        data, problems = read_config(str(self._kept))
        try:
            data["arch"]["args"]["tower"] = place
        except (LookupError, TypeError) as error:
            raise IndexFolderError(
                f"{self._kept}: is not the configuration of a tower; make the index anew"
            ) from error
        return build_config(data, str(self._kept), (), problems, made_with=data)

    def list_files(self) -> list[Path]:  # noqa: D102
        place = Path(self._locate())
        return [place] if place.is_dir() else []

    def _locate(self) -> str:
        """Return the folder of the tower's files, or what open_clip finds them by."""
        remedy = "give a folder with its files: --model FOLDER"
        if self.tower.startswith(OPEN_CLIP):
            folder = Path(self.tower.removeprefix(OPEN_CLIP))
            if folder.is_absolute() and not folder.is_dir():
                raise UserError(f"{self.tower}: no such folder; {remedy}")
            return self.tower
        try:
            return str(locate_model(self.tower))
        except HubError as error:
            raise HubError(f"{error}; {remedy}") from error

    def resolve_config(self) -> dict[str, Any]:
        """Return the configuration with the tower's name, which holds on other machines, too."""
        config = resolve_config(self.config)
        config["arch"]["args"]["tower"] = self.tower
        return config


def open_model(folder: Path, meta: dict[str, Any]) -> ModelFile:
    """Return the model of an index; raises ``UserError``."""
    identity, config = meta["model"], config_file(folder, meta)
    if "path" not in identity:
        return TowerModel(identity["name"], kept=config)
    data, errors = read_config(str(config))
    checkpoint = Path(identity["path"])
    # Where earlier versions, which kept paths as they were given, may have been called.
    folders = [*checkpoint.parents, *folder.absolute().parents, PROJECT]
    data = find_relative_paths(data, folders, config)
    built = build_config(data, str(config), (), errors, made_with=data)
    return ModelFile(checkpoint, built)


def make_tower_config(tower: str, place: str, overrides: Sequence[str] = ()) -> Config:
    """Return the configuration of a tower without training; raises ``UserError``.

    Args:
        tower: its name.
        place: its folder, or the name where that is what is loaded.
        overrides: ``KEY=VALUE`` texts, such as
            ``data_loader.args.video_params.num_frames=4``.
    """
    arch = {"type": ARCHITECTURE, "args": {"tower": place, "modalities": ["vision"]}}
    video = {"num_frames": NUM_FRAMES}
    reading = {"dataset_name": "VideoDirectory", "data_dir": ".", "video_params": video}
    data = {
        "name": re.sub(r"[^\w.-]+", "_", tower).strip("._-")[-_MAX_NAME:].lstrip("._-") or "tower",
        "arch": arch,
        "data_loader": {"type": "TextVideoDataLoader", "args": reading},
        # Of training, which there is none of.
        "optimizer": {"type": "AdamW"},
        "loss": {"type": "NormSoftmaxLoss"},
        "trainer": {"epochs": 1, "monitor": "off"},
    }
    return build_config(data, f"--model {tower}", overrides, ())
