"""What one split of a loader holds, what is wrong with it, and what splits share."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from base.base_dataset import BaseTextVideoDataset
from data_loader.annotations import count_captions
from data_loader.inspection.documents import OcrFacts, inspect_documents
from data_loader.inspection.overlap import (
    SharedCaptions,
    captions_in,
    copies,
    shared_captions,
    shared_files,
)
from data_loader.inspection.videos import (
    VideoFacts,
    decode_videos,
    inspect_files,
    shows_images,
)
from utils.errors import UserError

USES = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """An opened data set and what it is for.

    Attributes:
        loader: number of the loader in the configuration.
        uses: of ``USES``; two where validation and test have the same entries.
        dataset: opened.
        arguments: of the loader's block.
    """

    loader: int
    uses: tuple[str, ...]
    dataset: BaseTextVideoDataset
    arguments: Mapping[str, Any]

    @property
    def name(self) -> str:
        """How the split is called in the report."""
        return f"loader {self.loader}, {' and '.join(self.uses)}"


@dataclass
class SplitFacts:
    """What a split holds.

    Attributes:
        name: of the split.
        dataset: registered name of the data set.
        annotation_file: where the entries come from.
        shuffled: captions and videos do not belong together.
        entries: number of videos.
        captions: number of them.
        categories: category -> entries, the largest first.
        videos: the files.
        ocr: the documents; None: no entry names one.
        duplicates: captions of several videos.
        in_training: captions that are also captions of training, None for training itself.
        leaks: videos that are also in training.
        wrong: one line for each thing that is wrong.
    """

    name: str
    dataset: str
    annotation_file: str
    shuffled: bool
    entries: int
    captions: int
    categories: dict[str, int]
    videos: VideoFacts
    ocr: OcrFacts | None
    duplicates: SharedCaptions
    in_training: int | None = None
    leaks: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def lists(self) -> dict[str, Any]:
        """Return the files that are missing, can't be read, or are in training too."""
        return {
            "missing_videos": self.videos.missing,
            "unreadable_videos": self.videos.unreadable,
            "missing_ocr_documents": self.ocr.missing if self.ocr else [],
            "faulty_ocr_documents": self.ocr.faulty if self.ocr else {},
            "videos_in_training": self.leaks,
        }

    def described(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        value = asdict(self)
        value["videos"]["bytes"] = sum(value["videos"].pop("sizes").values())
        return value


def merge_equal(splits: Sequence[Split]) -> list[Split]:
    """Make one of splits of a loader that have the same file and entries; training stays apart."""
    kept: list[Split] = []
    for split in splits:
        for number, other in enumerate(kept):
            if _are_equal(split, other):
                uses = other.uses + split.uses
                kept[number] = Split(other.loader, uses, other.dataset, other.arguments)
                break
        else:
            kept.append(split)
    return kept


def _are_equal(split: Split, other: Split) -> bool:
    if split.loader != other.loader or "train" in split.uses + other.uses:
        return False
    mine, its = split.dataset, other.dataset
    return mine.annotation_file == its.annotation_file and mine.entries == its.entries


def inspect_split(
    split: Split, modalities: Sequence[str], workers: int, decode: bool
) -> SplitFacts:
    """Look at everything that a split names.

    Args:
        split: opened.
        modalities: what the model uses. A file that it doesn't read is listed when it is missing
            or unreadable, but is not wrong.
        workers: processes.
        decode: also decode every video.
    """
    dataset, arguments = split.dataset, split.arguments
    entries = dataset.entries
    images = shows_images(dataset)
    reader = None if images else arguments["reader"]
    videos = inspect_files((entry.video for entry in entries), images)
    wrong = []
    if decode:
        num_frames = arguments["video_params"].num_frames
        try:
            decode_videos(videos, reader, num_frames, workers, split.name)
        except UserError as error:
            wrong.append(f"the videos can't be decoded: {error}")
    ocr = None
    if any(entry.ocr is not None for entry in entries):
        ocr = inspect_documents(entries, arguments["ocr_params"], workers, split.name)
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
        duplicates=shared_captions(entries),
    )
    facts.wrong = _wrong(facts, modalities) + wrong
    return facts


def _wrong(facts: SplitFacts, modalities: Sequence[str]) -> list[str]:
    """One line for each thing that is wrong with a split by itself."""
    wrong = []
    if facts.shuffled:
        wrong.append(
            f"{facts.annotation_file} is SHUFFLED: its captions and videos do not belong "
            "together, and every metric on it is chance"
        )
    if "vision" in modalities:
        videos = facts.videos
        wrong += _counted(len(videos.missing), videos.files, "videos are missing")
        wrong += _counted(len(videos.unreadable), videos.files, "videos can't be read")
    if "ocr" in modalities and facts.ocr is None:
        wrong.append("no entry names an OCR document, but the model reads OCR words")
    if facts.ocr is not None:
        missing = len(facts.ocr.missing) if "ocr" in modalities else 0
        wrong += _counted(missing, facts.ocr.named, "OCR documents are missing")
        # Evaluation reads the documents whatever the model does.
        faulty = len(facts.ocr.faulty)
        wrong += _counted(faulty, facts.ocr.named, "OCR documents are faulty")
    return wrong


def _counted(count: int, total: int, what: str) -> list[str]:
    return [f"{count} of {total} {what}"] if count else []


def compare_splits(splits: Sequence[Split], facts: Sequence[SplitFacts], content: bool) -> None:
    """Look in every split but the training ones for videos and captions of training.

    Args:
        splits: of all loaders.
        facts: of the splits, in their order; what is found is added to them.
        content: also compare the bytes of files of equal size.
    """
    pairs = list(zip(splits, facts, strict=True))
    training = [(split, fact) for split, fact in pairs if "train" in split.uses]
    entries = [entry for split, _ in training for entry in split.dataset.entries]
    sizes = {name: size for _, fact in training for name, size in _whole(fact.videos).items()}
    names = [str(entry.video) for entry in entries]
    for split, fact in pairs:
        if "train" in split.uses or not training:
            continue
        held_out = split.dataset.entries
        fact.in_training = captions_in(held_out, entries)
        leaks = shared_files({str(entry.video) for entry in held_out}, names)
        if content:
            same = copies(_whole(fact.videos), sizes)
            leaks += [f"{name} (same bytes as {same[name]})" for name in same if name not in leaks]
        fact.leaks = sorted(leaks)
        fact.wrong += _counted(len(leaks), fact.videos.files, "videos are in training too")


def _whole(videos: VideoFacts) -> dict[str, int]:
    """Sizes of the files that can be opened."""
    return {n: size for n, size in videos.sizes.items() if n not in videos.unreadable}
