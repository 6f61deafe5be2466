"""Checkpoints whose weights are good and whose training state is not: one message that says so."""

import pytest
import torch

from tests.trainer.test_resume import made
from utils.checkpoint.files import CheckpointError, load_checkpoint

DAMAGES = {
    "optimizer": [None, {}, {"state": {}, "param_groups": 3}, {"state": [], "param_groups": [{}]}],
    "progress": [None, torch.ones(3)],
    "random_states": [[], [None], [{"python": []}]],
    "data_report": [3],
    "best": [[1]],
}


def test_a_training_state_of_any_content(make_config, tmp_path):
    config = make_config("trainer.epochs=1", kind="ocr")
    made(config, tmp_path / "run").fit()
    whole = load_checkpoint(tmp_path / "run" / "model_last.pth")
    path = tmp_path / "damaged.pth"
    trainer = made(config, tmp_path / "other")
    for key, values in DAMAGES.items():
        for value in values:
            torch.save(whole | {key: value}, path)
            with pytest.raises(CheckpointError, match="^[^\n]*damaged.pth: ") as caught:
                trainer.state.load(path)
            assert "training state is damaged" in str(caught.value)
    torch.save(whole, path)
    trainer.state.load(path)
