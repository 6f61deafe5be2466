"""A run that does not train the word encoder encodes each word of a data set once."""

from collections import Counter

import pytest
import torch

from tests.evaluation.test_encode_once import encoded_by
from tests.trainer.test_resume import made
from utils.interrupt import Stopped

FIXED = ["arch.args.ocr_encoder_grad=false", "trainer.epochs=2", "trainer.init_val=true"]


def recorded_losses(trainer) -> list[float]:
    losses, step = [], trainer.train_step

    def noting(batch):
        numbers = step(batch)
        losses.append(numbers[0].item())
        return numbers

    trainer.train_step = noting
    return losses


@pytest.mark.parametrize("chunk_size", ["null", "2"])
def test_each_word_of_a_set_is_encoded_once_in_a_whole_run(chunk_size, make_config, tmp_path):
    trainer = made(make_config(*FIXED, f"trainer.chunk_size={chunk_size}"), tmp_path)
    before = {name: w.clone() for name, w in trainer.model.named_parameters()}
    words = encoded_by(trainer.model.ocr_model)
    trainer.fit()
    sets = [set(loader.word_tokens) for loader in (*trainer.loaders, *trainer.valid_loaders)]
    assert len(sets) == 2 and sets[0] != sets[1]
    assert words == sum((Counter(tokens) for tokens in sets), Counter())
    after = trainer.model.named_parameters()
    changed = {n.split(".")[0] for n, weight in after if (weight != before[n]).any()}
    assert "ocr_model" not in changed
    assert changed >= {"text_model", "video_model", "fusion_model", "ocr_pos_embeds"}
    assert trainer.progress.step == 4


def test_a_run_with_tables_is_that_without(make_config, tmp_path, monkeypatch):
    config = make_config(*FIXED, kind="ocr")
    losses = []
    for name in ("tables", "none"):
        trainer = made(config, tmp_path / name)
        if name == "none":
            monkeypatch.setattr(trainer.word_vectors, "encode", lambda *_: True)
        losses.append(recorded_losses(trainer))
        words = encoded_by(trainer.model.ocr_model)
        trainer.fit()
        assert max(words.values()) > 2 if name == "none" else max(words.values()) <= 2
    assert losses[0] == pytest.approx(losses[1], abs=1e-5) and len(set(losses[0])) == 4


def test_a_run_can_be_stopped_among_the_words(make_config, tmp_path):
    trainer = made(make_config(FIXED[0], kind="ocr"), tmp_path)
    words = encoded_by(trainer.model.ocr_model)
    encode = trainer.word_vectors.encode
    trainer.word_vectors.encode = lambda *asked: encode(*asked[:2], lambda: bool(words))
    with pytest.raises(Stopped, match="stopped and saved after step 0"):
        trainer.fit()
    assert len({len(word) for word in words}) == 1
    vars(trainer.word_vectors).pop("encode")  # no cycle may keep the trainer


def test_trained_words_have_no_table(make_config, tmp_path):
    trainer = made(make_config(kind="ocr"), tmp_path)
    assert trainer.word_vectors.encode(trainer.loaders[0], trainer.precision)
    assert trainer.word_vectors.get(trainer.loaders[0]) is None
    assert torch.is_grad_enabled()


def test_drawn_words_have_no_table(make_config, tmp_path):
    noise = ["data_loader.args.ocr_params.noise=0.3", "data_loader.args.ocr_params.drop_words=0.3"]
    trainer = made(make_config(*FIXED, *noise, kind="ocr"), tmp_path)
    words = encoded_by(trainer.model.ocr_model)
    trainer.fit()
    assert trainer.word_vectors.get(trainer.loaders[0]) is None
    assert trainer.word_vectors.get(trainer.valid_loaders[0]) is not None
    own = set(trainer.loaders[0].word_tokens)
    shown = set(trainer.valid_loaders[0].word_tokens)
    assert shown <= set(words) and set(words) - own - shown  # misread ones
