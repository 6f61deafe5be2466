"""What an earlier commit made still opens, updates, resumes, and gives the same numbers.

tests/goldens/README.md says what its files hold and how they were made. Only commands, files and
``VideoIndex`` are used here, so that these tests outlive any change of the code's layout.
"""

import gzip
import importlib.util
import io
import json
import os
import re
import runpy
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from evaluation.embedding_files import load_embeddings
from retrieval import VideoIndex
from retrieval.printing import dump_hits
from tests.conftest import ROOT

GOLDENS = Path(__file__).parent / "goldens"
MODES = ("meaning", "words", "fused")
NEW_NAMES = {"edits": "fuzzy"}  # values of the JSON that may have either name
TIMINGS = ("seconds", "timing")  # in metrics.jsonl, differ from run to run
SPELLINGS = {
    "utils.report": "tools.report",
    "utils.checkpoint": "tools.checkpoint",
    "trainer.evaluator": "tools.score_matrix",
    "data_loader.frame_cache": "tools.cache_frames",
    "data_loader.synthetic": "tools.make_data",
}


def read_golden(name: str) -> Any:
    return json.loads(gzip.decompress((GOLDENS / name).read_bytes()))


HITS = read_golden("hits.json.gz")
DEMO = read_golden("demo.json.gz")


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def run(*words: str | Path) -> Done:
    """Run ``python WORDS`` in this process, which has imported everything already."""
    first, *rest = map(str, words)
    if first == "-m":
        first, *rest = rest
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", [first, *rest])
        try:
            if first.endswith(".py"):
                runpy.run_path(str(ROOT / first), run_name="__main__")
            else:
                runpy.run_module(first, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = int(end.code or 0)
    return Done(code, out.getvalue(), err.getvalue())


def check_contains(old: Any, new: Any, where: str = "", places: float = 1e-4) -> None:
    """Everything in ``old`` is in ``new``; new keys may have come, and notes may read otherwise."""
    if isinstance(old, dict):
        assert isinstance(new, dict) and not old.keys() - new.keys(), where
        for key in old:
            check_contains(old[key], new[key], f"{where}.{key}", places)
    elif isinstance(old, list):
        assert isinstance(new, list) and len(old) == len(new), where
        for number, pair in enumerate(zip(old, new, strict=True)):
            check_contains(*pair, f"{where}[{number}]", places)
    elif isinstance(old, (int, float)) and not isinstance(old, bool):
        assert new == pytest.approx(old, abs=places), where
    elif where.endswith("_note"):
        assert isinstance(new, str) and new, where
    else:
        assert new in (old, NEW_NAMES.get(old, old)), where


def unpack(folder: Path) -> Path:
    """Unpack what the old code made; its indexes are told where their folders are now."""
    with tarfile.open(GOLDENS / "made_by_old_code.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    for index in ("my.index", "spotted.index"):
        with closing(sqlite3.connect(folder / index / "index.db")) as connection, connection:
            rows = connection.execute("SELECT key, value FROM meta").fetchall()
            meta = {key: json.loads(value) for key, value in rows}
            meta["folder"] = moved(meta["folder"], folder)
            meta["model"]["path"] = meta["model"]["path"].replace(HITS["work"], str(folder))
            if "folder" in meta["ocr"]:
                meta["ocr"]["folder"] = moved(meta["ocr"]["folder"], folder)
            for key in ("folder", "model", "ocr"):
                value = json.dumps(meta[key])
                connection.execute("UPDATE meta SET value = ? WHERE key = ?", (value, key))
    return folder


def moved(path: str, folder: Path) -> str:
    """Return a path of an index, in hexadecimal digits, after its work folder has moved."""
    before = os.fsdecode(bytes.fromhex(path))
    assert before.startswith(HITS["work"])
    return os.fsencode(before.replace(HITS["work"], str(folder))).hex()


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """What the old code made; only read."""
    return unpack(tmp_path_factory.mktemp("goldens"))


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """A copy of it that may be changed, and the current folder: configurations name it so."""
    monkeypatch.chdir(unpack(tmp_path))
    return tmp_path


# An index folder


def counts(add: int = 0, update: int = 0, unchanged: int = 0) -> str:
    """What is said of a plan."""
    return f"{add} to add, {update} to update, 0 to drop, 0 unreadable, {unchanged} unchanged\n"


def done_counts(added: int = 0, unchanged: int = 0) -> str:
    """What is said when it is done."""
    return f"{added} added, 0 updated, 0 dropped, 0 unreadable, {unchanged} unchanged\n"


def check_hits(old: list[Any], new: list[Any], mode: str, where: str) -> None:
    """Hits by meaning are the recorded ones; by words, what was found exactly still is.

    Scores of words, and so the order, are others since evidence is added up, and what counts as a
    misreading is, too: what follows from a place is compared, not the place.
    """
    if mode == "meaning":
        check_contains(old, new, where)
        return
    found = {hit["id"]: hit for hit in new}
    for hit in old:
        exact = [word for word in hit["words"] if word["kind"] == "exact"]
        if exact or mode == "fused":
            now = found[hit["id"]]
            names = ("video", "start_s", "end_s", "similarity", "explanation", "meaning_rank")
            check_contains({n: hit[n] for n in names}, {n: now[n] for n in names}, where)
            read = [word for word in now["words"] if word["track_kind"] == "read"]
            still = [word for word in read if word["kind"] == "exact"]
            check_contains(sorted(exact, key=str), sorted(still, key=str), where)


def write_hits(hits: list[Any]) -> list[Any]:
    """Return hits as ``search.py --json`` has them."""
    return json.loads(dump_hits(hits))


@pytest.mark.parametrize("mode", MODES)
def test_an_old_index_answers_its_queries(mode, unpacked):
    assert len(HITS["queries"]) == 20
    k = "8" if mode == "meaning" else "1000"
    for case in HITS["queries"]:
        words = (case["query"], "--mode", mode, "-k", k, "--json", "--explain", "--all")
        done = run("search.py", unpacked / "my.index", *words)
        assert done.code == 0, done.err
        check_hits(case[mode], json.loads(done.out), mode, case["query"])


@pytest.mark.parametrize("mode", MODES)
def test_an_old_index_answers_from_python(mode, unpacked):
    k = 8 if mode == "meaning" else 1000
    with VideoIndex.open(unpacked / "my.index") as index:
        assert index.videos == unpacked / "my_videos"
        index.check_model(unpacked / "runs/trained/model_best.pth")
        for case in HITS["queries"]:
            hits = index.search(case["query"], k=k, mode=mode, explain=True)
            check_hits(case[mode], write_hits(hits), mode, case["query"])
        if mode == "fused":  # what is searched by where nothing is said
            assert index.search(case["query"], k=k, explain=True) == hits


@pytest.mark.parametrize(("index", "videos", "number"), [
    ("my.index", "my_videos", 8), ("spotted.index", "two_videos", 2),
])  # fmt: skip
def test_nothing_has_changed_in_an_old_index(index, videos, number, work):
    before = (work / index / "index.db").read_bytes()
    assert run("index.py", videos, "--out", index, "--dry-run") == (0, counts(unchanged=number), "")
    assert (work / index / "index.db").read_bytes() == before
    done = run("index.py", videos, "--out", index)
    assert (done.code, done.out.startswith(done_counts(unchanged=number))) == (0, True), done


def add_video(work: Path, videos: str, ocr: str | None) -> str:
    """Add a video of the training set; returns its name in the folder."""
    entry = json.loads((work / "data/TextVR_train.json").read_text())[0]["path"]
    (work / videos / "new").mkdir()
    shutil.copy(work / "data/Videos" / entry, work / videos / "new/one.mp4")
    if ocr is not None:
        (work / ocr / "new").mkdir()
        document = (work / "data/Kwai_VideoOCR" / entry).with_suffix(".json")
        shutil.copy(document, work / ocr / "new/one.json")
    return "new/one.mp4"


@pytest.mark.parametrize("model", [(), ("-r", "runs/trained/model_best.pth")])
def test_an_old_index_is_updated(model, work):
    def search(mode: str) -> dict[int, Any]:
        with VideoIndex.open("my.index") as index:
            hits = index.search("a red circle and the sign reads casino", k=1000, mode=mode)
        return {h.id: (h.video, h.start_s, h.similarity, len(h.words)) for h in hits}

    before = {mode: search(mode) for mode in MODES}
    name = add_video(work, "my_videos", "my_ocr")
    done = run("index.py", "my_videos", "--out", "my.index", *model)
    assert done.code == 0 and done.out.startswith(done_counts(1, unchanged=8)), done
    for mode in MODES:
        after = search(mode)
        new = {hit_id for hit_id, hit in after.items() if hit[0] == name}
        assert after.keys() - new == before[mode].keys()
        for hit_id, hit in before[mode].items():
            check_contains(list(hit), list(after[hit_id]))
        assert new or mode == "words"
    with VideoIndex.open("my.index") as index:
        assert index.search("a", folder="new", mode="meaning")[0].video == name
    (work / "my_videos" / name).unlink()
    done = run("index.py", "my_videos", "--out", "my.index", *model)
    assert done.code == 0 and "0 updated, 1 dropped, 0 unreadable, 8 unchanged" in done.out


def test_an_old_index_refuses_another_model_and_other_settings(work):
    other = run("index.py", "my_videos", "--out", "my.index", "-r", "runs/stopped/model_best.pth")
    assert other.code == 2 and "my.index" in other.err
    change = ("--set", "data_loader.args.video_params.num_frames=1")
    model = ("-r", "runs/trained/model_best.pth")
    settings = run("index.py", "my_videos", "--out", "my.index", *model, *change)
    assert settings.code == 2 and "my.index" in settings.err
    assert run("index.py", "my_videos", "--out", "my.index", *model).code == 0


def test_an_old_index_with_spotted_text_is_searched_and_updated(work):
    for query, recorded in zip(("casino", "royal"), HITS["spotted"], strict=True):
        words = (query, "--mode", "words", "-k", "5", "--json", "--explain", "--all")
        hits = json.loads(run("search.py", "spotted.index", *words).out)
        check_hits(recorded, hits, "words", query)
    pytest.importorskip("rapidocr_onnxruntime")
    add_video(work, "two_videos", None)
    done = run("index.py", "two_videos", "--out", "spotted.index")
    assert done.code == 0 and done.out.startswith(done_counts(1, unchanged=2)), done


def test_old_documents_of_spotted_text_are_read(work):
    model = ("-r", "runs/trained/model_best.pth", "--window", "0.5", "--stride", "0.5")
    done = run("index.py", "two_videos", *model, "--ocr", "two_ocr", "--out", "again.index")
    assert done.code == 0, done.err
    for query, recorded in zip(("casino", "royal"), HITS["spotted"], strict=True):
        words = (query, "--mode", "words", "-k", "5", "--json", "--explain", "--all")
        check_hits(
            recorded, json.loads(run("search.py", "again.index", *words).out), "words", query
        )


# A checkpoint


def test_an_old_checkpoint_is_tested(work):
    paths = ("--sim_path", "out/sim_matrix.npy", "--save_feats", "out/feats")
    done = run("test.py", "-r", "runs/trained/model_best.pth", *paths)
    assert done.code == 0, done.err
    with np.load(GOLDENS / "tested.npz") as recorded:
        assert {"sim_matrix", "feats/text_embeds.npy", "feats/video_embeds.npy"} <= set(recorded)
        # Embeddings were one file a kind then; they are shards since, to go on with after a stop.
        found = load_embeddings(work / "out/feats")
        for name, values in recorded.items():
            kind = name.removeprefix("feats/").removesuffix(".npy")
            now = np.load(work / "out/sim_matrix.npy") if name == "sim_matrix" else None
            now = getattr(found, kind) if now is None else now
            np.testing.assert_allclose(now, values, atol=1e-5, err_msg=name)
    recorded = json.loads((GOLDENS / "tested_metrics.json").read_text())
    check_contains(recorded, json.loads((work / "out/metrics.json").read_text()))


# An interrupted run


def test_an_old_run_is_resumed(work):
    stopped = torch.load("runs/stopped/model_last.pth", weights_only=True)
    assert (stopped["epoch"], stopped["step"]) == (1, 6)  # within the second epoch
    done = run("train.py", "-r", "runs/stopped/model_last.pth")
    assert done.code == 0, done.err
    check_logs(GOLDENS / "whole_metrics.jsonl", work / "runs/stopped/metrics.jsonl")
    state = torch.load("runs/stopped/model_last.pth", weights_only=True)
    assert (state["epoch"], state["step"]) == (3, 12)
    with np.load(GOLDENS / "final_weights.npz") as recorded:
        for name, values in recorded.items():
            now = state["state_dict"][name].numpy()
            np.testing.assert_allclose(now, values, rtol=1e-4, atol=1e-5, err_msg=name)
        moved = [
            name
            for name, values in recorded.items()
            if not np.allclose(stopped["state_dict"][name], values, rtol=1e-4, atol=1e-5)
        ]
        assert len(moved) > len(recorded) / 2  # the comparison tells trained weights from others


def check_logs(recorded: Path, written: Path) -> None:
    old, new = (
        [json.loads(line) for line in f.read_text().splitlines()] for f in (recorded, written)
    )
    assert len(old) == len(new) == 3
    for before, now in zip(old, new, strict=True):
        assert not before.keys() - now.keys()
        for name in ("epoch", "loss_0", "val_loss_0", "lr", "gradient_norm"):
            assert now[name] == pytest.approx(before[name], rel=1e-4), name


# The demonstration at its real size


@pytest.mark.parametrize("module", ["trainer.evaluator", "tools.score_matrix"])
def test_the_demonstrations_matrix_is_scored(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if module.startswith("tools") and not importlib.util.find_spec("tools"):
        pytest.skip("this code is older than the new spelling")
    with np.load(GOLDENS / "demo_matrix.npz") as recorded:
        np.save("demo.npy", recorded["sim_matrix"].astype(np.float32))
    Path("TextVR_test.json").write_text(json.dumps(DEMO["annotations"]))
    done = run("-m", module, "demo.npy", "--annotations", "TextVR_test.json")
    assert done.code == 0, done.err
    check_contains(DEMO["matrix_metrics"], json.loads(Path("demo.metrics.json").read_text()))


@pytest.mark.slow
def test_the_demonstration_trains_as_before(tmp_path):
    """Data, first weights, batches and augmentation of 16 steps at the real size."""
    run_dir, data = tmp_path / "run", tmp_path / "data"
    subprocess.run(
        [sys.executable, "-m", "data_loader.synthetic", "--out", data], cwd=ROOT, check=True
    )
    assert json.loads((data / "TextVR_test.json").read_text()) == DEMO["annotations"]
    changes = (
        f"data_loader.args.data_dir={data}",
        f"arch.args.text_params.model={data}/text_model",
    )
    words = [word for change in changes for word in ("--set", change)]
    command = ["train.py", "-c", "configs/demo/published_recipe.json", "--run_dir", run_dir, *words]
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT)
    wait_for(lambda: (run_dir / "metrics.jsonl").exists() or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 143
    first = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[0])
    recorded = DEMO["metrics"][0]
    assert not recorded.keys() - first.keys()
    assert first["lr"] == pytest.approx(recorded["lr"])
    for name in ("loss_0", "val_loss_0", "gradient_norm"):
        assert first[name] == pytest.approx(recorded[name], rel=1e-3), name


def wait_for(condition: Callable[[], bool], seconds: float = 900) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.1)


# The configuration's schema


def schema_facts(schema: dict) -> dict[str, dict[str, list]]:
    """Return what a schema says of each key: path -> types, enum, default, required keys."""
    facts: dict[str, dict[str, list]] = {}

    def note(path: str, what: str, values: list) -> None:
        facts.setdefault(path, {}).setdefault(what, []).extend(values)

    def walk(node: dict, path: str) -> None:
        if "$ref" in node:
            walk(schema["$defs"][node["$ref"].rpartition("/")[2]], path)
        kind = node.get("type", [])
        note(path, "types", kind if isinstance(kind, list) else [kind])
        note(path, "enum", [*node.get("enum", []), *([node["const"]] if "const" in node else [])])
        note(path, "default", [node["default"]] if "default" in node else [])
        note(path, "required", node.get("required", []))
        for name, value in node.get("properties", {}).items():
            walk(value, f"{path}.{name}")
        for branch in (
            *node.get("anyOf", ()),
            *node.get("oneOf", ()),
            *node.get("prefixItems", ()),
        ):
            walk(branch, path)
        if isinstance(node.get("items"), dict):
            walk(node["items"], path)
        for part in node.get("allOf", ()):
            if "if" in part:  # the arguments of one type
                chosen = part["if"]["properties"]["type"]["const"]
                walk(part["then"]["properties"]["args"], f"{path}.args({chosen})")
            else:
                walk(part, path)

    walk(schema, "")
    return facts


CHANGED_DEFAULTS = {".trainer.compile"}  # null: as before on the CPU, but compiled on a GPU


def test_every_key_of_the_old_configuration_is_accepted():
    old = schema_facts(read_golden("schema.json.gz"))
    new = schema_facts(json.loads(run("parse_config.py", "--schema").out))
    assert len(old) > 150 and sum(len(fact["enum"]) for fact in old.values()) > 20
    assert not old.keys() - new.keys()
    for path, fact in old.items():
        now = new[path]
        assert set(fact["types"]) <= set(now["types"]), path
        if path not in CHANGED_DEFAULTS:
            for value in fact["default"]:
                assert any(is_contained(value, other) for other in now["default"]), path
        assert not now["enum"] or all(value in now["enum"] for value in fact["enum"]), path
        assert set(now["required"]) <= set(fact["required"]), path


def is_contained(old: Any, new: Any) -> bool:
    """Whether a default is still the same; that of an object may have keys more."""
    if isinstance(old, dict) and isinstance(new, dict):
        return old.items() <= new.items()
    return old == new


# The spellings of commands


@pytest.mark.parametrize(("old", "new"), SPELLINGS.items())
def test_an_old_spelling_works_and_names_the_new_one(old, new):
    done = run("-m", old, "--help")
    assert done.code == 0 and "usage:" in done.out
    assert re.search(rf"python -m {re.escape(new)}\b", done.err), done.err
    assert run("-m", old, "--no-such-option").code == 2


@pytest.mark.parametrize("new", SPELLINGS.values())
def test_a_new_spelling_says_nothing_of_the_old_one(new):
    done = run("-m", new, "--help")
    assert (done.code, done.err) == (0, "") and "usage:" in done.out
