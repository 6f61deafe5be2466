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
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from base.base_dataset import VideoEntry
from base.batch import Batch, TokenIds
from base.config import Config
from base.criterion import cosine_similarity
from benchmarks import measuring
from benchmarks.baseline import PlainFrozenInTime, assert_equal
from benchmarks.inputs import Texts, load_base_config, load_texts, make_batch
from data_loader.transforms import DeviceTransform, TransformParams
from evaluation.embedding_cache import encode_texts
from evaluation.evaluator import Evaluator
from model.frozen_in_time import FrozenInTime
from trainer.build import build_criterion, build_model
from utils.cli import positive_int, run_cli
from utils.launch import configure_cuda, keep_freed_memory
from utils.precision import Precision

SIMILAR = 1e-5  # most difference of a similarity


def main() -> None:
    """Run the command."""
    parser = measuring.make_parser(__doc__)
    parser.add_argument("--annotations", type=Path, help="draw words and queries from its captions")
    parser.add_argument("--videos", type=positive_int, default=32, help="that are evaluated")
    parser.add_argument("--whole", type=positive_int, default=2727, help="videos of the whole set")
    parser.add_argument("--batch", type=positive_int, default=4, help="videos of a batch")
    parser.add_argument("--words", type=int, nargs="+", default=[50, 200], help="of a video")
    parser.add_argument("--runs", type=positive_int, default=3, help="of each; the median counts")
    parser.add_argument("--set", action="append", default=[], help="as for train.py: another model")
    asked = parser.parse_args()
    keep_freed_memory()  # as test.py does; both paths gain by it
    configure_cuda()
    config, texts = load_base_config(*asked.set), load_texts(asked.annotations)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_model(config, device).eval()
    cases = [measure_case(config, model, texts, words, asked) for words in asked.words]
    result = measuring.describe_machine()
    result |= {name: getattr(asked, name) for name in ("videos", "whole", "batch", "runs")}
    measuring.write_result(result | {"cases": cases}, asked.json, make_table)


class InMemoryDataset(Dataset):
    """Stands for the data set in the evaluator's questions: one sample a video."""

    annotation_file = Path("made up")
    shuffled = False

    def __init__(self, count: int) -> None:
        self.entries = [VideoEntry(str(i), Path(str(i)), ("its caption",)) for i in range(count)]

    def __len__(self) -> int:
        return len(self.entries)


class InMemoryLoader:
    """Stands for the data loader: batches lie in memory, their frames uint8.

    Args:
        whole: all videos, with their queries and words.
        batches: the same videos, batch by batch.
    """

    name = "made up"

    def __init__(self, whole: Batch, batches: list[Batch]) -> None:
        self.batches = batches
        self.dataset = InMemoryDataset(len(whole))
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
        moved = batch.to(device, non_blocking=True)
        moved.video = self.transform(moved.video, None, moved.num_frames)
        return moved


def make_loader(
    texts: Texts, videos: int, words: int, batch: int, model: FrozenInTime
) -> InMemoryLoader:
    """Return a loader of videos of noise, in the sizes that the model takes."""
    vit = model.video_model
    whole = make_batch(texts, videos, words, vit.num_frames, vit.input_res, torch.device("cpu"))
    rng = np.random.default_rng(0)
    whole.video = torch.from_numpy(rng.integers(0, 256, whole.video.shape, dtype=np.uint8))
    whole.num_frames = torch.full((videos,), vit.num_frames)
    return InMemoryLoader(whole, [whole.rows(i, i + batch) for i in range(0, videos, batch)])


@torch.no_grad()
def compute_plain_similarity(
    encoder: PlainFrozenInTime, loader: InMemoryLoader, device: torch.device
) -> Tensor:
    """Evaluate as the published system does: batch by batch, each frame transformed on the CPU."""
    transform = loader.transform
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (transform.mean, transform.std))
    text, video = [], []
    for batch in loader:
        clips = [[(frame.float() / 255 - mean) / std for frame in clip] for clip in batch.video]
        frames = torch.stack([torch.stack(clip) for clip in clips])
        moved = replace(batch, video=frames).to(device)
        text.append(encoder.embed_queries(moved))
        video.append(encoder.embed_videos(moved, encoder.encode_clips(moved)))
    return cosine_similarity(torch.cat(text), torch.cat(video)).cpu()


def measure_case(
    config: Config, model: FrozenInTime, texts: Texts, words: int, asked: argparse.Namespace
) -> measuring.Result:
    """Compare the paths on videos of ``words`` OCR words each."""
    device = model.query_token.device
    precision = Precision("fp32", device)  # as the plain path
    loader = make_loader(texts, asked.videos, words, asked.batch, model)
    evaluator = Evaluator(config.metrics, build_criterion(config, device), precision)
    plain = PlainFrozenInTime(model)
    found: dict[str, Tensor] = {}

    def evaluate_ours() -> None:
        found["ours"] = torch.from_numpy(evaluator.run(model, loader).similarity)

    def evaluate_plain() -> None:
        found["plain"] = compute_plain_similarity(plain, loader, device)

    def time_texts(word_tokens: list[TokenIds], query_tokens: list[TokenIds]) -> float:
        def encode() -> None:
            encode_texts(word_tokens, model.encode_words, precision)
            encode_texts(query_tokens, model.embed_queries, precision)

        return measuring.time_call(encode, device)

    cases = {"ours": evaluate_ours, "plain": evaluate_plain}
    seconds = measuring.time_in_turn(cases, asked.runs, device)
    rng = np.random.default_rng(0)
    shown = {word for _ in range(asked.whole) for word in texts.draw_words(rng, words)}
    whole_words = [tuple(ids) for ids in texts.tokenize(sorted(shown))]
    whole_queries = [tuple(ids) for ids in texts.tokenize(texts.captions[: asked.whole])]
    return {
        "words": words,
        "seconds": seconds,
        "difference": assert_equal(found["ours"], found["plain"], "similarity", SIMILAR),
        "own_texts": [
            time_texts(loader.word_tokens, loader.query_tokens) for _ in range(asked.runs)
        ],
        "distinct_words": len(set(whole_words)),
        "all_words": asked.whole * words,
        "whole_texts": [time_texts(whole_words, whole_queries)],
    }


def estimate_whole(case: measuring.Result, result: measuring.Result) -> tuple[float, float]:
    """Put together the seconds of the whole set, ours and plain: see the module's text."""
    share = result["whole"] / result["videos"]
    ours, plain = (median(case["seconds"][name]) for name in ("ours", "plain"))
    return (ours - median(case["own_texts"])) * share + median(case["whole_texts"]), plain * share


def make_table(result: measuring.Result) -> str:
    """Return the results as Markdown."""
    rows = []
    for case in result["cases"]:
        seconds, whole = case["seconds"], estimate_whole(case, result)
        rows.append([
            str(case["words"]),
            *(measuring.format_spread(seconds[path], 2) for path in ("ours", "plain")),
            f"**{measuring.compute_ratio(seconds):.2f}**", f"{case['difference']:.1e}",
            f"{case['distinct_words']} of {case['all_words']}",
            *(f"{value / 60:.1f}" for value in whole), f"**{whole[1] / whole[0]:.2f}**",
        ])  # fmt: skip
    columns = ["words a video", "ours, s", "plain, s", "plain / ours", "difference"]
    columns += [f"distinct words of {result['whole']}", "put together: ours, min", "plain, min"]
    title = f"{result['videos']} videos, batch {result['batch']}, median of {result['runs']} runs"
    table = measuring.format_table([*columns, "plain / ours"], rows)
    return f"{measuring.format_head(result)}\n\n{title} (range)\n\n{table}"


if __name__ == "__main__":
    run_cli(main)
