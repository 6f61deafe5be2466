"""The made-up TextVR: the same bytes from the same options, re-runs, and the command."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from synthetic_helpers import OPTIONS, contents, decode, read_json, run

from data_loader.synthetic import demo as demo_job
from data_loader.synthetic.demo import DemoOptions, make_demo
from data_loader.synthetic.layout import write_video
from data_loader.synthetic.scene import COLOURS
from tests.conftest import ROOT
from utils.errors import UserError


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "demo"
    make_demo(out, OPTIONS)
    return out


def test_same_seed_same_bytes_whatever_the_workers(demo, tmp_path):
    make_demo(tmp_path, OPTIONS, workers=2)
    assert contents(tmp_path) == contents(demo)


def test_a_clip_depends_on_seed_and_place_only(demo, tmp_path):
    make_demo(tmp_path / "small", DemoOptions(looks=2, words=2, clips_per_pair=1, seed=3))
    make_demo(tmp_path / "other", DemoOptions(looks=2, words=2, clips_per_pair=1, seed=4))
    large, small, other = map(contents, (demo, tmp_path / "small", tmp_path / "other"))
    # A small grid splits its pairs otherwise: compare the clips that are in the same split of both.
    clips = [n for n in small if n.startswith(("Videos/", "Kwai_VideoOCR/")) and n in large]
    assert len(clips) >= 2
    for name in clips:
        assert small[name] == large[name]
        assert small[name] != other[name]


def test_finished_set_is_left_alone_and_a_gap_is_filled(tmp_path):
    options = DemoOptions(looks=2, words=2, clips_per_pair=1)
    assert not make_demo(tmp_path, options).already_there
    before = contents(tmp_path)
    video = next(tmp_path.glob("Videos/*/test_*.mp4"))
    video.write_bytes(b"touched")
    assert make_demo(tmp_path, options).already_there
    assert video.read_bytes() == b"touched"
    video.unlink()
    assert not make_demo(tmp_path, options).already_there
    assert contents(tmp_path) == before


def test_interrupted_run_is_completed(tmp_path, monkeypatch):
    options = DemoOptions(looks=2, words=2, clips_per_pair=1)
    make_demo(tmp_path / "whole", options)

    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo_job, "write_text_model", fail)
        with pytest.raises(KeyboardInterrupt):
            make_demo(tmp_path / "cut", options)
    assert not (tmp_path / "cut" / "synthetic.json").exists()
    make_demo(tmp_path / "cut", options)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_other_contents_are_refused_then_replaced(tmp_path):
    one, two = (DemoOptions(looks=2, words=n, clips_per_pair=1) for n in (3, 2))
    make_demo(tmp_path / "demo", one)
    (tmp_path / "demo" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="--overwrite"):
        make_demo(tmp_path / "demo", two)
    make_demo(tmp_path / "demo", two, overwrite=True)
    make_demo(tmp_path / "fresh", two)
    assert contents(tmp_path / "demo") == {
        **contents(tmp_path / "fresh"),
        "notes.txt": b"mine",
    }


def test_nothing_half_written_stays(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")

    def draw():
        yield np.zeros((32, 48, 3), np.uint8)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_video(path, draw(), fps=10)
    assert contents(tmp_path) == {"a.mp4": b"old"}


def test_video_keeps_the_colours(tmp_path):
    frames = [np.full((32, 48, 3), colour, np.uint8) for colour in COLOURS.values()]
    write_video(tmp_path / "a.mp4", frames, fps=10)
    decoded = decode(tmp_path / "a.mp4").astype(int)
    assert decoded.shape == (len(frames), 32, 48, 3)
    assert np.abs(decoded - np.stack(frames)).max() < 8


def test_command_makes_a_demo_once(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("utils.processes.BAR_DELAY_S", 0)
    arguments = f"--out {tmp_path}/d --looks 2 --words 3 --clips-per-pair 1 --size 64 --workers 1"
    assert run(arguments) == 0
    said = capsys.readouterr()
    assert "3 training and 3 test videos, made" in said.out
    assert "vision 66.67, OCR 100.00" in said.out
    assert "6/6" in said.err  # the bar
    assert run(arguments) == 0
    assert "left as it is" in capsys.readouterr().out
    assert run(f"{arguments} --seed 1") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run(f"{arguments} --seed 1 --overwrite") == 0
    assert read_json(tmp_path / "d/synthetic.json")["seed"] == 1
    video = next((tmp_path / "d/Videos").rglob("*.mp4"))
    assert decode(video).shape[1:] == (64, 64, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--looks 1", "--looks is 1: it must lie between 2 and"),
        ("--looks 1000", "--looks is 1000: it must lie between 2 and"),
        ("--words 1", "--words is 1: it must lie between 2 and"),
        ("--words 65", "--words is 65: it must lie between 2 and 64"),
        ("--clips-per-pair 0", "--clips-per-pair is 0"),
        ("--size 62", "--size is 62"),
        ("--size 65", "even"),
        ("--seed -1", "--seed is -1"),
        ("--limit 3", "--limit needs --annotations"),
        ("--annotations none.json", "none.json: no such annotation file"),
        ("--annotations none.json --seed 0", "--seed has no meaning with --annotations"),
    ],
)
def test_command_refuses_with_one_line(arguments, message, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(f"{arguments} --out {out}") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not out.exists()


def test_numbers_of_work_are_at_least_1(tmp_path, capsys):
    for option in ("--workers", "--limit"):
        assert run(f"--out {tmp_path}/out {option} 0") == 2
        assert f"argument {option}: expected a whole number of" in capsys.readouterr().err


def test_the_old_spelling_says_the_new_one(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "data_loader.synthetic", "--out", tmp_path, "--looks", "1"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "python -m data_loader.synthetic is now python -m tools.make_data",
        "--looks is 1: it must lie between 2 and 50",
    ]
