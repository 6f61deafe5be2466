"""Place of a process among those of a run, as torchrun sets it; without importing torch."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class DistInfo:
    """The place of this process among those of the run.

    Attributes:
        rank: 0 … world_size - 1 over all machines.
        world_size: number of processes.
        local_rank: number of this process on its machine, which is also its GPU's.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0


def get_dist_info() -> DistInfo:
    """Return this process's place, as torchrun set it."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if not all(name in os.environ for name in names):
        return DistInfo()
    return DistInfo(*(int(os.environ[name]) for name in names))
