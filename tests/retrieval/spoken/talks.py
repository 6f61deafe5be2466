"""Small real videos with sound and subtitles, made with PyAV and eSpeak NG."""

import shutil
import subprocess
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.videos import make_frames

RATE = 22_050  # of eSpeak's voices
NEEDS_VOICE = pytest.mark.skipif(
    shutil.which("espeak-ng") is None, reason="needs espeak-ng, which speaks"
)
_MILLI = Fraction(1, 1000)
_HEADER = b"""[Script Info]
ScriptType: v4.00+

[V4+ Styles]
Format: Name, Fontname, Fontsize, PrimaryColour, Alignment, Encoding
Style: Default,Arial,16,&Hffffff,2,1

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
"""

Cue = tuple[float, float, str]  # seconds, and SubStation's text


def say(text: str) -> np.ndarray:
    """(N,) float32 at ``RATE``."""
    spoken = subprocess.run(
        ["espeak-ng", "-s", "140", "--stdout", text], capture_output=True, check=True
    )
    return np.frombuffer(spoken.stdout[44:], np.int16).astype(np.float32) / 32768


def place(seconds: float, *parts: tuple[float, np.ndarray]) -> np.ndarray:
    """Silence of some seconds with sounds in it: (when, samples)."""
    sound = np.zeros(int(seconds * RATE), np.float32)
    for start_s, samples in parts:
        first = int(start_s * RATE)
        sound[first : first + len(samples)] += samples
    return sound


def write_talk(
    path: Path,
    seconds: float = 8.0,
    *,
    sound: np.ndarray | None = None,
    subtitles: Sequence[tuple[str, Sequence[Cue]]] = (),
    video_start_s: float = 0.0,
) -> Path:
    """Encode 64 x 48 H.264 at 5 frames a second, AAC, and tracks of subtitles (codec, cues)."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=5)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        video.options = {"preset": "ultrafast"}
        video.codec_context.thread_count = 1
        audio = None
        if sound is not None:
            audio = container.add_stream("aac", rate=RATE, layout="mono")
        tracks = []
        for codec, cues in subtitles:
            stream = container.add_stream(codec)
            stream.codec_context.subtitle_header = _HEADER
            stream.codec_context.time_base = stream.time_base = _MILLI
            tracks.append((stream, cues))
        container.start_encoding()
        for stream, cues in tracks:
            _mux_cues(container, stream, cues)
        if audio is not None:
            _mux_sound(container, audio, sound)
        images = make_frames(8, 64, 48)
        for number in range(int(seconds * 5)):
            image = np.ascontiguousarray(images[number % 8])
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number + round(video_start_s * 5), Fraction(1, 5)
            container.mux(video.encode(frame))
        container.mux(video.encode())
    return path


def _mux_cues(container, stream, cues: Sequence[Cue]) -> None:
    from av.subtitles.subtitle import SubtitleSet

    for number, (start_s, end_s, text) in enumerate(cues):
        start, length = round(start_s * 1000), round((end_s - start_s) * 1000)
        line = f"{number},0,Default,,0,0,0,,{text}".encode()
        packet = stream.codec_context.encode_subtitle(
            SubtitleSet.create(line, 0, length, pts=start * 1000)
        )
        packet.stream, packet.time_base = stream, _MILLI
        packet.pts = packet.dts = start
        packet.duration = length
        container.mux(packet)


def _mux_sound(container, stream, sound: np.ndarray) -> None:
    import av

    size = 1024
    for first in range(0, len(sound), size):
        samples = np.ascontiguousarray(sound[None, first : first + size])
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, first, Fraction(1, RATE)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
