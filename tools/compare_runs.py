"""Runs side by side: what differs in their configurations, and the metrics of each.

    python -m tools.compare_runs work_dirs/A/TIME work_dirs/B/TIME
    python -m tools.compare_runs work_dirs/sweep/* --csv table.csv
    python -m tools.compare_runs RUN_A RUN_B --paired

A RUN is a folder with config.json, as train.py leaves it, and metrics.json, as test.py writes it
there with --sim_path RUN/sim_matrix.npy (--metrics names another file, such as m.metrics.json of
tools.score_matrix). A folder with metrics alone counts, too. Runs that differ in seed, name and
trainer.save_dir only are one line: mean ± standard deviation (of the sample, n - 1). The best R@1
of finding videos comes first.

--paired compares each run with the first one, query by query, from the ranks.csv beside the
metrics: differences with 95 % bootstrap intervals, p-values of a permutation test, and McNemar's
exact test of R@1. The p-values are those of single comparisons; who makes many has to expect
some small ones by chance.
"""

import argparse
import csv
import io
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from evaluation.paired_comparison import (
    RESAMPLES,
    PairedComparison,
    check_same_queries,
    compare_ranks,
    format_comparison,
)
from evaluation.ranks_file import (
    DIRECTIONS,
    EQUAL_CAPTIONS,
    METRICS_NAME,
    PUBLISHED,
    name_ranks_file,
    read_ranks,
)
from evaluation.scores import T2V, V2T
from utils.cli import positive_int, run_cli
from utils.errors import UserError
from utils.files import write_json, write_text
from utils.run_dir import CONFIG_NAME

SEED = "seed"
UNLIKE = (SEED, "name", "trainer.save_dir")  # what runs of one experiment may differ in
TESTED = ("annotation_file", "num_captions", "num_videos")  # of metrics.json
SHOWN = {T2V: ("R1", "R5", "R10", "MedR", "MeanR"), V2T: ("R1", "R5", "R10", "MedR")}
NOT_KNOWN, NONE = "?", "-"
MAX_VALUE = 28  # characters of a configuration's value in the table


@dataclass(frozen=True)
class Run:
    """A run's folder.

    Attributes:
        folder: as it was given.
        settings: ``key.key`` of config.json -> JSON value; None: there is no such file.
        metrics: ``metric.key`` -> value; empty: the run was not tested.
        tested_on: annotation file and its size; None: not tested.
        note: why the metrics mean nothing, or "".
    """

    folder: Path
    settings: Mapping[str, Any] | None
    metrics: Mapping[str, float]
    tested_on: str | None
    note: str = ""


@dataclass
class Experiment:
    """Runs that differ in ``UNLIKE`` at most, tested on the same file.

    Attributes:
        runs: in the order in which they were given.
        differing: key -> value, of those keys in which the experiments differ.
    """

    runs: list[Run]
    differing: dict[str, Any] = field(default_factory=dict)

    @property
    def seeds(self) -> list[Any]:
        """The seeds, as far as they are known."""
        known = [run.settings for run in self.runs if run.settings is not None]
        return [settings[SEED] for settings in known if SEED in settings]

    def summarize(self, metric: str) -> tuple[float, float | None, int] | None:
        """Return mean, standard deviation (None: of one run) and n of a metric; None: no run."""
        values = [run.metrics[metric] for run in self.runs if metric in run.metrics]
        if not values:
            return None
        spread = statistics.stdev(values) if len(values) > 1 else None
        return statistics.fmean(values), spread, len(values)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.compare_runs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    text = "file of metrics in each folder (default: %(default)s)"
    parser.add_argument("--metrics", default=METRICS_NAME, metavar="NAME", help=text)
    parser.add_argument("--csv", type=Path, help="also write the table, with every metric")
    parser.add_argument("--json", type=Path, help="likewise, and the paired comparisons")
    parser.add_argument("--paired", action="store_true", help="compare query by query")
    text = "--paired: every video with an equal caption is right"
    parser.add_argument("--equal_captions", action="store_true", help=text)
    text = "--paired: draws of the bootstrap and of the permutations (default: %(default)s)"
    parser.add_argument("--resamples", type=positive_int, default=RESAMPLES, help=text)
    parsed = parser.parse_args(arguments)
    parsed.runs = list(dict.fromkeys(parsed.runs))
    if parsed.paired and len(parsed.runs) < 2:
        parser.error("--paired needs two runs or more")
    return parsed


def read_run(folder: Path, metrics_name: str = METRICS_NAME) -> Run:
    """Read a run's configuration and metrics.

    Raises:
        UserError: the folder is not there, is no run, or a file of it is damaged.
    """
    if not folder.is_dir():
        what = "is a file; name the folder of a run" if folder.exists() else "no such folder"
        raise UserError(f"{folder}: {what}")
    config = _read_object(folder / CONFIG_NAME)
    found = _read_object(folder / metrics_name)
    if config is None and found is None:
        raise UserError(f"{folder}: is no run, it has neither {CONFIG_NAME} nor {metrics_name}")
    settings = None if config is None else flatten_settings(config)
    if found is None:
        return Run(folder, settings, {}, None)
    own = (config or {}).get("metrics")
    names = dict.fromkeys((T2V, V2T, *(own if isinstance(own, list) else ())))
    metrics = {
        f"{name}.{key}": float(value)
        for name in names
        if isinstance(found.get(name), dict)
        for key, value in found[name].items()
        if isinstance(value, int | float)
    }
    if not metrics:
        raise UserError(f"{folder / metrics_name}: holds no metrics as test.py writes them")
    file, captions, videos = (found.get(key) for key in TESTED)
    tested_on = f"{Path(str(file)).name}, {captions} captions, {videos} videos"
    return Run(folder, settings, metrics, tested_on, str(found.get("note", "")))


def _read_object(file: Path) -> dict[str, Any] | None:
    """Return a file's JSON object; None: there is no such file."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: is no JSON ({' '.join(str(error).split())[:80]})") from error
    if not isinstance(value, dict):
        raise UserError(f"{file}: holds no JSON object")
    return value


def flatten_settings(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return ``key.key`` -> value; items of lists of objects are numbered, other lists stay."""
    if isinstance(config, list) and config and all(isinstance(item, dict) for item in config):
        config = {str(number): item for number, item in enumerate(config)}
    if not isinstance(config, dict) or not config:
        return {prefix: config}
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= flatten_settings(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def group_runs(runs: Sequence[Run]) -> list[Experiment]:
    """Put runs of one experiment together; the best R@1 first, those without metrics last."""
    groups: dict[str, Experiment] = {}
    for run in runs:
        if run.settings is None:
            key = str(run.folder)  # nothing is known of it, so it stands alone
        else:
            kept = {name: value for name, value in run.settings.items() if name not in UNLIKE}
            key = json.dumps(kept, sort_keys=True)
        groups.setdefault(key, Experiment([])).runs.append(run)
    experiments = [part for group in groups.values() for part in _split_by_test(group)]
    for key in find_differing_keys(experiments):
        for experiment in experiments:
            settings = experiment.runs[0].settings
            experiment.differing[key] = (
                NOT_KNOWN if settings is None else settings.get(key, NONE)
            )  # fmt: skip

    def place(experiment: Experiment) -> float:
        found = experiment.summarize(f"{T2V}.R1")
        return math.inf if found is None else -found[0]

    return sorted(experiments, key=place)


def _split_by_test(experiment: Experiment) -> list[Experiment]:
    """Numbers of several test sets have no mean; runs that were not tested join the first."""
    parts: dict[str | None, list[Run]] = {}
    for run in experiment.runs:
        parts.setdefault(run.tested_on, []).append(run)
    untested = parts.pop(None, [])
    if not parts:
        return [Experiment(untested)]
    first, *others = parts.values()
    return [Experiment(first + untested), *map(Experiment, others)]


def find_differing_keys(experiments: Sequence[Experiment]) -> list[str]:
    """Return the keys that some experiments give other values than others, in the files' order."""
    known = [e.runs[0].settings for e in experiments if e.runs[0].settings is not None]
    keys = dict.fromkeys(key for settings in known for key in settings if key != SEED)
    # A name may differ within an experiment, too, and then says nothing of it.
    keys = [key for key in keys if key not in UNLIKE] if len(known) > 1 else []
    return [key for key in keys if any(s.get(key, NONE) != known[0].get(key, NONE) for s in known)]


def format_experiments(experiments: Sequence[Experiment]) -> str:
    """Return the table, the keys that its short names stand for, and the folders."""
    names = shorten_keys(list(experiments[0].differing))
    metrics = _list_metrics(experiments, shown_only=True)
    tests = {run.tested_on for e in experiments for run in e.runs} - {None}
    head = ["", *names.values(), "n", "seeds"]
    head += [_shorten_metric(name) for name in metrics]
    rows = []
    for number, experiment in enumerate(experiments, start=1):
        values = [_show_value(experiment.differing[key]) for key in names]
        counts = {found[2] for name in metrics if (found := experiment.summarize(name))}
        row = [str(number), *values, str(max(counts, default=0)), _show_seeds(experiment.seeds)]
        rows.append(row + [_show_metric(experiment.summarize(name)) for name in metrics])
    parts = [_format_table([head, *rows], left=1 + len(names))]
    long = [f"  {short}: {key}" for key, short in names.items() if key != short]
    parts += ["", *long] if long else []
    parts.append("")
    for number, experiment in enumerate(experiments, start=1):
        for run in experiment.runs:
            parts.append(f"  {number}  {_describe_run(run, several_tests=len(tests) > 1)}")
    if len(tests) == 1:
        parts += ["", f"tested on {tests.pop()}"]
    return "\n".join(parts)


def _describe_run(run: Run, several_tests: bool) -> str:
    settings = run.settings or {}
    facts = [f"{key} {settings[key]}" for key in ("name", SEED) if key in settings]
    facts += [] if run.settings is not None else [f"no {CONFIG_NAME}"]
    if run.tested_on is None:
        facts.append("NOT TESTED: no metrics.json; run test.py -r with --sim_path in this folder")
    elif several_tests:
        facts.append(f"tested on {run.tested_on}")
    facts += [run.note] if run.note else []
    return f"{run.folder}  ({'; '.join(facts)})"


def _list_metrics(experiments: Sequence[Experiment], shown_only: bool = False) -> list[str]:
    names = dict.fromkeys(name for e in experiments for run in e.runs for name in run.metrics)
    if not shown_only:
        return list(names)
    parts = ((name, *name.split(".", 1)) for name in names)
    return [name for name, metric, key in parts if metric not in SHOWN or key in SHOWN[metric]]


def _shorten_metric(name: str) -> str:
    metric, key = name.split(".", 1)
    return f"{metric.removesuffix('_metrics')} {key}"


def shorten_keys(keys: Sequence[str]) -> dict[str, str]:
    """Return the shortest end of each dotted key that no other key has."""
    short = {}
    for key in keys:
        parts = key.split(".")
        ends = (".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1))
        others = [other for other in keys if other != key]
        short[key] = next(
            end for end in ends if end == key or not any(o.endswith(f".{end}") for o in others)
        )
    return short


def _show_value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_VALUE else f"…{text[1 - MAX_VALUE :]}"


def _show_seeds(seeds: Sequence[Any]) -> str:
    return " ".join(map(str, seeds)) or NOT_KNOWN


def _show_metric(found: tuple[float, float | None, int] | None) -> str:
    if found is None:
        return NONE
    mean, spread, _ = found
    return f"{mean:.2f}" if spread is None else f"{mean:.2f} ± {spread:.2f}"


def _format_table(rows: Sequence[Sequence[str]], left: int) -> str:
    """Return columns of one width; the first ``left`` of them begin at the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if number < left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def experiments_to_json(experiments: Sequence[Experiment]) -> list[dict[str, Any]]:
    """Return the table with every metric as JSON values."""
    metrics = _list_metrics(experiments)
    table = []
    for experiment in experiments:
        found = {name: value for name in metrics if (value := experiment.summarize(name))}
        runs = [
            {
                "folder": str(run.folder),
                "name": (run.settings or {}).get("name"),
                "seed": (run.settings or {}).get(SEED),
                "tested_on": run.tested_on,
                "note": run.note,
                "metrics": dict(run.metrics),
            }
            for run in experiment.runs
        ]
        table.append(
            {
                "differing": experiment.differing,
                "seeds": experiment.seeds,
                "metrics": {
                    name: {"mean": mean, "std": spread, "n": count}
                    for name, (mean, spread, count) in found.items()
                },
                "runs": runs,
            }
        )
    return table


def experiments_to_csv(experiments: Sequence[Experiment]) -> str:
    """Return a line an experiment: differing keys, n, seeds, and mean and std of every metric."""
    text, metrics = io.StringIO(newline=""), _list_metrics(experiments)
    rows, keys = csv.writer(text), list(experiments[0].differing)
    pairs = [part for name in metrics for part in (name, f"{name} std")]
    rows.writerow([*keys, "n", "seeds", *pairs, "folders"])
    for experiment in experiments:
        values = [experiment.differing[key] for key in keys]
        cells = [v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values]
        found = [experiment.summarize(name) for name in metrics]
        numbers = [part for value in found for part in (value[:2] if value else ("", ""))]
        count = max((value[2] for value in found if value), default=0)
        folders = " ".join(str(run.folder) for run in experiment.runs)
        rows.writerow([*cells, count, _show_seeds(experiment.seeds), *numbers, folders])
    return text.getvalue()


def compare_paired(
    runs: Sequence[Run], metrics_name: str, truth: str, resamples: int
) -> list[tuple[Run, dict[str, PairedComparison]]]:
    """Compare each run with the first, query by query; direction -> comparison.

    Raises:
        UserError: a file of ranks is missing or damaged, or the queries are not the same.
    """
    files = [name_ranks_file(run.folder / metrics_name) for run in runs]
    first, *others = [read_ranks(file) for file in files]
    for file, ranks in zip(files[1:], others, strict=True):
        names = str(files[0]), str(file)
        if first.keys() != ranks.keys():
            found = " and ".join(" and ".join(part) for part in (first, ranks))
            raise UserError(f"{names[0]} and {names[1]}: hold other directions ({found})")
        for direction in first:
            check_same_queries(first[direction], ranks[direction], names, direction)
    return [
        (run, {d: compare_ranks(first[d], ranks[d], truth, resamples) for d in DIRECTIONS
               if d in first})
        for run, ranks in zip(runs[1:], others, strict=True)
    ]  # fmt: skip


def format_paired(
    first: Run, compared: Sequence[tuple[Run, dict[str, PairedComparison]]], truth: str
) -> str:
    """Return the comparisons as tables."""
    lines: list[str] = []
    for run, directions in compared:
        for direction, comparison in directions.items():
            lines += ["", f"first: {first.folder}", f"second: {run.folder}"]
            lines += format_comparison(comparison, direction)
    _, comparison = next(iter(compared[0][1].items()))
    right = "equal captions count" if truth == EQUAL_CAPTIONS else "one right video"
    lines += ["", f"{right}; {comparison.resamples} resamples; p: paired permutation test"]
    return "\n".join(lines)


def main() -> None:
    """Run the command; what is wrong with a folder is said after the table of the others.

    Raises:
        UserError: some folders can't be read, or runs can't be compared query by query.
    """
    arguments = parse_arguments()
    runs: list[Run] = []
    problems: list[str] = []
    for folder in arguments.runs:
        try:
            runs.append(read_run(folder, arguments.metrics))
        except UserError as error:
            problems.append(str(error))
    kept: dict[str, Any] = {}
    if runs:
        experiments = group_runs(runs)
        sys.stdout.write(format_experiments(experiments) + "\n")
        kept["experiments"] = experiments_to_json(experiments)
        if arguments.csv is not None:
            write_text(arguments.csv, experiments_to_csv(experiments))
    if arguments.paired and len(runs) > 1 and runs[0].folder == arguments.runs[0]:
        truth = EQUAL_CAPTIONS if arguments.equal_captions else PUBLISHED
        try:
            compared = compare_paired(runs, arguments.metrics, truth, arguments.resamples)
        except UserError as error:
            problems.append(str(error))
        else:
            sys.stdout.write(format_paired(runs[0], compared, truth) + "\n")
            kept["paired"] = [
                {"first": str(runs[0].folder), "second": str(run.folder), "truth": truth}
                | {direction: asdict(found) for direction, found in directions.items()}
                for run, directions in compared
            ]
    if arguments.json is not None and runs:
        write_json(arguments.json, kept)
    if problems:
        raise UserError("\n".join(problems))


if __name__ == "__main__":
    run_cli(main)
