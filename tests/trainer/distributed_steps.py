"""Three training steps by as many processes as there are, for tests."""

from pathlib import Path
from typing import Any

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
from trainer.checkpoint_folder import LAST
from trainer.optim import adamw
from trainer.parallel import Parallel
from trainer.sharding import ShardedParallel
from utils.distributed import DistInfo, gather_objects, process_group
from utils.precision import Precision
from utils.seed import seed_everything

WORDS = ["one", "two", "long", "longer"]
# Videos of each batch; the last leaves a third process without any.
BATCHES = (6, 5, 2)
# Five lengths and so five chunks for three processes; one text, which leaves two without any.
TEXTS = [(5 + a, 5 + b, *range(5, 5 + n)) for n in range(5) for a in range(9) for b in range(9)]


def joined_batch(size: int, dtype: torch.dtype):
    """Videos that show from none to five words, so that the processes' widths differ.

    In the larger batches a video of the first process and one of the last have the same caption.
    """
    texts = [(WORDS * 2)[number % 3 : number % 3 + number % 6] or ["one"] for number in range(size)]
    batch = make_batch(texts)
    batch.video = batch.video.to(dtype)
    batch.words.tracks = batch.words.tracks.to(dtype)
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


def take_steps(text_model: Path, out: Path, chunk_size: int, settings: dict[str, Any]) -> None:
    """Be one of the processes.

    The first one writes losses, gradients and weights, and the vectors that the last one had of
    texts before them. Each batch is split as the loader does it.

    Args:
        out: file that it writes.
        chunk_size: 0: no chunks.
        settings: others of the trainer; ``tower`` the arguments of a DualEncoder, whose folder lies
            beside ``text_model``, in place of a FrozenInTime; ``loss`` is a block, without which it
            is a learned temperature with equal captions counted as right; ``run_dir`` keeps
            checkpoints; ``first`` and ``last`` say which of the steps, of which the first goes on
            from that of the step before; with ``spoiled`` a step whose loss is NaN comes before.
    """
    settings = dict(settings)
    loss = settings.pop("loss", {"type": "SoftmaxLoss", "args": {"positives": "captions"}})
    tower, run_dir = settings.pop("tower", None), settings.pop("run_dir", None)
    first, last = settings.pop("first", 0), settings.pop("last", len(BATCHES))
    precision, is_spoiled = settings.get("precision", "fp32"), settings.pop("spoiled", False)
    device = torch.device("cpu")
    torch.set_num_threads(1)
    with process_group(device, timeout_s=60) as place:
        seed_everything(place.rank)
        dtype = torch.float64 if precision == "fp32" else torch.float32
        model = build(text_model) if tower is None else build_tower(text_model, dict(tower))
        model = model.to(dtype).train()  # the text model has no dropout
        for weight in model.parameters_without_gradient():
            weight.requires_grad_(False)
        encode = model.encode_words, Precision("fp32", device)
        tables = [encode_texts(texts, *encode) for texts in (TEXTS, TEXTS[:1])]
        criterion = LOSSES.get(loss["type"])(**loss["args"]).to(dtype)
        if settings.get("sharding") == "fsdp2" and place.world_size > 1:
            parallel = ShardedParallel(model, criterion, device, Precision(precision, device))
        else:
            parallel = Parallel(model, criterion, device)
        learned = parallel.named_parameters()
        optimizer = adamw(learned, lr=1e-3)
        trainer = make_step_trainer(
            model, criterion, parallel, optimizer, chunk_size=chunk_size or None,
            run_dir=run_dir, **settings,
        )  # fmt: skip
        if first:
            trainer.resume(run_dir / LAST)
            assert trainer.progress.step == first
        done = {"losses": [], "norms": [], "gradients": []}
        done["vectors"] = gather_objects([table.vectors for table in tables])[-1]
        if is_spoiled:
            batch = own_part(joined_batch(BATCHES[0], dtype), place)
            batch.video[0] = torch.nan
            assert trainer.train_step(batch)[0].isnan()
        for size in BATCHES[first:last]:
            batch = own_part(joined_batch(size, dtype), place)
            numbers = trainer.train_step(batch).tolist()
            done["losses"].append(numbers[0])
            done["norms"].append(numbers[3:])
            trainer.progress.step += 1
            grads = {n: join(w, w.grad, parallel) for n, w in learned if w.grad is not None}
            done["gradients"].append(grads)
        # Elements of a mean that Adam keeps, in each process and of all weights.
        kept = sum(state["exp_avg"].numel() for state in optimizer.state.values())
        done["kept"] = gather_objects(kept)
        done["weights"] = {n: join(w, w.data, parallel) for n, w in learned}
        if run_dir is not None:
            run_dir.mkdir(exist_ok=True)
            trainer.state.save(trainer.progress, trainer.report)
        if place.is_main:
            torch.save(done, out)
