"""Search your own videos: one command that reads, indexes, and opens a page to search in.

    python find.py ~/Videos                           that is all; the page opens at once
    python find.py ~/Videos /media/disk/Films         several folders
    python find.py                                    the library that is there
    python find.py --watch                            and whatever comes into its folders later
    python find.py ~/Videos --model google/siglip2-base-patch16-224
    python find.py --relocate /media/old/Films /mnt/new/Films      a folder lies elsewhere now
    python find.py --forget /media/disk/Films         a folder is no longer to be searched

The text in the videos is read in several processes, newest videos first, and every video can be
searched as soon as it is read. Subtitles beside a video or in it are searched like what is read,
and with --speech what is said in the others (pip install moonshine-voice==0.0.62). Where an
image-text tower can be had (--model; otherwise google/siglip2-base-patch16-224, of the local cache
or downloaded once), what is shown is found by its meaning, too, when all of it is embedded; --model
none does without and asks no hub. No video leaves the machine, and only this machine is answered.

Ctrl-C ends it, and so may anything else: nothing is lost, the next start goes on, within a long
video, too. With --watch the folders are watched; a file that is still being written is waited for.

A video that is renamed or moved within the library keeps all that is known of it. A folder that is
not there (a disk that is unplugged) is said, and its videos stay. What is hidden or of the system
(lost+found, @eaDir) is left out, and what --exclude PATTERN fits. The videos themselves are never
written to. Everything is kept in one folder, that of --library, or of the environment variable
TEXTVR_LIBRARY, or "textvr/library" in the user's folder of data; to be rid of it, delete it. How
videos are read (--script, --model, --speech, --exclude) is kept there, too, until it is said
otherwise (--exclude "": nothing is left out); other letters mean that all text is read anew.

Exit codes: 0; 1: some videos could not be read (work.log in the library names them); 2: nothing
could be begun. Only one find.py works on a library: a second one opens the page of the first.
"""

import argparse
import logging
import multiprocessing
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from retrieval import VideoIndex
from retrieval.library.folder import Library, LibraryOpenError, choose_folder, make_absolute
from retrieval.library.terminal import show_work
from retrieval.library.work import WorkOptions, run_work
from retrieval.printing import escape
from retrieval.spotting.scripts import SCRIPTS
from retrieval.web.access import LOCAL_NAMES, Access
from retrieval.web.server import build_app, open_socket, serve
from serve import SWITCH_S, load_model, parse_port
from utils.cli import add_exclude_argument, positive_int, run_cli
from utils.errors import UserError
from utils.processes import count_cpus
from utils.run_dir import setup_logging

logger = logging.getLogger("retrieval")

HOST, PORT = "127.0.0.1", 8000
_END_S = 5.0  # that the work may take to end


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("folders", type=Path, nargs="*", metavar="FOLDER", help="of videos, and those in it")
    add("--watch", action="store_true", help="keep it up to date until Ctrl-C")
    add("--library", type=Path, metavar="DIR", help="where everything is kept")
    add("--model", metavar="TOWER", help="name or folder of an image-text tower, or none")
    script = f"letters that are read: {', '.join(SCRIPTS)} (a new library: latin)"
    add("--script", choices=SCRIPTS, metavar="NAME", help=script)
    said = "write down (English) speech, too, of videos without subtitles"
    add("--speech", action=argparse.BooleanOptionalAction, help=said)
    add("--port", type=parse_port, help=f"of the page; 0: any free one ({PORT}, where it is free)")
    add("--no-browser", action="store_true", help="open no browser")
    add("--no-page", action="store_true", help="bring the library up to date, and end")
    add("--relocate", type=Path, nargs=2, metavar=("OLD", "NEW"), help="a folder has moved")
    add("--forget", type=Path, metavar="FOLDER", help="take a folder out of the library")
    add_exclude_argument(parser)
    workers = "processes that read text (%(default)s)"
    add("--workers", type=positive_int, default=count_cpus(), help=workers)
    return parser.parse_args()


def prepare_library(library: Library, arguments: argparse.Namespace) -> bool:
    """Make the library, and do what is asked for of its folders; raises ``UserError``.

    Returns:
        Whether there is something to search in: not when its last folder was taken out.
    """
    for line in library.open():
        say(line)
    if arguments.relocate is not None:
        old, new = map(make_absolute, arguments.relocate)
        number = library.relocate(old, new)
        say(f"{old}: is {new} from now on, {number} videos")
    if arguments.forget is not None:
        number = library.forget_folder(arguments.forget)
        say(f"{arguments.forget}: is out of the library, {number} videos")
    if arguments.exclude is not None:
        library.write_exclude(arguments.exclude)
    for line in library.add_folders(arguments.folders):
        say(line)
    if not library.read_roots().folders:
        if arguments.forget is not None:
            return False
        raise UserError("say where your videos are: python find.py ~/Videos")
    settings = library.read_settings()
    changed = settings.change(
        model=arguments.model, script=arguments.script, speech=arguments.speech
    )
    if arguments.model is not None and Path(arguments.model).is_dir():
        changed = changed.change(model=str(make_absolute(Path(arguments.model))))
    if changed != settings:
        library.write_settings(changed)
    return True


def say(text: str) -> None:
    """Write a line on standard output at once."""
    sys.stdout.write(escape(text) + "\n")
    sys.stdout.flush()


@contextmanager
def working(library: Library, options: WorkOptions) -> Iterator[multiprocessing.Process]:
    """Let a process work on the library for a ``with`` block, and end it then."""
    # Started afresh: it will load models, and this one must be left with nothing of them.
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=run_work, args=(library.folder, options))
    process.start()
    try:
        yield process
    finally:
        process.terminate()
        process.join(_END_S)
        process.kill()
        process.join()


def open_page(link: str) -> None:
    """Open the page in the user's browser, where there is a screen."""
    has_screen = os.environ.keys() & {"DISPLAY", "WAYLAND_DISPLAY"}
    if has_screen or not sys.platform.startswith("linux"):
        threading.Thread(target=webbrowser.open, args=(link,), daemon=True).start()


def serve_library(library: Library, arguments: argparse.Namespace) -> int:
    """Work, and answer searches, until Ctrl-C; returns the exit code."""
    with VideoIndex.open(library.index) as index, open_listener(arguments.port) as listener:
        number = listener.getsockname()[1]
        link = f"http://{HOST}:{number}/"
        library.write_address(link)
        say(f"{link}: search in {library.read_roots().describe()} (Ctrl-C ends it)")
        if not arguments.no_browser:
            open_page(link)
        options = WorkOptions(arguments.workers, arguments.watch)
        with working(library, options) as process, show_work(library, process) as shown:
            os.environ.setdefault("OMP_NUM_THREADS", "1")  # several searches run side by side
            sys.setswitchinterval(SWITCH_S)
            access = Access(LOCAL_NAMES, None, f"textvr-{number}")
            app = build_app(index, access, get_work=shown.read)
            serve(app, listener, partial(load_model, index))
        return shown.exit_code


def open_listener(port: int | None) -> socket.socket:
    """Return the socket of the page: at the port that is asked for, or at any that is free."""
    if port is not None:
        return open_socket(HOST, port)
    try:
        return open_socket(HOST, PORT)
    except UserError:
        return open_socket(HOST, 0)


def main() -> int:
    """Run the command."""
    arguments = parse_arguments()
    setup_logging(verbosity=0)
    library = Library(choose_folder(arguments.library))
    try:
        with library.lock():
            if not prepare_library(library, arguments):
                return 0
            if not arguments.no_page:
                return serve_library(library, arguments)
            options = WorkOptions(arguments.workers, arguments.watch)
            with working(library, options) as process, show_work(library, process) as shown:
                process.join()
            return shown.exit_code
    except LibraryOpenError as error:
        return join_other(library, arguments, error.address)


def join_other(library: Library, arguments: argparse.Namespace, address: str | None) -> int:
    """Open the page of the find.py that has the library; raises ``UserError``."""
    roots = library.read_roots()
    new = [folder for folder in arguments.folders if roots.find_root(folder) is None]
    asked = arguments.relocate, arguments.forget, arguments.model, arguments.script
    if new or any(asked) or arguments.speech is not None or arguments.exclude is not None:
        raise UserError(
            f"{library.folder}: another find.py is at work there ({address or 'without a page'}); "
            "end it with Ctrl-C, then give this command again"
        )
    if address is None:
        say(f"{library.folder}: another find.py is at work there, without a page")
        return 0
    say(f"{address}: search in {roots.describe()}; another find.py is at work there")
    if not arguments.no_browser:
        open_page(address)
    return 0


if __name__ == "__main__":
    run_cli(main)
