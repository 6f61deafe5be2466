"""Free memory and free disk space, and numbers of bytes as people write them."""

import shutil
from pathlib import Path

_MEMINFO, _CGROUPS, _OWN_CGROUP = "/proc/meminfo", Path("/sys/fs/cgroup"), "/proc/self/cgroup"


def format_size(count: float) -> str:
    """Write a number of bytes for people: ``12.3 GB`` (powers of 1000)."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB" if count < 1000 else f"{count:,.0f} TB"


def measure_free_memory() -> int | None:
    """Return how many bytes this process may still take; None where the system does not say.

    That is what the machine has left without swapping, or what the limit of a container leaves.
    """
    found = [size for size in (_read_machine(), _read_container()) if size is not None]
    return min(found, default=None)


def measure_free_disk(path: Path) -> int:
    """Return the free bytes of the disk that a file which need not be there would be on."""
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free


def _read_machine() -> int | None:
    try:
        lines = Path(_MEMINFO).read_text(encoding="utf-8").splitlines()
        return next(1024 * int(s.split()[1]) for s in lines if s.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None


def _read_container() -> int | None:
    """What is left of the memory limit of this process's control group, version 2."""
    try:
        own = Path(_OWN_CGROUP).read_text(encoding="utf-8").splitlines()
        name = next(line[3:] for line in own if line.startswith("0::"))
    except (OSError, StopIteration):
        return None
    for folder in (_CGROUPS / name.lstrip("/"), _CGROUPS):
        try:
            limit = int((folder / "memory.max").read_text())  # "max": there is none
            used = int((folder / "memory.current").read_text())
            lines = (folder / "memory.stat").read_text().splitlines()
        except (OSError, ValueError):
            continue
        # Cached files count as used, and are given up for what is asked for.
        cached = next((int(line.split()[1]) for line in lines if line.startswith("file ")), 0)
        return max(0, limit - used + cached)
    return None
