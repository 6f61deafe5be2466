"""``test.py`` as it is called: the matrix, the metrics and the embeddings that it writes."""

import importlib.util
import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from base.config import resolve_config
from evaluation.embedding_files import load_embeddings
from evaluation.results import SHUFFLED_NOTE
from parse_config import load_config
from tests.conftest import ROOT, tiny
from tests.real_shape import write_real_shape
from trainer.build import build_loader, build_model
from utils.checkpoint.files import save_checkpoint
from utils.cli import run_cli
from utils.files import write_json

CPU = torch.device("cpu")
KEYS = {"R1", "R5", "R10", "R50", "MedR", "MeanR", "geometric_mean_R1-R5-R10"}
# "test" is a package of the standard library, so the script is loaded by its path.
_spec = importlib.util.spec_from_file_location("test_script", ROOT / "test.py")
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)


@pytest.fixture
def ended(monkeypatch, capsys):
    """Return a function that runs the command here; it gives the exit code, stdout and stderr."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(*command: object) -> tuple[int, str, list[str]]:
        monkeypatch.setattr(sys, "argv", ["test.py", *map(str, command)])
        with pytest.raises(SystemExit) as caught:
            run_cli(script.main)
        captured = capsys.readouterr()
        lines = captured.err.replace("\r", "\n").splitlines()
        return caught.value.code, captured.out, [x for x in lines if x and "batch/s" not in x]

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def make_run(folder: Path, data_dir: Path, *changes: str, kind: str = "fusion") -> Path:
    """A run's folder with a model's initial weights; returns the checkpoint."""
    folder.mkdir()
    config = load_config(ROOT / f"configs/demo/{kind}.json", [*tiny(data_dir), *changes])
    write_json(folder / "config.json", resolve_config(config))
    save_checkpoint(folder / "model.pth", {"state_dict": build_model(config, CPU).state_dict()})
    return folder / "model.pth"


@pytest.fixture(scope="module")
def checkpoint(demo, tmp_path_factory):
    """The checkpoint of a run of the mode ocr on the demo."""
    return make_run(tmp_path_factory.mktemp("runs") / "run", demo, kind="ocr")


@torch.no_grad()
def single_pairs(checkpoint: Path, **changes) -> np.ndarray:
    """The similarities, each from one caption and one video alone."""
    config = load_config(checkpoint.parent / "config.json")
    model = build_model(config, CPU)
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    model.eval()
    changes = {"split": "test", "batch_size": 1} | changes
    loader = build_loader(config, 0, training=False, **changes)
    embeds = [model(loader.to_device(batch, CPU)) for batch in loader]
    pairs = [[(q["text"][0], v[model.video_key][0]) for v in embeds] for q in embeds]
    return np.array([[float(torch.cosine_similarity(*p, dim=0)) for p in row] for row in pairs])


def test_the_command_writes_the_matrix_and_metrics_where_it_is_started(checkpoint, tmp_path):
    command = [sys.executable, ROOT / "test.py", "-r", checkpoint]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"sim_matrix.npy", "metrics.json", "ranks.csv", "data_report.json"}
    matrix = np.load(tmp_path / "sim_matrix.npy")
    assert matrix.dtype == np.float32 and matrix.shape == (8, 8)
    np.testing.assert_allclose(matrix, single_pairs(checkpoint), atol=3e-6)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    lines = done.stdout.splitlines()
    assert lines[0].split()[:6] == ["R1", "R5", "R10", "R50", "MedR", "MeanR"]
    for name, row in (("t2v_metrics", 1), ("v2t_metrics", 5)):
        shown = [f"{value:.2f}" for value in metrics[name].values()]
        assert lines[row].startswith(f"{name[:3]}, one right video (published)")
        assert lines[row].split()[-7:] == shown
    assert lines[-1] == f"8 captions, 8 videos of {metrics['annotation_file']}"
    reading = metrics["breakdown"]["needs_reading"]  # the demo's captions name the word shown
    assert reading["needs reading"]["count"] > 0 and "needs_reading_note" not in reading
    assert "note" not in metrics and metrics["num_captions"] == 8


def test_every_option_of_the_loader(checkpoint, tmp_path, ended):
    sim = tmp_path / "new" / "m.npy"
    options = ["-r", checkpoint, "--sim_path", sim, "--save_feats", tmp_path / "feats"]
    code, out, _ = ended(*options, "--split", "train", "--batch_size", 3)
    assert code == 0 and "16 captions, 8 videos of " in out and "TextVR_train.json" in out
    assert np.load(sim).shape == (16, 8)
    assert json.loads((sim.parent / "metrics.json").read_text())["num_captions"] == 16
    feats = {path.name for path in (tmp_path / "feats").iterdir() if path.name[0] != "."}
    kinds = ["videos-00000.npy", "texts-00000.npy", "text_row.npy", "video_of_query.npy"]
    kinds += ["json", "ids.json", "data_report.json"]
    assert feats == {f"demo_ocr-run-model-train.{kind}" for kind in kinds}
    embeds = load_embeddings(tmp_path / "feats")
    assert embeds.text_embeds.shape == (16, 32) and embeds.video_embeds.shape == (8, 32)
    assert embeds.video_of_query.tolist() == np.repeat(range(8), 2).tolist()


def test_the_precision_is_that_of_training_unless_another_is_set(demo, tmp_path, ended):
    checkpoint = make_run(tmp_path / "run", demo, "trainer.precision=bf16", kind="ocr")
    file = checkpoint.parent / "config.json"
    assert json.loads(file.read_text())["evaluation"] == {"precision": None}
    matrices, said = {}, {}
    for name in ("null", "bf16", "fp32"):
        path = tmp_path / f"{name}.npy"
        change = "--set", f"evaluation.precision={name}"
        code, _, said[name] = ended("-r", checkpoint, "--sim_path", path, *change)
        assert code == 0
        matrices[name] = np.load(path)
        assert matrices[name].dtype == np.float32
    np.testing.assert_allclose(matrices["fp32"], single_pairs(checkpoint), atol=3e-6)
    np.testing.assert_array_equal(matrices["null"], matrices["bf16"])
    assert 3e-5 < np.abs(matrices["bf16"] - matrices["fp32"]).max() < 0.02
    for name, shown in (("null", "bf16"), ("fp32", "fp32")):
        assert any(f"the encoders compute in {shown}" in line for line in said[name])
    old = json.loads(file.read_text())  # of a release that had no such block
    del old["evaluation"]
    write_json(file, old)
    assert ended("-r", checkpoint, "--sim_path", tmp_path / "old.npy")[0] == 0
    np.testing.assert_array_equal(np.load(tmp_path / "old.npy"), matrices["bf16"])
    code, _, said = ended("-r", checkpoint, "--set", "evaluation.precision=half")
    assert code == 2 and 'evaluation.precision: expected one of "fp32", "tf32"' in said[-1]


def test_the_batch_size_does_not_change_the_matrix(checkpoint, tmp_path, ended):
    for size in (1, 5, 8):
        assert ended("-r", checkpoint, "--sim_path", tmp_path / f"{size}.npy",
                     "--batch_size", size)[0] == 0  # fmt: skip
    matrices = [np.load(tmp_path / f"{size}.npy") for size in (1, 5, 8)]
    np.testing.assert_allclose(matrices[0], matrices[1], atol=3e-6)
    np.testing.assert_allclose(matrices[0], matrices[2], atol=3e-6)


def test_the_matrix_alone_scores_the_same(checkpoint, demo, tmp_path, ended):
    """Every key that both files have is equal: the command needs no model, and no video."""
    sim, change = tmp_path / "m.npy", ["--postprocess", "dual_softmax", "--temperature", "0.1"]
    code, out, _ = ended("-r", checkpoint, "--sim_path", sim, *change)
    file = demo / "TextVR_test.json"
    command = [sys.executable, "-m", "trainer.evaluator", sim, "--annotations", file, *change]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert code == done.returncode == 0, done.stderr
    tested, alone = (json.loads((tmp_path / name).read_text())
                     for name in ("metrics.json", "m.metrics.json"))  # fmt: skip
    own = {
        "selected_on",
        "loss",
        "unreadable_videos",
        "missing_ocr_documents",
        "skipped_ocr_records",
    }
    assert tested.keys() - alone.keys() == own and not alone.keys() - tested.keys()
    assert {key: tested[key] for key in alone} == alone
    assert (tmp_path / "ranks.csv").read_bytes() == (tmp_path / "m.ranks.csv").read_bytes()
    assert list(alone["postprocessed"]) == ["dual_softmax"]
    assert alone["postprocessed"]["dual_softmax"]["t2v_metrics"].keys() == KEYS
    assert done.stdout.splitlines()[:-1] == out.splitlines()
    np.testing.assert_allclose(np.load(sim), single_pairs(checkpoint), atol=3e-6)  # the plain one


def test_without_a_matrix(checkpoint, tmp_path, ended, monkeypatch):
    """The metrics are those of the matrix; that there will be none is said before encoding."""
    sim, feats = tmp_path / "m.npy", ["--save_feats", tmp_path / "feats", "--shard_size", 3]
    assert ended("-r", checkpoint, "--sim_path", sim)[0] == 0
    whole = json.loads((tmp_path / "metrics.json").read_text())
    sim.unlink()
    code, out, lines = ended("-r", checkpoint, "--sim_path", sim, "--no_matrix", *feats)
    assert code == 0 and not sim.exists() and "t2v, one right video" in out
    assert json.loads((tmp_path / "metrics.json").read_text()) == whole
    [said] = [n for n, line in enumerate(lines) if "no similarity matrix is made" in line]
    assert said < next(n for n, line in enumerate(lines) if "the encoders compute in" in line)
    monkeypatch.setattr("evaluation.similarity_blocks.measure_free_memory", lambda: 100)
    code, _, lines = ended("-r", checkpoint, "--sim_path", sim)
    assert code == 0 and not sim.exists()
    assert json.loads((tmp_path / "metrics.json").read_text()) == whole
    assert any("8 x 8 float32, 256 bytes) does not fit" in line for line in lines)
    more = ["--postprocess", "dual_softmax"]
    code, _, lines = ended("-r", checkpoint, "--sim_path", sim, *more)
    assert code == 2 and "--postprocess needs the matrix: leave it out" in lines[-1]


def test_embeddings_are_overwritten_only_on_demand(checkpoint, demo, tmp_path, ended):
    sim, feats = tmp_path / "m.npy", tmp_path / "feats"
    options = ["-r", checkpoint, "--sim_path", sim, "--save_feats", feats]
    assert ended(*options)[0] == 0
    change = ["--set", "data_loader.args.ocr_params.max_words=2"]
    code, _, lines = ended(*options, *change)
    assert code == 2 and lines[-1].startswith(f"{feats}/demo_ocr-run-model-test.json: these embed")
    assert "data_loader.ocr_params.max_words was " in lines[-1] and "--overwrite" in lines[-1]
    assert ended(*options, *change, "--overwrite")[0] == 0
    assert ended(*options, *change)[0] == 0  # the same again: it goes on, with nothing to do
    code, _, lines = ended("-r", checkpoint, "--overwrite")
    assert code == 2 and "--overwrite is for --save_feats" in lines[-1]


def test_videos_without_captions(demo, tmp_path, ended):
    directory = tmp_path / "clips"
    (directory / "b").mkdir(parents=True)
    videos = sorted((demo / "Videos").rglob("*.mp4"))
    for name, video in zip(("b/x.mp4", "a.mp4"), videos[:2], strict=True):
        (directory / name).symlink_to(video)
    checkpoint = make_run(tmp_path / "run", demo, kind="vision")
    values = ("dataset_name=VideoDirectory", f"data_dir={directory}")
    changes = [word for value in values for word in ("--set", f"data_loader.args.{value}")]
    options = ["-r", checkpoint, "--sim_path", tmp_path / "m.npy", *changes]
    code, out, lines = ended(*options)
    assert (code, out) == (2, "") and "have no captions" in lines[-1]
    assert "give --save_feats DIR" in lines[-1] and "batch" not in "".join(lines)
    code, out, _ = ended(*options, "--save_feats", tmp_path / "feats")
    assert code == 0 and "2 videos of " in out and "without captions" in out
    assert not (tmp_path / "m.npy").exists() and not (tmp_path / "metrics.json").exists()
    names = {path.name for path in (tmp_path / "feats").iterdir() if path.name[0] != "."}
    kinds = ("videos-00000.npy", "json", "ids.json", "data_report.json")
    assert names == {f"demo_vision-run-model-test.{kind}" for kind in kinds}
    found = load_embeddings(tmp_path / "feats")
    assert found.ids == ["a.mp4", "b/x.mp4"] and found.text_embeds.shape == (0, 32)
    embeds = found.video_embeds
    assert embeds.shape == (2, 32) and np.abs(embeds[0] - embeds[1]).max() > 1e-6


def test_sliding_windows(demo, tmp_path, ended):
    checkpoint = make_run(tmp_path / "run", demo, kind="vision")
    for stride in (1, 1000):
        code, _, _ = ended("-r", checkpoint, "--sliding_window_stride", stride,
                           "--sim_path", tmp_path / str(stride) / "m.npy")  # fmt: skip
        assert code == 0
    one, many = (np.load(tmp_path / name / "m.npy") for name in ("1000", "1"))
    assert one.shape == many.shape == (8, 8) and np.abs(one - many).max() > 1e-6
    metrics = json.loads((tmp_path / "1" / "metrics.json").read_text())
    assert metrics["loss"] is None


def test_keys_of_c_win_over_the_file_beside_the_checkpoint(checkpoint, tmp_path, ended):
    (tmp_path / "c.json").write_text(
        json.dumps({"data_loader": {"args": {"subsample": 0.5}}, "metrics": ["v2t_metrics"]})
    )
    options = ["-r", checkpoint, "--sim_path", tmp_path / "m.npy"]
    code, out, _ = ended(*options, "-c", tmp_path / "c.json")
    assert code == 0 and "4 captions, 4 videos" in out
    assert np.load(tmp_path / "m.npy").shape == (4, 4)
    assert "v2t, one right" in out and "t2v" not in out
    code, out, _ = ended(
        *options, "-c", tmp_path / "c.json", "--set", "data_loader.args.subsample=1"
    )
    assert code == 0 and "8 captions, 8 videos" in out  # --set wins over both


def test_without_a_configuration(checkpoint, demo, tmp_path, ended):
    alone = tmp_path / "alone" / "model.pth"
    alone.parent.mkdir()
    alone.symlink_to(checkpoint)
    code, out, lines = ended("-r", alone)
    said = f"{alone.parent}/config.json: no such file; give the model's configuration with -c"
    assert (code, out, lines) == (2, "", [said])
    config = ["-c", checkpoint.parent / "config.json"]
    assert ended("-r", alone, *config, "--sim_path", tmp_path / "m.npy")[0] == 0


def test_pretrained_weights_need_not_be_there(checkpoint, tmp_path, ended):
    changes = ["arch.args.text_params.pretrained=true", "arch.args.load_checkpoint=/gone.pth"]
    options = [part for change in changes for part in ("--set", change)]
    assert ended("-r", checkpoint, "--sim_path", tmp_path / "m.npy", *options)[0] == 0


def test_without_r_the_checkpoint_that_the_configuration_starts_from_is_tested(
    checkpoint, tmp_path, ended
):
    config = tmp_path / "config.json"
    data = json.loads((checkpoint.parent / "config.json").read_text())
    write_json(config, data)
    code, out, lines = ended("-c", config, "--sim_path", tmp_path / "m.npy")
    said = "demo_ocr: the configuration names no checkpoint (arch.args.load_checkpoint)"
    assert (code, out) == (2, "") and lines[-1].startswith(said) and lines[-1].endswith("with -r")
    data["arch"]["args"]["load_checkpoint"] = str(checkpoint)
    write_json(config, data)
    assert ended("-c", config, "--sim_path", tmp_path / "m.npy")[0] == 0
    assert ended("-r", checkpoint, "--sim_path", tmp_path / "r.npy")[0] == 0
    np.testing.assert_array_equal(np.load(tmp_path / "m.npy"), np.load(tmp_path / "r.npy"))
    part = ["--set", 'arch.args.load_parts=["text_model"]']
    code, _, lines = ended("-c", config, "--sim_path", tmp_path / "m.npy", *part)
    assert code == 2 and "only text_model would be taken, but a test needs all" in lines[-1]
    code, _, lines = ended("--sim_path", tmp_path / "m.npy")
    assert code == 2 and "give a checkpoint (-r), or a configuration (-c)" in lines[-1]


def test_the_published_options_of_embeddings_and_windows(demo, tmp_path, ended):
    checkpoint = make_run(tmp_path / "run", demo, kind="vision")
    for name, options in {
        "plain": [],
        "published": ["--sliding_window_stride", "-1"],
        "short": ["-s", "-1"],
        "windows": ["-s", "1"],
    }.items():
        assert ended("-r", checkpoint, "--sim_path", tmp_path / f"{name}.npy", *options)[0] == 0
    plain, published, short, windows = (
        np.load(tmp_path / f"{name}.npy") for name in ("plain", "published", "short", "windows")
    )
    np.testing.assert_array_equal(published, plain)
    np.testing.assert_array_equal(short, plain)
    assert np.abs(windows - plain).max() > 1e-6
    set_in_file = ["--set", "data_loader.args.sliding_window_stride=1", "-s", "-1"]
    assert ended("-r", checkpoint, "--sim_path", tmp_path / "off.npy", *set_in_file)[0] == 0
    np.testing.assert_array_equal(np.load(tmp_path / "off.npy"), plain)
    feats = tmp_path / "feats"
    options = ["--sim_path", tmp_path / "m.npy", "--save_feats", feats, "--save_type", "video"]
    code, _, lines = ended("-r", checkpoint, *options)
    assert code == 0, lines
    assert len(load_embeddings(feats).text_embeds)  # both are kept all the same


def test_the_protocol_stands_beside_the_numbers(checkpoint, demo, tmp_path, ended):
    entries = json.loads((demo / "TextVR_test.json").read_text())
    for entry in entries:
        entry["captions_info"].append({"caption": "another sentence"})
    write_json(tmp_path / "MSVD_test.json", entries)
    changes = ["dataset_name=MSVD", f"metadata_dir={tmp_path}"]
    shapes = {}
    for key in ("rand", "all"):
        values = [*changes, f"text_params.caption_sample={key}"]
        options = [part for value in values for part in ("--set", f"data_loader.args.{value}")]
        sim = tmp_path / key / "m.npy"
        code, out, _ = ended("-r", checkpoint, "--sim_path", sim, *options)
        assert code == 0
        protocol = json.loads((sim.parent / "metrics.json").read_text())["caption_protocol"]
        assert f"\nqueries: {protocol}\n" in out
        shapes[protocol] = np.load(sim).shape
    assert shapes == {
        "the first caption of each video (as published)": (8, 8),
        "every caption of each video": (16, 8),
    }
    # The matrix of first captions can be scored without a configuration.
    command = [sys.executable, "-m", "tools.score_matrix", tmp_path / "rand" / "m.npy"]
    command += ["--annotations", tmp_path / "MSVD_test.json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = "queries: the first caption of each video (as many as the matrix has rows)"
    assert said in done.stdout
    both = [json.loads((tmp_path / "rand" / name).read_text())["t2v_metrics"]
            for name in ("metrics.json", "m.metrics.json")]  # fmt: skip
    assert both[0] == both[1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-r", "gone.pth"], "gone.pth: no such checkpoint"),
        (["--batch_size", "0"], "--batch_size: expected a whole number of at least 1, got 0"),
        (
            ["--sliding_window_stride", "-3"],
            "stride: expected a whole number of at least 1, got -3",
        ),
        (["--split", "rand"], "invalid choice: 'rand'"),
        (["--loader", "1"], "data loaders 0 … 0"),
        (["--save_type", "all"], "invalid choice: 'all'"),
        (["--set", "data_loader.args.annotation_file=gone.json"], "gone.json: no such annotation"),
        (["--set", "arch.args.projection_dim=8"], "(32,) in the file, (8,) in the model"),
        (["-d", "77"], "-d 77: no such GPU; this machine has "),
    ],
)
def test_wrong_options_end_with_code_2_and_write_nothing(
    options, said, checkpoint, tmp_path, ended
):
    sim = tmp_path / "m.npy"
    code, out, lines = ended("-r", checkpoint, "--sim_path", sim, *options)
    assert (code, out) == (2, "") and said in "\n".join(lines[-5:])
    assert not [line for line in lines if "Traceback" in line] and not list(tmp_path.iterdir())


def test_a_video_that_can_not_be_read_ends_the_test_and_keeps_the_old_matrix(
    demo, tmp_path, ended, broken_demo
):
    folder, name = broken_demo
    checkpoint = make_run(tmp_path / "run", folder, kind="vision")
    sim = tmp_path / "m.npy"
    sim.write_bytes(b"the old one")
    code, out, lines = ended("-r", checkpoint, "--sim_path", sim)
    assert (code, out) == (2, "") and lines[-1].startswith(f"{folder}/Videos/{name}: ")
    assert sim.read_bytes() == b"the old one" and not (tmp_path / "metrics.json").exists()


@pytest.fixture
def broken_demo(demo, tmp_path):
    """The demo with a test video cut short."""
    folder = tmp_path / "broken"
    (folder / "Videos").mkdir(parents=True)
    for part in ("text_model", "Kwai_VideoOCR", "TextVR_test.json"):
        (folder / part).symlink_to(demo / part)
    names = [entry["path"] for entry in json.loads((demo / "TextVR_test.json").read_text())]
    for name in names:
        (folder / "Videos" / name).parent.mkdir(exist_ok=True)
        data = (demo / "Videos" / name).read_bytes()
        (folder / "Videos" / name).write_bytes(data[:300] if name == names[6] else data)
    return folder, names[6]


@pytest.fixture(scope="module")
def real_shape(tmp_path_factory):
    """A dry run of 30 entries in the real test file's form, and a demo-sized model for it."""
    work = tmp_path_factory.mktemp("real")
    entries, order = write_real_shape(work)
    return make_run(work / "run", work / "dry", "data_loader.args.batch_size=8"), entries, order


def test_the_real_test_sets_shape(real_shape, tmp_path, ended):
    checkpoint, entries, _ = real_shape
    sim = tmp_path / "sim_matrix.npy"
    options = ["--sim_path", sim, "--save_feats", tmp_path / "feats"]
    code, out, _ = ended("-r", checkpoint, *options)
    assert code == 0 and "30 captions, 30 videos" in out and "NOT MEANINGFUL" not in out
    matrix = np.load(sim)
    assert matrix.dtype == np.float32 and matrix.shape == (30, 30)
    assert load_embeddings(tmp_path / "feats").ids == [e["path"] for e in entries]
    expected = single_pairs(checkpoint)
    np.testing.assert_allclose(matrix, expected, atol=3e-6)
    for table in (expected, expected.T):  # so that another order would not pass
        gaps = np.abs(table[:, None] - table[None]).max(axis=2)[~np.eye(30, dtype=bool)]
        assert gaps.min() > 1e-5
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    ranks = (matrix > np.diag(matrix)[:, None]).sum(axis=1) + 1
    assert metrics["t2v_metrics"]["R10"] == pytest.approx(100 * np.mean(ranks <= 10))
    assert metrics["missing_ocr_documents"] == 0


def test_the_shuffled_file_is_marked_in_table_file_and_log(real_shape, tmp_path, ended):
    checkpoint, _, order = real_shape
    options = ["--set", "data_loader.args.annotation_file=TextVR_test_rand.json"]
    code, out, lines = ended("-r", checkpoint, "--sim_path", tmp_path / "m.npy", *options)
    assert code == 0 and SHUFFLED_NOTE.upper() in out.splitlines()[-1]
    assert SHUFFLED_NOTE in out.splitlines()[0]
    assert any("SHUFFLED test file" in line for line in lines)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["note"] == "not meaningful (shuffled test file)"
    right = single_pairs(checkpoint)  # the matrix has a meaning: its columns follow the videos
    np.testing.assert_allclose(np.load(tmp_path / "m.npy"), right[:, order], atol=3e-6)
