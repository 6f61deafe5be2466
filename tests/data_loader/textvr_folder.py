"""A small folder in TextVR's layout for tests: real videos, OCR documents and annotations."""

import json
import logging
from pathlib import Path

from data_loader.datasets.text_video_dataset import (
    DatasetOptions,
    LoaderTextParams,
    LoaderVideoParams,
)
from data_loader.datasets.textvr import TextVR
from data_loader.ocr.ocr_words import OcrParams
from data_loader.transforms import ClipTransform, TransformParams
from tests.videos import write_video

logging.getLogger("libav").setLevel(logging.ERROR)

RES, FRAMES = 32, 4
BOX = [0, 0, 32, 0, 32, 24, 0, 24, 0, 0]
# name -> frames; 64 x 48 pixels.
VIDEOS = {"Sports/a.mp4": 30, "News_Movie/b.mp4": 3, "Cooking/c.mp4": 1, "Sports/d.mp4": 20}
# The OCR folder of News_Movie/b.mp4 is another than the video's, as in TextVR.
DOCUMENTS = {
    name: f"{name.removesuffix('.mp4')}.json".replace("News_Movie", "News") for name in VIDEOS
}
WORDS = {
    "Sports/a.mp4": "SALE now open",
    "News_Movie/b.mp4": "open breaking",
    "Cooking/c.mp4": "",
    "Sports/d.mp4": "goal",
}


def entry(name: str, captions: list[str], ocr: str | None = None) -> dict:
    infos = [{"caption": text, "caption_info": {}} for text in captions]
    return {"path": name, "captions_info": infos, "videos_info": {"Kwai_OCR": ocr}}


def write_textvr(root: Path, folder: str = "Videos") -> Path:
    """Four videos; training entries have three captions, test entries one."""
    for name, num_frames in VIDEOS.items():
        path = root / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, num_frames)
        document = {}
        for key, text in enumerate(filter(None, [WORDS[name]])):
            document[str(key)] = {"text": text, "score": "0.5", "tracks": {"0": BOX}}
        write_json(root / "Kwai_VideoOCR" / DOCUMENTS[name], document)
    for split, count in (("train", 3), ("test", 1)):
        entries = [
            entry(name, [f"{split} {number} of {name}" for number in range(count)], DOCUMENTS[name])
            for name in VIDEOS
        ]
        write_json(root / f"TextVR_{split}.json", entries)
    return root


def write_json(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def change_json(path: Path, change) -> None:
    """Rewrite a JSON file by what ``change`` does to its value in place."""
    value = json.loads(path.read_text())
    change(value)
    write_json(path, value)


def dataset(root: Path, training: bool = False, **changes) -> TextVR:
    """The data set of a folder; ``changes`` are of DatasetOptions, TextVR or the parameters."""
    video = {"input_res": RES, "num_frames": FRAMES, "loading": "strict"}
    video |= {key: changes.pop(key) for key in list(changes) if key in video}
    transform = changes.pop("transform_params", TransformParams())
    augment = changes.pop("augment", training)
    own = ("annotation_file", "subsample", "metadata_dir")
    arguments = {key: changes.pop(key) for key in list(changes) if key in own}
    options = {
        "split": "train" if training else "test",
        "training": training,
        "video": LoaderVideoParams(**video),
        "text": LoaderTextParams(),
        "ocr": OcrParams(),
        "reader": "decord",
        "uses_vision": True,
        "uses_ocr": True,
    }
    resolved = transform.resolve("textvr", RES)
    return TextVR(
        root,
        DatasetOptions(**(options | changes)),
        ClipTransform(resolved, train=augment),
        **arguments,
    )
