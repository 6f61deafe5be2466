import copy
import dataclasses
import json
import logging
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError

from base.base_model import ModelInput
from base.config import NO_EFFECT, ConfigError, ConfigModel, resolve_config
from base.registry import METRICS, Entry
from parsing import checks
from parsing.config_builder import build_config
from utils.ranking import METRIC_DIRECTIONS, METRIC_KEYS


class ModelVideo(ConfigModel):
    model: str = "SpaceTimeTransformer"
    num_frames: int = Field(4, ge=1, description="Longest clip.")
    input_res: int | None = None


class LoaderVideo(ConfigModel):
    num_frames: int = Field(4, ge=1, description="Frames.")
    input_res: int = 224
    stride: Annotated[int | None, NO_EFFECT] = None


class Arch:
    """A model."""

    def __init__(
        self,
        video_params: ModelVideo,
        modalities: tuple[Literal["vision", "ocr"], ...] = ("vision", "ocr"),
    ) -> None:
        pass

    @classmethod
    def describe_input(cls, video_params, modalities):
        return ModelInput(modalities, "x", video_params.input_res, video_params.num_frames)

    @classmethod
    def check_config(cls, config):
        asked = config.arch.args.video_params.input_res or 224
        wrong = [b for b in config.data_loader if b.args.video_params.input_res != asked]
        return [f"arch: {cls.__name__} takes {asked} pixels"] if wrong else []


class Tower(Arch):
    """A model that says how its frames are made."""

    @classmethod
    def describe_input(cls, video_params, modalities):
        return dataclasses.replace(
            super().describe_input(video_params, modalities), resize="square"
        )

    check_config = None


def plain_arch(width: int = 3) -> None: ...


def loader(
    dataset_name: str,
    video_params: LoaderVideo = LoaderVideo(),  # noqa: B008
    reader: str | None = None,
    batch_size: Annotated[int, Field(ge=1)] = 2,
    cut: Annotated[str | None, NO_EFFECT] = None,
) -> None: ...


def adamw(params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999)) -> None: ...


def sgd(params: Any, lr: float, momentum: float = 0.0) -> None: ...


def unit() -> None: ...


@pytest.fixture(autouse=True)
def parts(monkeypatch):
    """Put these parts in the place of all registered ones."""
    contents = {
        "arch": {"Net": Entry(Arch), "Tower": Entry(Tower), "PlainNet": Entry(plain_arch)},
        "data_loader": {"Loader": Entry(loader), "LoaderAlias": Entry(loader)},
        "optimizer": {"AdamW": Entry(adamw, ("params",)), "SGD": Entry(sgd, ("params",))},
        "lr_scheduler": {"Step": Entry(unit)},
        "loss": {"Loss": Entry(unit)},
    }
    for key, entries in contents.items():
        monkeypatch.setattr(checks.BLOCKS[key], "_entries", entries)
    named = {"dataset_name": {"TextVR": Entry(unit)}, "reader": {"decord": Entry(unit)}}
    for key, entries in named.items():
        monkeypatch.setattr(checks.NAMED_ARGS["data_loader"][key], "_entries", entries)
    known = {"keys": METRIC_KEYS, "directions": tuple(METRIC_DIRECTIONS.values())}
    metrics = {name: Entry(unit, **known) for name in ("t2v_metrics", "v2t_metrics")}
    metrics |= {"silent": Entry(unit), "own": Entry(unit, keys=("P1", "P5"))}
    monkeypatch.setattr(METRICS, "_entries", metrics)


def example(**changes):
    return copy.deepcopy(
        {
            "name": "run",
            "arch": {"type": "Net", "args": {"video_params": {}}},
            "data_loader": {"type": "Loader", "args": {"dataset_name": "TextVR"}},
            "optimizer": {"type": "AdamW"},
            "loss": {"type": "Loss", "args": {}},
            "trainer": {"epochs": 3},
        }
        | changes
    )


def parsed(data, *overrides):
    return build_config(data, "x.json", overrides, [])


def problems(data, *overrides):
    with pytest.raises(ConfigError) as caught:
        parsed(data, *overrides)
    return caught.value.problems


def test_types_and_defaults():
    config = parsed(example(arch={"type": "Net", "args": {"video_params": {"num_frames": 4}}}))
    assert (config.n_gpu, config.seed, config.metrics) == (1, 0, ("t2v_metrics", "v2t_metrics"))
    assert config.arch.args.video_params == ModelVideo()
    assert [block.type for block in config.data_loader] == ["Loader"]
    assert config.optimizer.kwargs() == {"lr": 1e-3, "betas": (0.9, 0.999)}
    assert config.lr_scheduler is None
    assert config.trainer.monitor == "min val_loss_0"
    assert config.trainer.max_samples_per_epoch is None


def test_the_precision_of_evaluation_is_set_where_a_file_has_no_such_block():
    config = parsed(example(), "trainer.precision=bf16")
    assert config.evaluation.precision is None and config.evaluation_precision == "bf16"
    assert parsed(example(), "evaluation.precision=tf32").evaluation_precision == "tf32"
    assert parsed(example(evaluation={}), "evaluation.precision=null") == parsed(example())
    expected = 'expected one of "fp32", "tf32", "bf16", "fp16" or null, got "half"'
    found = problems(example(), "evaluation.precision=half")
    assert found == [f"evaluation.precision: {expected}"]
    (found,) = problems(example(evaluation={"precison": "bf16"}))
    assert found.startswith('evaluation.precison: unknown key; did you mean "precision"')


def test_frozen():
    config = parsed(example())
    for part, key, value in ((config, "seed", 1), (config.trainer, "epochs", 1)):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, key, value)


def test_the_callers_values_stay_as_they_are():
    data = example()
    before = copy.deepcopy(data)
    assert parsed(data, "seed=3", "optimizer.args.lr=1").seed == 3
    assert data == before


LOADER = {"type": "Loader", "args": {"dataset_name": "TextVR"}}


@pytest.mark.parametrize("loaders", [LOADER, [LOADER], [LOADER, LOADER]])
def test_resolved_is_accepted_again_unchanged(loaders):
    data = example(data_loader=loaders, lr_scheduler={"type": "Step"}, visualizer={"type": ""})
    once = resolve_config(parsed(data, "trainer.monitor=min val_loss"))
    assert json.loads(json.dumps(once)) == once
    again = parsed(once)
    assert resolve_config(again) == once
    assert again == parsed({k: v for k, v in data.items() if k != "visualizer"})
    assert isinstance(once["data_loader"], dict) == (loaders in (LOADER, [LOADER]))
    assert once["trainer"]["monitor"] == "min val_loss_0"
    assert "visualizer" not in once and "neptune" not in once["trainer"]


def test_resolved_leaves_out_nested_keys_without_effect():
    args = LOADER["args"] | {"cut": "x", "video_params": {"stride": 1}}
    text = json.dumps(resolve_config(parsed(example(data_loader={"type": "Loader", "args": args}))))
    assert "stride" not in text and "cut" not in text and "batch_size" in text


ALL_PROBLEMS = example(
    nam="x",
    n_gpu=True,
    arch={"type": "Net", "args": {"video_params": {"num_frame": 3}, "modalities": ["text"]}},
    data_loader=[
        {"type": "Loader", "args": {"dataset_name": "TextVRR", "reader": "decor"}},
        {"type": "Lader"},
        {"type": "Loader", "args": {"dataset_name": "TextVR", "video_params": {"input_res": 3.5}}},
    ],
    optimizer={"type": "AdmW", "args": {"lr": 1}},
    loss=3,
    metrics=["t2v_metric", "v2t_metrics", "v2t_metrics"],
    trainer={"epochs": "ten", "monitor": "max val_3_v2t_metrics_R1"},
)


def test_all_problems_in_one_message():
    with pytest.raises(ConfigError) as caught:
        parsed(ALL_PROBLEMS, "seed")
    assert str(caught.value).split("\n  ") == [
        "x.json: 15 problems",
        "--set seed: expected KEY=VALUE, for example optimizer.args.lr=1e-4",
        'nam: unknown key; did you mean "name"?',
        "n_gpu: expected an integer of at least 0, got true",
        'arch.args.video_params.num_frame: unknown key; did you mean "num_frames"?',
        'arch.args.modalities.0: expected one of "vision", "ocr", got "text"',
        'data_loader.0.args.dataset_name: unknown data set "TextVRR"; did you mean "TextVR"?',
        'data_loader.0.args.reader: unknown video reader "decor"; did you mean "decord"?',
        'data_loader.1.type: unknown data loader "Lader"; did you mean "Loader"?',
        "data_loader.2.args.video_params.input_res: expected an integer, got 3.5",
        'optimizer.type: unknown optimizer "AdmW"; did you mean "AdamW"?',
        'loss: expected an object with "type" and "args", got 3',
        'metrics.0: unknown metric "t2v_metric"; did you mean "t2v_metrics"?',
        'metrics.2: "v2t_metrics" stands there twice; remove one',
        'trainer.epochs: expected an integer of at least 1, got "ten"',
        'trainer.monitor: "val_3_v2t_metrics_R1" is never logged; '
        'did you mean "val_2_v2t_metrics_R1"?',
    ]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"n_gpu": -1}, "n_gpu: expected an integer of at least 0, got -1"),
        ({"seed": "1"}, 'seed: expected an integer of at least 0 and below 4294967296, got "1"'),
        ({"name": ""}, 'name: expected text that is not empty, got ""'),
        ({"name": 3}, "name: expected text that is not empty, got 3"),
        ({"metrics": "R1"}, 'metrics: expected a list (each text), got "R1"'),
        ({"data_loader": 3}, 'data_loader: expected an object with "type" and "args", got 3'),
        ({"trainer": []}, "trainer: expected an object with "),
        ({"trainer": {}}, "trainer.epochs: missing; expected an integer of at least 1"),
        ({"data_loader": []}, "data_loader: expected a list of at least 1 (each an object with "),
        ({"arch": None}, 'arch: expected an object with "type", "args", got null'),
        ({"trainer": {"epochs": 1, "early_stop": 0}}, "trainer.early_stop: expected an integer of "
         "at least 1 or null, got 0"),
        ({"trainer": {"epochs": 1, "clip_grad_norm": 0}}, "trainer.clip_grad_norm: expected a "
         "number above 0 or null, got 0"),
        ({"trainer": {"epochs": 1, "init_val": 1}}, "trainer.init_val: expected true or false, "
         "got 1"),
        ({"trainer": {"epochs": 1, "monitor": "mini val_loss_0"}}, 'trainer.monitor: expected '
         '"off", "min NAME" or "max NAME" (for example "min val_loss_0"), got "mini val_loss_0"'),
        ({"trainer": {"epochs": 1, "monitor": "max val_0_t2v_R1"}}, "trainer.monitor: "
         '"val_0_t2v_R1" is never logged; did you mean "val_0_t2v_metrics_R1"?'),
        ({"trainer": {"epochs": 1, "monitor": "min val_loss_1"}}, 'trainer.monitor: "val_loss_1" '
         'is never logged; did you mean "val_loss_0"?'),
    ],
)  # fmt: skip
def test_one_problem(changes, problem):
    [said] = problems(example(**changes))
    assert said == problem if problem[-1] != " " else said.startswith(problem)


@pytest.mark.parametrize("key", ["name", "arch", "data_loader", "optimizer", "loss", "trainer"])
def test_what_must_be_there(key):
    data = example()
    del data[key]
    [said] = problems(data)
    assert said.startswith(f"{key}: missing; expected ")


@pytest.mark.parametrize(
    "monitor",
    ["off", "max val_1_v2t_metrics_geometric_mean_R1-R5-R10", "min val_0_t2v_metrics_MedR"],
)
def test_a_monitor_of_each_kind(monitor):
    data = example(data_loader=[LOADER, LOADER], trainer={"epochs": 1, "monitor": monitor})
    assert parsed(data).trainer.monitor == monitor


def test_the_default_monitor_is_checked_against_the_metrics_in_the_file():
    data = example(metrics=["v2t_metrics"], trainer={"epochs": 1})
    data["trainer"]["monitor"] = "max val_0_t2v_metrics_R1"
    assert problems(data) == [
        'trainer.monitor: "val_0_t2v_metrics_R1" is never logged; '
        'did you mean "val_0_v2t_metrics_R1"?'
    ]


def test_values_that_appear_twice_are_compared():
    data = example()
    data["arch"]["args"]["video_params"] = {"input_res": 224, "num_frames": 4}
    data["data_loader"] = [LOADER, copy.deepcopy(LOADER)]
    data["data_loader"][1]["args"]["video_params"] = {"input_res": 112, "num_frames": 8}
    assert problems(data, "seed=-1") == [
        "seed: expected an integer of at least 0 and below 4294967296, got -1",
        "data_loader.1.args.video_params.input_res: 112, but the model of arch takes frames of "
        "224; make them equal",
        "data_loader.1.args.video_params.num_frames: 8, but the model of arch takes clips of 4; it "
        "can't take a longer clip: raise its number or lower this one",
    ]


def test_the_default_size_of_frames_gives_way_to_that_of_a_tower():
    arch = {"type": "Tower", "args": {"video_params": {"input_res": 384}}}
    data = example(arch=arch)
    config = parsed(data)
    assert parsed(resolve_config(config)).arch.args.video_params.input_res == 384
    size = "data_loader.args.video_params.input_res"
    assert parsed(data, f"{size}=224") and parsed(data, f"{size}=384")
    [said] = problems(data, f"{size}=256")
    assert said == f"{size}: 256, but the model of arch takes frames of 384; make them equal"


def test_a_loader_is_asked_what_contradicts_the_model(monkeypatch):
    def find_problems(args, wanted, training):
        return [(("cut",), f"{args.dataset_name}, {wanted.modalities[0]}, {training}")]

    monkeypatch.setattr(loader, "find_problems", find_problems, raising=False)
    data = example(valid_data_loader=LOADER)
    for training in (True, False):
        with pytest.raises(ConfigError) as caught:
            build_config(data, "x.json", (), [], training)
        assert caught.value.problems == [
            f"data_loader.args.cut: TextVR, vision, {training}",
            "valid_data_loader.args.cut: TextVR, vision, False",
        ]


def test_the_architecture_is_asked_about_the_rest():
    assert problems(example(), "data_loader.args.video_params.input_res=112") == [
        "arch: Arch takes 224 pixels"
    ]


def test_an_architecture_that_does_not_say_what_it_takes_is_told_how():
    [said] = problems(example(arch={"type": "PlainNet"}))
    assert said.startswith("arch.args: PlainNet does not say what it takes: give the architecture")


@pytest.mark.parametrize("key", ["P1", "P5"])
def test_a_metric_of_ones_own_is_monitored_by_the_keys_that_it_declares(key):
    data = example(metrics=["own"], trainer={"epochs": 1, "monitor": f"max val_0_own_{key}"})
    assert parsed(data).trainer.monitor == f"max val_0_own_{key}"
    data["trainer"]["monitor"] = "max val_0_own_R1"
    assert problems(data) == [
        'trainer.monitor: "val_0_own_R1" is never logged; did you mean "val_0_own_P1"?'
    ]


@pytest.mark.parametrize(
    ("monitor", "less", "right"),
    [
        ("max val_loss_0", "less", "min val_loss_0"),
        ("max val_loss", "less", "min val_loss_0"),
        ("min val_0_t2v_metrics_R1", "more", "max val_0_t2v_metrics_R1"),
        ("min val_0_v2t_metrics_geometric_mean_R1-R5-R10", "more",
         "max val_0_v2t_metrics_geometric_mean_R1-R5-R10"),
        ("max val_0_t2v_metrics_MedR", "less", "min val_0_t2v_metrics_MedR"),
        ("max val_0_t2v_metrics_MeanR", "less", "min val_0_t2v_metrics_MeanR"),
        ("min val_0_own_P1", "more", "max val_0_own_P1"),
        ("max val_0_own_P5", "less", "min val_0_own_P5"),
    ],
)  # fmt: skip
def test_a_monitor_that_would_keep_the_worst_epoch_is_refused(monitor, less, right, monkeypatch):
    entry = METRICS.entry("own")
    judged = dataclasses.replace(entry, directions=("max", "min"))
    monkeypatch.setitem(METRICS._entries, "own", judged)
    data = example(trainer={"epochs": 1, "monitor": monitor})
    data["metrics"] = ["t2v_metrics", "v2t_metrics", "own"]
    [said] = problems(data)
    assert said == (
        f'trainer.monitor: "{monitor}" would keep the worst epoch as the best, for {less} is '
        f'better; write "{right}"'
    )
    data["trainer"]["monitor"] = right
    assert parsed(data).trainer.monitor == right


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_metric_that_does_not_say_what_is_better_is_not_judged(mode):
    monitor = f"{mode} val_0_own_P1"
    data = example(metrics=["own"], trainer={"epochs": 1, "monitor": monitor})
    assert parsed(data).trainer.monitor == monitor


def test_a_metric_that_declares_no_keys_can_not_be_monitored():
    data = example(metrics=["silent"], trainer={"epochs": 1, "monitor": "max val_0_silent_R1"})
    [said] = problems(data)
    assert said.endswith("its metric declares no keys: METRICS.register(NAME, keys=(…))")


def test_fewer_frames_than_the_model_are_warned_about(caplog):
    parsed(example(), "data_loader.args.video_params.num_frames=1")
    assert [record.getMessage() for record in caplog.records] == [
        "x.json: data_loader.args.video_params.num_frames: 1, but the model of arch takes clips of "
        "4; its later frames go unused"
    ]


def test_keys_without_effect_give_one_warning(caplog):
    data = example(visualizer={"type": "", "args": {}}, data_loader=[LOADER, copy.deepcopy(LOADER)])
    data["trainer"]["neptune"] = False
    data["data_loader"][1]["args"] |= {"cut": "jsfusion", "video_params": {"stride": 1}}
    parsed(data)
    [record] = caplog.records
    assert (record.name, record.levelno) == ("parse_config", logging.WARNING)
    assert record.getMessage() == (
        "x.json: these keys have no effect any more: trainer.neptune, visualizer, "
        "data_loader.1.args.cut, data_loader.1.args.video_params.stride"
    )


def test_no_warning_without_cause(caplog):
    parsed(example())
    assert caplog.records == []
