"""Make a folder of videos searchable: embeddings, words, thumbnails.

    python index.py my_videos/ --out my.index/                      make it, or bring it up to date
    python index.py my_videos/ --model google/siglip2-base-patch16-224 --out my.index/
    python index.py my_videos/ -r RUN/model_best.pth --ocr my_videos_ocr/ --out my.index/
    python index.py my_videos/ --out my.index/ --dry-run            say what that would do
    python index.py /mnt/videos --out /mnt/my.index --ray           on a Ray cluster: docs/ray.md
    python index.py /mnt/v --out my.index/ --relocate /media/v /mnt/v   the folder lies elsewhere
    python index.py s3://bucket/videos --out my.index/              the videos are in a bucket
    python index.py --verify my.index/                              whether all of it is right
    python index.py my_videos/ --out my.index/ --repair             make anew what is not
    python index.py my_videos/ --out s3://bucket/videos.lance       in LanceDB: see docs/lance.md
    python search.py my.index/ "a red car passes the sign casino"

What is shown is found by a model. --model takes an image-text tower as it is: a name of the Hugging
Face hub (CLIP, SigLIP, SigLIP 2), a folder with its files, or open_clip:NAME; -r a checkpoint of
this project or one converted by tools.checkpoint (without -c the config.json beside it is read). A
new index without either is made with google/siglip2-base-patch16-224, which is downloaded once
unless the local cache has it. Where the hub can't be had (for 10 s at most it is waited for; with
HF_HUB_OFFLINE=1 it is not asked) the index holds words only, and is searched by text; the same
command with --model adds a model later, without spotting any text again.

Files and folders that are hidden or of the system (lost+found, @eaDir) are left out, and so is what
--exclude PATTERN fits, from then on (--exclude "" ends that); links are followed. A folder that
can't be read is named, and what the index has of it stays.

The folder may be a URL of fsspec: s3://, gs://, az://, or https:// where the server lists its
folders. Credentials are those in the environment, as AWS_PROFILE; a URL that holds some is refused.
A video is then copied to a temporary file (TMPDIR) while it is read; size, time and ETag tell
whether it has changed, then its content. Where the store can't be reached or listed, the command
ends with exit code 2 and nothing is dropped. --relocate /media/v s3://bucket/v: they are there now.

A long video is cut into windows, each of them one entry. The text in the videos is taken from --ocr
(a/b.mp4 has a/b.mp4.json or a/b.json, as spot_text.py writes them, in several processes), or
spotted on the way. What is said is found like what is read: subtitles beside a video (b.srt,
b.en.vtt, b.mp4.ass) and in it are always taken; --speech transcribes the English speech of videos
that have none (moonshine-voice; spot_text.py --speech does it in several processes and may be
stopped). Run again, it adds new videos, updates those whose file, OCR document or subtitle file has
changed (by size and time, then by content) and drops those that are gone; one that was renamed or
moved within the folder, which its content tells, keeps its entries, and where all of the folder
lies elsewhere now, the index follows it (--relocate says so, where only some of it is there).
Model, windows, vectors, precision, OCR and speech are then as before. Where another version of the
text engine is installed meanwhile, --spot spots all text anew. Stopped at any moment, the index
stays valid and the next run goes on, within a long video, too; it may be searched all the while.
Exit code 1: a video could not be read, the others are in the index.

A model that embeds frames, too, as towers do, gives an entry a vector for each frame that it was
shown, in half precision, beside that of the window: a hit then has the time of the frame that fits
best. --vectors windows does without, which takes less disk and time.

An index is one model's: its weights, and what changes its forward pass. Another one is refused,
unless --replace-model is given with --model or -r: then all videos are embedded anew, with words,
entries and pictures kept, and the index is searched as before until all of it is there. A video
whose file can't be read any more is not taken along.

What an index holds has checksums. Searches check what takes no time, updates and --verify all of
it, and what is damaged is said and not searched. --repair keeps the videos that are right, with
their text, and makes the others anew; where vectors are damaged, only those are embedded again.
Until that is done the index holds words only. It may be stopped, and is then given again.

A URL of object storage, or a local folder that ends in .lance, as --out is an index in LanceDB
(pip install -r requirements-scale.txt), whose files --optimize merges; updates do so at their end.
--repair is for folders.

Videos are embedded in evaluation.precision of the configuration, by default that of training; with
-r or --model another one can be chosen: --set evaluation.precision=bf16, and with --model how many
frames of a window are seen: --set data_loader.args.video_params.num_frames=4. Embeddings of several
precisions go together in one index. What queries are embedded in is chosen
apart, see search.py --precision.
"""

import argparse
import logging
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from parsing.arguments import add_config_arguments
from retrieval.errors import DamagedIndexError
from retrieval.index.folder_store import FolderStore
from retrieval.index.hub import DEFAULT_TOWER, HubError, locate_model
from retrieval.index.integrity import find_file_damage
from retrieval.index.layout import config_file
from retrieval.index.location import open_store, parse_location
from retrieval.index.ocr_text import OcrFolder, OcrSource, load_source, spot_anew
from retrieval.index.relocation import has_followed, relocate_folder
from retrieval.index.repair import RepairResult, repair_index
from retrieval.index.roots import ONLY, Folder, Roots, make_absolute, parse_folder
from retrieval.index.store import IndexStore
from retrieval.index.vectors import Vectors
from retrieval.printing import escape, format_plan, format_result
from retrieval.spoken.source import SpokenSource
from utils.cli import add_exclude_argument, positive_int, run_cli
from utils.errors import UserError
from utils.ray_pool import add_ray_arguments, open_pool
from utils.run_dir import setup_logging

if TYPE_CHECKING:  # what imports torch is imported where it is used, for --help comes first
    from retrieval.index.embedding import ModelFile

logger = logging.getLogger("retrieval")


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    videos = "folder of videos, and those in it; may be a URL, as s3://bucket/videos"
    parser.add_argument("videos", type=read_folder, nargs="?", help=videos)
    parser.add_argument("--out", type=parse_location, help="folder of the index")
    check, tidy = "only check an index", "only tidy an index in LanceDB up"
    parser.add_argument("--verify", type=parse_location, metavar="INDEX", help=check)
    parser.add_argument("--optimize", type=parse_location, metavar="INDEX", help=tidy)
    parser.add_argument("--repair", action="store_true", help="make anew what is damaged")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--model", metavar="TOWER", help="name or folder of an image-text tower")
    chosen.add_argument("-r", "--resume", type=Path, metavar="MODEL", help="checkpoint")
    parser.add_argument(
        "--replace-model", action="store_true", help="embed all videos by another model"
    )
    add_config_arguments(parser, required=False)
    parser.add_argument("--window", type=float, help="seconds of an entry (a new index: 10)")
    parser.add_argument("--stride", type=float, help="seconds between two entries (5)")
    text = parser.add_mutually_exclusive_group()
    text.add_argument("--ocr", type=Path, metavar="DIR", help="folder of OCR documents")
    text.add_argument("--spot", action="store_true", help="spot the text (a new index does)")
    text.add_argument("--no-ocr", action="store_true", help="do without text and subtitles")
    speech = "transcribe the English speech of videos without subtitles"
    parser.add_argument("--speech", action="store_true", help=speech)
    parser.add_argument("--engine", default="rapidocr", help="that spots text (%(default)s)")
    parser.add_argument("--script", help="of the text, as for spot_text.py (latin)")
    near = "index of nearest neighbours, for a million entries"
    parser.add_argument("--ann", action="store_true", help=near)
    parser.add_argument(
        "--vectors", choices=get_args(Vectors), help="a vector a window, or also one a frame"
    )
    parser.add_argument("--batch_size", type=positive_int, default=16, help="windows a batch")
    parser.add_argument("-d", "--device", help="GPU to use, such as 1")
    relocate = "the folder OLD is NEW now, videos or a folder above them"
    places = ("OLD", "NEW")
    parser.add_argument("--relocate", type=read_folder, nargs=2, metavar=places, help=relocate)
    add_exclude_argument(parser)
    add_ray_arguments(parser)
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    arguments = parser.parse_args()
    is_alone = arguments.verify is not None or arguments.optimize is not None
    if not is_alone and None in (arguments.videos, arguments.out):
        parser.error("give a folder of videos, and that of the index as --out")
    if arguments.repair and arguments.dry_run:
        parser.error("--repair writes; --verify INDEX says what is damaged")
    return arguments


def read_folder(text: str) -> Folder:
    """Read an argument that is a folder here or a URL (a ``type`` of argparse)."""
    try:
        return parse_folder(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def verify(location: str | Path) -> None:
    """Say whether all of an index is right; raises ``UserError`` where it is not."""
    store = open_store(location)
    found = store.verify()
    for damage in found or ():
        sys.stdout.write(f"{escape(f'{location}/{damage.file}')}: {escape(damage.what)}\n")
    if found and isinstance(store, FolderStore):
        raise DamagedIndexError(store.folder, *found[0])
    if found:
        raise UserError(
            f"{location}: {found[0].file}: {found[0].what}; the index is damaged: put it back from "
            "a copy, or remove it and make it anew"
        )
    has_none = found is None
    said = "has no checksums as yet: an update adds them" if has_none else "all of it is right"
    sys.stdout.write(f"{escape(str(location))}: {said}\n")


def optimize(location: str | Path) -> None:
    """Merge the files of an index in LanceDB, and remove what is of no use any more."""
    store = open_store(location)
    if isinstance(store, FolderStore):
        raise UserError(f"{location}: --optimize is for LanceDB; each update tidies a folder up")
    if store.read_meta() is None:
        raise UserError(f"{location}: holds no index as yet; leave out --optimize")
    store.optimize()
    sys.stdout.write(f"{escape(str(location))}: is optimized\n")


def repair(out: str | Path) -> RepairResult:
    """Keep what is right of an index, before it is brought up to date; raises ``UserError``."""
    store = open_store(out)
    if not isinstance(store, FolderStore):
        raise UserError(f"{out}: --repair is for an index in a folder; make it anew elsewhere")
    result = repair_index(store.folder)
    for line in result.describe():
        sys.stdout.write(f"{escape(str(out))}: {escape(line)}\n")
    sys.stdout.flush()
    return result


def choose_source(arguments: argparse.Namespace, roots: Roots, meta: dict | None) -> OcrSource:
    """Return where the text comes from: as is asked for, as before, or spotted."""
    before = dict(meta["ocr"]) if meta is not None and "ocr" in meta else {}
    speech = before.pop("speech", False) or arguments.speech
    if arguments.ocr is not None:
        text: OcrSource = OcrFolder(arguments.ocr)
    elif arguments.no_ocr:
        text = OcrSource()
    elif arguments.spot or not before:
        text = spot_anew(arguments.engine, arguments.script, before or None)
    else:
        text = load_source(arguments.out, before)
    if text.kind == OcrSource.kind:
        if arguments.speech:
            raise UserError("--speech: this index does without text; give --spot or --ocr, too")
        return text
    return SpokenSource(text, roots.locate, speech)


def choose_model(
    arguments: argparse.Namespace, roots: Roots, meta: dict | None
) -> "ModelFile | None":
    """Return the model that is asked for, that of the index, or for a new one the default.

    None: the index holds words only. Raises ``UserError``.
    """
    from parse_config import load_run_config
    from retrieval.index.embedding import ModelFile
    from retrieval.index.model_change import describe_stopped
    from retrieval.index.tower import TowerModel, open_model

    out, kept = arguments.out, None if meta is None else meta.get("model")
    if arguments.resume is not None:
        config = load_run_config(arguments.resume, arguments.config, arguments.overrides)
        return ModelFile(arguments.resume, config)
    if arguments.config:
        raise UserError("-c changes nothing without -r; give the model's checkpoint")
    if arguments.model is not None:
        return TowerModel(arguments.model, arguments.overrides)
    if arguments.replace_model:
        raise UserError("--replace-model: give the other model with --model or -r")
    if meta is None:
        return choose_default(arguments, roots)
    if arguments.overrides:
        raise UserError("--set changes nothing without a model; give it with --model or -r")
    if not arguments.repair and (stopped := describe_stopped(out, meta)):
        logger.warning("%s", stopped)
    if kept is None and arguments.repair and meta.get("successor") is not None:
        return reopen_model(Path(out), meta["successor"])
    if kept is None:
        return None
    return open_model(open_store(out).open_model_folder(meta), meta)


def reopen_model(out: Path, successor: dict) -> "ModelFile":
    """Return the model whose embeddings a repair has kept; raises ``UserError``."""
    from parse_config import load_run_config
    from retrieval.index.embedding import ModelFile
    from retrieval.index.tower import TowerModel, open_model

    config = config_file(out, successor).relative_to(out).as_posix()
    if config not in {damage.file for damage in find_file_damage(out, successor, True)}:
        return open_model(out, successor)
    identity = successor["model"]
    if "path" not in identity:
        return TowerModel(identity["name"])
    return ModelFile(Path(identity["path"]), load_run_config(Path(identity["path"]), None))


def choose_default(arguments: argparse.Namespace, roots: Roots) -> "ModelFile | None":
    """Return the default tower for a new index, or None where it can't be had."""
    from retrieval.index.tower import TowerModel
    from retrieval.index.update import list_videos

    list_videos(roots)  # before anything is downloaded for them
    try:
        locate_model(DEFAULT_TOWER)
    except HubError as error:
        if arguments.overrides:
            raise
        if arguments.no_ocr:
            raise UserError(
                f"{error}; without a model and without text there is nothing to find: give a model "
                "with --model (a folder, for instance), or leave out --no-ocr"
            ) from error
        logger.warning(
            "no model (%s): %s will hold words only; to search by meaning, too, add one later: "
            "python index.py %s --out %s --model NAME_OR_FOLDER",
            error, arguments.out, arguments.videos, arguments.out,
        )  # fmt: skip
        return None
    return TowerModel(DEFAULT_TOWER, arguments.overrides)


def relocate(store: IndexStore, old: Folder, new: Folder) -> None:
    """Let an index look for its videos elsewhere; raises ``UserError``."""
    if store.read_meta() is None:
        raise UserError(f"{store.location}: holds no index as yet; leave out --relocate")
    with store.locking(), store.open_writer() as writer:
        number = relocate_folder(writer, make_absolute(old), make_absolute(new))
    sys.stdout.write(f"{escape(str(old))}: is {escape(str(new))} from now on, {number} videos\n")


def follow_folder(store: IndexStore, meta: dict, roots: Roots) -> dict:
    """Let an index follow its folder where all of that lies elsewhere now; returns its ``meta``."""
    with closing(store), store.reading() as reader:
        known = reader.read_known_videos()
    before = Roots.from_meta(meta)
    if has_followed(before, known, roots):
        relocate(store, before.folders[ONLY], roots.folders[ONLY])
    return store.read_meta() or meta


def main() -> int:
    """Run the command."""
    arguments = parse_arguments()
    if arguments.verify is not None:
        verify(arguments.verify)
        return 0
    if arguments.optimize is not None:
        optimize(arguments.optimize)
        return 0
    import torch

    from retrieval.index.update import IndexOptions, preview_update, update_index
    from utils.launch import choose_devices

    setup_logging(verbosity=0)
    if arguments.relocate is not None and arguments.dry_run:
        raise UserError("--relocate is done at once; give it without --dry-run")
    store = open_store(arguments.out)
    if arguments.relocate is not None:
        relocate(store, *arguments.relocate)
    had_ann = arguments.repair and repair(arguments.out).had_ann
    meta = store.read_meta()
    exclude = arguments.exclude
    if exclude is None and meta is not None:
        exclude = meta.get("exclude")
    roots = Roots.of(arguments.videos, exclude or ())
    if meta is not None and not arguments.dry_run:
        meta = follow_folder(store, meta, roots)
    source = choose_source(arguments, roots, meta)
    is_given = arguments.model is not None or arguments.resume is not None
    if arguments.dry_run:
        has_model = meta is not None and meta.get("model") is not None
        changes_model = arguments.replace_model or is_given and not has_model
        plan = preview_update(roots, arguments.out, source, changes_model)
        sys.stdout.write(format_plan(plan))
        return 1 if plan.failed else 0
    model = choose_model(arguments, roots, meta)
    n_gpu, precision = min(1, torch.cuda.device_count()), None
    if model is not None and model.path is not None:
        n_gpu = model.config.n_gpu
    if is_given:
        # Otherwise the configuration is the one in the index, which it was first made with.
        precision = model.config.evaluation_precision
    elif arguments.repair and model is not None and meta.get("model") is None:
        precision = meta["successor"].get("precision", "fp32")
    is_shared = arguments.ray is not None  # then the workers use the GPUs
    device = choose_devices(0 if is_shared else n_gpu, arguments.device)[0]
    options = IndexOptions(
        window_s=arguments.window,
        stride_s=arguments.stride,
        batch_size=arguments.batch_size,
        ann=arguments.ann or had_ann,
        device=device,
        precision=precision,
        replace_model=arguments.replace_model,
        vectors=arguments.vectors,
    )
    with open_pool(arguments, uses_model=model is not None) as pool:
        result = update_index(roots, arguments.out, model, source, replace(options, pool=pool))
    sys.stdout.write(format_result(result, arguments.out))
    return 1 if result.failed else 0


if __name__ == "__main__":
    run_cli(main)
