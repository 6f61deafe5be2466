"""Out of GPU memory: the message names a chunk size that fits, from what small chunks take."""

import gc
import re
import sys
import weakref
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from base.batch import Batch, Tokens
from model.loss import NormSoftmaxLoss
from tests.conftest import ROOT
from tests.model.small_models import VOCABULARY, build, make_batch, write_text_model
from tests.trainer.step_trainer import make_step_trainer
from tests.trainer.test_resume import made
from trainer.optim import adamw
from trainer.out_of_memory import GIB, PAGES, OutOfMemoryError, choose_chunk_size
from utils.distributed import process_group
from utils.launch import launch


class MadeUpMemory:
    """A GPU of ``free`` GiB on which n videos take ``constant + each * n``."""

    def __init__(self, trainer, free: float, constant: float = 1.0, each: float = 0.5) -> None:
        self.free, self.constant, self.each = free * GIB, constant * GIB, each * GIB
        self.sizes: list[int] = []  # of the forward passes, in their order
        self._forward, trainer.model.forward = trainer.model.forward, self._limited_forward
        trainer.chunk_finder.memory = self

    def _count(self, size: int) -> float:
        return self.constant + self.each * size

    def _limited_forward(self, batch):
        self.sizes.append(len(batch))
        if self._count(len(batch)) > self.free:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return self._forward(batch)

    def release_unused(self) -> None:
        """Nothing is kept."""

    def measure_peak(self, work) -> int:
        before = len(self.sizes)
        work()
        return int(self._count(max(self.sizes[before:])))

    def get_free(self) -> int:
        return int(self.free)


def said_by(trainer) -> str:
    with pytest.raises(OutOfMemoryError) as caught:
        trainer.fit()
    text = str(caught.value)
    assert text.startswith("out of GPU memory in a step with a batch of ") and "\n" not in text
    return text


@pytest.mark.parametrize(
    ("free", "batch", "chunk", "passes", "said"),
    [
        # 1 GiB and 0.5 a video: 0.9 * 4.9 is room for 6.8; 7 fit without the margin.
        (4.9, 8, "null", [8, 1, 1, 1, 1, 2, 2], "8 videos: a chunk of 2 videos takes 2 GiB and 4.9 "
         "GiB are free: set trainer.chunk_size to 6, with which the loss stays that of the whole "
         "batch, or lower data_loader.args.batch_size"),
        (1.7, 8, "3", [3, 1, 1, 1, 1, 2], "8 videos in chunks of 3: a chunk of 1 video takes 1.5 "
         "GiB and 1.7 GiB are free: set trainer.chunk_size to 1, "),
        (1.4, 8, "null", [8, 1], "8 videos, and not even one video fits: lower num_frames or "),
        (1.4, 8, "1", [1], "8 videos in chunks of 1, and not even one video fits: lower"),
    ],
)  # fmt: skip
def test_the_size_is_told_from_small_chunks(
    free, batch, chunk, passes, said, make_config, tmp_path
):
    change = [f"trainer.chunk_size={chunk}", f"data_loader.args.batch_size={batch}"]
    trainer = made(make_config(*change, "optimizer.type=SGD", kind="ocr"), tmp_path / "run")
    memory = MadeUpMemory(trainer, free)
    assert said in said_by(trainer)
    assert memory.sizes == passes  # what failed is not run again
    assert all(weight.grad is None for weight in trainer.model.parameters())


@pytest.mark.parametrize(
    ("peaks", "free", "used", "size"),
    [
        ({32: 42, 64: 74}, 230, 512, 192),  # 10 and 1 a video: 197, in eights
        ({32: 42, 64: 74}, 1000, 512, 256),  # 890, but 512 did not fit
        ({32: 42, 64: 74}, 28, 512, 15),
        ({1: 11, 2: 12}, 11, 16, 1),  # without the margin
        ({1: 11, 2: 12}, 10, 16, 0),
        ({4: 40}, 100, 64, 9),  # all of it may be the videos'
        ({1: 10, 2: 10}, 100, 8, 4),
        ({}, 100, 8, 0),
    ],
)
def test_the_largest_size_of_a_line(peaks, free, used, size):
    assert choose_chunk_size(peaks, free, used) == size


def test_a_chunk_that_does_not_fit_either_is_halved(make_config, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.out_of_memory.SHARE", 2)
    trainer = made(make_config("data_loader.args.batch_size=8", kind="ocr"), tmp_path / "run")
    memory = MadeUpMemory(trainer, free=2.2)  # two videos
    assert "takes 2 GiB and 2.2 GiB are free: set trainer.chunk_size to 1," in said_by(trainer)
    assert memory.sizes == [8, 4, 2, 2, 2, 2, 4]


def test_what_the_first_optimizer_step_will_add_is_not_free(make_config, tmp_path):
    counts = {}
    for kind in ("AdamW", "SGD"):
        config = make_config(f"optimizer.type={kind}", kind="ocr")
        trainer = made(config, tmp_path / kind)
        weights = [weight for weight in trainer.model.parameters() if weight.requires_grad]
        before = trainer.chunk_finder._count_optimizer_state()
        trainer.fit()
        counts[kind] = before / sum(weight.nbytes for weight in weights)
        assert trainer.chunk_finder._count_optimizer_state() == 0
    assert counts == {"AdamW": 2, "SGD": 0}


def test_nothing_is_measured_where_a_process_can_not_run_the_model_alone(make_config, tmp_path):
    trainer = made(make_config("data_loader.args.batch_size=8", kind="ocr"), tmp_path / "run")
    memory = MadeUpMemory(trainer, free=2.2)
    trainer.chunk_finder.memory = None  # as with sharding
    said = said_by(trainer)
    assert "in a step with a batch of 8 videos: set trainer.chunk_size below 8, with which" in said
    assert memory.sizes == [8]


def run_out(grad):
    raise torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize("chunk", ["null", "6"])
def test_what_the_step_kept_for_its_backward_pass_is_freed_first(chunk, make_config, tmp_path):
    change = ["data_loader.args.batch_size=8", f"trainer.chunk_size={chunk}"]
    trainer = made(make_config(*change, kind="ocr"), tmp_path / "run")
    forward, kept, alive = trainer.model.forward, [], []

    def limited(batch):
        embeds = forward(batch)
        if len(batch) > 4 and embeds["text"].requires_grad:
            embeds["text"].register_hook(run_out)
            kept.append(weakref.ref(embeds["text"]))
        return embeds

    trainer.model.forward = limited
    memory = MadeUpMemory(trainer, free=5.1)
    memory.release_unused = lambda: alive.extend(ref() is not None for ref in kept)
    assert "set trainer.chunk_size to " in said_by(trainer)
    assert alive and not any(alive)


RESOLUTION, FRAMES, PATCH = 64, 4, 8
WIDE = {"input_res": RESOLUTION, "patch_size": PATCH, "num_frames": FRAMES, "depth": 4}


def make_wide_batch(count: int, device: torch.device) -> Batch:
    """A batch of clips whose activations take far more memory than weights and frames do."""
    ids = torch.randint(5, VOCABULARY, (count, 6))
    return Batch(
        ids=[str(number) for number in range(count)],
        video_index=torch.arange(count),
        query=Tokens(ids, torch.ones_like(ids)),
        query_row=torch.arange(count),
        video=torch.randn(count, FRAMES, 3, RESOLUTION, RESOLUTION),
    ).to(device)


class CountedMemory(TorchDispatchMode):
    """A memory of ``limit`` bytes: what torch computes within is counted, and too much refused."""

    def __init__(self) -> None:
        super().__init__()
        self.limit, self.used, self.peak = sys.maxsize, 0, 0
        self._sizes: dict[int, int] = {}  # of the storages there are

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return found

    def _count(self, storage: torch.UntypedStorage) -> None:
        place, size = storage._cdata, storage.nbytes()
        if place in self._sizes:
            return
        if self.used + size > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        self._sizes[place] = size
        self.used += size
        self.peak = max(self.peak, self.used)
        weakref.finalize(storage, self._free, place)

    def _free(self, place: int) -> None:
        self.used -= self._sizes.pop(place)

    def release_unused(self) -> None:
        gc.collect()

    def measure_peak(self, work) -> int:
        before = self.peak = self.used
        work()
        return self.peak - before

    def get_free(self) -> int:
        return self.limit - self.used


@pytest.mark.parametrize("where", ["first block", "last block", "backward pass"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nothing_of_the_step_stays_and_what_is_named_fits(where, precision, tmp_path):
    count, cpu = 16, torch.device("cpu")
    sizes = WIDE | {"depth": 2}
    model = build(write_text_model(tmp_path / "text"), sizes, modalities=["vision"]).train()

    def make_trainer(chunk_size: int | None):
        trainer = make_step_trainer(
            model, NormSoftmaxLoss(), precision=precision, chunk_size=chunk_size
        )
        trainer.chunk_finder.memory = memory
        return trainer

    def fill_up(tensor: torch.Tensor) -> None:
        if len(tensor) == count:
            memory.limit = memory.used
            filled.append(where)

    def fill_up_in_the_backward_pass(module, inputs, out) -> None:
        if out.requires_grad:
            out.register_hook(fill_up)

    filled: list[str] = []
    first, *_, last = model.video_model.blocks
    if where == "backward pass":
        last.register_forward_hook(fill_up_in_the_backward_pass)
    else:
        block = first if where == "first block" else last
        block.mlp.register_forward_pre_hook(lambda _, inputs: fill_up(inputs[0]))
    with CountedMemory() as memory:
        batch, whole = make_wide_batch(count, cpu), make_trainer(None)
        whole.train_step(make_wide_batch(1, cpu))  # counts the weights
        whole.optimizer.zero_grad(set_to_none=True)
        before = memory.used
        with pytest.raises(OutOfMemoryError) as caught:
            with whole.chunk_finder.explain_out_of_memory(batch):
                whole.train_step(batch)
        size, text = find_chunk_size(caught), str(caught.value)
        del caught
        gc.collect()
        assert filled == [where] and memory.used == before, text
        make_trainer(size).train_step(batch)
        whole.optimizer.zero_grad(set_to_none=True)
        with pytest.raises(torch.OutOfMemoryError):
            make_trainer(min(2 * size, count - 1)).train_step(batch)


def find_chunk_size(caught: pytest.ExceptionInfo) -> int:
    """Return the size that an error names."""
    text = str(caught.value)
    match = re.search(r"set trainer.chunk_size to (\d+),", text)
    assert match, text
    return int(match[1])


def run_out_of_memory_in_the_backward_pass(text_model: str) -> None:
    """What each of several processes runs: the first one's memory ends while gradients are made."""
    with process_group(torch.device("cpu"), timeout_s=60) as place:
        model = build(Path(text_model))
        for weight in model.parameters_without_gradient():
            weight.requires_grad_(False)
        trainer = make_step_trainer(model, NormSoftmaxLoss())
        forward = model.forward

        def limited(batch):
            embeds = forward(batch)
            if place.is_main and len(batch) > 2:
                embeds["text"].register_hook(run_out)
            return embeds

        model.forward = limited
        MadeUpMemory(trainer, free=3.1)
        batch = make_batch([["one"], ["two"], ["long"], ["one", "two"]])
        with trainer.chunk_finder.explain_out_of_memory(batch):
            trainer.train_step(batch)


def test_one_of_several_processes_measures_alone(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(ROOT)
    text_model = write_text_model(tmp_path / "text")
    program = f"""
from utils.cli import run_cli
from tests.trainer import test_out_of_memory
run_cli(lambda: test_out_of_memory.run_out_of_memory_in_the_backward_pass("{text_model}"))
"""
    assert launch([sys.executable, "-c", program], 2) == 2
    said = capfd.readouterr().err
    assert "in a step with a batch of 8 videos: a chunk of 2 videos takes 2 GiB and " in said
    assert "set trainer.chunk_size to 3," in said


@pytest.fixture
def limit_memory():
    """Return a function: bytes -> this process can allocate so many more on the GPU.

    It skips the test where other processes might take them first: theirs is no limit of this one.
    """
    before = torch.cuda.get_per_process_memory_fraction()
    torch._C._accelerator_setAllocatorSettings("expandable_segments:True")  # as all commands do

    def limit(count: int) -> None:
        gc.collect()
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info()
        if free < 3 * count:
            pytest.skip(f"only {free / GIB:.1f} GiB of the GPU are free beside other processes")
        allowed = torch.cuda.memory_reserved() + count
        torch.cuda.set_per_process_memory_fraction(allowed / total)

    yield limit
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(before)
    torch._C._accelerator_setAllocatorSettings("expandable_segments:False")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_named_fits_a_gpu_and_double_does_not(precision, tmp_path, limit_memory):
    gpu = torch.device("cuda", 0)
    # So wide that a step takes many of the pages by which torch takes memory.
    sizes = WIDE | {"embed_dim": 64}
    model = build(write_text_model(tmp_path / "text"), sizes, modalities=["vision"]).to(gpu).train()

    def make_trainer(chunk_size: int | None):
        return make_step_trainer(
            model, NormSoftmaxLoss(), optimizer=adamw(model.named_parameters(), lr=1e-4),
            precision=precision, device=gpu, chunk_size=chunk_size,
        )  # fmt: skip

    count, part = 2048, 128
    batch, sample = make_wide_batch(count, gpu), make_wide_batch(part, gpu)
    make_trainer(None).train_step(sample)  # what libraries keep from their first use on
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    make_trainer(None).train_step(sample)
    limit_memory(4 * (torch.cuda.max_memory_allocated() - before))

    model.zero_grad(set_to_none=True)
    whole = make_trainer(None)
    before = torch.cuda.memory_allocated()
    with pytest.raises(OutOfMemoryError) as caught:
        with whole.chunk_finder.explain_out_of_memory(batch):
            whole.train_step(batch)
    size, text = find_chunk_size(caught), str(caught.value)
    assert torch.cuda.memory_allocated() - before < PAGES, text  # libraries may keep more
    assert 2 * part < size < 5 * part, text
    fitting = make_trainer(size)
    for _ in range(2):  # the optimizer's state is there in the second
        assert fitting.train_step(batch).isfinite().all(), text
    model.zero_grad(set_to_none=True)
    with pytest.raises(torch.OutOfMemoryError):
        make_trainer(2 * size).train_step(batch)
