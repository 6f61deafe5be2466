import subprocess
import sys

import pytest

from tests.conftest import ROOT

# Pages that the system clears for a tensor of 64 MB that comes and goes ten times, once it has done
# so a few times.
PROGRAM = """
import resource, sys, torch
from utils.launch import keep_freed_memory
if sys.argv[1] == "kept" and not keep_freed_memory():
    sys.exit(3)
torch.set_num_threads(1)
for _ in range(20):
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode == 3:
        pytest.skip("this C library has no mallopt")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_memory_that_comes_and_goes_is_cleared_once():
    assert faults("kept") < 1000 < 100_000 < faults("given back")
