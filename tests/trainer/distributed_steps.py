"""A command for tests: three training steps by as many processes as there are.

    distributed_steps.py TEXT_MODEL OUT CHUNK_SIZE

Each batch is split as the loader does it. The first process writes losses, gradients and weights,
and the vectors that the last one had of texts before them.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from model.loss import NormSoftmaxLoss
from tests.model.small_models import build, make_batch
from trainer.optim import adamw
from trainer.passes import Chunked, WholeBatch
from trainer.text_table import encode_texts
from utils.distributed import Ranks, gather_objects, process_group
from utils.precision import Precision

WORDS = ["one", "two", "long", "longer"]
# Videos of each batch; the last leaves a third process without any.
BATCHES = (6, 5, 2)
# Five lengths and so five chunks for three processes; one text, which leaves two without any.
TEXTS = [(5 + a, 5 + b, *range(5, 5 + n)) for n in range(5) for a in range(9) for b in range(9)]


def joined_batch(size: int):
    """Videos that show from none to five words, so that the processes' widths differ."""
    texts = [(WORDS * 2)[number % 3 : number % 3 + number % 6] or ["one"] for number in range(size)]
    batch = make_batch(texts)
    batch.video = batch.video.double()
    batch.words.tracks = batch.words.tracks.double()
    return batch


def own_part(batch, place: Ranks):
    """The rows of this process; one that has none computes along with the first."""
    rows = np.array_split(np.arange(len(batch)), place.size)[place.rank]
    if not len(rows):
        part = batch.rows(0, 1)
        part.num_fillers = 1
        return part
    return batch.rows(int(rows[0]), int(rows[-1]) + 1)


def main() -> None:
    text_model, out, chunk_size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    device = torch.device("cpu")
    torch.set_num_threads(1)
    with process_group(device, timeout_s=60) as place:
        model = build(text_model).double()  # in evaluation mode: no dropout
        for weight in model.without_gradient():
            weight.requires_grad_(False)
        tables = [encode_texts(texts, model.encode_words, device) for texts in (TEXTS, TEXTS[:1])]
        wrapped = DistributedDataParallel(model) if place.size > 1 else model
        others = (wrapped, NormSoftmaxLoss(), model.video_key, Precision("fp32", device))
        passes = Chunked(chunk_size, *others) if chunk_size else WholeBatch(*others)
        optimizer = adamw(model.parameters(), lr=1e-3)
        done = {"losses": [], "gradients": []}
        done["vectors"] = gather_objects([table.vectors for table in tables])[-1]
        for size in BATCHES:
            optimizer.zero_grad(set_to_none=True)
            done["losses"].append(passes(own_part(joined_batch(size), place)))
            grads = {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}
            done["gradients"].append(grads)
            optimizer.step()
        if place.is_first:
            torch.save(done | {"weights": model.state_dict()}, out)


if __name__ == "__main__":
    main()
