"""An index of small videos, and a server of it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from headless_browser import Page, browser_page

from retrieval.index.writer import IndexWriter, lock_index
from tests.retrieval.web.serving import serving
from tests.retrieval.web.street import write_street


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
    with lock_index(folder / "my.index"), IndexWriter(folder / "my.index") as writer:
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


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Page]:
    with browser_page(tmp_path_factory.mktemp("browser")) as opened:
        yield opened
