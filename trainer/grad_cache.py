"""Gradient cache: large contrastive batches in the memory of small ones.

Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", arXiv
2101.06983, section 3. Shapes: B videos of this process and as many queries.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from base.batch import Batch
from utils.precision import Precision
from utils.seed import get_device_random_states, restore_device_random_states

# Embeddings (B, E) of queries and videos by name -> loss, and logits of all processes.
ComputeLoss = Callable[[dict[str, Tensor], Batch], tuple[Tensor, Tensor]]


class GradientCache:
    """Computes the gradients of a whole batch by two passes over chunks of it.

    The first pass embeds every chunk without a graph; the loss on all embeddings gives each its
    gradient; the second pass embeds each chunk once more, from the same random state, and carries
    its gradient on.
    """

    def __init__(
        self,
        chunk_size: int,
        keys: Sequence[str],
        precision: Precision,
        agree_on_passes: Callable[[int], int],
    ) -> None:
        self.chunk_size = chunk_size
        self.keys = keys  # of the embeddings that the loss takes
        self.precision = precision
        self.agree_on_passes = agree_on_passes

    def backward(
        self,
        network: nn.Module,
        batch: Batch,
        compute_loss: ComputeLoss,
        is_usable: Callable[[Tensor], bool],
    ) -> tuple[Tensor, Tensor]:
        """Add the loss's gradients to the parameters'; returns the loss and the logits, detached.

        Args:
            network: computes the embeddings; of ``Parallel``.
            is_usable: asked before the second pass, which is left out where it says no.
        """
        size = self.chunk_size
        chunks = [batch.rows(start, start + size) for start in range(0, len(batch), size)]
        count = len(chunks)
        # One that others wait for, though it has no more chunks, computes its first once more.
        chunks += chunks[:1] * (self.agree_on_passes(count) - count)
        states, embeds = [], []
        with torch.no_grad():
            for chunk in chunks:
                states.append(get_device_random_states())
                embeds.append(self._embed(getattr(network, "module", network), chunk))
        joined = {key: torch.cat([part[key] for part in embeds[:count]]) for key in embeds[0]}
        leaves = [rows.requires_grad_() for rows in joined.values()]
        loss, logits = compute_loss(joined, batch)
        if not is_usable(loss):
            return loss.detach(), logits
        self.precision.backward(loss)
        after = get_device_random_states()
        grads = list(zip(*(leaf.grad.split(size) for leaf in leaves), strict=True))
        grads += [tuple(map(torch.zeros_like, grads[0]))] * (len(chunks) - count)
        for number, (chunk, state, grad) in enumerate(zip(chunks, states, grads, strict=True)):
            restore_device_random_states(state)
            # Gradients add up in the parameters; only the last chunk's pass exchanges them. Sharded
            # ones add up in parts, so that every pass does.
            is_last = number == len(chunks) - 1
            with nullcontext() if is_last else getattr(network, "no_sync", nullcontext)():
                torch.autograd.backward(tuple(self._embed(network, chunk).values()), grad)
        restore_device_random_states(after)
        return loss.detach(), logits

    def _embed(self, network: nn.Module, chunk: Batch) -> dict[str, Tensor]:
        with self.precision.autocast():
            embeds = network(chunk)
        return {key: embeds[key] for key in self.keys if key in embeds}
