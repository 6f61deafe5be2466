"""Evaluation of a test set: this project beside the plain reference path.

    python -m benchmarks.evaluate --annotations TextVR_test.json   # words of real captions
    python -m benchmarks.evaluate --videos 64 --words 50 --json

Frames lie in memory, as they come from a frame cache. Both paths evaluate the same videos in turn,
and must find the same similarities. The encoders' work grows with the number of videos, but for the
distinct texts, of which a larger set has fewer a video: so the texts of a whole set (``--whole``)
are encoded too, and what an evaluation of it takes is put together from what was measured: the
videos' time by their number, and the texts' as it is.
"""

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from base.base_dataset import VideoEntry
from base.batch import Batch
from base.config import Config
from benchmarks.baseline import assert_equal
from benchmarks.counting import in_turn, timed
from benchmarks.made import Texts, base_config, made_batch, texts_of
from benchmarks.paths import Encoder, plain_path
from benchmarks.report import Result, head, machine, markdown, spread, write
from data_loader.transforms import DeviceTransform, TransformParams
from evaluation.embedding_cache import encode_texts
from model.frozen_in_time import FrozenInTime
from trainer.build import build_evaluator, build_model
from utils.cli import positive_int, run_cli
from utils.launch import keep_freed_memory
from utils.similarity import cosine_similarity

SIMILAR = 1e-5  # most difference of a similarity


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--annotations", type=Path, help="draw words and queries from its captions")
    parser.add_argument("--videos", type=positive_int, default=32, help="that are evaluated")
    parser.add_argument("--whole", type=positive_int, default=2727, help="videos of the whole set")
    parser.add_argument("--batch", type=positive_int, default=4, help="videos of a batch")
    parser.add_argument("--words", type=int, nargs="+", default=[50, 200], help="of a video")
    parser.add_argument("--runs", type=positive_int, default=3, help="of each path; the median counts")
    parser.add_argument("--set", action="append", default=[], help="as for train.py: another model")
    parser.add_argument("--json", action="store_true", help="write JSON")
    asked = parser.parse_args()
    keep_freed_memory()  # as test.py does; both paths gain by it
    config, texts = base_config(*asked.set), texts_of(asked.annotations)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_model(config, device).eval()
    cases = [measured(config, model, texts, words, asked) for words in asked.words]
    sizes = {name: getattr(asked, name) for name in ("videos", "whole", "batch", "runs")}
    write(machine() | sizes | {"cases": cases}, asked.json, table)


class MadeSet(Dataset):
    """Stands for the data set in the evaluator's questions: one sample a video."""

    annotation_file = Path("made up")
    shuffled = False

    def __init__(self, ids: Sequence[str]) -> None:
        self.entries = [VideoEntry(name, Path(name), ("its caption",)) for name in ids]

    def __len__(self) -> int:
        return len(self.entries)


class MadeLoader:
    """Stands for the data loader: every batch lies in memory, its frames uint8.

    Args:
        texts: of queries and words.
        videos: their number.
        words: distinct ones of each video.
        batch: videos of a batch.
        model: gives frames and their size.
    """

    name = "made up"

    def __init__(
        self, texts: Texts, videos: int, words: int, batch: int, model: FrozenInTime
    ) -> None:
        vit = model.video_model
        whole = made_batch(texts, videos, words, vit.num_frames, vit.input_res, torch.device("cpu"))
        rng = np.random.default_rng(0)
        frames = rng.integers(0, 256, whole.video.shape, dtype=np.uint8)
        whole.video = torch.from_numpy(frames)
        whole.num_frames = torch.full((videos,), vit.num_frames)
        self.batches = [whole.rows(i, i + batch) for i in range(0, videos, batch)]
        self.dataset = MadeSet(whole.ids)
        lengths = whole.query.attention_mask.sum(1).tolist()
        rows = zip(whole.query.input_ids.tolist(), lengths, strict=True)
        self.query_tokens = [tuple(ids[:length]) for ids, length in rows]
        self.word_tokens = whole.words.token_ids()
        self.transform = DeviceTransform(TransformParams())

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)

    def to_device(self, batch: Batch, device: torch.device) -> Batch:
        """Return the batch as the model takes it."""
        moved = batch.to(device)
        moved.video = self.transform(moved.video, None, moved.num_frames)
        return moved


@torch.no_grad()
def plain_similarity(encoder: Encoder, loader: MadeLoader, device: torch.device) -> Tensor:
    """Evaluate as the published system does: batch by batch, each frame transformed on the CPU."""
    transform = loader.transform
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (transform.mean, transform.std))
    text, video = [], []
    for batch in loader:
        clips = [[(frame.float() / 255 - mean) / std for frame in clip] for clip in batch.video]
        frames = torch.stack([torch.stack(clip) for clip in clips])
        moved = replace(batch, video=frames).to(device)
        text.append(encoder.queries(moved))
        video.append(encoder.videos(moved, encoder.features(moved)))
    return cosine_similarity(torch.cat(text), torch.cat(video)).cpu()


def measured(
    config: Config, model: FrozenInTime, texts: Texts, words: int, asked: argparse.Namespace
) -> Result:
    """Compare the paths on videos of ``words`` OCR words each."""
    device = next(model.parameters()).device
    loader = MadeLoader(texts, asked.videos, words, asked.batch, model)
    evaluator, plain = build_evaluator(config, device), plain_path(model, config, device).encoder
    found: dict[str, Tensor] = {}

    def ours() -> None:
        found["ours"] = torch.from_numpy(evaluator.run(model, loader).similarity)

    def other() -> None:
        found["plain"] = plain_similarity(plain, loader, device)

    seconds = in_turn({"ours": ours, "plain": other}, asked.runs, device)
    difference = assert_equal(found["ours"], found["plain"], "similarity", SIMILAR)
    case = {"words": words, "seconds": seconds, "difference": difference}
    case["own_texts"] = text_seconds(model, loader, asked.runs)
    whole = MadeTexts(texts, asked.whole, words)
    case |= {"distinct_words": len(set(whole.word_tokens)), "all_words": asked.whole * words}
    return case | {"whole_texts": text_seconds(model, whole, 1)}


class MadeTexts:
    """The texts of a whole set, without its frames."""

    def __init__(self, texts: Texts, videos: int, words: int) -> None:
        rng = np.random.default_rng(0)
        shown = {word for _ in range(videos) for word in texts.shown(rng, words)}
        self.word_tokens = [tuple(ids) for ids in texts.tokens(sorted(shown))]
        self.query_tokens = [tuple(ids) for ids in texts.tokens(texts.captions[:videos])]


def text_seconds(
    model: FrozenInTime, texts: MadeLoader | MadeTexts, runs: int
) -> list[float]:
    """Time the encoding of all distinct captions and words."""
    device = next(model.parameters()).device

    def encode() -> None:
        encode_texts(texts.word_tokens, model.encode_words, device)
        encode_texts(texts.query_tokens, model.embed_queries, device)

    return [timed(encode, device) for _ in range(runs)]


def whole_seconds(case: Result, result: Result) -> tuple[float, float]:
    """Put together what the whole set takes, ours and plain: see the module's text."""
    share = result["whole"] / result["videos"]
    ours, plain = (statistics.median(case["seconds"][name]) for name in ("ours", "plain"))
    videos = ours - statistics.median(case["own_texts"])
    return videos * share + statistics.median(case["whole_texts"]), plain * share


def table(result: Result) -> str:
    """Return the results as Markdown."""
    rows = []
    for case in result["cases"]:
        seconds = case["seconds"]
        pairs = zip(seconds["ours"], seconds["plain"], strict=True)
        ratio = statistics.median(plain / ours for ours, plain in pairs)
        whole = whole_seconds(case, result)
        rows.append([
            str(case["words"]), spread(seconds["ours"], 2), spread(seconds["plain"], 2),
            f"**{ratio:.2f}**", f"{case['difference']:.1e}",
            f"{case['distinct_words']} of {case['all_words']}",
            *(f"{value / 60:.1f}" for value in whole), f"**{whole[1] / whole[0]:.2f}**",
        ])  # fmt: skip
    columns = ["words a video", "ours, s", "plain, s", "plain / ours", "difference"]
    columns += [f"distinct words of {result['whole']}", "put together: ours, min", "plain, min"]
    columns.append("plain / ours")
    title = f"{result['videos']} videos, batch {result['batch']}, median of {result['runs']} runs"
    return f"{head(result)}\n\n{title} (range)\n\n{markdown(columns, rows)}"


if __name__ == "__main__":
    run_cli(main)
