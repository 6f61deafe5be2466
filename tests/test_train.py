"""``train.py`` as it is called: what a run's folder holds, resuming, and what ends it at once."""

import json
import logging
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import train
from base.config import resolve_config
from parse_config import load_config
from tests.conftest import ROOT, tiny
from utils.checkpoint.files import load_checkpoint
from utils.cli import run_cli

OCR = ROOT / "configs/demo/ocr.json"


def arguments(data_dir: Path, *more: str) -> list[str]:
    values = tiny(data_dir)
    return ["-c", str(OCR), *(part for value in values for part in ("--set", value)), *more]


@pytest.fixture
def ended(monkeypatch, capsys):
    """Return a function that runs the command here; it gives the exit code and stderr's lines."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(*command: str) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "argv", ["train.py", *command])
        with pytest.raises(SystemExit) as caught:
            run_cli(train.main)
        lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
        return caught.value.code, [line for line in lines if line and " samples" not in line]

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.fixture(scope="module")
def run_dir(demo, tmp_path_factory):
    """The folder of a run of one epoch, made by the command in a process of its own."""
    work = tmp_path_factory.mktemp("work")
    saved = f"trainer.save_dir={work}/runs"
    command = [sys.executable, ROOT / "train.py", *arguments(demo)]
    command += ["--set", saved, "--set", "trainer.save_period=1", "--set", "trainer.verbosity=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    [folder] = (work / "runs" / "demo_ocr").iterdir()
    return folder


@pytest.fixture
def resumable(run_dir, tmp_path):
    """A copy of that folder."""
    return Path(shutil.copytree(run_dir, tmp_path / "run"))


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_folder_of_a_run(run_dir, demo):
    assert {path.name for path in run_dir.iterdir()} == {
        "config.json", "environment.json", "train.log", "metrics.jsonl", "tensorboard",
        "data_report.json", "model_last.pth", "model_best.pth", "checkpoint-epoch1.pth",
    }  # fmt: skip
    config = json.loads((run_dir / "config.json").read_text())
    assert config["data_loader"]["args"]["data_dir"] == str(demo)
    assert resolve_config(load_config(run_dir / "config.json")) == config  # it is a configuration
    assert load_checkpoint(run_dir / "model_last.pth")["config"] == config
    environment = json.loads((run_dir / "environment.json").read_text())
    assert environment["packages"]["torch"] == version("torch")
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    commit = environment["git_commit"]
    assert commit is None if head.returncode else commit.startswith(head.stdout.strip())
    assert environment["command"][1:3] == ["-c", str(OCR)]
    [line] = lines_of(run_dir)
    assert {"epoch", "loss_0", "val_loss_0", "val_0_t2v_metrics_R1"} <= line.keys()
    assert "epoch 1: loss_0" in (run_dir / "train.log").read_text()
    assert list((run_dir / "tensorboard").iterdir())


def test_a_run_is_resumed_in_its_folder(resumable, ended):
    code, _ = ended("-r", str(resumable / "model_last.pth"), "--set", "trainer.epochs=2")
    assert code == 0
    assert [line["epoch"] for line in lines_of(resumable)] == [1, 2]
    state = load_checkpoint(resumable / "model_last.pth")
    assert (state["epoch"], state["step"]) == (2, 4)
    assert (resumable / "checkpoint-epoch2.pth").is_file()
    assert json.loads((resumable / "config.json").read_text())["trainer"]["epochs"] == 2


def test_a_finished_run_is_said_to_be_finished(resumable, ended):
    before = (resumable / "model_last.pth").read_bytes()
    code, _ = ended("-r", str(resumable / "model_last.pth"))
    assert code == 0 and len(lines_of(resumable)) == 1
    assert "1 of 1 epochs are done" in (resumable / "train.log").read_text()
    assert (resumable / "model_last.pth").read_bytes() == before


@pytest.mark.parametrize("beside", [True, False])
def test_a_missing_checkpoint(beside, resumable, tmp_path, ended):
    path = (resumable if beside else tmp_path) / "gone.pth"
    assert ended("-r", str(path)) == (2, [f"{path}: no such checkpoint"])


def test_a_damaged_checkpoint(resumable, ended):
    path = resumable / "model_last.pth"
    path.write_bytes(path.read_bytes()[:5000])
    before = {p.name: p.read_bytes() for p in resumable.iterdir() if p.suffix in (".json", ".pth")}
    code, lines = ended("-r", str(path), "--set", "trainer.epochs=2")
    assert code == 2 and lines[-1].startswith(f"{path}: is damaged")
    assert not [line for line in lines if "Traceback" in line] and len(lines) == 1
    assert {name: (resumable / name).read_bytes() for name in before} == before


def test_a_checkpoint_of_another_model(resumable, ended):
    more = ("--set", "arch.args.projection_dim=8")
    code, lines = ended("-r", str(resumable / "model_last.pth"), *more)
    assert code == 2 and "its weights do not fit the model of this configuration" in lines[0]
    assert "(32, 128) in the file, (8, 128) in the model" in "\n".join(lines)
    assert (
        json.loads((resumable / "config.json").read_text())["arch"]["args"]["projection_dim"] == 32
    )


def test_a_folder_that_holds_a_run_is_refused(run_dir, demo, ended):
    before = sorted(path.name for path in run_dir.iterdir())
    code, [line] = ended(*arguments(demo), "--run_dir", str(run_dir))
    assert code == 2 and line.startswith(f"{run_dir}: already holds a run; resume it with -r")
    assert sorted(path.name for path in run_dir.iterdir()) == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("trainer.monitor=min val_los_0", 'trainer.monitor: "val_los_0" is never logged; did you '),
        ("trainer.monitor=best", "trainer.monitor: expected "),
        ("optimizer.type=AdamX", 'optimizer.type: unknown optimizer "AdamX"; did you mean "Adam'),
        ("trainer.epoch=3", "trainer.epoch: unknown key"),
    ],
)
def test_a_wrong_configuration_ends_before_anything_is_made(change, said, demo, tmp_path, ended):
    more = ["--set", f"trainer.save_dir={tmp_path}/runs", "--set", change]
    code, lines = ended(*arguments(demo, *more))
    assert code == 2 and len(lines) == 2 and lines[0].endswith("1 problem")
    assert lines[1].strip().startswith(said)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "command", [(), ("-r", "a.pth", "--run_dir", "b"), ("-c", "a.json", "--frobnicate")]
)
def test_wrong_options(command, ended):
    code, lines = ended(*command)
    assert code == 2 and lines[0].startswith("usage: ") and ": error: " in lines[-1]


@pytest.fixture
def shuffled(demo, tmp_path):
    """The demo whose validation file holds the test captions with other videos."""
    folder = tmp_path / "shuffled"
    folder.mkdir()
    for part in ("text_model", "Kwai_VideoOCR", "Videos", "TextVR_train.json", "TextVR_test.json"):
        (folder / part).symlink_to(demo / part)
    entries = json.loads((demo / "TextVR_test.json").read_text())
    captions = [entry["captions_info"] for entry in entries]
    moved = [
        entries[number - 1] | {"captions_info": texts} for number, texts in enumerate(captions)
    ]
    (folder / "val.json").write_text(json.dumps(moved))
    return folder


def test_a_shuffled_file_never_chooses_the_best_silently(shuffled, tmp_path, ended):
    run = tmp_path / "run"
    change = ["--set", "data_loader.args.annotation_file=val.json"]
    command = arguments(shuffled, *change, "--run_dir", str(run))
    code, lines = ended(*command)
    assert code == 2 and lines[-1].startswith(f"{shuffled}/val.json: ")
    assert "--allow-shuffled" in lines[-1] and "TextVR_test.json" in lines[-1]
    assert "SHUFFLED" in lines[0] and not list(run.glob("*.pth"))
    code, lines = ended(*command, "--allow-shuffled")
    assert code == 0 and "SHUFFLED" in lines[0] and (run / "model_best.pth").is_file()


def test_a_shuffled_file_without_monitor(shuffled, tmp_path, ended):
    change = ["--set", "data_loader.args.annotation_file=val.json", "--set", "trainer.monitor=off"]
    code, lines = ended(*arguments(shuffled, *change, "--run_dir", str(tmp_path / "run")))
    assert code == 0 and "SHUFFLED" in lines[0]
    assert not (tmp_path / "run" / "model_best.pth").exists()


@pytest.fixture
def broken(demo, tmp_path):
    """The demo with a training video that can't be read."""
    folder = Path(shutil.copytree(demo, tmp_path / "broken"))
    name = json.loads((folder / "TextVR_train.json").read_text())[3]["path"]
    (folder / "Videos" / name).write_bytes(b"no video")
    return folder, name


def test_a_video_that_can_not_be_read_ends_the_run(broken, tmp_path, ended):
    folder, name = broken
    vision = ["--set", 'arch.args.modalities=["vision"]', "--run_dir", str(tmp_path / "run")]
    workers = ["--set", "data_loader.args.num_workers=2"]
    code, [line] = ended(*arguments(folder, *vision, *workers))
    assert code == 2 and line.startswith(f"{folder}/Videos/{name}: ")
    assert len(line) > len(f"{folder}/Videos/{name}: ")  # the reason
    assert not list((tmp_path / "run").glob("*.pth"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such annotation file"),
        ("[{", "is not JSON"),
        ("{}", "must hold a list"),
        ('[{"path": "a.mp4"}]', "a.mp4: has no captions"),
        ('[{"path": "../a.mp4", "captions_info": [{"caption": "x"}]}]', "leads out of the data"),
    ],
)
def test_a_faulty_annotation_file(content, said, demo, tmp_path, ended):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "Videos").mkdir()
    (folder / "text_model").symlink_to(demo / "text_model")
    if content is not None:
        (folder / "TextVR_train.json").write_text(content)
    code, lines = ended(*arguments(folder, "--run_dir", str(tmp_path / "run")))
    assert code == 2 and lines[0].startswith(f"{folder}/TextVR_train.json: ")
    assert said in lines[-1] and len(lines) <= 2


def test_the_published_options_are_short_for_set(demo, tmp_path, ended, caplog):
    run = tmp_path / "run"
    options = ["--lr", "1e-3", "--bs", "2", "-o", "--set", "trainer.verbosity=0"]
    code, _ = ended(*arguments(demo), "--run_dir", str(run), *options)
    assert code == 0
    assert "-o has no effect, as published: trainer.tracker" in caplog.text
    config = json.loads((run / "config.json").read_text())
    assert config["optimizer"]["args"]["lr"] == 1e-3
    assert config["data_loader"]["args"]["batch_size"] == 2
    assert load_checkpoint(run / "model_last.pth")["step"] == 4  # 8 videos


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--learning_rate", "fast"], 'optimizer.args.lr: expected a number of at least 0, got "f'),
        (["--batch_size", "0"], "data_loader.args.batch_size: expected an integer of at least 1"),
    ],
)
def test_wrong_values_of_the_published_options(options, said, demo, ended):
    code, lines = ended(*arguments(demo), *options)
    assert code == 2 and said in "\n".join(lines)


def test_a_published_file_of_frozen_in_time_trains_without_words(demo, tmp_path, ended, caplog):
    """Its own data set stands in another form, so the demo's is read as a folder of tables."""
    root = tmp_path / "WebVid"
    (root / "metadata").mkdir(parents=True)
    for split, file in (("train", "TextVR_train.json"), ("val", "TextVR_test.json")):
        lines = ["videoid,page_dir,name"]
        for number, entry in enumerate(json.loads((demo / file).read_text())):
            target = root / "videos" / split / f"{number}.mp4"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(demo / "Videos" / entry["path"])
            lines.append(f"{number},{split},{entry['captions_info'][0]['caption']}")
        (root / f"metadata/results_2M_{split}.csv").write_text("\n".join(lines))
    data = resolve_config(load_config(ROOT / "configs/demo/vision.json", tiny(demo)))
    args = data["data_loader"]["args"]
    del data["arch"]["args"]["modalities"], args["ocr_params"], args["ocr_dir"]
    args |= {"dataset_name": "WebVid", "cut": "2M", "data_dir": str(root), "tsfm_params": None}
    file = tmp_path / "published.json"
    file.write_text(json.dumps(data))
    code, lines = ended("-c", str(file), "--run_dir", str(tmp_path / "run"))
    assert code == 0, lines
    said = "arch.args.modalities: vision, because WebVid (cut 2M) is in the form of Frozen in Time"
    assert said in caplog.text
    names = load_checkpoint(tmp_path / "run" / "model_last.pth")["state_dict"]
    assert not [name for name in names if name.startswith(("ocr_model", "fusion", "query_token"))]
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["arch"]["args"]["modalities"] == ["vision"]
