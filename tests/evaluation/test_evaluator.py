"""The evaluator against a computation of its own: one video at a time, by hand."""

import json
import math
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from base.criterion import cosine_similarity
from data_loader.readers.base_reader import VideoError
from evaluation.evaluator import Evaluator, NonFiniteEmbeddingsError
from evaluation.results import (
    SHUFFLED_NOTE,
    collect_metrics,
    format_evaluation,
    open_ground_truth,
    score_evaluation,
    write_evaluation,
)
from model.metric import t2v_metrics, v2t_metrics
from trainer.build import build_criterion, build_loader, build_model, build_trainer
from utils.errors import UserError
from utils.precision import Precision

CPU = torch.device("cpu")


def loader_of(config, **changes):
    return build_loader(config, 0, training=False, **{"split": "test"} | changes)


def evaluated(config, model=None, precision="fp32", **changes):
    model = model or build_model(config, CPU)
    parts = build_criterion(config, CPU), Precision(precision, CPU)
    return Evaluator(config.metrics, *parts).run(model, loader_of(config, **changes))


def scored_of(config, evaluation, **changes):
    queries = open_ground_truth(loader_of(config, **changes).dataset, None)
    return score_evaluation(evaluation, queries, config.metrics)


@torch.no_grad()
def one_by_one(config, **changes):
    """Return captions' and clips' embeddings, with the video of each, from batches of one clip."""
    model, loader = build_model(config, CPU).eval(), loader_of(config, batch_size=1, **changes)
    texts, clips = [], []
    for batch in loader:
        embeds = model(loader.to_device(batch, CPU))
        assert len(batch) == 1
        texts += [(int(batch.video_index), row.double().numpy()) for row in embeds["text"]]
        clips.append((int(batch.video_index), embeds[model.video_key][0].double().numpy()))
    return texts, clips


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    norms = [np.sqrt((x * x).sum(axis=1, keepdims=True)) for x in (a, b)]
    return (a / norms[0]) @ (b / norms[1]).T


def annotation(config, name):
    return json.loads((config_dir(config) / name).read_text())


def config_dir(config):
    return Path(config.data_loader[0].args.data_dir)


@pytest.mark.parametrize("kind", ["fusion", "ocr", "vision"])
def test_the_matrix_is_that_of_videos_one_by_one_in_the_files_order(kind, make_config):
    config = make_config("data_loader.args.batch_size=3", kind=kind)
    result = evaluated(config)
    texts, clips = one_by_one(config)
    expected = cosines(np.stack([t for _, t in texts]), np.stack([c for _, c in clips]))
    assert result.similarity.dtype == np.float32 and result.similarity.shape == (8, 8)
    np.testing.assert_allclose(result.similarity, expected, atol=2e-6)
    # Neither order would pass for another one: no two rows and no two columns are alike.
    for matrix in (expected, expected.T):
        gaps = np.abs(matrix[:, None] - matrix[None]).max(axis=2)[~np.eye(8, dtype=bool)]
        assert gaps.min() > (2e-5 if kind == "fusion" or matrix is expected else 0)
    assert result.ids == [entry["path"] for entry in annotation(config, "TextVR_test.json")]
    assert result.video_of_query.tolist() == list(range(8))
    assert result.metrics == {
        "t2v_metrics": t2v_metrics(result.similarity),
        "v2t_metrics": v2t_metrics(result.similarity),
    }


def test_several_captions_a_video(make_config):
    config = make_config("data_loader.args.batch_size=3", kind="ocr")
    result = evaluated(config, annotation_file="TextVR_train.json")
    texts, clips = one_by_one(config, annotation_file="TextVR_train.json")
    expected = cosines(np.stack([t for _, t in texts]), np.stack([c for _, c in clips]))
    assert result.similarity.shape == (16, 8)
    np.testing.assert_allclose(result.similarity, expected, atol=2e-6)
    assert result.video_of_query.tolist() == np.repeat(range(8), 2).tolist()
    assert result.metrics["t2v_metrics"] == t2v_metrics(result.similarity, np.repeat(range(8), 2))
    first = expected[::2]  # the loss compares a video with its first caption
    assert result.loss == pytest.approx(batch_losses(first, 3), rel=1e-4)


def test_equal_captions_have_equal_rows_in_whatever_batch_they_come(
    make_config, demo, tmp_path, monkeypatch
):
    folder = tmp_path / "equal"
    shutil.copytree(demo, folder)
    entries = json.loads((folder / "TextVR_test.json").read_text())
    for number in (0, 5, 7):  # batches of 3 that other captions make wider, or not
        text = "  A red circle" if number == 5 else "a Red circle"
        entries[number]["captions_info"][0]["caption"] = text
    (folder / "TextVR_test.json").write_text(json.dumps(entries))
    config = make_config(f"data_loader.args.data_dir={folder}", kind="ocr")
    noise = np.random.default_rng(0)

    def rounded(queries, videos):  # as another place in a larger product rounds
        shape = len(queries), len(videos)
        return cosine_similarity(queries, videos) + torch.tensor(noise.random(shape) / 1e6)

    def shifted(layer, inputs, embeds):  # as another place among other texts rounds
        return embeds + torch.tensor(noise.random((len(embeds), 1)) / 1e5)

    monkeypatch.setattr("base.criterion.cosine_similarity", rounded)
    model = build_model(config, CPU)
    model.txt_proj.register_forward_hook(shifted)
    result = evaluated(config, model, batch_size=3)
    for row in (5, 7):
        assert np.array_equal(result.similarity[row], result.similarity[0])
        assert np.array_equal(result.text_embeds[row], result.text_embeds[0])
    assert len(np.unique(result.similarity, axis=0)) == 6
    tested = scored_of(config, result)
    assert tested.scores.best["t2v_metrics"]["R1"] == 75
    assert tested.scores.best["v2t_metrics"]["R1"] == 62.5


def batch_losses(matrix: np.ndarray, size: int) -> float:
    """The mean over samples of the batches' NormSoftmaxLoss at temperature 0.05."""
    total = 0.0
    for start in range(0, len(matrix), size):
        block = matrix[start : start + size, start : start + size] / 0.05
        for logits in (block, block.T):
            shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            total -= np.log(np.diag(shares)).sum()
    return total / len(matrix)


@pytest.mark.parametrize("size", [3, 8])
def test_the_loss_is_the_mean_over_samples_of_the_batches(size, make_config):
    config = make_config(f"data_loader.args.batch_size={size}", kind="ocr")
    result = evaluated(config)
    assert result.loss == pytest.approx(batch_losses(result.similarity, size), rel=1e-4)


@pytest.mark.parametrize(
    ("stride", "batch_size"), [(1, 4), pytest.param(2, 1, marks=pytest.mark.slow)]
)
def test_the_windows_of_a_video_are_averaged(stride, batch_size, make_config):
    config = make_config(kind="vision")
    changes = {"sliding_window_stride": stride}
    result = evaluated(config, batch_size=batch_size, **changes)
    texts, clips = one_by_one(config, **changes)
    windows = {}
    for video, embed in clips:
        windows.setdefault(video, []).append(embed)
    for video, entry in enumerate(annotation(config, "TextVR_test.json")):
        with av.open(str(config_dir(config) / "Videos" / entry["path"])) as container:
            length = sum(1 for _ in container.decode(video=0))
        assert len(windows[video]) == len(range(0, length // 3, stride))  # 2 frames a clip
    means = np.stack([np.mean(windows[video], axis=0) for video in range(8)])
    expected = cosines(np.stack([t for _, t in texts]), means)
    assert result.similarity.shape == (8, 8)
    np.testing.assert_allclose(result.similarity, expected, atol=2e-6)
    first = np.stack([windows[video][0] for video in range(8)])
    assert np.abs(cosines(first, means) - 1).max() > 1e-6  # averaging does something
    np.testing.assert_allclose(result.video_embeds, means, atol=2e-6)  # what --save_feats writes
    assert result.loss is None  # whatever share of the batches happens to hold all captions


def test_nothing_drops_out_and_no_random_number_is_used(make_config, dropout_text_model):
    config = make_config(f"arch.args.text_params.model={dropout_text_model}", kind="ocr")
    model = build_model(config, CPU).train()
    before = torch.get_rng_state()
    first = evaluated(config, model, num_workers=1).similarity
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)  # what would drop out would now be something else
    assert np.array_equal(first, evaluated(config, model).similarity)


@pytest.mark.parametrize("training", [True, False])
def test_the_models_mode_is_left_as_it_was(training, make_config):
    config = make_config(kind="ocr")
    model = build_model(config, CPU).train(training)
    evaluated(config, model)
    assert model.training is training
    with torch.no_grad():
        model.query_token.fill_(math.nan)
    with pytest.raises(NonFiniteEmbeddingsError, match="TextVR test: .*not finite"):
        evaluated(config, model)
    assert model.training is training


@pytest.fixture
def spoilt(demo, tmp_path):
    """The demo with a test video that is none, one that is empty, and an OCR document gone."""
    folder = tmp_path / "spoilt"
    shutil.copytree(demo, folder)
    entries = json.loads((folder / "TextVR_test.json").read_text())
    paths = [entry["path"] for entry in entries]
    (folder / "Videos" / paths[1]).write_bytes(b"no video" * 100)
    (folder / "Videos" / paths[5]).write_bytes(b"")
    (folder / "Kwai_VideoOCR" / entries[2]["videos_info"]["Kwai_OCR"]).unlink()
    return folder, paths


def spoilt_config(make_config, folder, loading):
    change = [f"data_loader.args.data_dir={folder}", "data_loader.args.video_params.loading="]
    return make_config(change[0], change[1] + loading, "data_loader.args.num_workers=1")


def test_a_video_that_can_not_be_read_stops_a_strict_evaluation(spoilt, make_config):
    folder, paths = spoilt
    with pytest.raises(UserError) as caught:
        evaluated(spoilt_config(make_config, folder, "strict"))
    text = str(caught.value)
    assert text.startswith(f"{folder}/Videos/{paths[1]}: ") and "\n" not in text
    assert not isinstance(caught.value, VideoError)  # it came out of a worker


def test_lax_videos_are_counted_listed_and_never_another_video(spoilt, make_config, tmp_path):
    folder, paths = spoilt
    config = spoilt_config(make_config, folder, "lax")
    result = evaluated(config)
    tested = scored_of(config, result)
    assert result.similarity.shape == (8, 8) and result.ids == paths
    counts = {"unreadable_videos": 2, "missing_ocr_documents": 1}
    assert collect_metrics(tested).items() >= counts.items()
    assert (
        "1 videos have no OCR document"
        in collect_metrics(tested)["breakdown"]["needs_reading_note"]
    )
    table = format_evaluation(tested)
    assert "unreadable videos: 2" in table and "missing ocr documents: 1" in table
    write_evaluation(tested, tmp_path / "sim.npy")
    report = json.loads((tmp_path / "data_report.json").read_text())
    assert sorted(report["unreadable_videos"]) == sorted(
        f"{folder}/Videos/{paths[i]}" for i in (1, 5)
    )
    assert all(report["unreadable_videos"].values())  # each with its reason
    assert len(report["missing_ocr_documents"]) == 1
    whole = evaluated(make_config()).similarity
    unchanged = [0, 3, 4, 6, 7]
    np.testing.assert_allclose(result.similarity[:, unchanged], whole[:, unchanged], atol=2e-6)
    assert np.abs(result.similarity[:, [1, 2, 5]] - whole[:, [1, 2, 5]]).max(axis=0).min() > 1e-5


def test_training_counts_lax_videos_in_every_line(spoilt, make_config, tmp_path):
    folder, _ = spoilt
    config = spoilt_config(make_config, folder, "lax")
    build_trainer(config, tmp_path, CPU).fit()
    [line] = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert (line["unreadable_videos"], line["missing_ocr_documents"]) == (2, 1)
    report = json.loads((tmp_path / "data_report.json").read_text())
    assert len(report["unreadable_videos"]) == 2


def test_what_an_evaluation_writes(make_config, demo, tmp_path):
    (demo / "TextVR_test_rand.json").write_bytes((demo / "TextVR_train.json").read_bytes())
    config = make_config(kind="ocr")
    result = evaluated(config, annotation_file="TextVR_test_rand.json")
    tested = scored_of(config, result, annotation_file="TextVR_test_rand.json")
    (demo / "TextVR_test_rand.json").unlink()
    write_evaluation(tested, tmp_path / "a" / "m.npy")
    matrix = np.load(tmp_path / "a" / "m.npy")
    assert matrix.dtype == np.float32 and np.array_equal(matrix, result.similarity)
    written = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert next(iter(written)) == "note" and written["note"] == SHUFFLED_NOTE
    assert (written["num_captions"], written["num_videos"]) == (16, 8)
    assert written["t2v_metrics"] == result.metrics["t2v_metrics"]
    assert SHUFFLED_NOTE.upper() in format_evaluation(tested)
    assert SHUFFLED_NOTE in format_evaluation(tested).splitlines()[0]
    again = cosines(result.text_embeds, result.video_embeds)
    np.testing.assert_allclose(again, matrix, atol=2e-6)
    assert result.video_of_query.tolist() == np.repeat(range(8), 2).tolist()
