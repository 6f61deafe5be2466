"""Embeddings in shards: those of an evaluation to the bit, however often it was stopped."""

import json
import os
import signal
import time
from multiprocessing import get_context

import numpy as np
import pytest
import torch

from evaluation.embedding_files import (
    EmbeddingFiles,
    describe_embeddings,
    load_embeddings,
    name_embeddings,
)
from evaluation.evaluator import Evaluator, NonFiniteEmbeddingsError
from evaluation.results import open_ground_truth, score_evaluation
from trainer.build import build_criterion, build_loader, build_model
from utils.errors import UserError
from utils.precision import Precision

CPU = torch.device("cpu")
NAME = "demo-run-model_best-test"


class StopError(Exception):
    """A test's own end of an evaluation."""


FIRST = {"key": "data_loader", "number": 0}


class Evaluated:
    """Evaluations of one configuration, with files or without."""

    def __init__(self, config, **changes):
        self.config, self.model = config, build_model(config, CPU)
        self.changes = {"split": "test", "batch_size": 2} | changes
        self.videos, self.texts = [], []  # that were encoded, a number a batch or chunk
        self.stop_after = 10**9
        whole = self.model.embed_videos, self.model.embed_queries

        def embed_videos(batch):
            if len(self.videos) >= self.stop_after:
                raise StopError
            self.videos.append(len(batch))
            return whole[0](batch)

        def embed_queries(queries):
            if len(queries.input_ids):
                self.texts.append(len(queries.input_ids))
            return whole[1](queries)

        self.model.embed_videos, self.model.embed_queries = embed_videos, embed_queries

    def run(self, folder=None, shard_size=3, overwrite=False, name=NAME, **options):
        self.videos.clear()
        self.texts.clear()
        loader = build_loader(self.config, 0, training=False, **self.changes)
        parts = build_criterion(self.config, CPU), Precision("fp32", CPU)
        evaluator = Evaluator(self.config.metrics, *parts)
        if folder is None:
            return evaluator.run(self.model, loader, **options)
        identity = describe_embeddings(self.config, FIRST, self.changes, self.model, loader)
        with EmbeddingFiles.open(folder, name, identity, shard_size, overwrite) as files:
            return evaluator.run(self.model, loader, files=files, **options)


@pytest.fixture
def evaluated(make_config):
    return Evaluated(make_config(kind="ocr"))


def shards(folder, kind="videos"):
    return sorted(path.name for path in folder.glob(f"{NAME}.{kind}-*.npy"))


def check_equal(found, plain):
    """Everything that two evaluations give is equal to the bit; a sum may be added up otherwise."""
    for name in ("similarity", "text_embeds", "video_embeds", "video_of_query"):
        np.testing.assert_array_equal(getattr(found, name), getattr(plain, name), err_msg=name)
    assert found.metrics == plain.metrics and found.ids == plain.ids
    assert found.loss == (None if plain.loss is None else pytest.approx(plain.loss, rel=1e-12))


def test_files_hold_what_an_evaluation_gives(evaluated, tmp_path):
    plain = evaluated.run()
    check_equal(evaluated.run(tmp_path / "feats"), plain)
    assert len(shards(tmp_path / "feats")) == 2  # batches of 2, so 4 and 4 videos
    found = load_embeddings(tmp_path / "feats")
    np.testing.assert_array_equal(found.video_embeds, plain.video_embeds)
    np.testing.assert_array_equal(found.text_embeds, plain.text_embeds)
    assert found.ids == plain.ids and found.video_of_query.tolist() == list(range(8))
    again = evaluated.run(tmp_path / "feats")
    check_equal(again, plain)
    assert evaluated.videos == [] and evaluated.texts == []  # nothing was encoded again


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_a_stopped_evaluation_goes_on_after_its_last_whole_shard(stop_after, evaluated, tmp_path):
    plain = evaluated.run()
    evaluated.stop_after = stop_after
    with pytest.raises(StopError):
        evaluated.run(tmp_path)
    assert len(shards(tmp_path)) == stop_after // 2
    with pytest.raises(UserError, match=f"{stop_after // 2 * 4} videos are written, the test was"):
        load_embeddings(tmp_path)
    evaluated.stop_after = 10**9
    check_equal(evaluated.run(tmp_path), plain)
    assert len(evaluated.videos) == 4 - stop_after // 2 * 2
    assert evaluated.texts == []
    np.testing.assert_array_equal(load_embeddings(tmp_path).video_embeds, plain.video_embeds)


def test_captions_go_on_too(evaluated, tmp_path, monkeypatch):
    evaluated.changes |= {"annotation_file": "TextVR_train.json"}
    plain = evaluated.run()
    number_of_chunks = len(evaluated.texts)
    assert number_of_chunks >= 2
    write = EmbeddingFiles.write_texts

    def write_once(self, vectors):
        write(self, vectors)
        raise StopError

    with monkeypatch.context() as patch, pytest.raises(StopError):
        patch.setattr(EmbeddingFiles, "write_texts", write_once)
        evaluated.run(tmp_path, shard_size=1)
    assert len(shards(tmp_path, "texts")) == 1
    check_equal(evaluated.run(tmp_path, shard_size=1), plain)
    assert len(evaluated.texts) == number_of_chunks - 1
    np.testing.assert_array_equal(load_embeddings(tmp_path).text_embeds, plain.text_embeds)


def test_windows_of_a_video_may_lie_in_two_shards(make_config, tmp_path):
    """A video is written when all of its windows are there; the rest is read again."""
    evaluated = Evaluated(make_config(kind="vision"), sliding_window_stride=1)
    plain = evaluated.run()
    evaluated.stop_after = 5
    with pytest.raises(StopError):
        evaluated.run(tmp_path)
    assert 1 <= len(shards(tmp_path)) <= 2
    evaluated.stop_after = 10**9
    check_equal(evaluated.run(tmp_path), plain)
    np.testing.assert_array_equal(load_embeddings(tmp_path).video_embeds, plain.video_embeds)


def test_a_shard_that_is_not_whole_is_made_anew(evaluated, tmp_path):
    plain = evaluated.run(tmp_path)
    path = tmp_path / shards(tmp_path)[1]
    path.write_bytes(path.read_bytes()[:-8])
    check_equal(evaluated.run(tmp_path), plain)
    assert len(evaluated.videos) == 2


def test_other_embeddings_are_refused_with_what_differs_and_replaced_on_demand(
    evaluated, make_config, demo, tmp_path
):
    evaluated.run(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = Evaluated(make_config("seed=1", kind="ocr"))
    with pytest.raises(UserError, match=r"depend on something else \(weights was \"") as caught:
        other.run(tmp_path)
    assert "give another folder, or --overwrite" in str(caught.value)
    settings = Evaluated(make_config("data_loader.args.ocr_params.max_words=2", kind="ocr"))
    with pytest.raises(UserError, match=r"\(data_loader.ocr_params.max_words was \d+, is 2\)"):
        settings.run(tmp_path)
    evaluated.changes |= {"annotation_file": "TextVR_train.json"}
    with pytest.raises(UserError, match="videos_and_captions was"):
        evaluated.run(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    plain = other.run()
    check_equal(other.run(tmp_path, overwrite=True), plain)
    np.testing.assert_array_equal(load_embeddings(tmp_path).video_embeds, plain.video_embeds)


def test_several_tests_share_a_folder(evaluated, make_config, tmp_path):
    evaluated.run(tmp_path)
    other = Evaluated(make_config("seed=1", kind="ocr"))
    plain = other.run(tmp_path, name="other")
    with pytest.raises(UserError, match=f"those of several tests; name one: {NAME}, other"):
        load_embeddings(tmp_path)
    found = load_embeddings(tmp_path, "other")
    np.testing.assert_array_equal(found.video_embeds, plain.video_embeds)
    with pytest.raises(UserError, match="test.py --save_feats: none"):
        load_embeddings(tmp_path.parent)


def test_names_tell_experiment_run_checkpoint_and_split(make_config, tmp_path):
    config = make_config("name=my run.2", kind="ocr")
    checkpoint = tmp_path / "20260102_1" / "model_best.pth"
    name = "my_run_2-20260102_1-model_best"
    assert name_embeddings(config, checkpoint, "test", FIRST) == f"{name}-test"
    assert name_embeddings(config, checkpoint, "val", FIRST | {"number": 1}) == f"{name}-val-1"
    valid = {"key": "valid_data_loader", "number": 0}
    assert name_embeddings(config, checkpoint, "val", valid) == f"{name}-val-valid"
    assert name_embeddings(config, None, "test", FIRST) == "my_run_2-test"  # without weights


def test_two_processes_do_not_write_the_same_files(evaluated, tmp_path):
    with EmbeddingFiles.open(tmp_path, NAME, {}):
        with pytest.raises(UserError, match="another process is writing these files"):
            EmbeddingFiles.open(tmp_path, NAME, {})
    with EmbeddingFiles.open(tmp_path, NAME, {}) as files:
        assert files.num_videos == 0


def test_spoilt_embeddings_are_never_written(evaluated, tmp_path):
    with torch.no_grad():
        evaluated.model.query_token.fill_(torch.nan)
    with pytest.raises(NonFiniteEmbeddingsError, match="not finite"):
        evaluated.run(tmp_path)
    assert shards(tmp_path) == []
    with pytest.raises(NonFiniteEmbeddingsError, match="not finite"):
        evaluated.run(with_matrix=False)


@pytest.mark.parametrize("with_files", [True, False])
def test_without_a_matrix_the_numbers_are_the_same(with_files, evaluated, tmp_path):
    evaluated.changes |= {"annotation_file": "TextVR_train.json"}
    plain = evaluated.run()
    found = evaluated.run(*[tmp_path] * with_files, with_matrix=False)
    assert found.text_embeds is None and found.video_embeds is None and found.metrics == {}
    loader = build_loader(evaluated.config, 0, training=False, **evaluated.changes)
    queries = open_ground_truth(loader.dataset, None)
    scored = [score_evaluation(e, queries, evaluated.config.metrics) for e in (plain, found)]
    assert scored[0].scores == scored[1].scores
    for kind in ("ranks", "equal_ranks"):
        ranks, others = (getattr(part.scores, kind) for part in scored)
        assert ranks.keys() == others.keys()
        for name, values in ranks.items():
            np.testing.assert_array_equal(values, others[name])
    assert found.loss == pytest.approx(plain.loss, rel=1e-12)
    if with_files:
        embeds = load_embeddings(tmp_path)
        np.testing.assert_array_equal(embeds.video_embeds, plain.video_embeds)


def _run_slowly(evaluated, folder):
    whole = evaluated.model.embed_videos

    def embed_videos(batch):
        time.sleep(0.3)
        return whole(batch)

    evaluated.model.embed_videos = embed_videos
    evaluated.run(folder, shard_size=1)


def test_a_killed_process_leaves_its_shards(evaluated, tmp_path):
    plain = evaluated.run()
    process = get_context("fork").Process(target=_run_slowly, args=(evaluated, tmp_path))
    process.start()
    while len(shards(tmp_path)) < 2:
        time.sleep(0.01)
        assert process.is_alive()
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    stamps = {name: (tmp_path / name).stat().st_mtime_ns for name in shards(tmp_path)[:-1]}
    check_equal(evaluated.run(tmp_path, shard_size=1), plain)
    assert 0 < len(evaluated.videos) < 4 and len(shards(tmp_path)) == 4
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in stamps} == stamps
    manifest = json.loads((tmp_path / f"{NAME}.json").read_text())
    assert manifest["complete"] and sum(manifest["videos"]) == 8
