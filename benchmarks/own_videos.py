"""Own videos, end to end: ten made videos in ten containers, found by the one command.

    python -m benchmarks.own_videos                    # a table
    python -m benchmarks.own_videos --json
    python -m benchmarks.own_videos --keep FOLDER      # and keep videos and library there

Writes videos of counters, a clock, scores, prices, slides, signs in perspective, a ticker,
subtitles (in the file, and beside it) and speech, each in another container; starts find.py on
their folder as a process, waits until it is done, and asks its server for everything that was shown
or said for a second or longer. Counted is how often the right video is the first one, and how often
the time from which it would be played is one at which that was shown, give or take ``SLACK_S``.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
import wave
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks import measuring
from utils.cli import run_cli

FPS, SECONDS = 10, 12
SLACK_S = 0.6  # text is looked for every 0.4 s
WAIT_S = 600.0
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}  # of find.py
ROOT = Path(__file__).parents[1]
Draw = Callable[[ImageDraw.ImageDraw, float], None]  # on a picture, at a time in seconds


class Shown(NamedTuple):
    """Something that can be searched for: in which video, and when it is there, in seconds."""

    query: str
    start_s: float
    end_s: float
    kind: str  # what it stands for in the table


@dataclass(frozen=True)
class MadeVideo:
    """One of the videos.

    Attributes:
        name: of the file; its ending is that of the container.
        codec, pix_fmt: of the pictures.
        shown: what is to be found in it.
        draw: what is in the picture.
        size: (width, height), pixels.
        warp: corners (4, 2) of the picture as shares of it, onto which what is drawn is turned.
        speech: what is said, with when it begins, in seconds; needs espeak-ng.
        subtitles: (text, start, end) of each; with ``beside`` in an .srt file, else in the file.
    """

    name: str
    codec: str
    shown: tuple[Shown, ...]
    draw: Draw
    pix_fmt: str = "yuv420p"
    options: tuple[tuple[str, str], ...] = ()
    size: tuple[int, int] = (640, 360)
    warp: tuple[tuple[float, float], ...] = ()
    speech: tuple[tuple[str, float], ...] = ()
    subtitles: tuple[tuple[str, float, float], ...] = ()
    beside: bool = False

    def write(self, folder: Path) -> None:
        """Write the file, and its subtitles where they are beside it."""
        path = folder / self.name
        sound = _speak(self.speech) if self.speech else None
        with ExitStack() as stack:
            container = stack.enter_context(av.open(str(path), "w"))
            stream = container.add_stream(self.codec, rate=FPS, options=dict(self.options))
            stream.width, stream.height = self.size
            stream.pix_fmt = self.pix_fmt
            voice = None
            if sound is not None:
                codec = "libopus" if path.suffix == ".webm" else "aac"
                voice = container.add_stream(codec, rate=48000, layout="mono")
            texts = None
            if self.subtitles and not self.beside:
                texts = stack.enter_context(_open_srt(self.subtitles))
                text = container.add_stream_from_template(texts.streams.subtitles[0])
            for number in range(FPS * SECONDS):
                frame = av.VideoFrame.from_ndarray(self._render(number / FPS), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, FPS)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
            for packet in texts.demux(0) if texts is not None else ():
                if packet.dts is not None:
                    packet.stream = text
                    container.mux(packet)
            if voice is not None:
                _mux_sound(container, voice, sound)
        if self.subtitles and self.beside:
            path.with_suffix(".srt").write_text(_format_srt(self.subtitles), encoding="utf-8")

    def _render(self, time_s: float) -> np.ndarray:
        """Return a frame, (H, W, 3) uint8."""
        width, height = self.size
        image = Image.new("RGB", self.size, (222, 226, 231))
        self.draw(ImageDraw.Draw(image), time_s)
        picture = np.asarray(image)
        if self.warp:
            corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
            target = np.array(self.warp, np.float32) * np.array(self.size, np.float32)
            matrix = cv2.getPerspectiveTransform(corners, target)
            wall = cv2.resize(
                np.random.default_rng(0).integers(90, 150, (9, 16, 3), dtype=np.uint8), self.size
            )
            cv2.warpPerspective(picture, matrix, self.size, wall, cv2.INTER_AREA,
                                cv2.BORDER_TRANSPARENT)  # fmt: skip
            picture = wall
        return picture


def _write(at: tuple[int, int], size: int, ink: tuple[int, int, int] = (20, 24, 32)) -> Any:
    """Return what draws a text at a place."""
    font = ImageFont.load_default(size=size)
    return lambda draw, text: draw.text(at, text, font=font, fill=ink)


def _choose(texts: tuple[str, ...]) -> Callable[[float], str]:
    """Return which of the texts is shown at a time: one after the other, equally long."""
    return lambda time_s: texts[min(int(time_s * len(texts) / SECONDS), len(texts) - 1)]


def _make_changing(texts: tuple[str, ...], kind: str, at: tuple[int, int], size: int,
                   still: str = "") -> tuple[Draw, tuple[Shown, ...]]:  # fmt: skip
    """Return what draws texts one after the other, and when each of them is there."""
    choose, write, label = _choose(texts), _write(at, size), _write((40, 300), 28)
    part = SECONDS / len(texts)

    def draw(picture: ImageDraw.ImageDraw, time_s: float) -> None:
        write(picture, choose(time_s))
        label(picture, still)

    shown = [Shown(text, n * part, (n + 1) * part, kind) for n, text in enumerate(texts)]
    stays = (Shown(still, 0, SECONDS, "unchanging text"),) if still else ()
    return draw, (*shown, *stays)


COUNTER = tuple(f"Frame {number}" for number in range(4100, 4100 + 17 * SECONDS, 17))
CLOCK = tuple(f"10:59:{second:02}" for second in range(40, 40 + SECONDS))
SCORES = ("LIONS 0 : 0 BEARS", "LIONS 1 : 0 BEARS", "LIONS 1 : 2 BEARS")
PRICES = ("Melons 3.49", "Melons 2.99", "Melons 1.89", "Melons 0.75")
SLIDES = ("What is entropy", "Why it grows", "Questions please")
TICKER = ("Harbour closed", "Ferry delayed", "Airport opens", "Bridge repaired")
SUBTITLES = (
    ("I never liked that lighthouse", 1.0, 3.5), ("Then let us sail at midnight", 5.0, 8.0),
)  # fmt: skip
CAPTIONS = (("The recipe begins with saffron", 2.0, 4.5), ("Now stir the barley", 7.0, 9.5))
SPEECH = (
    ("Welcome to the museum of natural history.", 1.0),
    ("The elephant was found near the river.", 6.0),
)
# What a listener may find again; a voice of espeak-ng is not heard word for word.
SAID = (Shown("museum", 1.0, 5.0, "speech"), Shown("river", 6.0, 10.5, "speech"))


def make_videos() -> list[MadeVideo]:
    """Return the ten videos."""
    counter, counts = _make_changing(COUNTER, "counter", (180, 130), 56)
    clock, times = _make_changing(CLOCK, "clock", (180, 130), 56, "Departures")
    score, scores = _make_changing(SCORES, "score", (60, 40), 44, "Stadium Nord")
    price, prices = _make_changing(PRICES, "price", (120, 120), 52, "Weekly market")
    slide, slides = _make_changing(SLIDES, "slide title", (60, 50), 52, "Lecture seven")
    ticker, news = _make_changing(TICKER, "ticker", (60, 120), 48, "Channel 9 news")
    sign, signs = _make_changing(("BAKERY MILLER",), "sign", (70, 110), 62)
    tall, menu = _make_changing(("Lentil soup",), "portrait", (40, 240), 50)
    spoken = [Shown(*each, "subtitles") for each in (*SUBTITLES, *CAPTIONS)]
    wall = ((0.12, 0.2), (0.9, 0.08), (0.86, 0.78), (0.16, 0.88))
    gop = (("g", "30"),)
    b_frames = (("bf", "2"), *gop)

    def plain(draw: ImageDraw.ImageDraw, time_s: float) -> None:
        """A disc that wanders: nothing to read."""
        left = 40 + 40 * time_s
        draw.ellipse((left, 120, left + 90, 210), fill=(180, 60, 60))

    return [
        MadeVideo("counter.mp4", "libx264", counts, counter, options=gop),
        MadeVideo("clock.flv", "flv1", times, clock),
        MadeVideo("match.avi", "mpeg4", scores, score, options=b_frames),
        MadeVideo("market.ts", "libx264", prices, price, options=b_frames),
        MadeVideo("lecture.mkv", "libx265", (*slides, *spoken[:2]), slide, subtitles=SUBTITLES,
                  options=(("x265-params", "log-level=error:pools=none:frame-threads=1"),)),
        MadeVideo("news.ogv", "libvpx", news, ticker),
        MadeVideo("street.mov", "mjpeg", signs, sign, pix_fmt="yuvj420p", warp=wall),
        MadeVideo("kitchen.mpg", "mpeg2video", tuple(spoken[2:]), plain, subtitles=CAPTIONS,
                  beside=True),
        MadeVideo("museum.webm", "libvpx-vp9", SAID, plain, speech=SPEECH,
                  options=(("cpu-used", "8"), ("deadline", "realtime"))),
        MadeVideo("phone.3gp", "mpeg4", menu, tall, size=(360, 640), options=b_frames),
    ]  # fmt: skip


def write_videos(folder: Path) -> list[MadeVideo]:
    """Write the videos into a folder; the one with speech only where espeak-ng is installed."""
    folder.mkdir(parents=True, exist_ok=True)
    videos = [video for video in make_videos() if not video.speech or shutil.which("espeak-ng")]
    for video in videos:
        video.write(folder)
    return videos


def _speak(lines: tuple[tuple[str, float], ...]) -> np.ndarray:
    """Return mono sound, (N,) int16 at 48 kHz, in which lines are said at their times."""
    sound = np.zeros(48000 * SECONDS, np.int16)
    with tempfile.TemporaryDirectory() as folder:
        for text, start_s in lines:
            file = Path(folder) / "line.wav"
            subprocess.run(["espeak-ng", "-s", "140", "-w", str(file), text], check=True)
            with wave.open(str(file)) as opened:
                rate = opened.getframerate()
                said = np.frombuffer(opened.readframes(opened.getnframes()), np.int16)
            places = np.arange(int(len(said) * 48000 / rate)) * rate / 48000
            said = np.interp(places, np.arange(len(said)), said).astype(np.int16)
            first = int(48000 * start_s)
            sound[first : first + len(said)] = said[: len(sound) - first]
    return sound


def _mux_sound(container: Any, stream: Any, sound: np.ndarray) -> None:
    for first in range(0, len(sound), 960):
        frame = av.AudioFrame.from_ndarray(sound[None, first : first + 960], "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, first, Fraction(1, 48000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


@contextmanager
def _open_srt(lines: tuple[tuple[str, float, float], ...]) -> Iterator[Any]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "lines.srt"
        file.write_text(_format_srt(lines), encoding="utf-8")
        with av.open(str(file)) as opened:
            yield opened


def _format_srt(lines: tuple[tuple[str, float, float], ...]) -> str:
    def stamp(seconds: float) -> str:
        return f"00:00:{int(seconds):02},{round(1000 * seconds) % 1000:03}"

    return "".join(
        f"{number}\n{stamp(start_s)} --> {stamp(end_s)}\n{text}\n\n"
        for number, (text, start_s, end_s) in enumerate(lines, 1)
    )


@contextmanager
def running(*arguments: object) -> Iterator[tuple[Any, str]]:
    """Run find.py as a process; yields it and the address of its page, without a last slash."""
    command = [sys.executable, ROOT / "find.py", *arguments, "--no-browser", "--port", "0"]
    with tempfile.TemporaryDirectory() as folder:  # not the project's: it must not depend on it
        process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            cwd=folder, env=os.environ | ENVIRONMENT,
        )  # fmt: skip
        try:
            said = []
            for line in process.stdout:
                said.append(line)
                if found := re.search(r"http://[^\s/]+", line):
                    break
            else:
                raise RuntimeError("find.py ended:\n" + "".join(said))
            yield process, found.group()
        finally:
            process.terminate()
            process.wait(30)
            process.stdout.close()


def ask(address: str, path: str, **parameters: object) -> dict[str, Any]:
    """Return the JSON answer to a request."""
    query = urllib.parse.urlencode(parameters)
    with urllib.request.urlopen(f"{address}{path}?{query}", timeout=60) as answer:
        return json.load(answer)


def wait_until_done(address: str, timeout_s: float = WAIT_S) -> dict[str, Any]:
    """Wait until find.py has worked through the library; returns what /api/library says then."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = ask(address, "/api/library")
        if found["work"] is not None and found["work"]["state"] in ("done", "watching"):
            return found
        time.sleep(0.5)
    raise RuntimeError(f"find.py is not done after {timeout_s:g} s: {found['work']}")


def find(address: str, video: MadeVideo, shown: Shown) -> tuple[bool, bool]:
    """Whether a query's first video is the right one, and whether a moment of it is the right one.

    A moment counts where the searched text's own line is the matched one: those of other times are
    answers to what is alike, and come later.
    """
    answer = ask(address, "/api/videos/search", q=f'"{shown.query}"', mode="keyword", k=5)
    if not answer["videos"] or not answer["videos"][0]["video"].endswith(video.name):
        return False, False
    time_s = answer["videos"][0]["moments"][0]["time_s"]
    return True, shown.start_s - SLACK_S <= time_s <= shown.end_s + SLACK_S


def measure(folder: Path) -> measuring.Result:
    """Make the videos, run find.py on them, and search for all that they show."""
    videos = write_videos(folder / "videos")
    has_speech = find_spec("moonshine_voice") is not None
    options = ["--speech"] if has_speech else []
    start = time.perf_counter()
    rows = []
    with running(folder / "videos", "--library", folder / "library", "--model", "none",
                 *options) as (_, address):  # fmt: skip
        library = wait_until_done(address)
        seconds = time.perf_counter() - start
        for video in videos:
            for shown in video.shown:
                if shown.kind == "speech" and not has_speech:
                    continue
                is_first, is_then = find(address, video, shown)
                rows.append({"video": video.name, "codec": video.codec, "query": shown.query,
                             "kind": shown.kind, "first": is_first, "time": is_then})  # fmt: skip
    return {
        "seconds": seconds, "videos": library["num_videos"], "made": len(videos),
        "failed": library["work"]["failed"], "found": rows,
    }  # fmt: skip


def make_table(result: measuring.Result) -> str:
    """Return the results as Markdown: a row for each kind, and one for each video."""
    title = (
        f"{result['videos']} of {result['made']} videos of {SECONDS} s are in the library after "
        f"{result['seconds']:.0f} s"
    )
    tables = []
    for name in ("kind", "video"):
        rows = []
        for value in dict.fromkeys(row[name] for row in result["found"]):
            of_it = [row for row in result["found"] if row[name] == value]
            counts = [sum(row[key] for row in of_it) for key in ("first", "time")]
            rows.append([value, str(len(of_it)), *map(str, counts)])
        head = (name, "searched", "right video first", "right time")
        tables.append(measuring.format_table(head, rows))
    missed = [row["query"] for row in result["found"] if not row["time"]]
    note = f"\n\nnot found at their time: {', '.join(missed)}" if missed else ""
    return f"{measuring.format_head(result)}\n{title}\n\n" + "\n\n".join(tables) + note


def main() -> None:
    """Run the command."""
    parser = measuring.make_parser(__doc__)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="of videos and library")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        result = measuring.describe_machine() | measure(asked.keep or Path(name))
    measuring.write_result(result, asked.json, make_table)


if __name__ == "__main__":
    run_cli(main)
