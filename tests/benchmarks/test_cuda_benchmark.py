"""The benchmark of a GPU: what it says without one, its tables, and its formula."""

import sys

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks import cuda
from utils.errors import UserError

STEP = {"words": 50, "flops": 36e12}
RESULT = {
    "date": "2026-01-01", "machine": "16 thread(s) of a processor, a card", "versions": "torch 9",
    "driver": "1.2", "memory_gib": 80.0, "bytes_a_second": 3e12,
    "rate_bf16": 800e12, "rate_tf32": 400e12, "rate_fp32": 50e12,
    "correctness": {
        "attention": [{
            "precision": "bf16", "axis": "time", "frames": 16, "differences": [1e-3, 2e-3],
        }],
        "embeddings": {"bf16": 0.012},
    },
    "steps": [
        STEP | {"path": "plain", "precision": "fp32", "seconds": 1.8, "peak_gib": 60.0},
        STEP | {"path": "ours", "precision": "bf16", "how": "compile", "seconds": 0.09,
                "peak_gib": 20.0, "first_step": 12.0, "graphs": 2},
    ],
    "memory": {
        "curve": [
            {"batch": 64, "how": "", "seconds": 0.1, "peak_gib": 17.0},
            {"batch": 256, "how": "", "seconds": 0.4, "peak_gib": 90.0},
            {"batch": 64, "how": "checkpointing", "seconds": 0.2, "peak_gib": 6.0},
            {"batch": 256, "how": "checkpointing", "seconds": None, "peak_gib": None},
        ],
        "cache": {"batch": 4096, "chunk": 256, "seconds": 9.0, "peak_gib": 70.0},
    },
    "text": [{"words": 50, "distinct": 1308, "tokens": 5000, "seconds": [0.01, 0.02, 0.03],
              "busy": 0.008, "launches": 900}],
    "evaluation": [{"precision": "bf16", "seconds": 3.5, "words_alone": 0.25}],
}  # fmt: skip


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["cuda"])
    with pytest.raises(UserError, match="this machine has no CUDA GPU"):
        cuda.main()


def test_tables():
    text = cuda.make_tables(RESULT)
    assert "bf16 800, tf32 400, fp32 50 TFLOP/s; copies 3.00 TB/s" in text
    assert "| bf16 | time | 16 | 1.0e-03 | 2.0e-03 |" in text and "bf16 1.2e-02" in text
    # 64 clips in 90 ms are 711 a second, 20 times 1.8 s; 36 TFLOP in 90 ms are half of 800.
    assert "| 50 | ours | bf16 compile | 90 | 711 | 20.0 | 50% | 20.0 | 12 | 2 |" in text
    assert "| 64 | kept | 640 | 17.0 | yes |" in text and "| 256 | kept | 640 | 90.0 | no |" in text
    assert "| 256 | checkpointing | does not fit |  |  |" in text
    assert "4096 videos in chunks of 256: 9.0 s a step, peak 70.0 GiB" in text
    assert "| 50 | 1308 | 5000 | 20.0 (10.0 … 30.0) | 8.0 | 900 |" in text
    assert "| bf16 | 3.5 | 0.2 |" in text


def test_files_of_what_is_known_so_far(tmp_path):
    cuda.write_files(tmp_path / "out", {key: RESULT[key] for key in RESULT if key != "memory"})
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"cuda.json", "cuda.md"}
    cuda.write_files(tmp_path / "out", RESULT)
    assert (tmp_path / "out/cuda.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("over_time", [True, False])
def test_the_formula_is_attention_within_groups(over_time):
    frames, patches = 3, 4
    qkv = torch.randn(2, 1 + frames * patches, 3, 2, 8, dtype=torch.float64)
    found = cuda.attend_by_formula(qkv, frames, over_time)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, S, C)
    groups = torch.arange(frames * patches).view(frames, patches) + 1
    for group in groups.T if over_time else groups:
        seen = torch.cat((torch.zeros(1, dtype=torch.int64), group))
        expected = scaled_dot_product_attention(q[:, :, group], k[:, :, seen], v[:, :, seen])
        torch.testing.assert_close(found[:, group], expected.transpose(1, 2))
    expected = scaled_dot_product_attention(q[:, :, :1], k, v)
    torch.testing.assert_close(found[:, :1], expected.transpose(1, 2))
