"""The folder of a library: its folders of videos, its settings, and who has it open."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

import find
from retrieval import VideoIndex
from retrieval.errors import IndexFolderError
from retrieval.index.ocr_text import OcrSource
from retrieval.index.records import NewVideo
from retrieval.index.update import IndexOptions, update_index
from retrieval.library.folder import (
    VARIABLE,
    Library,
    LibraryOpenError,
    choose_folder,
)
from retrieval.library.settings import LibrarySettings
from tests.conftest import ROOT
from tests.retrieval.index_damage import run_sql
from tests.retrieval.library.made_library import write_text_video
from tests.retrieval.made_index import add, made_embeddings, made_video
from utils.errors import UserError


@pytest.fixture
def library(tmp_path) -> Library:
    library = Library(tmp_path / "library")
    with library.lock():
        library.open()
    return library


def make_folders(parent: Path, *names: str) -> list[Path]:
    for name in names:
        (parent / name).mkdir(parents=True)
    return [parent / name for name in names]


def test_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv(VARIABLE, raising=False)
    assert choose_folder(None) == tmp_path / "data/textvr/library"
    monkeypatch.setenv(VARIABLE, str(tmp_path / "mine"))
    assert choose_folder(None) == tmp_path / "mine"
    monkeypatch.chdir(tmp_path)
    assert choose_folder(Path("a/../b")) == tmp_path / "b"


def test_an_empty_one_can_be_searched(library):
    with VideoIndex.open(library.index) as index:
        assert len(index) == 0 and index.search("anything") == [] and index.folders() == []
        assert index.modes == ("keyword",) and index.roots.folders == {}
    library.open()  # as it is


def test_folders_come_and_go(library, tmp_path):
    films, clips, deep = make_folders(tmp_path, "Films", "Clips", "Clips/deep")
    assert library.add_folders([deep, films]) == []
    assert library.read_roots().folders == {"deep": deep, "Films": films}
    with pytest.raises(UserError, match=r"Clips: holds .*deep, which is in the library by itself"):
        library.add_folders([clips])
    assert library.forget_folder(deep) == 0
    said = library.add_folders([deep, clips, films, tmp_path / "Clips/../Films"])
    assert said == [f"{deep}: lies in {clips}, which is in the library"]
    assert library.read_roots().folders == {"Films": films, "Clips": clips}
    with pytest.raises(UserError, match="deep: is none of the library's folders"):
        library.forget_folder(deep)
    (tmp_path / "file").touch()
    for name, message in (("nowhere", "no such folder"), ("file", "is a file, not a folder")):
        with pytest.raises(UserError, match=message):
            library.add_folders([tmp_path / name])
    assert library.read_roots().folders == {"Films": films, "Clips": clips}


def test_settings_stay(library):
    assert library.read_settings() == LibrarySettings()
    changed = library.read_settings().change(script="chinese", model=None)
    library.write_settings(changed)
    assert library.read_settings() == LibrarySettings(script="chinese")
    assert library.read_settings().change(model="none").script == "chinese"


def test_one_at_a_time(library):
    with library.lock():
        writer = threading.Timer(0.3, library.write_address, ["http://127.0.0.1:1/"])
        writer.start()
        with pytest.raises(LibraryOpenError) as caught, library.lock():
            pass
        assert caught.value.address == "http://127.0.0.1:1/"
        writer.join()
    with library.lock():
        pass


def test_an_index_of_index_py_is_none(tmp_path):
    write_text_video(tmp_path / "videos/a.mp4", "Hello")
    options = IndexOptions()
    update_index(tmp_path / "videos", tmp_path / "lib/index", None, OcrSource(), options)
    with pytest.raises(UserError, match="holds an index of index.py, and no library"):
        Library(tmp_path / "lib").open()
    library = Library(tmp_path / "other")
    library.open()
    with pytest.raises(UserError, match="is a library of find.py"):
        update_index(tmp_path / "videos", library.index, None, OcrSource(), options)


def test_words_need_no_torch(tmp_path):
    """Neither the command nor an update without a model waits for it."""
    write_text_video(tmp_path / "videos/a.mp4", "Hello")
    code = (
        "import sys; from pathlib import Path; import find, retrieval.library.work;"
        "from retrieval.index.ocr_text import OcrSource;"
        "from retrieval.index.update import IndexOptions, update_index;"
        "folder = Path(sys.argv[1]);"
        "done = update_index(folder / 'videos', folder / 'i', None, OcrSource(), IndexOptions());"
        "print(done.num_videos, [m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == "1 []", done.stderr


def test_what_is_left_out_is_remembered(library, tmp_path, monkeypatch):
    (films, _) = make_folders(tmp_path, "Films", "Films/raw")
    for name in ("a.mp4", "raw/b.mp4"):
        (films / name).touch()

    def prepare(*command: object) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["find.py", *map(str, command)])
        assert find.prepare_library(library, find.parse_arguments())
        return library.read_roots().list_videos().names

    assert prepare(films, "--exclude", "raw") == ["Films/a.mp4"]
    assert prepare() == ["Films/a.mp4"]
    assert prepare("--exclude", "*.mkv", "--exclude", "a*") == ["Films/raw/b.mp4"]
    assert prepare("--exclude", "") == ["Films/a.mp4", "Films/raw/b.mp4"]


def test_what_is_wrong_is_said_before_anything_begins(library, tmp_path, run_main):
    (films,) = make_folders(tmp_path, "Films")

    def refuse(*command: object) -> str:
        code, _, error = run_main(find, "--library", library.folder, *command)
        assert code == 2 and "Traceback" not in error
        return error

    assert "python find.py ~/Videos" in refuse()
    assert "nowhere: no such folder" in refuse(films, tmp_path / "nowhere")
    assert library.read_roots().folders == {}  # all of them or none
    assert "is none of the library's folders" in refuse("--forget", films)
    assert "nothing in it is indexed" in refuse("--relocate", tmp_path / "x", films)
    assert "from 0 to 65535" in refuse(films, "--port", "70000")
    library.add_folders([films])
    with library.lock():
        library.write_address("http://127.0.0.1:1/")
        (other,) = make_folders(tmp_path, "Other")
        error = refuse(other)
        assert "another find.py is at work there (http://127.0.0.1:1/); end it" in error
        code, text, _ = run_main(find, "--library", library.folder, films, "--no-browser")
        assert code == 0 and text.startswith("http://127.0.0.1:1/: search in ")
    command = "--library", library.folder, "--forget", films
    code, text, _ = run_main(find, *command)
    assert code == 0 and text == f"{films}: is out of the library, 0 videos\n"


@pytest.mark.parametrize("lost", ["index.db", "settings"])
def test_one_that_is_damaged_is_repaired_when_it_is_opened(library, tmp_path, lost):
    """It keeps its folders, its settings, and what is right of its videos."""
    (films,) = make_folders(tmp_path, "Films")
    library.add_folders([films])
    library.write_settings(LibrarySettings(script="greek", model="none"))
    add(library.index, *(made_words(f"Films/{n}.mp4", f"line {n} hotel") for n in range(3)))
    if lost == "index.db":
        (library.index / lost).write_bytes(b"")
    else:
        run_sql(library.index, "UPDATE tracks SET text = 'x' WHERE video_id = 2")
    with pytest.raises(IndexFolderError, match=r"find.py --library .* makes anew|no finished"):
        VideoIndex.open(library.index)
    with library.lock():
        said = library.open()
        assert said and "repaired: " in said[-1] and library.open() == []
    assert library.read_roots().folders == {"Films": films}
    assert library.read_settings() == LibrarySettings(script="greek", model="none")
    with VideoIndex.open(library.index) as index:
        kept = [] if lost == "index.db" else ["Films/0.mp4", "Films/2.mp4"]
        assert sorted(hit.video for hit in index.search("hotel")) == kept


def made_words(name: str, line: str) -> NewVideo:
    """A video of an index of words."""
    return made_video(name, [line], made_embeddings(1))
