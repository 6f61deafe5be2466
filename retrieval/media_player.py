"""Media player of this machine, opened at a moment of a video: mpv or VLC."""

import shutil
import subprocess
import sys
from pathlib import Path

from retrieval.index.remote_videos import Place
from retrieval.index.roots import explain_unreachable
from utils.errors import UserError

# A player, and what tells it to start at a second.
PLAYERS = {"mpv": "--start={:.2f}", "vlc": "--start-time={:.2f}"}
LINK_S = 6 * 3600  # how long a link to a video is good
_APP = Path("/Applications/VLC.app/Contents/MacOS/VLC")  # on macOS it is not on the path


def open_player(video: Place, time_s: float) -> str:
    """Open a video at a moment, in a window of its own; returns the name of the player.

    One in a store is given to it as a link that is good for a while: others on this machine see it
    among the processes.

    Raises:
        UserError: there is no player, or no such file.
    """
    address = _find_address(video)
    for name, start in PLAYERS.items():
        program = shutil.which(name) or (str(_APP) if name == "vlc" and _APP.is_file() else None)
        if program is not None:
            # After "--" a name that begins with "-" is a file, too.
            command = [program, start.format(time_s), "--", address]
            quiet = subprocess.DEVNULL
            subprocess.Popen(
                command, stdin=quiet, stdout=quiet, stderr=quiet,
                start_new_session=sys.platform != "win32",
            )  # fmt: skip
            return name
    names = " or ".join(PLAYERS)
    raise UserError(f"--open needs {names}; install one of them, or open {video} by hand")


def _find_address(video: Place) -> str:
    """Return what a player opens a video by; raises ``UserError`` where it is not there."""
    if isinstance(video, Path):
        if not video.is_file():
            raise UserError(f"{video}: is not there any more; run index.py again")
        return str(video)
    try:
        with explain_unreachable():
            video.videos.read_status(video.path)
            return str(video) if video.videos.is_web else video.sign_link(LINK_S)
    except FileNotFoundError as error:
        raise UserError(f"{video}: is not there any more; run index.py again") from error
