"""Report of ``check_data.py``: a page of text, everything as JSON values, and lists of files."""

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from base.base_model import ModelInput
from data_loader.data_check.documents import OcrFacts, Spread
from data_loader.data_check.needs import DiskNeeds, LoaderNeeds, ModelNeeds
from data_loader.data_check.splits import SplitFacts
from data_loader.data_check.videos import VideoFacts
from utils.capacity import format_size

MAX_SHOWN = 10
WIDTH = 100
_NAME = 14  # columns of a row's name


@dataclass(frozen=True)
class Report:
    """What ``check_data.py`` found."""

    config: str  # file
    model_input: ModelInput
    splits: list[SplitFacts]  # that could be opened
    closed: Mapping[str, str]  # names of those that could not -> why
    model: ModelNeeds
    disk: DiskNeeds
    loaders: list[LoaderNeeds]

    @property
    def wrong(self) -> list[str]:
        """One line for each thing that is wrong."""
        wrong = [f"{name}: {' '.join(text.split())}" for name, text in self.closed.items()]
        for split in self.splits:
            wrong += [f"{split.name}: {' '.join(text.split())}" for text in split.wrong]
        disk = self.disk
        if disk.needed is not None and disk.needed > disk.free:
            wrong.append(
                f"disk: {disk.checkpoints} checkpoints need {format_size(disk.needed)}, but "
                f"{format_size(disk.free)} are free at {disk.folder}; raise trainer.save_period, "
                "lower trainer.epochs, or set trainer.save_dir"
            )
        return wrong

    def list_files(self) -> dict[str, Any]:
        """Return what is wrong, and every split's lists of files."""
        return {
            "config": self.config,
            "wrong": self.wrong,
            "splits": {split.name: split.list_files() for split in self.splits},
        }

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "config": self.config,
            "modalities": list(self.model_input.modalities),
            "wrong": self.wrong,
            "not_opened": dict(self.closed),
            "splits": [split.to_json() for split in self.splits],
            "estimates": {
                "model": asdict(self.model),
                "disk": asdict(self.disk),
                "loaders": [asdict(loader) for loader in self.loaders],
            },
        }

    def to_text(self) -> str:
        """Return the page, without a line end at its end."""
        lines = [f"{self.config} ({' and '.join(self.model_input.modalities)})"]
        for split in self.splits:
            lines += ["", split.name, *_split_rows(split, self.model_input)]
        for name, text in self.closed.items():
            lines += ["", name, *_row("not opened", text)]
        lines += ["", "needs (estimates)", *_model_rows(self.model), *_disk_rows(self.disk)]
        for number, loader in enumerate(self.loaders):
            lines += _loader_rows(number, loader)
        if not self.wrong:
            return "\n".join([*lines, "", "nothing wrong"])
        return "\n".join([*lines, "", f"wrong: {len(self.wrong)}", *_indent(self.wrong, "- ")])


def _split_rows(split: SplitFacts, model_input: ModelInput) -> list[str]:
    rows = _row("annotations", f"{split.dataset}: {split.annotation_file}")
    if split.shuffled:
        rows += _row("", "SHUFFLED: captions and videos do not belong together")
    rows += _row("entries", f"{split.entries:,} with {split.captions:,} captions")
    if split.held_out_share is not None:
        rows += _row("held out", f"of training, by val_share {split.held_out_share:g}")
    if split.categories:
        rows += _row("categories", ", ".join(f"{k} {n:,}" for k, n in split.categories.items()))
    rows += _video_rows(split.videos, "" if model_input.uses_vision else " (the model uses none)")
    if split.ocr is None:
        rows += _row("OCR", "no entry names a document")
    else:
        rows += _ocr_rows(split.ocr, split.entries)
    shared = split.duplicates
    text = f"{shared.captions:,} captions stand at several videos, {shared.videos:,} in all"
    if shared.best_r1 is not None:
        text += f"; the best possible R@1 is {shared.best_r1:.2f} %"
    rows += _row("duplicates", text)
    if split.in_training is not None:
        rows += _row("in training", f"{len(split.leaks):,} videos, {split.in_training:,} captions")
        rows += _list_first(split.leaks)
    return rows


def _video_rows(videos: VideoFacts, note: str) -> list[str]:
    there = len(videos.sizes)
    rows = _row(
        "videos",
        f"{videos.files:,} files, {format_size(sum(videos.sizes.values()))} in {there:,} of them; "
        f"{len(videos.missing):,} missing, {len(videos.unreadable):,} unreadable{note}",
    )
    rows += _list_first([f"{name}: missing" for name in videos.missing])
    rows += _list_first([f"{name}: {error}" for name, error in videos.unreadable.items()])
    facts = videos.decoded
    if facts is not None:
        rows += _row("decoded", f"{facts.videos:,}; {facts.shorter:,} shorter than a clip")
        if facts.begun_before:
            text = f"of {facts.begun_before:,} the pictures before the first whole one"
            rows += _row("left out", text)
        for name in ("num_frames", "width", "height"):
            spread = getattr(facts, name)
            if spread is not None:
                values = map(_format_number, (spread.min, spread.median, spread.max))
                kind = name.replace("num_", "")
                rows += _row("", f"{' – '.join(values)}  {kind} (min – median – max)")
    return rows


def _ocr_rows(ocr: OcrFacts, entries: int) -> list[str]:
    rows = _row(
        "OCR",
        f"{ocr.named:,} of {entries:,} entries name a document, {format_size(ocr.bytes)}; "
        f"{len(ocr.missing):,} missing, {len(ocr.faulty):,} faulty",
    )
    rows += _list_first([f"{name}: missing" for name in ocr.missing])
    rows += _list_first(list(ocr.faulty.values()))
    if ocr.words is not None:
        rows += _row("words a video", _format_spread(ocr.words))
        rows += _row(
            "",
            f"{ocr.without_words:,} videos without a word, {ocr.cut:,} cut at max_words, "
            f"{ocr.skipped_records:,} records without a track or written twice",
        )
    if ocr.compared:
        share = 100 * ocr.reading / ocr.compared
        rows += _row(
            "need reading",
            f"{share:.1f} %: {ocr.reading:,} of the {ocr.compared:,} captions whose video's "
            "document was read share a word of it",
        )
    return rows


def _model_rows(model: ModelNeeds) -> list[str]:
    if model.parameters is None:
        return _row("model", f"not known: {model.reason}")
    rows = _row("model", f"{model.parameters:,} parameters, {model.trainable:,} trained")
    values = 2 + model.moments
    return rows + _row(
        "training",
        f"{format_size(model.training_bytes)} for weights, gradients and optimizer "
        f"({4 * values} bytes a trained parameter, float32); activations are not counted",
    )


def _disk_rows(disk: DiskNeeds) -> list[str]:
    needed = "not known" if disk.needed is None else f"at most {format_size(disk.needed)}"
    each = "" if disk.needed is None else f" of {format_size(disk.needed / disk.checkpoints)}"
    return _row(
        "checkpoints",
        f"{needed}: {disk.checkpoints:,} files{each} (weights and optimizer; epochs / save_period, "
        f"best, last); {format_size(disk.free)} free at {disk.folder}",
    )


def _loader_rows(number: int, loader: LoaderNeeds) -> list[str]:
    shape = " x ".join(map(str, loader.shape))
    return _row(
        f"loader {number}",
        f"a batch of frames {shape}: {format_size(loader.uint8_bytes)} as uint8, "
        f"{format_size(loader.float32_bytes)} as float32; {loader.ahead:,} batches ahead "
        f"(num_workers x prefetch_factor): {format_size(loader.ahead * loader.uint8_bytes)}",
    )


def _row(name: str, text: str) -> list[str]:
    """A name and its text, which goes on in the same column."""
    first = f"  {name:{_NAME}}"
    indents = {"initial_indent": first, "subsequent_indent": " " * len(first)}
    return textwrap.wrap(text, WIDTH, **indents, break_long_words=False, break_on_hyphens=False)


def _list_first(names: list[str]) -> list[str]:
    """The first of a list, one a line."""
    more = len(names) - MAX_SHOWN
    shown = names[:MAX_SHOWN] + ([f"… and {more:,} more"] if more > 0 else [])
    return _indent(shown, " " * (_NAME + 2))


def _indent(lines: Iterable[str], mark: str) -> list[str]:
    return [f"  {mark}{line}" for line in lines]


def _format_spread(spread: Spread) -> str:
    return ", ".join(f"{name} {_format_number(value)}" for name, value in vars(spread).items())


def _format_number(value: float) -> str:
    return f"{value:,.1f}".removesuffix(".0")
