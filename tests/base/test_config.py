import pytest
from pydantic import ValidationError

from base.config import Config, ConfigError, EvaluationConfig, TrainerConfig, parse_monitor
from utils.errors import UserError

BLOCK = {"type": "x"}
BLOCKS = {"arch": BLOCK, "data_loader": (BLOCK,), "optimizer": BLOCK, "loss": BLOCK}


def named(name):
    return Config(name=name, trainer=TrainerConfig(epochs=1), **BLOCKS)


@pytest.mark.parametrize("name", ["a/b", "..", ".a", "a\\b", "a\n", " a", "a ", "-a", "~", "a:b"])
def test_a_name_that_is_no_folder(name):
    with pytest.raises(ValidationError, match="can't name a folder: no / "):
        named(name)


@pytest.mark.parametrize("name", ["CC3M-WebVid2M-1f-pti2k", "a.b_c+d=e", "Größe 2", "4f"])
def test_a_name_that_is_a_folder(name, tmp_path):
    (tmp_path / named(name).name).mkdir()
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("off", None),
        ("min val_loss", ("min", "val_loss_0")),
        ("max  val_0_t2v_metrics_R1", ("max", "val_0_t2v_metrics_R1")),
    ],
)
def test_parse_monitor(text, result):
    assert parse_monitor(text) == result


@pytest.mark.parametrize("text", ["", "min", "val_loss_0", "avg val_loss_0", "min a b", "Off"])
def test_parse_monitor_refuses(text):
    with pytest.raises(ValueError, match='expected "off", "min NAME" or "max NAME"'):
        parse_monitor(text)


def test_the_monitor_is_kept_in_its_present_form():
    assert TrainerConfig(epochs=1, monitor="max  val_loss").monitor == "max val_loss_0"


@pytest.mark.parametrize(
    ("training", "evaluation", "found"),
    [("fp32", None, "fp32"), ("bf16", None, "bf16"), ("bf16", "fp32", "fp32")],
)
def test_the_precision_of_evaluation_is_that_of_training_unless_it_has_its_own(
    training, evaluation, found
):
    trainer = TrainerConfig(epochs=1, precision=training)
    own = EvaluationConfig(precision=evaluation)
    config = Config(name="x", trainer=trainer, evaluation=own, **BLOCKS)
    assert config.evaluation_precision == found
    if evaluation is None:  # as in every file that has no such block
        assert Config(name="x", trainer=trainer, **BLOCKS) == config


def test_a_config_error_is_a_user_error_that_lists_its_problems():
    error = ConfigError("x.json", ["a: b", "c: d"])
    assert isinstance(error, UserError)
    assert error.problems == ["a: b", "c: d"]
    assert str(error) == "x.json: 2 problems\n  a: b\n  c: d"
