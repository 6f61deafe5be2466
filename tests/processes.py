"""Runs train.py in a process of its own without importing everything anew.

It is forked from a server that has imported it and done nothing else: torch refuses a backward pass
in what is forked from a process that has had one, as pytest's may.
"""

import logging
import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path

# What a run imports when it needs it, half of the time that a tiny one takes.
import torch.utils.tensorboard  # noqa: F401
import transformers.models.auto.tokenization_auto
import transformers.models.distilbert.modeling_distilbert  # noqa: F401

import train
from tests.conftest import ROOT, tiny
from utils.cli import run_cli

OCR = ROOT / "configs/demo/ocr.json"


def arguments(data_dir: Path, folder: Path, *changes: str) -> list[str]:
    """The command line of a tiny run of the mode ocr in ``folder``, begun or gone on with."""
    texts = [*tiny(data_dir), *changes]
    options = [part for text in texts for part in ("--set", text)]
    return ["-c", str(OCR), "--run_dir", str(folder), "-r", "auto", *options]


def start(
    argv: list[str], stderr: Path, prepare: Callable[[], None] | None = None
) -> multiprocessing.Process:
    """Start train.py; what it says goes to a file.

    Args:
        prepare: called in the process first.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.processes"])
    process = context.Process(target=run_training, args=(argv, stderr, prepare))
    process.start()
    return process


def finish(argv: list[str], stderr: Path, prepare: Callable[[], None] | None = None) -> int:
    """Run train.py to its end; returns its exit code."""
    process = start(argv, stderr, prepare)
    process.join(120)
    assert process.exitcode is not None, stderr.read_text()
    return process.exitcode


def run_training(argv: list[str], stderr: Path, prepare: Callable[[], None] | None = None) -> None:
    """Be train.py, in a process that was forked for it; what it says goes to a file."""
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    sys.stderr = os.fdopen(2, "w", buffering=1)  # not pytest's
    logging.getLogger().handlers.clear()
    sys.argv = ["train.py", *argv]
    if prepare is not None:
        prepare()
    run_cli(train.main)
