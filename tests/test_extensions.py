"""CONTRIBUTING's examples, written to files: each is trained, saved, tested and searched with."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import tiny
from utils.checkpoint.files import load_checkpoint

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"```python\n# (\S+)\n(.*?)```", re.DOTALL)
# Imports the extensions of a folder, then runs one of the project's commands after the other.
DRIVER = """
import importlib, json, runpy, sys
root, folder, jobs = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
sys.path[:0] = [root, folder]
for name in json.loads(sys.argv[4]):
    importlib.import_module(name)
for job in jobs:
    sys.argv = job
    try:
        runpy.run_path(f"{root}/{job[0]}", run_name="__main__")
    except SystemExit as end:
        if end.code:
            sys.exit(f"{job}: {end.code}")
"""

ALT_CLIP = """
import sys
from pathlib import Path
import torch, transformers
import my_alt_clip_tower
from model.dual_encoder import DualEncoder
from tests.model import small_towers
from tests.model.test_dual_encoder import make_batch, score, score_by_library
folder = Path(sys.argv[1])
folder.mkdir()
side = dict(hidden_size=32, intermediate_size=48, num_attention_heads=4, num_hidden_layers=2)
text = side | dict(vocab_size=20, project_dim=24, max_position_embeddings=40, pad_token_id=3)
vision = side | dict(image_size=32, patch_size=16)
torch.manual_seed(0)
tower = transformers.AltCLIPModel(
    transformers.AltCLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
)
small_towers.randomize(tower)
tower.save_pretrained(folder)
small_towers.write_tokenizer(folder, starts=True, ends=True)
small_towers.make_processor("clip").save_pretrained(folder)
video, expected = score_by_library(str(folder))
model = DualEncoder(str(folder), modalities=("vision",)).eval()
torch.testing.assert_close(
    score(model, make_batch(str(folder), video=video)), expected, rtol=0, atol=1e-6
)
"""


@pytest.fixture(scope="module")
def extensions(tmp_path_factory) -> tuple[Path, list[str]]:
    """The examples of CONTRIBUTING.md as modules of a folder of their own."""
    folder = tmp_path_factory.mktemp("extensions")
    names = []
    for path, code in BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text()):
        names.append(f"my_{Path(path).stem}")
        assert 8 <= len(code.splitlines()) <= 80
        (folder / f"{names[-1]}.py").write_text(code)
    return folder, names


def run_jobs(extensions, *jobs: list[str]) -> str:
    folder, names = extensions
    command = [sys.executable, "-c", DRIVER, ROOT, folder, json.dumps(jobs), json.dumps(names)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_tower_of_ones_own_is_the_librarys_zero_shot(extensions, tmp_path):
    folder, names = extensions
    assert "my_alt_clip_tower" in names
    code = f"import sys; sys.path[:0] = [{str(folder)!r}]\n" + ALT_CLIP
    command = [sys.executable, "-c", code, str(tmp_path / "tower")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def make_jobs(data: Path, run: Path, kind: str, *changes: str) -> list[list[str]]:
    sets = [part for change in (*tiny(data), *changes) for part in ("--set", change)]
    train = ["train.py", "-c", f"{ROOT}/configs/demo/{kind}.json", "--run_dir", str(run), *sets]
    test = ["test.py", "-r", str(run / "model_last.pth"), "--sim_path", str(run / "sim_matrix.npy")]
    return [train, test]


def test_every_kind_of_part_has_an_example(extensions):
    names = set(extensions[1])
    assert len(names) == 9, names


def test_a_loss_a_metric_a_fusion_and_a_video_encoder_of_ones_own(extensions, demo, tmp_path):
    run = tmp_path / "run"
    changes = [
        "arch.args.fusion=mean",
        "arch.args.video_params.model=MeanFrame",
        'loss={"type": "HardestNegativeLoss"}',
        'metrics=["t2v_metrics", "reciprocal_rank"]',
        "trainer.monitor=max val_0_reciprocal_rank_MRR",
        'optimizer.args.groups=[{"match": "criterion.*", "lr": 0.1}]',
        "trainer.epochs=2",
    ]
    jobs = make_jobs(demo, run, "fusion", *changes)
    videos, index = demo / "Videos", tmp_path / "my.index"
    ocr = str(demo / "Kwai_VideoOCR")
    jobs.append(["index.py", str(videos), "-r", f"{run}/model_best.pth", "--ocr", ocr])
    jobs[-1] += ["--out", str(index)]
    run_jobs(extensions, *jobs, ["search.py", str(index), "a red circle"])
    state = load_checkpoint(run / "model_last.pth")
    assert state["step"] == 4 and state["best"]["name"] == "val_0_reciprocal_rank_MRR"
    learned = state["criterion"]["log_scale"].item()
    assert abs(learned - 2.3026) > 0.05  # it was trained, and saved
    line = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["logit_scale"] == pytest.approx(math.exp(learned))
    groups = state["optimizer"]["param_groups"]
    assert [group["lr"] for group in groups] == [5e-4, 0.1] and len(groups[1]["params"]) == 1
    metrics = json.loads((run / "metrics.json").read_text())
    assert 0 < metrics["reciprocal_rank"]["MRR"] <= 1
    names = state["state_dict"]
    assert {"fusion_model.proj.weight", "video_model.conv.weight"} <= names.keys()


def test_a_learned_loss_is_resumed_exactly(extensions, demo, tmp_path):
    change = (
        'loss={"type": "HardestNegativeLoss"}',
        "trainer.epochs=2",
        "optimizer.args.lr=0.01",
    )
    [whole, _] = make_jobs(demo, tmp_path / "whole", "ocr", *change, "trainer.epochs=2")
    [first, _] = make_jobs(demo, tmp_path / "first", "ocr", *change, "trainer.epochs=1")
    last = str(tmp_path / "first" / "model_last.pth")
    run_jobs(extensions, whole, first, ["train.py", "-r", last, "--set", "trainer.epochs=2"])
    states = [load_checkpoint(tmp_path / name / "model_last.pth") for name in ("whole", "first")]
    scales = [state["criterion"]["log_scale"].item() for state in states]
    assert states[1]["step"] == 4 and scales[0] == scales[1] != pytest.approx(2.3026, abs=1e-3)


def test_an_architecture_with_other_arguments_is_trained_tested_and_searched(
    extensions, demo, tmp_path
):
    run, index = tmp_path / "run", tmp_path / "my.index"
    arch = {"type": "MeanColour", "args": {"tokenizer": str(demo / "text_model"), "width": 16}}
    sets = [f"arch={json.dumps(arch)}", *(c for c in tiny(demo) if not c.startswith("arch."))]
    train = ["train.py", "-c", f"{ROOT}/configs/demo/vision.json", "--run_dir", str(run)]
    train += [part for change in sets for part in ("--set", change)]
    [_, test] = make_jobs(demo, run, "vision")
    make = ["index.py", str(demo / "Videos"), "-r", f"{run}/model_last.pth", "--out", str(index)]
    make += ["--ocr", str(demo / "Kwai_VideoOCR")]
    found = run_jobs(
        extensions, train, test, make, ["search.py", str(index), "red circle", "--mode", "semantic"]
    )
    assert load_checkpoint(run / "model_last.pth")["arch"] == "MeanColour"
    assert (run / "sim_matrix.npy").is_file() and ".mp4" in found


def test_a_data_set_and_a_text_spotter_of_ones_own(extensions, demo, tmp_path):
    data, ocr = tmp_path / "data", tmp_path / "ocr"
    (data / "clips").mkdir(parents=True)
    lines = []
    for number, entry in enumerate(json.loads((demo / "TextVR_test.json").read_text())):
        target = data / "clips" / f"{number}.mp4"
        target.write_bytes((demo / "Videos" / entry["path"]).read_bytes())
        captions = [caption["caption"] for caption in entry["captions_info"]]
        line = {"id": str(number), "file": target.name, "captions": captions}
        lines.append(json.dumps(line))
    for split in ("train", "val", "test"):
        (data / f"{split}.jsonl").write_text("\n".join(lines))
    spot = ["spot_text.py", str(data / "clips"), "--engine", "one_word", "--out", str(ocr)]
    changes = [
        f"data_loader.args.data_dir={data}",
        f"data_loader.args.ocr_dir={ocr}",
        "data_loader.args.dataset_name=MyVideos",
    ]
    jobs = make_jobs(demo, tmp_path / "run", "ocr", *changes)
    run_jobs(extensions, [*spot, "--workers", "1"], *jobs)
    assert len(list(ocr.glob("*.mp4.json"))) == len(lines) == 8
    text = (ocr / "0.mp4.json").read_text()
    assert "casino" in text
    report = json.loads((tmp_path / "run" / "data_report.json").read_text())
    assert report["missing_ocr_documents"] == []


def test_a_text_encoder_of_ones_own_pools_the_last_token(extensions, tmp_path):
    folder, names = extensions
    code = f"""
import sys; sys.path[:0] = [{str(ROOT)!r}, {str(folder)!r}]
import torch, transformers
import my_gpt2_text_encoder
from base.batch import Tokens
from model.text_encoder import encode_tokens, load_text_model
config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=50)
config.save_pretrained({str(tmp_path)!r})
model = load_text_model({str(tmp_path)!r}, pretrained=False).eval()
ids = torch.tensor([[5, 6, 7, 0], [5, 6, 8, 9]])
mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
vectors = encode_tokens(model, Tokens(ids, mask))
alone = encode_tokens(model, Tokens(ids[:1, :3], mask[:1, :3]))
assert vectors.shape == (2, 8) and not torch.allclose(vectors[0], vectors[1])
torch.testing.assert_close(vectors[:1], alone)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
