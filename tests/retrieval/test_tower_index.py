"""Indexes made by a pretrained tower, without a checkpoint: ``--model``, or with nothing."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor
from torch.nn.functional import normalize as normalize_rows

import index as index_script
import search as search_script
from base.base_model import describe_model_input
from data_loader.collate import Collate
from data_loader.frame_sampling import sample_frame_indices
from data_loader.readers.video_readers import open_video
from retrieval import VideoIndex
from retrieval.errors import OtherModelError
from retrieval.index.embedding import ModelFile
from retrieval.index.hub import DEFAULT_TOWER, HubError
from retrieval.index.ocr_text import OcrFolder, OcrSource
from retrieval.index.tower import (
    NUM_FRAMES,
    TowerModel,
    make_tower_config,
)
from retrieval.index.update import IndexOptions, update_index
from retrieval.index.writer import read_index_meta
from tests.conftest import ROOT
from tests.model.small_towers import write_tower
from tests.retrieval.small_hub import serving_hub
from trainer.build import build_model
from utils.checkpoint.files import save_checkpoint
from utils.errors import UserError

QUERY = "a red circle"


@pytest.fixture
def tower(tmp_path) -> Path:
    return Path(write_tower(tmp_path / "towers/clip", "clip"))


@pytest.fixture
def other_tower(tmp_path) -> Path:
    return Path(write_tower(tmp_path / "towers/siglip", "siglip", seed=1))


@pytest.fixture
def run(run_main):
    def run_script(script, *command: object) -> tuple[int, str, str]:
        result = run_main(script, *command)
        logging.getLogger().handlers.clear()
        return result

    return run_script


@pytest.fixture
def no_hub(monkeypatch):
    """The default tower can't be had; returns how often it was asked for."""
    asked = []

    def refuse(name, *_):
        asked.append(name)
        raise HubError(f"{name}: is not in the local cache, and the hub does not answer")

    monkeypatch.setattr(index_script, "locate_model", refuse)
    return asked


def normalize(rows: Tensor) -> Tensor:
    return normalize_rows(rows, dim=-1)


def update(library, out: Path, model, **options):
    return update_index(library.videos, out, model, OcrSource(), IndexOptions(**options))


def read_kept(out: Path) -> TowerModel:
    return TowerModel(read_index_meta(out)["model"]["name"], kept=out / "config.json")


@pytest.mark.parametrize("family", ["clip", "siglip", "videoprism", "open_clip"])
def test_an_index_of_a_tower_is_all_that_a_search_needs(library, tmp_path, family):
    folder, out = tmp_path / "tower", tmp_path / "my.index"
    model = TowerModel(write_tower(folder, family))
    assert update(library, out, model).num_entries == 8
    shutil.rmtree(folder)
    with VideoIndex.open(out) as index:
        assert index.model.keys() == {"format", "name", "weights", "settings"}
        assert index.model["name"] == model.name and model.name.endswith(str(folder))
        assert len(index.model["weights"]) == 64
        hits = index.search(QUERY, mode="semantic", explain=True)
        assert len(hits) == 8 and len({hit.similarity for hit in hits}) > 1
        assert index.modes == ("hybrid", "semantic", "keyword")
    # Nothing has changed, so that the tower is not needed; a new video needs it.
    assert update(library, out, read_kept(out)).plan.num_same == 8
    shutil.copy(next(library.videos.rglob("*.mp4")), library.videos / "new.mp4")
    with pytest.raises(UserError, match=str(folder)):
        update(library, out, read_kept(out))
    write_tower(folder, family)
    assert update(library, out, read_kept(out)).num_entries == 9


def test_its_embeddings_are_those_of_the_tower(library, tmp_path, tower):
    """Query and window, each by itself, as the library embeds them."""
    out = tmp_path / "my.index"
    update(library, out, TowerModel(str(tower)))
    clip = transformers.AutoModel.from_pretrained(tower).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tower)
    processor = transformers.AutoImageProcessor.from_pretrained(tower)

    def embed_window(name: str) -> np.ndarray:
        with open_video(library.videos / name, "av") as reader:
            numbers = sample_frame_indices(NUM_FRAMES, reader.num_frames).tolist()
            frames = list(reader.stream(numbers))
        features = clip.get_image_features(**processor(frames, return_tensors="pt")).pooler_output
        return normalize(normalize(features).mean(0)).numpy()

    with torch.inference_mode(), VideoIndex.open(out) as index:
        wanted = clip.get_text_features(**tokenizer(QUERY, return_tensors="pt")).pooler_output[0]
        found = index.load_query_encoder().embed(QUERY)
        # The encoder may be kept in few bits.
        np.testing.assert_allclose(found, normalize(wanted).numpy(), atol=1e-2)
        hits = index.search(QUERY, mode="semantic")
        with index.reading() as (_, snapshot):
            for hit in hits[:3]:
                (row,) = snapshot.vectors.read_windows(snapshot.find_rows_of(np.array([hit.id])))
                np.testing.assert_allclose(row, embed_window(hit.video), atol=1e-5)


def test_adapters_of_a_checkpoint_are_merged(library, tmp_path, tower):
    """The kept query encoder has none, and embeds as the adapted model does."""
    adapted = ["arch.args.lora.rank=2", 'arch.args.lora.match=["*_proj.weight"]']
    config = make_tower_config(str(tower), str(tower), adapted)
    model = build_model(config, torch.device("cpu")).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(".up"):
                weight.normal_()
    save_checkpoint(tmp_path / "model.pth", {"state_dict": model.state_dict()})
    update(library, tmp_path / "adapted", ModelFile(tmp_path / "model.pth", config))
    update(library, tmp_path / "plain", TowerModel(str(tower)))
    embeds = {}
    for name in ("adapted", "plain"):
        with VideoIndex.open(tmp_path / name) as index:
            embeds[name] = index.load_query_encoder().embed(QUERY)
    collate = Collate.for_model(describe_model_input(config.arch))
    with torch.inference_mode():
        wanted = model.embed_queries(collate.tokenize_queries([QUERY]))[0].numpy()
    np.testing.assert_allclose(embeds["adapted"], wanted / np.linalg.norm(wanted), atol=1e-2)
    assert np.abs(embeds["plain"] - embeds["adapted"]).max() > 0.05


def test_identity_is_the_weights_wherever_they_are(library, tmp_path, tower, other_tower):
    out, moved = tmp_path / "my.index", tmp_path / "moved"
    update(library, out, TowerModel(str(tower)))
    shutil.copytree(tower, moved)
    assert update(library, out, TowerModel(str(moved))).plan.num_same == 8
    assert read_index_meta(out)["model"]["name"] == str(moved)
    with pytest.raises(OtherModelError) as caught:
        update(library, out, TowerModel(str(other_tower)))
    text = str(caught.value)
    assert f"with the model {moved} (weights " in text and f"not with {other_tower} (wei" in text
    frames = ["data_loader.args.video_params.num_frames=2"]
    with pytest.raises(OtherModelError, match=r"other settings .*\(num_frames 2, not 8\)"):
        update(library, out, TowerModel(str(tower), frames))
    # The folder holds other weights by now.
    shutil.copy(library.videos / next(iter_names(library)), library.videos / "new.mp4")
    write_tower(moved, "clip", seed=5)
    with pytest.raises(OtherModelError, match=r"moved \(weights \w+\), not with .*moved \(weights"):
        update(library, out, read_kept(out))
    done = update(library, out, TowerModel(str(moved)), replace_model=True)
    assert (done.num_anew, done.num_entries, done.failed) == (8, 9, {})
    with VideoIndex.open(out) as index:
        assert index.search(QUERY, mode="semantic") and len(list(out.glob("config*.json"))) == 1


def iter_names(library):
    return (str(path.relative_to(library.videos)) for path in library.videos.rglob("*.mp4"))


def test_words_first_and_meaning_later(library, tmp_path, tower, other_tower, run, no_hub):
    out = tmp_path / "my.index"
    command = [library.videos, "--out", out]
    code, _, said = run(index_script, *command, "--no-ocr")
    assert code == 2 and not out.exists() and "without text there is nothing to find" in said
    code, text, said = run(index_script, *command, "--ocr", library.ocr)
    assert code == 0 and text.endswith(f"{out}: 8 videos, 8 entries\n")
    (line,) = [line for line in said.splitlines() if "words only" in line]
    assert f"no model ({DEFAULT_TOWER}: is not in the local cache" in line
    assert f"add one later: python index.py {library.videos} --out {out} --model NAME" in line
    assert no_hub == [DEFAULT_TOWER] * 2
    code, text, said = run(search_script, out, "casino", "--json")
    assert code == 0 and json.loads(text)[0]["words"] and "holds words only" in said
    code, text, said = run(search_script, out, "casino", "--mode", "semantic")
    assert code == 2 and said.startswith("this index holds words only") and not text
    code, _, said = run(index_script, *command)  # as before, and nothing is asked again
    assert code == 0 and said.count("index.py") == 0 and len(no_hub) == 2
    code, text, _ = run(index_script, *command, "--model", tower, "--dry-run")
    assert code == 0 and text.startswith("8 to be embedded by another model\n0 to add")
    code, text, said = run(index_script, *command, "--model", tower)
    assert code == 0 and text.splitlines()[0] == "8 embedded by the new model"
    code, text, said = run(search_script, out, QUERY, "--mode", "semantic", "--json")
    assert code == 0 and len(json.loads(text)) == 8 and not said
    shutil.copy(library.videos / next(iter_names(library)), library.videos / "new.mp4")
    code, text, _ = run(index_script, *command)
    assert code == 0 and text.endswith("9 videos, 9 entries\n")
    code, _, said = run(index_script, *command, "--model", other_tower)
    assert code == 2 and str(tower) in said and str(other_tower) in said
    assert "--replace-model" in said
    code, _, said = run(index_script, *command, "--replace-model")
    assert code == 2 and "give the other model with --model or -r" in said
    code, text, _ = run(index_script, *command, "--model", other_tower, "--replace-model")
    assert code == 0 and text.splitlines()[0] == "9 embedded by the new model"


def test_what_is_no_tower_is_said(library, tmp_path, run, demo):
    out = tmp_path / "my.index"
    command = [library.videos, "--out", out, "--no-ocr", "--model"]
    code, _, said = run(index_script, *command, "no/such/folder")
    assert code == 2 and said.startswith("no/such/folder: no such folder, and no name that")
    code, _, said = run(index_script, *command, demo / "text_model")
    assert code == 2 and "distilbert" in said
    code, _, said = run(index_script, *command, demo)
    assert code == 2 and "config.json" in said
    code, _, said = run(index_script, *command, "x", "-c", "c.json")
    assert code == 2 and "-c changes nothing without -r" in said
    code, _, said = run(index_script, *command, "x", "-r", "m.pth")
    assert code == 2 and "not allowed with argument" in said


@pytest.mark.slow
def test_with_nothing_the_default_tower_comes_from_the_hub_once(library, tmp_path, tower):
    """Whole processes: one download, said once; then no call, online or offline."""
    out = tmp_path / "my.index"
    command = [sys.executable, ROOT / "index.py", library.videos, "--out", out, "--no-ocr"]

    def call(hub, **more: str) -> str:
        environment = hub.environment(tmp_path / "cache", **more)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        return done.stderr

    with serving_hub({DEFAULT_TOWER: tower}) as hub:
        said = call(hub)
        assert said.count(f"downloading {DEFAULT_TOWER}, 0 MB, from {hub.address}") == 1
        assert read_index_meta(out)["model"]["name"] == DEFAULT_TOWER
        assert json.loads((out / "config.json").read_text())["arch"]["args"]["tower"] == (
            DEFAULT_TOWER
        )
        hub.calls.clear()
        for number, more in enumerate(({}, {"HF_HUB_OFFLINE": "1"})):
            shutil.copy(
                library.videos / next(iter_names(library)), library.videos / f"{number}.mp4"
            )
            assert "downloading" not in call(hub, **more)
            assert hub.calls == []
        shutil.rmtree(out)
        call(hub)
        assert hub.calls == []  # a new index, too, where the cache has it
        shutil.rmtree(tmp_path / "cache")
        code = "from retrieval import VideoIndex; import sys; print(len(VideoIndex.open("
        code += "sys.argv[1]).search('a red circle', mode='semantic')))"
        done = subprocess.run(
            [sys.executable, "-c", code, out], env=hub.environment(tmp_path / "cache"),
            capture_output=True, text=True, cwd=ROOT,
        )  # fmt: skip
        assert done.stdout.strip() == "10", done.stderr
        assert hub.calls == []


def test_a_model_that_comes_later_brings_its_vectors_of_frames(library, tmp_path, tower):
    """An index of words that a tower is added to is the index that the tower makes."""
    later, fresh = tmp_path / "later.index", tmp_path / "fresh.index"
    source = OcrFolder(library.ocr)
    update_index(library.videos, later, None, source, IndexOptions())
    for out in (later, fresh):
        update_index(library.videos, out, TowerModel(str(tower)), source, IndexOptions())
    hits = []
    for out in (later, fresh):
        with VideoIndex.open(out) as index:
            found = index.search(QUERY, mode="semantic")
            hits.append([(hit.video, round(hit.score, 5), hit.time_s) for hit in found])
    assert hits[0] == hits[1] and all(time is not None for *_, time in hits[0])
