"""Small folders in the layouts of Frozen in Time's data sets, with real videos and images."""

import json
import pickle
from pathlib import Path
from zlib import crc32

import numpy as np

import data_loader.registrations  # noqa: F401
from base.base_model import ModelInput
from base.batch import SampleKey
from data_loader.datasets.text_video_dataset import LoaderVideoParams
from data_loader.loader import TextVideoDataLoader
from tests.data_loader.textvr_folder import BOX, write_json
from tests.videos import make_frames, write_video

TEXT_MODEL = "tests/reference/text_model"
RES, FRAMES = 32, 4


def video(path: Path, num_frames: int = 6) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = "mpeg4" if path.suffix == ".avi" else "libx264"
    return write_video(path, num_frames, codec=codec)


def image(path: Path, seed: int = 0, kind: str = "JPEG", **options) -> Path:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(make_frames(1, 64, 48, seed)[0]).save(path, kind, **options)
    return path


def text(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


def pickled(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value))
    return path


def document(path: Path, words: str) -> Path:
    return write_json(path, {"0": {"text": words, "score": 0.5, "tracks": {"0": BOX}}})


def loader(name: str, root: Path, split: str = "test", **changes) -> TextVideoDataLoader:
    """The registered loader of a folder; ``training`` reads it so."""
    params = {"input_res": RES, "num_frames": FRAMES}
    params |= {key: changes.pop(key) for key in ("num_frames", "loading") if key in changes}
    options = {
        "split": split,
        "video_params": LoaderVideoParams(**params),
        "batch_size": 2,
        "num_workers": 0,
        "model_input": ModelInput(changes.pop("modalities", ("vision", "ocr")), TEXT_MODEL),
        "seed": 0,
        "training": False,
    }
    return TextVideoDataLoader(name, str(root), **(options | changes))


def dataset(name: str, root: Path, split: str = "test", **changes):
    return loader(name, root, split, **({"only_dataset": True} | changes)).dataset


def samples(data) -> list:
    return [data[SampleKey(0, index)] for index in range(len(data))]


def write_msrvtt(root: Path) -> Path:
    """Videos 1, 7, 10 and 9 with captions a, b, c in an order of their own."""
    names = ["video7", "video10", "video1", "video9"]
    for name in names:
        video(root / "videos/all" / f"{name}.mp4")
    captions = [{"image_id": n, "caption": f"{c} of {n}", "id": 5} for c in "abc" for n in names]
    write_json(root / "annotation/MSR_VTT.json", {"annotations": captions, "images": []})
    lists = root / "high-quality/structured-symlinks"
    for name, ids in {
        "train_list_miech": "video9\nvideo1",
        "test_list_miech": "video7\nvideo10\n",
        "train_list_jsfusion": "video10\nvideo1",
        "val_list_jsfusion": "video9\nvideo7",
        "train_list_full": "video1\n",
        "val_list_full": "video9\n",
        "test_list_full": "video7\nvideo10",
        "train_list": "video7\nvideo1",
        "val_list": "video9",
        "public_server_val": "video9\nvideo10",
        "public_server_test": "video10",
    }.items():
        text(lists / f"{name}.txt", ids)
    pickled(lists / "jsfusion_val_caption_idx.pkl", {"video7": 2, "video9": np.int64(1)})
    return root


def write_webvid(root: Path, split: str = "val", rows: str = "") -> Path:
    """Two videos in two pages, in an order of their own; ``rows`` follow."""
    for name in ("000001_000050/1052", "000051_000100/7"):
        video(root / "videos" / f"{name}.mp4")
    head = "videoid,contentUrl,duration,page_dir,name\n"
    lines = 'x,u,PT1S,p,\n7,u,PT9S,000051_000100,"a dog, running"\n'
    text(
        root / f"metadata/results_2M_{split}.csv",
        head + lines + "1052,u,PT9S,000001_000050,A cat\n" + rows,
    )
    return root


def image_number(url: str) -> int:
    return crc32(url.encode()) & 0xFFFFFFFF


CC3M = {
    "train": ("training", "Train_GCC-training-success-020321-VALIDIMG.csv"),
    "val": ("validation", "Validation_GCC-1.1.0-Validation-success-020321-VALIDIMG.csv"),
}


def write_cc3m(root: Path, split: str = "val", rows: str = "") -> Path:
    """Two images without extension; ``rows`` follow."""
    folder, name = CC3M[split]
    for seed, url in enumerate(("http://b/é.jpg", "http://a")):
        image(root / folder / str(image_number(url)), seed)
    head = "caption,thumbnailUrl,size\na red car,http://b/é.jpg,9\na hat,http://a,9\n"
    text(root / name, head + rows)
    return root


def write_lsmdc(root: Path) -> Path:
    """Two clips of two films, listed against the alphabet."""
    for name in ("1001_Film/1001_Film_00.01", "0002_Other/0002_Other_00.07"):
        video(root / "videos" / f"{name}.avi")
    ids = ["1001_Film_00.01", "0002_Other_00.07"]
    for split in ("train", "val", "test"):
        text(root / f"structured-symlinks/{split}_list.txt", "\n".join(ids))
    captions = {ids[0]: [["SOMEONE", "smiles", "."], None], ids[1]: [["He", "runs"]], "more": []}
    pickled(root / "structured-symlinks/raw-captions.pkl", captions)
    tars = ["/x/frames/0002_Other/0002_Other_00.07.tar", "frames/1001_Film/1001_Film_00.01.tar"]
    text(root / "frame_tar_list.txt", "\n".join(tars))
    return root


def annotated(name: str, split: str | dict, captions: list[str] = ("x",), ocr: bool = True) -> dict:
    splits = {"split": split} if isinstance(split, str) else split
    infos = splits | ({"Kwai_OCR": name.replace(".mp4", ".json")} if ocr else {})
    return {
        "path": name,
        "captions_info": [{"caption": caption} for caption in captions],
        "videos_info": infos,
    }


def write_annotated(root: Path, file: str, entries: list[dict]) -> Path:
    for number, entry in enumerate(entries):
        path = root / "Videos" / entry["path"]
        if not path.exists():
            video(path)
        document(root / "Kwai_VideoOCR" / entry["path"].replace(".mp4", ".json"), f"word{number}")
    text(root / file, json.dumps(entries))
    return root
