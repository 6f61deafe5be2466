"""What a run's folder holds, without what the clock and the process have put there."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

from tests.trainer.test_resume import differences
from trainer.checkpoint_folder import LAST
from trainer.tracking import TIMINGS
from utils.checkpoint.files import load_checkpoint

_OF_THE_CLOCK = ("timing/", "step/samples_per_second", "step/waiting_share")


def read_folder(folder: Path) -> dict[str, Any]:
    """Return the content of each file; of event files all events together."""
    found: dict[str, Any] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".pth":
            found[path.name] = load_checkpoint(path)
        elif path.suffix == ".jsonl":
            lines = map(json.loads, path.read_text().splitlines())
            found[path.name] = [{k: v for k, v in n.items() if k not in TIMINGS} for n in lines]
        elif path.name == "tensorboard":
            found[path.name] = dict(Counter(read_events(path)))
        elif path.name != "train.log":
            found[path.name] = path.read_text().replace(str(folder), "RUN")
    return found


def read_sharded_state(folder: Path) -> dict[str, Any]:
    """Return the last checkpoint, with the tensors of its optimizer state's files as ``files``.

    Not how it names them: the order of the tensors in such a file is not always the same.
    """
    state = load_checkpoint(folder / LAST)
    files = sorted((folder / state["optimizer"].pop("shards")["folder"]).iterdir())
    return state | {"files": {file.name: load_file(file) for file in files}}


def read_events(folder: Path) -> list[tuple[str, int, str]]:
    """Return tag, step and value of each event that does not come from the clock."""
    return [
        (value.tag, event.step, str(value))
        for path in sorted(folder.iterdir())
        for event in EventFileLoader(str(path)).Load()
        for value in event.summary.value
        if not value.tag.startswith(_OF_THE_CLOCK)
    ]


def compare_folders(whole: dict[str, Any], folder: Path) -> list[str]:
    """Return where a folder differs from what another one held; tensors bit for bit."""
    found = read_folder(folder)
    names = [f"{name} is there" for name in found.keys() - whole.keys()]
    names += [f"{name} is not there" for name in whole.keys() - found.keys()]
    for name in whole.keys() & found.keys():
        names += [f"{name}: {place}" for place in differences(whole[name], found[name])]
    return sorted(names)
