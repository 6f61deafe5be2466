"""Processes of a run that train one model: each has all of it, and they exchange gradients.

``trainer/sharding.py`` has the other way, in which each keeps a part.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from base.base_model import RetrievalModel
from base.criterion import Criterion
from trainer.optimizer_shards import Named, join_state
from utils.checkpoint.weights import fit_weights
from utils.distributed import average_gradients, broadcast_parameters, get_dist_info
from utils.precision import measure_gradient_norms


class Parallel:
    """One process alone, or several by DistributedDataParallel.

    Args:
        model: on the device; what is not trained is frozen.
        criterion: on the device; every process computes it alike.

    Attributes:
        network: what a training step calls in place of the model.
        can_run_alone: whether a process can run the model without the others.
    """

    can_run_alone = True

    def __init__(self, model: RetrievalModel, criterion: Criterion, device: torch.device) -> None:
        self.model = model
        self.criterion = criterion
        self.device = device
        self.network = self.wrap_model()

    def wrap_model(self) -> nn.Module:
        """Let the processes start from the first one's weights; returns ``network``."""
        if get_dist_info().world_size == 1:
            return self.model
        broadcast_parameters(self.criterion)
        gpu = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(self.model, device_ids=gpu, gradient_as_bucket_view=True)

    def named_parameters(self) -> Named:
        """Return what an optimizer steps on: the model's parameters, then the criterion's."""
        learned = self.criterion.named_parameters(prefix="criterion")
        return list(chain(self.model.named_parameters(), learned))

    def list_branches(self) -> dict[str, list[nn.Parameter]]:
        """Return ``RetrievalModel.list_branches`` of what an optimizer steps on."""
        return self.model.list_branches()

    def get_network(self, uses_all: bool) -> nn.Module:
        """Return what a step calls.

        Args:
            uses_all: whether all parameters that are trained get a gradient, which
                DistributedDataParallel would wait for.
        """
        return self.network if uses_all else self.model

    def agree_on_passes(self, count: int) -> int:
        """Return how often this process has to call the network in a step.

        Args:
            count: how often its own part of the batch asks for.
        """
        return count

    def exchange_gradients(self, uses_all: bool) -> None:
        """Give parameters the mean of all processes' gradients, as far as they do not have it.

        Args:
            uses_all: what ``get_network`` was asked for.
        """
        own = () if uses_all else self.model.parameters()
        average_gradients(chain(self.criterion.parameters(), own))

    def measure_gradient_norms(self, parts: Sequence[Sequence[nn.Parameter]]) -> Tensor:
        """Return the norms (parts,) of the gradients of parts of ``named_parameters``."""
        return measure_gradient_norms(parts)

    def gather_weights(self) -> AbstractContextManager:
        """Return a context in which each process can run the model and its parts by itself."""
        return nullcontext()

    def collect_weights(self) -> dict[str, Tensor]:
        """Return the model's ``state_dict``, in the first process; every process calls this."""
        return self.model.state_dict()

    def load_weights(self, weights: dict[str, Tensor], source: Path) -> None:
        """Load a ``state_dict`` strictly; raises ``CheckpointError``."""
        fit_weights(self.model, weights, source)

    def save_optimizer(
        self, optimizer: torch.optim.Optimizer, run_dir: Path, step: int
    ) -> dict[str, Any]:
        """Return the optimizer's state for a checkpoint; every process calls this.

        Args:
            run_dir: where what does not belong into the checkpoint's file may be written.
            step: of the training, by which that is named.

        Raises:
            CheckpointError: that can't be written.
        """
        return optimizer.state_dict()

    def load_optimizer(
        self, optimizer: torch.optim.Optimizer, state: dict[str, Any], source: Path
    ) -> None:
        """Restore the optimizer's state of a checkpoint; every process calls this.

        Raises:
            CheckpointError: a part of it that lies beside the file is damaged or not there.
            ValueError: it does not fit.
        """
        named = list(self.name_stepped_weights(optimizer))
        optimizer.load_state_dict(join_state(state, named, source))

    def name_stepped_weights(
        self, optimizer: torch.optim.Optimizer
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield name and weight of the model for each that an optimizer steps on, in its order."""
        names = {id(weight): name for name, weight in self.named_parameters()}
        for group in optimizer.param_groups:
            for weight in group["params"]:
                yield names[id(weight)], self.get_whole(weight)

    def get_whole(self, weight: Tensor) -> Tensor:
        """Return the weight of the model for one that the optimizer steps on."""
        return weight
