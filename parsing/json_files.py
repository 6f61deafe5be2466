"""From a file and the command line to JSON values: reading, ``extends``, ``--set``.

Problems are collected rather than raised where reading can go on, so that the user sees all of
them at once.
"""

import functools
import json
import math
import os
import stat
from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import Any, NamedTuple

from base.config import LOADER_KEYS, ConfigError
from base.registry import nearest
from parsing.problems import Path, Problem, format_value, join_path
from utils.errors import is_printable, shorten
from utils.files import TextFileError, decode_text

_SET_FORM = "expected KEY=VALUE, for example optimizer.args.lr=1e-4"
# Of a file: a hundred times what the largest configuration has, and little enough to check each.
_MAX_BYTES = 1_000_000
_MAX_VALUES = 10_000
_MAX_DEPTH = 50
_MAX_FILES = 50  # that extend each other
_MAX_DIGITS = 18  # of an integer: what 64 bits hold
_MAX_SHOWN = 200  # characters of a change


_MISSING = object()


class _Pairs(list):
    """The members of a JSON object as they stand in the text, keys written twice included."""


class _NotANumber(str):
    """What stands for a number and is none that is usable, as messages say it."""


class Layer(NamedTuple):
    """A file of a configuration, and what stands in it."""

    file: str
    data: dict[str, Any]


def read_config(path: str) -> tuple[dict[str, Any], list[Problem]]:
    """Read a configuration file and what it extends; ``extends`` and ``$schema`` are taken out.

    Raises:
        ConfigError: the file can't be read, or is not a JSON object.
    """
    layers, problems = read_layers(path)
    return merge_layers(layers), problems


def read_layers(path: str) -> tuple[list[Layer], list[Problem]]:
    """Read a configuration file and what it extends, each on its own, in this order.

    Raises:
        ConfigError: the file can't be read, or is not a JSON object.
    """
    data, problems = _read_object(path)
    layers = [Layer(path, data)]
    while "extends" in layers[-1].data:
        parent, problem = _read_parent(layers, layers[-1].data.pop("extends"))
        if problem:
            problems.append((("extends",), problem))
        if parent is None:
            break
        layers.append(parent)
    return layers, problems


def merge_layers(layers: Sequence[Layer]) -> dict[str, Any]:
    """Lay each file over the one that it extends."""
    # From the last file on: what a block keeps of its parent depends on what that one kept.
    return functools.reduce(merge_configs, (layer.data for layer in reversed(layers)))


def find_origin(layers: Sequence[Layer], path: Path) -> str | None:
    """Return the first of the files that has a value at ``path``; None: none has."""
    return next(
        (file for file, data in layers if find_value(data, path, _MISSING) is not _MISSING), None
    )


def find_value(data: Any, path: Path, default: Any = None) -> Any:
    """Return the value at a path, or ``default`` where there is none."""
    for key in path:
        try:
            data = data[key]
        except (KeyError, IndexError, TypeError):
            return default
    return data


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
    problems: list[str] = []
    for text in overrides:
        key, equals, value_text = text.partition("=")
        keys = key.strip().split(".")
        said = f"--set {shorten(text, _MAX_SHOWN)}: "
        if not equals or not all(keys) or len(keys) > _MAX_DEPTH or not is_printable(key):
            problems.append(said + _SET_FORM)
            continue
        value, value_problems = _override_value(value_text)
        if value_problems:
            problems += [said + problem for _, problem in value_problems]
            continue
        problem = _assign(data, keys, value)
        if problem:
            problems.append(said + problem)
    return problems


def to_plain_values(value: Any) -> tuple[Any, list[Problem]]:
    """Turn parsed JSON into plain values; what can't be used is a problem, and None."""
    problems: list[Problem] = []
    num_values = 0

    def convert(value: Any, path: Path) -> Any:
        nonlocal num_values
        num_values += 1
        if num_values > _MAX_VALUES:
            return None
        if isinstance(value, (_Pairs, list)) and len(path) >= _MAX_DEPTH:
            problems.append((path[:3], "nested too deeply; a configuration is a few levels"))
            return None
        if isinstance(value, _Pairs):
            result: dict[str, Any] = {}
            for key, member in value:
                if key in result:
                    problems.append(((*path, key), "written twice; keep one of them"))
                if check_text(key, (*path, key)):
                    result[key] = convert(member, (*path, key))
            return result
        if isinstance(value, list):
            return [convert(item, (*path, index)) for index, item in enumerate(value)]
        if isinstance(value, _NotANumber) or isinstance(value, float) and not math.isfinite(value):
            name = str(value) if isinstance(value, _NotANumber) else "a number this large"
            problems.append((path, f"expected a finite number, got {name}"))
            return None
        return value if check_text(value, path) else None

    def check_text(value: Any, path: Path) -> bool:
        if not isinstance(value, str) or is_printable(value):
            return True
        half = any("\ud800" <= char <= "\udfff" for char in value)
        what = (
            "half a character (a lone surrogate); write the whole character"
            if half
            else "a control character; write plain text"
        )
        problems.append((path, f"holds {what}"))
        return False

    result = convert(value, ())
    if num_values > _MAX_VALUES:
        return None, [((), f"more than {_MAX_VALUES:,} values; a configuration has a few dozen")]
    return result, problems


def parse_json(text: str) -> Any:
    """Parse JSON so that ``to_plain_values`` can find what a lenient parser lets through."""
    return json.loads(
        text, object_pairs_hook=_Pairs, parse_constant=_NotANumber, parse_int=_parse_integer
    )


def _parse_integer(text: str) -> int | _NotANumber:
    if len(text.lstrip("-")) <= _MAX_DIGITS:
        return int(text)
    return _NotANumber("an integer this large")


def _read_object(path: str) -> tuple[dict[str, Any], list[Problem]]:
    file = FilePath(path)
    try:
        with file.open("rb") as opened:
            content = opened.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ConfigError(path, [f"has more than {_MAX_BYTES:,} bytes, no configuration has"])
        parsed = parse_json(decode_text(content, path))
        value, problems = to_plain_values(parsed)
    except FileNotFoundError:
        raise ConfigError(path, ["no such file" + _nearest_file(file)]) from None
    except IsADirectoryError:
        raise ConfigError(path, ["is a folder; give a JSON file in it"]) from None
    except OSError as error:
        raise ConfigError(path, [f"can't be read: {error.strerror}"]) from None
    except TextFileError as error:
        raise ConfigError(path, [error.reason]) from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        text = f"not JSON: {error.msg} at {where}; look there for a comma, quote or bracket"
        raise ConfigError(path, [text]) from None
    except RecursionError:
        raise ConfigError(path, ["nested too deeply; a configuration is a few levels"]) from None
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(path, [f"can't be read: {error}"]) from None  # a name that no file has
    if isinstance(parsed, _Pairs) and value is None:
        raise ConfigError(path, [text for _, text in problems])
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


def _read_parent(layers: Sequence[Layer], name: Any) -> tuple[Layer | None, str | None]:
    """Return the file that the last of ``layers`` extends, or None, and what is wrong with it.

    Args:
        layers: the files that extend each other so far.
        name: what the last of them gives as ``extends``.
    """
    files = [FilePath(layer.file) for layer in layers]
    if not isinstance(name, str) or not name:
        text = f"expected the name of a file beside this one, got {format_value(name)}"
        return None, _show_chain(files) + text
    file = files[-1].parent / name
    files.append(file)
    if any(_is_same_file(file, other) for other in files[:-1]):
        if len(files) == 2:
            return None, "the file extends itself; remove the key or name another file"
        text = "the files extend each other in a circle; remove the key from one of them"
        return None, _show_chain(files) + text
    if len(files) > _MAX_FILES:
        return None, f"more than {_MAX_FILES} files extend each other, the last is {file}"
    try:
        # The file that was given may be a pipe; one that a file names may wait without end.
        if not stat.S_ISREG(os.stat(file).st_mode) and not file.is_dir():
            return None, f"{_show_chain(files)}{file} is no regular file"
    except (OSError, ValueError):  # reading it says why
        pass
    try:
        parent, problems = _read_object(str(file))
    except ConfigError as error:
        return None, f"{_show_chain(files)}{file} {error.problems[0]}"
    found = "; ".join(f"{file} {join_path(where)}: {text}" for where, text in problems)
    return Layer(str(file), parent), _show_chain(files) + found if found else None


def _is_same_file(one: FilePath, other: FilePath) -> bool:
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):  # one is missing, or a link to itself: reading it says so
        return False


def _show_chain(files: Sequence[FilePath]) -> str:
    """Say by which files a file was come to; "" where it is the first or what that one extends."""
    if len(files) <= 2:
        return ""
    return " extends ".join(str(file) for file in files) + ": "


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
