"""Read the text that can be seen in one's own videos, for the models that use it.

    python spot_text.py my_videos/ --out my_ocr/
    python spot_text.py my_videos/ --out my_ocr/ --workers 8 --every 1
    python spot_text.py my_videos/ --out my_ocr/ --script chinese
    python spot_text.py my_videos/ --out my_ocr/ --rec_model cyrillic.onnx --rec_keys keys.txt
    python spot_text.py /mnt/videos --out /mnt/ocr --ray           on a Ray cluster, see docs/ray.md

Writes one OCR document for each video, in the form of TextVR's Kwai_VideoOCR: my_videos/a/b.mp4
has my_ocr/a/b.mp4.json. train.py and test.py read them with data_loader.args.ocr_dir. Linked files
and folders are followed; hidden ones, those of the system, and what --exclude PATTERN fits are left
out. The engine is RapidOCR (rapidocr-onnxruntime 1.4.4) unless --engine names
another one (CONTRIBUTING.md says how one is added). Its models are in the package: nothing is
downloaded, nothing leaves the machine. They read Latin letters without accents, and Chinese; other
scripts need another recogniser, and --script says which one and where it goes. Lines that look like
another script than the one that is read are left out, and a video that has some is named.

--speech writes down what is said in English, too, as "spoken" lines of the same documents: by
Moonshine (pip install moonshine-voice==0.0.62; offline). It is added to documents that are there.
A video that has subtitles, beside it or in it, is left out, since index.py takes those;
--force_speech listens to all.

Stopped, it goes on where it was: documents that are there are kept (--overwrite makes them anew),
a/b.json of earlier versions too, where it can be of one video only; within a video it goes on at
the last frame that was looked at (a/b.mp4.json.part, which goes when the document is complete). A
folder that another engine has spotted is refused. Videos that can't be read are named, in one line
each, and left out.
Exit code 0: every video has its document; 1: some could not be read; 2: the run could not begin,
or the disk is full.
"""

import argparse
import sys
from pathlib import Path

import retrieval.registrations  # noqa: F401
from base.registry import VIDEO_READERS
from retrieval.spoken.folder import transcribe_folder
from retrieval.spoken.transcription import identify_recogniser
from retrieval.spotting.folder import spot_folder
from retrieval.spotting.scripts import SCRIPTS
from retrieval.spotting.text_spotter import TextSpotter, build_spotter
from retrieval.spotting.video import EVERY_S, READER
from utils.cli import add_exclude_argument, positive_int, run_cli
from utils.processes import RunTasks, count_cpus
from utils.ray_pool import add_ray_arguments, open_pool


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("videos", type=Path, help="the folder of videos; its folders are looked into, too")
    add("--out", type=Path, required=True, help="the folder for the documents")
    every = "seconds between two frames that are looked at (default: %(default)s)"
    add("--every", type=parse_seconds, default=EVERY_S, metavar="S", help=every)
    workers = f"processes (default: {count_cpus()}, or as many as a cluster has room for)"
    add("--workers", type=positive_int, metavar="N", help=workers)
    add_ray_arguments(parser)
    engine = "what reads the text (default: %(default)s)"
    add("--engine", default="rapidocr", metavar="NAME", help=engine)
    script = f"letters that may be read: {', '.join(SCRIPTS)} (default: latin)"
    add("--script", choices=SCRIPTS, metavar="NAME", help=script)
    add("--rec_model", type=Path, metavar="ONNX", help="another recogniser, for another script")
    add("--rec_keys", type=Path, metavar="TXT", help="its characters, if the file has them not")
    add("--min_score", type=parse_share, help="least confidence (default: 0.5)")
    side = "longer side of the picture in which text is looked for (default: by the frame)"
    add("--max_side", type=positive_int, metavar="PIXELS", help=side)
    reader = "av reads every container and turned files (default: %(default)s)"
    add("--reader", choices=VIDEO_READERS.names(), default=READER, help=reader)
    add_exclude_argument(parser)
    add("--overwrite", action="store_true", help="spot everything anew")
    add("--speech", action="store_true", help="transcribe English speech, too")
    forced = "likewise, also of videos that have subtitles"
    add("--force_speech", action="store_true", help=forced)
    return parser.parse_args()


def parse_seconds(text: str) -> float:
    """Read a number of seconds above 0 (a ``type`` of argparse)."""
    return _parse_number(text, sys.float_info.min, sys.float_info.max, "of seconds above 0")


def parse_share(text: str) -> float:
    """Read a number from 0 to 1 (a ``type`` of argparse)."""
    return _parse_number(text, 0, 1, "from 0 to 1")


def _parse_number(text: str, low: float, high: float, expected: str) -> float:
    try:
        if low <= float(text) <= high:
            return float(text)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"expected a number {expected}, got {text}")


def main() -> int:
    """Run the command."""
    arguments = parse_arguments()
    if arguments.speech or arguments.force_speech:
        identify_recogniser()  # before hours are spent on what can be seen
    names = ("script", "rec_model", "rec_keys", "min_score", "max_side")
    spotter = build_spotter(arguments.engine, {name: getattr(arguments, name) for name in names})
    with open_pool(arguments, arguments.workers) as pool:
        return write_documents(arguments, spotter, None if pool is None else pool.run_tasks)


def write_documents(
    arguments: argparse.Namespace, spotter: TextSpotter, run: RunTasks | None
) -> int:
    """Do what the command line asks for; returns the exit code."""
    workers = arguments.workers or count_cpus()
    outcome = spot_folder(
        arguments.videos,
        arguments.out,
        spotter,
        every=arguments.every,
        reader=arguments.reader,
        workers=workers,
        overwrite=arguments.overwrite,
        exclude=arguments.exclude or (),
        run=run,
    )
    text = f"{outcome.num_spotted} videos spotted, {outcome.num_lines} lines of text"
    text += f"; {outcome.num_kept} kept" if outcome.num_kept else ""
    text += f"; {outcome.num_failed} failed" if outcome.num_failed else ""
    sys.stdout.write(f"{arguments.out}: {text}\n")
    num_failed = outcome.num_failed
    if arguments.speech or arguments.force_speech:
        heard = transcribe_folder(
            arguments.videos,
            arguments.out,
            workers,
            arguments.force_speech,
            arguments.exclude or (),
            run,
        )
        sys.stdout.write(f"{arguments.out}: {heard.summarize()}\n")
        num_failed += heard.num_failed
    return 1 if num_failed else 0


if __name__ == "__main__":
    run_cli(main)
