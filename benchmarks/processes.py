"""Measuring in fresh processes: memory at its most is seen only where nothing else was done."""

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from utils.errors import UserError


def run_module(module: str, *options: object) -> dict[str, Any]:
    """Run a benchmark's command; returns the JSON of its last line.

    Raises:
        UserError: the process failed, for example for want of memory.
    """
    command = [sys.executable, "-m", module, *map(str, options)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise UserError(f"{' '.join(command)}: ended with {done.returncode}: {last[0]}")
    return json.loads(done.stdout.splitlines()[-1])


def in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function gives in a process that nothing was done in before."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()
