"""Encoding of pictures as H.264 and of sound as AAC, each from any time to any other."""

from collections.abc import Iterator, Mapping
from fractions import Fraction
from math import ceil
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from retrieval.web.playback.decoding import (
    Job,
    compute_square_size,
    decode_from,
    demux,
    open_stream,
    seek,
)
from retrieval.web.playback.media import Media

CLOCK = 90_000  # units of a second, of pictures
SAMPLE_RATE, FRAME_SAMPLES = 48_000, 1024  # of sound, a second and a frame of AAC
MAX_SIDES = 1920, 1080  # of a picture, the longer and the shorter one
_LEAD, _TAIL = 2, 2  # frames of AAC around those wanted: each one overlaps with its neighbours
_SETTLE_S = 1.0  # that sound is decoded from before it is used
_JUMP_S = 0.03  # by which times of sound may differ from the count of its samples


class PictureEncoder:
    """H.264 of at most ``MAX_SIDES``, upright, with square pixels and without B-frames.

    Args:
        output: container that a stream is added to.
        options: of x264.
    """

    def __init__(self, media: Media, output: Any, options: Mapping[str, str], job: Job) -> None:
        self._media, self._job = media, job
        self._frames: Iterator[tuple[float, Any]] = iter(())
        self._output, self._options = output, dict(options) | {"bf": "0"}
        self._graph: Any = None
        self._graph_input: tuple[Any, ...] = ()

    def add_stream(self, start_s: Fraction | float) -> bool:
        """Add a stream of the size of the frame shown at a time; False: there is no frame."""
        self._frames = decode_from(self._media, start_s, self._job)
        frame = self._first = next((frame for _, frame in self._frames), None)
        if frame is None:
            return False
        self._size = _fit(*compute_square_size(self._media, frame))
        width, height = self._size[:: -1 if self._media.orientation.is_transposed else 1]
        self.stream = self._output.add_stream("libx264", rate=30, options=self._options)
        context = self.stream.codec_context
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base = Fraction(1, CLOCK)
        context.thread_count = self._job.num_threads
        # As the file says; where it says nothing a browser guesses as it would have of the file.
        context.color_range = 1
        context.colorspace = 1 if _is_rgb(frame) else frame.colorspace
        context.color_primaries, context.color_trc = frame.color_primaries, frame.color_trc
        return True

    def encode(self, start_s: Fraction | float, end_s: Fraction | float) -> Iterator[Any]:
        """Yield the packets of a time span; times begin at 0, and all of the span is covered.

        The first frame is the one that is shown at its start.
        """
        length, held, last = _to_clock(end_s - start_s), None, -1
        for packet in self._encode_frames(start_s, end_s):
            if held is not None:
                held.duration = packet.pts - held.pts
                yield held
            held, last = packet, packet.pts
        if held is not None:
            held.duration = max(1, length - last)
            yield held

    def _encode_frames(self, start_s: Fraction | float, end_s: Fraction | float) -> Iterator[Any]:
        yield from self.stream.encode(self._convert(self._first, 0))
        last = 0
        for time_s, frame in self._frames:
            if time_s >= end_s:
                break
            stamp = _to_clock(time_s - start_s)
            if stamp > last:
                last = stamp
                yield from self.stream.encode(self._convert(frame, stamp))
        yield from self.stream.encode(None)

    def _convert(self, frame: Any, stamp: int) -> Any:
        """Return a frame upright, in the size and form that are encoded."""
        frame.pts, frame.time_base = stamp, Fraction(1, CLOCK)
        given = frame.width, frame.height, frame.format.name
        if given != self._graph_input:
            self._graph, self._graph_input = self._build_graph(frame), given
        self._graph.vpush(frame)
        made = self._graph.vpull()
        made.pts, made.time_base, made.pict_type = stamp, Fraction(1, CLOCK), 0
        return made

    def _build_graph(self, frame: Any) -> Any:
        graph = av.filter.Graph()
        steps = [
            graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format,
                time_base=Fraction(1, CLOCK),
            )
        ]  # fmt: skip
        matrix = ":out_color_matrix=bt709" if _is_rgb(frame) else ""
        size = "{}:{}".format(*self._size)
        steps.append(graph.add("scale", f"{size}:flags=bicubic:out_range=tv{matrix}"))
        steps.append(graph.add("format", "yuv420p"))
        steps += [graph.add(*one) for one in self._media.orientation.list_filters()]
        steps.append(graph.add("setsar", "1"))
        steps.append(graph.add("buffersink"))
        graph.link_nodes(*steps).configure()
        return graph


def _is_rgb(frame: Any) -> bool:
    return frame.format.is_rgb or frame.format.name == "pal8"


def _to_clock(seconds: Fraction | float) -> int:
    return round(seconds * CLOCK)


def _fit(width: int, height: int) -> tuple[int, int]:
    """Return a size of at most ``MAX_SIDES`` of the same shape, in even numbers."""
    longer, shorter = max(width, height), min(width, height)
    scale = min(1.0, MAX_SIDES[0] / longer, MAX_SIDES[1] / shorter)
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


class SoundEncoder:
    """AAC of the first sound, silence where there is none.

    Frames of AAC lie on one grid of the whole video, whatever is encoded of it, and each is encoded
    with its neighbours: pieces that are made apart join without a gap or a click.
    """

    def __init__(self, media: Media, output: Any, job: Job) -> None:
        self._media, self._job = media, job
        with open_stream(media, media.audio) as (_, stream):
            self._layout = "mono" if stream.codec_context.channels == 1 else "stereo"
        self.stream = output.add_stream("aac", rate=SAMPLE_RATE, layout=self._layout)
        self.stream.codec_context.bit_rate = 160_000

    def encode(self, start_s: Fraction | float, end_s: Fraction | float) -> Iterator[Any]:
        """Yield the packets that begin in a time span; times are of the whole video."""
        first, stop = (ceil(Fraction(s) * SAMPLE_RATE / FRAME_SAMPLES) for s in (start_s, end_s))
        begin, end = (first - _LEAD) * FRAME_SAMPLES, (stop + _TAIL) * FRAME_SAMPLES
        samples = read_samples(self._media, begin, end, self._layout, self._job)
        for packet in self._encode_samples(samples, begin):
            if first * FRAME_SAMPLES <= packet.pts < stop * FRAME_SAMPLES:
                packet.dts, packet.duration = packet.pts, FRAME_SAMPLES
                yield packet

    def _encode_samples(self, samples: NDArray, begin: int) -> Iterator[Any]:
        for position in range(0, samples.shape[1], FRAME_SAMPLES):
            self._job.check()
            part = np.ascontiguousarray(samples[:, position : position + FRAME_SAMPLES])
            frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=self._layout)
            frame.sample_rate, frame.time_base = SAMPLE_RATE, Fraction(1, SAMPLE_RATE)
            frame.pts = begin + position
            yield from self.stream.encode(frame)
        yield from self.stream.encode(None)


def read_samples(media: Media, begin: int, end: int, layout: str, job: Job) -> NDArray:
    """Decode sound.

    Args:
        begin: first sample of the video's time, at ``SAMPLE_RATE``; may be negative.
        end: the sample after the last one.

    Returns:
        (C, end - begin) float32, zeros where there is no sound.
    """
    samples = np.zeros((1 if layout == "mono" else 2, end - begin), dtype=np.float32)
    for position, part in _decode_sound(media, begin, end, layout, job):
        first, stop = max(position, begin), min(position + part.shape[1], end)
        if first < stop:
            samples[:, first - begin : stop - begin] = part[:, first - position : stop - position]
    return samples


def _decode_sound(
    media: Media, begin: int, end: int, layout: str, job: Job
) -> Iterator[tuple[int, NDArray]]:
    """Yield stretches of sound without gaps, each with the position of its first sample.

    Time stamps are often rounded, to a millisecond for instance: a stretch begins where all of its
    stamps together say.
    """
    parts: list[NDArray] = []
    starts: list[float] = []  # of the stretch, as each stamp has it
    count = 0.0
    for position, length, part in _resample(media, begin, end, layout, job):
        if parts and abs(position - count - np.mean(starts)) > _JUMP_S * SAMPLE_RATE:
            yield round(float(np.mean(starts))), np.concatenate(parts, axis=1)
            parts, starts, count = [], [], 0.0
        parts.append(part)
        starts.append(position - count)
        count += length
    if parts:
        yield round(float(np.mean(starts))), np.concatenate(parts, axis=1)


def _resample(
    media: Media, begin: int, end: int, layout: str, job: Job
) -> Iterator[tuple[float, float, NDArray]]:
    """Yield decoded sound from a little before a time.

    Each with the position that its time stamp says, and how many samples it lasts; the resampler
    holds a few of them back.
    """
    resampler, given = None, None
    for frame in _decode_frames(
        media, Fraction(begin, SAMPLE_RATE), Fraction(end, SAMPLE_RATE), job
    ):
        position = float(media.to_seconds(frame.pts, frame.time_base) * SAMPLE_RATE)
        length = frame.samples * SAMPLE_RATE / frame.sample_rate
        if given != (frame.format.name, frame.layout.name, frame.sample_rate):
            given = frame.format.name, frame.layout.name, frame.sample_rate
            resampler = av.AudioResampler(format="fltp", layout=layout, rate=SAMPLE_RATE)
        frame.pts = None
        made = [one.to_ndarray() for one in resampler.resample(frame)]
        empty = np.zeros((1 if layout == "mono" else 2, 0), dtype=np.float32)
        yield position, length, np.concatenate([empty, *made], axis=1)


def _decode_frames(media: Media, start_s: Fraction, end_s: Fraction, job: Job) -> Iterator[Any]:
    """Yield frames of sound from ``_SETTLE_S`` before a time on, up to another one."""
    assert media.audio is not None
    start_s -= Fraction(_SETTLE_S)
    with open_stream(media, media.audio) as (container, stream):
        # Sound often stands a little before the pictures of its time.
        if start_s > 1 and not seek(container, media, start_s - 1):
            return
        for packet in demux(container, stream, job):
            if packet.pts is not None:
                time_s = media.to_seconds(packet.pts, packet.time_base)
                if time_s > end_s:
                    return
                if time_s < start_s:
                    continue
            try:
                yield from (frame for frame in packet.decode() if frame.pts is not None)
            except av.FFmpegError:
                continue
