"""From what pydantic says about a JSON value to one plain sentence for each problem.

What was expected is read from the model's JSON Schema, so that a sentence says the same as
``configs/schema.json``.
"""

import functools
import json
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from base.config import has_no_effect
from base.registry import nearest

Path = tuple[str | int, ...]  # ("data_loader", 0, "args", "batch_size")
Problem = tuple[Path, str]  # where, and what to mend
Schema = dict[str, Any]

_UNKNOWN_KEY = ("extra_forbidden", "unexpected_keyword_argument")
_MISSING = ("missing", "missing_argument", "missing_keyword_only_argument")
_OWN_TEXT = ("value_error", "assertion_error")
_JSON_TYPES = {
    "string": "text",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
    "object": "an object",
    "array": "a list",
}


def join_path(path: Sequence[str | int]) -> str:
    """Return a path as ``--set`` takes it."""
    return ".".join(map(str, path))


def format_value(value: Any) -> str:
    """Return a value as JSON, cut short."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def describe_expected(schema: Schema, definitions: Schema) -> str:
    """Say in words what a JSON Schema accepts."""
    schema = _dereferenced(schema, definitions)
    if "anyOf" in schema:
        return " or ".join(
            dict.fromkeys(describe_expected(s, definitions) for s in schema["anyOf"])
        )
    if "const" in schema:
        return format_value(schema["const"])
    if "enum" in schema:
        names = ", ".join(map(format_value, schema["enum"]))
        return names if len(schema["enum"]) == 1 else "one of " + names
    if schema.get("type") == "array":
        return _expected_list(schema, definitions)
    if schema.get("type") == "object" and schema.get("properties"):
        return "an object with " + ", ".join(f'"{name}"' for name in schema["properties"])
    words = _JSON_TYPES.get(schema.get("type", ""), "a value")
    limits = [
        f"{word} {schema[key]}"
        for key, word in (
            ("minimum", "of at least"),
            ("exclusiveMinimum", "above"),
            ("maximum", "of at most"),
            ("exclusiveMaximum", "below"),
        )
        if key in schema
    ]
    if schema.get("minLength") == 1:
        limits.append("that is not empty")
    return " ".join([words, " and ".join(limits)]).rstrip()


def _expected_list(schema: Schema, definitions: Schema) -> str:
    if "prefixItems" in schema:
        items = ", ".join(describe_expected(s, definitions) for s in schema["prefixItems"])
        return f"a list of {len(schema['prefixItems'])} ({items})"
    least = f" of at least {schema['minItems']}" if schema.get("minItems") else ""
    item = schema.get("items") or {}
    return f"a list{least}" + (f" (each {describe_expected(item, definitions)})" if item else "")


def find_problems(error: ValidationError, model: type[BaseModel], data: Any) -> list[Problem]:
    """Return a problem for each path that ``error`` names; ``data`` is what was validated."""
    schema = _get_schema(model)
    definitions = schema.get("$defs", {})
    problems: dict[Path, str] = {}
    for item in error.errors(include_url=False):
        missing = item["type"] in _MISSING
        path = _path_in(data, item["loc"][:-1] if missing else item["loc"])
        if missing:
            path += (item["loc"][-1],)
        if path not in problems:  # a union gives one error for each of its members
            problems[path] = _sentence(item, path, data, schema, definitions)
    # An object that one member of a union accepts and finds a problem in is no problem as a whole.
    parents = {path[:length] for path in problems for length in range(len(path))}
    return [(path, text) for path, text in problems.items() if path not in parents]


@functools.cache
def _get_schema(model: type[BaseModel]) -> Schema:
    return model.model_json_schema()


def _sentence(item: Any, path: Path, data: Any, schema: Schema, definitions: Schema) -> str:
    if item["type"] in _OWN_TEXT:
        return str(item["ctx"]["error"])
    if item["type"] in _UNKNOWN_KEY:
        parents = _nodes(schema, path[:-1], definitions)
        names = [name for node in parents for name in node.get("properties", {})]
        return "unknown key" + (nearest(str(path[-1]), names) or "; none is accepted here")
    forms = [describe_expected(node, definitions) for node in _at(schema, path, definitions)]
    wanted = " or ".join(dict.fromkeys(forms)) or item["msg"]
    if item["type"] in _MISSING:
        return f"missing; expected {wanted}"
    return f"expected {wanted}, got {format_value(_value(data, path))}"


def find_ineffective_keys(schema: Schema, data: Any, definitions: Schema) -> Iterator[Path]:
    """Yield the paths of ``data`` that are set and marked ``NO_EFFECT``."""
    if isinstance(data, dict):
        members = list(data.items())
    else:
        members = list(enumerate(data)) if isinstance(data, list) else []
    for key, value in members:
        for child in _at(schema, (key,), definitions):
            if has_no_effect(child):
                yield (key,)
            else:
                for rest in find_ineffective_keys(child, value, definitions):
                    yield (key, *rest)


def _path_in(data: Any, location: Sequence[str | int]) -> Path:
    """Drop from pydantic's location what is not in the data: the names of a union's members."""
    path: list[str | int] = []
    for key in location:
        if isinstance(data, dict) and key in data or _indexes(data, key):
            path.append(key)
            data = data[key]
    return tuple(path)


def _indexes(data: Any, key: str | int) -> bool:
    return isinstance(data, list) and isinstance(key, int) and key < len(data)


def _value(data: Any, path: Path) -> Any:
    for key in path:
        data = data[key]
    return data


def _dereferenced(schema: Schema, definitions: Schema) -> Schema:
    while "$ref" in schema:
        schema = definitions[schema["$ref"].rsplit("/", 1)[1]]
    return schema


def _members(schema: Schema, definitions: Schema) -> list[Schema]:
    """Return the alternatives of a schema."""
    schema = _dereferenced(schema, definitions)
    if "anyOf" in schema:
        return [m for s in schema["anyOf"] for m in _members(s, definitions)]
    return [schema]


def _child(schema: Schema, key: str | int) -> Schema | None:
    """Return the schema of a member or item, or None where any value is accepted."""
    if isinstance(key, int):
        prefix = schema.get("prefixItems", [])
        found = prefix[key] if key < len(prefix) else schema.get("items")
    else:
        found = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
    return found if isinstance(found, dict) else None


def _at(schema: Schema, path: Path, definitions: Schema) -> list[Schema]:
    """Return the schemas for the value at ``path``, one for each way through unions."""
    nodes = [schema]
    for key in path:
        members = [m for node in nodes for m in _members(node, definitions)]
        nodes = [c for c in (_child(m, key) for m in members) if c is not None]
    return nodes


def _nodes(schema: Schema, path: Path, definitions: Schema) -> list[Schema]:
    return [m for node in _at(schema, path, definitions) for m in _members(node, definitions)]
