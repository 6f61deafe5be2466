"""Evaluation in each precision: near float32, in float32 where it leaves the model."""

import numpy as np
import pytest
import torch

from evaluation.embedding_cache import encode_texts
from evaluation.evaluator import Evaluator, NonFiniteEmbeddingsError
from model.packed_distilbert import PackedLayer
from model.space_time_vit import SpaceTimeBlock
from trainer.build import build_criterion, build_loader, build_model, build_trainer
from utils.precision import Precision

CPU = torch.device("cpu")
# Greatest cosine distance from the embeddings of fp32, as configs/README.md states it.
DISTANCE = {"bf16": 2e-4, "fp16": 1e-5}
FROZEN = "arch.args.ocr_encoder_grad=false"


def evaluate(config, precision, model=None, criterion=None, device=CPU):
    model = model or build_model(config, device)
    criterion = criterion or build_criterion(config, device)
    loader = build_loader(config, 0, training=False, split="test")
    return Evaluator(config.metrics, criterion, Precision(precision, device)).run(model, loader)


def measure_distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return 1 - (one.astype(np.float64) * other).sum(axis=1) / norms


def read_tf32():
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


def check_near_float32(config, name, device=CPU):
    full, half = (evaluate(config, precision, device=device) for precision in ("fp32", name))
    np.testing.assert_array_equal(full.text_embeds, half.text_embeds)
    distances = measure_distances(full.video_embeds, half.video_embeds)
    assert full.video_embeds.dtype == half.video_embeds.dtype == np.float32
    assert 1e-9 < distances.max() < DISTANCE[name]
    assert half.similarity.dtype == np.float32
    assert half.loss == pytest.approx(full.loss, rel=0.01) and half.loss != full.loss


@pytest.mark.parametrize("name", list(DISTANCE))
@pytest.mark.parametrize("kind", ["fusion", "vision", "ocr"])
def test_embeddings_are_near_those_of_float32(kind, name, make_config):
    check_near_float32(make_config("arch.args.video_params.depth=4", kind=kind), name)


@pytest.mark.gpu
@pytest.mark.parametrize("name", list(DISTANCE))
@pytest.mark.parametrize("kind", ["fusion", "vision", "ocr"])
def test_embeddings_are_near_those_of_float32_on_a_gpu(kind, name, make_config):
    config = make_config("arch.args.video_params.depth=4", kind=kind)
    check_near_float32(config, name, torch.device("cuda"))


def test_video_and_words_compute_in_half_and_captions_and_criterion_in_float32(make_config):
    config = make_config()
    model, criterion = build_model(config, CPU), build_criterion(config, CPU)
    seen = {}
    for name in ("text_model", "ocr_model", "video_model"):
        kinds = PackedLayer, SpaceTimeBlock
        layer = next(m for m in getattr(model, name).modules() if isinstance(m, kinds))
        layer.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out.dtype}))
    real = criterion.compute_similarity

    def compute_similarity(text, video):
        seen["similarity"] = text.dtype, video.dtype, torch.is_autocast_enabled("cpu")
        return real(text, video)

    criterion.compute_similarity = compute_similarity
    evaluate(config, "bf16", model, criterion)
    float32 = (torch.float32, torch.float32, False)
    half = dict.fromkeys(("ocr_model", "video_model"), torch.bfloat16)
    assert seen == half | {"text_model": torch.float32, "similarity": float32}


def test_vectors_of_texts_are_kept_in_float32(make_config):
    config = make_config(kind="ocr")
    model, loader = build_model(config, CPU), build_loader(config, 0, training=False)
    for name in DISTANCE:
        found = encode_texts(loader.query_tokens, model.embed_queries, Precision(name, CPU))
        assert found.vectors.dtype == torch.float32


def test_numbers_too_large_for_fp16_are_not_blamed_on_the_weights_alone(make_config):
    config = make_config()
    model = build_model(config, CPU)
    with torch.no_grad():
        model.fusion_proj[-1].bias += 1e5
    evaluate(config, "fp32", model)
    with pytest.raises(NonFiniteEmbeddingsError, match=r"spoilt; .*; or fp16 can't .* bf16"):
        evaluate(config, "fp16", model)


# Training in one precision, evaluating in another


def record_precision(trainer):
    """Note what half precision and TF32 the encoders are called with: in training, in evaluation.

    The patch embedding is called in each forward pass of videos.
    """
    seen = {True: set(), False: set()}

    def note(module, *_):
        seen[module.training].add((torch.is_autocast_enabled("cpu"), *read_tf32()))

    trainer.model.video_model.patch_embed.register_forward_hook(note)
    return seen


@pytest.mark.parametrize(
    ("training", "evaluation", "expected"),
    [
        ("tf32", "fp32", ((False, "high", True), (False, "highest", False))),
        ("fp32", "tf32", ((False, "highest", False), (False, "high", True))),
        ("tf32", "null", ((False, "high", True), (False, "high", True))),
        ("bf16", "fp32", ((True, "highest", False), (False, "highest", False))),
        ("bf16", "null", ((True, "highest", False), (True, "highest", False))),
    ],
)
def test_training_and_evaluation_each_compute_in_their_own(
    training, evaluation, expected, make_config, tmp_path
):
    changes = f"trainer.precision={training}", f"evaluation.precision={evaluation}"
    trainer = build_trainer(make_config(*changes, "trainer.epochs=2"), tmp_path, CPU)
    trainer.model.fuses_modalities = False  # so that an epoch's end measures nothing
    seen, before = record_precision(trainer), read_tf32()
    in_backward, real = set(), trainer.criterion.compute_loss

    def compute_loss(*args):
        loss = real(*args)
        if loss.requires_grad:
            loss.register_hook(lambda _: in_backward.add(read_tf32()))
        return loss

    trainer.criterion.compute_loss = compute_loss
    trainer.fit()
    assert seen == {True: {expected[0]}, False: {expected[1]}}
    assert in_backward == {expected[0][1:]}
    assert read_tf32() == before


def test_validation_is_that_of_test_py_in_the_same_precision(make_config, tmp_path):
    config = make_config("trainer.precision=bf16", "evaluation.precision=fp32", FROZEN)
    trainer = build_trainer(config, tmp_path, CPU)
    with trainer.manage_run():
        loss = trainer.validate(0)["val_loss_0"]
    wanted = {name: evaluate(config, name, trainer.model).loss for name in ("fp32", "bf16")}
    assert loss == wanted["fp32"] != wanted["bf16"]


def test_frozen_words_are_encoded_in_the_precision_of_what_reads_them(make_config, tmp_path):
    config = make_config("trainer.precision=bf16", "evaluation.precision=fp32", FROZEN)
    trainer = build_trainer(config, tmp_path, CPU)
    trainer.fit()
    for (loader,), name in ((trainer.loaders, "bf16"), (trainer.valid_loaders, "fp32")):
        found = trainer.word_vectors.get(loader).vectors
        texts = loader.word_tokens, trainer.model.encode_words
        half, full = (encode_texts(*texts, Precision(p, CPU)).vectors for p in ("bf16", "fp32"))
        assert found.dtype == torch.float32 and not torch.equal(half, full)
        assert torch.equal(found, half if name == "bf16" else full)
