"""Ranks of every query as a CSV file, which is what two runs are compared by.

One row for each query, in the order of the matrix: the captions (``t2v``), then the videos that
have a caption (``v2t``).

| column | what it is |
|---|---|
| ``direction`` | ``t2v``: a caption is the query and videos are ranked; ``v2t``: the reverse |
| ``query`` | row (t2v) or column (v2t) of the matrix, from 0 |
| ``video`` | the right video of a caption; the video that is the query |
| ``caption`` | the caption that is the query; empty for v2t, where the best of a video's counts |
| ``rank`` | of the one right video, or of the best right caption, as published; from 1 |
| ``rank_equal_captions`` | the same where every video with an equal caption is right |
| ``candidates`` | how many videos or captions were ranked |

Ranks shared by equal scores are their mean, so they may end in .5.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.ground_truth import GroundTruth
from evaluation.scores import T2V, V2T, Scores
from utils.errors import UserError
from utils.files import write_bytes

METRICS_NAME, RANKS_NAME = "metrics.json", "ranks.csv"
COLUMNS = (
    "direction", "query", "video", "caption", "rank", "rank_equal_captions", "candidates",
)  # fmt: skip
DIRECTIONS = {"t2v": T2V, "v2t": V2T}
PUBLISHED, EQUAL_CAPTIONS = "rank", "rank_equal_captions"


@dataclass(frozen=True)
class QueryRanks:
    """The ranks of a direction's N queries.

    Attributes:
        queries: (number, video, caption) of each, as in the file.
        ranks: truth (``PUBLISHED`` or ``EQUAL_CAPTIONS``) -> (N,) float64.
        candidates: how many videos or captions were ranked.
    """

    queries: Sequence[tuple[str, str, str]]
    ranks: dict[str, NDArray]
    candidates: int


def name_ranks_file(metrics_file: Path) -> Path:
    """Return where the ranks belong to a file of metrics: ``X.metrics.json``, ``X.ranks.csv``."""
    name = metrics_file.name
    start = name.removesuffix(METRICS_NAME) if METRICS_NAME in name else f"{metrics_file.stem}."
    return metrics_file.with_name(start + RANKS_NAME)


def write_ranks(path: Path, scores: Scores) -> None:
    """Write the ranks of the directions that were scored."""
    text = io.StringIO(newline="")
    rows = csv.writer(text)  # its lines end with CR LF, so that a CR in a caption is quoted
    rows.writerow(COLUMNS)
    for direction, metric in DIRECTIONS.items():
        if metric in scores.ranks:
            rows.writerows(_list_rows(direction, scores, metric))
    # A lone surrogate of an annotation file is no UTF-8; its bytes come back as they were.
    write_bytes(path, text.getvalue().encode("utf-8", "surrogatepass"))


def _list_rows(direction: str, scores: Scores, metric: str) -> Iterator[tuple]:
    queries = scores.queries
    names = _name_queries(direction, queries)
    candidates = queries.shape[1 if direction == "t2v" else 0]
    pairs = zip(scores.ranks[metric], scores.equal_ranks[metric], strict=True)
    for number, ((video, caption), (own, equal)) in enumerate(zip(names, pairs, strict=True)):
        if not np.isnan(own):  # a video without a caption
            ranks = f"{own:.1f}".removesuffix(".0"), f"{equal:.1f}".removesuffix(".0")
            yield direction, number, video, caption, *ranks, candidates


def _name_queries(direction: str, queries: GroundTruth) -> list[tuple[str, str]]:
    if direction == "v2t":
        return [(video, "") for video in queries.ids]
    columns = queries.video_of_query.tolist()
    return [(queries.ids[c], text) for c, text in zip(columns, queries.captions, strict=True)]


def read_ranks(path: Path) -> dict[str, QueryRanks]:
    """Read a file of ``write_ranks``: direction -> its ranks; directions without rows are left out.

    Raises:
        UserError: there is no such file, or it is none of ours; the message names the line.
    """
    try:
        text = path.read_bytes().decode("utf-8", "surrogatepass")
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: no such file; test.py and tools.score_matrix write it beside the metrics"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is no file of ranks, it is not UTF-8 text") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise UserError(f"{path}: is no file of ranks; its first line must be {','.join(COLUMNS)}")
    rows: dict[str, list[dict[str, str]]] = {}
    try:
        for row in reader:
            _check_row(row)
            rows.setdefault(row["direction"], []).append(row)
    except (csv.Error, ValueError) as error:
        raise UserError(f"{path}: line {reader.line_num} is no row of ranks ({error})") from error
    if not rows:
        raise UserError(f"{path}: holds no ranks; test with t2v_metrics or v2t_metrics")
    return {direction: _collect_ranks(found) for direction, found in rows.items()}


def _check_row(row: dict[str, str]) -> None:
    """Raise ``ValueError`` where a row can't be one of ``write_ranks``."""
    if None in row or None in row.values():
        raise ValueError(f"expected {len(COLUMNS)} values")
    if row["direction"] not in DIRECTIONS:
        raise ValueError(f"direction {row['direction']}")
    candidates = int(row["candidates"])
    for truth in (PUBLISHED, EQUAL_CAPTIONS):
        if not 1 <= float(row[truth]) <= candidates:
            raise ValueError(f"{truth} {row[truth]} of {candidates}")


def _collect_ranks(rows: Sequence[dict[str, str]]) -> QueryRanks:
    return QueryRanks(
        queries=[(row["query"], row["video"], row["caption"]) for row in rows],
        ranks={
            truth: np.array([float(row[truth]) for row in rows])
            for truth in (PUBLISHED, EQUAL_CAPTIONS)
        },
        candidates=int(rows[0]["candidates"]),
    )
