"""The optimizer state of sharded training: a folder beside the checkpoint, a file a process.

torch.distributed.checkpoint writes and reads it, also for another number of processes, as
safetensors: unlike its own format there is no pickle in it. ``optimizer-STEP`` takes its name when
all files are complete and on the disk, and is there before the checkpoint that names it, with the
checksum of each file; it goes when no checkpoint names it any more. What every process has whole
(counts of steps, the state of a loss's parameters) is in the checkpoint itself.

A state is what ``torch.optim.Optimizer.state_dict`` returns, its tensors those of the parts of this
process; where files hold others, ``shards`` says which.
"""

import logging
import os
import re
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.tensor import DTensor, distribute_tensor

from utils.checkpoint.files import CheckpointError, load_values
from utils.distributed import gather_objects, get_dist_info
from utils.files import compute_crc32, sync_file

logger = logging.getLogger(__name__)

_FOLDER = re.compile(r"optimizer-\d{1,18}(-\d{1,9})?")
_FILE = re.compile(r"shard-\d{5,9}-model-00001-of-00001\.safetensors")

Named = Sequence[tuple[str, Tensor]]  # of each weight that the optimizer steps on, in its order


def write_shards(state: dict[str, Any], named: Named, run_dir: Path, step: int) -> dict[str, Any]:
    """Write this process's parts of a state; every process calls this.

    Returns:
        What belongs into the checkpoint.

    Raises:
        CheckpointError: a process can't write its file; nothing is left of the folder.
    """
    kept, parts = {}, {}
    for index, values in state["state"].items():
        name, whole = named[index]
        cut = {key: value for key, value in values.items() if _is_cut(value, whole)}
        kept[index] = {key: value for key, value in values.items() if key not in cut}
        parts |= {f"{key}/{name}": _make_whole(value, whole) for key, value in cut.items()}
    state = state | {"state": kept}
    if not parts:  # no step was taken yet
        return state
    names = None
    if get_dist_info().is_main:
        folder = _choose_name(run_dir, step)
        names = folder, f".{folder}.{os.getpid()}.tmp"  # as utils.files names what is not complete
    folder, temporary = gather_objects(names)[0]
    try:
        writer = dcp.HuggingFaceStorageWriter(str(run_dir / temporary), save_distributed=True)
        dcp.save(parts, storage_writer=writer)
        own = list((run_dir / temporary).glob(f"shard-{get_dist_info().rank + 1:05d}-*"))
        sums = {path.name: [path.stat().st_size, compute_crc32(path)] for path in own}
        problem = None
    except (CheckpointException, OSError, RuntimeError, SafetensorError) as error:
        sums, problem = {}, _describe(error)
    found = gather_objects((sums, problem))
    problems = [text for _, text in found if text is not None]
    if get_dist_info().is_main:
        if not problems:
            problems += _name_folder(run_dir / temporary, run_dir / folder)
        if problems:
            shutil.rmtree(run_dir / temporary, ignore_errors=True)
    problems = gather_objects(problems)[0]
    if problems:
        raise CheckpointError(
            f"{run_dir / folder}: the optimizer's state can't be written ({problems[0]}); the "
            "checkpoint written before is kept. Free disk space or set trainer.save_dir, then "
            "resume with -r"
        )
    files = {name: check for sums, _ in found for name, check in sums.items()}
    return state | {"shards": {"folder": folder, "files": files, "tensors": list(parts)}}


def join_state(state: dict[str, Any], named: Named, checkpoint: Path) -> dict[str, Any]:
    """Return the state of a checkpoint as this process's optimizer takes it.

    Every process calls this. Whether, and over how many, the state was cut when it was written, and
    is now, does not matter.

    Raises:
        CheckpointError: files beside the checkpoint are damaged, or not there.
        ValueError: the state does not fit ``named``.
    """
    joined = {index: dict(values) for index, values in state["state"].items()}
    for index, (_, whole) in enumerate(named):
        if isinstance(whole, DTensor) and index in joined:
            values = joined[index].items()
            joined[index] = {key: _cut_like(value, whole) for key, value in values}
    if "shards" in state:
        _agree_on_shards(state["shards"], checkpoint)
        numbers = {name: index for index, (name, _) in enumerate(named)}
        wanted = {}
        for place in state["shards"]["tensors"]:
            name = place.partition("/")[2]
            if name not in numbers:
                raise ValueError(f"it is of {name}, which this model does not train")
            wanted[place] = torch.empty_like(named[numbers[name]][1], requires_grad=False)
        _read(wanted, checkpoint.parent / state["shards"]["folder"])
        for place, value in wanted.items():
            key, _, name = place.partition("/")
            part = value.to_local() if isinstance(value, DTensor) else value
            joined.setdefault(numbers[name], {})[key] = part
    return {"state": joined, "param_groups": state["param_groups"]}


def verify_shards(shards: dict[str, Any] | None, checkpoint: Path) -> None:
    """Compare the files that a checkpoint names with their checksums.

    Args:
        shards: what its optimizer state says of them; None: it names none.

    Raises:
        CheckpointError: one is damaged or not there.
    """
    if shards is None:
        return
    try:
        names_files = _FOLDER.fullmatch(shards["folder"]) and all(
            _FILE.fullmatch(name) and len(check) == 2 for name, check in shards["files"].items()
        )
    except (AttributeError, LookupError, TypeError):
        names_files = False
    if not names_files:
        raise CheckpointError(f"{checkpoint}: is damaged (it names no optimizer state's files)")
    folder = checkpoint.parent / shards["folder"]
    for name, (size, checksum) in shards["files"].items():
        try:
            is_whole = (folder / name).stat().st_size == size
            is_whole = is_whole and compute_crc32(folder / name) == checksum
        except OSError as error:
            raise CheckpointError(
                f"{checkpoint}: can't be resumed, the optimizer's state beside it can't be read: "
                f"{folder / name} ({error.strerror}). It belongs to the file; to start from its "
                "weights alone, set arch.args.load_checkpoint"
            ) from error
        if not is_whole:
            raise CheckpointError(f"{folder / name}: is damaged (its checksum does not fit)")


def read_shards(checkpoint: Path) -> dict[str, Any] | None:
    """Return what a checkpoint says of files beside it; None: there are none.

    Raises:
        CheckpointError: it can't be read.
    """
    optimizer = load_values(checkpoint).get("optimizer")
    return optimizer.get("shards") if isinstance(optimizer, dict) else None


def remove_unused_shards(run_dir: Path, known: dict[tuple[int, int], str | None]) -> None:
    """Remove the folders that no checkpoint of a run names; none where one can't be read.

    Args:
        known: what checkpoints that were read before name, by file and time; added to.
    """
    folders = [path for path in run_dir.glob("optimizer-*") if _FOLDER.fullmatch(path.name)]
    if not folders:
        return
    used = set()
    for path in run_dir.glob("*.pth"):
        status = path.stat()
        file = status.st_ino, status.st_mtime_ns  # most checkpoints are second names of one file
        if file not in known:
            try:
                known[file] = (read_shards(path) or {}).get("folder")
            except CheckpointError as error:
                logger.warning("%s; no optimizer-* folder is removed while it is there", error)
                return
        used.add(known[file])
    for path in folders:
        if path.name not in used:
            shutil.rmtree(path, ignore_errors=True)
            logger.debug("%s: removed, no checkpoint names it", path)


def _is_cut(value: Any, whole: Tensor) -> bool:
    """Whether a value of the state is cut like its weight; counts of steps are not."""
    return (
        isinstance(whole, DTensor)
        and isinstance(value, Tensor)
        and value.shape == whole.to_local().shape
    )


def _make_whole(part: Tensor, whole: DTensor) -> DTensor:
    """Return a part of this process as one of a tensor that is cut like ``whole``."""
    return DTensor.from_local(
        part, whole.device_mesh, whole.placements, run_check=False, shape=whole.shape,
        stride=whole.stride(),
    )  # fmt: skip


def _cut_like(value: Any, whole: DTensor) -> Any:
    """Return this process's part of a tensor of a weight's shape; other values as they are."""
    if not isinstance(value, Tensor) or value.shape != whole.shape:
        return value
    cut = distribute_tensor(
        value.to(whole.device), whole.device_mesh, whole.placements, src_data_rank=None
    )
    return cut.to_local()


def _choose_name(run_dir: Path, step: int) -> str:
    """Return a name that no folder has: a step may be saved twice."""
    name, number = f"optimizer-{step:08d}", 1
    while (run_dir / name).exists():
        number += 1
        name = f"optimizer-{step:08d}-{number}"
    return name


def _name_folder(temporary: Path, folder: Path) -> list[str]:
    """Give a complete folder its name; returns why it can't be, if so."""
    try:
        sync_file(temporary)
        temporary.rename(folder)
        sync_file(folder.parent)
    except OSError as error:
        return [str(error)]
    return []


def _agree_on_shards(shards: dict[str, Any], checkpoint: Path) -> None:
    """Let the first process verify the files; all of them end together."""
    problem = None
    if get_dist_info().is_main:
        try:
            verify_shards(shards, checkpoint)
        except CheckpointError as error:
            problem = str(error)
    problem = gather_objects(problem)[0]
    if problem is not None:
        raise CheckpointError(problem)


def _read(wanted: dict[str, Tensor], folder: Path) -> None:
    """Fill tensors from a folder; parts of tensors where all processes read together."""
    is_alone = not any(isinstance(value, DTensor) for value in wanted.values())
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            dcp.load(
                wanted,
                storage_reader=dcp.HuggingFaceStorageReader(str(folder)),
                no_dist=is_alone,
            )
    except (CheckpointException, OSError, RuntimeError, SafetensorError) as error:
        text = f"{folder}: the optimizer's state can't be read ({_describe(error)})"
        raise CheckpointError(text) from error


def _describe(error: BaseException) -> str:
    """Return an error in one line; where processes work together, the first one's that failed."""
    if isinstance(error, CheckpointException) and error.failures:
        rank, (inner, _) = min(error.failures.items())
        return f"process {rank}: {_describe(inner)}"
    return " ".join(str(error).split())[:500]
