"""Score a similarity matrix without a model.

    python -m tools.score_matrix sim_matrix.npy --annotations TextVR_test.json
    python -m tools.score_matrix sim_matrix.npy -c configs/TextVR_fusion.json --split test
    python -m tools.score_matrix sim_matrix.npy --annotations TextVR_test.json \\
        --columns TextVR_test_rand.json

Row x, column y of the matrix is the similarity of the x-th caption to the y-th video, in the
annotation file's order. Prints and writes what test.py does, to MATRIX.metrics.json beside the
matrix, and the rank of every query to MATRIX.ranks.csv. With --annotations a matrix of one row a
video is one of the videos' first captions. --columns names the file whose videos the columns
follow, where that is another one: rows of the shuffled test file are those of the right one, so its
matrix can be scored.
"""

import argparse
import sys
from pathlib import Path

from numpy.typing import NDArray

from data_loader.datasets.annotations import (
    describe_captions,
    explain_shuffled,
    find_shuffled_beside,
    find_unshuffled_beside,
    keep_first_captions,
    read_textvr_entries,
)
from data_loader.ocr.ocr_reader import flag_captions_that_need_reading
from evaluation.ground_truth import (
    GroundTruth,
    build_ground_truth,
    explain_missing_reading,
    make_ground_truth,
)
from evaluation.postprocess import POSTPROCESSES, add_postprocess_arguments, score_postprocessed
from evaluation.ranks_file import METRICS_NAME, name_ranks_file, write_ranks
from evaluation.results import format_scores, scores_to_json
from evaluation.scores import T2V, V2T, score_similarity
from evaluation.similarity_file import (
    check_finite,
    check_matrix,
    follows_other_columns,
    load_matrix,
)
from parse_config import add_config_arguments, load_config
from trainer.build import build_dataset
from utils.cli import run_cli
from utils.errors import UserError
from utils.files import write_json
from utils.run_dir import setup_logging

OCR_FOLDER = "Kwai_VideoOCR"  # beside the annotation file, as published


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.score_matrix",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("matrix", type=Path, help="the matrix, a .npy file")
    parser.add_argument("--annotations", type=Path, help="annotation file in the form of TextVR")
    parser.add_argument(
        "--ocr", type=Path, help=f"folder of its OCR documents (default: {OCR_FOLDER} beside it)"
    )
    add_config_arguments(parser, required=False)
    parser.add_argument("--split", choices=("train", "val", "test"), help="with -c (default: test)")
    parser.add_argument("--loader", type=int, help="with -c: which data loader of a list")
    parser.add_argument("--columns", type=Path, help="file whose videos the columns follow")
    add_postprocess_arguments(parser, POSTPROCESSES)
    parser.add_argument(
        "--query_bank",
        type=Path,
        help="for qb_norm: a .npy matrix of other queries (rows) and the same videos",
    )
    parser.add_argument(
        "--out", type=Path, help="file or folder (default: MATRIX.metrics.json beside the matrix)"
    )
    arguments = parser.parse_args()
    if (arguments.annotations is None) == (arguments.config is None):
        parser.error("give either --annotations FILE or -c CONFIG")
    unused = {
        "--annotations": ("ocr",) if arguments.annotations is None else (),
        "-c": ("split", "loader") if arguments.config is None else (),
    }
    for option, names in unused.items():
        for name in names:
            if getattr(arguments, name) is not None:
                parser.error(f"--{name} is for {option}")
    if arguments.overrides and arguments.config is None:
        parser.error("--set is for -c")
    if arguments.query_bank is not None and "qb_norm" not in arguments.postprocess:
        parser.error("--query_bank is for --postprocess qb_norm")
    return arguments


def annotated_queries(file: Path, ocr_dir: Path, shape: tuple[int, ...] = ()) -> GroundTruth:
    """Return the rows and columns of an annotation file; its videos need not be there.

    A matrix of this ``shape``, with a row and a column for each video, has their first captions.
    """
    entries = read_textvr_entries(file, file.parent, ocr_dir)
    first = "as many as the matrix has rows" if shape == (len(entries),) * 2 else ""
    protocol = describe_captions(entries, first)
    entries = keep_first_captions(entries) if first else entries
    shuffled = explain_shuffled(file) is not None
    reason = explain_missing_reading(entries)
    if reason is not None:
        return make_ground_truth(entries, file, shuffled, None, reason, protocol)
    reading = flag_captions_that_need_reading(entries)
    return make_ground_truth(entries, file, shuffled, reading, protocol=protocol)


def read_queries(
    arguments: argparse.Namespace, shape: tuple[int, ...]
) -> tuple[GroundTruth, tuple[str, ...]]:
    """Return rows and columns of a matrix of this shape, and the names of the metrics."""
    if arguments.annotations is not None:
        file = arguments.annotations
        ocr_dir = arguments.ocr or file.parent / OCR_FOLDER
        return annotated_queries(file, ocr_dir, shape), (T2V, V2T)
    config = load_config(arguments.config, arguments.overrides)
    split = arguments.split or "test"
    dataset = build_dataset(config, arguments.loader or 0, training=False, split=split)
    if not any(entry.captions for entry in dataset.entries):
        raise UserError(f"{dataset.annotation_file}: its videos have no captions to score")
    return build_ground_truth(dataset), config.metrics


def ids_of(file: Path) -> list[str]:
    """Return the videos of an annotation file, in its order."""
    return [entry.id for entry in read_textvr_entries(file, file.parent, file.parent)]


def column_note(matrix: NDArray, queries: GroundTruth, columns: Path | None) -> tuple[str, str]:
    """Say why the metrics mean nothing and the remedy, where the columns have another order.

    Args:
        matrix: (Q, V).
        queries: rows and columns in the annotation file's order.
        columns: the file whose order the columns are said to follow, or None.

    Returns:
        Note and remedy, "" where there is nothing to say.
    """
    file = queries.annotation_file
    text = "not meaningful (columns in the order of {})"
    if columns is not None:
        order = ids_of(columns)
        if follows_other_columns(matrix, queries.reorder_columns(order, str(columns)), queries.ids):
            return text.format(file.name), "to score this matrix, leave out --columns"
        return "", ""
    if queries.shuffled:
        right = find_unshuffled_beside(file) or "THE_UNSHUFFLED_FILE"
        return "", f"to score this matrix, give --annotations {right} --columns {file}"
    other = find_shuffled_beside(file)
    if other is not None and follows_other_columns(matrix, queries, ids_of(other)):
        return text.format(other.name), f"to score this matrix, add --columns {other}"
    return "", ""


def main() -> None:
    """Run the command."""
    arguments = parse_arguments()
    setup_logging(verbosity=0)
    matrix = load_matrix(arguments.matrix)
    queries, names = read_queries(arguments, matrix.shape)
    check_matrix(matrix, arguments.matrix, queries)
    bank = load_matrix(arguments.query_bank) if arguments.query_bank is not None else None
    if bank is not None:
        check_finite(bank, arguments.query_bank)
    note, remedy = column_note(matrix, queries, arguments.columns)
    if arguments.columns is not None:
        queries = queries.reorder_columns(ids_of(arguments.columns), str(arguments.columns))
    after = [
        score_postprocessed(name, matrix, queries, arguments.temperature, bank)
        for name in dict.fromkeys(arguments.postprocess)
    ]
    scores = score_similarity(matrix, queries, names)
    out = output_file(arguments.out, arguments.matrix)
    write_json(out, scores_to_json(scores, after, note))
    write_ranks(name_ranks_file(out), scores)
    sys.stdout.write(format_scores(scores, after, note=note) + "\n")
    if remedy:
        sys.stdout.write(remedy + "\n")
    sys.stdout.write(f"{out}\n")


def output_file(out: Path | None, matrix: Path) -> Path:
    """Return where the metrics go; the folder is made."""
    own_name = f"{matrix.stem}.{METRICS_NAME}"
    file = matrix.with_name(own_name) if out is None else out
    file = file / own_name if file.is_dir() or not file.suffix else file
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


if __name__ == "__main__":
    run_cli(main)
