"""The numbers of a run's epochs, from its ``metrics.jsonl``."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.report.contents import RunFacts
from utils.report.plots import Line

METRICS_NAME = "metrics.jsonl"
SHOWN = re.compile(r"loss(_\d+)?|val_loss_\d+|val_\d+_t2v_metrics_R(1|5|10)")
_RECALL = re.compile(r"val_(\d+)_t2v_metrics_R(\d+)")
_LOSS = re.compile(r"val_loss_(\d+)")


def read_history(run_dir: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the epochs of a run, and notes about what of them is missing.

    Raises:
        OSError: the file is there and can't be read.
    """
    file = run_dir / METRICS_NAME
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return [], [f"there is no {METRICS_NAME}, so there are no curves"]
    epochs, cut = [], 0
    for line in text.splitlines():
        epoch = _parsed(line)
        if epoch is None:
            cut += 1
        else:
            epochs.append(epoch)
    return epochs, [f"{cut} lines of {METRICS_NAME} are no epoch and left out"] if cut else []


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and _is_number(value.get("epoch")) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def shown_keys(runs: Sequence[RunFacts]) -> list[str]:
    """Return the keys that are plotted: losses, and R@1, 5, 10 of every validation set."""
    keys = dict.fromkeys(key for run in runs for epoch in run.history for key in epoch)
    return [key for key in keys if SHOWN.fullmatch(key)]


def key_title(key: str) -> str:
    """Say in words what a key of ``metrics.jsonl`` is."""
    if found := _RECALL.fullmatch(key):
        return f"R@{found[2]}, text to video, validation set {found[1]} (%)"
    if found := _LOSS.fullmatch(key):
        return f"validation loss, set {found[1]}"
    return "training loss" + key.removeprefix("loss").replace("_", ", loader ")


def lines_of(runs: Sequence[RunFacts], key: str) -> list[Line]:
    """Return a line for each run that has the key."""
    lines = []
    for number, run in enumerate(runs):
        points = points_of(run.history, key)
        if points:
            lines.append(Line(number, run.label, points))
    return lines


def points_of(history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """Return (epoch, value) of the epochs that have a number under ``key``."""
    return [(epoch["epoch"], epoch[key]) for epoch in history if _is_number(epoch.get(key))]
