"""Start of the commands for own videos: torch, which takes seconds, comes when it is needed."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.retrieval.made_index import index_of_lines

# Runs a command as python does, and then says what it has imported.
CODE = """
import atexit, runpy, sys
heavy = ("torch", "transformers", "torchvision", "faiss", "pandas")
atexit.register(lambda: print("IMPORTED", *[name for name in heavy if name in sys.modules]))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run_command(*argv: object, cwd: Path = ROOT) -> tuple[str, list[str]]:
    """Run a script of the project; return what it prints, and its heavy imports."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, *map(str, argv)],
        capture_output=True, text=True, cwd=cwd, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text, _, imported = done.stdout.rpartition("IMPORTED")
    return text, imported.split()


@pytest.mark.parametrize("script", ["find.py", "search.py", "serve.py", "index.py", "spot_text.py"])
def test_help_imports_nothing_heavy(script):
    text, imported = run_command(ROOT / script, "--help")
    assert "usage:" in text and imported == []


def test_a_search_for_words_imports_nothing_heavy(tmp_path):
    """In a current folder that is not the project's."""
    folder = index_of_lines(tmp_path / "i", [["CASINO ROYALE"], ["Hotel"]])
    text, imported = run_command(
        ROOT / "search.py", folder, "casino", "--mode", "keyword", "--explain", cwd=tmp_path
    )
    assert "0.mp4" in text and "exact in" in text and imported == []
