"""The demonstration's index: which queries find something, those that match and those that don't.

    make demo
    python -m benchmarks.nothing_found
    python -m benchmarks.nothing_found --index work_dirs/demo/my.index --data data/demo

Of each kind of query it prints the z-score of the most similar video (``retrieval/search/
calibration.py``) and the share of queries that find anything. With half of the looks and half of
the words left out of the index, the captions of what is left out match nothing although the model
knows every word in them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import measuring
from data_loader.synthetic.scene import list_looks
from data_loader.synthetic.words import SIGN_WORDS, TEMPLATES
from retrieval import VideoIndex
from retrieval.search.calibration import MIN_ENTRIES, MIN_Z_SCORE, Calibration
from utils.cli import run_cli
from utils.errors import UserError

# Not those of ``retrieval.index.unrelated``, by which z-scores are computed.
SENTENCES = (
    "a dog runs on the beach",
    "two men playing guitar on a stage",
    "how to cook pasta with tomato sauce",
    "a plane lands at night",
    "children building a snowman",
    "an old woman knitting by the window",
    "the president gives a speech",
    "surfers waiting for a wave",
    "a cat sleeps on a keyboard",
    "football players celebrate a goal",
    "a train crosses a bridge",
    "cars in heavy rain",
    "a chef slices onions",
    "someone opens a birthday present",
    "fireworks above the river",
    "a horse jumps over a fence",
    "time lapse of clouds",
    "a man repairs a bicycle",
    "dancers in traditional dress",
    "a baby laughing",
    "penguins on ice",
    "a volcano erupts",
    "students in a lecture hall",
    "people shopping for shoes",
    "a helicopter rescue",
    "skiing down a mountain",
    "a robot vacuum cleaner",
    "an elephant drinks water",
    "a wedding in a garden",
    "a violin concert",
    "a submarine dives",
    "a desert with camels",
)
NUM_MADE_UP = 64  # queries of random letters
NUM_HALVES = 10  # draws of what is left out


def list_queries(data: Path) -> dict[str, list[str]]:
    """Return queries by what they have to do with the test videos of a demonstration."""
    made = json.loads((data / "synthetic.json").read_text(encoding="utf-8"))
    entries = json.loads((data / "TextVR_test.json").read_text(encoding="utf-8"))
    num_looks, words = len(made["looks"]), made["words"]
    other_looks = list_looks()[num_looks:]
    other_words = SIGN_WORDS[len(words) :]
    others = [
        TEMPLATES[number % len(TEMPLATES)].format(
            colour=look.colour, shape=look.shape, background=look.background, word=word
        )
        for number, word in enumerate(other_words)
        for look in [other_looks[number % len(other_looks)]]
    ]
    looks = [f"a {look.colour} {look.shape} over {look.background}" for look in list_looks()]
    return {
        "captions": [entry["captions_info"][0]["caption"] for entry in entries],
        "a word alone": list(words),
        "a look alone": looks[:num_looks],
        "another look and word": others,
        "another word alone": list(other_words),
        "everyday sentences": list(SENTENCES),
        "random letters": _make_up_words(NUM_MADE_UP),
    }


def _make_up_words(count: int) -> list[str]:
    rng, letters = np.random.default_rng(0), list("abcdefghijklmnopqrstuvwxyz")

    def make_up() -> str:
        return "".join(rng.choice(letters, rng.integers(2, 8)))

    return [" ".join(make_up() for _ in range(rng.integers(1, 6))) for _ in range(count)]


def measure_queries(index: VideoIndex, queries: Sequence[str]) -> NDArray:
    """Return the z-score (Q,) of what is most similar to each query.

    Raises:
        UserError: the index has too few entries for z-scores.
    """
    if len(index) < MIN_ENTRIES:
        raise UserError(
            f"{index.store.location}: has {len(index)} entries; give one of {MIN_ENTRIES} or more"
        )
    return np.array([index.search(query, 1, "semantic")[0].z_score for query in queries])


def measure_halves(index: VideoIndex, data: Path) -> dict[str, NDArray]:
    """Return z-scores of captions, by whether half of the looks and of the words has theirs."""
    made = json.loads((data / "synthetic.json").read_text(encoding="utf-8"))
    entries = json.loads((data / "TextVR_test.json").read_text(encoding="utf-8"))
    labels = [(made["test"][entry["path"]]["look"], made["test"][entry["path"]]["word"])
              for entry in entries]  # fmt: skip
    encoder = index.load_query_encoder()
    captions = np.stack([encoder.embed(entry["captions_info"][0]["caption"]) for entry in entries])
    with index.reading() as (reader, snapshot):
        ids = []  # each video of the demonstration is one entry
        for entry in entries:
            video = reader.find_video(entry["path"])
            ids += [number for number, *_ in reader.list_entries(video.id)]
        rows = snapshot.find_rows_of(np.array(ids))
        vectors = snapshot.vectors.take(rows)  # in the captions' order
    similarities = np.stack([vectors.score_all(caption) for caption in captions])  # (Q, N)
    look, word = np.array(labels).T
    rng, found = np.random.default_rng(0), {"in the index": [], "left out": []}
    for _ in range(NUM_HALVES):
        has_look = np.isin(look, rng.permutation(look.max() + 1)[: (look.max() + 1) // 2])
        has_word = np.isin(word, rng.permutation(word.max() + 1)[: (word.max() + 1) // 2])
        alive = np.flatnonzero(has_look & has_word)
        if len(alive) < MIN_ENTRIES:
            continue
        calibration = Calibration(vectors, alive, encoder.load_unrelated())
        for name, chosen in (
            ("in the index", has_look & has_word),
            ("left out", ~has_look & ~has_word),
        ):
            for number in np.flatnonzero(chosen):
                best = similarities[number, alive].max()
                expected = calibration.expect_best(captions[number])
                found[name].append(float(expected.compute_z_scores(best)))
    return {f"of half: captions {name}": np.array(scores) for name, scores in found.items()}


def summarize(z_scores: Mapping[str, NDArray]) -> dict[str, dict[str, float]]:
    """Return quantiles of the z-scores and the share that counts as found, for each kind."""
    result = {}
    for name, scores in z_scores.items():
        low, middle, high = np.quantile(scores, (0.05, 0.5, 0.95))
        share = float(np.mean(scores >= MIN_Z_SCORE))
        result[name] = {"queries": len(scores), "5 %": low, "median": middle, "95 %": high,
                        "found": share}  # fmt: skip
    return result


def format_table(result: measuring.Result) -> str:
    """Return one line a kind of query."""
    lines = [f"{'queries':<34}{'number':>8}{'z 5 %':>8}{'median':>8}{'95 %':>8}{'found':>9}"]
    for name, row in result["kinds"].items():
        quantiles = "".join(f"{row[key]:8.2f}" for key in ("5 %", "median", "95 %"))
        lines.append(f"{name:<34}{row['queries']:8}{quantiles}{row['found']:9.1%}")
    return "\n".join([*lines, f"{result['date']}, {result['machine']}, {result['versions']}", ""])


def main() -> None:
    """Run the command."""
    parser = measuring.make_parser(__doc__)
    parser.add_argument("--index", type=Path, default=Path("work_dirs/demo/my.index"))
    parser.add_argument("--data", type=Path, default=Path("data/demo"))
    asked = parser.parse_args()
    with VideoIndex.open(asked.index) as index:
        queries = list_queries(asked.data)
        z_scores = {kind: measure_queries(index, texts) for kind, texts in queries.items()}
        z_scores |= measure_halves(index, asked.data)
    result = {**measuring.describe_machine(), "kinds": summarize(z_scores)}
    measuring.write_result(result, asked.json, format_table)


if __name__ == "__main__":
    run_cli(main)
