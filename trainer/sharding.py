"""Sharding: each process keeps a part of every weight, of its gradient and its optimizer state.

torch's FSDP2 (``fully_shard``; Zhao et al., arXiv 2304.11277): a weight is cut along its first
dimension, gathered before it is used and freed after it, and its gradient is summed up in parts.
The optimizer steps on plain tensors, the parts of this process, so that its kernels are those of
training without sharding.

The blocks that a model names (``RetrievalModel.list_blocks``) are gathered one at a time, all other
weights for the whole step: every process has to gather the same in the same order, and how often
it runs an encoder of OCR words, say, depends on its own videos.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from base.base_model import RetrievalModel
from base.batch import Batch
from base.config import Config
from base.criterion import Criterion
from trainer.optim import ELEMENTWISE
from trainer.optimizer_shards import Named, write_shards
from trainer.parallel import Parallel
from utils.distributed import (
    all_reduce_max,
    all_reduce_sum,
    average_gradients,
    broadcast_buffers,
    broadcast_parameters,
    get_dist_info,
)
from utils.errors import UserError
from utils.precision import Precision, measure_gradient_norms


def check_sharding(config: Config) -> None:
    """Refuse settings that don't go together with sharding.

    Raises:
        UserError: with each of them.
    """
    settings = config.trainer
    if settings.sharding == "none":
        return
    problems = []
    if settings.precision == "fp16":
        problems.append("trainer.precision fp16: processes would skip different steps; use bf16")
    if settings.precision == "bf16" and config.evaluation_precision != "bf16":
        problems.append(
            f"evaluation.precision {config.evaluation_precision}: weights are gathered as bf16, "
            "trainer.precision; leave it out, and give it to test.py"
        )
    if settings.compile:
        problems.append("trainer.compile true: set it to false or null")
    if config.optimizer.type not in ELEMENTWISE:
        problems.append(
            f"optimizer.type {config.optimizer.type}: it may need whole weights, of which each "
            f"process has a part; choose one of {', '.join(ELEMENTWISE)}"
        )
    if problems:
        listed = "\n  ".join(["", *problems])
        raise UserError(f"trainer.sharding {settings.sharding} does not go together with{listed}")


class ShardedNetwork(nn.Module):
    """The model as a training step calls it; the model itself stays of its class."""

    def __init__(self, model: RetrievalModel) -> None:
        super().__init__()
        self.model = model
        self.blocks = model.list_blocks()  # a list, so that no weight has two names

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return the model's embeddings."""
        return self.model(batch)

    def gather_blocks(self) -> None:
        """Gather the blocks; as a forward method it has FSDP2 gather all other weights before."""
        for block in self.blocks:
            block.unshard()


class ShardedParallel(Parallel):
    """Several processes by FSDP2.

    With bf16 blocks are gathered, and compute, in 16 bits; the parts of their weights that are
    kept, and the sums of their gradients, are float32.

    Args:
        precision: of training; not fp16, whose processes would skip different steps.
    """

    can_run_alone = False

    def __init__(
        self,
        model: RetrievalModel,
        criterion: Criterion,
        device: torch.device,
        precision: Precision,
    ) -> None:
        self.precision = precision
        super().__init__(model, criterion, device)
        self._wholes: dict[nn.Parameter, DTensor] = {}  # part of this process -> weight
        self._parts: dict[str, nn.Parameter] = {}
        for name, weight in model.named_parameters():
            if isinstance(weight, DTensor):
                part = nn.Parameter(weight.to_local().detach(), weight.requires_grad)
                self._wholes[part], self._parts[name] = weight, part
        # FSDP2 can't cut a weight without a dimension, and the criterion is every process's own.
        self._alike = [w for _, w in self.named_parameters() if w not in self._wholes]

    def wrap_model(self) -> nn.Module:
        """Cut the weights of the first process; returns ``network``."""
        broadcast_parameters(self.model)
        broadcast_parameters(self.criterion)
        for weight in self.model.parameters():
            weight.data = weight.data.contiguous()
        options = {
            "mesh": init_device_mesh(self.device.type, (get_dist_info().world_size,)),
            "ignored_params": {weight for weight in self.model.parameters() if weight.ndim == 0},
        }
        half = MixedPrecisionPolicy(param_dtype=self.precision.half, reduce_dtype=torch.float32)
        policy = MixedPrecisionPolicy() if self.precision.half is None else half
        network = ShardedNetwork(self.model)
        for block in network.blocks:
            fully_shard(block, mp_policy=policy, **options)
        fully_shard(network, **options)
        register_fsdp_forward_method(network, "gather_blocks")
        if self.device.type == "cpu":  # gloo has sums, and no means
            for module in (*network.blocks, network):
                module.set_force_sum_reduction_for_comms(True)
        return network

    def named_parameters(self) -> Named:
        """Return the parts of this process, and what every process has whole."""
        return [(name, self._parts.get(name, value)) for name, value in super().named_parameters()]

    def list_branches(self) -> dict[str, list[nn.Parameter]]:
        """Return the parts of this process, and what every process has whole."""
        parts = {whole: part for part, whole in self._wholes.items()}
        branches = super().list_branches()
        return {name: [parts.get(w, w) for w in weights] for name, weights in branches.items()}

    def get_network(self, uses_all: bool) -> nn.Module:
        """Return what a step calls."""
        return self.network

    def agree_on_passes(self, count: int) -> int:
        """Return the most passes of any process: all gather weights equally often."""
        return all_reduce_max(count, self.device)

    @torch.no_grad()
    def exchange_gradients(self, uses_all: bool) -> None:
        """Hand each part its gradient, and average those of what every process has whole."""
        for part, whole in self._wholes.items():
            # Anew in each step: FSDP2 may put a weight's part into other memory.
            part.data = whole.to_local()
            part.grad = None if whole.grad is None else whole.grad.to_local()
            whole.grad = None
        average_gradients(self._alike)

    def measure_gradient_norms(self, parts: Sequence[Sequence[nn.Parameter]]) -> Tensor:
        """Return the norms (parts,) of all processes' gradients together."""
        own = measure_gradient_norms([[w for w in part if w in self._wholes] for part in parts])
        alike = measure_gradient_norms(
            [[w for w in part if w not in self._wholes] for part in parts]
        )
        return (all_reduce_sum(own.to(self.device).square()) + alike.to(own).square()).sqrt()

    @contextmanager
    def gather_weights(self) -> Iterator[None]:
        """Gather all weights, and the first process's buffers, for the time of a ``with`` block."""
        blocks = self.network.blocks
        for block in blocks:
            block.set_reshard_after_forward(False)
        try:
            with torch.no_grad():
                self.network.gather_blocks()
            broadcast_buffers(self.model)
            yield
        finally:
            for module in (*blocks, self.network):
                module.reshard()
            for block in blocks:
                block.set_reshard_after_forward(True)

    def collect_weights(self) -> dict[str, Tensor]:
        """Return the model's ``state_dict``, on the CPU, in the first process, and {} elsewhere."""
        found = {}
        for name, value in self.model.state_dict().items():
            whole = value.full_tensor() if isinstance(value, DTensor) else value
            if get_dist_info().is_main:
                found[name] = whole.cpu()
        return found

    def load_weights(self, weights: dict[str, Tensor], source: Path) -> None:
        """Load a ``state_dict`` strictly, of each weight this process's part."""
        own, cut = self.model.state_dict(), dict(weights)
        for name, value in own.items():
            given = weights.get(name)
            if isinstance(value, DTensor) and given is not None and given.shape == value.shape:
                cut[name] = distribute_tensor(
                    given.to(self.device), value.device_mesh, value.placements, src_data_rank=None
                )
        super().load_weights(cut, source)

    def save_optimizer(
        self, optimizer: torch.optim.Optimizer, run_dir: Path, step: int
    ) -> dict[str, Any]:
        """Write the parts of all processes beside the checkpoint; returns what belongs into it."""
        named = list(self.name_stepped_weights(optimizer))
        return write_shards(optimizer.state_dict(), named, run_dir, step)

    def get_whole(self, weight: Tensor) -> Tensor:
        """Return the weight of the model for one that the optimizer steps on."""
        return self._wholes.get(weight, weight)
