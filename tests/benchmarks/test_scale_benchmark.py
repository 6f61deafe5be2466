"""``python -m benchmarks.scale``: its points, its exponents, its plots."""

import json
import math
import sys
import tempfile
from functools import partial
from pathlib import Path

import pytest

from benchmarks import measuring, one_step, scale


def test_the_exponent_is_that_of_the_power_law():
    x = [0, 1, 10, 100]
    assert scale.fit_exponent(x, [9, 3, 3 * 10**1.5, 3 * 100**1.5]) == pytest.approx(1.5)
    assert math.isnan(scale.fit_exponent([0, 5], [1, 1]))


def measure_here(module: str, *options: object) -> dict[str, float]:
    assert module == "benchmarks.one_step"
    asked = one_step.parse_arguments([str(option) for option in options])
    with tempfile.TemporaryDirectory() as folder:
        return one_step.measure_steps(one_step.make_config(Path(folder), asked), asked)


@pytest.mark.filterwarnings("ignore:Data has no positive values")  # this process had its peak
def test_every_point_is_measured_and_drawn(tmp_path, monkeypatch, capsys):
    from PIL import Image

    step = partial(scale.measure_step, "--words", model="demo", steps=2)
    few = {
        "words": scale.Growth("words", (0, 2), step),
        "evaluation": scale.Growth("videos", (30, 60), scale.measure_evaluation),
        "opening": scale.Growth("documents", (1, 3), scale.measure_opening),
    }
    monkeypatch.setattr(scale, "list_growths", lambda *_: few)
    # A process of its own would import torch anew.
    monkeypatch.setattr(measuring, "run_in_new_process", lambda function, *args: function(*args))
    monkeypatch.setattr(measuring, "run_module", measure_here)
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
    table = scale.make_table(found)
    assert table.count("| exponent |") == 3 and "second opening" in table
    with Image.open(file) as picture:
        assert picture.width > 800 and len(picture.convert("RGB").getcolors(10**6)) > 10
