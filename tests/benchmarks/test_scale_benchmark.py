"""``python -m benchmarks.scale``: its points, its exponents, its plots."""

import json
import math
import sys

import pytest

from benchmarks import ocr_open, scale


def test_the_exponent_is_that_of_the_power_law():
    x = [0, 1, 10, 100]
    assert scale.exponent(x, [9, 3, 3 * 10**1.5, 3 * 100**1.5]) == pytest.approx(1.5)
    assert math.isnan(scale.exponent([0, 5], [1, 1]))


def test_every_point_is_measured_and_drawn(tmp_path, monkeypatch, capsys):
    from PIL import Image

    few = {
        "words": scale.Growth("words", (0, 2), lambda n: scale.step("--words", n, "demo", 2)),
        "evaluation": scale.Growth("videos", (30, 60), scale.evaluation),
        "opening": scale.Growth("documents", (1, 3), scale.opening),
    }
    monkeypatch.setattr(scale, "growths", lambda *_: few)
    for module in (scale, ocr_open):  # each would import torch anew
        monkeypatch.setattr(module, "in_new_process", lambda function, *given: function(*given))
    file = tmp_path / "figures/scale.png"
    monkeypatch.setattr(sys, "argv", ["scale", "--runs", "1", "--plot", str(file), "--json"])
    scale.main()
    found = json.loads(capsys.readouterr().out)
    assert [growth["values"] for growth in found["growths"]] == [[0, 2], [30, 60], [1, 3]]
    for growth in found["growths"]:
        for points in growth["points"].values():
            assert len(points) == len(growth["values"]) and all(len(point) == 1 for point in points)
        assert all(point[0] > 0 for name, points in growth["points"].items()
                   for point in points if name != "MiB")  # fmt: skip
    table = scale.table(found)
    assert table.count("| exponent |") == 3 and "second opening" in table
    with Image.open(file) as picture:
        assert picture.width > 800 and len(picture.convert("RGB").getcolors(10**6)) > 10
