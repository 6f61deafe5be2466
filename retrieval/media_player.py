"""Media player of this machine, opened at a moment of a video: mpv or VLC."""

import shutil
import subprocess
import sys
from pathlib import Path

from utils.errors import UserError

# A player, and what tells it to start at a second.
PLAYERS = {"mpv": "--start={:.2f}", "vlc": "--start-time={:.2f}"}
_APP = Path("/Applications/VLC.app/Contents/MacOS/VLC")  # on macOS it is not on the path


def open_player(video: Path, time_s: float) -> str:
    """Open a video at a moment, in a window of its own; returns the name of the player.

    Raises:
        UserError: there is no player, or no such file.
    """
    if not video.is_file():
        raise UserError(f"{video}: is not there any more; run index.py again")
    for name, start in PLAYERS.items():
        program = shutil.which(name) or (str(_APP) if name == "vlc" and _APP.is_file() else None)
        if program is not None:
            # After "--" a name that begins with "-" is a file, too.
            command = [program, start.format(time_s), "--", str(video)]
            quiet = subprocess.DEVNULL
            subprocess.Popen(
                command, stdin=quiet, stdout=quiet, stderr=quiet,
                start_new_session=sys.platform != "win32",
            )  # fmt: skip
            return name
    names = " or ".join(PLAYERS)
    raise UserError(f"--open needs {names}; install one of them, or open {video} by hand")
