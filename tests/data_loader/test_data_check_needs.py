import pytest

from base.config import TrainerConfig
from data_loader.data_check.needs import (
    count_checkpoints,
    count_moments,
    estimate_disk,
    estimate_loader,
    estimate_model,
)
from data_loader.datasets.text_video_dataset import LoaderVideoParams
from trainer.build import build_model
from utils.capacity import format_size


def course(**values):
    return TrainerConfig(**({"epochs": 10} | values))


def test_the_model_is_counted(make_config):
    config = make_config()
    needs = estimate_model(config)
    count = sum(weight.numel() for weight in build_model(config, "cpu", False).parameters())
    assert needs.parameters == needs.trainable == count and needs.reason is None
    assert (needs.training_bytes, needs.checkpoint_bytes) == (16 * count, 12 * count)


def test_a_model_that_cant_be_had_is_not_known(make_config, tmp_path):
    (tmp_path / "text").mkdir()
    config = make_config(f"arch.args.text_params.model={tmp_path}/text")
    needs = estimate_model(config)
    assert needs.parameters is None and str(tmp_path) in needs.reason
    assert estimate_disk(course(), needs.checkpoint_bytes).needed is None


@pytest.mark.parametrize(
    ("optimizer", "momentum", "count"), [("AdamW", 0, 2), ("SGD", 0, 0), ("SGD", 0.9, 1)]
)
def test_values_that_the_optimizer_keeps(optimizer, momentum, count):
    assert count_moments(optimizer, {"momentum": momentum}) == count


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ({"save_period": 1}, 10),  # last and best are links to numbered ones
        ({"save_period": 1, "epochs": 300}, 300),
        ({"save_period": 5}, 2 + 1 + 1),  # epochs 5 and 10, the last one before, the best
        ({"save_period": 5, "monitor": "off"}, 2 + 1),
        ({"save_period": 4}, 2 + 2 + 1),  # 4 and 8, the last and the one after it, the best
        ({"save_period": 1000, "monitor": "off"}, 2),
    ],
)
def test_checkpoint_files(values, count):
    assert count_checkpoints(course(**values)) == count


def test_the_disk_of_a_folder_that_is_not_there_yet(tmp_path):
    needs = estimate_disk(course(save_dir=str(tmp_path / "a/b"), save_period=1), 1000)
    assert needs.needed == 10 * 1000 and needs.free > 0 and needs.folder == str(tmp_path / "a/b")


def test_a_batch_of_frames():
    video = LoaderVideoParams(num_frames=4, input_res=224)
    arguments = {"batch_size": 64, "num_workers": 3, "prefetch_factor": 2, "video_params": video}
    needs = estimate_loader(arguments)
    assert needs.shape == (64, 4, 3, 224, 224) and needs.ahead == 6
    assert needs.uint8_bytes == 38_535_168 == needs.float32_bytes // 4
    assert estimate_loader(arguments | {"num_workers": 0}).ahead == 1


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (2.99e9, "2.99 GB"), (9e11, "900 GB"),
     (4.5e12, "4.5 TB"), (45e15, "45,000 TB")],
)  # fmt: skip
def test_sizes_for_people(count, text):
    assert format_size(count) == text
