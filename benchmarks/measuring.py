"""Measurement as every benchmark does it: time, arithmetic, memory, processes, tables and JSON."""

import argparse
import datetime
import json
import platform
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.tables import format_spread as format_spread  # benchmarks have them from here
from benchmarks.tables import format_table as format_table
from utils.errors import UserError

ROOT = Path(__file__).parents[1]
MIB = 2**20
MATMUL_SIDE = {"cpu": 2048, "cuda": 8192}  # of the matrices that the machine's rate is measured on
REPEATS = 5
_MATMULS = {"mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward"}

Result = dict[str, Any]


# Command line and output


def make_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser that shows a module's docstring and knows ``--json``."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="write JSON, every run's numbers too")
    return parser


def write_result(result: Result, as_json: bool, table: Callable[[Result], str]) -> None:
    """Write a result to the standard output: as JSON, or what ``table`` makes of it."""
    sys.stdout.write(json.dumps(result, indent=2) + "\n" if as_json else table(result))


def describe_machine() -> dict[str, str]:
    """Return the day, the machine and the versions: the first members of every result."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{torch.get_num_threads()} thread(s) of {_get_processor()}, {gpu}",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}",
    }


def read_driver() -> str:
    """Return the version of NVIDIA's driver."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.split("\n")[0] or "unknown"


def _get_processor() -> str:
    """The processor's name where the system tells it (Linux), else its architecture."""
    info = Path("/proc/cpuinfo")
    name = re.search(r"^model name\s*: (.*)$", info.read_text() if info.is_file() else "", re.M)
    return f"{name[1]} ({platform.machine()})" if name else platform.machine()


def format_head(result: Result) -> str:
    """Return the line above a result's tables."""
    return f"{result['date']}; {result['machine']}; {result['versions']}"


# Processes: peak memory can only be told where nothing else was done before


def run_command(*command: object, show_progress: bool = False) -> str:
    """Run a Python command in the project's folder; returns its standard output.

    Args:
        command: file or ``-m`` and module, and options.
        show_progress: let its standard error through.

    Raises:
        UserError: it failed, for example for want of memory.
    """
    words = [sys.executable, *map(str, command)]
    errors = None if show_progress else subprocess.PIPE
    done = subprocess.run(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr or "").strip().splitlines()[-1:] or ["its message is above"]
        raise UserError(f"{' '.join(words[1:])}: ended with code {done.returncode}: {last[0]}")
    return done.stdout


def run_module(module: str, *options: object) -> Result:
    """Run a benchmark's command; returns the JSON of its last line."""
    return json.loads(run_command("-m", module, *options).splitlines()[-1])


def run_in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function gives in a process that has done nothing before."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def get_memory(device: torch.device) -> tuple[float, float]:
    """Return the MiB in use now and at most: of CUDA's tensors, else resident in this process."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated() / MIB, torch.cuda.max_memory_allocated() / MIB
    status = Path("/proc/self/status")
    if not status.exists():
        raise UserError(f"{status}: not there; resident memory is measured on Linux only")
    sizes = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB", status.read_text(), re.MULTILINE))
    return int(sizes["VmRSS"]) / 1024, int(sizes["VmHWM"]) / 1024


# Time


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_call(work: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds that ``work`` takes."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def time_in_turn(
    cases: dict[str, Callable[[], Any]], runs: int, device: torch.device
) -> dict[str, list[float]]:
    """Time the cases in turn, A B A B …; each runs once before, which does not count."""
    for work in cases.values():
        time_call(work, device)
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(runs):
        for name, work in cases.items():
            seconds[name].append(time_call(work, device))
    return seconds


def time_median(work: Callable[[], Any], device: torch.device) -> float:
    """Return the median of the seconds of ``REPEATS`` runs, after one that does not count."""
    return statistics.median(time_in_turn({"": work}, REPEATS, device)[""])


def compute_ratio(seconds: dict[str, list[float]]) -> float:
    """Return how many times faster ours is: the median of the runs' ratios, pair by pair."""
    pairs = zip(seconds["ours"], seconds["plain"], strict=True)
    return statistics.median(plain / ours for ours, plain in pairs)


# Arithmetic: linear layers, the convolution of the patches, attention


def measure_matmul_rate(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Return the FLOP a second of the product of two large square matrices."""
    side = MATMUL_SIDE[device.type]
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / time_median(lambda: a @ b, device)


def count_flops(work: Callable[[], Any]) -> int:
    """Return the floating-point operations of the matrix products that ``work`` computes."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


class MatmulRecorder(TorchDispatchMode):
    """Records the sizes of all matrix products, to time them with nothing between them.

    Attention in one kernel is not taken apart: the plain products of its sizes stand for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[tuple] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Record one operation, and let it be computed."""
        if func.overloadpacket.__name__ in _MATMULS:
            self.counts[func, tuple(map(_describe_argument, args))] += 1
        return func(*args, **(kwargs or {}))

    def measure_seconds(self, device: torch.device) -> float:
        """Return the matmul-only time: the sum over all products of each one's median."""
        total = 0.0
        for (func, described), count in self.counts.items():
            arguments = [_make_argument(part, device) for part in described]
            total += count * time_median(lambda f=func, a=arguments: f(*a), device)
        return total


def _describe_argument(part: Any) -> Any:
    """What of an argument decides how long an operation takes; hashable."""
    if isinstance(part, Tensor):
        return tuple(part.shape), part.stride(), part.dtype
    return tuple(part) if isinstance(part, list) else part


def _make_argument(part: Any, device: torch.device) -> Any:
    """An argument of the same sizes and layout, or the same value."""
    if not (isinstance(part, tuple) and len(part) == 3 and isinstance(part[2], torch.dtype)):
        return list(part) if isinstance(part, tuple) else part
    shape, stride, dtype = part
    return torch.empty_strided(shape, stride, dtype=dtype, device=device).uniform_(-1, 1)
