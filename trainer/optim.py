"""Optimizers and learning-rate schedules by name.

``AdamW`` has torch's rule, ``TransformersAdamW`` that of the published runs; the defaults of both
are those of the published runs' library: eps 1e-6, no decay. A step is one fused kernel, which
reads and writes each value once; which one it is stays out of checkpoints.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, TypeVar

import torch
from pydantic import Field, model_validator
from torch.optim import lr_scheduler as torch_schedules
from torch.optim.lr_scheduler import LRScheduler

from base.config import ConfigModel
from base.registry import LR_SCHEDULERS, OPTIMIZERS
from trainer.transformers_adamw import TransformersAdamW
from utils.errors import UserError

Parameters = Iterable[tuple[str, torch.nn.Parameter]]
Built = TypeVar("Built", bound=torch.optim.Optimizer)
LearningRate = Annotated[float, Field(ge=0, description="Learning rate.")]
Betas = Annotated[tuple[float, float], Field(description="Decay of the two running means.")]
Eps = Annotated[float, Field(gt=0, description="Added to the denominator.")]
Decay = Annotated[float, Field(ge=0, description="Weight decay.")]


class ParameterGroup(ConfigModel):
    """Settings of the parameters whose names match a pattern."""

    match: str = Field(
        min_length=1,
        description="Pattern of names, * for any text: video_model.*, *.bias, criterion.*.",
    )
    lr: float | None = Field(None, ge=0, description="Learning rate; null: the optimizer's.")
    lr_scale: float | None = Field(
        None, ge=0, description="In place of lr: what the optimizer's learning rate is times."
    )
    weight_decay: float | None = Field(
        None, ge=0, description="Weight decay; null: the optimizer's."
    )

    @model_validator(mode="after")
    def _check_one_rate(self) -> "ParameterGroup":
        if None not in (self.lr, self.lr_scale):
            raise ValueError("has both lr and lr_scale; leave one of them out")
        return self

    def get_settings(self, lr: float) -> dict[str, float]:
        """Return what the group sets; ``lr`` is the optimizer's learning rate."""
        rate = self.lr if self.lr_scale is None else lr * self.lr_scale
        found = {"lr": rate, "weight_decay": self.weight_decay}
        return {key: value for key, value in found.items() if value is not None}


Groups = Annotated[
    tuple[ParameterGroup, ...],
    Field(
        description="Parameters with settings of their own; where several match, the later one "
        "counts. Parameters of the loss are called criterion.NAME."
    ),
]
DecayNormsAndBiases = Annotated[
    bool,
    Field(
        description="Whether weight decay is for all parameters; false: not for those of one "
        "dimension or none, which are norms, biases and learned scales, whatever groups say."
    ),
]


@OPTIMIZERS.register("AdamW", provided=("params",))
def adamw(
    params: Parameters,
    lr: LearningRate = 3e-5,
    betas: Betas = (0.9, 0.999),
    eps: Eps = 1e-6,
    weight_decay: Decay = 0.0,
    groups: Groups = (),
    decay_norms_and_biases: DecayNormsAndBiases = True,
) -> torch.optim.AdamW:
    """AdamW by torch's rule, with the published defaults."""
    options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    return _build(torch.optim.AdamW, params, groups, decay_norms_and_biases, options)


@OPTIMIZERS.register("TransformersAdamW", provided=("params",))
def transformers_adamw(
    params: Parameters,
    lr: LearningRate = 3e-5,
    betas: Betas = (0.9, 0.999),
    eps: Eps = 1e-6,
    weight_decay: Decay = 0.0,
    groups: Groups = (),
    decay_norms_and_biases: DecayNormsAndBiases = True,
) -> TransformersAdamW:
    """AdamW by the rule of the published runs, with their defaults.

    Raises:
        UserError: a step would decay all of a weight, which this rule can't.
    """
    options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    optimizer = _build(TransformersAdamW, params, groups, decay_norms_and_biases, options)
    for group in optimizer.param_groups:
        if group["lr"] * group["weight_decay"] >= 1:
            raise UserError(
                f"optimizer.args: lr {group['lr']} times weight_decay {group['weight_decay']} is 1 "
                "or more, so that a step would take the whole weight away; lower one of them"
            )
    return optimizer


@OPTIMIZERS.register("Adam", provided=("params",))
def adam(
    params: Parameters,
    lr: LearningRate = 3e-5,
    betas: Betas = (0.9, 0.999),
    eps: Eps = 1e-8,
    weight_decay: Decay = 0.0,
    groups: Groups = (),
    decay_norms_and_biases: DecayNormsAndBiases = True,
) -> torch.optim.Adam:
    """Adam with torch's defaults."""
    options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    return _build(torch.optim.Adam, params, groups, decay_norms_and_biases, options)


@OPTIMIZERS.register("SGD", provided=("params",))
def sgd(
    params: Parameters,
    lr: LearningRate = 1e-3,
    momentum: Annotated[float, Field(ge=0, lt=1, description="Momentum.")] = 0.0,
    weight_decay: Decay = 0.0,
    nesterov: Annotated[bool, Field(description="Nesterov momentum.")] = False,
    groups: Groups = (),
    decay_norms_and_biases: DecayNormsAndBiases = True,
) -> torch.optim.SGD:
    """Stochastic gradient descent."""
    options = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
    return _build(torch.optim.SGD, params, groups, decay_norms_and_biases, options)


# A step of a part of a weight is that part of the weight's step: they can be sharded.
ELEMENTWISE = ("AdamW", "TransformersAdamW", "Adam", "SGD")


def can_fuse(weights: Sequence[torch.Tensor]) -> bool:
    """Say whether one fused kernel can step all weights: where all are on one kind of device."""
    return {weight.device.type for weight in weights} in ({"cuda"}, {"cpu"})


def group_parameters(
    params: Parameters,
    groups: Sequence[ParameterGroup],
    lr: float,
    decay_norms_and_biases: bool = True,
) -> list[dict[str, Any]]:
    """Return torch's parameter groups: parameters of equal settings together, in their order.

    Args:
        lr: the optimizer's, which ``lr_scale`` multiplies.
        decay_norms_and_biases: False: parameters of one dimension or none have no weight decay.

    Raises:
        UserError: a group matches no parameter, or decays only what shall have no decay.
    """
    params = list(params)
    for number, group in enumerate(groups):
        matched = [weight for name, weight in params if fnmatchcase(name, group.match)]
        where = f'optimizer.args.groups.{number}.match: "{group.match}" matches'
        if not matched:
            tops = ", ".join(dict.fromkeys(name.split(".")[0] for name, _ in params))
            raise UserError(f"{where} no parameter; their names begin with {tops}")
        if not decay_norms_and_biases and group.weight_decay and max(w.ndim for w in matched) < 2:
            raise UserError(
                f"{where} only norms, biases and scales, which have no weight decay with "
                "decay_norms_and_biases false; leave one of the two out"
            )
    found: dict[tuple, list[torch.nn.Parameter]] = {}
    for name, parameter in params:
        settings: dict[str, float] = {}
        for group in groups:
            if fnmatchcase(name, group.match):
                settings |= group.get_settings(lr)
        if not decay_norms_and_biases and parameter.ndim < 2:
            settings["weight_decay"] = 0.0
        found.setdefault(tuple(sorted(settings.items())), []).append(parameter)
    return [{"params": weights, **dict(settings)} for settings, weights in found.items()]


def _build(
    kind: type[Built],
    params: Parameters,
    groups: Sequence[ParameterGroup],
    decay_norms_and_biases: bool,
    options: dict[str, Any],
) -> Built:
    """Build a torch optimizer, fused where it can be."""
    params = list(params)
    fused = can_fuse([weight for _, weight in params]) or None
    grouped = group_parameters(params, groups, options["lr"], decay_norms_and_biases)
    optimizer = kind(grouped, fused=fused, **options)
    optimizer.register_load_state_dict_pre_hook(_keep_kernel)
    return optimizer


def _keep_kernel(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Load a state without the kernel that made it: a run may go on on another device."""
    groups = [
        kept | {"fused": own["fused"]}
        for own, kept in zip(optimizer.param_groups, state["param_groups"], strict=False)
    ]
    # Of another number of groups: as it is, for torch to refuse.
    return state | {"param_groups": groups + state["param_groups"][len(groups) :]}


@dataclass
class Schedule:
    """A learning-rate schedule and when it advances.

    Attributes:
        scheduler: torch's object.
        unit: after every ``step`` or every ``epoch``.
    """

    scheduler: LRScheduler
    unit: Literal["step", "epoch"]

    def finish_step(self) -> None:
        """Advance a schedule by steps."""
        if self.unit == "step":
            self.scheduler.step()

    def finish_epoch(self) -> None:
        """Advance a schedule by epochs."""
        if self.unit == "epoch":
            self.scheduler.step()


# torch's own advance once an epoch, as in the published code.
for _name in (
    "StepLR",
    "MultiStepLR",
    "ConstantLR",
    "LinearLR",
    "ExponentialLR",
    "PolynomialLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
):
    LR_SCHEDULERS.register(_name, provided=("optimizer", "last_epoch"))(
        getattr(torch_schedules, _name)
    )

WarmupSteps = Annotated[int, Field(ge=0, description="Steps of linear warm-up.")]
WarmupRatio = Annotated[
    float | None,
    Field(
        ge=0,
        le=1,
        description="In place of num_warmup_steps: the share of all steps, rounded up; null: as "
        "num_warmup_steps says.",
    ),
]
TrainingSteps = Annotated[
    int | None, Field(ge=1, description="Steps in all; null: those of the whole run.")
]


def count_warmup_steps(num_warmup_steps: int, warmup_ratio: float | None, steps: int) -> int:
    """Return the steps of warm-up of a run of ``steps``.

    Raises:
        UserError: they are given both as a number and as a share.
    """
    if warmup_ratio is None:
        return num_warmup_steps
    if num_warmup_steps:
        raise UserError(
            "lr_scheduler.args: has both num_warmup_steps and warmup_ratio; leave one of them out"
        )
    return math.ceil(round(warmup_ratio * steps, 6))  # 0.07 of 100 is 7, and not 7.000000000000001


def _transformers_schedule(name: str) -> Callable[..., LRScheduler]:
    def build(
        optimizer: torch.optim.Optimizer,
        total_steps: int,
        num_warmup_steps: WarmupSteps = 0,
        num_training_steps: TrainingSteps = None,
        warmup_ratio: WarmupRatio = None,
    ) -> LRScheduler:
        from transformers import get_scheduler

        steps = num_training_steps or total_steps
        return get_scheduler(
            name,
            optimizer,
            num_warmup_steps=count_warmup_steps(num_warmup_steps, warmup_ratio, steps),
            num_training_steps=steps,
        )

    build.__doc__ = f"The schedule {name!r} of transformers, by steps."
    return build


_OF_TRANSFORMERS = (
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant_with_warmup",
)  # fmt: skip
STEP_SCHEDULES = (*_OF_TRANSFORMERS, "warmup_stable_decay")
for _name in _OF_TRANSFORMERS:
    LR_SCHEDULERS.register(_name, provided=("optimizer", "total_steps"))(
        _transformers_schedule(_name)
    )


@LR_SCHEDULERS.register("warmup_stable_decay", provided=("optimizer", "total_steps"))
def warmup_stable_decay(
    optimizer: torch.optim.Optimizer,
    total_steps: int,
    num_warmup_steps: WarmupSteps = 0,
    num_decay_steps: Annotated[
        int | None, Field(ge=1, description="Last steps, of linear decay to 0; null: 30 % of all.")
    ] = None,
    num_training_steps: TrainingSteps = None,
    warmup_ratio: WarmupRatio = None,
) -> LRScheduler:
    """Linear warm-up, the full rate, and a linear decay to 0, by steps.

    Hu et al., "MiniCPM", arXiv 2404.06395, section 4.
    """
    from transformers import get_wsd_schedule

    steps = num_training_steps or total_steps
    num_warmup_steps = count_warmup_steps(num_warmup_steps, warmup_ratio, steps)
    left = max(0, steps - num_warmup_steps)
    if num_decay_steps is not None and num_decay_steps > left:
        raise UserError(
            f"lr_scheduler.args: {num_warmup_steps} steps of warm-up and {num_decay_steps} of "
            f"decay are more than the {steps} steps of the run"
        )
    decay = min(round(0.3 * steps), left) if num_decay_steps is None else num_decay_steps
    return get_wsd_schedule(
        optimizer,
        num_warmup_steps=num_warmup_steps,
        num_decay_steps=decay,
        num_training_steps=steps,
        decay_type="linear",
    )


def depends_on_length(name: str, arguments: Mapping[str, Any]) -> bool:
    """Whether a schedule's rate at a step depends on how many steps the whole run has."""
    if name not in STEP_SCHEDULES or arguments.get("num_training_steps") is not None:
        return False
    return name != "constant_with_warmup" or arguments.get("warmup_ratio") is not None


def build_schedule(
    name: str, kwargs: dict[str, Any], optimizer: torch.optim.Optimizer, total_steps: int
) -> Schedule:
    """Build the schedule ``name`` for a run of ``total_steps`` optimizer steps."""
    build = LR_SCHEDULERS.get(name)
    if name in STEP_SCHEDULES:
        return Schedule(build(optimizer=optimizer, total_steps=total_steps, **kwargs), "step")
    return Schedule(build(optimizer=optimizer, **kwargs), "epoch")
