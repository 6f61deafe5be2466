"""What tests of several processes share."""

import json
from typing import Any

import pytest
import torch

from tests.model.small_models import PATCH, RES, VOCABULARY, write_text_model
from tests.model.small_towers import write_clip
from tests.ranks import run_ranks
from tests.trainer.distributed_steps import take_steps


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """Return a function: processes, chunk size (0: whole), settings -> what three steps gave."""
    folder = tmp_path_factory.mktemp("steps")
    text_model = write_text_model(folder / "text")
    write_clip(folder / "tower", VOCABULARY, RES, PATCH)
    config = json.loads((text_model / "config.json").read_text())
    config |= {"dropout": 0.0, "attention_dropout": 0.0}
    (text_model / "config.json").write_text(json.dumps(config))
    done = {}

    def run(count: int, chunk_size: int = 0, **settings: Any) -> dict:
        key = json.dumps([count, chunk_size, settings], default=str)
        if key not in done:
            out = folder / f"{len(done)}.pt"
            given = text_model, out, chunk_size, settings
            run_ranks(count, folder / "stderr", take_steps, *given)
            done[key] = torch.load(out, weights_only=True)
        return done[key]

    return run
