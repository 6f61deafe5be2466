"""Tables and JSON that the commands print."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.results import Box, Explanation, Hit, SameEntry, WordMatch
from utils.times import format_time

if TYPE_CHECKING:
    from retrieval.index.update import UpdateResult
    from retrieval.index.update_plan import UpdatePlan

_MAX_WORDS = 3  # of a hit, in a line


def escape(name: object) -> str:
    """Return a name or another text as one line that any terminal can show."""
    text = str(name)
    return text if text.isprintable() else ascii(text)


def dump_hits(hits: Sequence[Hit]) -> str:
    """Return hits as JSON: a list of objects with the fields of ``Hit``.

    The ranks are there by the names of former releases, too.
    """
    values = [
        asdict(hit)
        | {"words": [asdict(match) | {"box": _dump_box(match.box)} for match in hit.words]}
        | {"also": [entry._asdict() for entry in hit.also]}
        | {"evidence": None if hit.evidence is None else hit.evidence._asdict()}
        | {"moment_box": _dump_box(hit.moment_box)}
        | {"meaning_rank": hit.semantic_rank, "words_rank": hit.keyword_rank}
        for hit in hits
    ]
    return json.dumps(values, indent=2) + "\n"


def _dump_box(box: Box | None) -> dict[str, float] | None:
    return None if box is None else box._asdict()


def format_hits(
    hits: Sequence[Hit], explain: bool = False, locate: Callable[[str], object] = Path
) -> str:
    """Return hits as a table; with ``explain``, each is followed by further lines.

    The time of each is that to play from. Those that are not likely stand below a line that says
    so.

    Args:
        locate: returns the place of a video, by its path in the index.
    """
    if not hits:
        return "nothing found\n"
    rows = [("", "time", "score", "words", "video")]
    for number, hit in enumerate(hits, 1):
        words = list(dict.fromkeys(map(_name_word, hit.words)))
        if len(words) > _MAX_WORDS:
            words[_MAX_WORDS:] = ["…"]
        shown = escape(", ".join(words))
        also = f"  (+{hit.num_also} alike)" if hit.num_also else ""
        video = escape(locate(hit.video)) + also
        rows.append((str(number), format_time(hit.moment_s), f"{hit.score:.4f}", shown, video))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    if hits[0].likely is False:
        lines.append("nothing found that looks like it; the nearest are:")
    before = None
    for (number, *cells, video), hit in zip(rows, [None, *hits], strict=True):
        if hit is not None and hit.likely is False and before is not None and before.likely:
            lines.append("others look alike:")
        before = hit
        padded = [cell.ljust(width) for cell, width in zip(cells, widths[1:-1], strict=True)]
        lines.append("  ".join([number.rjust(widths[0]), *padded, video]))
        if explain and hit is not None:
            lines += [f"      {text}" for text in _explain_hit(hit)]
    return "\n".join(lines) + "\n"


def _name_word(match: WordMatch) -> str:
    """Return a matched word as a table of hits has it."""
    return f'said "{match.word}"' if match.track_kind == "spoken" else match.word


def _explain_hit(hit: Hit) -> list[str]:
    lines = [f"from the window {_format_span(hit)}"]
    if hit.explanation is not None:
        lines.append(_format_similarity(hit.explanation, hit.z_score))
    if hit.evidence is not None:
        names = zip(("seen", "read", "said", "named"), hit.evidence, strict=True)
        parts = [f"{value:.1f} {name}" for name, value in names if value >= 0.05]
        lines.append(f"evidence {sum(hit.evidence):.1f}: {', '.join(parts)}")
    if hit.time_s is not None:
        lines.append(f"best frame {hit.frame_similarity:.3f}, at {format_time(hit.time_s)}")
    lines += [_format_match(match) for match in hit.words]
    lines += [f"also {_format_span(entry)} of {escape(entry.video)}" for entry in hit.also]
    return lines


def _format_match(match: WordMatch) -> str:
    text = json.dumps(match.text, ensure_ascii=False)
    found = f"{escape(match.query)}: {match.kind} in "
    if match.track_kind == "name":
        return f"{found}the name of the file"
    if match.box is None:
        return f"{found}{text}, said {_format_span(match)}"
    left, top, right, bottom = (round(100 * share) for share in match.box)
    place = f"x {left}-{right} %, y {top}-{bottom} % of the frame"
    return f"{found}{text}, {_format_span(match)}, {place}"


def _format_span(part: Hit | WordMatch | SameEntry) -> str:
    return f"{format_time(part.start_s)}-{format_time(part.end_s)}"


def _format_similarity(found: Explanation, z_score: float | None) -> str:
    text = f"similarity {found.similarity:.3f}"
    text += "" if z_score is None else f" (z-score {z_score:.1f})"
    if found.without_vision is None or found.without_ocr is None:
        return text
    text += f", without vision {found.without_vision:.3f}, without OCR {found.without_ocr:.3f}"
    if found.vision is None or found.ocr is None:
        return text
    return f"{text}: {found.vision:.0%} vision, {found.ocr:.0%} OCR"


def format_plan(plan: "UpdatePlan") -> str:
    """Return what an update would do, a line for each video."""
    groups = {"add": plan.add, "update": plan.update, "drop": plan.drop}
    lines = [f"{what:<7} {escape(name)}" for what, names in groups.items() for name in names]
    lines += [f"moved   {escape(name)}: was {escape(old)}" for name, old in plan.moved.items()]
    lines += [f"failed  {escape(name)}: {reason}" for name, reason in plan.failed.items()]
    lines += [f"{plan.num_anew} to be embedded by another model"] if plan.num_anew else []
    return "\n".join([*lines, plan.summarize()]) + "\n"


def format_result(result: "UpdateResult", out: str | Path) -> str:
    """Return what an update did."""
    lines = [
        f"failed  {escape(name)}: {' '.join(reason.split())}"
        for name, reason in result.failed.items()
    ]
    lines += [f"{result.num_anew} embedded by the new model"] if result.num_anew else []
    if result.plan.num_without_document:
        lines.append(f"{result.plan.num_without_document} of the videos have no document of text")
    lines.append(result.summarize())
    if result.recall is not None:
        lines.append(f"FAISS index: {result.recall:.1%} of the ten nearest of an entry are found")
    lines.append(f"{out}: {result.num_videos} videos, {result.num_entries} entries")
    return "\n".join(lines) + "\n"
