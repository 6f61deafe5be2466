"""Index folders that are not right, and users who may not do what they ask for."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from retrieval import VideoIndex
from retrieval.errors import IndexFolderError
from retrieval.index.ocr_text import OcrFolder
from retrieval.index.update import IndexOptions, update_index
from tests.retrieval.test_index_kill import FORK
from utils.errors import UserError


def version(folder: Path, number: int) -> None:
    connection = sqlite3.connect(folder / "index.db")
    connection.execute(f"PRAGMA user_version = {number}")
    connection.close()


def application(folder: Path, number: int) -> None:
    connection = sqlite3.connect(folder / "index.db")
    connection.execute(f"PRAGMA application_id = {number}")
    connection.close()


def damage(folder: Path, pattern: str, keep: int | None = None) -> None:
    (path,) = folder.glob(pattern)
    if keep is None:
        path.unlink()
    else:
        os.truncate(path, keep)


DAMAGED = {
    "newer": (lambda f: version(f, 9), "format 9, from a newer version"),
    "of another program": (lambda f: application(f, 5), "holds no finished index"),
    "no database": (lambda f: damage(f, "index.db"), "holds no finished index; index.py makes one"),
    "no embeddings": (lambda f: damage(f, "embeddings-*"), r"embeddings-000001.npy: No such file"),
    "half of them": (lambda f: damage(f, "embeddings-*", 600), r"npy: is cut short \(600 of 1152"),
    "no ids": (
        lambda f: damage(f, "entries-*"),
        "entries-000001.npy: No such file.*index is damag",
    ),
    "half a database": (lambda f: damage(f, "index.db", 5000), "index.db: can't be read"),
    "junk": (lambda f: (f / "index.db").write_bytes(b"junk" * 2000), "index.db: can't be read"),
    "no weights": (
        lambda f: damage(f, "query_encoder/weights*"),
        "query_encoder/weights.safetensors: is gone",
    ),
    "no settings": (
        lambda f: damage(f, "query_encoder/query_*"),
        "query_encoder/query_encoder.json: is gone",
    ),
    "no tokenizer": (lambda f: damage(f, "query_encoder/tokenizer.json"), "tokenizer"),
}


@pytest.mark.parametrize("error", DAMAGED)
def test_a_folder_that_is_not_right_is_reported(copy, error):
    make, message = DAMAGED[error]
    make(copy)
    with pytest.raises(UserError, match=message) as caught, VideoIndex.open(copy) as index:
        index.search("casino")
    assert str(copy) in str(caught.value)


def test_the_query_encoder_of_another_model_is_refused(copy, make_checkpoint, library, tmp_path):
    other = tmp_path / "other.index"
    type(library)(library.videos, library.ocr, make_checkpoint("fusion", "seed=7")).index(other)
    weights = "query_encoder/weights.safetensors"
    shutil.copy(other / weights, copy / weights)
    with VideoIndex.open(copy) as index:
        with pytest.raises(IndexFolderError, match="is not the query encoder that the index was"):
            index.search("casino")
        assert index.search("casino", mode="keyword")
        index.check_model(library.checkpoint)
        with pytest.raises(IndexFolderError, match="with the model demo_fusion .*not with"):
            index.check_model(copy / weights)
        with pytest.raises(UserError, match="nowhere.pth: can't be read"):
            index.check_model("nowhere.pth")


def test_no_such_folder(tmp_path):
    for path, message in ((tmp_path / "x", "no such folder"), (tmp_path, "holds no finished inde")):
        with pytest.raises(IndexFolderError, match=message):
            VideoIndex.open(path)


def _as_nobody(job, *arguments) -> int:
    """Run a job with another user's rights; returns its exit code."""

    def run() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        job(*arguments)

    process = FORK.Process(target=run)
    process.start()
    process.join()
    return process.exitcode


def _searches(folder: Path) -> None:
    with VideoIndex.open(folder) as index:
        assert index.search("casino", mode="keyword")


def _is_refused(job, message: str) -> None:
    with pytest.raises(UserError, match=message):
        job()


def _list_parents(path: Path) -> list[Path]:
    """The folders above a path that are themselves below that of temporary files."""
    return [
        folder
        for folder in path.parents
        if folder.is_relative_to("/tmp") and folder != Path("/tmp")
    ]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_rights_of_another_user(copy, built, library, tmp_path):
    if not Path("/tmp").stat().st_mode & 0o005 or not tmp_path.is_relative_to("/tmp"):
        pytest.skip("the folder of temporary files is closed to other users")
    for folder in (*_list_parents(library.checkpoint), *_list_parents(tmp_path), tmp_path):
        folder.chmod(folder.stat().st_mode | 0o055)
    assert _as_nobody(_searches, copy) == 0  # may read, and not write
    library.index(tmp_path / "i")
    model = library.model

    def index(out: str) -> Callable:
        source = OcrFolder(library.ocr)
        return lambda: update_index(library.videos, tmp_path / out, model, source, IndexOptions())

    assert _as_nobody(_is_refused, index("new"), "new: can't be written .*Permission denied") == 0
    assert _as_nobody(_is_refused, index("i"), "i: can't be written .*Permission denied") == 0
    (copy / "index.db").chmod(0o600)
    assert _as_nobody(_is_refused, lambda: VideoIndex.open(copy), "index.db: can't be read") == 0
    library.videos.chmod(0o700)
    assert _as_nobody(_is_refused, index("i"), "my videos: the folder can't be read") == 0
