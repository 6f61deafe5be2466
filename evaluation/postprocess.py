"""Named changes of a similarity matrix that help retrieval, never mixed up with the plain one.

Both see more than one query at a time, so their numbers answer another question than the plain
ones: what is found when all test queries (dual softmax), or many other ones (QB-Norm), are known.

Shapes: Q captions, V videos, N queries of a bank.
"""

import math
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.ground_truth import GroundTruth
from evaluation.scores import T2V, V2T, Scores, score_similarity
from utils.errors import UserError

DUAL_SOFTMAX, QB_NORM = "dual_softmax", "qb_norm"
POSTPROCESSES = (DUAL_SOFTMAX, QB_NORM)
TEMPERATURE = 0.05  # that of NormSoftmaxLoss
MIN_TEMPERATURE = 0.003  # below, weights of cosines underflow and scores tie
DUAL_NOTE = "uses all test queries at once, so it is no result for a single query"
BANK_NOTE = "uses the similarities of a bank of other queries to the test videos; t2v only"


@dataclass(frozen=True)
class PostprocessedScores:
    """The scores of a changed matrix.

    Attributes:
        name: of the change.
        scores: metric -> of its own matrix.
        parameters: what the change depends on.
        note: what has to be known about the numbers.
    """

    name: str
    scores: list[Scores]
    parameters: dict[str, Any] = field(default_factory=dict)
    note: str = ""


def add_postprocess_arguments(
    parser: ArgumentParser, choices: Sequence[str] = (DUAL_SOFTMAX,)
) -> None:
    """Add ``--postprocess`` and ``--temperature`` to a command; without a bank no QB-Norm."""
    text = "also score the matrix after this change, under its own name; repeatable"
    parser.add_argument("--postprocess", choices=choices, action="append", default=[], help=text)
    text = "temperature of --postprocess (default: %(default)s)"
    parser.add_argument("--temperature", type=_temperature, default=TEMPERATURE, help=text)


def _temperature(text: str) -> float:
    """Read an option's temperature."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not MIN_TEMPERATURE <= value < math.inf:
        raise ArgumentTypeError(f"expected a number of at least {MIN_TEMPERATURE}, got {text}")
    return value


def dual_softmax(similarity: NDArray, direction: str, temperature: float = TEMPERATURE) -> NDArray:
    """Weigh each score by how much the other side prefers it (CAMoE, arXiv 2109.04290, eq. 8–10).

    S'[q, v] = S[q, v] · P[q, v], and to find videos (t2v) P is the softmax of S / T over all
    queries q of a video v; to find queries (v2t) it is that over all videos of a query.

    Args:
        similarity: (Q, V).
        direction: ``t2v_metrics`` or ``v2t_metrics``: what the result is for.
        temperature: T; the smaller, the harder.

    Returns:
        (Q, V) float64.
    """
    axis = {T2V: 0, V2T: 1}[direction]
    weight = np.asarray(similarity, dtype=np.float64) / temperature
    weight -= weight.max(axis=axis, keepdims=True)
    np.exp(weight, out=weight)
    weight /= weight.sum(axis=axis, keepdims=True)
    weight *= similarity
    return weight


def qb_norm(similarity: NDArray, bank: NDArray, temperature: float = TEMPERATURE) -> NDArray:
    """Lower the videos that many queries find: QB-Norm's dynamic inverted softmax.

    arXiv 2112.12777, section 3.3. A query whose first video is also first for a query of the bank
    gets exp(S / T) / Σ_n exp(bank[n] / T), here as its logarithm, which ranks the same; every other
    query keeps its row. Rows are not comparable with each other: only videos can be ranked.

    Args:
        similarity: (Q, V).
        bank: (N, V) similarities of other queries, such as the training captions.
        temperature: T, the inverse of the paper's beta.

    Returns:
        (Q, V) float64.
    """
    result = np.array(similarity, dtype=np.float64)
    scaled = np.asarray(bank, dtype=np.float64) / temperature
    most = scaled.max(axis=0)
    hubness = most + np.log(np.exp(scaled - most).sum(axis=0))  # (V,)
    hubs = np.unique(scaled.argmax(axis=1))
    changed = np.isin(result.argmax(axis=1), hubs)
    result[changed] = result[changed] / temperature - hubness
    return result


def score_postprocessed(
    name: str,
    similarity: NDArray,
    queries: GroundTruth,
    temperature: float = TEMPERATURE,
    bank: NDArray | None = None,
) -> PostprocessedScores:
    """Score a matrix after a change.

    Raises:
        UserError: QB-Norm has no bank, or one of other videos.
    """
    if name == DUAL_SOFTMAX:
        scores = [
            score_similarity(dual_softmax(similarity, direction, temperature), queries, [direction])
            for direction in (T2V, V2T)
        ]
        return PostprocessedScores(name, scores, {"temperature": temperature}, DUAL_NOTE)
    if bank is None:
        raise UserError(
            "qb_norm needs a bank of other queries, never the test queries themselves: give a "
            "matrix of the training captions' similarities to these videos with --query_bank"
        )
    if bank.ndim != 2 or bank.shape[1] != similarity.shape[1] or not len(bank):
        raise UserError(
            f"the query bank has the shape {bank.shape}: it must have a row for each of its "
            f"queries and the {similarity.shape[1]} columns of the matrix"
        )
    scores = [score_similarity(qb_norm(similarity, bank, temperature), queries, [T2V])]
    parameters = {"temperature": temperature, "bank_queries": len(bank)}
    return PostprocessedScores(name, scores, parameters, BANK_NOTE)
