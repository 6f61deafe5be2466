"""Random states: set by one seed, saved with a checkpoint, restored with it; determinism on GPUs.

The data's draws don't appear here: each is a function of (seed, epoch, sample).
"""

import logging
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

logger = logging.getLogger(__name__)

CUBLAS_CONFIG = "CUBLAS_WORKSPACE_CONFIG"
DETERMINISTIC_CONFIGS = (":4096:8", ":16:8")  # workspaces of fixed size (cuBLAS, Reproducibility)


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def set_determinism(deterministic: bool, device: torch.device) -> None:
    """Let a process compute the same bits from the same seed on a GPU, or say why it won't.

    To be called before anything is computed on the GPU: cuBLAS reads its setting once. The CPU
    computes the same bits anyway, and is left as it is.
    """
    if device.type != "cuda":
        return
    if not deterministic:
        logger.info(
            "on a GPU two runs of one seed differ in their last digits: the gradients of attention "
            "and of embeddings are added up in changing order; trainer.deterministic: true makes "
            "them equal, and slower"
        )
        return
    if os.environ.get(CUBLAS_CONFIG) not in DETERMINISTIC_CONFIGS:
        os.environ[CUBLAS_CONFIG] = DETERMINISTIC_CONFIGS[0]
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # for finding bugs; takes time
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


@contextmanager
def preserve_random_state() -> Iterator[None]:
    """Put torch's random state back afterwards.

    For reading batches: a ``DataLoader`` draws from it when it starts its workers, which a resumed
    run does once more, so that dropout would go another way than in a run that never stopped.
    """
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


def get_random_states() -> dict[str, Any]:
    """Return the states of all generators as tensors and plain values."""
    version, internal, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, list(internal), gauss],
        "numpy": [torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Put all generators back into the states of ``random_states``."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    keys, position, has_gauss, cached = states["numpy"]
    keys = keys.numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, position, has_gauss, cached))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(states["cuda"][: torch.cuda.device_count()])


def get_device_random_states() -> list[torch.Tensor]:
    """Return the states that dropout draws from: the CPU's, and the current GPU's if it is used."""
    gpu = [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else []
    return [torch.get_rng_state(), *gpu]


def restore_device_random_states(states: list[torch.Tensor]) -> None:
    """Put back what ``get_device_random_states`` returned."""
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state)
