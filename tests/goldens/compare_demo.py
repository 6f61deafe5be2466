"""Comparison of a finished demonstration with the one that the old code made.

    make demo && python tests/goldens/compare_demo.py [work_dirs/demo]

Prints R@1 of each model, the losses of each epoch of the fusion model and how many of the first
five hits of 20 queries on the demonstration's index are the same. The numbers of a training are
chaotic: on another processor (or with another number of threads) they differ by some points of
R@1 at the end, on the same one they are equal where nothing has changed. Exit code 1: R@1 of a
model is further away than that.
"""

import gzip
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from retrieval import VideoIndex

TOLERANCE = 8.0  # points of R@1


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


def main() -> int:
    """Run the command."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "work_dirs/demo")
    old = json.loads(gzip.decompress((Path(__file__).parent / "demo.json.gz").read_bytes()))
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    far = False
    for model in ("fusion", "vision", "ocr"):
        before, now = (made[model]["t2v"]["R1"] for made in (old["results"], results))
        far |= abs(before - now) > TOLERANCE
        say(f"R@1 of {model:<7} {before:6.2f} before, {now:6.2f} now")
    lines = (folder / "fusion/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    for before, now in zip(old["metrics"], map(json.loads, lines), strict=True):
        pairs = (f"{name} {before[name]:.6f} {now[name]:.6f}" for name in ("loss_0", "val_loss_0"))
        say(f"epoch {now['epoch']}: {', '.join(pairs)}")
    with VideoIndex.open(folder / "my.index") as index:
        for mode, recorded in old["hits"].items():
            same = total = 0
            for query, hits in zip(old["queries"], recorded, strict=True):
                found = {hit.video for hit in index.search(query, k=5, mode=mode)}
                same += len(found & {video for video, _ in hits})
                total += len(hits)
            say(f"hits by {mode}: {same} of {total} are the same")
    return int(far)


if __name__ == "__main__":
    sys.exit(main())
