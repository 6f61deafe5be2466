"""A Ray cluster of two workers on this machine, for the tests of a module."""

import os
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from utils.ray_pool import RayOptions

OPTIONS = RayOptions("local")


@pytest.fixture(scope="module", autouse=True)
def ray_cluster(request) -> Iterator[ModuleType]:
    """A cluster of a module's tests; none of its processes is left in the end."""
    ray = pytest.importorskip("ray")
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    by_value = sys.modules[request.module.__name__]
    ray.cloudpickle.register_pickle_by_value(by_value)  # tests are no package
    yield ray
    ray.cloudpickle.unregister_pickle_by_value(by_value)
    ray.shutdown()
    left = subprocess.run(["pgrep", "-P", str(os.getpid()), "-f", "raylet"], stdout=subprocess.PIPE)
    assert not left.stdout
