"""Sound of a video: decoded and resampled to what a recogniser hears, a little at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.spoken.timeline import open_streams

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer

RATE = 16_000  # samples a second
_GAP_S = 0.25  # a jump of the time stamps that is more than their rounding
_ENGLISH = ("eng", "en")


class SoundPiece(NamedTuple):
    """Some samples of one channel."""

    samples: NDArray  # (N,) float32 in [-1, 1]
    start_s: float | None  # by the file's clock, where they don't follow those before; else None


def choose_stream(container: "InputContainer") -> "AudioStream | None":
    """Return the track that is listened to: the English one, else the one that players choose."""
    streams = [stream for stream in container.streams.audio if stream.codec_context is not None]
    english = [stream for stream in streams if (stream.language or "").lower() in _ENGLISH]
    return next(iter(english or streams), None)


def has_sound(path: Path) -> bool:
    """Whether a video has a track of sound; raises ``UserError``."""
    with open_streams(path) as container:
        return choose_stream(container) is not None


def read_duration(path: Path) -> float:
    """Return how many seconds a file lasts, as far as it says; 0: it doesn't."""
    import av

    with open_streams(path) as container:
        return (container.duration or 0) / av.time_base


def stream_sound(path: Path) -> Iterator[SoundPiece]:
    """Yield the sound of a video, in order; none where it has no sound.

    What is damaged is left out. Raises ``UserError`` where the file can't be read.
    """
    with open_streams(path) as container:
        stream = choose_stream(container)
        if stream is None:
            return
        stream.thread_type = "NONE"  # one of several processes
        resampler, expected_s = _make_resampler(), None
        for frame in _decode_frames(container, stream):
            time_s = expected_s if frame.time is None else frame.time
            time_s = 0.0 if time_s is None else time_s
            start_s = None
            if expected_s is None or abs(time_s - expected_s) > _GAP_S:
                if expected_s is not None:
                    yield from _resample(resampler, None, None)
                resampler, start_s, expected_s = _make_resampler(), time_s, time_s
            expected_s += frame.samples / frame.sample_rate
            try:
                yield from _resample(resampler, frame, start_s)
            except ValueError:  # the sound changes its form: other channels, or another rate
                yield from _resample(resampler, None, None)
                resampler = _make_resampler()
                yield from _resample(resampler, frame, time_s)
        if expected_s is not None:
            yield from _resample(resampler, None, None)


def _make_resampler() -> "object":
    import av

    return av.AudioResampler(format="flt", layout="mono", rate=RATE)


def _resample(
    resampler: "object", frame: "AudioFrame | None", start_s: float | None
) -> Iterator[SoundPiece]:
    """Yield what a frame gives; None: what the resampler still holds."""
    pieces = [piece.to_ndarray().ravel() for piece in resampler.resample(frame)]
    samples = np.concatenate([np.zeros(0, np.float32), *pieces])
    if len(samples) or start_s is not None:
        yield SoundPiece(np.nan_to_num(samples), start_s)


def _decode_frames(container: "InputContainer", stream: "AudioStream") -> Iterator["AudioFrame"]:
    import av

    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except av.error.FFmpegError:  # one damaged packet; the next ones may be sound
            continue
