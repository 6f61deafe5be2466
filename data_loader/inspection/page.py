"""The page that ``check_data.py`` prints."""

import textwrap
from collections.abc import Iterable, Mapping

from data_loader.inspection.documents import OcrFacts, Spread
from data_loader.inspection.needs import DiskNeeds, LoaderNeeds, ModelNeeds
from data_loader.inspection.report import Report, size
from data_loader.inspection.splits import SplitFacts
from data_loader.inspection.videos import VideoFacts

MAX_SHOWN = 10
WIDTH = 100
_NAME = 14  # columns of a row's name


def page(report: Report) -> str:
    """Return the report as text, without a line end at its end."""
    lines = [f"{report.config} ({' and '.join(report.modalities)})"]
    for split in report.splits:
        lines += ["", split.name, *_split_rows(split, report.modalities)]
    for name, text in report.closed.items():
        lines += ["", name, *_row("not opened", text)]
    lines += ["", "needs (estimates)", *_model_rows(report.model), *_disk_rows(report.disk)]
    for number, loader in enumerate(report.loaders):
        lines += _loader_rows(number, loader)
    if not report.wrong:
        return "\n".join([*lines, "", "nothing wrong"])
    return "\n".join([*lines, "", f"wrong: {len(report.wrong)}", *_indented(report.wrong, "- ")])


def _split_rows(split: SplitFacts, modalities: Iterable[str]) -> list[str]:
    """All rows of a split."""
    rows = _row("annotations", f"{split.dataset}: {split.annotation_file}")
    if split.shuffled:
        rows += _row("", "SHUFFLED: captions and videos do not belong together")
    rows += _row("entries", f"{split.entries:,} with {split.captions:,} captions")
    if split.categories:
        rows += _row("categories", ", ".join(f"{k} {n:,}" for k, n in split.categories.items()))
    rows += _video_rows(split.videos, "" if "vision" in modalities else " (the model uses none)")
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
        rows += _list(split.leaks)
    return rows


def _video_rows(videos: VideoFacts, note: str) -> list[str]:
    there = len(videos.sizes)
    rows = _row(
        "videos",
        f"{videos.files:,} files, {size(sum(videos.sizes.values()))} in {there:,} of them; "
        f"{len(videos.missing):,} missing, {len(videos.unreadable):,} unreadable{note}",
    )
    rows += _list([f"{name}: missing" for name in videos.missing])
    rows += _list([f"{name}: {fault}" for name, fault in videos.unreadable.items()])
    facts = videos.decoded
    if facts is not None:
        rows += _row("decoded", f"{facts.videos:,}; {facts.shorter:,} shorter than a clip")
        for name in ("num_frames", "width", "height"):
            spread = getattr(facts, name)
            if spread is not None:
                text = f"{_number(spread.min)} – {_number(spread.median)} – {_number(spread.max)}"
                rows += _row("", f"{text}  {name.replace('num_', '')} (min – median – max)")
    return rows


def _ocr_rows(ocr: OcrFacts, entries: int) -> list[str]:
    rows = _row(
        "OCR",
        f"{ocr.named:,} of {entries:,} entries name a document, {size(ocr.bytes)}; "
        f"{len(ocr.missing):,} missing, {len(ocr.faulty):,} faulty",
    )
    rows += _list([f"{name}: missing" for name in ocr.missing])
    rows += _list(list(ocr.faulty.values()))
    if ocr.words is not None:
        rows += _row("words a video", _spread(ocr.words))
        rows += _row(
            "",
            f"{ocr.without_words:,} videos without a word, {ocr.cut:,} cut at max_words, "
            f"{ocr.skipped_records:,} records without a track",
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
        f"{size(model.training_bytes)} for weights, gradients and optimizer "
        f"({4 * values} bytes a trained parameter, float32); activations are not counted",
    )


def _disk_rows(disk: DiskNeeds) -> list[str]:
    needed = "not known" if disk.needed is None else f"at most {size(disk.needed)}"
    each = "" if disk.needed is None else f" of {size(disk.needed / disk.checkpoints)}"
    return _row(
        "checkpoints",
        f"{needed}: {disk.checkpoints:,} files{each} (weights and optimizer; epochs / save_period, "
        f"best, last); {size(disk.free)} free at {disk.folder}",
    )


def _loader_rows(number: int, loader: LoaderNeeds) -> list[str]:
    shape = " x ".join(map(str, loader.shape))
    return _row(
        f"loader {number}",
        f"a batch of frames {shape}: {size(loader.uint8_bytes)} as uint8, "
        f"{size(loader.float32_bytes)} as float32; {loader.ahead:,} batches ahead (num_workers x "
        f"prefetch_factor): {size(loader.ahead * loader.uint8_bytes)}",
    )


def _row(name: str, text: str) -> list[str]:
    """A name and its text, which goes on in the same column."""
    first = f"  {name:{_NAME}}"
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _list(names: list[str]) -> list[str]:
    """The first of a list, one a line."""
    more = len(names) - MAX_SHOWN
    shown = names[:MAX_SHOWN] + ([f"… and {more:,} more"] if more > 0 else [])
    return _indented(shown, " " * (_NAME + 2))


def _indented(lines: Iterable[str], mark: str) -> list[str]:
    return [f"  {mark}{line}" for line in lines]


def _spread(spread: Spread) -> str:
    values: Mapping[str, float] = vars(spread)
    return ", ".join(f"{name} {_number(value)}" for name, value in values.items())


def _number(value: float) -> str:
    return f"{value:,.1f}".removesuffix(".0")
