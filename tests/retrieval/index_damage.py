"""Damages of an index folder, and what is asked of a damaged one."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from retrieval import VideoIndex
from retrieval.index.vectors import Vectors
from tests.retrieval.made_index import add, create, made_embeddings, made_video

Damage = Callable[[Path, Path], None]  # the index, and another one of the same kind

LINES = ("red car", "hotel lobby 24", "grand hotel", "exit here", "cashier", "kredit")
TABLES = ("videos", "entries", "tracks", "words", "postings", "dead_rows", "video_checksums")
# A change of a row of each table that searches could not but believe.
CHANGES = {
    "videos": "path = CAST('other.mp4' AS BLOB)",
    "entries": "start_s = start_s + 1",
    "tracks": "text = 'something else'",
    "words": "text = text || 'x'",
    "postings": "entry_id = entry_id + 1",
    "dead_rows": "row = row + 100",
    "video_checksums": "content = content + 1",
}
ADDITIONS = {
    "videos": "INSERT INTO videos VALUES (77, CAST('x.mp4' AS BLOB), '{}', 'null', 1, 2, 3)",
    "entries": "INSERT INTO entries VALUES (77, 1, 0, 1, 77)",
    "tracks": "INSERT INTO tracks SELECT 77, video_id, 'added', score, start_s, end_s, boxes, kind "
    "FROM tracks LIMIT 1",
    "postings": "INSERT INTO postings SELECT word_id, entry_id, 77 FROM postings LIMIT 1",
    "dead_rows": "INSERT INTO dead_rows VALUES (0)",
}


def make_index(folder: Path, vectors: Vectors | None, seed: int = 0) -> Path:
    """An index of 6 videos and a dead row; without vectors one of words."""
    create(folder, vectors=vectors or "windows")
    if vectors is None:
        with closing(sqlite3.connect(folder / "index.db")) as connection:
            keys = "('model', 'width', 'query_encoder')"
            connection.execute(f"DELETE FROM meta WHERE key IN {keys}")
            connection.commit()
    for number, line in enumerate(LINES):
        rows = made_embeddings(1 + number % 3, seed=seed + number)
        add(folder, made_video(f"{seed}/{number}.mp4", [line, f"number {number + seed}"], rows))
    add(folder, drop=[2])
    return folder


def list_files(folder: Path) -> list[str]:
    """The files of an index that may be damaged, but for all thumbnails after the first."""
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    files = [
        name
        for name in found
        if (folder / name).is_file() and not name.endswith(("lock", "-wal", "-shm"))
    ]
    pictures = [name for name in files if name.startswith("thumbnails")]
    return [name for name in files if name not in pictures[1:]]


def run_sql(folder: Path, *statements: str) -> None:
    with closing(sqlite3.connect(folder / "index.db")) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def flip(file: Path, place: float, bit: int = 3) -> None:
    """Change a bit at a place that is a share of the file."""
    content = bytearray(file.read_bytes())
    if content:
        content[min(len(content) - 1, int(place * len(content)))] ^= 1 << bit
    file.write_bytes(content)


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def put_folder(path: Path) -> None:
    remove(path)
    path.mkdir()


def list_damages(folder: Path) -> dict[str, Damage]:
    """Every damage of this index by its name."""
    found: dict[str, Damage] = {}
    for name in list_files(folder):
        found |= {f"{name} {kind}": damage for kind, damage in _list_of_file(name)}
    for name in sorted(path.name for path in folder.iterdir() if path.is_dir()):
        found[f"{name}/ deleted"] = lambda at, _, name=name: shutil.rmtree(at / name)
    with closing(sqlite3.connect(folder / "index.db")) as connection:
        keys = [key for (key,) in connection.execute("SELECT key FROM meta ORDER BY key")]
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    statements = {f"{name} emptied": f"DELETE FROM {name}" for name in TABLES}
    statements |= {f"{name} dropped": f"DROP TABLE {name}" for name in (*TABLES, "meta")}
    one = "rowid = (SELECT MIN(rowid) FROM {0})"
    for name in TABLES:
        where = one.format(name)
        if name == "postings":  # has no rowid
            columns = "word_id, entry_id, track_id"
            where = f"({columns}) IN (SELECT {columns} FROM postings LIMIT 1)"
        statements[f"{name} without a row"] = f"DELETE FROM {name} WHERE {where}"
        statements[f"{name} changed"] = f"UPDATE {name} SET {CHANGES[name]} WHERE {where}"
    statements |= {f"{name} with a row more": sql for name, sql in ADDITIONS.items()}
    statements["words_fts emptied"] = "INSERT INTO words_fts (words_fts) VALUES ('delete-all')"
    statements["words_fts blocks changed"] = "UPDATE words_fts_data SET block = x'00' WHERE id > 10"
    for key in keys:
        statements[f"meta without {key}"] = f"DELETE FROM meta WHERE key = '{key}'"
        statements[f"meta with no JSON for {key}"] = (
            f"UPDATE meta SET value = 'x' WHERE key = '{key}'"
        )
        statements[f"meta with another {key}"] = f"UPDATE meta SET value = '7' WHERE key = '{key}'"
    for version in (0, 1, 2, 99):
        statements[f"user_version {version}"] = f"PRAGMA user_version = {version}"
    statements["application_id 5"] = "PRAGMA application_id = 5"
    for name, sql in statements.items():
        if "video_checksums" not in sql or "video_checksums" in tables:
            found[name] = lambda at, _, sql=sql: run_sql(at, sql)
    return found


def _list_of_file(name: str) -> Iterator[tuple[str, Damage]]:
    yield "deleted", lambda at, _: (at / name).unlink()
    yield "emptied", lambda at, _: (at / name).write_bytes(b"")
    yield "junk", lambda at, _: (at / name).write_bytes(b"junk" * 500)
    yield "cut", lambda at, _: (at / name).write_bytes(_halve((at / name).read_bytes()))
    yield "in a folder's shape", lambda at, _: put_folder(at / name)
    yield "of another index", lambda at, other: _copy_of(other, at, name)
    for place in (0.0, 0.3, 0.5, 0.8, 0.999):
        yield f"flipped at {place}", lambda at, _, place=place: flip(at / name, place)


def _halve(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _copy_of(other: Path, folder: Path, name: str) -> None:
    with suppress(FileNotFoundError):
        shutil.copy(other / name, folder / name)


def ask(folder: Path) -> list[Any]:
    """What searches find: by words, and by example, which needs no query encoder."""
    with VideoIndex.open(folder) as index:
        found: list[Any] = [sorted(index.paths()), len(index)]
        for query in ("hotel", "edit", "exit here", "number", "casnier", "3"):
            hits = index.search(query, mode="keyword", k=20)
            found.append([(hit.id, hit.video, hit.start_s, hit.score, hit.words) for hit in hits])
        for entry in (1, 4, 9) if index.model is not None else ():
            hits = index.search(like=entry, mode="semantic", k=5)
            found.append([(hit.id, hit.video, hit.moment_s, hit.score) for hit in hits])
        return found
