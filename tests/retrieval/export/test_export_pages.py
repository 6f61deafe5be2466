"""Pages that load an export into another engine: their code is run as it stands there."""

import ast
import re
import runpy
import tempfile

import pytest

from retrieval import VideoIndex
from retrieval.export.parquet import export_parquet
from retrieval.export.schema import TABLES
from tests.conftest import ROOT

pytest.importorskip("pyarrow")

PAGES = sorted((ROOT / "docs").glob("export_*.md"))
QUERY, LINES = "a red circle", range(15, 36)  # about 20


def find_code(page):
    """Return the one block of Python of a page."""
    text = (ROOT / f"docs/export_{page}.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return code


@pytest.fixture
def run_page(built, tmp_path, monkeypatch):
    """Return a function: name of a page -> the variables that its code ends with."""
    (tmp_path / "my.index").symlink_to(built[0])
    with VideoIndex.open(built[0]) as index:
        export_parquet(index, tmp_path / "export")
    monkeypatch.chdir(tmp_path)

    def run(page):
        (tmp_path / "page.py").write_text(find_code(page), encoding="utf-8")
        return runpy.run_path(str(tmp_path / "page.py"))

    return run


@pytest.fixture
def wanted(built):
    """The nearest entries, nearest first, and those with a word that contains casin."""
    with VideoIndex.open(built[0]) as index:
        hits = index.search(QUERY, k=5, mode="semantic", exact=True)
        entries = [hit.id for hit in index.search("x", k=len(index), mode="semantic")]
        with index.reading() as (connection, _):
            rows = connection.execute(
                "SELECT DISTINCT entry_id FROM postings JOIN words ON words.id = word_id "
                "WHERE text LIKE '%casin%'"
            )
            containing = {entry for (entry,) in rows}
        exact = {hit.id for hit in index.search("casino", k=99, mode="keyword")
                 if any(match.kind == "exact" for match in hit.words)}  # fmt: skip
    assert exact == containing and 0 < len(containing) < len(entries)
    return [hit.id for hit in hits], sorted(containing)


def test_duckdb(run_page, wanted):
    pytest.importorskip("duckdb")
    found = run_page("duckdb")
    assert ([row[0] for row in found["nearest"]], [row[0] for row in found["containing"]]) == wanted
    assert [len(row) for row in found["boxes"]] == [6] * 5


def test_qdrant(run_page, wanted):
    pytest.importorskip("qdrant_client")
    found = run_page("qdrant")
    assert (found["nearest"], sorted(found["containing"])) == wanted


@pytest.fixture
def postgres():
    """The address of a server with pgvector and pg_trgm, which ends with the test.

    Its folder is none of pytest's: the server of root is another user's process.
    """
    pgserver = pytest.importorskip("pgserver")
    with pgserver.get_server(tempfile.mkdtemp(), cleanup_mode="delete") as server:
        yield server.get_uri()


def test_postgresql(run_page, wanted, postgres, monkeypatch):
    psycopg = pytest.importorskip("psycopg")
    pytest.importorskip("pgvector")
    monkeypatch.setenv("DATABASE_URL", postgres)
    found = run_page("postgresql")
    assert ([row[0] for row in found["nearest"]], [row[0] for row in found["containing"]]) == wanted
    with psycopg.connect(postgres) as db:  # what was loaded stays, and the indexes can be used
        assert db.execute("SELECT count(*) FROM entries").fetchone() == (8,)
        db.execute("SET enable_seqscan = off")
        plan = db.execute("EXPLAIN SELECT * FROM words WHERE word LIKE '%casin%'").fetchall()
        assert "words_word_idx" in str(plan)
        first = "(SELECT vector FROM entries WHERE id = 1)"
        plan = db.execute(f"EXPLAIN SELECT id FROM entries ORDER BY vector <=> {first} LIMIT 5")
        assert "entries_vector_idx" in str(plan.fetchall())


def test_opensearch_is_said_not_to_be_run():
    text = (ROOT / "docs/export_opensearch.md").read_text(encoding="utf-8")
    assert "**This page has not been run**" in text
    ast.parse(find_code("opensearch"))


@pytest.mark.parametrize("page", [path.stem.removeprefix("export_") for path in PAGES])
def test_pages_are_short_name_columns_that_there_are_and_are_linked(page):
    code = find_code(page)
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) in LINES and max(map(len, lines)) <= 120
    columns = {column.name for table in TABLES for column in table.columns}
    asked = re.findall(r"columns=\[(.*?)\]|columns = \[(.*?)\]", code)
    named = {name for pair in asked for name in re.findall(r'"(\w+)"', "".join(pair))}
    assert named <= columns
    assert f"](export_{page}.md)" in (ROOT / "docs/export.md").read_text(encoding="utf-8")
