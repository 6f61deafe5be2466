"""Checkpoints, ours and others', described and written anew; nothing in them is executed.

python -m tools.checkpoint inspect textvr.pth
    What it holds: its weights by part, the other values, the configuration inside, and which
    of the project's configurations has a model that its weights fit.

python -m tools.checkpoint convert textvr.pth exp/textvr/model.pth
python -m tools.checkpoint convert model_best.pth model.safetensors
    Its weights, arch, epoch and configuration as tensors and plain values. The configuration
    also goes to config.json beside OUT, where test.py reads it, unless one is there.
    The state of the optimizer is left out.
"""

import argparse
import json
import logging
import sys
import textwrap
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor

from model.adapters import has_adapters, merge_adapter_weights
from utils.checkpoint.files import (
    CheckpointError,
    describe_value,
    load_checkpoint,
    read_config_beside,
    write_safetensors,
)
from utils.checkpoint.unpickling import InertRecord, detect_format, make_printable
from utils.checkpoint.weights import get_weights
from utils.cli import run_cli
from utils.errors import UserError
from utils.files import atomic_write, write_json
from utils.run_dir import CONFIG_NAME

ROOT = Path(__file__).parents[1]
SUFFIXES = (".pth", ".safetensors")
KEPT = {"arch": str, "epoch": int, "monitor_best": int | float}  # beside weights and config
Shapes = dict[str, tuple[int, ...]]
FORMATS = {"zip": "torch (zip)", "legacy": "torch (before 1.6)", "safetensors": "safetensors"}
SHOWN = ("arch", "epoch", "state_dict", "config")  # in lines of their own
MAX_NAMES = 8  # names, or shapes, of a line
MAX_LETTERS = 40  # of one of several names
MAX_LINES = 100  # about parts of the weights, or other values
MAX_LINE = 2_000  # letters


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, 0."""
    args = _build_parser().parse_args(arguments)
    if args.command == "convert":
        lines = convert_checkpoint(args.source, args.target, args.force)
    else:
        lines = inspect_checkpoint(args.file, args.config)
    for line in "\n".join(lines).split("\n"):
        sys.stdout.write(make_printable(line, MAX_LINE) + "\n")
    return 0


def inspect_checkpoint(path: Path, whole_config: bool) -> list[str]:
    """Return the lines about a checkpoint; raises ``CheckpointError`` if it can't be read."""
    state = load_checkpoint(path)
    lines = describe_checkpoint(path, state, whole_config)
    try:
        weights = get_weights(state, path)
    except CheckpointError:
        return lines  # which say that there are none
    warnings = logging.getLogger("parse_config")  # about the project's files, not about this one
    level = warnings.level
    warnings.setLevel(logging.ERROR)
    try:
        return lines + describe_fit(get_shapes(weights), *build_configured_models())
    finally:
        warnings.setLevel(level)


def build_configured_models() -> tuple[dict[str, Shapes], dict[str, str]]:
    """Return the shapes of each shipped configuration's model, and why others can't be built."""
    from base.registry import ARCHITECTURES
    from parse_config import load_config  # takes seconds, which converting does without

    models: dict[str, Shapes] = {}
    skipped: dict[str, str] = {}
    built: dict[str, Shapes] = {}
    for path in sorted((ROOT / "configs").rglob("*.json")):
        if path.name == "schema.json":
            continue
        name = path.relative_to(ROOT).as_posix()
        try:
            arch = load_config(path).arch
            architecture = ARCHITECTURES.get(arch.type)
            arguments = architecture.without_initial_weights(**arch.kwargs())
            key = json.dumps([arch.type, arguments], default=repr, sort_keys=True)
            if key not in built:
                with torch.device("meta"):
                    built[key] = get_shapes(architecture(**arguments).state_dict())
            models[name] = built[key]
        except (ValueError, OSError) as error:  # UserError; transformers without a folder
            skipped[name] = (str(error).splitlines() or [type(error).__name__])[0]
    return models, skipped


def _build_parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m tools.checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="inspect|convert")
    look = commands.add_parser("inspect", help="say what a checkpoint holds")
    look.add_argument("file", type=Path, metavar="FILE")
    look.add_argument("--config", action="store_true", help="show all of the configuration inside")
    write = commands.add_parser("convert", help="write tensors and plain values")
    write.add_argument("source", type=Path, metavar="IN")
    write.add_argument("target", type=Path, metavar="OUT", help="ends in .pth or .safetensors")
    write.add_argument("--force", action="store_true", help="replace OUT where it is there")
    return parser


def convert_checkpoint(source: Path, target: Path, force: bool = False) -> list[str]:
    """Write the weights, a few plain values and the configuration of ``source`` to ``target``.

    The configuration, where one is in ``source`` or beside it, also goes to ``config.json`` beside
    ``target``, unless such a file is there.

    Returns:
        What was done, and what was left out, a line each.

    Raises:
        UserError: ``target`` is of another kind, or is there.
        CheckpointError: ``source`` can't be read or ``target`` can't be written.
    """
    if target.suffix not in SUFFIXES:
        raise UserError(f"{target}: name a file that ends in {' or '.join(SUFFIXES)}")
    if target.exists() and not force:
        raise UserError(f"{target}: is there already; give another name, or --force to replace it")
    state = load_checkpoint(source)
    weights = get_weights(state, source)
    merged = has_adapters(weights)
    if merged:
        weights = merge_adapter_weights(weights)
    weights = copy_weights(weights, keep_tied=target.suffix == ".pth")
    if "state_dict" not in state:
        state = {"state_dict": state}  # a plain state dict
    values = {name: state[name] for name, kind in KEPT.items() if isinstance(state.get(name), kind)}
    config = state.get("config")
    if not isinstance(config, dict):
        config = read_config_beside(source)
    if merged and config:
        config = _without_adapters(config)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(target, durable=True) as temporary:
            temporary.touch()
            mode = temporary.stat().st_mode  # safetensors would let nobody else read
            if target.suffix == ".pth":
                written = values | {"state_dict": weights} | ({"config": config} if config else {})
                torch.save(written, temporary)
            else:
                write_safetensors(temporary, weights, values)
            temporary.chmod(mode)
    except (OSError, RuntimeError, SafetensorError) as error:  # torch: a full disk
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{target}: can't be written ({text}); name another folder, or free disk space"
        ) from error
    count = sum(weight.numel() for weight in weights.values())
    lines = [f"{target}: {len(weights)} tensors, {count:,} numbers"]
    lines += [f"{name}: {summarize(value)}" for name, value in values.items()]
    if merged:
        lines.append("its low-rank adapters were merged into the weights that they adapt")
    known = values.keys() | {"state_dict"} | ({"config"} if config else set())
    left_out = [name for name in state if name not in known]
    if left_out:
        end = "; training can't be resumed from it" if "optimizer" in left_out else ""
        lines.append(f"left out: {list_names(sorted(map(str, left_out)), MAX_LINES)}{end}")
    beside = target.with_name(CONFIG_NAME)
    if config is None:
        return [*lines, "no configuration is in it or beside it"]
    if beside.exists():
        return [*lines, f"{beside}: is there already and was left as it is"]
    write_json(beside, config)
    return [*lines, f"{beside}: its configuration"]


def _without_adapters(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration of the model whose adapters were merged."""
    arch = config.get("arch")
    arguments = arch.get("args") if isinstance(arch, dict) else None
    if not isinstance(arguments, dict) or "lora" not in arguments:
        return config
    return config | {"arch": arch | {"args": arguments | {"lora": None}}}


def copy_weights(weights: dict[str, Tensor], keep_tied: bool) -> dict[str, Tensor]:
    """Return weights that are contiguous and hold no more memory than they show.

    With ``keep_tied`` names that show the same numbers go on sharing them.
    """
    copies: dict[tuple, Tensor] = {}
    result = {}
    for name, weight in weights.items():
        weight = weight.detach()
        view = (weight.data_ptr(), weight.dtype, weight.shape, weight.stride())
        if view not in copies and weight.is_contiguous() and _fills_storage(weight):
            copies[view] = weight  # as it is: a copy would take as much memory again
        elif not keep_tied or view not in copies or not weight.numel():
            copies[view] = weight.clone(memory_format=torch.contiguous_format)
        result[name] = copies[view]
    return result


def _fills_storage(weight: Tensor) -> bool:
    return weight.nbytes == weight.untyped_storage().nbytes() > 0


class Difference(NamedTuple):
    """How weights differ from those of a model, in numbers of keys."""

    missing: int
    unexpected: int
    reshaped: int

    def __str__(self) -> str:
        return (
            f"{self.missing} missing keys, {self.unexpected} unexpected keys, "
            f"{self.reshaped} of another shape"
        )


def get_shapes(weights: dict[str, Tensor]) -> Shapes:
    """Return the shape of each weight."""
    return {name: tuple(weight.shape) for name, weight in weights.items()}


def compare_shapes(weights: Shapes, model: Shapes) -> Difference:
    """Compare weights with those of a model by name and shape."""
    common = weights.keys() & model.keys()
    return Difference(
        missing=len(model.keys() - weights.keys()),
        unexpected=len(weights.keys() - model.keys()),
        reshaped=sum(weights[name] != model[name] for name in common),
    )


def describe_checkpoint(path: Path, state: dict[str, Any], whole_config: bool) -> list[str]:
    """Return the lines about a checkpoint, read by ``load_checkpoint`` as ``state``."""
    lines = [f"file: {path}", f"format: {FORMATS[detect_format(path)]}"]
    lines += [f"{key}: {summarize(state[key])}" for key in ("arch", "epoch") if key in state]
    try:
        lines += _describe_weights(get_weights(state, path))
        if "state_dict" not in state:
            return lines  # a plain state dict
    except CheckpointError as error:
        lines.append(f"weights: none ({str(error).removeprefix(f'{path}: ')})")
    others = [key for key in state if key not in SHOWN]
    lines += [f"{key}: {summarize(state[key])}" for key in others[:MAX_LINES]]
    lines += _count_others("values", others)
    config = state.get("config", {})
    if not isinstance(config, dict):
        lines.append(f"config: {summarize(config)}")
    elif whole_config and "config" in state:
        lines += ["config:", json.dumps(config, indent=2)]
    elif "config" in state:
        lines.append(f"config: {config.get('name', 'without a name')} (--config shows it)")
    return lines


def _describe_weights(weights: dict[str, Tensor]) -> list[str]:
    """The number of weights, and a line for each of their parts."""
    parts: dict[str, list[Tensor]] = {}
    for name, weight in weights.items():
        parts.setdefault(name.split(".")[0], []).append(weight)
    count = sum(weight.numel() for weight in weights.values())
    kinds = Counter(str(weight.dtype).removeprefix("torch.") for weight in weights.values())
    lines = [f"weights: {len(weights)} tensors, {count:,} numbers, {', '.join(kinds)}"]
    shown = list(parts)[:MAX_LINES]
    width = min(max(map(len, shown)), MAX_LETTERS)
    for part in shown:
        tensors = parts[part]
        numbers = sum(tensor.numel() for tensor in tensors)
        lines.append(f"  {part:{width}}  {len(tensors):4}  {numbers:>12,}  {_list_shapes(tensors)}")
    return lines + _count_others("parts", parts)


def _count_others(what: str, names: Collection[Any]) -> list[str]:
    """The line that stands for those that no line is about."""
    return [f"… and {len(names) - MAX_LINES} more {what}"] if len(names) > MAX_LINES else []


def list_names(names: Collection[Any], longest: int = MAX_NAMES) -> str:
    """Return names with commas between them, as many and as much of them as a line holds."""
    shown = [str(name)[:MAX_LETTERS] for name in islice(names, longest)]
    return ", ".join(shown + ["…"] * (len(names) > longest))


def _list_shapes(tensors: list[Tensor]) -> str:
    """The shapes of tensors, the most common first: ``768 (40), 768×768 (24), …``."""
    counted = Counter("×".join(map(str, tensor.shape)) or "scalar" for tensor in tensors)
    texts = [shape if n == 1 else f"{shape} ({n})" for shape, n in counted.most_common(MAX_NAMES)]
    return ", ".join(texts + ["…"] * (len(counted) > MAX_NAMES))


def summarize(value: Any) -> str:
    """Return one line about a value, with the classes of the inert records in it."""
    records = Counter(record.class_name for record in _find_records(value))
    inert = "".join(f"; inert: {name} ({n})" for name, n in records.most_common(MAX_NAMES))
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, str):
        return value if len(value) <= 80 and value.isprintable() else f"text of {len(value)}"
    if isinstance(value, dict):
        return f"dict of {len(value)}: {list_names(value)}{inert}"
    if isinstance(value, list | tuple | set | frozenset):
        return f"{type(value).__name__} of {len(value)}{inert}"
    return describe_value(value) + (inert if isinstance(value, InertRecord) else "")


def _find_records(value: Any) -> Iterator[InertRecord]:
    """Every inert record in a value, once."""
    left, seen = [value], set()
    while left:
        value = left.pop()
        if id(value) in seen or not isinstance(
            value, InertRecord | dict | list | tuple | set | frozenset
        ):
            continue
        seen.add(id(value))
        if isinstance(value, InertRecord):
            yield value
            left += [value.args, value.state, value.items]
        else:
            left += [*value, *value.values()] if isinstance(value, dict) else value


def describe_fit(weights: Shapes, models: dict[str, Shapes], skipped: dict[str, str]) -> list[str]:
    """Return which configuration's model the weights fit, or come nearest to.

    ``models`` and ``skipped`` have the names of configurations, with the shapes of their models,
    or why those can't be built.
    """
    found = {name: compare_shapes(weights, model) for name, model in models.items()}
    fitting = [name for name, difference in found.items() if not any(difference)]
    if fitting:
        lines = [f"fits: {', '.join(fitting)}"]
    elif found:
        # The one that takes most of the file; among equals, the one that lacks least.
        least = min(found.values(), key=lambda diff: (diff.unexpected + diff.reshaped, diff))
        nearest = ", ".join(name for name, difference in found.items() if difference == least)
        lines = [f"fits: none; nearest: {nearest} ({least})"]
    else:
        lines = ["fits: no configuration's model can be built"]
    by_reason: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        by_reason.setdefault(textwrap.shorten(reason, 120, placeholder=" …"), []).append(name)
    reasons = [f"{', '.join(names)} ({reason})" for reason, names in by_reason.items()]
    return lines + ([f"not tried: {'; '.join(reasons)}"] if skipped else [])


if __name__ == "__main__":
    run_cli(main)
