"""The folder of a run: its configuration, what it ran on, its log and its checkpoints."""

import logging
import platform
import subprocess
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from utils.errors import UserError, escape_unprintable
from utils.files import write_json

CONFIG_NAME = "config.json"
OWN_PACKAGES = ("data_loader", "evaluation", "model", "trainer", "utils", "parse_config")
PACKAGES = (
    "torch", "torchvision", "transformers", "tokenizers", "timm", "decord", "av",
    "opencv-python-headless", "numpy", "pandas", "pydantic",
)  # fmt: skip


def make_run_dir(save_dir: str, name: str, chosen: str | None = None) -> Path:
    """Make and return the folder of a new run: ``chosen``, or ``save_dir/name/date_time``.

    Raises:
        UserError: ``chosen`` already holds a run, or the folder can't be made.
    """
    if chosen is not None:
        path = Path(chosen)
        if (path / CONFIG_NAME).exists():
            raise UserError(
                f"{path}: already holds a run; resume it with -r {path}/model_last.pth, "
                "or name another --run_dir"
            )
    else:
        path = Path(save_dir) / name / datetime.now().strftime("%Y%m%d_%H%M%S_%f")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: the run's folder can't be made ({error.strerror})") from error
    return path


def find_latest_run_dir(save_dir: str, name: str) -> Path | None:
    """Return the newest run folder of ``save_dir/name``, or None where there is none."""
    found = sorted(Path(save_dir, name).glob(f"*/{CONFIG_NAME}"))  # named after their time
    return found[-1].parent if found else None


def describe_run(path: Path, config: dict[str, Any], command: list[str]) -> None:
    """Write the resolved configuration, and package versions, commit and command beside it."""
    write_json(path / CONFIG_NAME, config)
    write_json(path / "environment.json", environment() | {"command": command})


def environment() -> dict[str, Any]:
    """Return what results depend on beside the configuration."""
    return {
        "python": platform.python_version(),
        "machine": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git_commit": git_commit(),
    }


def git_commit() -> str | None:
    """Return the commit of this code, with ``+changes`` when it differs; None outside git."""
    root = Path(__file__).parent.parent
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(root, "status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(root: Path, *args: str) -> str:
    done = subprocess.run(
        ["git", *args], cwd=root, check=True, text=True, capture_output=True, timeout=30
    )
    return done.stdout.strip()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


class _PlainFormatter(logging.Formatter):
    """Escapes what a terminal would obey: names of foreign files stand in records."""

    def format(self, record: logging.LogRecord) -> str:
        return escape_unprintable(super().format(record))


def setup_logging(verbosity: int, file: Path | None = None) -> None:
    """Send log records to standard error and to ``file``.

    Args:
        verbosity: 0 warnings, 1 information, 2 debugging (of this project's packages only).
        file: also written to, appended.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if file is not None:
        handlers.append(logging.FileHandler(file, encoding="utf-8"))
    formatter = _PlainFormatter("%(asctime)s %(levelname).1s %(name)s: %(message)s", "%H:%M:%S")
    for handler in handlers:
        handler.setFormatter(formatter)
    level = logging.WARNING if verbosity == 0 else logging.INFO
    logging.basicConfig(level=level, handlers=handlers, force=True)
    logging.captureWarnings(True)
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[verbosity]
    for package in OWN_PACKAGES:
        logging.getLogger(package).setLevel(level)
    for noisy in ("httpx", "timm", "huggingface_hub", "transformers"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
