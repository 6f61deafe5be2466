"""Configurations of any content end in a ``Config`` or in one message that names the file."""

import copy
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parse_config import load_config, resolve_config
from tests.conftest import ROOT
from tests.fuzz.fuzzing import end_well, fuzz, time_limit

pytestmark = pytest.mark.slow
MAX_CHARACTERS = 10_000  # of a message: a configuration's problems are listed
CASE_S = 10.0
FILES = sorted(
    file for file in (*ROOT.glob("configs/*.json"), *ROOT.glob("configs/demo/*.json"))
    if file.name != "schema.json"
)  # fmt: skip
NAMES = [
    *"type args extends $schema name arch data_loader lr 0 trainer metrics dataset_name".split(),
    *("", "a" * 5000, "\ud83d", "\x1b[31m", "__class__", "valid_data_loader"),
]
FRAGMENTS = [
    *(b'"a\\ud83d"', b"9" * 5000, b"1e999", b"NaN", b"[" * 500, b"\xff\xfe", b'"x":', b"\0"),
]
numbers = st.one_of(
    st.integers(),
    st.sampled_from([0, -1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 10**4200]),
    st.floats(),
    st.sampled_from([1e308, -1e308, 5e-324, -0.0, math.nan, math.inf]),
)
texts = st.one_of(
    st.text(max_size=30),
    st.text(st.characters(codec=None, categories=["Cs", "Cc", "Cf", "Co"]), max_size=5),
    st.sampled_from(
        ["", " ", "/dev/zero", "/", "..", "a" * 300, "a\x00b", "a" * 100_000, "\ud83d", "a\udcff",
         "\x1b]0;owned\x07", "max val_0_t2v_metrics_R1", "min \ud83d", "off", "NaN", "~", "{}",
         "configs/TextVR_fusion.json", "TextVR_fusion.json", "FrozenInTime", "${x}", "%s%n"]
    ),
    st.sampled_from(NAMES),
)  # fmt: skip
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
keys = st.one_of(st.sampled_from(NAMES), st.text(max_size=10), texts)
small = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=8,
)


@dataclass(frozen=True)
class Large:
    """A value that is made where it is written: Hypothesis keeps those that it draws."""

    kind: str
    size: int
    item: Any = 0

    def make(self) -> Any:
        if self.kind == "same items":
            return [self.item] * self.size
        if self.kind == "texts":
            return [str(number) for number in range(self.size)]
        if self.kind == "members":
            return {str(number): number for number in range(self.size)}
        if self.kind == "blocks":
            return [{"type": number} for number in range(self.size)]
        value: Any = 1
        for number in range(self.size % 1_000):  # nested
            value = [value] if number % 2 else {"args": value}
        return value


sizes = st.sampled_from([30, 100, 220, 900, 3_000, 60_000])
kinds = st.sampled_from(["same items", "texts", "members", "blocks", "nested"])
values = st.one_of(small, small, small, st.builds(Large, kinds, sizes, scalars))


def dump(value: Any, ensure_ascii: bool = True) -> bytes:
    text = json.dumps(value, ensure_ascii=ensure_ascii, default=Large.make)
    return text.encode("utf-8", "surrogatepass")


def list_places(value: Any, path: tuple = ()) -> list[tuple]:
    """Return the paths of all members and items of a JSON value."""
    found = []
    members = value.items() if isinstance(value, dict) else enumerate(value)
    for key, member in members:
        found.append((*path, key))
        if isinstance(member, (dict, list)):
            found += list_places(member, (*path, key))
    return found


def mutate(draw: Any, data: dict[str, Any]) -> dict[str, Any]:
    """Change, delete, add or move some values of a configuration."""
    for _ in range(draw(st.integers(1, 3))):
        places = list_places(data)
        if not places:
            break
        *parents, last = draw(st.sampled_from(places))
        node: Any = data
        for key in parents:
            node = node[key]
        kind = draw(st.sampled_from(["set", "set", "set", "delete", "add", "copy"]))
        if kind == "delete":
            del node[last]
        elif kind == "add" and isinstance(node, dict):
            node[draw(keys)] = draw(values)
        elif kind == "copy" and isinstance(node, dict):
            node[draw(keys)] = copy.deepcopy(node)
        else:
            node[last] = draw(values)
    return data


@st.composite
def changed_files(draw: Any) -> tuple[str, dict[str, Any]]:
    """Name of a shipped configuration, and one that is like it."""
    file = draw(st.sampled_from(FILES))
    return file.name, mutate(draw, json.loads(file.read_text()))


# Where a text is changed, from 0 to 1; what is done there, and with what.
edits = st.tuples(
    st.floats(0, 1),
    st.sampled_from(["insert", "cut", "drop", "replace"]),
    st.one_of(st.binary(max_size=4), st.sampled_from(FRAGMENTS)),
)


def edit(text: bytes, where: float, kind: str, own: bytes) -> bytes:
    """Change a text at one place, of which nothing is known."""
    start = round(where * len(text))
    if kind == "cut":
        return text[:start]
    kept = text[start + (0 if kind == "insert" else max(1, len(own))) :]
    return text[:start] + (b"" if kind == "drop" else own) + kept


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Copies of the shipped configurations, which the mutated ones may extend."""
    folder = tmp_path_factory.mktemp("configs")
    for file in FILES:
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@given(
    changed=changed_files(),
    ensure_ascii=st.booleans(),
    changes=st.one_of(st.just([]), st.just([]), st.lists(edits, max_size=2)),
    training=st.booleans(),
)
@fuzz()
def test_any_file(folder, changed, ensure_ascii, changes, training):
    name, data = changed
    content = dump(data, ensure_ascii)
    for change in changes:
        content = edit(content, *change)
    path = folder / f"changed_{name}"
    path.write_bytes(content)
    with time_limit(CASE_S):
        found = end_well(
            lambda: resolve_config(load_config(path, training=training)),
            path.name, max_characters=MAX_CHARACTERS,
        )  # fmt: skip
    if isinstance(found, dict):
        json.dumps(found, allow_nan=False).encode()  # what is accepted can be written


PLACES = [path for file in FILES for path in list_places(json.loads(file.read_text()))]
override_keys = st.one_of(
    st.sampled_from([".".join(map(str, path)) for path in PLACES]),
    st.lists(keys, min_size=1, max_size=4).map(".".join),
)
override_values = st.one_of(
    values, texts, st.sampled_from([FRAGMENTS[1].decode(), FRAGMENTS[4].decode()])
)


@given(
    name=st.sampled_from([file.name for file in FILES]),
    overrides=st.lists(st.tuples(override_keys, override_values, st.booleans()), max_size=3),
)
@fuzz()
def test_any_override(folder, name, overrides):
    given_texts = [
        f"{key}={value if plain and isinstance(value, str) else dump(value).decode()}"
        for key, value, plain in overrides
    ]
    with time_limit(CASE_S):
        found = end_well(
            lambda: resolve_config(load_config(folder / name, given_texts)),
            name, max_characters=MAX_CHARACTERS,
        )  # fmt: skip
    if isinstance(found, dict):
        json.dumps(found, allow_nan=False).encode()
