"""The two ways to compute a step that benchmarks compare: this project's, and the plain one.

Shapes: B videos, Q queries, E width of the common space, D width of the ViT.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from base.batch import Batch
from base.config import Config
from base.registry import OPTIMIZERS
from benchmarks.baseline import PlainFrozenInTime, assert_equal
from benchmarks.counting import timed
from model.frozen_in_time import FrozenInTime
from utils.precision import Precision, PrecisionName
from utils.similarity import cosine_similarity

PARTS = ("query", "video", "ocr", "loss", "backward", "optimizer")


class Encoder(Protocol):
    """The forward pass in three parts."""

    def queries(self, batch: Batch) -> Tensor: ...  # noqa: D102 - (Q, E)
    def features(self, batch: Batch) -> Tensor: ...  # noqa: D102 - (B, D)
    def videos(self, batch: Batch, features: Tensor) -> Tensor: ...  # noqa: D102 - (B, E)


class OurEncoder:
    """The forward pass of ``FrozenInTime``, in the order of its own ``forward``."""

    def __init__(self, model: FrozenInTime) -> None:
        self.model = model

    def queries(self, batch: Batch) -> Tensor:
        """Return the queries' embeddings (Q, E)."""
        return self.model.embed_queries(batch.query)

    def features(self, batch: Batch) -> Tensor:
        """Return the features of the clips (B, D)."""
        return self.model.video_model(batch.video)

    def videos(self, batch: Batch, features: Tensor) -> Tensor:
        """Return the fused embeddings (B, E)."""
        return self.model.fusion_proj(self.model._fuse(batch.words, features))


class Path:
    """A way to compute training steps.

    Args:
        name: for tables.
        encoder: the forward pass.
        optimizer: of the weights.
        precision: of the passes.
        device: where they are.
    """

    def __init__(
        self,
        name: str,
        encoder: Encoder,
        optimizer: torch.optim.Optimizer,
        precision: PrecisionName,
        device: torch.device,
    ) -> None:
        self.name = name
        self.encoder = encoder
        self.optimizer = optimizer
        self.device = device
        self._precision = precision

    def run(self, work: Callable[[], Any]) -> Any:
        """Compute a part of the forward pass in the path's precision."""
        with Precision(self._precision, self.device).autocast():
            return work()

    def step(self, batch: Batch, loss: nn.Module) -> dict[str, float]:
        """Take one step; returns the seconds of its parts."""
        precision = Precision(self._precision, self.device)  # sets what matrix products may do
        found: dict[str, Any] = {}
        seconds: dict[str, float] = {}

        def part(name: str, work: Callable[[], Any]) -> None:
            seconds[name] = timed(lambda: found.update({name: work()}), self.device)

        self.optimizer.zero_grad(set_to_none=True)
        with precision.autocast():
            part("query", lambda: self.encoder.queries(batch))
            part("video", lambda: self.encoder.features(batch))
            part("ocr", lambda: self.encoder.videos(batch, found.pop("video")))
        text, video = precision.whole(found.pop("query")), precision.whole(found.pop("ocr"))
        part("loss", lambda: loss(cosine_similarity(text, video)))
        part("backward", lambda: precision.backward(found.pop("loss")))
        part("optimizer", lambda: precision.step(self.optimizer, None))
        return seconds


def our_path(
    model: FrozenInTime, config: Config, precision: PrecisionName, device: torch.device
) -> Path:
    """Return the step as the configuration's trainer takes it."""
    optimizer = config.optimizer.build(OPTIMIZERS, params=model.parameters())
    return Path("ours", OurEncoder(model), optimizer, precision, device)


def plain_path(model: FrozenInTime, config: Config, device: torch.device) -> Path:
    """Return the plain step: float32, and an optimizer that goes from weight to weight."""
    arguments = config.optimizer.kwargs() | {"foreach": False, "fused": False}
    optimizer = torch.optim.AdamW(model.parameters(), **arguments)
    return Path("plain", PlainFrozenInTime(model), optimizer, "fp32", device)


@torch.no_grad()
def assert_same_numbers(ours: Encoder, plain: Encoder, batch: Batch) -> dict[str, float]:
    """Return the greatest difference of each forward part; raises where it is too large."""
    features = ours.features(batch), plain.features(batch)
    pairs = {
        "query": (ours.queries(batch), plain.queries(batch)),
        "video": features,
        "ocr": (ours.videos(batch, features[0]), plain.videos(batch, features[0])),
    }
    return {name: assert_equal(*pair, name) for name, pair in pairs.items()}
