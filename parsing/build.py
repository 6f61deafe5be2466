"""The whole check of a configuration: JSON values in, ``Config`` or every fault out."""

import copy
import logging
from collections.abc import Sequence
from typing import Any

from base.config import Config, ConfigError
from parsing.blocks import check_block, ineffective_in_block, validate
from parsing.checks import (
    BLOCKS,
    architecture_faults,
    metric_faults,
    monitor_faults,
    named_arg_faults,
    twice_faults,
)
from parsing.faults import Fault, Path, dotted, ineffective_keys
from parsing.file import apply_overrides

logger = logging.getLogger("parse_config")


def build_config(
    data: dict[str, Any], source: str, overrides: Sequence[str], faults: Sequence[Fault]
) -> Config:
    """Apply overrides, check everything, and make the ``Config``.

    Args:
        data: the configuration as JSON values.
        source: what messages call it.
        overrides: ``KEY=VALUE`` texts.
        faults: those found while reading.

    Raises:
        ConfigError: with ``faults`` and every fault found here.
    """
    data = copy.deepcopy(data)
    override_faults = apply_overrides(data, overrides)
    blocks, block_faults = _check_blocks(data)
    shape, shape_faults = validate(Config, _with_empty_blocks(data))
    twice, warnings = twice_faults(blocks.get("arch"), blocks["data_loader"], _loader_paths(data))
    found = [*faults, *shape_faults, *block_faults, *metric_faults(data.get("metrics"))]
    found += [*_monitor_faults(data), *twice]
    if override_faults or found or shape is None:
        raise ConfigError(source, override_faults + _lines(found))
    config = shape.model_copy(update=blocks)
    own_faults = architecture_faults(config)
    if own_faults:
        raise ConfigError(source, own_faults)
    _warn(source, data, warnings)
    return config


def _check_blocks(data: dict[str, Any]) -> tuple[dict[str, Any], list[Fault]]:
    """Check every block; returns what a ``Config`` holds in place of the file's objects."""
    blocks: dict[str, Any] = {}
    loaders = []
    faults: list[Fault] = []
    for path in _block_paths(data):
        value = _at(data, path)
        block, found = check_block(value, path, BLOCKS[path[0]])
        faults += found
        if path[0] == "data_loader":
            loaders.append(block)
            if isinstance(value, dict):
                faults += named_arg_faults(value.get("args"), (*path, "args"))
        else:
            blocks[path[0]] = block
    return blocks | {"data_loader": tuple(loaders)}, faults


def _block_paths(data: dict[str, Any]) -> list[Path]:
    singles = (key for key in BLOCKS if key != "data_loader" and data.get(key) is not None)
    return [*((key,) for key in singles), *_loader_paths(data)]


def _loader_paths(data: dict[str, Any]) -> list[Path]:
    """Return where the loaders stand: one object, or the items of a list."""
    value = data.get("data_loader")
    if isinstance(value, list):
        return [("data_loader", index) for index in range(len(value))]
    return [] if value is None else [("data_loader",)]


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
    if data.get("data_loader") is not None:
        shape["data_loader"] = [empty for _ in _loader_paths(data)]
    return shape


def _monitor_faults(data: dict[str, Any]) -> list[Fault]:
    """Check the monitored name, where what it depends on has a usable form."""
    trainer = data.get("trainer")
    metrics = data.get("metrics", Config.model_fields["metrics"].default)
    if not isinstance(trainer, dict) or not isinstance(metrics, (list, tuple)):
        return []
    names = tuple(name for name in metrics if isinstance(name, str))
    return monitor_faults(trainer.get("monitor"), len(_loader_paths(data)), names)


def _lines(faults: Sequence[Fault]) -> list[str]:
    """Return faults as text, in the order in which a configuration is written."""
    order = ["extends", *Config.model_fields]

    def place(fault: Fault) -> int:
        key = str(fault[0][0])
        return order.index(key) if key in order else -1

    return [f"{dotted(path)}: {text}" for path, text in sorted(faults, key=place)]


def _warn(source: str, data: dict[str, Any], warnings: Sequence[str]) -> None:
    schema = Config.model_json_schema()
    idle = list(ineffective_keys(schema, data, schema["$defs"]))
    for path in _block_paths(data):
        found = ineffective_in_block(_at(data, path), BLOCKS[path[0]])
        idle += [(*path, "args", *where) for where in found]
    if idle:
        names = ", ".join(dict.fromkeys(map(dotted, idle)))
        logger.warning("%s: these keys have no effect any more: %s", source, names)
    for text in warnings:
        logger.warning("%s: %s", source, text)
