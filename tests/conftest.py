"""What the tests of training and test share: a small real TextVR and configurations of it."""

import json
import logging
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

from base.config import Config
from data_loader.synthetic.demo import DemoOptions, make_demo
from parse_config import load_config
from utils.cli import run_cli
from utils.files import CACHE_VARIABLE

ROOT = Path(__file__).parents[1]
PACKAGES = ("data_loader", "evaluation", "model", "trainer", "utils", "parse_config")
MakeConfig = Callable[..., Config]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tiny models gain nothing from threads, and loading processes need the cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _own_progress_bars() -> None:
    """Many tests kill a process that they forked: one that draws a bar would keep all bars waiting.

    By default the lock of progress bars is shared with forked processes.
    """
    tqdm.set_lock(threading.RLock())
    tqdm.monitor_interval = 0


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is written to the cache of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A made-up TextVR: 8 training videos of two captions, 8 test videos of one. Read only."""
    out = tmp_path_factory.mktemp("data") / "demo"
    make_demo(out, DemoOptions(looks=4, words=4, clips_per_pair=1))
    return out


@pytest.fixture(scope="session")
def dropout_text_model(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's text model with dropout, so that training depends on the random state."""
    folder = tmp_path_factory.mktemp("text") / "text_model"
    shutil.copytree(demo / "text_model", folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"dropout": 0.2, "attention_dropout": 0.2}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def tiny(data_dir: Path) -> list[str]:
    """``KEY=VALUE`` texts that turn a demo configuration into a tiny one of ``data_dir``."""
    return [
        f"arch.args.text_params.model={data_dir}/text_model",
        "arch.args.video_params.embed_dim=32",
        "arch.args.video_params.depth=1",
        "arch.args.projection_dim=32",
        "arch.args.ocr_encoder_init=text_params",
        "arch.args.type_embedding_std=1.0",
        f"data_loader.args.data_dir={data_dir}",
        "data_loader.args.batch_size=4",
        "data_loader.args.num_workers=0",
        "optimizer.args.lr=5e-4",
        "lr_scheduler=null",
        "trainer.epochs=1",
        "trainer.validation_period=1",
        "trainer.ocr_warmup_steps=0",
        "trainer.unimodal_losses.vision=0.0",
        "trainer.monitor=min val_loss_0",
        "trainer.verbosity=0",
    ]


@pytest.fixture(scope="session")
def make_config(demo: Path) -> MakeConfig:
    """Return a function: overrides, and the kind of the demo -> a tiny configuration."""

    def make(*overrides: str, kind: str = "fusion") -> Config:
        return load_config(ROOT / f"configs/demo/{kind}.json", [*tiny(demo), *overrides])

    return make


@pytest.fixture
def run_main(monkeypatch, capsys):
    """Return a function that runs a command here; it gives the exit code, stdout and stderr."""

    def run(module, *command: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, command)])
        with pytest.raises(SystemExit) as caught:
            run_cli(module.main)
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err

    return run


@pytest.fixture(autouse=True)
def _unchanged_logging():
    """Put levels and handlers back: a command that ran in this process has set its own."""
    root, loggers = logging.getLogger(), logging.Logger.manager.loggerDict.values()
    for package in PACKAGES:  # a command that ran for a fixture of the module has set these
        logging.getLogger(package).setLevel(logging.NOTSET)
    levels = {log: log.level for log in loggers if isinstance(log, logging.Logger)}
    levels[root], handlers = root.level, root.handlers[:]
    yield
    logging.captureWarnings(False)  # or it would not take hold again: pytest undoes its half
    root.handlers[:] = handlers
    for log, level in levels.items():
        log.setLevel(level)
    for log in loggers:
        if isinstance(log, logging.Logger) and log not in levels:
            log.setLevel(logging.NOTSET)
