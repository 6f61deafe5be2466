"""Towers on a GPU: each precision beside float32 on the CPU, compiled, trained."""

import pytest
import torch
import transformers
from torch.nn import functional as F

from model.loss import NormSoftmaxLoss
from tests.model.small_towers import FAMILIES, write_tower
from tests.model.test_dual_encoder import build, make_batch
from tests.trainer.step_trainer import make_step_trainer
from utils.precision import Precision

pytestmark = pytest.mark.gpu

CUDA = torch.device("cuda")
CLASSES = {"videoprism": "VideoPrismClipModel", "metaclip_2": "MetaClip2Model"}
# How far cosines of the tiny towers, whose weights are large, may be from float32's.
TOLERANCE = {"fp32": 1e-4, "tf32": 1e-2, "bf16": 0.05, "fp16": 1e-2}


@pytest.fixture(params=FAMILIES)
def tower(request, tmp_path) -> str:
    if request.param.startswith("open_clip"):
        pytest.importorskip("open_clip")
    if not hasattr(transformers, CLASSES.get(request.param, "CLIPModel")):
        pytest.skip(f"transformers {transformers.__version__} has no {request.param}")
    return write_tower(tmp_path / "tower", request.param)


def score(model, batch, precision: Precision) -> torch.Tensor:
    with torch.no_grad(), precision.set_tf32(), precision.autocast():
        embeds = model(batch)
    text, video = (F.normalize(embeds[key].float(), dim=-1) for key in ("text", "fusion"))
    return (text @ video.T).cpu()


@pytest.mark.parametrize("precision", TOLERANCE)
def test_each_precision_follows_the_cpu(tower, precision):
    model, batch = build(tower), make_batch(tower)
    with torch.no_grad():
        model.gate.proj.weight.normal_(std=0.1)
    expected = score(model, batch, Precision("fp32", torch.device("cpu")))
    found = score(model.to(CUDA), batch.to(CUDA), Precision(precision, CUDA))
    assert (found - expected).abs().max() < TOLERANCE[precision]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("compiles", [False, True])
def test_steps_learn_a_batch(tower, precision, compiles):
    if compiles and "videoprism" in tower:
        pytest.skip("its frames are grouped by number in Python")
    model = build(tower).to(CUDA).train()
    for weight in model.parameters_without_gradient():
        weight.requires_grad_(False)
    torch._dynamo.reset()
    if compiles:
        model.compile_encoders()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    trainer = make_step_trainer(
        model, NormSoftmaxLoss(), optimizer=optimizer, precision=precision, device=CUDA
    )
    batch = make_batch(tower).to(CUDA)
    losses = [trainer.train_step(batch)[0].item() for _ in range(20)]
    assert losses[-1] < 0.5 * losses[0]
