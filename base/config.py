"""Configuration after it has been checked: frozen values with names and types.

``parse_config.py`` makes these from JSON. Code that registers a part describes the part's nested
arguments with ``ConfigModel`` and marks arguments that only old files set with ``NO_EFFECT``.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from base.registry import Registry
from utils.errors import UserError, shorten

PrecisionName = Literal["fp32", "tf32", "bf16", "fp16"]  # that of utils/precision.py needs torch

# For Annotated[..., NO_EFFECT]: published files set the key, it is accepted and checked, it does
# nothing, and the user is told so.
NO_EFFECT: Any = Field(json_schema_extra={"no_effect": True, "deprecated": True})


class ConfigError(UserError):
    """A configuration that can't be used; ``problems`` holds one line for each thing to mend."""

    max_characters = 10_000
    _MAX_LISTED = 50
    _MAX_LINE = 500  # characters

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        lines = [shorten(text, self._MAX_LINE) for text in self.problems[: self._MAX_LISTED]]
        if len(self.problems) > self._MAX_LISTED:
            lines.append(f"and {len(self.problems) - self._MAX_LISTED} more")
        super().__init__("\n  ".join([f"{shorten(source, self._MAX_LINE)}: {count}", *lines]))


class ConfigModel(BaseModel):
    """Base of every object of a configuration: frozen, no unknown keys.

    Files are read strictly besides (``parsing/blocks.py``): "10" is no number, true no 1.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        protected_namespaces=(),  # the published files have keys such as "model"
    )


class Block(ConfigModel):
    """A registered part and its arguments: ``{"type": NAME, "args": {...}}``."""

    type: str = Field(description="Registered name of the part.")
    # A model made from the signature of what ``type`` names, so its class is known only at run
    # time. While a file is read it is the file's object.
    args: Any = Field(default_factory=dict, description="Arguments of the part.")

    def kwargs(self) -> dict[str, Any]:
        """Return every argument, defaults included; nested models stay model objects."""
        return {name: getattr(self.args, name) for name in type(self.args).model_fields}

    def build(self, registry: Registry, **provided: Any) -> Any:
        """Call what ``type`` names with the arguments and with what the program provides."""
        return registry.get(self.type)(**provided, **self.kwargs())


def parse_monitor(text: str) -> tuple[str, str] | None:
    """Split ``"min val_loss_0"`` into mode and name; ``"off"`` gives None.

    The published ``val_loss`` (no loader number) is ``val_loss_0``.

    Raises:
        UserError: the text is neither ``off`` nor ``min NAME`` or ``max NAME``.
    """
    words = text.split()
    if words == ["off"]:
        return None
    if len(words) != 2 or words[0] not in ("min", "max"):
        raise UserError(
            f'expected "off", "min NAME" or "max NAME" (for example "min val_loss_0"), got "{text}"'
        )
    return words[0], "val_loss_0" if words[1] == "val_loss" else words[1]


class UnimodalLosses(ConfigModel):
    """Weights of losses that a fusion's modalities have each on their own, beside the fused one."""

    vision: float = Field(default=0.0, ge=0, description="Weight of the frames' own loss.")
    ocr: float = Field(default=0.0, ge=0, description="Weight of the OCR words' own loss.")

    def weights(self) -> dict[str, float]:
        """Return the weights that are not 0, by modality."""
        return {name: weight for name, weight in self if weight}


class TrainerConfig(ConfigModel):
    """How long to train, what to keep, and when to stop."""

    epochs: int = Field(ge=1, description="Number of epochs.")
    max_samples_per_epoch: int | None = Field(
        default=None,
        ge=1,
        description="Most samples of an epoch, counted over all GPUs and data loaders, in whole "
        "batches of each; null: all of them.",
    )
    save_dir: str = Field(
        default="work_dirs", min_length=1, description="Folder under which run folders are made."
    )
    save_period: int = Field(
        default=1, ge=1, description="A checkpoint is kept every so many epochs."
    )
    verbosity: int = Field(
        default=2, ge=0, le=2, description="Least level logged: 0 warning, 1 info, 2 debug."
    )
    monitor: str = Field(
        default="min val_loss_0",
        description='Value that says which epoch is best: "min NAME" or "max NAME" with '
        "val_loss_<i> or val_<i>_<metric>_<key>, i = number of the validation loader; or "
        '"off".',
    )
    early_stop: int | None = Field(
        default=None,
        ge=1,
        description="Stop after so many epochs in a row in which monitor did not improve; null: "
        "never.",
    )
    init_val: bool = Field(default=False, description="Evaluate once before the first epoch.")
    validation_period: int = Field(
        default=1,
        ge=1,
        description="Validate every so many epochs, and after the last; only these count for "
        "monitor and early_stop.",
    )
    clip_grad_norm: float | None = Field(
        default=None, gt=0, description="Greatest norm of the gradient; null: not clipped."
    )
    chunk_size: int | None = Field(
        default=None,
        ge=1,
        description="Videos that are encoded at a time, on each GPU; the loss is still that of the "
        "whole batch. null: all at once.",
    )
    ocr_warmup_steps: int = Field(
        default=0,
        ge=0,
        description="The first so many steps train a fusion on its OCR words alone: the frames are "
        "neither encoded nor fused. Against modality collapse (docs/fusion.md).",
    )
    unimodal_losses: UnimodalLosses = Field(
        default=UnimodalLosses(),
        description="Losses of a fusion's modalities beside that of both, each of the embedding "
        "by one modality alone, after the warm-up.",
    )
    precision: PrecisionName = Field(
        default="fp32",
        description="How numbers are held while the encoders compute in training; similarity, loss "
        "and weights are float32 in each.",
    )
    sharding: Literal["none", "fsdp2"] = Field(
        default="none",
        description="What each GPU keeps of weights, gradients and optimizer state: all of it, or "
        "by torch's FSDP2 a part of each, which takes less memory and more time.",
    )
    activation_checkpointing: bool = Field(
        default=False,
        description="Compute the encoders' activations once more in the backward pass instead of "
        "keeping them: less memory, more time, the same gradients.",
    )
    compile: bool | None = Field(
        default=None,
        description="Compile the video encoder with torch.compile: 10 to 20 seconds at the start, "
        "then faster steps; results follow those without it but for rounding. null: on a GPU "
        "with a C compiler, unless deterministic or sharded.",
    )
    deterministic: bool = Field(
        default=False,
        description="On a GPU, two runs of one seed are equal bit for bit, and a resumed run "
        "equals one that was never stopped; slower. On the CPU they are in any case.",
    )
    log_every: int = Field(
        default=10,
        ge=1,
        description="The numbers of every so many steps are shown; between them a GPU is not "
        "waited for.",
    )
    save_every_steps: int | None = Field(
        default=None, ge=1, description="Also save within an epoch, every so many steps."
    )
    save_every_minutes: float | None = Field(
        default=None, gt=0, description="Also save within an epoch, every so many minutes."
    )
    keep_last: int = Field(
        default=2,
        ge=1,
        description="How many of the newest checkpoints are kept, so that one that turns out to be "
        "damaged has one before it.",
    )
    rank_timeout: float = Field(
        default=600.0,
        gt=0,
        description="Seconds that a process waits for the others; then it names those that did not "
        "come, and the run ends.",
    )
    on_nan: Literal["stop", "skip"] = Field(
        default="stop",
        description="A loss that is not finite: stop before the step, or skip the batch (at most "
        "10 in a row); its videos are listed in not_finite.jsonl.",
    )
    tracker: Literal["tensorboard", "wandb", "none"] = Field(
        default="tensorboard",
        description="Where curves, histograms of ranks and clips are shown: tensorboard, wandb "
        "(Weights & Biases, an optional package) or none; metrics.jsonl is always written.",
    )
    neptune: Annotated[Any, NO_EFFECT] = Field(
        default=None, description="No effect: the published code's Neptune logging."
    )

    @field_validator("monitor")
    @classmethod
    def _normalise_monitor(cls, text: str) -> str:
        parsed = parse_monitor(text)
        return "off" if parsed is None else " ".join(parsed)


class EvaluationConfig(ConfigModel):
    """How validation, test.py and index.py compute."""

    precision: PrecisionName | None = Field(
        default=None,
        description="How numbers are held while the encoders compute in validation, test.py and "
        "index.py; embeddings, similarity and loss are float32 in each. null: trainer.precision.",
    )


LOADER_KEYS = ("data_loader", "valid_data_loader")  # one block each, or a list of blocks

# Refused in the names of files by one system or another, or special in a shell's paths.
_UNSAFE_IN_NAME = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]|^[\s.~-]|[\s.]$')


class Config(ConfigModel):
    """A complete experiment."""

    name: str = Field(
        min_length=1,
        max_length=100,
        description="Name of the experiment; a folder under trainer.save_dir is named after it.",
    )
    n_gpu: int = Field(default=1, ge=0, description="Number of GPUs; 0 trains on the CPU.")
    seed: int = Field(
        default=0, ge=0, lt=2**32, description="Seed of everything that is drawn at random."
    )
    arch: Block = Field(description="The model.")
    data_loader: tuple[Block, ...] = Field(
        min_length=1,
        description="One data loader, or a list of them that take turns, batch by batch.",
    )
    valid_data_loader: tuple[Block, ...] | None = Field(
        default=None,
        min_length=1,
        description="What training validates on, one data loader or a list: their split val, or "
        "test where they say so; null: the split val of each of data_loader.",
    )
    optimizer: Block = Field(description="The optimizer.")
    lr_scheduler: Block | None = Field(
        default=None, description="Learning-rate schedule; null: the rate stays as it is."
    )
    loss: Block = Field(description="The loss.")
    metrics: tuple[str, ...] = Field(
        default=("t2v_metrics", "v2t_metrics"),
        description="Metrics computed at each evaluation.",
    )
    trainer: TrainerConfig = Field(description="The training loop.")
    evaluation: EvaluationConfig = Field(
        default=EvaluationConfig(), description="How embeddings are computed outside of training."
    )
    visualizer: Annotated[Any, NO_EFFECT] = Field(
        default=None, description="No effect: the published code's pages of example videos."
    )

    @property
    def evaluation_precision(self) -> PrecisionName:
        """The precision of validation, test.py and index.py."""
        return self.evaluation.precision or self.trainer.precision

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if _UNSAFE_IN_NAME.search(name):
            raise UserError(
                f'"{name}" can\'t name a folder: no / \\ : * ? " < > |, no control characters, '
                "no . - ~ or blank in front, no . or blank at the end"
            )
        return name


def resolve_config(config: Config) -> dict[str, Any]:
    """Return the configuration as JSON values, all defaults written out.

    What it returns is itself a valid configuration of the same meaning. Keys without effect are
    left out.
    """
    data = _effective(config, config.model_dump(mode="json"))
    for key in LOADER_KEYS:
        # One loader is written as published files write it, so that --set data_loader.args.… holds.
        if data[key] is not None and len(data[key]) == 1:
            data[key] = data[key][0]
    return data


def _effective(value: Any, dumped: Any) -> Any:
    """Return ``dumped``, which is ``value`` as JSON values, less the NO_EFFECT fields of models."""
    if isinstance(value, BaseModel):
        return {
            name: _effective(getattr(value, name), dumped[name])
            for name, field in type(value).model_fields.items()
            if not has_no_effect(field.json_schema_extra)
        }
    if isinstance(value, (list, tuple)):
        return [_effective(*pair) for pair in zip(value, dumped, strict=True)]
    return dumped


def has_no_effect(schema: Any) -> bool:
    """Say whether a JSON Schema, or a field's addition to it, carries ``NO_EFFECT``."""
    return isinstance(schema, dict) and schema.get("no_effect") is True
