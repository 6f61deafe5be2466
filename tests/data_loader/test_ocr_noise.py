"""OCR words of training that are left out and misread on purpose."""

import logging
from collections import Counter

import numpy as np
import pytest

from base.batch import SampleKey
from data_loader.ocr import ocr_noise
from data_loader.ocr.ocr_noise import CONFUSIONS, disturb_words, misread
from data_loader.ocr.ocr_words import OcrParams, OcrWords, extract_words
from tests.data_loader.test_loader import epoch_of, loader, same
from tests.data_loader.textvr_folder import BOX, VIDEOS, dataset, write_json, write_textvr

NOISY = OcrParams(drop_words=0.3, noise=0.3)
TEXTS = ["SALE now open", "breaking news from harlem", "corner clinic vvery illegible"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = write_textvr(tmp_path_factory.mktemp("data"))
    for path in (root / "Kwai_VideoOCR").rglob("*.json"):
        lines = {str(n): {"text": t, "score": 0.9 - n / 10, "tracks": {"0": BOX, str(n + 1): BOX}}
                 for n, t in enumerate(TEXTS)}  # fmt: skip
        write_json(path, lines)
    return root


def words_of(*texts, **params):
    document = {
        str(n): {"text": text, "score": 0.9 - n / 10, "tracks": {str(n): BOX}}
        for n, text in enumerate(texts)
    }
    return extract_words(document, OcrParams(**params))


def drawn(found, seed=0, **params):
    return disturb_words(found, OcrParams(**params), np.random.default_rng(seed))


def test_nothing_is_drawn_unless_it_is_asked_for():
    found, rng = words_of(*TEXTS), np.random.default_rng(0)
    kept = disturb_words(found, OcrParams(), rng)
    assert kept.words == found.words and kept.tracks is found.tracks
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state


def test_words_are_left_out_with_their_tracks():
    found = OcrWords([f"w{n:04}" for n in range(2000)], np.arange(24000.0).reshape(2000, 12), 3)
    kept = drawn(found, drop_words=0.25)
    assert 1400 < len(kept.words) < 1600 and kept.num_skipped == 3
    assert kept.tracks[:, 0].tolist() == [12.0 * int(word[1:]) for word in kept.words]
    assert len(found.words) == 2000  # as it was
    assert drawn(found, 1, drop_words=0.25).words != kept.words
    none = [drawn(words_of("sale"), seed, drop_words=0.5) for seed in range(20)]
    assert {len(some.words) for some in none} == {0, 1}
    assert all(some.tracks.shape == (len(some.words), 12) for some in none)


def test_as_many_characters_are_misread_as_asked(monkeypatch):
    monkeypatch.setattr(ocr_noise, "LOOKALIKE_SHARE", 1.0)
    rng = np.random.default_rng(0)
    text = "o" * 20_000
    found = Counter(misread(text, 0.1, rng))
    assert set(found) == {"o", *CONFUSIONS["o"]} and len(CONFUSIONS["o"]) == 3
    assert all(550 < found[char] < 780 for char in CONFUSIONS["o"])
    assert misread("rnrn", 0.0, rng) == "rnrn"
    # Pairs that look like one letter, and letters that look like pairs.
    assert {"m", "nn"} < {misread("rn", 0.5, rng) for _ in range(200)}
    assert "rn" in {misread("m", 0.5, rng) for _ in range(200)}
    assert {misread("中", 0.999, rng) for _ in range(100)} == {"", "中中", "中 "}


def test_the_table_is_of_what_the_rules_let_through():
    assert all(1 <= len(key) <= 2 and key == key.lower() for key in CONFUSIONS)
    for key, others in CONFUSIONS.items():
        assert key not in others and len(set(others)) == len(others)
        assert all(ord(char) <= OcrParams().max_char for other in others for char in other)


def test_pieces_and_joined_words_keep_their_line_and_the_rules():
    found = words_of("breaking news", "harlem", "sales", min_length=3)
    by_track = dict(zip(map(tuple, found.tracks), [0, 0, 1, 2], strict=True))
    assert len(by_track) == 3
    seen = Counter()
    for seed in range(400):
        kept = drawn(found, seed, noise=0.1, min_length=3, max_words=4)
        assert len(kept.words) == len(kept.tracks) <= 4
        assert all(len(word) >= 3 and " " not in word for word in kept.words)
        lines = [by_track[tuple(row)] for row in kept.tracks]
        assert lines == sorted(lines)  # best first, as before
        seen.update(word for word, line in zip(kept.words, lines, strict=True) if line == 0)
        assert not any("harlemsales" in word for word in kept.words)  # of two lines
    assert seen["breakingnews"] and seen["news"] > 100 and seen["brea"] + seen["break"]


def samples(data, epoch=1):
    return [data[SampleKey(epoch, index)] for index in range(len(data))]


def test_the_words_of_a_training_sample_depend_on_seed_epoch_and_index_only(folder):
    data, again = (dataset(folder, training=True, ocr=NOISY) for _ in range(2))
    keys = [SampleKey(epoch, index) for epoch in (1, 2) for index in range(len(data))]
    first = {key: data[key] for key in keys}
    for key in reversed(keys):
        assert again[key].words == first[key].words
        np.testing.assert_array_equal(again[key].tracks, first[key].tracks)
    assert len({tuple(sample.words) for sample in first.values()}) > 6
    other = dataset(folder, training=True, ocr=NOISY, seed=1)
    assert [s.words for s in samples(other)] != [s.words for s in samples(data)]
    # Frames, colours and captions are as without noise.
    plain = dataset(folder, training=True)
    for one, noisy in zip(samples(plain), samples(data), strict=True):
        assert one.frames.equal(noisy.frames) and one.captions == noisy.captions
        np.testing.assert_array_equal(one.color, noisy.color)


def test_noise_does_not_depend_on_workers_or_where_an_epoch_is_taken_up(folder):
    plain, parallel = (
        loader(folder, ocr_params=NOISY, num_workers=n, batch_size=2) for n in (0, 2)
    )
    whole = epoch_of(plain, 3)
    assert all(same(*pair) for pair in zip(whole, epoch_of(parallel, 3), strict=True))
    plain.set_epoch(3, 99, first=1)
    (rest,) = plain
    assert same(rest, whole[1])


def test_validation_test_and_index_have_none(folder, tmp_path):
    clean = [s.words for s in samples(dataset(folder))]
    data = dataset(folder, ocr=NOISY)
    assert [s.words for s in samples(data)] == clean and not data.draws_words
    training = dataset(folder, training=True, ocr=NOISY)
    assert training.draws_words and not dataset(folder, training=True).draws_words
    assert [s.words for s in samples(training)] != clean
    assert [training.get_words(number) for number in range(len(VIDEOS))] == clean
    # One store of words serves all of them.
    for params in (OcrParams(), NOISY):
        loader(folder, ocr_params=params, cache_dir=str(tmp_path))
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    assert OcrParams().rules() == NOISY.rules() and NOISY.rules(exclude_defaults=True) == {}


def test_a_video_may_be_left_without_words(folder, caplog):
    caplog.set_level(logging.WARNING)
    batches = loader(folder, ocr_params=OcrParams(drop_words=0.99), batch_size=4)
    words = epoch_of(batches, 1)[0].words
    assert words.mask.any(1).all() and (2, 1) == words.groups[0]  # the empty word
    assert not caplog.text


@pytest.mark.parametrize("params", [{"drop_words": 1.0}, {"noise": -0.1}, {"noise": 1.0}])
def test_what_is_no_probability_is_refused(params):
    with pytest.raises(ValueError, match="greater|less"):
        OcrParams(**params)
