"""An OCR engine from a file of its own; folders are never a mixture of two engines."""

import json
from importlib import import_module

from retrieval.spotting.folder import IDENTITY_FILE
from tests.retrieval.spotting.engines import (  # noqa: F401 - fixtures
    SameText,
    list_documents,
    make_clip,
    put,
    run_command,
    spot,
)
from tests.videos import write_video

OWN_ENGINE = '''
"""Reads how bright a picture is."""

import numpy as np

from base.registry import TEXT_SPOTTERS
from retrieval.spotting.text_spotter import TextLine, TextSpotter


@TEXT_SPOTTERS.register("brightness")
class Brightness(TextSpotter):
    """Says light or dark.

    Args:
        min_score: of what is light, as a share of white.
    """

    def __init__(self, min_score: float = 0.5) -> None:
        self.min_score, self.names = min_score, None

    def identity(self) -> dict[str, str]:
        return {"engine": "brightness", "version": "1"}

    def load(self) -> None:
        self.names = ["dark", "light"]

    def spot(self, picture: np.ndarray) -> list[TextLine]:
        height, width, _ = picture.shape
        corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float64)
        name = self.names[int(picture.mean() > 255 * self.min_score)]
        return [TextLine(name, 1.0, corners)]
'''


def test_an_engine_from_a_file_of_its_own_spots_a_real_video(tmp_path, monkeypatch, capsys):
    (tmp_path / "brightness_engine.py").write_text(OWN_ENGINE)
    monkeypatch.syspath_prepend(tmp_path)
    import_module("brightness_engine")
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    write_video(videos / "a.mp4", 20)
    engine = "--engine", "brightness"
    assert run_command(videos, "--out", out, *engine, "--min_score", 0, "--workers", 2) == 0
    document = json.loads((out / "a.mp4.json").read_text())
    assert [line["text"] for line in document.values()] == ["light"]
    assert document["0"]["tracks"]["0"][:8] == [0, 0, 64, 0, 64, 48, 0, 48]
    assert run_command(videos, "--out", out, *engine, "--overwrite", "--min_score", 1) == 0
    assert json.loads((out / "a.mp4.json").read_text())["0"]["text"] == "dark"
    assert run_command(videos, "--out", out) == 2
    error = capsys.readouterr().err
    assert "engine brightness, version 1" in error and "engine rapidocr, version 1.4" in error
    assert "another folder as --out" in error
    assert run_command(videos, "--out", out, "--script", "runes", *engine) == 2


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


class OtherText(SameText):
    """The same engine of another version."""

    def identity(self) -> dict[str, str]:
        return {"engine": "same_text", "version": "2"}


def test_a_stopped_overwrite_by_another_engine_is_no_finished_folder(
    tmp_path, clip, monkeypatch, capsys
):
    videos, out = put(tmp_path / "videos", clip, "a.mp4", "b.mp4"), tmp_path / "out"
    assert spot(videos, "--out", out) == 0
    (out / "b.mp4.json").unlink()
    assert spot(videos, "--out", out) == 0  # the same one goes on
    monkeypatch.setattr(SameText, "identity", OtherText.identity)
    assert spot(videos, "--out", out) == 2
    assert "(engine same_text) than the one that is to go on (engine same_text, version 2)" in (
        capsys.readouterr().err
    )
    with monkeypatch.context() as stopped:
        stopped.setattr("retrieval.spotting.folder.run_tasks", _interrupt)
        assert spot(videos, "--out", out, "--overwrite") == 130
    assert spot(videos, "--out", out) == 2
    assert "a run with --overwrite was stopped" in capsys.readouterr().err
    assert spot(videos, "--out", out, "--overwrite") == 0
    assert spot(videos, "--out", out) == 0
    assert "2 kept" in capsys.readouterr().out
    assert list_documents(out) == ["a.mp4.json", "b.mp4.json"]
    (out / IDENTITY_FILE).write_text("[1")
    assert spot(videos, "--out", out) == 2
    assert ".spotting.json is damaged" in capsys.readouterr().err
