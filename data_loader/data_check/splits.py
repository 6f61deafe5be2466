"""Splits of a loader: what one holds, what is wrong with it, and what it shares with training."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from base.base_dataset import BaseTextVideoDataset, VideoEntry
from base.base_model import ModelInput
from data_loader.data_check.documents import OcrFacts, check_documents
from data_loader.data_check.videos import VideoFacts, check_files, decode_videos
from data_loader.datasets.annotations import count_captions
from utils.errors import UserError
from utils.files import hash_file

USES = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """An opened data set and what it is for."""

    loader: str  # what the report calls it, such as "loader 0"
    uses: tuple[str, ...]  # of USES; two where validation and test have the same entries
    dataset: BaseTextVideoDataset
    arguments: Mapping[str, Any]  # of the loader's block

    @property
    def name(self) -> str:
        """Name of the split in the report."""
        return f"{self.loader}, {' and '.join(self.uses)}"


@dataclass(frozen=True)
class SharedCaptions:
    """Captions that stand at several videos."""

    captions: int  # number of such captions
    videos: int  # that have one
    best_r1: float | None  # highest possible text-to-video R@1, per cent; None without captions


@dataclass
class SplitFacts:
    """What a split holds."""

    name: str
    dataset: str  # registered name
    annotation_file: str
    shuffled: bool  # captions and videos do not belong together
    entries: int
    captions: int
    categories: dict[str, int]  # category -> entries, the largest first
    videos: VideoFacts
    ocr: OcrFacts | None  # None: no entry names a document
    duplicates: SharedCaptions
    held_out_share: float | None = None  # of the training set that this one was held out of
    in_training: int | None = None  # captions that training has too; None for training itself
    leaks: list[str] = field(default_factory=list)  # videos that are also in training
    wrong: list[str] = field(default_factory=list)  # one line for each thing that is wrong

    def list_files(self) -> dict[str, Any]:
        """Return the files that are missing, can't be read, or are in training too."""
        return {
            "missing_videos": self.videos.missing,
            "unreadable_videos": self.videos.unreadable,
            "missing_ocr_documents": self.ocr.missing if self.ocr else [],
            "faulty_ocr_documents": self.ocr.faulty if self.ocr else {},
            "videos_in_training": self.leaks,
        }

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        value = asdict(self)
        value["videos"]["bytes"] = sum(value["videos"].pop("sizes").values())
        return value


def merge_equal_splits(splits: Sequence[Split]) -> list[Split]:
    """Make one of splits of a loader that have the same file and entries; training stays apart."""
    kept: list[Split] = []
    for split in splits:
        for number, other in enumerate(kept):
            if _are_equal(split, other):
                kept[number] = replace(other, uses=other.uses + split.uses)
                break
        else:
            kept.append(split)
    return kept


def _are_equal(split: Split, other: Split) -> bool:
    if split.loader != other.loader or "train" in split.uses + other.uses:
        return False
    mine, its = split.dataset, other.dataset
    return mine.annotation_file == its.annotation_file and mine.entries == its.entries


def check_split(split: Split, model_input: ModelInput, workers: int, decode: bool) -> SplitFacts:
    """Look at everything that a split names; on demand decode every video.

    A file that the model doesn't use is listed when it is missing or unreadable, but is not wrong.
    """
    dataset, arguments = split.dataset, split.arguments
    entries = dataset.entries
    images = getattr(dataset, "images", False)  # files that are no video containers
    is_held_out = arguments.get("val_share") is not None and "val" in split.uses
    videos = check_files((entry.video for entry in entries), images)
    wrong = []
    if decode:
        reader = None if images else arguments["reader"]
        num_frames = arguments["video_params"].num_frames
        try:
            decode_videos(videos, reader, num_frames, workers, split.name)
        except UserError as error:
            wrong.append(f"the videos can't be decoded: {error}")
    ocr = None
    if any(entry.ocr is not None for entry in entries):
        ocr = check_documents(entries, arguments["ocr_params"], workers, split.name)
    categories = Counter(entry.category for entry in entries if entry.category is not None)
    facts = SplitFacts(
        name=split.name,
        dataset=arguments["dataset_name"],
        annotation_file=str(dataset.annotation_file),
        shuffled=dataset.shuffled,
        entries=len(entries),
        captions=count_captions(entries),
        categories=dict(categories.most_common()),
        videos=videos,
        ocr=ocr,
        duplicates=count_shared_captions(entries),
        held_out_share=arguments["val_share"] if is_held_out else None,
    )
    facts.wrong = _list_problems(facts, model_input) + wrong
    return facts


def _list_problems(facts: SplitFacts, model_input: ModelInput) -> list[str]:
    """One line for each thing that is wrong with a split by itself."""
    wrong, videos, ocr = [], facts.videos, facts.ocr
    if facts.shuffled:
        wrong.append(
            f"{facts.annotation_file} is SHUFFLED: its captions and videos do not belong "
            "together, and every metric on it is chance"
        )
    if model_input.uses_vision:
        wrong += _state_count(len(videos.missing), videos.files, "videos are missing")
        wrong += _state_count(len(videos.unreadable), videos.files, "videos can't be read")
    if model_input.uses_ocr and ocr is None:
        wrong.append("no entry names an OCR document, but the model reads OCR words")
    if ocr is not None:
        missing = len(ocr.missing) if model_input.uses_ocr else 0
        wrong += _state_count(missing, ocr.named, "OCR documents are missing")
        # Evaluation reads the documents whatever the model does.
        wrong += _state_count(len(ocr.faulty), ocr.named, "OCR documents are faulty")
    return wrong


def _state_count(count: int, total: int, what: str) -> list[str]:
    return [f"{count} of {total} {what}"] if count else []


def compare_splits(splits: Sequence[Split], facts: Sequence[SplitFacts], content: bool) -> None:
    """Look in every split but the training ones for videos and captions of training.

    What is found is added to the ``facts`` of the splits. With ``content`` the bytes of files of
    equal size are compared, too.
    """
    pairs = list(zip(splits, facts, strict=True))
    training = [(split, fact) for split, fact in pairs if "train" in split.uses]
    entries = [entry for split, _ in training for entry in split.dataset.entries]
    names = [str(entry.video) for entry in entries]
    sizes: dict[str, int] = {}
    for _, fact in training:
        sizes |= fact.videos.get_readable_sizes()
    for split, fact in pairs:
        if "train" in split.uses or not training:
            continue
        held_out = split.dataset.entries
        fact.in_training = count_captions_in(held_out, entries)
        leaks = find_shared_files({str(entry.video) for entry in held_out}, names)
        if content:
            copies = find_copies(fact.videos.get_readable_sizes(), sizes)
            leaks += [
                f"{name} (same bytes as {other})"
                for name, other in copies.items()
                if name not in leaks
            ]
        fact.leaks = sorted(leaks)
        fact.wrong += _state_count(len(leaks), fact.videos.files, "videos are in training too")


def normalise_caption(caption: str) -> str:
    """Return what of a caption a text model can see: letters lower-cased, single blanks."""
    return " ".join(caption.lower().split())


def count_shared_captions(entries: Iterable[VideoEntry]) -> SharedCaptions:
    """Count captions that stand at several videos.

    Equal queries have equal rankings, so that of those at different videos only one video's come
    first.
    """
    found: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))  # text -> id -> count
    for entry in entries:
        for caption in entry.captions:
            found[normalise_caption(caption)][entry.id] += 1
    shared = [videos for videos in found.values() if len(videos) > 1]
    total = sum(sum(videos.values()) for videos in found.values())
    first = sum(max(videos.values()) for videos in found.values())
    return SharedCaptions(
        captions=len(shared),
        videos=len(set().union(*shared)),
        best_r1=100 * first / total if total else None,
    )


def count_captions_in(entries: Iterable[VideoEntry], others: Iterable[VideoEntry]) -> int:
    """Count the captions of ``entries`` that are also captions of ``others``."""
    known = {normalise_caption(caption) for entry in others for caption in entry.captions}
    return sum(normalise_caption(text) in known for entry in entries for text in entry.captions)


def find_shared_files(names: Iterable[str], others: Iterable[str]) -> list[str]:
    """Return those of ``names`` that are, links followed, also among ``others``; sorted."""
    known = set(map(os.path.realpath, others))
    return sorted(name for name in names if os.path.realpath(name) in known)


def find_copies(sizes: Mapping[str, int], others: Mapping[str, int]) -> dict[str, str]:
    """Return which files hold the same bytes as one of ``others``, and as which.

    Args:
        sizes: path -> bytes; only files of equal size are read.
        others: the same.
    """
    of_size = defaultdict(list)
    for name, size in others.items():
        of_size[size].append(Path(name))
    hash_once = cache(hash_file)
    copies = {}
    for name, size in sizes.items():
        same = (other for other in of_size[size] if hash_once(other) == hash_once(Path(name)))
        original = next(same, None)
        if original is not None:
            copies[name] = str(original)
    return copies
