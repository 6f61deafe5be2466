"""``test.py --save_feats`` by the workers of a Ray cluster: the embeddings of a single process."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from evaluation.embedding_files import load_embeddings
from tests.conftest import ROOT, tiny
from tests.ray_cluster import ray_cluster  # noqa: F401 - a fixture
from tests.test_test import make_run, script


def list_files(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_the_same_embeddings_matrix_and_metrics(demo, tmp_path, run_main):
    data = Path(shutil.copytree(demo, tmp_path / "data"))
    name = json.loads((data / "TextVR_test.json").read_text())[5]["path"]
    (data / "Kwai_VideoOCR" / name).with_suffix(".json").unlink()
    checkpoint = make_run(tmp_path / "run", data)
    printed, lines = [], []
    for name, options in (("a", []), ("b", ["--ray", "local"])):
        code, out, said = run_main(
            script, "-r", checkpoint, "--save_feats", tmp_path / name, "--batch_size", "2",
            "--shard_size", "3", "--sim_path", tmp_path / f"{name}.matrix/s.npy", *options,
        )  # fmt: skip
        assert code == 0, said
        lines.append(said.splitlines())
        printed.append(out.replace(f"{name}.matrix", "MATRIX"))
    assert printed[0] == printed[1]
    found, right = load_embeddings(tmp_path / "b"), load_embeddings(tmp_path / "a")
    assert found.ids == right.ids and len(found.ids) == 8
    np.testing.assert_array_equal(found.video_of_query, right.video_of_query)
    for array in ("video_embeds", "text_embeds"):
        np.testing.assert_allclose(getattr(found, array), getattr(right, array), atol=1e-6)
    files = list_files(tmp_path / "b")
    assert files.keys() == list_files(tmp_path / "a").keys()
    (manifest,) = (name for name in files if json_of(files[name]).get("complete"))
    contents = [json_of(tmp_path / folder / manifest) for folder in "ab"]
    losses = [content.pop("loss_sums") for content in contents]
    assert contents[0] == contents[1] and len(contents[0]["videos"]) == 2
    np.testing.assert_allclose(*losses, rtol=1e-6)
    matrices = [np.load(tmp_path / f"{name}.matrix/s.npy") for name in "ab"]
    np.testing.assert_allclose(*matrices, atol=1e-6)
    # What of the data could not be used is listed, and said, once.
    missing = [line.split("no OCR document: ")[1] for line in lines[1] if "no OCR doc" in line]
    assert len(missing) == 1 and missing == [
        line.split("no OCR document: ")[1] for line in lines[0] if "no OCR doc" in line
    ]


def json_of(path: Path) -> dict:
    content = json.loads(path.read_text()) if path.suffix == ".json" else {}
    return content if isinstance(content, dict) else {}


@pytest.mark.slow
def test_it_goes_on_and_a_model_without_weights_is_tested(demo, tmp_path, run_main):
    """What is there is not encoded again; a model that has to know the vocabulary is given it."""
    sets = [part for text in tiny(demo) if "data_loader" in text for part in ("--set", text)]
    sets += ["--set", f"arch.args.tokenizer={demo}/text_model"]
    command = [script, "-c", ROOT / "configs/TextVR_word_overlap.json", *sets]
    command += ["--batch_size", "1", "--shard_size", "2"]
    found = []
    for name, options in (("a", []), ("b", ["--ray", "local"])):
        options += ["--save_feats", tmp_path / name, "--sim_path", tmp_path / f"{name}.npy"]
        code, _, said = run_main(*command, *options)
        assert code == 0, said
        found.append(np.load(tmp_path / f"{name}.npy"))
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)
    last = sorted((tmp_path / "b").glob("*.videos-*.npy"))[-1]
    before = last.read_bytes()
    last.write_bytes(b"torn")
    code, _, said = run_main(*command, *options)
    assert code == 0 and "6 videos are there" in said
    assert last.read_bytes() == before
