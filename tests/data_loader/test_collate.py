from dataclasses import fields

import numpy as np
import pytest
import torch

from base.batch import Sample, Unreadable
from data_loader import collate
from data_loader.collate import Collate, load_tokenizer, pad_tokens
from utils.errors import UserError

FOLDER = "tests/reference/text_model"


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(FOLDER)


def sample(number, words=(), captions=("a caption",), **values):
    tracks = np.full((len(words), 12), number + 1, np.float32) if words else None
    sample = Sample(f"{number}.mp4", number, list(captions), words=list(words), tracks=tracks)
    for name, value in values.items():
        setattr(sample, name, value)
    return sample


def texts(tokenizer, ids):
    return [tokenizer.decode(row, skip_special_tokens=True).replace(" ", "") for row in ids]


def test_each_distinct_word_stands_once_shortest_first(tokenizer):
    videos = [["zqxzqx", "the", "zqx"], ["zqx", "the", "the"], ["zqxzqx"]]
    batch = Collate(tokenizer, True)([sample(n, words) for n, words in enumerate(videos)])
    words = batch.words
    single = {w: tokenizer(w)["input_ids"] for w in ("zqxzqx", "the", "zqx")}
    end = tokenizer.sep_token_id
    laid = [row[: row.index(end) + 1] for row in words.input_ids.tolist()]
    assert sorted(map(tuple, laid)) == sorted(map(tuple, single.values()))  # each once
    lengths = [len(row) for row in laid]
    assert lengths == sorted(lengths) and len(set(lengths)) > 1
    assert words.groups == tuple((n, lengths.count(n)) for n in sorted(set(lengths)))
    assert words.index.shape == words.mask.shape == (3, 3) and words.index.dtype == torch.int64
    for row, own in enumerate(videos):  # index and mask lead back to the video's own words
        assert words.mask[row].tolist() == [n < len(own) for n in range(3)]
        assert [laid[i] for i in words.index[row, : len(own)]] == [single[w] for w in own]
        assert words.tracks[row, : len(own)].eq(row + 1).all()
        assert words.tracks[row, len(own) :].eq(0).all()
    assert words.tracks.shape == (3, 3, 12) and words.tracks.dtype == torch.float32


def test_a_video_without_words_is_given_one_blank_with_a_zero_vector(tokenizer):
    words = Collate(tokenizer, True)([sample(0), sample(1, ["the"])]).words
    assert words.mask.tolist() == [[True], [True]]
    assert words.input_ids[words.index[0, 0]].tolist()[:2] == tokenizer(" ")["input_ids"]
    assert words.groups[0] == (2, 1)  # [CLS] [SEP]
    assert words.tracks[0].eq(0).all() and words.tracks[1].eq(2).all()


def test_words_without_a_video_size_have_zero_tracks(tokenizer):
    words = Collate(tokenizer, True)([sample(0, ["the", "and"], tracks=None)]).words
    assert words.mask.all() and words.tracks.eq(0).all()


def test_queries_are_lower_cased_padded_and_belong_to_their_videos(tokenizer):
    cased = [sample(4, captions=["THE Man", "the man and the man"]), sample(2, captions=["And"])]
    cased.append(sample(7, captions=[]))  # a further window
    batch = Collate(tokenizer, False)(cased)
    assert batch.words is None and batch.query_row.tolist() == [0, 0, 1]
    assert batch.ids == ["4.mp4", "2.mp4", "7.mp4"] and batch.video_index.tolist() == [4, 2, 7]
    alone = [tokenizer(text)["input_ids"] for text in ("the man", "the man and the man", "and")]
    assert [row[m.bool()].tolist() for row, m in zip(*query(batch), strict=True)] == alone
    ids, mask = query(batch)
    assert ids.shape == mask.shape == (3, max(map(len, alone)))
    assert ids[mask == 0].eq(tokenizer.pad_token_id).all() and mask.dtype == torch.int64


def query(batch):
    return batch.query.input_ids, batch.query.attention_mask


def test_lower_casing_does_not_depend_on_the_tokenizer():
    class Cased:
        pad_token_id, model_max_length = 0, 512

        def __call__(self, texts, **options):
            self.seen = texts
            return {"input_ids": [[1]] * len(texts)}

    tokenizer = Cased()
    Collate(tokenizer, False)([sample(0, captions=["ÀB c"])])
    assert tokenizer.seen == ["àb c"]


def test_queries_are_cut_to_the_limit_and_words_are_not(tokenizer):
    long = sample(0, ["zqxzqx"], captions=["the man and " * 300])
    batch = Collate(tokenizer, True, max_tokens=3)([long])
    assert batch.query.input_ids.shape == (1, 3)
    assert batch.words.input_ids[0].tolist() == tokenizer("zqxzqx")["input_ids"]
    assert Collate(tokenizer, False)([long]).query.input_ids.shape == (1, 512)
    # The text model has no positions beyond the tokenizer's limit.
    assert Collate(tokenizer, False, max_tokens=600)([long]).query.input_ids.shape == (1, 512)


def test_a_batch_without_queries(tokenizer):
    batch = Collate(tokenizer, False)([sample(0, captions=[])])
    assert batch.query.input_ids.shape == batch.query.attention_mask.shape == (0, 0)
    assert batch.query_row.shape == (0,)


def test_frames_and_colours_are_stacked(tokenizer):
    samples = [
        sample(n, frames=torch.full((2, 3, 4, 4), n, dtype=torch.uint8), num_frames=n + 1)
        for n in range(2)
    ]
    batch = Collate(tokenizer, False)(samples)
    assert batch.video.shape == (2, 2, 3, 4, 4) and batch.video.dtype == torch.uint8
    assert batch.video[1].eq(1).all() and batch.num_frames.tolist() == [1, 2]
    assert batch.color is None and len(batch) == 2
    for number, item in enumerate(samples):
        item.color = np.full(9, number, np.float32)
    assert Collate(tokenizer, False)(samples).color[:, 0].tolist() == [0, 1]
    assert Collate(tokenizer, False)([sample(0)]).video is None


def test_reports_are_handed_on(tokenizer):
    unreadable = Unreadable("x.mp4", "is empty")
    samples = [
        sample(0, unreadable=unreadable),
        sample(1, ocr_missing="y.json"),
        sample(2, ocr_skipped=3),
    ]
    batch = Collate(tokenizer, True)(samples)
    assert batch.unreadable == [unreadable] and batch.ocr_missing == ["y.json"]
    assert batch.ocr_skipped == {"2.mp4": 3}


def test_errors_are_handed_through(tokenizer):
    errors = [UserError("first"), UserError("second")]
    assert Collate(tokenizer, True)([sample(0), *errors]) is errors[0]


def test_pad():
    assert pad_tokens([[1, 2], [3]], 9).tolist() == [[1, 2], [3, 9]]
    assert pad_tokens([], 9).shape == (0, 0)


class Counting:
    """A tokenizer that notes what it is asked for."""

    def __init__(self, tokenizer):
        self.tokenizer, self.asked = tokenizer, []

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)

    def __call__(self, texts, **options):
        self.asked += texts
        return self.tokenizer(texts, **options)


@pytest.mark.parametrize("most", [0, 2, 100])
def test_a_word_is_tokenised_once(tokenizer, monkeypatch, most):
    monkeypatch.setattr(collate, "MAX_CACHED_WORDS", most)
    batches = [[["the", "zqx"], ["the"]], [["zqx", "and"], []], [["and"], ["the"]], [[], ["the"]]]
    batches = [[sample(n, words) for n, words in enumerate(videos)] for videos in batches]
    counting = Counting(tokenizer)
    kept = Collate(counting, True)
    for samples in batches:
        found, plain = kept(samples).words, Collate(tokenizer, True)(samples).words
        for field in fields(found):
            one, other = getattr(found, field.name), getattr(plain, field.name)
            assert one == other if field.name in ("groups", "vectors") else one.equal(other)
    asked = [text for text in counting.asked if text != "a caption"]
    if most == 100:
        assert asked == ["the", "zqx", "and", " "]
    assert len(kept._cached_tokens) <= most + 2  # of what is kept, and of the last batch
