"""Search an index of videos, made by index.py, in a web page on this machine.

    python serve.py my.index/                        then open the address that is printed
    python serve.py my.index/ --port 9000
    python serve.py my.index/ --host 0.0.0.0 --token   for others in the network, with a token

Nothing leaves the machine, and only this machine is answered unless --host says otherwise. With
--token (it keeps out other users of this machine, too) every request needs it: the printed link
sets a cookie in the browser that opens it, programs send "Authorization: Bearer TOKEN". The token
is made up, unless the environment variable TEXTVR_TOKEN holds one, or it is given as --token TOKEN,
where others on this machine can see it; it has at least 16 characters. The connection is not
encrypted: across a network that you do not trust use a tunnel (ssh -L 8000:127.0.0.1:8000 MACHINE).

The page plays a video from the moment that was found and draws the text over it; "/" goes to the
search box, the arrow keys between results, Enter plays, Escape closes. Every result leads to more
like it, and a picture that is chosen, dropped or pasted is searched with, alone or with words; the
model of the index, whose checkpoint has to be where it was, is loaded for the first one.
Near-duplicates are one result. The same as JSON, for programs:
/api/search?q=...&k=...&mode=...&folder=..., with like=ID (or like=a/b.mp4@12.5), minus=...,
group=true; a picture is the body of a POST, with its Content-Type:

    curl -H "Content-Type: image/jpeg" --data-binary @photo.jpg "http://127.0.0.1:8000/api/search"

Videos at a URL (s3://bucket/videos) are read from there through this server, just the ranges that
are played, with the credentials of its environment. --signed-links sends the browser there instead,
by a link that is good for an hour, or the seconds that are given: whoever has the link may read
that one video as long. Nothing else of the store is sent or signed.

All is described in /api/openapi.json. The index may be updated by index.py all the while. The
server answers at once; what needs the model of the index waits until that is loaded. Ctrl-C or
SIGTERM ends it.
"""

import argparse
import os
import re
import secrets
import sys
import time
from functools import partial
from pathlib import Path

from retrieval import VideoIndex
from retrieval.index.location import parse_location
from retrieval.index.query_embedder import QUERY_PRECISIONS
from retrieval.printing import escape
from retrieval.web.access import LOCAL_NAMES, Access
from retrieval.web.sending import VideoSender
from retrieval.web.server import build_app, get_public_name, is_local, open_socket, serve
from utils.cli import run_cli
from utils.errors import UserError
from utils.run_dir import setup_logging

TOKEN_VARIABLE = "TEXTVR_TOKEN"
MIN_TOKEN, MIN_DIFFERENT = 16, 6  # characters
SWITCH_S = 1e-3
LINK_S, MIN_LINK_S, MAX_LINK_S = 3600, 60, 7 * 24 * 3600


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("index", type=parse_location, help="folder of the index")
    parser.add_argument("--host", default="127.0.0.1", help="address to answer at (%(default)s)")
    parser.add_argument(
        "--port", type=parse_port, default=8000, help="0: any free one (%(default)s)"
    )
    parser.add_argument("--token", nargs="?", const="", help="ask for a token (one is made up)")
    parser.add_argument(
        "-r", "--resume", type=Path, metavar="MODEL", help="refuse an index of another model"
    )
    parser.add_argument(
        "--precision",
        choices=QUERY_PRECISIONS,
        default="auto",
        help="of the query encoder, on the CPU, whatever that of the index; auto: int8 where it is "
        "near enough to fp32, else fp32 (%(default)s)",
    )
    parser.add_argument(
        "--signed-links", type=parse_seconds, nargs="?", const=LINK_S, metavar="SECONDS",
        help="let browsers read videos at a URL from there, by links that are good so long "
        f"({LINK_S})",
    )  # fmt: skip
    return parser.parse_args()


def parse_seconds(text: str) -> int:
    """Read how long a link is good: a minute to a week, as stores have it."""
    if not text.isdecimal() or not MIN_LINK_S <= int(text) <= MAX_LINK_S:
        raise argparse.ArgumentTypeError(
            f"expected seconds, {MIN_LINK_S} to {MAX_LINK_S}, got {text}"
        )
    return int(text)


def parse_port(text: str) -> int:
    """Read the number of a port."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 65535, got {text}")
    return int(text)


def choose_token(given: str | None) -> str | None:
    """Return the token: given, from the environment or made up; None: none is asked for."""
    if given is None:
        return None
    token = given or os.environ.get(TOKEN_VARIABLE) or secrets.token_urlsafe(24)
    if not re.fullmatch(r"[\w.~-]+", token, re.ASCII):
        raise UserError("the token is part of a link: letters, digits and . _ ~ - only")
    if len(token) < MIN_TOKEN or len(set(token)) < MIN_DIFFERENT:
        raise UserError(
            f"the token could be guessed: give at least {MIN_TOKEN} characters, {MIN_DIFFERENT} of "
            f"them different, or leave it out (--token alone, {TOKEN_VARIABLE} unset): one is made"
        )
    return token


def main() -> None:
    """Run the command."""
    arguments = parse_arguments()
    setup_logging(verbosity=0)
    token = choose_token(arguments.token)
    # A thread that computes outside of Python, step by step as the query encoder does, asks for
    # Python's lock after each step, and gets it from one that runs Python after so long.
    sys.setswitchinterval(SWITCH_S)
    with VideoIndex.open(arguments.index, arguments.precision) as index:
        if arguments.resume is not None:
            index.check_model(arguments.resume)
        sender = VideoSender()
        if arguments.signed_links is not None:
            sender = VideoSender.with_links(index, arguments.signed_links)
        if index.model is None:
            sys.stderr.write(
                f"{escape(str(arguments.index))}: holds words only, so that only text is found; "
                "index.py --model adds a model\n"
            )
        with open_socket(arguments.host, arguments.port) as listener:
            name, number = get_public_name(listener, arguments.host), listener.getsockname()[1]
            names = LOCAL_NAMES | {name} if is_local(listener) else None
            if names is None:
                risk = "the token and the videos are sent to them unencrypted"
                if token is None:
                    risk = "they can search and watch these videos; --token keeps others out"
                sys.stderr.write(f"warning: other machines can reach {arguments.host}: {risk}\n")
            link = f"http://{name}:{number}/" + (f"?token={token}" if token else "")
            sys.stdout.write(
                f"{len(index):,} entries of {escape(index.roots.describe())} at {link}\n"
            )
            sys.stdout.flush()
            access = Access(names, token, f"textvr-{number}")
            app = build_app(index, access, sender=sender)
            serve(app, listener, partial(load_model, index))


def load_model(index: VideoIndex) -> None:
    """Load the query encoder of an index, while its text can be searched already."""
    if index.model is None:
        return
    sys.stderr.write("loading the model; until it is there, only searches for text are answered\n")
    start = time.monotonic()
    import torch

    torch.set_num_threads(1)  # several searches run side by side
    index.load_query_encoder()
    sys.stderr.write(f"the model is there, after {time.monotonic() - start:.1f} s\n")


if __name__ == "__main__":
    run_cli(main)
