"""``python -m benchmarks.towers``: what it measures of a tower, and its table."""

import torch

from base.batch import Tokens
from benchmarks import measuring, towers
from tests.model.small_towers import SIZE, write_tower


def test_a_tower_is_measured_and_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "REPEATS", 1)
    monkeypatch.setattr(towers, "QUERY_TOKENS", 4)
    names = [write_tower(tmp_path / family, family) for family in ("clip", "open_clip")]
    monkeypatch.setattr(torch, "randint", lambda low, high, size, **_: torch.full(size, 3))
    found = [towers.measure_tower(name, torch.device("cpu")) for name in names]
    for one in found:
        assert one["side"] == SIZE and one["parameters"] > one["of texts"] > 0
        assert one["frame, 1"] > 0 and one[f"query, {towers.MANY}"] > 0
    missing = {"tower": names[0], "way": "LoRA", "clips/s": None, "GiB": None}
    shown = {"tower": names[0], "way": "whole", "clips/s": 12.3, "GiB": 4.56}
    result = measuring.describe_machine() | {
        "batch": 2, "towers": found, "training": [shown, missing]
    }  # fmt: skip
    table = towers.make_table(result)
    assert "| 12.3 | 4.6 |" in table and "does not fit" in table
    assert all(name in table for name in names)


def test_texts_are_cut_to_what_a_tower_takes():
    tokens = Tokens(torch.arange(12).reshape(2, 6), torch.ones(2, 6))
    cut = towers.cut_texts(tokens, 4)
    assert cut.input_ids.tolist() == [[0, 1, 2, 3], [6, 7, 8, 9]]
    assert cut.attention_mask.shape == (2, 4)
