"""What a run tells of itself: metrics.jsonl and TensorBoard, read back from their files."""

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data_loader.transforms import TransformParams
from tests.run_folders import compare_folders, read_events, read_folder
from tests.trainer.test_saving import spoilt
from trainer.build import build_trainer
from trainer.tracking import (
    TIMINGS,
    Tracker,
    Writer,
    make_filmstrip,
    open_writer,
    read_metrics,
)
from trainer.trainer import Trainer, compute_pair_means
from utils.checkpoint.files import load_checkpoint

CPU = torch.device("cpu")
STEP_NUMBERS = (
    "lr", "gradient_norm", "similarity_positive", "similarity_negative", "gradient_norm_text",
    "gradient_norm_vision", "gradient_norm_ocr", "gradient_norm_fusion",
)  # fmt: skip


def made(config, folder: Path) -> Trainer:
    folder.mkdir(exist_ok=True)
    return build_trainer(config, folder, CPU)


def board_of(folder: Path) -> EventAccumulator:
    everything = {kind: 0 for kind in ("scalars", "images", "histograms", "tensors")}
    board = EventAccumulator(str(folder / "tensorboard"), size_guidance=everything)
    board.Reload()
    return board


@pytest.fixture(scope="module")
def run(make_config, tmp_path_factory):
    """The folder of a finished run of the mode fusion: 3 epochs of 2 batches, 5 and 3 videos."""
    folder = tmp_path_factory.mktemp("run") / "run"
    change = ["trainer.epochs=3", "data_loader.args.batch_size=5", "trainer.init_val=true"]
    change += ['lr_scheduler={"type": "linear"}', "trainer.log_every=1"]
    trainer = made(make_config(*change), folder)
    similarities, compute_loss = [], trainer.compute_loss

    def noting(embeds, batch):
        if torch.is_grad_enabled():  # not what is measured at an epoch's end
            both = (embeds[key].detach() for key in ("text", "fusion"))
            a, b = (torch.nn.functional.normalize(rows, dim=1) for rows in both)
            similarities.append((a @ b.T).numpy() / 0.05)
        return compute_loss(embeds, batch)

    trainer.compute_loss = noting
    trainer.fit()
    return folder, trainer, similarities


def test_the_scaled_similarity_of_each_step(run):
    folder, _, similarities = run
    board = board_of(folder)
    for name, others in (("positive", False), ("negative", True)):
        expected = [float(s[np.eye(len(s), dtype=bool) != others].mean()) for s in similarities]
        events = board.Scalars(f"step/similarity_{name}")
        assert [event.step for event in events] == [1, 2, 3, 4, 5, 6]
        assert [event.value for event in events] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_metrics_jsonl_has_the_means_of_tensorboards_steps(run):
    folder, _, _ = run
    board, lines = board_of(folder), read_metrics(folder / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3]
    for name in STEP_NUMBERS:
        steps = [event.value for event in board.Scalars(f"step/{name}")]
        means = [sum(steps[i : i + 2]) / 2 for i in (0, 2, 4)]
        assert [line[name] for line in lines[1:]] == pytest.approx(means, rel=1e-5, abs=1e-6)
        shown = [event.value for event in board.Scalars(name)]
        assert shown == pytest.approx(means, rel=1e-5, abs=1e-6)
    assert "lr" not in lines[0] and "timing" not in lines[0]  # init_val takes no step


def test_timings_stand_apart_and_are_possible(run):
    folder, _, _ = run
    board, lines = board_of(folder), read_metrics(folder / "metrics.jsonl")
    for line in lines[1:]:
        assert set(line["timing"]) == {"samples_per_second", "waiting_share"}  # no GPU
        assert line["timing"]["samples_per_second"] > 0
        assert 0 < line["timing"]["waiting_share"] < 1
    rates = [event.value for event in board.Scalars("timing/samples_per_second")]
    assert rates == pytest.approx([line["timing"]["samples_per_second"] for line in lines[1:]])
    assert len(board.Scalars("step/samples_per_second")) == 6
    assert all(0 < event.value < 1 for event in board.Scalars("step/waiting_share"))


def test_the_ranks_of_each_validation_are_a_histogram(run):
    folder, trainer, _ = run
    board, last = board_of(folder), read_metrics(folder / "metrics.jsonl")[-1]
    for way in ("t2v", "v2t"):
        events = board.Histograms(f"val_0_{way}_ranks")
        assert [event.step for event in events] == [0, 1, 2, 3]
        value = events[-1].histogram_value
        assert value.num == 8 and 1 <= value.min <= value.max <= 8
        assert value.sum / 8 == pytest.approx(last[f"val_0_{way}_metrics_MeanR"])


def test_clips_are_shown_once_at_the_start_with_their_words(run, demo):
    folder, trainer, _ = run
    board = board_of(folder)
    assert board.Tags()["images"] == [f"clips/{number}" for number in range(4)]
    entries = {e["path"]: e for e in json.loads((demo / "TextVR_train.json").read_text())}
    documents = demo / "Kwai_VideoOCR"
    for number in range(4):
        [image] = board.Images(f"clips/{number}")
        assert image.step == 1
        params = trainer.loaders[0].dataset.transform.params
        assert isinstance(params, TransformParams) and image.height == params.input_res
        assert image.width == image.height * trainer.loaders[0].dataset.options.video.num_frames
        [event] = board.Tensors(f"clips/{number}/text_summary")
        text = event.tensor_proto.string_val[0].decode()
        entry = entries[re.search("video: `(.+?)`", text)[1]]
        caption = re.search("caption: `(.+?)`", text)[1]
        assert caption in [c["caption"].strip().lower() for c in entry["captions_info"]]
        records = json.loads((documents / entry["videos_info"]["Kwai_OCR"]).read_text()).values()
        spotted = {word.lower() for record in records for word in record["text"].split()}
        shown = re.findall("`(.+?)`", text.split("OCR words: ")[1])
        shown = [word.replace(" ", "") for word in shown]  # tokens of their own: a - 5at
        assert shown and set(shown) <= spotted


def test_frames_are_shown_as_they_are(tmp_path):
    colours = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    frames = torch.tensor(colours, dtype=torch.uint8)[:, :, None, None].expand(3, 3, 4, 4)
    strip = make_filmstrip(frames, num_frames=2)  # the third is padding
    assert strip.shape == (3, 4, 8) and strip.dtype == np.uint8
    assert strip[:, 0, 0].tolist() == colours[0] and strip[:, 0, 4].tolist() == colours[1]
    board = open_writer("tensorboard", tmp_path, {})
    board.write("image", "a", strip, "epoch", 7)
    board.close()
    [event] = board_of(tmp_path).Images("a")
    (tmp_path / "a.png").write_bytes(event.encoded_image_string)
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(image), strip.transpose(1, 2, 0))
    assert make_filmstrip(frames.repeat(10, 1, 1, 1), 30).shape == (3, 4, 8 * 4)


def test_means_go_on_in_a_resumed_epoch(make_config, tmp_path):
    """Stopped after the first of two batches: the line is that of a run that never stopped."""
    change = ["trainer.tracker=none", "trainer.save_every_steps=1", "lr_scheduler=null"]
    change += ['lr_scheduler={"type": "linear"}', "trainer.epochs=1"]
    config = make_config(*change, kind="ocr")
    made(config, tmp_path / "whole").fit()
    first = made(config, tmp_path / "first")
    save, seen = first.state.save, []

    def stop_after_one(progress, *args, **kwargs):
        save(progress, *args, **kwargs)
        seen.append(progress.step)
        raise KeyboardInterrupt

    first.state.save = stop_after_one
    with pytest.raises(KeyboardInterrupt):
        first.fit()
    assert seen == [1]
    kept = load_checkpoint(tmp_path / "first" / "model_last.pth")["progress"]
    numbers = [name for name in STEP_NUMBERS if name != "gradient_norm_vision"]
    assert kept["num_summed"] == dict.fromkeys(numbers, 1)
    second = made(config, tmp_path / "first")
    second.resume(tmp_path / "first" / "model_last.pth")
    second.fit()
    [whole], [resumed] = (
        read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "first")
    )
    assert resumed["timing"]["samples_per_second"] > 0  # of the batch that this process did
    for line in (whole, resumed):
        for name in TIMINGS:
            del line[name]
    assert resumed == whole and set(numbers) < set(whole)
    assert not (tmp_path / "whole" / "tensorboard").exists()


def test_one_pair_has_no_others():
    right, others = compute_pair_means(torch.tensor([[3.0]]))
    assert right == 3.0 and others.isnan()
    right, others = compute_pair_means(torch.tensor([[3.0, 1.0], [2.0, 5.0]]))
    assert (right, others) == (4.0, 1.5)


def test_a_batch_of_one_leaves_the_line_valid(make_config, tmp_path):
    change = ["data_loader.args.batch_size=1", "trainer.max_samples_per_epoch=2"]
    made(make_config(*change, "trainer.tracker=none", kind="ocr"), tmp_path).fit()
    text = (tmp_path / "metrics.jsonl").read_text()
    line = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert "similarity_positive" in line and "similarity_negative" not in line


def test_a_process_that_does_not_write_writes_nothing(run, tmp_path):
    tracker, (_, trainer, _) = Tracker(tmp_path), run
    tracker.resume(0)
    tracker.begin_epoch()
    with tracker.wait_for_data():
        pass
    tracker.log_clips(trainer.loaders[0], None, 1)
    tracker.log_step(1, {"loss": 1.0})
    tracker.finish_batch(4)
    tracker.log_epoch(1, {"loss_0": 1.0})
    assert tracker.log_not_finite({}) == tmp_path / "not_finite.jsonl"
    tracker.close()
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_is_said_and_the_run_goes_on(tmp_path, caplog):
    (tmp_path / "metrics.jsonl").mkdir()  # can't be appended to
    tracker = Tracker(tmp_path, open_writer("none", tmp_path, {}))
    with caplog.at_level(logging.ERROR):
        tracker.log_epoch(1, {"loss_0": 1.5})
    assert "NOT WRITTEN" in caplog.text and '"loss_0": 1.5' in caplog.text


def test_a_writer_that_fails_is_said_once_and_the_run_goes_on(tmp_path, caplog):
    class Full(Writer):
        def write(self, kind, name, value, axis, place):
            raise OSError(28, "No space left on device")

    tracker = Tracker(tmp_path, Full())
    for epoch in (1, 2):
        tracker.log_epoch(epoch, {"loss_0": 1.5})
    assert caplog.text.count("NOT WRITTEN: Full") == 1
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 2


def test_steps_are_shown_every_so_many(make_config, tmp_path):
    trainer = made(make_config("trainer.log_every=3", "trainer.epochs=4", kind="ocr"), tmp_path)
    trainer.fit()
    shown = [event.step for event in board_of(tmp_path).Scalars("step/loss")]
    assert shown == [3, 6] and trainer.progress.step == 8


def test_what_is_run_again_is_shown_once(make_config, tmp_path, caplog):
    """Of a process that ended in the middle of a record, and of a batch that was skipped."""
    change = ["trainer.epochs=2", "data_loader.args.batch_size=2", "trainer.log_every=1"]
    config = make_config(*change, "trainer.save_every_steps=2", "trainer.on_nan=skip", kind="ocr")
    folders = tmp_path / "whole", tmp_path / "parts"
    spoilt(config, folders[0], {3, 6}).fit()
    trainer = spoilt(config, folders[1], {3, 6})
    save, saved = trainer.state.save, []

    def cut(progress, *args):
        save(progress, *args)
        saved.append(progress.step)
        if len(saved) == 2:  # after the skipped batch, the third of the first epoch
            trainer.state.save = lambda *_: (_ for _ in ()).throw(MemoryError())

    trainer.state.save = cut
    with pytest.raises(MemoryError):
        trainer.fit()
    [events] = (folders[1] / "tensorboard").iterdir()
    with events.open("ab") as file:
        file.write(events.read_bytes()[:70])  # another version, and half a record
    for name in ("metrics.jsonl", "not_finite.jsonl"):
        with (folders[1] / name).open("a") as file:
            file.write('{"epoch": 7')
    before = [len(read_events(folder / "tensorboard")) for folder in folders]
    assert before[1] > 0
    trainer = spoilt(config, folders[1], {3})
    trainer.resume(folders[1] / "model_last.pth", allow_changes=False)
    trainer.fit()
    found = read_folder(folders[0])
    assert [line["batch"] for line in found["not_finite.jsonl"]] == [3, 2]
    assert compare_folders(found, folders[1]) == []


def test_a_run_without_a_checkpoint_begins_with_nothing(make_config, tmp_path):
    folder = tmp_path / "run"
    trainer = made(make_config("trainer.init_val=true", "trainer.on_nan=skip", kind="ocr"), folder)
    trainer.state.save = lambda *_: (_ for _ in ()).throw(MemoryError())
    (folder / "not_finite.jsonl").write_text('{"epoch": 1, "after_step": 0}\n')
    with pytest.raises(MemoryError):
        trainer.fit()
    assert len(read_metrics(folder / "metrics.jsonl")) == 2
    trainer = made(make_config("trainer.init_val=true", "trainer.on_nan=skip", kind="ocr"), folder)
    trainer.fit()
    assert [line["epoch"] for line in read_metrics(folder / "metrics.jsonl")] == [0, 1]
    assert not (folder / "not_finite.jsonl").exists()
    assert len(board_of(folder).Scalars("val_loss_0")) == 2
    assert len(list((folder / "tensorboard").iterdir())) == 1
