"""A run's folder after writes that were interrupted, at each of them, and what is said of it."""

import itertools
import logging
import os
from pathlib import Path

import pytest
import torch

from trainer import checkpoint_folder
from trainer.checkpoint_folder import (
    BEST,
    LAST,
    CheckpointFolder,
    check_best,
    find_newest_checkpoint,
    list_copies,
)
from utils.checkpoint import files
from utils.checkpoint.files import CheckpointError, hold_equal, load_checkpoint, save_checkpoint
from utils.errors import UserError

KEEP = 4


class Killed(BaseException):
    """Ends a write where a SIGKILL would."""


def state_of(epoch: int, best: int | None = None, stopped: bool = False) -> dict:
    """A checkpoint of an epoch's end; even ones are kept by their number."""
    best = epoch if best is None else best
    copies = [BEST] * (best == epoch) + [f"checkpoint-epoch{epoch}.pth"] * (epoch % 2 == 0)
    return {
        "epoch": epoch,
        "progress": {"epoch": epoch, "batches": 0},
        "best": {"epoch": best, "mode": "min"},
        "state_dict": {"weight": torch.full((3,), float(epoch))},
        "copies": copies,
        "stopped": stopped,
    }


def epochs_of(folder: Path) -> dict[str, int]:
    return {path.name: torch.load(path)["epoch"] for path in folder.glob("*.pth")}


def written(folder: Path, *states: dict) -> CheckpointFolder:
    folder.mkdir(exist_ok=True)
    writer = CheckpointFolder(folder, KEEP)
    for state in states:
        writer.write(state)
    return writer


COURSE = [state_of(1), state_of(2), state_of(3, best=2), state_of(4), state_of(5, best=4)]


@pytest.mark.parametrize("links", [True, False])
def test_killed_at_each_change_of_a_name_and_gone_on_with(links, tmp_path, monkeypatch):
    """Also killed once more while that is made up for."""
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError()))
    written(tmp_path / "whole", *COURSE, state_of(6))
    whole = epochs_of(tmp_path / "whole")
    assert whole == {
        "model_last.pth": 6, "model_last-1.pth": 5, "model_last-2.pth": 4, "model_last-3.pth": 3,
        BEST: 6, "checkpoint-epoch2.pth": 2, "checkpoint-epoch4.pth": 4, "checkpoint-epoch6.pth": 6,
    }  # fmt: skip
    replace, count = Path.replace, itertools.count()
    deadly: set[int] = set()

    def replacing(path, target):
        if next(count) in deadly:
            raise Killed
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", replacing)
    for point in itertools.count():
        folder = tmp_path / str(point)
        deadly = set()
        written(folder, *COURSE)
        count, deadly = itertools.count(), {point, point + 3}
        kills = 0
        while True:  # the process, and each that goes on
            writer = CheckpointFolder(folder, KEEP)
            try:
                state = torch.load(folder / LAST)
                writer.resume(folder / LAST, state)
                if state["epoch"] == 5:
                    writer.write(state_of(6))
                break
            except Killed:
                kills += 1
        assert epochs_of(folder) == whole, point
        if not kills:
            break
    assert point == 6  # 3 names of earlier ones, the last, and 2 copies


def test_a_copy_that_can_not_be_written_is_made_before_the_last_is_replaced(tmp_path, monkeypatch):
    writer = written(tmp_path / "run", state_of(1))
    copy = checkpoint_folder.copy_checkpoint

    def full(source, target):
        if target.name == BEST:
            raise CheckpointError("no space")
        copy(source, target)

    monkeypatch.setattr(checkpoint_folder, "copy_checkpoint", full)
    for _ in range(2):  # nor does the next save lose it
        with pytest.raises(CheckpointError, match="no space"):
            writer.write(state_of(2) if _ == 0 else state_of(3, best=2))
        assert epochs_of(tmp_path / "run")[LAST] == 2
    monkeypatch.undo()
    writer.write(state_of(3, best=2))
    assert epochs_of(tmp_path / "run")[BEST] == 2
    assert epochs_of(tmp_path / "run")["checkpoint-epoch2.pth"] == 2


def test_a_state_of_a_stopped_run_leaves_the_ones_before_it(tmp_path):
    written(tmp_path / "whole", state_of(1), state_of(2), state_of(3))
    writer = written(tmp_path / "run", state_of(1), state_of(2))
    writer.write(state_of(2, stopped=True) | {"copies": [], "step": 7})
    writer = CheckpointFolder(tmp_path / "run", KEEP)
    writer.resume(tmp_path / "run" / LAST, load_checkpoint(tmp_path / "run" / LAST))
    writer.write(state_of(3))
    assert epochs_of(tmp_path / "run") == epochs_of(tmp_path / "whole")


def test_a_damaged_last_one_does_not_take_the_place_of_the_one_before_it(tmp_path):
    folder = tmp_path / "run"
    written(folder, state_of(1), state_of(2), state_of(3))
    data = (folder / LAST).read_bytes()
    (folder / LAST).unlink()  # the copies are links to it
    (folder / LAST).write_bytes(data[:500])
    found = find_newest_checkpoint(folder)
    assert found.name == "model_last-1.pth"
    writer = CheckpointFolder(folder, KEEP)
    writer.resume(found, load_checkpoint(found))
    writer.write(state_of(3))
    epochs = epochs_of(folder)
    names = [LAST, "model_last-1.pth", "model_last-2.pth"]
    assert [epochs[name] for name in names] == [3, 2, 1] and epochs[BEST] == 3


def test_a_run_that_goes_back_has_the_best_of_that_time(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    folder = tmp_path / "run"
    written(folder, *COURSE, state_of(6))
    state = load_checkpoint(folder / "model_last-3.pth")  # epoch 3, whose best is 2
    CheckpointFolder(folder, KEEP).resume(folder / "model_last-3.pth", state)
    assert epochs_of(folder)[BEST] == 2 and "is that of epoch 2 again" in caplog.text
    state |= {"best": {"epoch": 1}, "copies": []}
    CheckpointFolder(folder, KEEP).resume(folder / "model_last-3.pth", state)
    assert epochs_of(folder)[BEST] == 2 and "is not that of epoch 1" in caplog.text


def test_a_best_that_was_not_written_is_not_taken_for_it(tmp_path, caplog):
    folder = tmp_path / "run"
    written(folder, state_of(1))
    check_best(folder / BEST)
    save_checkpoint(folder / LAST, state_of(3))
    with pytest.raises(UserError) as caught:
        check_best(folder / BEST)
    assert str(caught.value) == (
        f"{folder / BEST}: holds epoch 1, but the run was killed before it could write its best, "
        f"epoch 3. Go on with python train.py -r {folder / LAST}, which writes it, or give "
        f"{folder / LAST}, which holds it"
    )
    check_best(folder / LAST)
    # As releases before this wrote it.
    old = state_of(3)
    del old["copies"]
    save_checkpoint(folder / LAST, old)
    with pytest.raises(UserError, match="the run was killed before"):
        check_best(folder / BEST)
    assert caplog.text == ""
    save_checkpoint(folder / LAST, state_of(4, best=3) | {"copies": []})
    check_best(folder / BEST)
    assert "says that epoch 3 was the best; that could not be written" in caplog.text


def test_nothing_is_said_where_nothing_is_known(tmp_path):
    folder = tmp_path / "run"
    written(folder, state_of(1))
    for content in ([1], {"best": {"epoch": 9}}, {"best": 3, "copies": 5}):
        torch.save(content, folder / LAST)
        check_best(folder / BEST)
    (folder / LAST).write_bytes(b"cut")
    check_best(folder / BEST)


def test_a_file_names_no_others_than_a_run_has():
    names = [BEST, "checkpoint-epoch12.pth", "../a.pth", "/etc/passwd", "checkpoint-epochx.pth"]
    assert list_copies({"copies": [*names, BEST + "\n"]}) == names[:2]


def test_equal_checkpoints_are_known_without_links(tmp_path):
    paths = [tmp_path / name for name in ("a.pth", "b.pth", "c.pth")]
    for path, epoch in zip(paths, (1, 1, 2), strict=True):
        save_checkpoint(path, state_of(epoch))
    assert hold_equal(paths[0], paths[1]) and not hold_equal(paths[0], paths[2])
    assert not hold_equal(paths[0], tmp_path / "gone.pth")
    values = files.load_values(paths[2])
    assert values["epoch"] == 2 and values["state_dict"] == {"weight": None}
    assert [path.stat().st_size > 0 for path in paths] == [True] * 3
