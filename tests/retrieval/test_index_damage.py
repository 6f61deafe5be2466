"""A damaged index is told or harmless, never searched as if it were right; and it is repaired."""

import json
import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

import index as index_command
from retrieval import VideoIndex
from retrieval.errors import DamagedIndexError, IndexFolderError
from retrieval.index.integrity import VectorCheck, verify_index
from retrieval.index.repair import repair_index
from retrieval.index.writer import IndexWriter, lock_index
from tests.retrieval.index_damage import ask, flip, list_damages, make_index, remove, run_sql
from tests.retrieval.made_index import add, made_embeddings, made_video, remove_checksums
from tests.retrieval.test_index_kill import start_process
from utils.errors import UserError

KINDS = ("windows", "frames", None)
# Nothing that searches show depends on them, or it is seen only when a picture is shown.
HARMLESS = ("settings.json", "thumbnails")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str | None, tuple[Path, Path]]:
    """An index of each kind, and another one of it."""
    folder = tmp_path_factory.mktemp("made")
    return {
        kind: (make_index(folder / str(kind), kind), make_index(folder / f"{kind}2", kind, seed=40))
        for kind in KINDS
    }


def try_damage(made: tuple[Path, Path], at: Path, name: str, wanted: list) -> None:
    """What is found is right, or told; ``verify_index`` finds what a search may not see."""
    folder, other = made
    shutil.copytree(folder, at)
    list_damages(folder)[name](at, other)
    try:
        assert ask(at) == wanted, name
    except IndexFolderError as error:
        assert str(at) in str(error), name
        return
    if not name.startswith(HARMLESS) and not is_changed_back(folder, at):
        assert verify_index(at), name


def is_changed_back(before: Path, after: Path) -> bool:
    """Whether two databases hold the same rows; free pages of one are no damage."""
    found = []
    for folder in (before, after):
        with closing(sqlite3.connect(folder / "index.db")) as connection:
            found.append(list(connection.iterdump()))
    return found[0] == found[1]


SOME = (
    "index.db deleted", "index.db cut", "index.db flipped at 0.5", "index.db of another index",
    "embeddings-000001.npy deleted", "embeddings-000001.npy flipped at 0.5",
    "embeddings-000001.npy of another index", "entries-000001.npy flipped at 0.3",
    "frame_counts-000001.npy flipped at 0.8", "checksums-000001.npy in a folder's shape",
    "postings emptied", "postings without a row", "tracks changed", "words changed",
    "words_fts emptied", "videos without a row", "entries with a row more", "meta dropped",
    "meta without width", "meta with no JSON for windows", "meta with another num_rows",
    "meta with another meta_checksums", "meta without table_checksums", "user_version 0",
    "user_version 2", "user_version 99", "application_id 5", "settings.json cut",
)  # fmt: skip


def test_damages_of_every_kind_are_told(made, tmp_path):
    wanted = ask(made["frames"][0])
    for number, name in enumerate(SOME):
        try_damage(made["frames"], tmp_path / str(number), name, wanted)


def test_damages_of_an_index_of_words_are_told(made, tmp_path):
    wanted = ask(made[None][0])
    for number, name in enumerate(("index.db of another index", "postings emptied")):
        try_damage(made[None], tmp_path / str(number), name, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_all_damages_are_told(made, tmp_path, kind):
    wanted = ask(made[kind][0])
    names = list(list_damages(made[kind][0]))
    assert len(names) >= 140
    for number, name in enumerate(names):
        try_damage(made[kind], tmp_path / str(number), name, wanted)


def test_thumbnails_are_verified(made, tmp_path):
    for change in (remove, lambda file: flip(file, 0.5), lambda file: file.write_bytes(b"")):
        folder = Path(shutil.copytree(made["windows"][0], tmp_path / str(time.monotonic_ns())))
        assert verify_index(folder) == []
        file = next(iter(sorted(folder.glob("thumbnails/*/*"))))
        change(file)
        (damage,) = verify_index(folder)
        assert folder / damage.file == file


def test_vectors_are_read_to_the_end_before_they_are_compared(made, tmp_path, monkeypatch):
    """Of a large index the opening looks at a sample only."""
    monkeypatch.setattr("retrieval.index.integrity._SMALL_ARRAY", 0)
    monkeypatch.setattr("retrieval.index.integrity._SAMPLE", 2)
    folder = Path(shutil.copytree(made["windows"][0], tmp_path / "i"))
    flip(folder / "embeddings-000001.npy", 0.5)
    with VideoIndex.open(folder) as index:
        assert index.search("hotel", mode="keyword")
        with pytest.raises(DamagedIndexError, match="embeddings-000001.npy: holds other vectors"):
            index.search(like=1, mode="semantic")
    with VideoIndex.open(made["windows"][0]) as index:  # and of a commit only what is new
        index.search(like=1, mode="semantic")
        read = dict(index.store._check._read)
        index.search(like=4, mode="semantic")
        assert index.store._check._read == read and len(read) == 1


def test_vectors_that_a_later_commit_has_replaced_are_not_damaged(made, tmp_path, monkeypatch):
    """A search goes on with what it has mapped, when a writer drops the files in between."""
    folder = Path(shutil.copytree(made["windows"][0], tmp_path / "i"))
    check = VectorCheck.check

    def check_later(self, meta):
        for file in folder.glob("embeddings-*.npy"):
            file.unlink()
        return check(self, meta)

    monkeypatch.setattr(VectorCheck, "check", check_later)
    with VideoIndex.open(folder) as index:
        assert index.search(like=4, mode="semantic")


def test_an_index_without_checksums_is_read_and_gets_them(made, tmp_path):
    folder = Path(shutil.copytree(made["frames"][0], tmp_path / "i"))
    wanted = ask(folder)
    remove_checksums(folder)
    assert ask(folder) == wanted and verify_index(folder) == []
    with lock_index(folder), IndexWriter(folder):
        pass
    assert ask(folder) == wanted and verify_index(folder) == []
    flip(folder / "frames-000001.npy", 0.9)
    assert verify_index(folder)


def test_checksums_are_those_of_everything_after_any_writing(made, tmp_path):
    folder = Path(shutil.copytree(made["frames"][0], tmp_path / "i"))
    for number in range(3):
        add(folder, made_video(f"n/{number}.mp4", ["ten words"], made_embeddings(2, seed=number)))
    with lock_index(folder), IndexWriter(folder) as writer:
        known = writer.read_videos()
        writer.rename_videos({known["n/0.mp4"].id: "other/name.mp4"})
        changed = made_video("n/1.mp4", ["a second line"], made_embeddings(2, seed=1))
        writer.replace_tracks(known["n/1.mp4"].id, changed)
        writer.update_stamps({known["n/2.mp4"].id: known["n/2.mp4"][1:]})
        writer.write((), [known["0/0.mp4"].id])
        with pytest.raises(ZeroDivisionError), writer._transaction():
            writer._database.execute("DELETE FROM tracks")
            raise ZeroDivisionError
        assert verify_index(folder) == []
        assert writer.compact(max_dead=0)
        assert verify_index(folder) == []


REPAIRED = {  # damage -> how many of the five videos are kept, and whether the model is
    "postings emptied": (0, True),
    "words changed": (5, True),
    "words_fts emptied": (5, True),
    "dead_rows emptied": (5, True),
    "video_checksums emptied": (5, True),
    "tracks changed": (4, True),
    "embeddings-000001.npy flipped at 0.5": (5, False),
    "frame_counts-000001.npy flipped at 0.5": (5, False),
    "entries-000001.npy deleted": (5, True),
    "checksums-000001.npy junk": (5, True),
    "meta with another windows": (5, False),
    "index.db deleted": (0, False),
    "index.db of another index": (0, False),
}


@pytest.mark.parametrize("name", REPAIRED)
def test_a_repair_keeps_what_is_right(made, tmp_path, name):
    folder = Path(shutil.copytree(made["frames"][0], tmp_path / "i"))
    wanted = dict(zip(("paths", "entries", "words"), ask(folder)[:3], strict=True))
    list_damages(made["frames"][0])[name](folder, made["frames"][1])
    result = repair_index(folder)
    num_kept, keeps_model = REPAIRED[name]
    assert result.damage and result.num_kept == num_kept
    with lock_index(folder), IndexWriter(folder) as writer:  # an update's first steps
        writer.remove_leftovers()
    assert verify_index(folder) == [] and repair_index(folder).damage == []
    with VideoIndex.open(folder) as index:
        assert (index.model is not None) == keeps_model
        assert set(index.paths()) <= set(wanted["paths"]) and len(index.paths()) == num_kept
        hits = index.search("hotel", mode="keyword", k=20)
        if num_kept == 5:
            found = [(hit.id, hit.video, hit.start_s, hit.score, hit.words) for hit in hits]
            assert found == wanted["words"]
        with index.reading() as (_, snapshot):
            meta = snapshot.meta
    if name.startswith("embeddings"):  # all the other vectors wait for the model
        assert meta["successor"]["num_rows"] == wanted["entries"] - 1


def test_a_repair_that_is_killed_is_done_again(made, tmp_path):
    folder, rng = Path(shutil.copytree(made["frames"][0], tmp_path / "i")), random.Random(0)
    flip(folder / "embeddings-000001.npy", 0.5)
    run_sql(folder, "UPDATE tracks SET text = 'x' WHERE video_id = 3")
    for _ in range(6):
        process = start_process(repair_index, folder)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.join()
    repair_index(folder)
    assert verify_index(folder) == []
    with VideoIndex.open(folder) as index:
        assert len(index.paths()) == 4


def run_index(monkeypatch, *words: str | Path) -> int:
    monkeypatch.setattr("sys.argv", ["index.py", *map(str, words)])
    return index_command.main()


def test_an_update_never_takes_a_damaged_index_for_unchanged(
    library, tmp_path, monkeypatch, capsys
):
    """Each damage is told and repaired by the commands; then the index is that of a fresh run."""
    out, fresh = tmp_path / "my.index", tmp_path / "fresh"
    library.index(out)
    library.index(fresh)
    assert run_index(monkeypatch, "--verify", out) == 0
    assert "all of it is right" in capsys.readouterr().out
    damages: list[tuple[Callable[[], object], str]] = [
        (lambda: next(out.glob("embeddings-*.npy")).unlink(), "embeddings-000001.npy"),
        (lambda: run_sql(out, "DELETE FROM postings WHERE entry_id > 3"), "table postings"),
        (lambda: remove(out / "thumbnails"), "thumbnails"),
        (lambda: swap_tokens(out / "query_encoder/tokenizer.json"), "tokenizer.json"),
        (lambda: remove(next(out.glob("config*.json"))), "config"),
    ]
    for make, named in damages:
        make()
        with pytest.raises(IndexFolderError, match=named) as caught:
            library.index(out)
        assert "--repair" in str(caught.value)
        with pytest.raises(IndexFolderError, match=named):
            run_index(monkeypatch, "--verify", out)
        words = library.videos, "--out", out, "--repair"
        assert run_index(monkeypatch, *words) == 0, named
        assert verify_index(out) == []
        said = capsys.readouterr().out
        assert "repaired: " in said and "8 videos, 8 entries" in said
        with VideoIndex.open(out) as index, VideoIndex.open(fresh) as other:
            for query in ("casino", "a red circle"):
                found = [{hit.video: hit for hit in i.search(query)} for i in (index, other)]
                assert found[0].keys() == found[1].keys()
                for video, hit in found[0].items():
                    assert hit.score == pytest.approx(found[1][video].score, abs=1e-5)
                    assert hit.words == found[1][video].words


def swap_tokens(file: Path) -> None:
    """Make a tokenizer that of another model: two of its tokens have each other's number."""
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    first, second = [token for token in vocabulary if token.isalpha()][:2]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    file.write_text(json.dumps(content))


def test_a_tokenizer_of_another_model_is_told(copy):
    swap_tokens(copy / "query_encoder/tokenizer.json")
    with pytest.raises(UserError, match=r"tokenizer.json: (has \d+ bytes|holds something else)"):
        VideoIndex.open(copy)


def test_the_order_of_rows_makes_no_difference(tmp_path):
    """Two indexes with the same rows, written in another order, have the same sums of tables."""
    found = []
    for order in ((0, 1, 2), (2, 0, 1)):
        folder = tmp_path / str(order)
        make_index(folder, None)
        with lock_index(folder), IndexWriter(folder) as writer:
            rows = writer._database.execute("SELECT * FROM tracks").fetchall()
            with writer._transaction():
                writer._database.execute("DELETE FROM tracks")
                for number in order:
                    for row in rows[number::3]:
                        writer._database.execute(
                            "INSERT INTO tracks VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row
                        )
            found.append(writer.meta["table_checksums"]["tracks"])
    assert found[0] == found[1]


def test_a_schema_that_is_no_text_is_told(made, tmp_path):
    folder = Path(shutil.copytree(made["windows"][0], tmp_path / "i"))
    content = (folder / "index.db").read_bytes()
    place = content.index(b"key TEXT PRIMARY")
    (folder / "index.db").write_bytes(content[:place] + b"\xcb" + content[place + 1 :])
    with pytest.raises(DamagedIndexError, match="index.db: can't be read"):
        VideoIndex.open(folder)
    assert repair_index(folder).damage and verify_index(folder) == []
