"""Small real video files for tests, made with PyAV; a frame's pixels tell its number."""

from fractions import Fraction
from pathlib import Path

import numpy as np


def make_frames(num_frames: int, width: int, height: int, seed: int = 0) -> np.ndarray:
    """(N, H, W, 3) uint8: coloured blocks that move, so that no two frames are alike."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    image = blocks.repeat(8, axis=0).repeat(8, axis=1)
    moved = [np.roll(image, (number, 2 * number), axis=(0, 1)) for number in range(num_frames)]
    return np.stack(moved)[:, :height, :width]


def write_video(
    path: Path,
    num_frames: int = 30,
    width: int = 64,
    height: int = 48,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    start: int = 0,
    gop: int = 12,
    x264: str = "bframes=2",
    faststart: bool = False,
) -> Path:
    """Encode ``make_frames`` at 25 frames a second.

    ``start`` is the first frame's time stamp, in frames; ``x264`` are its own options.
    """
    import av

    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.thread_count = 1
        stream.options = {"g": str(gop)}
        if codec == "libx264":
            stream.options |= {"preset": "veryfast", "crf": "18", "x264-params": x264}
        for number, image in enumerate(make_frames(num_frames, width, height)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame = frame.reformat(format=pix_fmt)
            frame.pts, frame.time_base = number + start, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_trimmed(path: Path, source: Path, num_hidden: int) -> Path:
    """Copy an MP4 with its first frames hidden by an edit list, as ``ffmpeg -ss -c copy`` does."""
    import av

    with av.open(str(source)) as container, av.open(str(path), "w") as out:
        stream = container.streams.video[0]
        copy = out.add_stream_from_template(stream)
        shift = int(Fraction(num_hidden, 25) / stream.time_base)
        for packet in container.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                out.mux(packet)
    return path


def write_rotated(path: Path, source: Path) -> Path:
    """Copy an MP4 and set the track's matrix so that players turn it by 90 degrees."""
    one = 1 << 16
    return write_turned(path, source, [0, one, -one, 0])


def write_turned(path: Path, source: Path, matrix: list[int]) -> Path:
    """Copy an MP4 and set a, b, c and d of the track's matrix (ISO/IEC 14496-12, 6.2.2)."""
    data = bytearray(source.read_bytes())
    place = data.index(b"tkhd") + 4 + 40  # the version-0 header's fields stand before it
    a, b, c, d = matrix
    whole = [a, b, 0, c, d, 0, 0, 0, 1 << 30]
    data[place : place + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in whole)
    path.write_bytes(data)
    return path


def truncate(path: Path, source: Path, share: float) -> Path:
    """Copy the first ``share`` of a file's bytes."""
    data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def damage(path: Path, source: Path) -> Path:
    """Copy a file with 600 zero bytes in the middle."""
    data = bytearray(source.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 600] = bytes(600)
    path.write_bytes(data)
    return path


def read_packets(path: Path) -> list[tuple[int | None, bytes]]:
    """Time stamp and data of each packet."""
    import av

    with av.open(str(path)) as container:
        return [(packet.pts, bytes(packet)) for packet in container.demux(video=0) if packet.size]


def break_packets(path: Path, source: Path, numbers: list[int]) -> Path:
    """Copy a file in which the data of some packets, all but their start codes, is overwritten."""
    data, packets = bytearray(source.read_bytes()), read_packets(source)
    for number in numbers:
        packet = packets[number][1]
        assert data.count(packet) == 1
        start = data.index(packet)
        data[start : start + len(packet)] = b"\xff" * len(packet)
    path.write_bytes(data)
    return path


def write_audio(path: Path) -> Path:
    """A second of silence in a container without a video stream."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        samples = np.zeros((1, 16000), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
