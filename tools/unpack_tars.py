"""Unpack webdataset tars of videos, as video2dataset writes them, into a folder in TextVR's form.

    python -m tools.unpack_tars 'shards/{00000..00012}.tar' --out data/web --split train

    a sample of a tar                    in the folder
    KEY.mp4 (or .webm .mkv .mov ...)     Videos/KEY.mp4
    KEY.txt, KEY.json                    its captions, in TextVR_train.json
    KEY.ocr.json                         Kwai_VideoOCR/KEY.mp4.json

Captions are those of "captions" or "caption" in KEY.json, else KEY.txt. The folder is read with
dataset_name TextVR; without captions, as VideoDirectory of Videos/. Tars are files or URLs
(https://, s3://), of any origin: nothing in them is executed, and no member leaves the folder. Give
all tars of a split at once; the command can be stopped at any moment and run again.

Exit code 0: all is well; 1: samples were left out, all of them listed; 2: nothing can be unpacked.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_loader.datasets.annotations import find_caption_problem
from data_loader.datasets.text_video_dataset import OCR_FOLDER
from data_loader.datasets.textvr import VIDEO_FOLDERS
from data_loader.ocr.paths import name_document
from data_loader.readers.container import VIDEO_EXTENSIONS
from data_loader.tar_samples import TarReadError, TarSample, expand_tars, read_tar_samples
from utils.cli import run_cli
from utils.distributed import show_progress
from utils.errors import UserError, escape_unprintable
from utils.files import write_bytes, write_json

# Wrong JSON and names, and a name that is both a file and a folder.
_LEFT_OUT = (ValueError, RecursionError, FileExistsError, NotADirectoryError, IsADirectoryError)


@dataclass
class Unpacked:
    """What was unpacked: entries of an annotation file by path, and a line for each error."""

    entries: dict[str, dict[str, Any] | None] = field(default_factory=dict)  # None: no caption
    errors: list[str] = field(default_factory=list)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.unpack_tars",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("tars", nargs="+", help="files or URLs; {000..012} counts")
    parser.add_argument("--out", type=Path, required=True, help="folder, made if need be")
    parser.add_argument("--split", choices=("train", "val", "test"), default="train")
    asked = parser.parse_args()
    found = unpack_tars(expand_tars(asked.tars), asked.out)
    entries = [entry for entry in found.entries.values() if entry is not None]
    if not found.entries:
        listed = "".join(f"\n  {error}" for error in found.errors[:10])
        raise UserError(f"{asked.tars[0]}: no sample of a video could be unpacked{listed}")
    if entries:
        write_json(asked.out / f"TextVR_{asked.split}.json", entries)
    sys.stdout.write(
        f"{asked.out}: {len(found.entries)} videos, {len(entries)} of them with captions\n"
    )
    for error in found.errors:
        sys.stdout.write(f"  left out: {escape_unprintable(error)}\n")
    return 1 if found.errors else 0


def unpack_tars(tars: Sequence[str], out: Path) -> Unpacked:
    """Write the videos and OCR documents of tars to a folder; one bad sample ends nothing."""
    found = Unpacked()
    for tar in show_progress(tars, "unpacking", " tars"):
        for sample in _read_until_damaged(tar, found.errors):
            try:
                path, entry = _unpack_sample(sample, out, found.entries)
                found.entries[path] = entry
            except _LEFT_OUT as error:
                found.errors.append(f"{tar}, {sample.key}: {error}")
    return found


def _read_until_damaged(tar: str, errors: list[str]) -> Iterator[TarSample]:
    try:
        yield from read_tar_samples(tar)
    except TarReadError as error:
        errors.append(str(error))


def _unpack_sample(
    sample: TarSample, out: Path, known: dict[str, Any]
) -> tuple[str, dict[str, Any] | None]:
    """Write a sample's files; returns the video's path and its entry; raises ``ValueError``."""
    kinds = [kind for kind in sample.fields if f".{kind}" in VIDEO_EXTENSIONS]
    if sample.problem is not None or len(kinds) != 1:
        raise ValueError(sample.problem or f"holds {len(kinds)} videos, not one")
    (kind,) = kinds
    path = f"{sample.key}.{kind}"
    if path in known:
        raise ValueError("another sample has the same name; its video is the one that was kept")
    captions = _list_captions(sample.fields)
    _write_once(out / VIDEO_FOLDERS[0] / path, sample.fields[kind])
    document = None
    if "ocr.json" in sample.fields:
        document = name_document(path)
        _write_once(out / OCR_FOLDER / document, sample.fields["ocr.json"])
    if not captions:
        return path, None
    infos = [{"caption": caption, "caption_info": {}} for caption in captions]
    return path, {
        "path": path,
        "captions_info": infos,
        "videos_info": {"Kwai_OCR": document},
    }


def _list_captions(fields: dict[str, bytes]) -> list[str]:
    """Return the captions of a sample; raises ``ValueError``."""
    facts = json.loads(fields.get("json", b"{}"))
    listed = facts.get("captions") or facts.get("caption") if isinstance(facts, dict) else None
    if not listed:
        listed = fields.get("txt", b"").decode("utf-8").strip()
    captions = listed if isinstance(listed, list) else [listed] if listed else []
    for caption in captions:
        problem = find_caption_problem(caption)
        if problem is not None:
            raise ValueError(f"its caption {problem}")
    return captions


def _write_once(path: Path, content: bytes) -> None:
    """Write a file, unless one of this size is there, from a run that was stopped."""
    if not path.is_file() or path.stat().st_size != len(content):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)


if __name__ == "__main__":
    run_cli(main)
