"""Job 1 of ``data_loader.synthetic``: a made-up TextVR in which two things can be learned.

A clip is a *look* (what is seen) with a *word* (what is read). The grid of looks and words is
split in halves so that every look and every word is seen in training, no test pair is, and
several test videos share each look and each word: a model that uses one modality only can't tell
those apart.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_loader.synthetic.clip import SPLITS, Clip, DemoOptions, write_clip
from data_loader.synthetic.files import (
    OCR_FOLDER,
    TEXT_MODEL_FOLDER,
    VIDEO_FOLDER,
    check_workers,
    is_inside,
    run_tasks,
    write_json,
)
from data_loader.synthetic.scene import all_looks
from data_loader.synthetic.text_model import TEXT_MODEL_FILES, write_text_model
from data_loader.synthetic.words import SIGN_WORDS, vocabulary_texts
from utils.errors import UserError

SUMMARY_FILE = "synthetic.json"  # written last: a folder that has it is finished
UNFINISHED_FILE = "synthetic.unfinished.json"  # the same, of a run that isn't finished


@dataclass(frozen=True)
class DemoResult:
    """What `make_demo` did: `already_there` if it had nothing to do."""

    already_there: bool
    num_videos: dict[str, int]
    ceiling_r1: dict[str, float]


def make_demo(
    out: Path,
    options: DemoOptions,
    workers: int = 1,
    overwrite: bool = False,
    progress: bool = False,
) -> DemoResult:
    """Makes a whole data set in the layout of TextVR, its `text_model` and synthetic.json.

    The same options make the same bytes, whatever the number of workers. A finished set of the
    same options is left alone, an unfinished one completed.

    Args:
        out: the folder.
        options: see `DemoOptions`.
        workers: number of processes.
        overwrite: make everything anew where `out` holds something else; what an earlier run
            made is removed, other files stay unless they bear a name of the data set.
        progress: whether a bar is shown on standard error.

    Raises:
        UserError: if `out` holds something else and `overwrite` is not set, or `workers` is
            not positive. Nothing is written.
    """
    check_workers(workers)
    clips = _all_clips(options)
    summary = _summary(options, clips)
    state = _state(out, options)
    if state == "other" and not overwrite:
        raise UserError(
            f"{out} holds something else than a data set made with these options: "
            "give another --out, or --overwrite"
        )
    result = DemoResult(
        already_there=not overwrite and state == "finished" and _is_complete(out, clips),
        num_videos={split: len(summary[split]) for split in SPLITS},
        ceiling_r1=summary["ceiling_R1"],
    )
    if result.already_there:
        return result
    if overwrite:
        _remove_earlier(out)

    write_json(out / UNFINISHED_FILE, summary, indent=1)
    write = partial(write_clip, out, options, overwrite)
    entries = run_tasks(write, clips, workers, progress, "videos")
    for split in SPLITS:
        chosen = [entry for entry in entries if entry["videos_info"]["split"] == split]
        _number_captions(chosen)
        write_json(out / f"TextVR_{split}.json", chosen)
    looks, words = all_looks()[: options.looks], SIGN_WORDS[: options.words]
    write_text_model(out / TEXT_MODEL_FOLDER, vocabulary_texts(looks, words))
    (out / UNFINISHED_FILE).replace(out / SUMMARY_FILE)
    return result


def best_r1(labels: list[int]) -> float:
    """The best possible R@1, in per cent, of a modality that sees nothing but these labels.

    All videos of one label look the same to it and all captions of the label find the same one
    first, which is right for one of them.
    """
    return 100.0 * len(set(labels)) / len(labels)


def _all_clips(options: DemoOptions) -> list[Clip]:
    """Every clip, in an order drawn by the seed."""
    clips = []
    period, tested = _split_rule(options)
    for look in range(options.looks):
        for word in range(options.words):
            if (look + word) % period in tested:
                clips.append(Clip("test", look, word, 0))
            else:
                variants = range(options.clips_per_pair)
                clips += [Clip("train", look, word, variant) for variant in variants]
    order = np.random.default_rng(options.seed).permutation(len(clips))
    return [clips[index] for index in order]


def _split_rule(options: DemoOptions) -> tuple[int, set[int]]:
    """The test pairs (i, j): those whose (i + j) mod ``period`` is in a set of half its residues.

    So each look meets half of the words, and each word half of the looks. The residues are drawn:
    a regular pattern such as a chessboard would make the look foretell the word in training.
    """
    period = min(options.looks, options.words)
    drawn = np.random.default_rng(period).permutation(period)[: period // 2]
    return period, set(drawn.tolist())


def _number_captions(entries: list[dict[str, Any]]) -> None:
    """Gives the captions of a split their numbers."""
    captions = [caption for entry in entries for caption in entry["captions_info"]]
    for number, caption in enumerate(captions):
        caption["caption_info"]["desc_id"] = number


def _summary(options: DemoOptions, clips: list[Clip]) -> dict[str, Any]:
    """The contents of synthetic.json."""
    test = [clip for clip in clips if clip.split == "test"]
    return {
        **options.described(),
        "ceiling_R1": {
            "vision": best_r1([clip.look for clip in test]),
            "ocr": best_r1([clip.word for clip in test]),
        },
        **{
            split: {c.path: {"look": c.look, "word": c.word} for c in clips if c.split == split}
            for split in SPLITS
        },
    }


def _state(out: Path, options: DemoOptions) -> str:
    """What `out` holds: "nothing", a "finished" or "unfinished" set of the options, or "other"."""
    if not out.exists():
        return "nothing"
    if not out.is_dir():
        raise UserError(f"{out} is not a folder: give another --out")
    for name, state in ((UNFINISHED_FILE, "unfinished"), (SUMMARY_FILE, "finished")):
        held = _read_summary(out / name)
        if held and all(held.get(key) == value for key, value in options.described().items()):
            return state
    return "other" if any(out.iterdir()) else "nothing"


def _is_complete(out: Path, clips: list[Clip]) -> bool:
    """Whether all files of the set exist; each is whole if it does."""
    files = [out / f"TextVR_{split}.json" for split in SPLITS]
    files += [out / TEXT_MODEL_FOLDER / name for name in TEXT_MODEL_FILES]
    files += [out / VIDEO_FOLDER / clip.path for clip in clips]
    files += [out / OCR_FOLDER / f"{clip.stem}.json" for clip in clips]
    return all(file.exists() for file in files)


def _remove_earlier(out: Path) -> None:
    """Removes the clips that the earlier run in this folder lists, and its lists."""
    for name in (SUMMARY_FILE, UNFINISHED_FILE):
        summary = _read_summary(out / name)
        listed = [summary[split] for split in SPLITS if isinstance(summary.get(split), dict)]
        for path in [path for videos in listed for path in videos]:
            if is_inside(path):
                (out / VIDEO_FOLDER / path).unlink(missing_ok=True)
                (out / OCR_FOLDER / path).with_suffix(".json").unlink(missing_ok=True)
        (out / name).unlink(missing_ok=True)


def _read_summary(path: Path) -> dict[str, Any]:
    """An earlier run's synthetic.json; empty if there is none or it is no such file."""
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return summary if isinstance(summary, dict) else {}
