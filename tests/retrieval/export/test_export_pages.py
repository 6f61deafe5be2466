"""Pages that load an export into another engine: their code is run as it stands there."""

import fnmatch
import json
import re
import runpy
import sqlite3
import tempfile
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
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
        with closing(sqlite3.connect(built[0] / "index.db")) as connection:
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


class OpenSearchStandIn(BaseHTTPRequestHandler):
    """Keeps the documents that it is sent, and answers the two queries of the page."""

    documents: dict[str, dict] = {}

    def do_POST(self) -> None:
        lines = self.rfile.read(int(self.headers["Content-Length"])).splitlines()
        sent = [json.loads(line) for line in lines]
        if self.path.startswith("/_bulk"):
            pairs = zip(sent[::2], sent[1::2], strict=True)
            found = {action["index"]["_id"]: source for action, source in pairs}
            self.documents.update({str(number): source for number, source in found.items()})
            answer = {"errors": False, "items": [{"index": {"status": 201}} for _ in found]}
        elif self.path.startswith("/entries/_search"):
            answer = {"hits": {"hits": [{"_id": one} for one in self._find(sent[0]["query"])]}}
        else:
            answer = {"acknowledged": self.path == "/entries"}
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_PUT = do_POST  # noqa: N815

    def _find(self, query: dict) -> list[str]:
        if "wildcard" in query:
            pattern = query["wildcard"]["words"]
            return [one for one, document in self.documents.items()
                    if fnmatch.filter(document["words"], pattern)]  # fmt: skip
        wanted = query["knn"]["vector"]
        score = {one: np.dot(document["vector"], wanted["vector"])
                 for one, document in self.documents.items()}  # fmt: skip
        return sorted(score, key=score.get, reverse=True)[: wanted["k"]]

    def log_message(self, *_: object) -> None:
        pass


def test_opensearch_is_run_with_a_stand_in_only_and_says_so(run_page, wanted, monkeypatch):
    pytest.importorskip("opensearchpy")
    text = (ROOT / "docs/export_opensearch.md").read_text(encoding="utf-8")
    assert "**This page has not been run with OpenSearch**" in text
    OpenSearchStandIn.documents = {}
    with ThreadingHTTPServer(("127.0.0.1", 0), OpenSearchStandIn) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OPENSEARCH_URL", f"http://127.0.0.1:{server.server_address[1]}")
        found = run_page("opensearch")
        server.shutdown()
    assert (found["nearest"], found["containing"]) == wanted


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
