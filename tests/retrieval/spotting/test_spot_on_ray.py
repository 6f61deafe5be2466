"""``spot_text.py --ray``: the documents that it writes without a cluster."""

from pathlib import Path

import pytest

from retrieval.spotting.rapid_ocr import RapidOcrSpotter
from tests.ray_cluster import ray_cluster  # noqa: F401 - a fixture
from tests.retrieval.spotting.engines import (
    SameText,
    list_documents,
    put,
    run_command,
)
from utils.errors import UserError


def read_documents(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in list_documents(out)}


def test_the_same_documents_and_what_fails_is_said_once(tmp_path, demo, capsys):
    videos = tmp_path / "videos"
    for number, source in enumerate(sorted((demo / "Videos").rglob("*.mp4"))[:4]):
        put(videos, source.read_bytes(), f"{number % 2}/{number}.mp4")
    put(videos, b"no video", "bad.mp4")
    said = []
    for out, options in (("a", ["--workers", 2]), ("b", ["--ray", "local"])):
        assert run_command(videos, "--out", tmp_path / out, *options) == 1
        captured = capsys.readouterr()
        said += [captured.out.replace(str(tmp_path / out), "OUT"), captured.err.count("bad.mp4: ")]
    assert said[:2] == said[2:] and said[1] == 1 and said[0].startswith("OUT: 4 videos spotted, ")
    documents = read_documents(tmp_path / "b")
    assert documents == read_documents(tmp_path / "a") and len(documents) == 4
    assert b"tracks" in documents["0/0.mp4.json"]
    # What is there is kept, and no cluster is asked for it.
    (videos / "bad.mp4").unlink()
    assert run_command(videos, "--out", tmp_path / "b", "--ray", "192.0.2.1:1") == 0
    assert capsys.readouterr().out.endswith("; 4 kept\n")


def test_another_engine_on_a_machine_is_refused(tmp_path):
    from retrieval.spotting.folder import _make_work_elsewhere

    spotter, other = RapidOcrSpotter(), {"engine": "rapidocr", "version": "0"}
    with pytest.raises(UserError, match="its text engine is another one .*install the same"):
        _make_work_elsewhere(other, spotter, tmp_path, tmp_path, 1.0, "av")
    with pytest.raises(UserError, match="gone is not there; every machine of the cluster"):
        _make_work_elsewhere({}, SameText(), tmp_path / "gone", tmp_path, 1.0, "av")
