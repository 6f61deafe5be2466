"""Checking of ``{"type", "args"}`` blocks against the signatures of what is registered."""

import collections.abc
import copy
import dataclasses
import enum
import functools
import inspect
import json
import operator
import pathlib
import re
import types
import typing
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, Field, ValidationError, create_model

from base.config import Block, ConfigModel
from base.registry import Entry, Registry, UnknownNameError, nearest
from parsing.problems import Path, Problem, find_ineffective_keys, find_problems, format_value

_PLAIN = (bool, int, float, str, list, tuple, dict, type(None), pathlib.Path)
# torch imports these for type checkers only, so its annotations can't name them by themselves.
_TYPING_NAMES = {
    name: getattr(collections.abc, name) for name in ("Callable", "Iterable", "Mapping", "Sequence")
}


def check_block(data: Any, path: Path, registry: Registry) -> tuple[Block | None, list[Problem]]:
    """Check a block of a file.

    Returns:
        The block with all defaults, and its problems. With problems the block holds what is left
        without the invalid values, for further checks, or is None where that is not enough.
    """
    if not isinstance(data, dict):
        wanted = 'expected an object with "type" and "args"'
        return None, [(path, f"{wanted}, got {format_value(data)}")]
    problems: list[Problem] = [
        ((*path, key), "unknown key" + nearest(key, ("type", "args")))
        for key in data
        if key not in ("type", "args")
    ]
    args = data.get("args", {})
    if not isinstance(args, dict):
        problems.append(((*path, "args"), f"expected an object, got {format_value(args)}"))
    name = data.get("type")
    if not isinstance(name, str):
        wanted = f"expected the name of a registered {registry.kind}{_choice(registry)}"
        text = f"{wanted}, got {format_value(name)}" if "type" in data else f"missing; {wanted}"
        return None, [*problems, ((*path, "type"), text)]
    try:
        model = make_args_model(registry.entry(name))
    except UnknownNameError as error:
        return None, [*problems, ((*path, "type"), str(error))]
    if not isinstance(args, dict):
        return None, problems
    checked, arg_problems = validate_model(model, args)
    if checked is None:
        checked, _ = validate_model(model, _without(args, [where for where, _ in arg_problems]))
    problems += [((*path, "args", *where), text) for where, text in arg_problems]
    return (None if checked is None else Block(type=name, args=checked)), problems


def find_ineffective_in_block(data: Any, registry: Registry) -> list[Path]:
    """Return the paths under ``args`` that a valid block sets without any effect."""
    schema = make_args_model(registry.entry(data["type"])).model_json_schema()
    return list(find_ineffective_keys(schema, data.get("args", {}), schema.get("$defs", {})))


def validate_model(model: type[ConfigModel], data: Any) -> tuple[ConfigModel | None, list[Problem]]:
    """Validate JSON values; returns the model, or None and what is wrong."""
    try:
        # As JSON text, because only then does strict pydantic take a list for a tuple.
        return model.model_validate_json(json.dumps(data), strict=True), []
    except ValidationError as error:
        return None, find_problems(error, model, data)


def _without(data: dict[str, Any], paths: Sequence[Path]) -> dict[str, Any]:
    """Return a copy less the object members at ``paths``; items of lists stay."""
    data = copy.deepcopy(data)
    for path in paths:
        node: Any = data
        for key in path[:-1]:
            node = node[key]
        if isinstance(node, dict):
            node.pop(path[-1], None)
    return data


@functools.cache
def make_args_model(entry: Entry) -> type[ConfigModel]:
    """Make a model from the signature of a registered class or function.

    Parameters that the program provides, ``*args`` and ``**kwargs`` are no fields.
    """
    signature = inspect.signature(entry.target, eval_str=True, locals=dict(_TYPING_NAMES))
    descriptions = _described_arguments(entry.target)
    fields: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if variadic or name in entry.provided:
            continue
        annotation = _json_annotation(parameter.annotation) or Any
        if name in descriptions and "description" not in _field_settings(annotation):
            annotation = Annotated[annotation, Field(description=descriptions[name])]
        required = parameter.default is parameter.empty
        fields[name] = (annotation, ... if required else parameter.default)
    return create_model(f"{entry.target.__name__}Args", __base__=ConfigModel, **fields)


def _choice(registry: Registry) -> str:
    return " (" + ", ".join(map(format_value, registry.names())) + ")"


def _field_settings(annotation: Any) -> dict[str, Any]:
    """Return what pydantic ``Field``s in an ``Annotated`` set."""
    found: dict[str, Any] = {}
    for item in getattr(annotation, "__metadata__", ()):
        found |= getattr(item, "_attributes_set", {})
    return found


def _described_arguments(target: Callable[..., Any]) -> dict[str, str]:
    """Read the "Args:" section of a docstring (Google style): name -> text."""
    section = re.search(
        r"^Args:\n((?:[ \t]+.*\n?|\n)+)", inspect.getdoc(target) or "", flags=re.MULTILINE
    )
    if not section:
        return {}
    entries = re.findall(
        r"^ {4}(\w+)(?: \([^\n]*?\))?: (.+(?:\n {5,}.+)*)", section[1], flags=re.MULTILINE
    )
    return {name: " ".join(text.split()) for name, text in entries}


def _json_annotation(annotation: Any) -> Any:
    """Return the part of an annotation that a JSON value can satisfy, or None for none of it.

    ``float | Tensor`` becomes ``float``; a bare ``Callable`` is nothing a file can give.
    """
    if annotation in (inspect.Parameter.empty, Any):
        return Any
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        inner = _json_annotation(arguments[0])
        return inner and Annotated[(inner, *arguments[1:])]
    if origin in (Union, types.UnionType):
        members = [m for m in map(_json_annotation, arguments) if m is not None]
        return functools.reduce(operator.or_, members) if members else None
    if origin is Literal or annotation in _PLAIN:
        return annotation
    if origin in (collections.abc.Iterable, collections.abc.Sequence):
        origin = list
    if origin is collections.abc.Mapping:
        origin = dict
    if origin in (list, tuple, dict):
        inner = tuple(a if a is ... else _json_annotation(a) for a in arguments)
        return None if None in inner else origin[inner]
    if isinstance(annotation, type) and (
        issubclass(annotation, (BaseModel, enum.Enum)) or dataclasses.is_dataclass(annotation)
    ):
        return annotation
    return None
