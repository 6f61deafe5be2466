"""The baseline of shared words: against a plain count, as a command, and what refuses it."""

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import train
from base.criterion import cosine_similarity
from data_loader.collate import load_tokenizer
from data_loader.synthetic.demo import DemoOptions, make_demo
from model.word_overlap import WordOverlap, find_norm, split_into_squares
from parse_config import load_config
from tests.conftest import ROOT, tiny
from tests.test_test import script
from trainer.build import build_loader, build_model

CONFIG = ROOT / "configs/TextVR_word_overlap.json"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A demo with several looks of each word; read only."""
    out = tmp_path_factory.mktemp("data") / "demo"
    make_demo(out, DemoOptions(looks=6, words=6, clips_per_pair=1))
    return out


def changes(folder: Path) -> list[str]:
    mine = [c for c in tiny(folder) if not c.startswith("arch.") and "lr_scheduler" not in c]
    return [*mine, f"arch.args.tokenizer={folder}/text_model"]


def options(folder: Path) -> list[str]:
    return ["-c", CONFIG, *(part for change in changes(folder) for part in ("--set", change))]


def count_shared(folder: Path, min_letters: int = 4) -> np.ndarray:
    """The counts, from the files themselves."""
    entries = json.loads((folder / "TextVR_test.json").read_text())
    texts = [info["caption"] for entry in entries for info in entry["captions_info"]]
    spotted = []
    for entry in entries:
        document = folder / "Kwai_VideoOCR" / entry["videos_info"]["Kwai_OCR"]
        lines = json.loads(document.read_text()).values()
        spotted.append(" ".join(line["text"] for line in lines))

    def words(text):
        found = re.findall(r"\w+", text.lower())
        return {w for w in found if sum(map(str.isalpha, w)) >= min_letters}

    return np.array([[len(words(text) & words(video)) for video in spotted] for text in texts])


def test_the_command_needs_no_checkpoint_and_finds_the_right_word(folder, tmp_path, run_main):
    sim = tmp_path / "m.npy"
    code, out, err = run_main(script, *options(folder), "--sim_path", sim)
    assert code == 0, err
    matrix, counts = np.load(sim), count_shared(folder)
    assert counts.max() > 0 and matrix.shape == counts.shape
    np.testing.assert_array_equal(matrix * (1 / matrix[matrix > 0].min()), counts)
    entries = json.loads((folder / "TextVR_test.json").read_text())
    look, word = np.array([e["path"][-11:-6].split("_") for e in entries]).T  # of test_LL_WW_0.mp4
    best = matrix == matrix.max(axis=1, keepdims=True)
    same_word, same_look = (kind[:, None] == kind for kind in (word, look))
    assert not best[~same_word].any()  # reads every word
    chance = same_word.sum(axis=1).mean()  # videos of one word, each of another look
    assert best[same_look].sum() / best.sum() == pytest.approx(1 / chance, abs=0.02)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert chance == 3 and metrics["t2v_metrics"]["R1"] < 100 / chance
    assert metrics["t2v_metrics"]["R5"] == 100 and metrics["t2v_metrics"]["MedR"] == 2
    assert metrics["breakdown"]["needs_reading"]["needs reading"]["count"] == len(word)


def test_the_embeddings_without_the_evaluator(folder):
    """``forward`` gives what the evaluation gives, and words of fewer letters count on demand."""
    config = load_config(CONFIG, [*changes(folder), "arch.args.min_letters=2"])
    model, loader = build_model(config, CPU), build_loader(config, 0, False, split="test")
    with pytest.raises(RuntimeError, match="read_vocabulary comes before"):
        model(next(iter(loader)))
    model.read_vocabulary(loader.query_tokens, loader.word_tokens)
    parts = [model(loader.to_device(batch, CPU)) for batch in loader]
    text, video = (torch.cat([part[key] for part in parts]) for key in ("text", "video"))
    found = cosine_similarity(text, video).numpy()
    counts = count_shared(folder, min_letters=2)
    np.testing.assert_array_equal(found * (model.norms[0] * model.norms[1]), counts)
    assert not list(model.parameters()) and not model.state_dict()


def test_words_are_put_together_from_their_pieces(folder):
    model = WordOverlap(f"{folder}/text_model")
    tokenizer = load_tokenizer(f"{folder}/text_model")
    for text in ("Casino RIVER casino", "casino-river", "casino, (river)!"):
        ids = tokenizer(text.lower())["input_ids"]
        assert model.find_words(tuple(ids)) == {"casino", "river"}


def test_norms_are_powers_of_two_and_filled_exactly():
    assert [find_norm(most) for most in (0, 1, 2, 4, 5, 16, 17, 4096, 4097)] == [
        1, 1, 2, 2, 4, 4, 8, 64, 128
    ]  # fmt: skip
    for number in (0, 1, 7, 4095, 2**22 - 1, 2**31 - 1):
        assert sum(int(root) ** 2 for root in split_into_squares(number)) == number


def test_nothing_shared_is_said(folder, caplog):
    model = WordOverlap(f"{folder}/text_model")
    ids = load_tokenizer(f"{folder}/text_model")("casino")["input_ids"]
    with caplog.at_level(logging.WARNING):
        model.read_vocabulary([tuple(ids)], [])
    assert "no word of any caption can be read in any video" in caplog.text
    assert model.column_of == {}


def test_it_is_not_trained_and_has_no_checkpoint(folder, tmp_path, run_main):
    run = tmp_path / "run"
    code, out, err = run_main(train, *options(folder), "--run_dir", run)
    last = err.splitlines()[-1]
    assert (code, out) == (2, "")
    assert last == "WordOverlap: has no weights to train; python test.py -c tests it"
    checkpoint = tmp_path / "x.pth"
    checkpoint.touch()
    code, out, err = run_main(script, *options(folder), "-r", checkpoint)
    assert (code, out) == (2, "") and err.splitlines()[-1] == (
        f"WordOverlap: has no weights, so {checkpoint} can't be its; leave out -r"
    )


def test_a_model_with_weights_needs_a_checkpoint(demo, run_main):
    sets = [part for change in tiny(demo) for part in ("--set", change)]
    code, _, err = run_main(script, "-c", ROOT / "configs/demo/ocr.json", *sets)
    assert code == 2 and "names no checkpoint (arch.args.load_checkpoint)" in err.splitlines()[-1]
    code, _, err = run_main(script)
    assert code == 2 and "whose model needs no training" in " ".join(err.split())
