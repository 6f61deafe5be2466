"""Sharded training (FSDP2 on gloo) computes what one process computes, and is resumed exactly."""

import resource
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.ranks import run_ranks
from tests.run_folders import read_sharded_state
from tests.trainer.test_distributed import check_equal
from tests.trainer.test_resume import differences
from trainer.optimizer_shards import remove_unused_shards
from trainer.sharding import ShardedParallel, check_sharding
from utils.checkpoint.files import CheckpointError
from utils.distributed import process_group
from utils.errors import UserError
from utils.precision import Precision

SHARDED = {"sharding": "fsdp2"}
CLIPPED = {"clip_grad_norm": 0.3}
slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("count", "chunk_size"),
    [(2, 2), (3, 0), pytest.param(2, 0, marks=slow), pytest.param(3, 1, marks=slow)],
)
def test_sharded_processes_equal_one(steps, count, chunk_size):
    """With clipping, for which the parts' norms are added up; chunks differ between processes."""
    one, sharded = steps(1, **CLIPPED), steps(count, chunk_size, **CLIPPED, **SHARDED)
    check_equal(one, sharded)
    assert min(norms[0] for norms in one["norms"]) > CLIPPED["clip_grad_norm"]
    torch.testing.assert_close(sharded["norms"], one["norms"], atol=1e-9, rtol=1e-9)


def test_a_process_keeps_its_share_of_the_optimizers_state(steps):
    [whole] = steps(1, **CLIPPED)["kept"]
    for count, chunk_size in ((2, 2), (3, 0)):
        kept = steps(count, chunk_size, **CLIPPED, **SHARDED)["kept"]
        # The loss's temperature has no dimension along which it could be cut.
        assert sum(kept) == whole + count - 1 and len(kept) == count
        # Along a first dimension that does not divide, the last process has less.
        assert max(kept) < 1.1 * whole / count


@pytest.mark.parametrize(
    ("settings", "count", "chunk_size"),
    [
        ({"tower": {"lora": {"rank": 2}, "freeze": "all"}}, 2, 2),
        pytest.param({"tower": {}}, 3, 2, marks=slow),
        pytest.param({"tower": {"modalities": ["vision"]}}, 2, 2, marks=slow),
        pytest.param({"tower": {}, "activation_checkpointing": True}, 2, 0, marks=slow),
        pytest.param({"loss": {"type": "SigmoidLoss", "args": {}}}, 3, 2, marks=slow),
        pytest.param(
            {"ocr_warmup_steps": 1, "unimodal_losses": {"vision": 1.0, "ocr": 0.5}},
            2, 2, marks=slow,
        ),
    ],
)  # fmt: skip
def test_what_is_trained_otherwise_equals_one_process(steps, settings, count, chunk_size):
    check_equal(steps(1, **settings), steps(count, chunk_size, **settings, **SHARDED), least=10)


@pytest.mark.parametrize("chunk_size", [0, pytest.param(2, marks=slow)])
def test_a_step_without_a_backward_pass_leaves_nothing(steps, chunk_size):
    check_equal(steps(1), steps(2, chunk_size, spoiled=True, **SHARDED))


@slow
def test_bf16_is_near_to_one_process(steps):
    one, sharded = (steps(n, precision="bf16", **more) for n, more in ((1, {}), (2, SHARDED)))
    assert sharded["losses"] == pytest.approx(one["losses"], abs=2e-2)
    assert {grad.dtype for grad in sharded["gradients"][0].values()} == {torch.float32}


@pytest.fixture(scope="module")
def saved(steps, tmp_path_factory):
    """Return a function: processes, a new folder -> it holds a run that was saved after two steps.

    In chunks of two videos.
    """
    done = {}

    def copy(count: int, folder):
        if count not in done:
            done[count] = tmp_path_factory.mktemp("run")
            steps(count, 2, run_dir=done[count], last=2, **SHARDED)
        return shutil.copytree(done[count], folder)

    return copy


@pytest.mark.parametrize(
    ("before", "after"),
    [(2, 3), (2, 1), pytest.param(3, 2, marks=slow), pytest.param(1, 2, marks=slow)],
)
def test_a_run_goes_on_in_another_number_of_processes(steps, saved, before, after, tmp_path):
    """Also from parts to whole weights, and from whole weights to parts."""
    whole, folder = steps(1), saved(before, tmp_path / "run")
    resumed = steps(after, 2, run_dir=folder, first=2, **SHARDED)
    expected = whole | {"losses": whole["losses"][2:], "gradients": whole["gradients"][2:]}
    check_equal(expected, resumed, count=1)


def test_a_resumed_run_equals_one_that_never_stopped_bit_for_bit(steps, saved, tmp_path):
    whole, resumed = tmp_path / "whole", saved(2, tmp_path / "resumed")
    steps(2, 2, run_dir=whole, **SHARDED)
    steps(2, 2, run_dir=resumed, first=2, **SHARDED)
    states = [read_sharded_state(folder) for folder in (whole, resumed)]
    assert len(states[0]["files"]) == 2 and differences(*states) == []
    early = read_sharded_state(saved(2, tmp_path / "early"))
    assert {place.split("/")[1] for place in differences(states[0], early)} >= {"files", "step"}


def save_without_room(run_dir: Path) -> None:
    """Be one of two processes, the second of which can't write its part."""
    with process_group(torch.device("cpu"), timeout_s=60) as place:
        weight = nn.Parameter(torch.zeros(1000, 2))
        model = nn.Module()
        model.weight, model.list_blocks = weight, list
        parts = model, nn.Module(), torch.device("cpu")
        parallel = ShardedParallel(*parts, Precision("fp32", torch.device("cpu")))
        [(_, part)] = parallel.named_parameters()
        optimizer = torch.optim.AdamW([part])
        part.grad = torch.ones_like(part)
        optimizer.step()
        if place.rank == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, -1))
        with pytest.raises(CheckpointError, match="can't be written .*File too large"):
            parallel.save_optimizer(optimizer, run_dir, step=1)
        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
        found = parallel.save_optimizer(optimizer, run_dir, step=1)
        assert found["shards"]["folder"] == "optimizer-00000001"


def test_what_one_process_can_not_write_is_said_by_all_and_leaves_nothing(tmp_path):
    run_ranks(2, tmp_path / "stderr", save_without_room, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["optimizer-00000001", "stderr"]


def test_nothing_is_removed_while_a_checkpoint_can_not_be_read(tmp_path, caplog):
    for name in ("optimizer-00000001", "optimizer-00000002", "optimizer-notes"):
        (tmp_path / name).mkdir()
    named = {"optimizer": {"shards": {"folder": "optimizer-00000002"}}}
    torch.save(named, tmp_path / "model_last.pth")
    damaged = tmp_path / "model_best.pth"
    damaged.write_bytes(b"PK")
    remove_unused_shards(tmp_path, {})
    assert len(list(tmp_path.iterdir())) == 5 and str(damaged) in caplog.text
    damaged.unlink()
    remove_unused_shards(tmp_path, {})
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["model_last.pth", "optimizer-00000002", "optimizer-notes"]


def test_settings_that_do_not_go_together_with_it_are_said_at_once(make_config):
    check_sharding(make_config("trainer.precision=fp16", "trainer.compile=true"))
    config = make_config(
        "trainer.sharding=fsdp2", "trainer.precision=bf16", "evaluation.precision=fp32",
        "trainer.compile=true",
    )  # fmt: skip
    with pytest.raises(UserError) as caught:
        check_sharding(config)
    text = str(caught.value)
    assert text.startswith("trainer.sharding fsdp2 does not go together with\n  evaluation.precis")
    assert "trainer.compile true" in text and "optimizer.type" not in text
    with pytest.raises(UserError, match="with\n  trainer.precision fp16: .*; use bf16$"):
        check_sharding(make_config("trainer.sharding=fsdp2", "trainer.precision=fp16"))
