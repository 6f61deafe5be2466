"""The code layout, kept: who may import whom, no cycles, what no file does, and the call stack."""

import ast
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import train
from model.frozen_in_time import FrozenInTime
from tests.conftest import tiny
from utils.cli import run_cli

ROOT = Path(__file__).parents[1]
# Package -> the packages it may import from, beside itself. Scripts stand above all of them.
LOW = {"utils", "base"}
MAY_IMPORT = {
    "utils": set(),
    "base": {"utils"},
    "parsing": LOW,
    "data_loader": LOW,
    "model": LOW,
    "evaluation": LOW,
    "trainer": {*LOW, "evaluation"},
    "retrieval": {*LOW, "parsing", "data_loader", "model", "evaluation", "trainer"},
}
ABOVE = ("tools", "benchmarks")  # they stand with the scripts
SCRIPTS = ("train", "test", "parse_config", "check_data", "demo")
SCRIPTS += ("find", "spot_text", "index", "search", "serve")
UTILS_IMPORTS = {"torch", "numpy", "safetensors", "tqdm", "typing_extensions"}
UTILS_IMPORTS |= set(sys.stdlib_module_names)
LIBRARY = sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))
FILES = LIBRARY + sorted(path for name in ABOVE for path in (ROOT / name).rglob("*.py"))
FILES += sorted(ROOT.glob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=name_of(path))


def package_of(path: Path) -> str | None:
    top = path.relative_to(ROOT).parts[0]
    return top if top in MAY_IMPORT else None


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the full names of everything that is imported, at whatever depth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def forbidden_imports(package: str, tree: ast.Module) -> list[str]:
    """Return the imports of a package's file that are not allowed."""
    found = []
    for name in imported(tree):
        top = name.split(".")[0]
        is_script = top in (*SCRIPTS, *ABOVE) and top != "test"  # the standard library has a test
        is_upward = top in MAY_IMPORT and top not in {package, *MAY_IMPORT[package]}
        is_foreign = package == "utils" and top not in UTILS_IMPORTS | {"utils"}
        if is_script or is_upward or is_foreign:
            found.append(name)
        if package == "base" and name.startswith("torch.distributed"):
            found.append(name)
    return found


READING = {"open", "read_text", "read_bytes", "write_text", "write_bytes", "load", "loads", "mkdir"}
SPECIAL = {"eval", "exec", "__import__", "compile"}


def forbidden_calls(package: str | None, tree: ast.Module) -> list[str]:
    """Return the calls of a file that its package, or every package, does without."""
    found = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        target = call.func
        bare = isinstance(target, ast.Name)
        name = target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", "")
        if bare and name in SPECIAL or package and bare and name == "print":
            found.append(name)
        if package == "base" and name in READING:
            found.append(name)
        unsafe = [k for k in call.keywords if k.arg == "weights_only"]
        if any(getattr(keyword.value, "value", None) is not True for keyword in unsafe):
            found.append("weights_only")
        if name == "load" and isinstance(target, ast.Attribute) and not unsafe:
            if getattr(target.value, "id", "") in ("torch", "pickle"):
                found.append("load without weights_only")
    return found


def import_graph() -> dict[str, set[str]]:
    """Return module -> the modules of this project that it imports."""
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES}
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}
    return {
        name: {found for found in imported(tree_of(path)) if found in modules and found != name}
        for name, path in modules.items()
    }


def find_cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return the cycles that a search from each module comes upon first."""
    done: set[str] = set()
    cycles: list[list[str]] = []

    def visit(name: str, above: list[str]) -> None:
        if name in above:
            cycles.append([*above[above.index(name) :], name])
        elif name not in done:
            for other in sorted(graph[name]):
                visit(other, [*above, name])
            done.add(name)

    for name in graph:
        visit(name, [])
    return cycles


def test_every_package_is_looked_into():
    assert {package_of(path) for path in LIBRARY} == set(MAY_IMPORT)
    assert {path.stem for path in FILES if path.parent == ROOT} >= set(SCRIPTS)
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", *ABOVE}
    assert packages == set(MAY_IMPORT), "a new package needs its line in MAY_IMPORT"


def test_no_file_imports_upward():
    found = {name_of(path): forbidden_imports(package_of(path), tree_of(path)) for path in LIBRARY}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def test_there_is_no_import_cycle():
    assert find_cycles(import_graph()) == []
    assert find_cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == [["a", "b", "c", "a"]]


def test_no_file_prints_evaluates_or_unpickles():
    found = {name_of(path): forbidden_calls(package_of(path), tree_of(path)) for path in FILES}
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize(
    ("package", "code", "wrong"),
    [
        ("utils", "import base.batch", "base.batch"),
        ("utils", "def f():\n    import pydantic", "pydantic"),
        ("base", "from torch import distributed", "torch.distributed"),
        ("model", "from data_loader import collate", "data_loader"),
        ("data_loader", "import model.loss", "model.loss"),
        ("evaluation", "from trainer.build import build_model", "trainer.build"),
        ("trainer", "from model.frozen_in_time import FrozenInTime", "model.frozen_in_time"),
        ("trainer", "from parse_config import load_config", "parse_config"),
        ("retrieval", "from tools.report import main", "tools.report"),
    ],
)
def test_a_forbidden_import_is_seen(package, code, wrong):
    assert wrong in forbidden_imports(package, ast.parse(code))


@pytest.mark.parametrize(
    ("package", "code", "wrong"),
    [
        ("model", "print(1)", "print"),
        (None, "eval('1')", "eval"),
        ("utils", "torch.load(f, weights_only=False)", "weights_only"),
        ("utils", "torch.load(f)", "load without weights_only"),
        ("trainer", "pickle.load(f)", "load without weights_only"),
        ("base", "path.read_text()", "read_text"),
    ],
)
def test_a_forbidden_call_is_seen(package, code, wrong):
    assert wrong in forbidden_calls(package, ast.parse(code))


def test_what_is_allowed_is_not_reported():
    code = (
        "import torch\nfrom base.batch import Batch\nmodel.eval()\ntorch.load(f, weights_only=True)"
    )
    tree = ast.parse(code)
    assert forbidden_imports("trainer", tree) == forbidden_calls("trainer", tree) == []


def test_no_star_import_and_no_bare_except():
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom):
                assert all(alias.name != "*" for alias in node.names), name_of(path)
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, (
                    f"{name_of(path)}:{node.lineno}: except without a type"
                )


def test_the_packages_init_files_are_empty_but_for_the_one_name_that_retrieval_offers():
    inits = [path for path in LIBRARY if path.name == "__init__.py"]
    assert len(inits) >= len(MAY_IMPORT)
    own = {"retrieval/__init__.py": "from retrieval.video_index import VideoIndex as VideoIndex\n"}
    assert {name_of(path): text for path in inits if (text := path.read_text())} == own


def test_registration_lists_only_import():
    for path in (path for path in LIBRARY if path.name == "registrations.py"):
        kinds = {type(node) for node in tree_of(path).body}
        assert kinds <= {ast.Expr, ast.Import, ast.ImportFrom}, name_of(path)


def test_five_frames_lie_between_the_command_line_and_the_model(
    demo, monkeypatch, tmp_path, capsys
):
    """``main -> fit -> train_epoch -> train_step -> forward``: functions of this project's own."""
    stacks, forward = [], FrozenInTime.forward

    def noting(self, batch):
        own = [f for f in inspect.stack()[1:] if Path(f.filename).is_relative_to(ROOT)]
        names = [f.function for f in own if "tests" not in Path(f.filename).parts]
        stacks.append([*reversed(names), "forward"])
        return forward(self, batch)

    monkeypatch.setattr(FrozenInTime, "forward", noting)
    changes = [part for change in tiny(demo) for part in ("--set", change)]
    config = str(ROOT / "configs/demo/ocr.json")
    command = ["train.py", "-c", config, "--run_dir", str(tmp_path / "run"), *changes]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as end:
        run_cli(train.main)
    assert end.value.code == 0
    [stack] = {tuple(stack) for stack in stacks}
    with capsys.disabled():
        sys.stdout.write("\n" + " -> ".join(stack[1:]) + "\n")
    assert stack == ("run_cli", "main", "fit", "train_epoch", "train_step", "forward")
