"""Golden files of an earlier commit: data, runs, indexes and what its commands said about them.

    git clone . OLD && git -C OLD checkout 8854fec && (cd OLD && python demo.py)
    python tests/goldens/make_goldens.py OLD tests/goldens

Runs the commands of the checkout OLD and nothing of this tree, so it works as long as that commit
does. README.md says what each file holds. Text spotting needs RapidOCR.
"""

import gzip
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

# As small as can be. eps is large so that a gradient that is zero but for rounding (that of the
# keys' biases) moves no weight: another processor rounds otherwise.
SETTINGS = (
    "arch.args.video_params.embed_dim=16",
    "arch.args.video_params.depth=1",
    "arch.args.video_params.num_heads=2",
    "arch.args.projection_dim=16",
    "arch.args.text_params.model=data/text_model",
    "data_loader.args.data_dir=data",
    "data_loader.args.batch_size=2",
    "data_loader.args.num_workers=0",
    'optimizer.args={"lr": 2e-3, "eps": 1e-4}',
    'lr_scheduler={"type": "cosine", "args": {"num_warmup_steps": 2}}',
    "trainer.epochs=3",
    "trainer.monitor=min val_loss_0",
    "trainer.keep_last=1",
    "trainer.tracker=none",
    "trainer.verbosity=0",
)
TEXT_MODEL = {"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 32}
TEXT_MODEL |= {"dropout": 0.2, "attention_dropout": 0.2}
STOP_AFTER = 6  # steps: two of the four of the second epoch
MODES = ("meaning", "words", "fused")
NUM_QUERIES = 20
NUM_HITS = 8
LEAST_GAP = 2e-6  # of similarities: nearer ones might change places on another processor
QUERIES = (
    "a red circle and the sign reads casino",
    "someone shows museum beside the green bar over white",
    "hotel",
    "HOTEL bakery",
    "casno",
    "cas",
    "akery",
    "musuem",
    '"hotel open"',
    '"museum"',
    "a video of a bakery",
    "on white ground a black diamond slides past the text casino",
    "the word hotel is shown",
    "hotel 24",
    "what moves in the video",
    "green",
    "sale",
    "welcome",
    "casino open now",
    "a sign, a sign; a sign!",
    "bakery -hotel OR museum*",
    "café hôtel",
    "square",
    "casino museum hotel bakery",
    "red",
    "a circle moves over blue ground while bakery can be read",
    "open",
    "zzzz hotel",
)


class OldCode:
    """The commands of a checkout, run in a work folder.

    Args:
        checkout: of the old commit.
        work: where the commands run; the paths of everything they make are relative to it, but
            for those that an index keeps.
    """

    def __init__(self, checkout: Path, work: Path) -> None:
        self.checkout, self.work = checkout, work

    def run(self, *words: str | Path, code: int = 0) -> str:
        """Run ``python WORDS``; returns what it printed. It must end with ``code``."""
        first, *rest = map(str, words)
        if first.endswith(".py"):
            first = str(self.checkout / first)
        done = subprocess.run(
            [sys.executable, first, *rest],
            cwd=self.work,
            env=os.environ
            | {"PYTHONPATH": str(self.checkout), "TEXTVR_CACHE": str(self.work / "cache")},
            text=True,
            capture_output=True,
        )
        if done.returncode != code:
            raise SystemExit(f"{words}: ended with {done.returncode}\n{done.stderr}")
        return done.stdout

    def train(self, folder: str, *changes: str, stop_after: int | None = None) -> None:
        """Train a run; ``stop_after`` so many steps it gets SIGTERM."""
        config = self.checkout / "configs/demo/fusion.json"
        words = ["-c", str(config), "--run_dir", folder]
        words += [part for setting in (*SETTINGS, *changes) for part in ("--set", setting)]
        if stop_after is None:
            self.run("train.py", *words)
            return
        program = (
            "import os, signal, train\n"
            "from trainer.trainer import Trainer\n"
            "from utils.cli import run_cli\n"
            "step = Trainer.train_step\n"
            "def train_step(self, batch):\n"
            "    loss = step(self, batch)\n"
            f"    if self.progress.step + 1 == {stop_after}:\n"
            "        os.kill(os.getpid(), signal.SIGTERM)\n"
            "    return loss\n"
            "Trainer.train_step = train_step\n"
            "run_cli(train.main)\n"
        )
        self.run("-c", program, *words, code=143)

    def search(
        self, queries: Sequence[str], mode: str, k: int, index: str | Path = "my.index"
    ) -> list[list[dict]]:
        """Return the hits of each query, as search.py prints them with ``--explain --json``."""
        program = (
            "import json, sys\n"
            "from retrieval import VideoIndex\n"
            "from retrieval.table import hits_json\n"
            "queries, mode, k, path = json.loads(sys.argv[1])\n"
            "with VideoIndex.open(path) as index:\n"
            "    hits = [index.search(q, mode=mode, k=k, explain=True) for q in queries]\n"
            "print(json.dumps([json.loads(hits_json(found)) for found in hits]))\n"
        )
        return json.loads(self.run("-c", program, json.dumps([queries, mode, k, str(index)])))


def make_data(old: OldCode) -> None:
    """Make a TextVR of 8 training and 8 test videos, and a folder of one's own videos."""
    options = ("--looks", "4", "--words", "4", "--clips-per-pair", "1", "--size", "64")
    old.run("-m", "data_loader.synthetic", "--out", "data", *options)
    file = old.work / "data/text_model/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | TEXT_MODEL, indent=2))
    (old.work / "data/text_model/vocab.txt").unlink()  # tokenizer.json has it
    for entry in json.loads((old.work / "data/TextVR_test.json").read_text()):
        video, document = Path(entry["path"]), Path(entry["path"]).with_suffix(".json")
        for source, target, name in (
            ("Videos", "my_videos", video),
            ("Kwai_VideoOCR", "my_ocr", document),
        ):
            (old.work / target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(old.work / "data" / source / name, old.work / target / name)


def make_indexes(old: OldCode) -> None:
    """Make an index with OCR documents, and one of two videos whose text is spotted."""
    model = ("-r", "runs/trained/model_best.pth", "--window", "0.5", "--stride", "0.5")
    old.run("index.py", "my_videos", *model, "--ocr", "my_ocr", "--out", "my.index")
    (old.work / "two_videos").mkdir()
    for video in sorted((old.work / "my_videos").rglob("*.mp4"))[:2]:
        shutil.copy(video, old.work / "two_videos")
    old.run("spot_text.py", "two_videos", "--out", "two_ocr")
    old.run("index.py", "two_videos", *model, "--spot", "--out", "spotted.index")


def make_hits(old: OldCode) -> list[dict]:
    """Return the hits of queries in each mode."""
    ranked = old.search(QUERIES, "meaning", 1000)
    gaps = [min(-np.diff([hit["similarity"] for hit in hits])) for hits in ranked]
    queries = [q for q, gap in zip(QUERIES, gaps, strict=True) if gap >= LEAST_GAP][:NUM_QUERIES]
    if len(queries) < NUM_QUERIES:
        raise SystemExit(f"only {len(queries)} queries whose hits can't change places: {gaps}")
    found = {mode: old.search(queries, mode, NUM_HITS) for mode in MODES}
    return [
        {"query": query} | {mode: found[mode][number] for mode in MODES}
        for number, query in enumerate(queries)
    ]


def make_tests(old: OldCode, out: Path) -> None:
    """Record what test.py makes of the trained run's best checkpoint."""
    old.run(
        "test.py", "-r", "runs/trained/model_best.pth", "--sim_path", "tested/sim_matrix.npy",
        "--save_feats", "tested/feats",
    )  # fmt: skip
    arrays = {"sim_matrix": np.load(old.work / "tested/sim_matrix.npy")}
    for file in sorted((old.work / "tested/feats").glob("*.npy")):
        arrays[f"feats/{file.name}"] = np.load(file)
    np.savez_compressed(out / "tested.npz", **arrays)
    shutil.copy(old.work / "tested/metrics.json", out / "tested_metrics.json")


def make_demo(old: OldCode, demo: Path, out: Path) -> None:
    """Record what came of the demonstration at its real size.

    Its checkpoints are too large to keep (7 MB of weights). Its similarity matrix is kept in
    float16, with what scoring that gives; so are the logs of the training and the hits.
    """
    matrix = np.load(demo / "fusion/sim_matrix.npy").astype(np.float16)
    np.savez_compressed(out / "demo_matrix.npz", sim_matrix=matrix)
    np.save(old.work / "demo.npy", matrix.astype(np.float32))
    annotations = (demo / "../../data/demo/TextVR_test.json").read_bytes()
    (old.work / "TextVR_test.json").write_bytes(annotations)
    old.run("-m", "trainer.evaluator", "demo.npy", "--annotations", "TextVR_test.json")
    lines = (demo / "fusion/metrics.jsonl").read_text().splitlines()
    hits = {mode: old.search(QUERIES[:NUM_QUERIES], mode, 5, demo / "my.index") for mode in MODES}
    made = {
        "results": json.loads((demo / "results.json").read_text()),
        "metrics": [json.loads(line) for line in lines],
        "matrix_metrics": json.loads((old.work / "demo.metrics.json").read_text()),
        "queries": QUERIES[:NUM_QUERIES],
        "hits": {
            mode: [[(hit["video"], round(hit["score"], 5)) for hit in found] for found in each]
            for mode, each in hits.items()
        },
        "annotations": json.loads(annotations),
    }
    write_gzip(out / "demo.json.gz", json.dumps(made))


def write_gzip(file: Path, text: str) -> None:
    """Write a text so that the same text makes the same file."""
    file.write_bytes(gzip.compress(text.encode(), mtime=0))


def make_weights(old: OldCode, out: Path) -> None:
    """Keep the final weights and the log of the undisturbed run."""
    program = (
        "import numpy, torch\n"
        "state = torch.load('runs/whole/model_last.pth', weights_only=False)\n"
        "arrays = {name: value.numpy() for name, value in state['state_dict'].items()}\n"
        "numpy.savez_compressed('weights.npz', **arrays)\n"
    )
    old.run("-c", program)
    shutil.copy(old.work / "weights.npz", out / "final_weights.npz")
    shutil.copy(old.work / "runs/whole/metrics.jsonl", out / "whole_metrics.jsonl")


def pack(old: OldCode, out: Path) -> None:
    """Pack the work folder, without what the tests don't need."""
    keep = ("data", "my_videos", "my_ocr", "my.index", "two_videos", "two_ocr", "spotted.index")
    for file in (old.work / "runs/trained").iterdir():
        if file.name not in ("model_best.pth", "config.json"):
            file.unlink()
    with tarfile.open(out / "made_by_old_code.tar.xz", "w:xz", preset=9) as archive:
        for name in (*keep, "runs/trained", "runs/stopped"):
            archive.add(old.work / name, arcname=name, filter=without_readers)


def without_readers(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave out what readers of a database leave behind; that of a finished index is whole."""
    return None if member.name.endswith((".db-shm", ".db-wal")) else member


def main() -> None:
    """Run the command."""
    checkout, out = (Path(word).absolute() for word in sys.argv[1:3])
    with tempfile.TemporaryDirectory() as folder:
        old = OldCode(checkout, Path(folder))
        make_data(old)
        old.train("runs/trained", "trainer.epochs=25")
        old.train("runs/whole")
        old.train("runs/stopped", stop_after=STOP_AFTER)
        make_indexes(old)
        spotted = old.search(["casino", "royal"], "words", 5, "spotted.index")
        hits = {"work": folder, "queries": make_hits(old), "spotted": spotted}
        write_gzip(out / "hits.json.gz", json.dumps(hits, indent=1))
        make_tests(old, out)
        make_weights(old, out)
        write_gzip(out / "schema.json.gz", old.run("parse_config.py", "--schema"))
        make_demo(old, checkout / "work_dirs/demo", out)
        pack(old, out)


if __name__ == "__main__":
    main()
