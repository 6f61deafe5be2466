"""The numbers of the published implementation: every case of the reference folder.

The folder is $TEXTVR_REFERENCE_DIR, or tests/reference; its README says what the files hold and
how close the results must be.
"""

import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from base.batch import Batch, Tokens, Words
from base.criterion import cosine_similarity
from data_loader.collate import lay_out_words
from data_loader.frame_sampling import sample_frame_indices
from data_loader.ocr.ocr_words import EMPTY_WORD, OcrParams, extract_words, normalise_tracks
from model.frozen_in_time import FrozenInTime
from model.loss import MaxMarginRankingLoss, NormSoftmaxLoss
from model.metric import t2v_metrics, v2t_metrics
from model.params import TextParams, VideoParams
from trainer.optim import adamw

FOLDER = Path(os.environ.get("TEXTVR_REFERENCE_DIR", Path(__file__).parent / "reference"))
METRICS = {"t2v": t2v_metrics, "v2t": v2t_metrics}
NORMS = ("norm.weight", "norm1.weight", "norm2.weight", "norm3.weight")
NORMS += ("LayerNorm.weight", "layer_norm.weight")


def cases(*patterns: str) -> list[Path]:
    return sorted(file for pattern in patterns for file in FOLDER.glob(pattern))


MODELS = cases("fusion_*.json", "ocr_*.json", "vision_*.json")
MODELS = [file for file in MODELS if not file.name.startswith("ocr_documents")]
DOCUMENTS = cases("ocr_documents_*.json")
METRIC_CASES = [
    pytest.param(case, id=f"{file.stem}-{number}")
    for file in cases("metrics_*.json")
    for number, case in enumerate(json.loads(file.read_text()))
]
SAMPLING_CASES = [
    pytest.param(case, id=f"{file.stem}-{number}")
    for file in cases("sampling*.json")
    for number, case in enumerate(json.loads(file.read_text()))
]


def test_the_folder_holds_cases():
    assert MODELS and DOCUMENTS and METRIC_CASES and SAMPLING_CASES, f"nothing found in {FOLDER}"


def fill(model: torch.nn.Module, seed: int) -> None:
    """Fill the weights by the rule of the reference README."""
    with torch.no_grad():
        for key, weight in model.state_dict().items():
            rng = np.random.default_rng(zlib.crc32(key.encode()) + seed)
            x = rng.standard_normal(tuple(weight.shape)).astype(np.float32)
            weight.copy_(torch.from_numpy(1 + 0.1 * x if key.endswith(NORMS) else 0.05 * x))


def build(case: dict) -> FrozenInTime:
    video = {}
    if "video" in case:
        given = case["video"]
        video = {k: given[k] for k in ("patch_size", "embed_dim", "depth", "num_heads")}
        video |= {"mlp_ratio": float(given["mlp_ratio"]), "input_res": given["img_size"]}
        video |= {"num_frames": given["num_frames"]}
    model = FrozenInTime(
        VideoParams(pretrained=False, **video),
        TextParams(model=str(FOLDER / case["text_model"]), pretrained=False),
        projection_dim=case["projection_dim"],
        modalities=tuple(case["modalities"]),
    )
    fill(model, case["weight_seed"])
    return model.eval()


def get_words(arrays: dict[str, np.ndarray]) -> Words:
    """The padded words of the reference as distinct words, the way the collate lays them out."""
    tokens: dict[str, list[int]] = {}
    texts, tracks = [], []
    for ids, mask, track, valid in zip(
        arrays["ocr_input_ids"],
        arrays["ocr_attention_mask"],
        arrays["ocr_pos"],
        arrays["ocr_valid"],
        strict=True,
    ):
        used = max(int(valid), 1)  # a video without words is given one
        rows = [row[: seen.sum()].tolist() for row, seen in zip(ids, mask, strict=True)][:used]
        tokens |= {str(row): row for row in rows}
        texts.append([str(row) for row in rows])
        tracks.append(track[:used])
    return lay_out_words(tokens, texts, tracks, pad_id=0)


def batch_of(case: dict, arrays: dict[str, np.ndarray]) -> Batch:
    count = len(arrays["query_ids"])
    given = case.get("video", {}).get("frames_given")
    return Batch(
        ids=[str(i) for i in range(count)],
        video_index=torch.arange(count),
        query=Tokens(torch.from_numpy(arrays["query_ids"]), torch.from_numpy(arrays["query_mask"])),
        query_row=torch.arange(count),
        video=torch.from_numpy(arrays["video"])[:, :given] if "video" in case else None,
        words=get_words(arrays) if "ocr" in case["modalities"] else None,
    )


@pytest.fixture(scope="module", params=MODELS, ids=lambda file: file.stem)
def model_case(request):
    case = json.loads(request.param.read_text())
    with np.load(request.param.with_suffix(".npz")) as arrays:
        arrays = dict(arrays)
    return case, arrays, batch_of(case, arrays)


def test_parameter_names_and_shapes(model_case):
    case, _, _ = model_case
    ours = {name: list(value.shape) for name, value in build(case).state_dict().items()}
    assert list(ours.items()) == list(case["state_dict"].items())


def test_forward_outputs_and_losses(model_case):
    case, arrays, batch = model_case
    model = build(case)
    with torch.no_grad():
        embeds = model(batch)
        similarity = cosine_similarity(embeds["text"], embeds[model.video_key])
    names = {"text", *(("video",) if "vision" in case["modalities"] else ())}
    names |= {"fusion"} if "ocr" in case["modalities"] else set()
    assert embeds.keys() == names
    for name, value in embeds.items():
        np.testing.assert_allclose(value, arrays[f"{name}_embeds"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(similarity, arrays["sims"], rtol=0, atol=2e-5)
    ids = batch.query.hash_texts()
    norm_softmax = NormSoftmaxLoss(case["temperature"]).compute_loss(similarity, ids)
    np.testing.assert_allclose(norm_softmax, arrays["norm_softmax"], rtol=1e-3, atol=1e-4)
    max_margin = MaxMarginRankingLoss(case["max_margin"]).compute_loss(similarity, ids)
    np.testing.assert_allclose(max_margin, arrays["max_margin"], rtol=0, atol=2e-5)


def test_gradients_and_six_steps(model_case):
    case, _, batch = model_case
    model, criterion = build(case), NormSoftmaxLoss(case["temperature"])
    settings = case["adamw"]
    optimizer = adamw(
        params=model.named_parameters(),
        lr=settings["lr"],
        betas=tuple(settings["betas"]),
        eps=settings["eps"],
        weight_decay=settings["weight_decay"],
    )
    losses = []
    for step in range(settings["steps"]):
        embeds = model(batch)
        video = embeds[model.video_key]
        loss, _ = criterion(embeds["text"], video, batch.query.hash_texts())
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            check_gradients(model, case["grad_norms"])
        optimizer.step()
        losses.append(loss.item())
    np.testing.assert_allclose(losses, case["losses"], rtol=1e-3, atol=1e-4)


def check_gradients(model: FrozenInTime, expected: dict[str, float]) -> None:
    norms = {
        name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None
    }
    assert norms.keys() == expected.keys()
    # A key's bias shifts all scores of a softmax alike: its gradient is zero up to rounding.
    for name, norm in expected.items():
        np.testing.assert_allclose(norms[name], norm, rtol=1e-3, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.stem)
def test_ocr_documents(file):
    for document in json.loads(file.read_text()):
        expected = document["expected"]
        read = extract_words(document["ocr"], OcrParams())
        size = document["video_length"], document["width"], document["height"]
        assert read.words == expected["words"]
        assert len(read.words) == expected["valid"]
        assert expected["pad_word"] == EMPTY_WORD
        tracks = normalise_tracks(read.tracks, *size)
        assert tracks.shape == (expected["valid"], 12)
        if expected["valid"]:
            np.testing.assert_allclose(tracks, expected["pos"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", SAMPLING_CASES)
def test_frame_indices(case):
    num_frames, length = case["num_frames"], case["vlen"]
    assert sample_frame_indices(num_frames, length).tolist() == case["uniform"]
    if case["fix_start"] is not None:
        assert sample_frame_indices(num_frames, length, fix_start=2).tolist() == case["fix_start"]


def similarity_of(case: dict) -> np.ndarray:
    n, m = case["n"], case["m"]
    if "constant" in case:
        return np.full((n, m), case["constant"], dtype=np.float32)
    s = np.random.default_rng(case["seed"]).standard_normal((n, m)).astype(np.float32)
    q = n // m
    for j in range(m):
        s[j * q : (j + 1) * q, j] += 1.5
    return np.round(s, 1).astype(np.float32) if case["ties"] else s


@pytest.mark.parametrize("case", METRIC_CASES)
@pytest.mark.parametrize("direction", ["t2v", "v2t"])
def test_metrics(case, direction):
    ours = METRICS[direction](similarity_of(case))
    assert ours.keys() == case[direction].keys()
    for key, value in case[direction].items():
        assert ours[key] == pytest.approx(value, abs=1e-9), key
