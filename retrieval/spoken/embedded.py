"""Subtitle tracks within a video file (SubRip, SubStation Alpha, MOV text, WebVTT)."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.spoken.subtitles import Caption, SpokenLine, clean_lines, merge_captions
from retrieval.spoken.timeline import open_streams

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.subtitles.stream import SubtitleStream

logger = logging.getLogger(__name__)

_UNSAID_S = 3.0  # how long a subtitle is shown whose packet doesn't say it
_NUM_FIELDS = 8  # of a dialogue in the decoder's form (SubStation Alpha), before its text


def read_embedded_subtitles(path: Path) -> list[SpokenLine]:
    """Return what all subtitle tracks of a video say, by the file's own clock.

    Tracks of pictures (of DVDs, Blu-rays and television) are named in the log and left out; so is
    one that can't be decoded. Raises ``UserError`` where the file can't be read.
    """
    spoken: list[SpokenLine] = []
    with open_streams(path) as container:
        streams = [stream for stream in container.streams.subtitles if _is_text(stream)]
        for stream in container.streams.subtitles:
            if stream not in streams:
                logger.warning(
                    "%s: its subtitle track %d (%s) holds pictures, not text, and is left out",
                    path, stream.index, describe_codec(stream),
                )  # fmt: skip
        if streams:
            captions = _read_captions(container, streams, path)
            for number in sorted({index for index, _ in captions}):
                spoken += merge_captions(sorted(c for index, c in captions if index == number))
    return spoken


def has_subtitles(path: Path) -> bool:
    """Whether a video has a track of subtitles that stands for what is said; raises ``UserError``.

    "Forced" ones are of the few lines in another language.
    """
    from av.stream import Disposition

    with open_streams(path) as container:
        return any(
            _is_text(stream) and not stream.disposition & Disposition.forced
            for stream in container.streams.subtitles
        )


def _is_text(stream: "SubtitleStream") -> bool:
    codec = stream.codec_context
    return codec is not None and bool(codec.codec.text_sub)


def describe_codec(stream: "SubtitleStream") -> str:
    """Return the name of a track's form."""
    return "unknown" if stream.codec_context is None else stream.codec_context.codec.name


def _read_captions(
    container: "InputContainer", streams: "list[SubtitleStream]", path: Path
) -> list[tuple[int, Caption]]:
    """Return the captions of several tracks, with the tracks' numbers; the file is read once."""
    import av

    captions: list[tuple[int, Caption]] = []
    num_damaged = 0
    for packet in container.demux(streams):
        if not packet.size or packet.pts is None:
            continue
        start_s = float(packet.pts * packet.time_base)
        seconds = float((packet.duration or 0) * packet.time_base)
        end_s = start_s + (seconds if seconds > 0 else _UNSAID_S)
        try:
            lines = tuple(_decode_lines(packet))
        except (av.error.FFmpegError, ValueError):
            num_damaged += 1
            continue
        if lines:
            captions.append((packet.stream_index, Caption(start_s, end_s, lines)))
    if num_damaged:
        logger.warning("%s: %d of its subtitles can't be decoded", path, num_damaged)
    return captions


def _decode_lines(packet: object) -> Iterator[str]:
    import pysubs2

    for rectangle in packet.decode():
        fields = rectangle.ass.decode("utf-8", "replace").split(",", _NUM_FIELDS)
        event = pysubs2.SSAEvent(text=fields[-1])
        if event.is_text:
            yield from clean_lines(event.plaintext)
