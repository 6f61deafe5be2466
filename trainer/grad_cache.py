"""Gradient cache: large contrastive batches in the memory of small ones.

Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", arXiv
2101.06983, section 3. Shapes: B videos of this process and as many queries.
"""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from base.batch import Batch
from utils.precision import Precision
from utils.seed import get_device_random_states, restore_device_random_states

# Embeddings of queries and videos (B, E) -> loss, and logits of all processes.
ComputeLoss = Callable[[Tensor, Tensor, Batch], tuple[Tensor, Tensor]]


class GradientCache:
    """Computes the gradients of a whole batch by two passes over chunks of it.

    The first pass embeds every chunk without a graph; the loss on all embeddings gives each its
    gradient; the second pass embeds each chunk once more, from the same random state, and carries
    its gradient on.
    """

    def __init__(
        self, chunk_size: int, network: nn.Module, video_key: str, precision: Precision
    ) -> None:
        self.chunk_size = chunk_size
        self.network = network
        self.video_key = video_key
        self.precision = precision

    def backward(
        self, batch: Batch, compute_loss: ComputeLoss, is_usable: Callable[[Tensor], bool]
    ) -> tuple[Tensor, Tensor]:
        """Add the loss's gradients to the parameters'; returns the loss and the logits, detached.

        Args:
            is_usable: asked before the second pass, which is left out where it says no.
        """
        size = self.chunk_size
        chunks = [batch.rows(start, start + size) for start in range(0, len(batch), size)]
        states, embeds = [], []
        with torch.no_grad():
            for chunk in chunks:
                states.append(get_device_random_states())
                embeds.append(self._embed(getattr(self.network, "module", self.network), chunk))
        text, video = (torch.cat(parts).requires_grad_() for parts in zip(*embeds, strict=True))
        loss, logits = compute_loss(text, video, batch)
        if not is_usable(loss):
            return loss.detach(), logits
        self.precision.backward(loss)
        after = get_device_random_states()
        grads = zip(text.grad.split(size), video.grad.split(size), strict=True)
        for number, (chunk, state, grad) in enumerate(zip(chunks, states, grads, strict=True)):
            restore_device_random_states(state)
            # Gradients add up in the parameters; only the last chunk's pass exchanges them.
            is_last = number == len(chunks) - 1
            with nullcontext() if is_last else getattr(self.network, "no_sync", nullcontext)():
                torch.autograd.backward(self._embed(self.network, chunk), grad)
        restore_device_random_states(after)
        return loss.detach(), logits

    def _embed(self, network: nn.Module, chunk: Batch) -> tuple[Tensor, Tensor]:
        with self.precision.autocast():
            embeds = network(chunk)
        return embeds["text"], embeds[self.video_key]
