"""Indexes in half precision: near those in fp32, and both in one index."""

import shutil

import numpy as np
import pytest
import torch

from parse_config import load_config
from retrieval import VideoIndex
from retrieval.index.embedding import BrokenModelError, ModelFile
from retrieval.index.ocr_text import OcrFolder
from retrieval.index.update import IndexOptions, update_index
from retrieval.index.writer import IndexWriter, lock_index, read_index_meta
from tests.retrieval.conftest import CPU
from tests.retrieval.made_index import remove_checksums
from trainer.build import build_model
from utils.checkpoint.files import save_checkpoint
from utils.errors import UserError

QUERY = "a red circle and the sign reads casino"
DISTANCE = 2e-4  # greatest cosine distance of bf16 from fp32, as configs/README.md states it


def read_embeddings(folder) -> dict[str, list[np.ndarray]]:
    """Return the embeddings of each video, which is one window: whole, without either side."""
    found = {}
    with VideoIndex.open(folder) as index, index.reading() as (reader, snapshot):
        arrays = [snapshot.vectors.windows, *snapshot.vectors.without.values()]
        for entry_id, row in reader.connection.execute("SELECT id, row FROM entries").fetchall():
            found[index.entry(entry_id).video] = [np.array(array[row]) for array in arrays]
    return found


def measure_distance(one: np.ndarray, other: np.ndarray) -> float:
    one, other = (rows.astype(np.float64) for rows in (one, other))
    return 1 - float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def read_precision(folder) -> str | None:
    return read_index_meta(folder).get("precision")


@pytest.fixture
def index_with(library):
    """Return a function: the index folder and changes of the configuration -> the update."""

    def run(out, *changes: str, precision=None):
        config = load_config(library.checkpoint.parent / "config.json", changes)
        model, source = ModelFile(library.checkpoint, config), OcrFolder(library.ocr)
        return update_index(library.videos, out, model, source, IndexOptions(precision=precision))

    return run


@pytest.mark.parametrize("changes", [["evaluation.precision=bf16"], ["trainer.precision=bf16"]])
def test_an_index_in_bf16_is_near_that_in_fp32_and_found_by_search(
    changes, built, index_with, tmp_path
):
    index_with(tmp_path / "half.index", *changes)
    assert (read_precision(built[0]), read_precision(tmp_path / "half.index")) == ("fp32", "bf16")
    full, half = read_embeddings(built[0]), read_embeddings(tmp_path / "half.index")
    assert full.keys() == half.keys() and len(full) == 8
    for name, rows in full.items():
        distances = [measure_distance(*pair) for pair in zip(rows, half[name], strict=True)]
        assert len(rows) == 3 and 1e-9 < max(distances) < DISTANCE
    with VideoIndex.open(tmp_path / "half.index") as index, VideoIndex.open(built[0]) as other:
        query = index.load_query_encoder().embed(QUERY)
        assert np.array_equal(query, other.load_query_encoder().embed(QUERY))  # in fp32 both
        for hit in index.search(QUERY, 8, mode="semantic"):
            assert hit.similarity == pytest.approx(float(half[hit.video][0] @ query), abs=1e-5)
            # Two vectors that near have products with a third that differ by so much at most.
            away = (2 * DISTANCE) ** 0.5
            assert hit.similarity == pytest.approx(float(full[hit.video][0] @ query), abs=away)
        found = [{hit.video for hit in i.search("casino", 8)} for i in (index, other)]
        assert found[0] == found[1] == set(full)


def test_embeddings_of_two_precisions_stand_in_one_index_and_it_is_said(
    library, index_with, tmp_path, caplog
):
    out = tmp_path / "my.index"
    extra = tmp_path / "extra.mp4"
    shutil.move(next(library.videos.rglob("*.mp4")), extra)
    index_with(out)
    before = read_embeddings(out)
    assert len(before) == 7 and read_precision(out) == "fp32" and not caplog.messages
    shutil.copy(extra, library.videos / "one.mp4")
    index_with(out, precision="bf16")
    said = f"{out}: its videos were embedded in fp32; those that are embedded from now on are in"
    assert caplog.messages == [f"{said} bf16"]
    after = read_embeddings(out)
    assert all(np.array_equal(after[name][0], rows[0]) for name, rows in before.items())
    caplog.clear()
    shutil.copy(extra, library.videos / "two.mp4")
    index_with(out)  # as before, now
    assert read_precision(out) == "bf16" and not caplog.messages
    index_with(out, precision="fp32")
    shutil.copy(extra, library.videos / "three.mp4")
    index_with(out)
    one, two, three = (read_embeddings(out)[f"{name}.mp4"][0] for name in ("one", "two", "three"))
    assert np.array_equal(one, two) and 1e-9 < measure_distance(one, three) < DISTANCE


def test_an_index_that_does_not_say_it_was_made_in_fp32(copy, built, caplog):
    with lock_index(copy), IndexWriter(copy) as writer:
        del writer.meta["precision"]
        writer._database.execute("DELETE FROM meta WHERE key = 'precision'")
        writer._database.commit()
    remove_checksums(copy)
    assert read_precision(copy) is None
    with VideoIndex.open(copy) as index:
        assert len(index.search(QUERY, 8, mode="semantic")) == 8
    library = built[1]
    config = load_config(library.checkpoint.parent / "config.json", ["trainer.precision=bf16"])
    model, source = ModelFile(library.checkpoint, config), OcrFolder(library.ocr)
    assert update_index(library.videos, copy, model, source, IndexOptions()).plan.num_same == 8
    assert read_precision(copy) == "fp32" and not caplog.messages


def test_numbers_too_large_for_fp16_are_not_blamed_on_the_weights_alone(library, tmp_path):
    config = library.model.config
    model = build_model(config, CPU)
    with torch.no_grad():
        model.fusion_proj[-1].bias += 1e5
    save_checkpoint(tmp_path / "large.pth", {"state_dict": model.state_dict()})
    parts = ModelFile(tmp_path / "large.pth", config), OcrFolder(library.ocr)
    options = IndexOptions(precision="fp16")
    with pytest.raises(BrokenModelError, match=r"damaged; .*; or fp16 can't .* bf16"):
        update_index(library.videos, tmp_path / "i", *parts, options)


def test_the_query_encoder_computes_in_what_it_is_asked_for(built):
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    queries = {}
    for name in ("fp32", "bf16", "fp16", "tf32"):
        with VideoIndex.open(built[0], precision=name) as index:
            queries[name] = index.load_query_encoder().embed(QUERY)
            assert len(index.search(QUERY, 8, mode="semantic")) == 8
    assert all(query.dtype == np.float32 for query in queries.values())
    full = queries.pop("fp32")
    assert np.array_equal(full, queries.pop("tf32"))  # which a CPU does not have
    assert all(1e-9 < measure_distance(full, query) < DISTANCE for query in queries.values())
    assert not np.array_equal(queries["bf16"], queries["fp16"])
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
    with VideoIndex.open(built[0], precision="half") as index:
        with pytest.raises(UserError, match='no precision "half"'):
            index.search(QUERY)
