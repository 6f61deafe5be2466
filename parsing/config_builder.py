"""The whole check of a configuration: JSON values in, ``Config`` or every problem out."""

import copy
import logging
from collections.abc import Sequence
from typing import Any

from base.config import LOADER_KEYS, Block, Config, ConfigError
from parsing.blocks import check_block, find_ineffective_in_block, validate_model
from parsing.checks import (
    BLOCKS,
    check_architecture,
    check_metrics,
    check_model_input,
    check_monitor,
    check_named_args,
)
from parsing.json_files import Layer, apply_overrides, find_origin, find_value
from parsing.problems import Path, Problem, find_ineffective_keys, join_path
from parsing.published_files import translate_published_file

logger = logging.getLogger("parse_config")


def build_config(
    data: dict[str, Any],
    source: str,
    overrides: Sequence[str],
    problems: Sequence[Problem],
    training: bool = False,
    made_with: dict[str, Any] | None = None,
    layers: Sequence[Layer] = (),
) -> Config:
    """Apply overrides, check everything, and make the ``Config``.

    Args:
        problems: those found while reading.
        training: whether to refuse what can't be trained, though it might be tested.
        made_with: the configuration that a run or an index was made with, where this is its own: a
            monitor that was accepted then is only warned about.
        layers: the files that ``data`` comes from: a problem names the one that has the value.

    Raises:
        ConfigError: with ``problems`` and every problem found here.
    """
    data = copy.deepcopy(data)
    override_problems = apply_overrides(data, overrides)
    paths = [path for key in LOADER_KEYS for path in _loader_paths(data, key)]
    notes, unsaid = translate_published_file(data, paths)
    blocks, block_problems = _check_blocks(data)
    shape, shape_problems = validate_model(Config, _with_empty_blocks(data))
    loaders = [*blocks["data_loader"], *(blocks["valid_data_loader"] or ())]
    twice, warnings = check_model_input(blocks.get("arch"), loaders, paths, training)
    # A value that could not be read is told once, and not again for being none.
    unread = {path for path, _ in problems if path and find_value(data, path) is None}
    found = [problem for problem in shape_problems + block_problems if problem[0] not in unread]
    found = [*problems, *found, *check_metrics(data.get("metrics"))]
    monitored, monitor_warnings = _check_monitor(data, made_with)
    found += [*monitored, *twice, *unsaid]
    if override_problems or found or shape is None:
        changed = [text.partition("=")[0].strip() for text in overrides]
        raise ConfigError(source, override_problems + _lines(found, layers, changed))
    config = shape.model_copy(update=blocks)
    own_problems = check_architecture(config)
    if own_problems:
        raise ConfigError(source, own_problems)
    _warn(source, data, [*notes, *warnings, *monitor_warnings])
    return config


def _check_blocks(data: dict[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Check every block; returns what a ``Config`` holds in place of the file's objects."""
    blocks: dict[str, Any] = {}
    loaders: dict[str, list[Block | None]] = {key: [] for key in LOADER_KEYS}
    problems: list[Problem] = []
    for path in _block_paths(data):
        value = _at(data, path)
        block, found = check_block(value, path, BLOCKS[path[0]])
        problems += found
        if isinstance(value, dict):
            problems += check_named_args(path[0], value.get("args"), (*path, "args"))
        if path[0] in loaders:
            loaders[path[0]].append(block)
        else:
            blocks[path[0]] = block
    valid = tuple(loaders["valid_data_loader"])
    lists = {"data_loader": tuple(loaders["data_loader"]), "valid_data_loader": valid or None}
    return blocks | lists, problems


def _block_paths(data: dict[str, Any]) -> list[Path]:
    singles = [key for key in BLOCKS if key not in LOADER_KEYS and data.get(key) is not None]
    lists = [path for key in LOADER_KEYS for path in _loader_paths(data, key)]
    return [*((key,) for key in singles), *lists]


def _loader_paths(data: dict[str, Any], key: str) -> list[Path]:
    """Return where the loaders of one of ``LOADER_KEYS`` stand: an object, or items of a list."""
    value = data.get(key)
    if isinstance(value, list):
        return [(key, index) for index in range(len(value))]
    return [] if value is None else [(key,)]


def _at(data: Any, path: Path) -> Any:
    for key in path:
        data = data[key]
    return data


def _with_empty_blocks(data: dict[str, Any]) -> dict[str, Any]:
    """Put empty blocks for the file's, which are checked on their own."""
    empty = {"type": ""}
    shape = {
        key: empty if key in BLOCKS and value is not None else value for key, value in data.items()
    }
    for key in LOADER_KEYS:
        if data.get(key) is not None:
            shape[key] = [empty for _ in _loader_paths(data, key)]
    return shape


def _check_monitor(
    data: dict[str, Any], made_with: dict[str, Any] | None
) -> tuple[list[Problem], list[str]]:
    """Check the monitored name, where what it depends on has a usable form."""
    trainer = data.get("trainer")
    metrics = data.get("metrics", Config.model_fields["metrics"].default)
    if not isinstance(trainer, dict) or not isinstance(metrics, (list, tuple)):
        return [], []
    names = tuple(name for name in metrics if isinstance(name, str))
    before = (made_with or {}).get("trainer")
    accepted = before.get("monitor") if isinstance(before, dict) else None
    paths = _loader_paths(data, "valid_data_loader") or _loader_paths(data, "data_loader")
    return check_monitor(trainer.get("monitor"), len(paths), names, accepted)


def _lines(
    problems: Sequence[Problem], layers: Sequence[Layer], changed: Sequence[str]
) -> list[str]:
    """Return problems as text, in the order in which a configuration is written.

    Args:
        layers: the files, of which all but the first are named where a value of theirs is wrong.
        changed: keys that ``--set`` gave, whose values are in no file.
    """
    order = ["extends", *Config.model_fields]

    def place(problem: Problem) -> int:
        key = str(problem[0][0]) if problem[0] else ""
        return order.index(key) if key in order else -1

    def show(path: Path, text: str) -> str:
        key = join_path(path)
        origin = find_origin(layers, path)
        if (
            origin is None
            or origin == layers[0].file
            or any(f"{key}.".startswith(f"{k}.") for k in changed)
        ):
            return f"{key}: {text}" if path else text
        return f"{key}: {text} (it stands in {origin})"

    return [show(path, text) for path, text in sorted(problems, key=place)]


def _warn(source: str, data: dict[str, Any], warnings: Sequence[str]) -> None:
    schema = Config.model_json_schema()
    idle = list(find_ineffective_keys(schema, data, schema["$defs"]))
    for path in _block_paths(data):
        found = find_ineffective_in_block(_at(data, path), BLOCKS[path[0]])
        idle += [(*path, "args", *where) for where in found]
    if idle:
        names = ", ".join(dict.fromkeys(map(join_path, idle)))
        logger.warning("%s: these keys have no effect any more: %s", source, names)
    for text in warnings:
        logger.warning("%s: %s", source, text)
