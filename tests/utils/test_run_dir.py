"""A run's folder: never another run's, and it says what the run depended on."""

import json
import logging
import subprocess
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest

from utils import run_dir
from utils.errors import UserError
from utils.run_dir import describe_run, environment, git_commit, make_run_dir, setup_logging

ROOT = Path(__file__).parents[2]


def test_runs_of_one_name_have_folders_of_their_own(tmp_path):
    first, second = (make_run_dir(str(tmp_path), "demo") for _ in range(2))
    assert first != second and first.is_dir() and second.is_dir()
    assert first.parent == second.parent == tmp_path / "demo"


def test_a_chosen_folder_is_made_and_another_run_refused(tmp_path):
    chosen = tmp_path / "a" / "b"
    assert make_run_dir("unused", "demo", str(chosen)) == chosen and chosen.is_dir()
    assert make_run_dir("unused", "demo", str(chosen)) == chosen  # nothing is in it yet
    describe_run(chosen, {"name": "x"}, ["train.py"])
    with pytest.raises(UserError, match=f"^{chosen}: already holds a run; resume it with -r "):
        make_run_dir("unused", "demo", str(chosen))


def test_a_folder_that_can_not_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    for arguments in ((str(tmp_path / "file"), "demo"), ("x", "demo", str(tmp_path / "file"))):
        with pytest.raises(UserError, match="the run's folder can't be made"):
            make_run_dir(*arguments)


def test_what_a_run_depended_on(tmp_path):
    describe_run(tmp_path, {"name": "x", "seed": 3}, ["train.py", "-c", "a.json"])
    assert json.loads((tmp_path / "config.json").read_text()) == {"name": "x", "seed": 3}
    said = json.loads((tmp_path / "environment.json").read_text())
    assert said["command"] == ["train.py", "-c", "a.json"]
    assert said["packages"]["torch"] == version("torch")
    assert said["packages"]["pydantic"] == version("pydantic")
    assert set(said) == {"python", "machine", "packages", "git_commit", "command"}


def test_the_packages_are_those_that_are_required():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    named = {line.split(";")[0].split("=")[0].split(">")[0].strip() for line in lines}
    assert set(run_dir.PACKAGES) - {"av"} <= named
    assert environment()["packages"].keys() == set(run_dir.PACKAGES)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A git repository of one commit, taken for this code's."""
    (tmp_path / "utils").mkdir()

    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=n", "-c", "user.email=e@e", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "one")
    monkeypatch.setattr(run_dir, "__file__", str(tmp_path / "utils" / "run_dir.py"))
    return tmp_path, git("rev-parse", "HEAD")


def test_the_commit_says_when_the_code_differs_from_it(clone):
    folder, commit = clone
    assert git_commit() == commit
    (folder / "a").write_text("2")
    assert git_commit() == commit + "+changes"


def test_outside_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(run_dir, "__file__", str(tmp_path / "utils" / "run_dir.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit() is None


@pytest.fixture
def root_logger():
    """Put the root logger back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.mark.parametrize(
    ("verbosity", "kept"), [(0, "WARNING"), (1, "INFO WARNING"), (2, "DEBUG INFO WARNING")]
)
def test_the_log_holds_what_verbosity_asks_for(tmp_path, verbosity, kept, root_logger):
    setup_logging(verbosity, tmp_path / "train.log")
    logger = logging.getLogger("trainer.somewhere")
    for level in ("DEBUG", "INFO", "WARNING"):
        logger.log(getattr(logging, level), "said %s", level)
    logging.getLogger("other.package").debug("never")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("by a library", stacklevel=1)
    text = (tmp_path / "train.log").read_text()
    assert " ".join(w for w in ("DEBUG", "INFO", "WARNING") if f"said {w}" in text) == kept
    assert "never" not in text and "by a library" in text


def test_the_log_shows_foreign_names_as_a_terminal_may(tmp_path, root_logger):
    setup_logging(1, tmp_path / "train.log")
    logging.getLogger("utils").warning("%s: odd", "a\x1b]0;title\x07\ud83d")
    assert "a\\x1b]0;title\\x07\\ud83d: odd\n" in (tmp_path / "train.log").read_text()
