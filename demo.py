"""The demonstration: learns to find videos by what they show and by the text in them.

    make demo          (or: python demo.py)

Makes a small TextVR of its own (data_loader/synthetic), trains four configurations of
configs/demo with train.py, tests them with test.py, and prints one table. Each of 32 looks is
paired with each of 32 words; a caption speaks of both, and 16 test videos share each look and each
word, so a model that only sees or only reads can find the right one of its 16 by luck alone. In the
end index.py makes the test videos searchable with the model that does both.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.cli import run_cli
from utils.errors import UserError
from utils.files import write_json
from utils.run_dir import CONFIG_NAME

MODELS = ("fusion", "vision", "ocr", "dual_encoder")  # configs/demo has a file of each
COLUMNS = {"R1": "R@1", "R5": "R@5", "R10": "R@10", "MedR": "MedR"}


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("data/demo"), help="made if need be")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/demo"), help="runs and results")
    parser.add_argument("--make", default="", help="options for tools.make_data")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes")
    return parser.parse_args()


def run_command(*command: str | Path) -> None:
    """Show and run one of the project's commands; raises ``UserError`` when it fails."""
    words = [str(word) for word in command]
    sys.stdout.write(f"\n$ python {shlex.join(words)}\n")
    sys.stdout.flush()
    code = subprocess.run([sys.executable, *words], cwd=Path(__file__).parent).returncode
    if code:
        raise UserError(f"the demonstration stopped: the command above ended with code {code}")


def make_dataset_overrides(data: Path, model: str = "fusion") -> list[str]:
    """Return the ``--set`` changes that let a configuration of the demonstration use ``data``."""
    texts = f"arch.args.text_params.model={data}/text_model"
    if model == "dual_encoder":
        texts = f"arch.args.tower={data}/tower"
    return [f"data_loader.args.data_dir={data}", texts]


def train_and_test(model: str, out: Path, changes: list[str]) -> None:
    """Train one configuration afresh in ``out/model`` and test its last checkpoint there."""
    folder = out / model
    if folder.exists():
        shutil.rmtree(folder)  # an earlier demonstration's
    options = [word for change in changes for word in ("--set", change)]
    run_command("train.py", "-c", f"configs/demo/{model}.json", "--run_dir", folder, *options)
    run_command("test.py", "-r", folder / "model_last.pth", "--sim_path", folder / "sim_matrix.npy")


def measure_understanding(similarity: NDArray, labels: NDArray) -> float:
    """Return the share of queries, in per cent, whose first video has the right label.

    Args:
        similarity: (N, N), query i belongs to video i.
        labels: (N,) what the videos show, or what can be read in them.
    """
    return 100.0 * float(np.mean(labels[similarity.argmax(axis=1)] == labels))


def read_results(folder: Path, labels: dict[str, NDArray]) -> dict[str, Any]:
    """Return the metrics of the model tested in ``folder``, and what it has understood."""
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    similarity = np.load(folder / "sim_matrix.npy", allow_pickle=False)
    return {
        "t2v": metrics["t2v_metrics"],
        "v2t": metrics["v2t_metrics"],
        "right_look": measure_understanding(similarity, labels["look"]),
        "right_word": measure_understanding(similarity, labels["word"]),
    }


def read_labels(data: Path) -> tuple[dict[str, NDArray], float]:
    """Return look and word of each test video, in the file's order, and the best R@1 of one."""
    made = json.loads((data / "synthetic.json").read_text(encoding="utf-8"))
    entries = json.loads((data / "TextVR_test.json").read_text(encoding="utf-8"))
    pairs = [made["test"][entry["path"]] for entry in entries]
    labels = {name: np.array([pair[name] for pair in pairs]) for name in ("look", "word")}
    return labels, max(made["ceiling_R1"].values())


def format_table(results: dict[str, Any]) -> str:
    """Return the results as a table."""
    head = f"{'model':<14}" + "".join(f"{name:>8}" for name in COLUMNS.values())
    lines = [head + f"{'right look':>13}{'right word':>13}"]
    for model in MODELS:
        row = results[model]
        cells = "".join(f"{row['t2v'][column]:8.2f}" for column in COLUMNS)
        lines.append(f"{model:<14}{cells}{row['right_look']:12.1f}%{row['right_word']:12.1f}%")
    lines.append(f"best R@1 to be expected of one modality alone: {results['ceiling_R1']:.2f}")
    return "\n".join(lines)


def index_videos(data: Path, out: Path) -> Path:
    """Index the test videos with the trained fusion model; returns the index folder."""
    videos, index = out / "test_videos", out / "my.index"
    for folder in (videos, index):
        if folder.exists():
            shutil.rmtree(folder)  # an earlier demonstration's
    for entry in json.loads((data / "TextVR_test.json").read_text(encoding="utf-8")):
        target = videos / entry["path"]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(data / "Videos" / entry["path"], target)
    model, ocr = out / "fusion" / "model_last.pth", data / "Kwai_VideoOCR"
    run_command("index.py", videos, "-r", model, "--ocr", ocr, "--out", index)
    return index


def format_search_commands(index: Path) -> str:
    """Return what to type next."""
    folder = shlex.quote(str(index))
    return (
        "search the test videos:\n"
        f'  python search.py {folder} "a red circle and the sign reads casino" --explain\n'
        f"  python serve.py {folder}\n"
    )


def main() -> None:
    """Run the command."""
    arguments, start = parse_arguments(), time.monotonic()
    data, out = arguments.data, arguments.out
    run_command("-m", "tools.make_data", "--out", data, *shlex.split(arguments.make))
    for model in MODELS:
        train_and_test(model, out, [*make_dataset_overrides(data, model), *arguments.changes])
    labels, ceiling = read_labels(data)
    results = {model: read_results(out / model, labels) for model in MODELS}
    results["ceiling_R1"] = ceiling
    results["seed"] = json.loads((out / "fusion" / CONFIG_NAME).read_text(encoding="utf-8"))["seed"]
    write_json(out / "results.json", results)
    shutil.copyfile(out / "fusion" / "sim_matrix.npy", out / "sim_matrix.npy")
    index = index_videos(data, out)
    minutes = (time.monotonic() - start) / 60
    sys.stdout.write(
        f"\n{format_table(results)}\n"
        f"seed {results['seed']}; another by --set seed=1, nine by python -m benchmarks.seeds\n"
        f"\n{out / 'results.json'}; {minutes:.1f} minutes\n"
    )
    sys.stdout.write(f"\n{format_search_commands(index)}")


if __name__ == "__main__":
    run_cli(main)
