"""A trainer without data: for tests of single steps on batches made by hand."""

from pathlib import Path

import torch

from base.config import TrainerConfig
from evaluation.evaluator import Evaluator
from trainer.parallel import Parallel
from trainer.tracking import Tracker
from trainer.trainer import Trainer
from utils.precision import Precision

CPU = torch.device("cpu")


def make_step_trainer(
    model,
    criterion,
    parallel=None,
    optimizer=None,
    precision="fp32",
    device=CPU,
    run_dir=None,
    **settings,
):
    """Return a trainer; without an optimizer its steps leave the weights as they are."""
    parameters = [*model.parameters(), *criterion.parameters()]
    return Trainer(
        parallel=parallel or Parallel(model, criterion, device),
        precision=Precision(precision, device),
        optimizer=optimizer or torch.optim.SGD(parameters, lr=0.0),
        schedule=None,
        loaders=[],
        valid_loaders=[],
        evaluator=Evaluator([], criterion, Precision(precision, device)),
        tracker=Tracker(Path(".")),
        run_dir=run_dir or Path("."),
        config={},
        settings=TrainerConfig(epochs=1, **settings),
        epochs=1,
        save_period=1,
        monitor=None,
        validate_first=False,
    )
