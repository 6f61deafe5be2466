"""The schema of the parts that are really registered, as JSON."""

import json
import re
from pathlib import Path

import pytest

import parse_config  # noqa: F401 - registers every part
from base.config import Config, TrainerConfig
from parsing.schema import make_file_schema

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def schema():
    return json.loads(json.dumps(make_file_schema()))


def arguments(schema, key, name):
    """Return the properties of the arguments of a registered part."""
    for case in schema["$defs"][f"{key}_block"]["allOf"]:
        if case["if"]["properties"]["type"]["const"] == name:
            reference = case["then"]["properties"]["args"]["$ref"]
            return schema["$defs"][reference.rsplit("/", 1)[1]]["properties"]
    raise KeyError(name)


def test_top_level(schema):
    assert set(schema["properties"]) == {"$schema", "extends", *Config.model_fields}
    assert schema["additionalProperties"] is False
    trainer = schema["$defs"]["TrainerConfig"]["properties"]
    assert trainer.keys() == TrainerConfig.model_fields.keys()
    assert schema["properties"]["visualizer"]["deprecated"] is True


def test_each_type_has_its_own_arguments(schema):
    adamw, sgd = (arguments(schema, "optimizer", name) for name in ("AdamW", "SGD"))
    assert "betas" in adamw and "betas" not in sgd
    assert "momentum" in sgd and "momentum" not in adamw
    assert "params" not in adamw
    assert adamw["eps"]["default"] == 1e-6
    types = schema["$defs"]["optimizer_block"]["properties"]["type"]["enum"]
    assert {"AdamW", "SGD"} <= set(types)


def test_registered_names_are_listed(schema):
    loader = arguments(schema, "data_loader", "TextVideoDataLoader")
    assert "TextVR" in loader["dataset_name"]["enum"]
    assert "decord" in json.dumps(loader["reader"])
    assert schema["properties"]["metrics"]["items"] == {"enum": ["t2v_metrics", "v2t_metrics"]}


def test_keys_are_required_only_where_nothing_is_extended(schema):
    assert "required" not in schema
    assert schema["if"] == {"not": {"required": ["extends"]}}
    required = [name for name, field in Config.model_fields.items() if field.is_required()]
    assert schema["then"]["required"] == required
    assert schema["then"]["properties"]["trainer"] == {"required": ["epochs"]}
    # StepLR needs step_size, but a file that extends another may leave it to that one.
    assert all("required" not in definition for definition in schema["$defs"].values())


def test_references_resolve(schema):
    used = set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(schema)))
    assert used == set(schema["$defs"])


def test_every_key_is_described(schema):
    bare = [
        f"{where}.{key}"
        for where, item in [("", schema), *schema["$defs"].items()]
        for key, value in item.get("properties", {}).items()
        if not value.get("description")
    ]
    assert bare == []


def test_readme_lists_every_key(schema):
    readme = (ROOT / "configs" / "README.md").read_text(encoding="utf-8")
    objects = [schema, *schema["$defs"].values()]
    keys = {key for item in objects for key in item.get("properties", {})}
    assert {"video_params", "lr", "batch_size", "epochs", "extends"} <= keys
    assert sorted(key for key in keys if f"`{key}`" not in readme) == []
