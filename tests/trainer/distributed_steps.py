"""A command for tests: three training steps by as many processes as there are.

    distributed_steps.py TEXT_MODEL OUT CHUNK_SIZE SETTINGS

SETTINGS are others of the trainer, as JSON; ``tower`` the arguments of a DualEncoder, whose folder
lies beside TEXT_MODEL, in place of a FrozenInTime; ``loss`` is a block, without which it is a
learned temperature with equal captions counted as right. Each batch is split as the loader does it.
The first process writes losses, gradients and weights, and the vectors that the last one had of
texts before them.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch.distributed.tensor import DTensor

import model.registrations  # noqa: F401
from base.registry import LOSSES
from evaluation.embedding_cache import encode_texts
from model.adapters import LoraParams
from model.dual_encoder import DualEncoder
from tests.model.small_models import build, make_batch
from tests.trainer.step_trainer import make_step_trainer
from trainer.optim import adamw
from trainer.parallel import Parallel
from trainer.sharding import ShardedParallel
from utils.distributed import DistInfo, gather_objects, process_group
from utils.precision import Precision

WORDS = ["one", "two", "long", "longer"]
# Videos of each batch; the last leaves a third process without any.
BATCHES = (6, 5, 2)
# Five lengths and so five chunks for three processes; one text, which leaves two without any.
TEXTS = [(5 + a, 5 + b, *range(5, 5 + n)) for n in range(5) for a in range(9) for b in range(9)]


def joined_batch(size: int):
    """Videos that show from none to five words, so that the processes' widths differ.

    In the larger batches a video of the first process and one of the last have the same caption.
    """
    texts = [(WORDS * 2)[number % 3 : number % 3 + number % 6] or ["one"] for number in range(size)]
    batch = make_batch(texts)
    batch.video = batch.video.double()
    batch.words.tracks = batch.words.tracks.double()
    if size > 2:
        batch.query.input_ids[-1] = batch.query.input_ids[0]
    return batch


def own_part(batch, place: DistInfo):
    """The rows of this process; one that has none computes along with the first."""
    rows = np.array_split(np.arange(len(batch)), place.world_size)[place.rank]
    if not len(rows):
        part = batch.rows(0, 1)
        part.num_fillers = 1
        return part
    return batch.rows(int(rows[0]), int(rows[-1]) + 1)


def build_tower(text_model: Path, arguments: dict) -> DualEncoder:
    """A small DualEncoder whose gate is open."""
    torch.manual_seed(1)
    lora = arguments.pop("lora", None)
    arguments |= {} if lora is None else {"lora": LoraParams(**lora)}
    model = DualEncoder(str(text_model.with_name("tower")), **arguments)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return model


def join(weight, values, parallel: Parallel):
    """The values of a weight, or of its gradient, of which a process may have a part."""
    whole = parallel.get_whole(weight)
    if not isinstance(whole, DTensor):
        return values.clone()
    place = whole.device_mesh, whole.placements
    shape = {"shape": whole.shape, "stride": whole.stride()}
    return DTensor.from_local(values, *place, run_check=False, **shape).full_tensor()


def main() -> None:
    text_model, out, chunk_size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    settings = json.loads(sys.argv[4])
    loss = settings.pop("loss", {"type": "SoftmaxLoss", "args": {"positives": "captions"}})
    tower = settings.pop("tower", None)
    device = torch.device("cpu")
    torch.set_num_threads(1)
    with process_group(device, timeout_s=60) as place:
        model = build(text_model) if tower is None else build_tower(text_model, tower)
        model = model.double().train()  # the text model has no dropout
        for weight in model.parameters_without_gradient():
            weight.requires_grad_(False)
        encode = model.encode_words, Precision("fp32", device)
        tables = [encode_texts(texts, *encode) for texts in (TEXTS, TEXTS[:1])]
        criterion = LOSSES.get(loss["type"])(**loss["args"]).double()
        is_sharded = settings.get("sharding") == "fsdp2" and place.world_size > 1
        parallel = ShardedParallel if is_sharded else Parallel
        parallel = parallel(model, criterion, device, *[Precision("fp32", device)] * is_sharded)
        learned = parallel.named_parameters()
        optimizer = adamw(learned, lr=1e-3)
        trainer = make_step_trainer(
            model, criterion, parallel, optimizer, chunk_size=chunk_size or None, **settings
        )
        done = {"losses": [], "gradients": []}
        done["vectors"] = gather_objects([table.vectors for table in tables])[-1]
        for size in BATCHES:
            batch = own_part(joined_batch(size), place)
            done["losses"].append(trainer.train_step(batch)[0].item())
            trainer.progress.step += 1
            grads = {n: join(w, w.grad, parallel) for n, w in learned if w.grad is not None}
            done["gradients"].append(grads)
        # Elements of a mean that Adam keeps, in each process and of all weights.
        kept = sum(state["exp_avg"].numel() for state in optimizer.state.values())
        done["kept"] = gather_objects(kept)
        done["weights"] = {n: join(w, w.data, parallel) for n, w in learned}
        if place.is_main:
            torch.save(done, out)


if __name__ == "__main__":
    main()
