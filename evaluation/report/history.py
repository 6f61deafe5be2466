"""Training curves of a run, from its ``metrics.jsonl``."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

METRICS_NAME = "metrics.jsonl"
# Group 1: the validation set of a recall, 2: its k, 3: the validation set of a loss.
_PLOTTED = re.compile(r"loss(?:_\d+)?|val_(\d+)_t2v_metrics_R(1|5|10)|val_loss_(\d+)")


def read_history(run_dir: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the epochs of a run, and notes about what of them is missing.

    Raises:
        OSError: the file is there and can't be read.
    """
    try:
        text = (run_dir / METRICS_NAME).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return [], [f"there is no {METRICS_NAME}, so there are no curves"]
    lines = text.splitlines()
    epochs = [epoch for line in lines if (epoch := _parse_epoch(line)) is not None]
    cut = len(lines) - len(epochs)
    return epochs, [f"{cut} lines of {METRICS_NAME} are no epoch and left out"] if cut else []


def _parse_epoch(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and is_number(value.get("epoch")) else None


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number, NaN and infinity included."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def list_plotted_keys(histories: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    """Return the keys of the losses, and of R@1, 5 and 10 of every validation set."""
    keys = dict.fromkeys(key for history in histories for epoch in history for key in epoch)
    return [key for key in keys if _PLOTTED.fullmatch(key)]


def describe_key(key: str) -> str:
    """Say in words what a plotted key is."""
    recall_set, k, loss_set = _PLOTTED.fullmatch(key).groups()
    if recall_set is not None:
        return f"R@{k}, text to video, validation set {recall_set} (%)"
    if loss_set is not None:
        return f"validation loss, set {loss_set}"
    return "training loss" + key.removeprefix("loss").replace("_", ", loader ")


def get_points(history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """Return (epoch, value) of the epochs that have a number under ``key``."""
    return [(epoch["epoch"], epoch[key]) for epoch in history if is_number(epoch.get(key))]
