"""A real server, in a thread, of an index of small videos."""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from retrieval import VideoIndex
from retrieval.storage.writer import IndexWriter, locked
from retrieval.web.app import make_app
from retrieval.web.guard import Access
from retrieval.web.server import Server, listening_socket
from tests.retrieval.web.street import write_street


@contextmanager
def serving(folder: Path, access: Access | None = None) -> Iterator[str]:
    """Serve an index on a free port; yields the address, without the last slash."""
    with VideoIndex.open(folder) as index, listening_socket("127.0.0.1", 0) as listener:
        server = Server(make_app(index, access or Access()))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


@pytest.fixture(scope="session")
def street(make_config, tmp_path_factory) -> Path:
    """``videos/``, ``ocr/``, ``model.pth`` and ``my.index``. Read only."""
    folder = tmp_path_factory.mktemp("street")
    write_street(folder, make_config())
    return folder


@pytest.fixture
def own_street(street: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    folder = Path(shutil.copytree(street, tmp_path / "street"))
    with locked(folder / "my.index"), IndexWriter(folder / "my.index") as writer:
        writer.set_meta(folder=str(folder / "videos").encode().hex())
    return folder


@pytest.fixture(scope="session")
def address(street: Path) -> Iterator[str]:
    """A server of the street that anyone on this machine may ask."""
    with serving(street / "my.index") as found:
        yield found


@pytest.fixture(scope="session")
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, trust_env=False) as opened:
        yield opened
