"""A run that goes on with other data or settings than its checkpoint was written with."""

import json
import logging
import shutil
from pathlib import Path

import pytest

import train
from tests.conftest import ROOT, tiny
from tests.trainer.test_resume import made
from trainer.checkpointing import TrainingState
from utils.changes import find_changes, list_changes
from utils.checkpoint.files import load_checkpoint, save_checkpoint
from utils.errors import UserError


@pytest.fixture(scope="module")
def data(demo, tmp_path_factory) -> Path:
    """A copy of the data that may be changed."""
    return Path(shutil.copytree(demo, tmp_path_factory.mktemp("data") / "demo"))


@pytest.fixture(scope="module")
def checkpoint(make_config, data, tmp_path_factory) -> Path:
    """The checkpoint of an epoch of the mode ocr."""
    folder = tmp_path_factory.mktemp("run")
    made(config_of(make_config, data), folder).fit()
    return folder / "model_last.pth"


def config_of(make_config, data: Path, *more: str):
    moved = [f"data_loader.args.data_dir={data}", "data_loader.args.cache_dir=off"]
    text = f"arch.args.text_params.model={data}/text_model"
    return make_config(*moved, text, *more, kind="ocr")


def resumed(config, checkpoint: Path, folder: Path, allowed: bool = False) -> None:
    made(config, folder).resume(checkpoint, allowed)


@pytest.fixture
def changed(data, tmp_path) -> Path:
    """A copy of the data for one test."""
    return Path(shutil.copytree(data, tmp_path / "moved"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("seed=3", "seed was 0, is 3"),
        ("data_loader.args.batch_size=3", "training data: batch size was 4, is 3"),
        ("loss.args.temperature=0.1", "loss.args.temperature was "),
        ("data_loader.args.video_params.num_frames=1", "video_params.num_frames was "),
        ("data_loader.args.ocr_params.max_words=2", "data_loader.args.ocr_params.max_words was "),
        ("data_loader.args.text_params.caption_sample=first", "text_params.caption_sample was "),
        ("data_loader.args.shuffle=false", "data_loader.args.shuffle was true, is false"),
        ("data_loader.args.subsample=0.5", "training data: number of videos was 8, is 4"),
        ("data_loader.args.val_share=0.4", "validation data: order of the videos was "),
        ("optimizer.args.lr=0.5", "optimizer.args.lr was 0.0005, is 0.5"),
        ("optimizer.args.weight_decay=0.5", "optimizer.args.weight_decay was "),
        ("arch.args.ocr_encoder_dropout=occurrence", "arch.args.ocr_encoder_dropout was "),
        ("trainer.chunk_size=2", "trainer.chunk_size was null, is 2"),
        ("trainer.max_samples_per_epoch=4", "trainer.max_samples_per_epoch was null, is 4"),
    ],
)
def test_other_settings_are_refused(change, said, checkpoint, make_config, data, tmp_path, caplog):
    config = config_of(make_config, data, change)
    with pytest.raises(UserError) as caught:
        resumed(config, checkpoint, tmp_path / "run")
    text = str(caught.value)
    assert text.startswith(f"{checkpoint}: was written with other data or settings")
    assert f"\n  {said}" in text or f".{said}" in text
    assert "--allow-changes" in text.splitlines()[-1]
    caplog.set_level(logging.WARNING)
    resumed(config, checkpoint, tmp_path / "run", allowed=True)
    assert "the run goes on with other data or settings than" in caplog.text and said in caplog.text


@pytest.mark.parametrize(
    "change",
    [
        "trainer.epochs=5",
        "trainer.save_period=3",
        "trainer.keep_last=4",
        "trainer.log_every=2",
        "trainer.tracker=none",
        "trainer.save_every_steps=2",
        "trainer.on_nan=skip",
        "trainer.monitor=max val_0_t2v_metrics_R1",
        "data_loader.args.num_workers=1",
        "data_loader.args.cache_dir=null",
        "data_loader.args.video_params.loading=lax",
        "arch.args.ocr_encoder_init=query_encoder",
        "name=other",
    ],
)
def test_settings_that_change_no_step_are_only_said(
    change, checkpoint, make_config, data, tmp_path, caplog
):
    caplog.set_level(logging.INFO, "trainer.changes")
    logging.getLogger("trainer").setLevel(logging.INFO)
    resumed(config_of(make_config, data, change), checkpoint, tmp_path / "run")
    [record] = [r for r in caplog.records if r.name == "trainer.changes"]
    assert record.levelno == logging.INFO
    assert f"{change.split('=')[0]} was " in record.getMessage()


def test_nothing_is_said_of_the_same(checkpoint, make_config, data, tmp_path, caplog):
    caplog.set_level(logging.INFO, "trainer.changes")
    resumed(config_of(make_config, data), checkpoint, tmp_path / "run")
    assert not [r for r in caplog.records if r.name == "trainer.changes"]


def test_data_that_moved_is_the_same(checkpoint, make_config, changed, tmp_path, caplog):
    logging.getLogger("trainer").setLevel(logging.INFO)
    caplog.set_level(logging.INFO, "trainer.changes")
    resumed(config_of(make_config, changed), checkpoint, tmp_path / "run")
    [text] = [r.getMessage() for r in caplog.records if r.name == "trainer.changes"]
    assert "arch.args.text_params.model was " in text and "data_loader.args.data_dir was " in text


def annotations(folder: Path, change, split: str = "train") -> None:
    file = folder / f"TextVR_{split}.json"
    entries = json.loads(file.read_text())
    change(entries)
    file.write_text(json.dumps(entries))


def reverse(folder: Path) -> None:
    annotations(folder, lambda entries: entries.reverse())


def leave_out(folder: Path) -> None:
    annotations(folder, lambda entries: entries.pop())


def leave_a_test_video_out(folder: Path) -> None:
    annotations(folder, lambda entries: entries.pop(), "test")


def change_caption(folder: Path) -> None:
    def change(entries) -> None:
        entries[2]["captions_info"][0]["caption"] += " now"

    annotations(folder, change)


def change_words(folder: Path) -> None:
    file = sorted((folder / "Kwai_VideoOCR").rglob("*.json"))[0]
    file.write_text(file.read_text().replace('"text": "', '"text": "x', 1))


def lose_document(folder: Path) -> None:
    sorted((folder / "Kwai_VideoOCR").rglob("*.json"))[0].unlink()


def change_text_model(folder: Path) -> None:
    file = folder / "text_model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"dropout": 0.3}))


@pytest.mark.parametrize(
    ("change", "said", "same"),
    [
        (reverse, ["training data: order of the videos"], "captions"),
        (leave_out, ["training data: number of videos was 8, is 7", "captions was"], "batch size"),
        (leave_a_test_video_out, ["validation data: number of videos was 8, is 7"], "training"),
        (change_caption, ["training data: captions was "], "order"),
        (change_words, [" data: OCR documents was "], "captions"),
        (lose_document, [" data: OCR documents was "], "captions"),
        (change_text_model, ["files of arch.args.text_params.model was "], "data:"),
    ],
)
@pytest.mark.parametrize("cache", ["off", "cache"])
def test_other_data_is_refused(
    change, said, same, cache, checkpoint, make_config, changed, tmp_path
):
    """Whether the words are read of the documents or of the store of the cache folder."""
    change(changed)
    cache = cache if cache == "off" else tmp_path / cache
    config = config_of(make_config, changed, f"data_loader.args.cache_dir={cache}")
    with pytest.raises(UserError) as caught:
        resumed(config, checkpoint, tmp_path / "run")
    lines = str(caught.value).splitlines()[1:-1]
    for text in said:
        assert any(text in line for line in lines), lines
    assert not any(same in line for line in lines), lines


def test_videos_of_another_size_are_other_data(make_config, data, changed, tmp_path):
    config = make_config(f"data_loader.args.data_dir={data}", kind="vision")
    made(config, tmp_path / "first").fit()
    with open(sorted((changed / "Videos").rglob("*.mp4"))[0], "ab") as file:
        file.write(b"more")
    config = make_config(f"data_loader.args.data_dir={changed}", kind="vision")
    with pytest.raises(UserError, match="sizes of the videos' files was "):
        resumed(config, tmp_path / "first" / "model_last.pth", tmp_path / "run")


def test_more_epochs_are_another_course_where_the_rate_knows_the_end(
    make_config, data, tmp_path, caplog
):
    def go_on(schedule: str, folder: Path) -> None:
        config = config_of(make_config, data, f"lr_scheduler={schedule}")
        made(config, folder).fit()
        more = config_of(make_config, data, f"lr_scheduler={schedule}", "trainer.epochs=2")
        resumed(more, folder / "model_last.pth", folder)

    with pytest.raises(UserError, match="trainer.epochs was 1, is 2"):
        go_on('{"type": "cosine"}', tmp_path / "cosine")
    go_on('{"type": "cosine", "args": {"num_training_steps": 9}}', tmp_path / "fixed")
    go_on('{"type": "constant_with_warmup", "args": {"num_warmup_steps": 1}}', tmp_path / "a")
    go_on('{"type": "StepLR", "args": {"step_size": 1}}', tmp_path / "b")


@pytest.mark.parametrize("lacks", ["inputs", "config"])
def test_a_checkpoint_of_an_earlier_release_is_said_not_to_be_comparable(
    lacks, checkpoint, make_config, data, tmp_path, caplog
):
    state = load_checkpoint(checkpoint)
    del state[lacks]
    save_checkpoint(tmp_path / "old.pth", state)
    caplog.set_level(logging.INFO)
    resumed(config_of(make_config, data, "seed=1"), tmp_path / "old.pth", tmp_path / "run")
    [text] = [r.getMessage() for r in caplog.records if r.name == "trainer.changes"]
    assert text.startswith(f"{tmp_path / 'old.pth'}: an earlier release wrote it")


def test_the_command_refuses_with_code_2_and_goes_on_on_demand(demo, tmp_path, run_main):
    folder = tmp_path / "run"
    options = [part for text in tiny(demo) for part in ("--set", text)]
    options = ["-c", ROOT / "configs/demo/ocr.json", *options, "--run_dir", folder, "-r", "auto"]
    assert run_main(train, *options)[0] == 0
    before = {path: path.read_bytes() for path in folder.iterdir() if path.suffix == ".json"}
    more = ["--set", "seed=5", "--set", "trainer.epochs=2"]
    code, _, err = run_main(train, *options, *more)
    assert code == 2 and "\n  seed was 0, is 5\nUndo that, or go on all the same with" in err
    assert {path: path.read_bytes() for path in before} == before
    code, _, err = run_main(train, *options, *more, "--allow-changes")
    assert code == 0 and "seed was 0, is 5" in err
    state = load_checkpoint(folder / "model_last.pth")
    assert (state["epoch"], state["config"]["seed"]) == (2, 5)
    code, _, err = run_main(train, "-r", folder / "model_last.pth")  # now it is its own
    assert code == 0 and "seed" not in err


def test_of_many_changes_twenty_are_listed():
    before = {f"a{number:03}": number for number in range(100)}
    changes = list(find_changes({"x": before}, {"x": {name: "…" * 99 for name in before}}))
    listed = list_changes(changes)
    assert len(changes) == 100 and len(listed) == 21 and listed[-1] == "80 more"
    assert listed[3].startswith("x.a003 was 3, is ") and len(listed[3]) < 100
    assert list(find_changes({"a": None, "b": [1, {"c": 2}]}, {"b": [1, {"c": 2}]})) == []
    nested = list(find_changes({"b": [1, {"c": 2}]}, {"b": [1, {"c": 3}]}))
    assert list(map(str, nested)) == ["b.1.c was 2, is 3"]


def test_all_processes_end_together(checkpoint, make_config, data, tmp_path, monkeypatch):
    """The first one compares; the others, which know nothing of it, raise what it found."""
    config = config_of(make_config, data, "seed=1")
    trainer = made(config, tmp_path / "run")
    monkeypatch.setattr("trainer.checkpointing.gather_objects", lambda value: ["found", value])
    with pytest.raises(UserError, match="^found$"):
        TrainingState._check_changes(trainer.state, checkpoint, {}, False)
