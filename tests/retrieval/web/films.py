"""Small films in many containers, whose frames say their number, and an index of them.

The upper half of a frame has ten bars, black or white: the bits of its number. The lower half has
the colour of the second. The sound is a sine.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from retrieval.index.records import ContentStamp, NewVideo, encode_path
from retrieval.index.writer import IndexWriter, lock_index
from tests.retrieval.made_index import create, made_embeddings, made_video

WIDTH, HEIGHT, FPS = 160, 96, 25
BITS, BAR = 10, WIDTH // 10
COLOURS = [
    (200, 60, 60), (60, 160, 60), (60, 80, 200), (200, 180, 60), (160, 60, 180),
    (60, 180, 180), (120, 120, 120),
]  # fmt: skip
HERTZ, LOUDNESS = 440.0, 0.4


@dataclass(frozen=True)
class Film:
    """How a film is written."""

    name: str
    codec: str
    sound: str | None = None
    pix_fmt: str = "yuv420p"
    container: str | None = None  # None: by the name's ending
    options: dict[str, str] = field(default_factory=dict)
    rate: int = 48000  # of the sound
    seconds: float = 13.0
    late_s: float = 0.0  # after the sound
    sound_span: tuple[float, float] = (-1e9, 1e9)  # of the video, seconds
    frames: Sequence[int] | None = None  # the numbers of those that there are; None: all
    rotation: int = 0
    ratio: Fraction = Fraction(1)  # of a pixel
    size: tuple[int, int] = (WIDTH, HEIGHT)


X264 = {"bf": "2", "g": "40", "sc_threshold": "0", "threads": "1", "preset": "veryfast"}
X265 = {"x265-params": "log-level=error:keyint=40:bframes=2", "preset": "superfast"}
FAST = {"deadline": "realtime", "cpu-used": "8"}
FILMS = [
    Film("plain.mp4", "libx264", "aac", options=X264),
    Film("vp9.webm", "libvpx-vp9", "libopus", options=FAST),
    Film("hevc.mp4", "libx265", "aac", options=X265),
    Film("b-frames.avi", "mpeg4", "libmp3lame", options={"bf": "2", "g": "40"}, rate=44100),
    Film("remux.avi", "libx264", "libmp3lame", options=X264 | {"bf": "0"}, rate=44100),
    Film("pyramid.avi", "libx264", options=X264 | {"bf": "3", "b-pyramid": "normal"}),
    Film("remux.flv", "libx264", "aac", options=X264, rate=44100),
    Film("remux.ts", "libx264", "aac", options=X264),
    Film("remux.mkv", "libx264", "ac3", options=X264),
    Film("broadcast.mpg", "mpeg2video", "mp2", options={"bf": "2", "g": "15"}),
    Film("prores.mov", "prores_ks", "pcm_s16le", pix_fmt="yuv422p10le"),
    Film("vp8.ogv", "libvpx", "libopus", container="ogg", options=FAST),
    Film("animation.gif", "gif", pix_fmt="rgb8"),
    Film("old.flv", "flv", "libmp3lame", rate=44100),
    Film("phone.3gp", "mpeg4", "aac", options={"g": "40"}),
    Film("screen.wmv", "wmv2", "wmav2", container="asf", options={"g": "40"}, rate=44100),
    Film("mjpeg.avi", "mjpeg", "pcm_s16le", pix_fmt="yuvj420p"),
]  # fmt: skip
FILM_NAMED = {film.name: film for film in FILMS}


def draw_frame(number: int) -> np.ndarray:
    """(H, W, 3) uint8."""
    image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    image[:] = COLOURS[number // FPS % len(COLOURS)]
    for bit in range(BITS):
        image[: HEIGHT // 2, bit * BAR : (bit + 1) * BAR] = 235 if number >> bit & 1 else 20
    return image


def read_number(image: np.ndarray) -> int:
    """Return the number that a picture of a frame says, whatever its size."""
    height, width = image.shape[:2]
    bits = [
        image[height // 6 : height // 3, round((bit + 0.5) * width / BITS)].mean() > 128
        for bit in range(BITS)
    ]
    return sum(1 << bit for bit, is_set in enumerate(bits) if is_set)


def make_sine(first: int, count: int, rate: int) -> np.ndarray:
    """(count,) float32 of the film's sound."""
    times = (first + np.arange(count)) / rate
    return (LOUDNESS * np.sin(2 * np.pi * HERTZ * times)).astype(np.float32)


def write_film(folder: Path, film: Film) -> Path:
    """Write a film; its file is returned."""
    file = folder / film.name
    with av.open(str(file), "w", format=film.container) as container:
        video = container.add_stream(film.codec, rate=FPS, options=film.options)
        (video.width, video.height), video.pix_fmt = film.size, film.pix_fmt
        video.codec_context.sample_aspect_ratio = film.ratio
        if film.rotation:
            video.set_display_rotation(film.rotation)
        sound = None
        if film.sound is not None:
            layout = "stereo" if film.sound != "pcm_s16le" else "mono"
            sound = container.add_stream(film.sound, rate=film.rate, layout=layout)
            sound.codec_context.bit_rate = 128_000
        packets = list(_encode_pictures(video, film))
        if sound is not None:
            packets += _encode_sound(sound, film)
        # Interleaved, as recorders do it.
        packets.sort(key=lambda one: (one.dts or 0) * one.time_base)
        for packet in packets:
            container.mux(packet)
    return file


def _encode_pictures(stream, film: Film) -> Iterable[av.Packet]:
    numbers = film.frames if film.frames is not None else range(round(film.seconds * FPS))
    for number in numbers:
        frame = av.VideoFrame.from_ndarray(draw_frame(number), format="rgb24")
        frame = frame.reformat(*film.size, format=film.pix_fmt)
        frame.pts, frame.time_base = number + round(film.late_s * FPS), Fraction(1, FPS)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _encode_sound(stream, film: Film) -> Iterable[av.Packet]:
    context = stream.codec_context
    context.open()
    size = context.frame_size or 1024
    for first in range(0, round((film.seconds + film.late_s) * film.rate), size):
        time_s = first / film.rate - film.late_s
        if not film.sound_span[0] <= time_s < film.sound_span[1]:
            continue
        samples = make_sine(first, size, film.rate)
        format_ = context.format.name
        if format_[0] == "s":
            kind = np.int16 if format_.startswith("s16") else np.int32
            samples = (samples * float(np.iinfo(kind).max)).astype(kind)
        channels = np.stack([samples] * context.layout.nb_channels)
        if not context.format.is_planar:
            channels = channels.T.reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(channels), format=format_, layout=context.layout.name
        )
        frame.sample_rate, frame.pts = film.rate, first
        frame.time_base = Fraction(1, film.rate)
        yield from stream.encode(frame)
    yield from stream.encode(None)


def index_films(folder: Path, videos: Path, seconds: dict[str, float]) -> Path:
    """Return a new index of the videos with these names and lengths."""
    create(folder)
    rows = made_embeddings(len(seconds))
    entries = [
        NewVideo(
            name, ContentStamp.of(videos / name), None, length, WIDTH, HEIGHT,
            made_video(name, [], rows[number : number + 1]).entries, [],
        )
        for number, (name, length) in enumerate(seconds.items())
    ]  # fmt: skip
    with lock_index(folder), IndexWriter(folder) as writer:
        writer.write(entries, ())
        writer.set_meta(folder=encode_path(videos))
    return folder
