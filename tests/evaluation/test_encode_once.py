"""Evaluation encodes each distinct caption and OCR word of the set once, before the videos."""

import json
import shutil
from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from torch import nn

from base.base_model import ModelInput, RetrievalModel
from evaluation.embedding_cache import encode_texts
from evaluation.evaluator import Evaluator
from trainer.build import build_criterion, build_loader, build_model
from utils.errors import UserError
from utils.precision import Precision

CPU = torch.device("cpu")
FP32 = Precision("fp32", CPU)


@pytest.fixture
def repeating(demo, tmp_path):
    """The demo with a caption that three test videos share; its clips show words several times."""
    folder = tmp_path / "repeating"
    shutil.copytree(demo, folder)
    entries = json.loads((folder / "TextVR_test.json").read_text())
    for number in (0, 5, 7):
        entries[number]["captions_info"][0]["caption"] = "A red circle"
    (folder / "TextVR_test.json").write_text(json.dumps(entries))
    return folder


def made(config, **changes):
    loader = build_loader(config, 0, training=False, **{"split": "test", "batch_size": 3} | changes)
    return (
        build_model(config, CPU),
        loader,
        Evaluator(config.metrics, build_criterion(config, CPU), FP32),
    )


def encoded_by(encoder: nn.Module) -> Counter:
    """Count the texts that go through a text model from now on; it is asked by keyword."""
    texts: Counter = Counter()

    def note(_: nn.Module, args: tuple, given: dict) -> None:
        if "texts" in given:  # words end to end
            flat = iter(given["input_ids"][0].tolist())
            groups = given["texts"].groups
            lengths = [length for length, count in groups for _ in range(count)]
            texts.update(tuple(islice(flat, length)) for length in lengths)
            return
        rows = zip(given["input_ids"].tolist(), given["attention_mask"].tolist(), strict=True)
        texts.update(tuple(i for i, m in zip(*row, strict=True) if m) for row in rows)

    encoder.register_forward_pre_hook(note, with_kwargs=True)
    return texts


def test_each_caption_and_each_word_goes_through_its_encoder_once(repeating, make_config):
    config = make_config(f"data_loader.args.data_dir={repeating}")
    model, loader, evaluator = made(config)
    captions, words = encoded_by(model.text_model), encoded_by(model.ocr_model)
    evaluator.run(model, loader)
    assert len(captions) == 6 and set(captions.values()) == {1}
    shown = [loader.dataset.get_words(video) for video in range(8)]
    assert len(words) == len({word for words in shown for word in words}) > 4
    assert set(words.values()) == {1} and sum(map(len, shown)) > 1.5 * len(words)
    evaluator.run(model, loader)  # the weights may be others by now
    assert set(captions.values()) == set(words.values()) == {2}


def test_windows_of_a_video_share_its_words(make_config):
    config = make_config()
    model, loader, evaluator = made(config, sliding_window_stride=1)
    assert len(loader.dataset) > 16
    words = encoded_by(model.ocr_model)
    result = evaluator.run(model, loader)
    assert set(words.values()) == {1} and result.similarity.shape == (8, 8)
    with torch.no_grad():
        model.eval()
        batches = [loader.to_device(batch, CPU) for batch in loader]
        clips = torch.cat([model(batch)["fusion"] for batch in batches])
    index = torch.cat([batch.video_index for batch in batches])
    means = torch.stack([clips[index == video].mean(0) for video in range(8)])
    np.testing.assert_allclose(result.video_embeds, means, atol=2e-6)


def test_videos_without_words_share_the_blank_word(make_config, tmp_path):
    (tmp_path / "none").mkdir()
    config = make_config(f"data_loader.args.ocr_dir={tmp_path / 'none'}")
    model, loader, evaluator = made(config)
    words = encoded_by(model.ocr_model)
    result = evaluator.run(model, loader)
    assert list(words.values()) == [1] and len(result.report.gather().ocr_missing) == 8


def test_words_that_are_known_are_not_encoded(make_config):
    config = make_config(kind="ocr")
    model, loader, evaluator = made(config)
    expected = evaluator.run(model, loader)
    known = encode_texts(loader.word_tokens, model.eval().encode_words, FP32)
    words = encoded_by(model.ocr_model)
    found = evaluator.run(model, loader, words=known)
    assert not words and np.array_equal(found.similarity, expected.similarity)
    known.vectors.zero_()
    other = evaluator.run(model, loader, words=known)
    assert np.abs(other.video_embeds - expected.video_embeds).max() > 1e-3


@pytest.mark.parametrize("after", ["ocr_model", "text_model"])
def test_it_stops_among_the_texts(after, make_config):
    model, loader, evaluator = made(make_config())
    model.train()
    texts = encoded_by(getattr(model, after))
    assert evaluator.run(model, loader, lambda: len(texts) > 0) is None
    assert len({len(text) for text in texts}) == 1 and model.training  # the first chunk


class Undivided(RetrievalModel):
    """An architecture that gives what training needs and nothing more."""

    video_key = "video"

    @classmethod
    def describe_input(cls, **arguments):
        return ModelInput(("vision",), "x")

    def forward(self, batch):
        return {}


@pytest.mark.parametrize(("kind", "said"), [("vision", "embed_queries"), ("ocr", "encode_words")])
def test_an_architecture_without_the_parts_is_told_which(kind, said, make_config):
    _, loader, evaluator = made(make_config(kind=kind))
    with pytest.raises(UserError, match=rf"Undivided can.t be evaluated: .* no {said}\(") as one:
        evaluator.run(Undivided(), loader)
    assert "\n" not in str(one.value)
    with pytest.raises(UserError, match="Undivided .* no embed_videos"):
        Undivided().embed_videos(next(iter(loader)))
