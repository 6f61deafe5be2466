"""From a file and the command line to JSON values: reading, ``extends``, ``--set``.

Problems are collected rather than raised where reading can go on, so that the user sees all of
them at once.
"""

import functools
import json
import math
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any

from base.config import LOADER_KEYS, ConfigError
from base.registry import nearest
from parsing.problems import Path, Problem, format_value, join_path

_SET_FORM = "expected KEY=VALUE, for example optimizer.args.lr=1e-4"


class _Pairs(list):
    """The members of a JSON object as they stand in the text, keys written twice included."""


class _NotANumber(str):
    """``NaN``, ``Infinity`` or ``-Infinity``, which JSON does not know."""


def read_config(path: str) -> tuple[dict[str, Any], list[Problem]]:
    """Read a configuration file and what it extends; ``extends`` and ``$schema`` are taken out.

    Raises:
        ConfigError: the file can't be read, or is not a JSON object.
    """
    data, problems = _read_object(path)
    chain, layers = [FilePath(path)], [data]
    while "extends" in layers[-1]:
        parent, problem = _read_parent(chain, layers[-1].pop("extends"))
        if problem:
            problems.append((("extends",), problem))
        layers.append(parent)
    # From the last file on: what a block keeps of its parent depends on what that one kept.
    return functools.reduce(merge_configs, reversed(layers)), problems


def merge_configs(parent: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    """Lay ``child`` over ``parent``: objects are merged, everything else is replaced.

    A block of another ``type`` takes nothing from its parent's ``args``.
    """
    result = dict(parent)
    if "type" in parent and "type" in child and parent["type"] != child["type"]:
        result.pop("args", None)
    for key, value in child.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merge_configs(result[key], value) if both else value
    return result


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> list[str]:
    """Apply ``KEY=VALUE`` texts to ``data``, in order; returns the problems of those left out."""
    problems = []
    for text in overrides:
        key, equals, value_text = text.partition("=")
        keys = key.strip().split(".")
        if not equals or not all(keys):
            problems.append(f"--set {text}: {_SET_FORM}")
            continue
        value, value_problems = _override_value(value_text)
        if value_problems:
            problems += [f"--set {text}: {problem}" for _, problem in value_problems]
            continue
        problem = _assign(data, keys, value)
        if problem:
            problems.append(f"--set {text}: {problem}")
    return problems


def to_plain_values(value: Any, path: Path = ()) -> tuple[Any, list[Problem]]:
    """Turn parsed JSON into plain values; what JSON forbids or no float can hold is a problem."""
    if isinstance(value, _Pairs):
        result: dict[str, Any] = {}
        problems: list[Problem] = []
        for key, member in value:
            if key in result:
                problems.append(((*path, key), "written twice; keep one of them"))
            result[key], found = to_plain_values(member, (*path, key))
            problems += found + _bad_text(key, (*path, key))
        return result, problems
    if isinstance(value, list):
        items = [to_plain_values(item, (*path, index)) for index, item in enumerate(value)]
        return [item for item, _ in items], [problem for _, found in items for problem in found]
    if isinstance(value, _NotANumber) or isinstance(value, float) and not math.isfinite(value):
        name = str(value) if isinstance(value, _NotANumber) else "a number this large"
        return None, [(path, f"expected a finite number, got {name}")]
    return value, _bad_text(value, path)


def parse_json(text: str) -> Any:
    """Parse JSON so that ``to_plain_values`` can find what a lenient parser lets through."""
    return json.loads(text, object_pairs_hook=_Pairs, parse_constant=_NotANumber)


def _bad_text(value: Any, path: Path) -> list[Problem]:
    if isinstance(value, str) and any("\ud800" <= char <= "\udfff" for char in value):
        return [(path, "holds half a character (a lone surrogate); write the whole character")]
    return []


def _read_object(path: str) -> tuple[dict[str, Any], list[Problem]]:
    file = FilePath(path)
    try:
        # utf-8-sig: editors on Windows may write a byte-order mark.
        value, problems = to_plain_values(parse_json(file.read_text(encoding="utf-8-sig")))
    except FileNotFoundError:
        raise ConfigError(path, ["no such file" + _nearest_file(file)]) from None
    except IsADirectoryError:
        raise ConfigError(path, ["is a folder; give a JSON file in it"]) from None
    except OSError as error:
        raise ConfigError(path, [f"can't be read: {error.strerror}"]) from None
    except UnicodeDecodeError as error:
        text = f"not UTF-8 text (byte {error.start}); save it as UTF-8"
        raise ConfigError(path, [text]) from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        text = f"not JSON: {error.msg} at {where}; look there for a comma, quote or bracket"
        raise ConfigError(path, [text]) from None
    except RecursionError:
        raise ConfigError(path, ["nested too deeply; a configuration is a few levels"]) from None
    except ValueError as error:  # an integer of thousands of digits
        raise ConfigError(path, [f"not usable JSON: {error}"]) from None
    if not isinstance(value, dict):
        text = f'expected a JSON object, {{"name": ..., ...}}, got {format_value(value)}'
        raise ConfigError(path, [text])
    value.pop("$schema", None)
    return value, problems


def _nearest_file(file: FilePath) -> str:
    folder = file.parent
    if not folder.is_dir():
        return f"; the folder {folder} does not exist (paths are relative to the current folder)"
    names = [str(folder / found.name) for found in folder.glob("*.json")]
    return nearest(str(file), names) or f"; {folder} holds no JSON file"


def _read_parent(chain: list[FilePath], name: Any) -> tuple[dict[str, Any], str | None]:
    """Return what the last file of a chain extends, or an empty object and the problem.

    Args:
        chain: the files that extend each other so far; the one that is read is appended.
        name: what the last of them gives as ``extends``.
    """
    if not isinstance(name, str) or not name:
        text = f"expected the name of a file beside this one, got {format_value(name)}"
        return {}, _show_chain(chain) + text
    file = chain[-1].parent / name
    known = [other.resolve() for other in chain]
    chain.append(file)
    if file.resolve() in known:
        if len(chain) == 2:
            return {}, "the file extends itself; remove the key or name another file"
        text = "the files extend each other in a circle; remove the key from one of them"
        return {}, _show_chain(chain) + text
    try:
        parent, problems = _read_object(str(file))
    except ConfigError as error:
        return {}, f"{_show_chain(chain)}{file} {error.problems[0]}"
    found = "; ".join(f"{file} {join_path(where)}: {text}" for where, text in problems)
    return parent, _show_chain(chain) + found if found else None


def _show_chain(chain: Sequence[FilePath]) -> str:
    """Say by which files a file was come to; "" where it is the first or what that one extends."""
    if len(chain) <= 2:
        return ""
    return " extends ".join(str(file) for file in chain) + ": "


def _override_value(text: str) -> tuple[Any, list[Problem]]:
    try:
        return to_plain_values(parse_json(text))
    except (ValueError, RecursionError):
        return to_plain_values(text)  # so that names and paths need no quotes


def _assign(data: Any, keys: Sequence[str], value: Any) -> str | None:
    """Set a value in place; returns a problem, and changes nothing then."""
    for depth, key in enumerate(keys):
        where, last = join_path(keys[:depth]), depth == len(keys) - 1
        if isinstance(data, list):
            if not (key.isdecimal() and int(key) < len(data)):
                return _describe_bad_index(where, key, keys[depth:], len(data))
            index: Any = int(key)
        elif isinstance(data, dict):
            if key == "0" and where in LOADER_KEYS and "type" in data and not last:
                continue  # a single loader is the first of the list it could be
            index = key
        else:
            return f"{where} is {format_value(data)}, which has no member {key}"
        if last:
            data[index] = value
        elif isinstance(data, dict):
            if data.get(index) is None:  # null stands for an object's defaults
                data[index] = {}
            data = data[index]
        else:
            data = data[index]
    return None


def _describe_bad_index(where: str, key: str, rest: Sequence[str], length: int) -> str:
    if key.lstrip("-").isdecimal():
        return f"{where} has {length} entries, numbered from 0; got {key}"
    example = join_path([where, "0", *rest])
    return f"{where} is a list of {length}; name the entry by its number: {example}"
