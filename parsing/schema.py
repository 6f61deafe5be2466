"""The JSON Schema of configuration files, so that editors complete and check keys."""

from typing import Any

from pydantic.json_schema import models_json_schema

from base.config import LOADER_KEYS, Config, ConfigModel
from base.registry import METRICS
from parsing.blocks import make_args_model
from parsing.checks import BLOCKS, NAMED_ARGS

_DRAFT = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]


def make_file_schema() -> Schema:
    """Return the JSON Schema (draft 2020-12) of a configuration file.

    A file that extends another one may hold any part of a configuration, so keys are required
    only at the top, of blocks and of ``trainer``, and only in files that extend none.
    """
    models: dict[tuple[str, str], type[ConfigModel]] = {
        (key, name): make_args_model(registry.entry(name))
        for key, registry in BLOCKS.items()
        if key not in LOADER_KEYS[1:]  # the same blocks
        for name in registry.names()
    }
    # One call for all of them, because it keeps apart models of the same name.
    all_models = [(model, "validation") for model in dict.fromkeys([Config, *models.values()])]
    references, whole = models_json_schema(all_models)
    definitions = whole["$defs"]
    for name, definition in definitions.items():
        _drop_titles(definition)
        if name not in ("Config", "TrainerConfig"):
            definition.pop("required", None)
    root = definitions.pop(_name(references[(Config, "validation")]))
    definitions.pop("Block")
    for key in BLOCKS:
        of_key = {n: references[(m, "validation")] for (k, n), m in models.items() if k == key}
        if of_key:
            definitions[f"{key}_block"] = _block(of_key)
        _set_block(root["properties"], key)
    for (kind, _), model in models.items():
        for key, registry in NAMED_ARGS.get(kind, {}).items():
            name, _, member = key.partition(".")
            if name not in model.model_fields:
                continue
            owner = definitions[_name(references[(model, "validation")])]
            if member:
                owner, name = definitions[model.model_fields[name].annotation.__name__], member
            _add_names(owner["properties"][name], [*registry.names(), *sorted(registry.published)])
    root["properties"]["metrics"]["items"] = {"enum": METRICS.names()}
    return _with_file_keys(root, definitions)


def _with_file_keys(root: Schema, definitions: Schema) -> Schema:
    """Add what only files have, and require keys where the file extends none."""
    required = root.pop("required")
    trainer = definitions["TrainerConfig"]
    trainer_keys = trainer.pop("required")
    properties = {
        "$schema": {"type": "string", "description": "For editors: schema.json."},
        "extends": {
            "type": "string",
            "description": "File that this one changes, relative to this one. Objects are merged, "
            "everything else is replaced; to any depth.",
        },
        **root["properties"],
    }
    blocks = {key: {"required": ["type"]} for key in BLOCKS if key in required}
    blocks["data_loader"] = {"if": {"type": "object"}, "then": blocks["data_loader"]}
    return {
        "$schema": _DRAFT,
        "title": "TextVR configuration",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "if": {"not": {"required": ["extends"]}},
        "then": {
            "required": required,
            "properties": {**blocks, "trainer": {"required": trainer_keys}},
        },
        "$defs": definitions,
    }


def _block(args: dict[str, Schema]) -> Schema:
    """Return the schema of a block, given that of each type's arguments."""
    return {
        "type": "object",
        "properties": {
            "type": {"enum": list(args), "description": "Registered name of the part."},
            "args": {"type": "object", "description": "Arguments of the part."},
        },
        "additionalProperties": False,
        "allOf": [
            {
                "if": {"properties": {"type": {"const": name}}, "required": ["type"]},
                "then": {"properties": {"args": reference}},
            }
            for name, reference in args.items()
        ],
    }


def _set_block(properties: Schema, key: str) -> None:
    is_list, nullable = key in LOADER_KEYS, "anyOf" in properties[key]
    block: Schema = {"$ref": f"#/$defs/{LOADER_KEYS[0] if is_list else key}_block"}
    choices = [block, {"type": "array", "minItems": 1, "items": block}] if is_list else [block]
    choices += [{"type": "null"}] if nullable else []
    reference = {"anyOf": choices} if len(choices) > 1 else block
    kept = {k: properties[key][k] for k in ("description", "default") if k in properties[key]}
    properties[key] = {**reference, **kept}


def _add_names(schema: Schema, names: list[str]) -> None:
    """Allow only registered names where a schema allows text."""
    for member in schema.get("anyOf", [schema]):
        if member.get("type") == "string":
            member["enum"] = names


def _drop_titles(definition: Schema) -> None:
    """Drop titles, which repeat the keys."""
    definition.pop("title", None)
    for schema in definition.get("properties", {}).values():
        schema.pop("title", None)


def _name(reference: Schema) -> str:
    return reference["$ref"].rsplit("/", 1)[1]
