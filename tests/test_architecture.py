"""The house's rules, kept: who may import whom, what no file does, how long things are."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Room -> the rooms it may import from, beside itself.
MAY_IMPORT = {
    "utils": set(),
    "base": {"utils"},
    "parsing": {"utils", "base"},
    "data_loader": {"utils", "base"},
    "model": {"utils", "base"},
    "trainer": {"utils", "base"},
    "retrieval": {"utils", "base", "parsing", "data_loader", "model", "trainer"},
}
SCRIPTS = ("train", "test", "parse_config", "check_data", "demo")
SCRIPTS += ("spot_text", "index", "search", "serve")
SHORT_SCRIPTS = ("train", "test")
UTILS_PACKAGES = {"torch", "numpy", "safetensors", *sys.stdlib_module_names}
FILES = sorted(path for room in MAY_IMPORT for path in (ROOT / room).rglob("*.py"))
FILES += sorted(ROOT.glob("*.py"))
# The command of a package (python -m …) stands above the rooms, as the scripts do.
LIBRARY = [path for path in FILES if path.parent != ROOT and path.name != "__main__.py"]
# Benchmarks stand above the rooms, too: no room imports them.
BENCHMARKS = "benchmarks"
FILES += sorted((ROOT / BENCHMARKS).rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=name_of(path))


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the full names of everything that is imported, at whatever depth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def called(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Yield the name, without what stands before its dot, of everything that is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            target = node.func
            name = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
            yield name, node


def import_faults(room: str, tree: ast.Module) -> list[str]:
    """Return the imports of a room's file that are not allowed."""
    faults = []
    for name in imported(tree):
        top = name.split(".")[0]
        if (
            top in (*SCRIPTS, BENCHMARKS)
            and top != "test"
            or top in MAY_IMPORT
            and top not in {room, *MAY_IMPORT[room]}
        ):
            faults.append(name)
        if room == "utils" and top not in UTILS_PACKAGES | {"utils"}:
            faults.append(name)
        if room == "base" and name.startswith("torch.distributed"):
            faults.append(name)
    return faults


READING = {"open", "read_text", "read_bytes", "write_text", "write_bytes", "load", "loads", "mkdir"}
SPECIAL = {"eval", "exec", "__import__", "compile"}


def call_faults(room: str | None, tree: ast.Module) -> list[str]:
    """Return the calls of a file that its room, or every room, does without."""
    faults = []
    for name, call in called(tree):
        bare = isinstance(call.func, ast.Name)
        if bare and name in SPECIAL or room and bare and name == "print":
            faults.append(name)
        if room == "base" and name in READING:
            faults.append(name)
        unsafe = [k for k in call.keywords if k.arg == "weights_only"]
        if any(getattr(keyword.value, "value", None) is not True for keyword in unsafe):
            faults.append("weights_only")
        if name == "load" and isinstance(call.func, ast.Attribute) and not unsafe:
            if getattr(call.func.value, "id", "") in ("torch", "pickle"):
                faults.append("load without weights_only")
    return faults


def room_of(path: Path) -> str | None:
    return path.relative_to(ROOT).parts[0] if path in LIBRARY else None


def test_every_room_is_looked_into():
    assert {room_of(path) for path in LIBRARY} == set(MAY_IMPORT)
    assert {path.stem for path in FILES if path.parent == ROOT} >= set(SCRIPTS)
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", BENCHMARKS}
    assert rooms == set(MAY_IMPORT), "a new room needs its line in MAY_IMPORT"


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_a_room_imports_only_what_it_may(path):
    assert import_faults(room_of(path), tree_of(path)) == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_file_prints_evaluates_or_unpickles(path):
    assert call_faults(room_of(path), tree_of(path)) == []


@pytest.mark.parametrize(
    ("room", "code", "fault"),
    [
        ("utils", "import base.batch", "base.batch"),
        ("utils", "def f():\n    import pydantic", "pydantic"),
        ("base", "from torch import distributed", "torch.distributed"),
        ("base", "from trainer.optim import adamw", "trainer.optim"),
        ("model", "from data_loader import collate", "data_loader"),
        ("data_loader", "import model.loss", "model.loss"),
        ("trainer", "from model.frozen_in_time import FrozenInTime", "model.frozen_in_time"),
        ("trainer", "def f():\n    from data_loader.textvr import TextVR", "data_loader.textvr"),
        ("trainer", "from parse_config import load_config", "parse_config"),
        ("parsing", "import model.registrations", "model.registrations"),
        ("trainer", "from benchmarks.chunks import table", "benchmarks.chunks"),
    ],
)
def test_a_forbidden_import_is_seen(room, code, fault):
    assert fault in import_faults(room, ast.parse(code))


@pytest.mark.parametrize(
    ("room", "code", "fault"),
    [
        ("model", "print(1)", "print"),
        (None, "eval('1')", "eval"),
        ("utils", "exec('1')", "exec"),
        ("utils", "torch.load(f, weights_only=False)", "weights_only"),
        ("utils", "torch.load(f, weights_only=x)", "weights_only"),
        ("utils", "torch.load(f)", "load without weights_only"),
        ("trainer", "pickle.load(f)", "load without weights_only"),
        ("base", "open('a')", "open"),
        ("base", "path.read_text()", "read_text"),
    ],
)
def test_a_forbidden_call_is_seen(room, code, fault):
    assert fault in call_faults(room, ast.parse(code))


def test_what_is_allowed_is_no_fault():
    code = (
        "import torch\nfrom base.batch import Batch\nmodel.eval()\ntorch.load(f, weights_only=True)"
    )
    assert (
        import_faults("trainer", ast.parse(code)) == call_faults("trainer", ast.parse(code)) == []
    )


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_star_import_and_no_bare_except(path):
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom):
            assert all(alias.name != "*" for alias in node.names)
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: except without a type"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_short(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    short = path.parent == ROOT and path.stem in SHORT_SCRIPTS
    assert len(lines) <= 80 if short else len(lines) < 300
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            # Without the signature: that of a registered part is its list of keys.
            length = node.end_lineno - node.body[0].lineno + 1
            assert length < 60, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=name_of)
def test_test_files_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


def test_the_rooms_init_files_are_empty_but_for_the_one_name_that_retrieval_offers():
    inits = [path for path in LIBRARY if path.name == "__init__.py"]
    assert len(inits) >= len(MAY_IMPORT)
    own = {"retrieval/__init__.py": "from retrieval.video_index import VideoIndex as VideoIndex\n"}
    assert {name_of(path): text for path in inits if (text := path.read_text())} == own


def test_registration_lists_only_import():
    for path in (path for path in LIBRARY if path.name == "registrations.py"):
        kinds = {type(node) for node in tree_of(path).body}
        assert kinds <= {ast.Expr, ast.Import, ast.ImportFrom}, name_of(path)
