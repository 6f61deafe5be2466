"""The forward and backward pass of a training step: the whole batch at once, or in chunks.

Shapes: B videos of this process, as many queries; all processes together have the batch that the
loss is computed on.
"""

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from base.batch import Batch
from utils.distributed import gather
from utils.precision import Precision
from utils.seed import device_random_states, restore_device_random_states
from utils.similarity import cosine_similarity


class WholeBatch:
    """One forward and one backward pass.

    Args:
        model: gives the embeddings; DistributedDataParallel around one where there are several
            processes.
        loss: of the similarity matrix of all processes' queries and videos.
        video_key: which embedding the queries are compared with.
        precision: of the model's passes.
    """

    def __init__(
        self, model: nn.Module, loss: nn.Module, video_key: str, precision: Precision
    ) -> None:
        self.model = model
        self.loss = loss
        self.video_key = video_key
        self.precision = precision
        # Of the last batch: the mean of the right pairs' and of the others' scaled similarity.
        self.similarity = (math.nan, math.nan)

    def __call__(self, batch: Batch) -> float:
        """Add the loss's gradients to the parameters'; returns the loss.

        A loss that is not finite is returned before any gradient is computed.
        """
        text, video = self.embed(self.model, batch)
        loss, numbers = self.joint_loss(text, video, len(batch) - batch.num_fillers)
        value, *self.similarity = numbers.tolist()
        if math.isfinite(value):
            self.precision.backward(loss)
        return value

    def embed(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the queries' and the videos' embeddings (B, E)."""
        with self.precision.autocast():
            embeds = model(batch)
        return self.precision.whole(embeds["text"]), self.precision.whole(embeds[self.video_key])

    def joint_loss(self, text: Tensor, video: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Return the loss on the first ``count`` rows of this and all other processes.

        Beside it stand, without a graph and in one tensor (3,) so that the device is waited for
        once: the loss, and the similarities' ``pair_means``, divided by the loss's temperature
        where it has one.
        """
        similarity = cosine_similarity(gather(text[:count]), gather(video[:count]))
        loss = self.loss(similarity)
        scaled = similarity.detach() / getattr(self.loss, "temperature", 1.0)
        return loss, torch.stack([loss.detach(), *pair_means(scaled)])


def pair_means(similarity: Tensor) -> tuple[Tensor, Tensor]:
    """Return the means of the right pairs and of the others, NaN for one pair alone.

    Args:
        similarity: (B, B), the right pairs on the diagonal.
    """
    right, size = similarity.trace(), len(similarity)
    return right / size, (similarity.sum() - right) / (size * size - size)


class Chunked(WholeBatch):
    """Two passes over chunks of the batch, in the memory of one chunk.

    The first pass embeds every chunk without a graph; the loss on all embeddings gives each its
    gradient; the second pass embeds each chunk once more, from the same random state, and carries
    its gradient on. The gradients are those of the whole batch (Gao et al., "Scaling Deep
    Contrastive Learning Batch Size under Memory Limited Setup", arXiv 2101.06983, section 3).

    Args:
        size: videos of a chunk.
        others: the arguments of ``WholeBatch``.
    """

    def __init__(self, size: int, *others: object) -> None:
        super().__init__(*others)
        self.size = size

    def __call__(self, batch: Batch) -> float:
        """Add the loss's gradients to the parameters'; returns the loss."""
        chunks = [batch.rows(i, i + self.size) for i in range(0, len(batch), self.size)]
        states, embeds = [], []
        with torch.no_grad():
            for chunk in chunks:
                states.append(device_random_states())
                embeds.append(self.embed(getattr(self.model, "module", self.model), chunk))
        text, video = (torch.cat(parts).requires_grad_() for parts in zip(*embeds, strict=True))
        loss, numbers = self.joint_loss(text, video, len(batch) - batch.num_fillers)
        value, *self.similarity = numbers.tolist()
        if not math.isfinite(value):
            return value
        self.precision.backward(loss)
        after = device_random_states()
        grads = zip(text.grad.split(self.size), video.grad.split(self.size), strict=True)
        for number, (chunk, state, grad) in enumerate(zip(chunks, states, grads, strict=True)):
            restore_device_random_states(state)
            # Gradients add up in the parameters; only the last chunk's pass exchanges them.
            last = number == len(chunks) - 1
            with nullcontext() if last else getattr(self.model, "no_sync", nullcontext)():
                torch.autograd.backward(self.embed(self.model, chunk), grad)
        restore_device_random_states(after)
        return value
