"""A made-up TextVR in which two things can be learned.

A clip is a *look* (what is seen) with a *word* (what is read). The grid of looks and words is
split in halves so that every look and every word is seen in training, no test pair is, and
several test videos share each look and each word: a model that uses one modality only can't tell
those apart.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_loader.datasets.annotations import find_name_problem
from data_loader.synthetic.layout import (
    OCR_FOLDER,
    TEXT_MODEL_FOLDER,
    TOWER_FOLDER,
    VIDEO_FOLDER,
    check_is_folder,
    write_json_line,
    write_video,
)
from data_loader.synthetic.scene import (
    Box,
    Scene,
    draw_frames,
    find_font_size,
    list_looks,
    plan_scene,
)
from data_loader.synthetic.text_model import TEXT_MODEL_FILES, write_text_model
from data_loader.synthetic.tower import TOWER_FILES, write_tower
from data_loader.synthetic.words import (
    SIGN_WORDS,
    change_case,
    draw_boxes,
    list_vocabulary,
    make_captions,
    make_document,
    make_noise,
    make_record,
    pick_distractor,
)
from utils.errors import UserError
from utils.processes import map_tasks

SPLITS = ("train", "test")
CATEGORIES = ("Activity", "Cooking", "Driving", "Games", "Sports", "Street_View_Outdoor")
VERSION = 1  # raise it when the same options make other files
SUMMARY_FILE = "synthetic.json"  # written last: a folder that has it is finished
UNFINISHED_FILE = "synthetic.unfinished.json"  # the same, of a run that isn't finished


@dataclass(frozen=True)
class DemoOptions:
    """What a made-up data set depends on; the ranges are those of ``__post_init__``."""

    looks: int = 32
    words: int = 32
    clips_per_pair: int = 2  # training videos of each training pair
    size: int = 96  # width and height of the videos, pixels, even
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("looks", 2, len(list_looks())),
            ("words", 2, len(SIGN_WORDS)),
            ("clips_per_pair", 1, 1000),
            ("size", 64, 512),
            ("seed", 0, 2**63 - 1),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                option = name.replace("_", "-")
                raise UserError(f"--{option} is {value}: it must lie between {low} and {high}")
        if self.size % 2:
            raise UserError(f"--size is {self.size}: H.264 needs an even number of pixels")

    def to_json(self) -> dict[str, Any]:
        """Return the options as they stand in synthetic.json; equal options make equal files."""
        return {
            "version": VERSION,
            "seed": self.seed,
            "size": self.size,
            "clips_per_pair": self.clips_per_pair,
            "looks": [look.name for look in list_looks()[: self.looks]],
            "words": list(SIGN_WORDS[: self.words]),
        }


@dataclass(frozen=True)
class DemoResult:
    """What ``make_demo`` did: ``already_there`` if it had nothing to do."""

    already_there: bool
    num_videos: dict[str, int]
    ceiling_r1: dict[str, float]


@dataclass(frozen=True)
class Clip:
    """One video: its place in the data set says everything about it, given the seed."""

    split: str
    look: int
    word: int
    variant: int

    @property
    def stem(self) -> str:
        """<category>/<name>, the path of the video and of its OCR document without ending."""
        category = CATEGORIES[(self.look + 5 * self.word) % len(CATEGORIES)]
        return f"{category}/{self.split}_{self.look:02d}_{self.word:02d}_{self.variant}"

    @property
    def path(self) -> str:
        """The video's path as the annotations give it."""
        return f"{self.stem}.mp4"


def make_demo(
    out: Path, options: DemoOptions, workers: int = 1, overwrite: bool = False
) -> DemoResult:
    """Make a whole data set in the layout of TextVR, its text models and synthetic.json.

    The same options make the same bytes, whatever the number of workers. A finished set of the
    same options is left alone, an unfinished one completed. With ``overwrite`` everything is made
    anew where ``out`` holds something else: what an earlier run made is removed, other files stay
    unless they bear a name of the data set.

    Raises:
        UserError: ``out`` holds something else and ``overwrite`` is not set; nothing is written.
    """
    clips = list_clips(options)
    summary = summarise_clips(options, clips)
    state = _find_state(out, options)
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

    write_json_line(out / UNFINISHED_FILE, summary, indent=1)
    write = partial(_write_clip, out, options, overwrite)
    entries = map_tasks(write, clips, workers, "videos", chunk=8, unit=" videos")
    for split in SPLITS:
        chosen = [entry for entry in entries if entry["videos_info"]["split"] == split]
        captions = [caption for entry in chosen for caption in entry["captions_info"]]
        for number, caption in enumerate(captions):
            caption["caption_info"]["desc_id"] = number
        write_json_line(out / f"TextVR_{split}.json", chosen)
    looks, words = list_looks()[: options.looks], SIGN_WORDS[: options.words]
    vocabulary = list_vocabulary(looks, words)
    write_text_model(out / TEXT_MODEL_FOLDER, vocabulary)
    write_tower(out / TOWER_FOLDER, vocabulary)
    (out / UNFINISHED_FILE).replace(out / SUMMARY_FILE)
    return result


def list_clips(options: DemoOptions) -> list[Clip]:
    """Return every clip, in an order drawn by the seed.

    The test pairs (look, word) are those whose (look + word) mod ``period`` is in a set of half its
    residues, so that each look meets half of the words, and each word half of the looks. The
    residues are drawn: a regular pattern such as a chessboard would make the look foretell the word
    in training.
    """
    period = min(options.looks, options.words)
    tested = np.random.default_rng(period).permutation(period)[: period // 2].tolist()
    clips = []
    for look in range(options.looks):
        for word in range(options.words):
            if (look + word) % period in tested:
                clips.append(Clip("test", look, word, 0))
            else:
                variants = range(options.clips_per_pair)
                clips += [Clip("train", look, word, variant) for variant in variants]
    order = np.random.default_rng(options.seed).permutation(len(clips))
    return [clips[index] for index in order]


def summarise_clips(options: DemoOptions, clips: list[Clip]) -> dict[str, Any]:
    """Return the contents of synthetic.json."""
    test = [clip for clip in clips if clip.split == "test"]
    ceiling = {
        "vision": compute_best_r1([clip.look for clip in test]),
        "ocr": compute_best_r1([clip.word for clip in test]),
    }
    pairs = {
        split: {c.path: {"look": c.look, "word": c.word} for c in clips if c.split == split}
        for split in SPLITS
    }
    return {**options.to_json(), "ceiling_R1": ceiling, **pairs}


def compute_best_r1(labels: list[int]) -> float:
    """Return the best possible R@1, in per cent, of a modality that tells only these labels apart.

    All videos of one label look the same to it and all captions of the label find the same one
    first, which is right for one of them.
    """
    return 100.0 * len(set(labels)) / len(labels)


def _write_clip(out: Path, options: DemoOptions, anew: bool, clip: Clip) -> dict[str, Any]:
    """Write a clip's video and OCR document (if missing, or ``anew``); returns its annotation."""
    numbers = [options.seed, SPLITS.index(clip.split), clip.look, clip.word, clip.variant]
    rng = np.random.default_rng(np.random.SeedSequence(numbers))
    look, word = list_looks()[clip.look], SIGN_WORDS[clip.word]
    captions = make_captions(rng, look, word, 2 if clip.split == "train" else 1)
    scene = plan_scene(rng, look, options.size, choose_sign_texts(rng, word, options.size))
    document = _make_ocr_document(rng, scene)

    video = out / VIDEO_FOLDER / clip.path
    if anew or not video.exists():
        write_video(video, draw_frames(scene), scene.fps)
    ocr_path = f"{clip.stem}.json"
    if anew or not (out / OCR_FOLDER / ocr_path).exists():
        write_json_line(out / OCR_FOLDER / ocr_path, document)
    duration = round(scene.num_frames / scene.fps, 3)
    return {
        "path": clip.path,
        "captions_info": [
            {"caption": caption, "caption_info": {"duration": duration, "desc_id": 0}}
            for caption in captions
        ],
        "videos_info": {"source": "synthetic", "split": clip.split, "Kwai_OCR": ocr_path},
    }


def choose_sign_texts(rng: np.random.Generator, word: str, size: int) -> list[str]:
    """Return the lines drawn in a clip: the word's, sometimes with a distractor, then others'."""
    line = word
    if rng.random() < 0.15:
        pair = [word, pick_distractor(rng)]
        longer = " ".join(pair if rng.random() < 0.5 else reversed(pair))
        if find_font_size(longer.upper(), size) is not None:
            line = longer
    others = [pick_distractor(rng) for _ in range(rng.integers(0, 2))]
    return [change_case(rng, text) for text in (line, *others)]


def _make_ocr_document(rng: np.random.Generator, scene: Scene) -> dict[str, dict[str, Any]]:
    """What text spotting gives for a clip: its signs, words that nobody sees, and noise.

    The tracker loses the word's sign a few times and takes it for another one when it comes back,
    so that it has several records, as signs of real videos have.
    """
    target, *drawn = scene.signs
    pieces = _cut_track(target.boxes, int(rng.integers(3, 5)))
    records = [make_record(rng, target.text, piece, lowest_score=0.6) for piece in pieces]
    records += [make_record(rng, sign.text, sign.boxes, lowest_score=0.3) for sign in drawn]
    num_unseen = rng.integers(0 if drawn else 1, 2)  # each document holds a distractor
    unseen = [change_case(rng, pick_distractor(rng)) for _ in range(num_unseen)]
    noise = [make_noise(rng) for _ in range(rng.integers(1, 3))]
    for text in (*unseen, *noise):
        boxes = draw_boxes(rng, scene.num_frames, scene.size, scene.size)
        records.append(make_record(rng, text, boxes, lowest_score=0.2))
    return make_document(rng, records)


def _cut_track(boxes: Mapping[int, Box], count: int) -> list[dict[int, Box]]:
    """A track cut into runs of frames: ``count`` of them, fewer where there are fewer frames."""
    runs = np.array_split(np.array(sorted(boxes)), min(count, len(boxes)))
    return [{int(frame): boxes[int(frame)] for frame in run} for run in runs]


def _find_state(out: Path, options: DemoOptions) -> str:
    """What ``out`` holds: nothing, a finished or unfinished set of the options, or other."""
    check_is_folder(out)
    for name, state in ((UNFINISHED_FILE, "unfinished"), (SUMMARY_FILE, "finished")):
        held = _read_summary(out / name)
        if held and all(held.get(key) == value for key, value in options.to_json().items()):
            return state
    return "other" if out.exists() and any(out.iterdir()) else "nothing"


def _is_complete(out: Path, clips: list[Clip]) -> bool:
    """Whether all files of the set exist; each is whole if it does."""
    files = [out / f"TextVR_{split}.json" for split in SPLITS]
    files += [out / TEXT_MODEL_FOLDER / name for name in TEXT_MODEL_FILES]
    files += [out / TOWER_FOLDER / name for name in TOWER_FILES]
    files += [out / VIDEO_FOLDER / clip.path for clip in clips]
    files += [out / OCR_FOLDER / f"{clip.stem}.json" for clip in clips]
    return all(file.exists() for file in files)


def _remove_earlier(out: Path) -> None:
    """Remove the clips that the earlier run in this folder lists, and its lists."""
    for name in (SUMMARY_FILE, UNFINISHED_FILE):
        summary = _read_summary(out / name)
        listed = [summary[split] for split in SPLITS if isinstance(summary.get(split), dict)]
        for path in [path for videos in listed for path in videos]:
            if find_name_problem(path) is None:
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
