"""What the commands print."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.results import Explanation, Hit, WordMatch
from retrieval.videos import shown

if TYPE_CHECKING:
    from retrieval.indexing.changes import Changes
    from retrieval.indexing.update import Outcome

_MOST_WORDS = 3  # of a hit, in a line


def hits_json(hits: Sequence[Hit]) -> str:
    """Return hits as JSON: a list of objects with the fields of ``Hit``."""
    return json.dumps([asdict(hit) | {"words": _words(hit)} for hit in hits], indent=2) + "\n"


def _words(hit: Hit) -> list[dict]:
    return [asdict(match) | {"box": match.box._asdict()} for match in hit.words]


def hits_table(hits: Sequence[Hit], explain: bool = False) -> str:
    """Return hits as a table; to explain them each has further lines."""
    if not hits:
        return "nothing found\n"
    head = ("", "time", "score", "words", "video")
    rows = [
        (
            str(place),
            f"{clock(hit.start_s)}-{clock(hit.end_s)}",
            f"{hit.score:.4f}",
            _short(hit.words),
            shown(hit.video),
        )
        for place, hit in enumerate(hits, 1)
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head) - 1)]
    lines = [_line(head, widths)]
    for row, hit in zip(rows, hits, strict=True):
        lines += [_line(row, widths), *(f"      {text}" for text in _reasons(hit) if explain)]
    return "\n".join(lines) + "\n"


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    number, *cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)]
    return "  ".join([number.strip().rjust(widths[0]), *cells, row[-1]])


def _short(matches: Sequence[WordMatch]) -> str:
    words = dict.fromkeys(match.word for match in matches)
    return shown(", ".join([*list(words)[:_MOST_WORDS], *["…"] * (len(words) > _MOST_WORDS)]))


def _reasons(hit: Hit) -> list[str]:
    lines = [] if hit.explanation is None else [_similarity(hit.explanation)]
    for match in hit.words:
        left, top, right, bottom = (round(100 * share) for share in match.box)
        lines.append(
            f"{shown(match.query)}: {match.kind} in {json.dumps(match.text, ensure_ascii=False)}, "
            f"{clock(match.start_s)}-{clock(match.end_s)}, "
            f"x {left}-{right} %, y {top}-{bottom} % of the frame"
        )
    return lines


def _similarity(found: Explanation) -> str:
    text = f"similarity {found.similarity:.3f}"
    if found.without_vision is None or found.without_ocr is None:
        return text
    text += f", without vision {found.without_vision:.3f}, without OCR {found.without_ocr:.3f}"
    if found.vision is None or found.ocr is None:
        return text
    return f"{text}: {found.vision:.0%} vision, {found.ocr:.0%} OCR"


def changes_table(changes: "Changes") -> str:
    """Return what an update would do, a line for each video."""
    groups = {"add": changes.add, "update": changes.update, "drop": changes.drop}
    lines = [f"{what:<7} {shown(name)}" for what, names in groups.items() for name in names]
    lines += [f"failed  {shown(name)}: {reason}" for name, reason in changes.failed.items()]
    return "\n".join([*lines, changes.summary()]) + "\n"


def outcome_table(outcome: "Outcome", out: Path) -> str:
    """Return what an update did."""
    lines = [f"failed  {shown(name)}: {reason}" for name, reason in outcome.failed.items()]
    lines.append(outcome.changes.summary())
    if outcome.recall is not None:
        lines.append(f"FAISS index: {outcome.recall:.1%} of the ten nearest of an entry are found")
    lines.append(f"{out}: {outcome.num_videos} videos, {outcome.num_entries} entries")
    return "\n".join(lines) + "\n"


def clock(seconds: float) -> str:
    """Return a time as ``1:02:03.5``, with a tenth where it is not a whole second."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest // 10:02}" + (f".{rest % 10}" if rest % 10 else "")
    return f"{hours}:{minutes:02}:{text}" if hours else f"{minutes}:{text}"
