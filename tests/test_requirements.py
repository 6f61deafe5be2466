"""The lock file pins what the requirements ask for, each download with its checksum."""

import re
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

FILES = ["requirements.txt", "requirements-scale.txt", "requirements-dev.txt"]
LINUX = default_environment() | {
    "python_version": "3.11", "python_full_version": "3.11.7", "sys_platform": "linux",
    "platform_machine": "x86_64", "platform_system": "Linux", "os_name": "posix",
}  # fmt: skip


def read_requirements(path: Path) -> list[Requirement]:
    lines = [line.split("#")[0].rstrip("\\ ").strip() for line in path.read_text().splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("-")]


def read_lock() -> dict[str, str]:
    """Name -> version, on Linux with Python 3.11; every entry has a checksum."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)
    found = {}
    for entry in re.split(r"\n(?=\S)", text.strip()):
        pinned, *hashes = entry.split("\\\n")
        requirement = Requirement(pinned)
        assert hashes and all(re.match(r"\s+--hash=sha256:[0-9a-f]{64}", text) for text in hashes)
        if requirement.marker is None or requirement.marker.evaluate(LINUX):
            [specifier] = requirement.specifier
            assert specifier.operator == "=="
            assert canonicalize_name(requirement.name) not in found
            found[canonicalize_name(requirement.name)] = specifier.version
    return found


@pytest.mark.parametrize("file", FILES)
def test_what_is_required_is_locked_within_its_bounds(file):
    lock = read_lock()
    for requirement in read_requirements(ROOT / file):
        assert requirement.marker is None or requirement.marker.evaluate(LINUX)
        assert requirement.specifier.contains(lock[canonicalize_name(requirement.name)]), file


@pytest.mark.parametrize("file", [*FILES, "requirements-nodeps.txt"])
def test_the_next_major_version_is_not_taken_unseen(file):
    for requirement in read_requirements(ROOT / file):
        operators = {specifier.operator for specifier in requirement.specifier}
        assert operators & {"<", "=="}, requirement
