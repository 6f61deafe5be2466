"""Where curves and pictures of a run go: TensorBoard, Weights & Biases, or nowhere."""

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from utils.errors import UserError

Axis = Literal["step", "epoch"]
Tracker = Literal["tensorboard", "wandb", "none"]


class Board:
    """Takes what is looked at while a run goes on, and shows nothing; others override all of it.

    Places count along steps or epochs.
    """

    def scalars(self, values: Mapping[str, float], axis: Axis, place: int) -> None:
        """Add a point to each named curve."""

    def histogram(self, name: str, values: NDArray, axis: Axis, place: int) -> None:
        """Add the distribution of (n,) numbers."""

    def image(self, name: str, image: NDArray, axis: Axis, place: int) -> None:
        """Add a (3, H, W) uint8 picture."""

    def text(self, name: str, text: str, axis: Axis, place: int) -> None:
        """Add a text in Markdown."""

    def flush(self) -> None:
        """Let what was added be seen."""

    def close(self) -> None:
        """Finish writing."""


def open_board(tracker: Tracker, run_dir: Path, config: Mapping[str, Any]) -> Board:
    """Open the board that ``trainer.tracker`` names.

    Args:
        tracker: which one.
        run_dir: folder of the run; each board keeps its files in a folder of its own there.
        config: resolved; Weights & Biases shows it, and calls the project by its name.

    Raises:
        UserError: the board can't be had.
    """
    boards: dict[Tracker, Callable[[], Board]] = {
        "tensorboard": lambda: TensorBoard(run_dir),
        "wandb": lambda: WeightsAndBiases(run_dir, config),
        "none": Board,
    }
    return boards[tracker]()


class TensorBoard(Board):
    """Writes event files to ``tensorboard/`` in the run's folder."""

    def __init__(self, run_dir: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run_dir / "tensorboard"))

    def scalars(self, values: Mapping[str, float], axis: Axis, place: int) -> None:
        """Add a point to each named curve."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, place)

    def histogram(self, name: str, values: NDArray, axis: Axis, place: int) -> None:
        """Add the distribution of (n,) numbers."""
        self._writer.add_histogram(name, values, place)

    def image(self, name: str, image: NDArray, axis: Axis, place: int) -> None:
        """Add a (3, H, W) uint8 picture."""
        self._writer.add_image(name, image, place)

    def text(self, name: str, text: str, axis: Axis, place: int) -> None:
        """Add a text in Markdown."""
        self._writer.add_text(name, text, place)

    def flush(self) -> None:
        """Let what was added be seen."""
        self._writer.flush()

    def close(self) -> None:
        """Finish writing."""
        self._writer.close()


class WeightsAndBiases(Board):
    """Sends a run to Weights & Biases, or keeps it in ``wandb/`` with ``WANDB_MODE=offline``.

    A resumed run goes on under the id that it keeps in ``wandb_id``.

    Raises:
        UserError: the package is not there, or the run can't be begun.
    """

    def __init__(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        self._wandb = _import_wandb()
        try:
            self._run = self._wandb.init(
                project=str(config["name"]),
                name=run_dir.name,
                id=_kept_id(run_dir / "wandb_id"),
                resume="allow",
                dir=str(run_dir),
                config=dict(config),
                # stderr has the progress bars, and train.log the rest.
                settings=self._wandb.Settings(console="off", silent=True),
            )
        except self._wandb.Error as error:
            raise UserError(
                f"trainer.tracker: Weights & Biases can't begin the run ({error}); log in with "
                "wandb login, or set WANDB_MODE=offline and send it later with wandb sync"
            ) from error
        # Both axes grow on their own; its single step would have to grow with every line.
        self._run.define_metric("epoch")
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="epoch")
        self._run.define_metric("step/*", step_metric="step")

    def scalars(self, values: Mapping[str, float], axis: Axis, place: int) -> None:
        """Add a point to each named curve."""
        self._run.log({axis: place, **values})

    def histogram(self, name: str, values: NDArray, axis: Axis, place: int) -> None:
        """Add the distribution of (n,) numbers."""
        self._run.log({axis: place, name: self._wandb.Histogram(values)})

    def image(self, name: str, image: NDArray, axis: Axis, place: int) -> None:
        """Add a (3, H, W) uint8 picture."""
        picture = np.ascontiguousarray(image.transpose(1, 2, 0))
        self._run.log({axis: place, name: self._wandb.Image(picture)})

    def text(self, name: str, text: str, axis: Axis, place: int) -> None:
        """Add a text in Markdown, shown as it is written."""
        table = self._wandb.Table(columns=["text"], data=[[text]])
        self._run.log({axis: place, f"{name}/text": table})

    def flush(self) -> None:
        """Do nothing: it is sent as it comes."""

    def close(self) -> None:
        """Finish sending."""
        self._run.finish()


def _import_wandb() -> ModuleType:
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            'trainer.tracker: "wandb" needs a package that is not installed; run '
            "pip install wandb, or set trainer.tracker to tensorboard"
        ) from error
    return wandb


def _kept_id(file: Path) -> str:
    """Return the run's id, drawn by the system: the seeds of the run know nothing of it."""
    if not file.exists():
        file.write_text(secrets.token_hex(8), encoding="utf-8")
    return file.read_text(encoding="utf-8").strip()
