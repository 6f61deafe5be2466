import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils.cli import run_cli
from utils.errors import UserError

ROOT = Path(__file__).parents[2]


def ended(main, capsys):
    """Run a command; returns its exit code and what it wrote on stderr."""
    with pytest.raises(SystemExit) as caught:
        run_cli(main)
    return caught.value.code, capsys.readouterr().err


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (3, 3)])
def test_exit_code_of_a_command_that_ends(returned, code, capsys):
    assert ended(lambda: returned, capsys) == (code, "")


def test_a_user_error_is_its_text_and_code_2(capsys):
    class VideoError(UserError):
        pass

    assert ended(raising(VideoError("a.mp4: no frames")), capsys) == (2, "a.mp4: no frames\n")


def test_a_missing_file_is_named(capsys, tmp_path):
    path = tmp_path / "gone.json"
    code, text = ended(lambda: path.read_text() and None, capsys)
    assert (code, text) == (2, f"{path}: No such file or directory\n")


def test_both_names_of_a_failed_move_are_given(capsys, tmp_path):
    code, text = ended(lambda: os.rename(tmp_path / "a", tmp_path / "b"), capsys)
    assert (code, text) == (2, f"{tmp_path / 'a'} -> {tmp_path / 'b'}: No such file or directory\n")


def test_a_full_disk_is_a_user_error(capsys):
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    code, text = ended(raising(error), capsys)
    assert code == 2
    assert text == "No space left on device: free some space, or write to another folder\n"


@pytest.mark.parametrize(
    "error", [ValueError("bug"), KeyError("bug"), OSError("no file in it"), UnicodeError("bug")]
)
def test_a_fault_of_the_program_is_not_hidden(error):
    with pytest.raises(type(error)) as caught:
        run_cli(raising(error))
    assert caught.value is error


def test_interrupt_is_130(capsys):
    assert ended(raising(KeyboardInterrupt()), capsys) == (130, "interrupted\n")


def test_a_command_may_end_itself(capsys):
    assert ended(raising(SystemExit(7)), capsys) == (7, "")


@pytest.mark.parametrize("lines", [1, 10**5])  # less and more than a buffer
def test_a_reader_that_goes_away_leaves_no_complaint(lines):
    command = f"from utils.cli import run_cli; run_cli(lambda: print('x\\n' * {lines}))"
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = subprocess.run(
        [sys.executable, "-c", command],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"},
        stdout=write_end,
        stderr=subprocess.PIPE,
        timeout=20,
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_user_error_shows_what_a_terminal_may_be_shown(capsys):
    error = UserError("a\x1b[31m\udcff\u202eb: bad\n  second line")
    assert str(error) == "a\\x1b[31m\\udcff\\u202eb: bad\n  second line"
    assert ended(raising(error), capsys)[1] == f"{error}\n"


def test_a_long_user_error_keeps_its_beginning_and_its_remedy():
    text = str(UserError(f"a.pth: the key {'k' * 10**6} is unknown; re-save it"))
    assert len(text) == 2_000
    assert text.startswith("a.pth: the key kkk") and text.endswith("k is unknown; re-save it")
    assert "characters and more" in text


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_output_that_the_terminal_has_no_letters_for_is_escaped(encoding):
    code = (
        "from utils.cli import run_cli\nfrom utils.errors import UserError\n"
        "def main():\n    print('caf\\u00e9 \\u4f60 \\udcff')\n"
        "    raise UserError('\\u4f60: bad')\nrun_cli(main)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": encoding},
    )  # fmt: skip
    shown = "caf\u00e9 \u4f60 \udcff\n".encode(encoding, "backslashreplace")
    assert (done.returncode, done.stdout) == (2, shown)
    assert done.stderr == "\u4f60: bad\n".encode(encoding, "backslashreplace")
