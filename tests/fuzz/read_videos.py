"""Program that reads videos for ``test_fuzz_videos.py``, and may crash with the libraries.

It is given a reader and a path on each line of its input, and answers each with one line: "frames",
"error" and the message in ASCII, or "wrong" and what happened.
"""

import logging
import sys

import numpy as np

from data_loader.readers.base_reader import VideoError
from data_loader.readers.tolerant_reader import open_tolerantly
from data_loader.readers.video_readers import open_video


def read_video(reader: str, path: str) -> None:
    """Read a few frames and all times; raises ``VideoError``, or an error that is a fault."""
    if reader == "tolerant":
        with open_tolerantly(path) as video:
            wanted = np.unique(np.linspace(0, video.num_frames - 1, 4).astype(int))
            frames = [frame for _, frame in video.stream(wanted)]
            times, start_s, _ = video.times(), video.start_s, video.describe_damage()
    else:
        with open_video(path, reader) as video:
            frames = list(video.frames([video.num_frames - 1, 0]))
            times, start_s = video.times(), video.start_s
    assert len({frame.shape for frame in frames}) == 1 and frames[0].dtype == np.uint8
    assert len(times) == video.num_frames and (np.diff(times) >= 0).all() and np.isfinite(start_s)


def main() -> None:
    """Answer until the input ends."""
    logging.disable()
    answers = sys.stdout
    sys.stdout = sys.stderr  # of libraries that print
    for line in sys.stdin:
        reader, path = line.rstrip("\n").split(" ", 1)
        try:
            read_video(reader, path)
            answer = "frames"
        except VideoError as error:
            answer = f"error {ascii(str(error))}"
        except Exception as error:  # what else a file causes is a fault
            answer = f"wrong {ascii(repr(error))[:400]}"
        print(answer, file=answers, flush=True)


main()
