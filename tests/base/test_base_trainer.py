"""The course of a run: a trainer that only writes down what is asked of it."""

import logging
import math

import pytest

from base.base_trainer import BaseTrainer, Monitor
from utils.errors import UserError


class Recorded(BaseTrainer):
    """Validates to given values, one an epoch, and keeps every call."""

    def __init__(self, values, **course):
        course = {"epochs": len(values), "save_period": 1, "monitor": None} | course
        super().__init__(**{"validate_first": False} | course)
        self.values = values
        self.calls, self.logs, self.saved = [], {}, {}

    def train_epoch(self, epoch):
        self.calls.append(("train", epoch))
        return {"loss_0": 10.0 * epoch}

    def validate(self, epoch):
        self.calls.append(("validate", epoch))
        return {"val_loss_0": self.values[epoch - 1]}

    def log_epoch(self, epoch, log):
        self.calls.append(("log", epoch))
        self.logs[epoch] = log

    def save_epoch(self, improved, keep):
        self.calls.append(("save", self.epoch))
        self.saved[self.epoch] = (improved, keep)

    @property
    def trained(self):
        return [epoch for name, epoch in self.calls if name == "train"]


def monitor(mode="min", patience=None):
    return Monitor(mode, "val_loss_0", patience)


def test_an_epoch_is_trained_validated_recorded_and_saved_in_this_order():
    trainer = Recorded([3.0, 2.0])
    trainer.fit()
    steps = ("train", "validate", "log", "save")
    assert trainer.calls == [(name, epoch) for epoch in (1, 2) for name in steps]
    assert trainer.logs[2] == {"loss_0": 20.0, "val_loss_0": 2.0}
    assert trainer.saved == {1: (False, True), 2: (False, True)}  # nothing monitored: no best


@pytest.mark.parametrize(
    ("mode", "improved"),
    [("min", [True, False, True, False, False]), ("max", [True, True, False, True, False])],
)
def test_the_best_epoch_is_saved_as_such(mode, improved):
    trainer = Recorded([3.0, 4.0, 2.0, 5.0, 5.0], monitor=monitor(mode))
    trainer.fit()
    assert [trainer.saved[epoch][0] for epoch in range(1, 6)] == improved


def test_a_value_that_is_no_number_is_never_the_best():
    trainer = Recorded([math.nan, 4.0, -math.inf, math.nan, 3.0], monitor=monitor())
    trainer.fit()
    assert [trainer.saved[epoch][0] for epoch in range(1, 6)] == [False, True, False, False, True]
    assert trainer.monitor.value == 3.0


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_training_stops_after_exactly_patience_epochs_without_improvement(patience, caplog):
    caplog.set_level(logging.INFO)
    trainer = Recorded([5.0, 4.0, *[4.0] * 8], monitor=monitor(patience=patience))
    trainer.fit()
    assert trainer.trained == list(range(1, 2 + patience + 1))
    assert f"stopped after epoch {2 + patience}: val_loss_0 has not improved on 4.0" in caplog.text


def test_an_improvement_in_time_starts_the_count_anew():
    trainer = Recorded([5.0, 6.0, 4.0, 6.0, 6.0, 3.0, 9.0], monitor=monitor(patience=2))
    trainer.fit()
    assert trainer.trained == [1, 2, 3, 4, 5]


def test_without_patience_every_epoch_is_trained(caplog):
    caplog.set_level(logging.INFO)
    trainer = Recorded([1.0] * 6, monitor=monitor())
    trainer.fit()
    assert len(trainer.trained) == 6 and "6 of 6 epochs are done" in caplog.text


@pytest.mark.parametrize(("period", "kept"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4]), (9, [])])
def test_save_period_keeps_every_so_many_epochs(period, kept):
    trainer = Recorded([1.0] * 5, save_period=period)
    trainer.fit()
    assert [epoch for epoch, (_, keep) in trainer.saved.items() if keep] == kept
    assert list(trainer.saved) == [1, 2, 3, 4, 5]  # the last checkpoint is written every time


def test_only_every_so_many_epochs_and_the_last_are_validated():
    values = [3.0, 2.0, 1.0, 4.0, 0.5]
    trainer = Recorded(values, validation_period=2)
    trainer.fit()
    assert [epoch for name, epoch in trainer.calls if name == "validate"] == [2, 4, 5]
    assert [epoch for name, epoch in trainer.calls if name == "train"] == [1, 2, 3, 4, 5]


def test_epochs_that_were_not_validated_do_not_count_for_the_early_stop():
    monitor = Monitor("min", "val_loss_0", patience=2)
    trainer = Recorded([1.0] * 9, monitor=monitor, validation_period=2)
    trainer.fit()
    assert (trainer.epoch, monitor.epoch, monitor.epochs_without) == (6, 2, 2)


def test_init_val_validates_and_records_epoch_0_and_saves_nothing():
    trainer = Recorded([1.0], validate_first=True)
    trainer.fit()
    assert trainer.calls[:3] == [("validate", 0), ("log", 0), ("train", 1)]
    assert list(trainer.saved) == [1]


def test_a_resumed_run_goes_on_at_the_next_epoch_without_init_val():
    trainer = Recorded([1.0] * 4, validate_first=True)
    trainer.epoch = 2
    trainer.fit()
    assert trainer.calls[0] == ("train", 3) and trainer.trained == [3, 4]


def test_a_run_that_is_done_trains_nothing_more():
    trainer = Recorded([1.0] * 2)
    trainer.epoch = 2
    trainer.fit()
    assert trainer.calls == []


def test_the_best_value_goes_on_from_a_checkpoint():
    first = monitor(patience=3)
    for value in (5.0, 4.0, 6.0):
        first.update({"val_loss_0": value})
    second = monitor(patience=3)
    second.load_state_dict(first.state_dict())
    assert (second.value, second.epochs_without, second.is_exhausted) == (4.0, 1, False)
    assert [second.update({"val_loss_0": value}) for value in (4.5, 4.0)] == [False, False]
    assert second.is_exhausted


@pytest.mark.parametrize("other", [Monitor("max", "val_loss_0"), Monitor("min", "val_loss_1")])
def test_another_monitored_quantity_starts_afresh(other):
    first = monitor()
    first.update({"val_loss_0": 5.0})
    other.load_state_dict(first.state_dict())
    assert other.value is None


def test_a_monitored_value_that_is_not_logged_is_an_error_after_saving():
    trainer = Recorded([1.0, 2.0], monitor=Monitor("max", "val_0_t2v_metrics_R1"))
    with pytest.raises(
        UserError, match='epoch 1 has no "val_0_t2v_metrics_R1".*valid: loss_0'
    ) as e:
        trainer.fit()
    assert trainer.calls[-1] == ("save", 1) and trainer.saved == {1: (False, True)}
    assert "The epoch is saved" in str(e.value) and trainer.trained == [1]


def test_a_missing_validation_loss_names_its_cause():
    with pytest.raises(UserError, match="a validation video has no caption"):
        monitor().check_logged({"loss_0": 1.0}, 1)
