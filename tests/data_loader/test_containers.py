"""Containers and codecs: what FFmpeg decodes is read, frame by frame as FFmpeg shows it.

README's table is compared with what is encoded and read here. ``repeats.ogv`` holds FFmpeg's own
test picture, twelve times 1/25 s, of which seven only say "as before": PyAV has no Theora encoder.
"""

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_loader.readers.av_reader import PacketFacts, choose_times
from data_loader.readers.base_reader import VideoError
from data_loader.readers.container import (
    SEARCHABLE_EXTENSIONS,
    list_searchable,
)
from data_loader.readers.frame_times import is_nearly_ascending, mend_times
from data_loader.readers.packet_headers import is_hidden_vp8, is_hidden_vp9
from data_loader.readers.video_readers import open_video
from tests.conftest import ROOT
from tests.videos import make_frames
from utils.files import FileListing

av = pytest.importorskip("av")

REPEATS = Path(__file__).with_name("repeats.ogv")
NUM_FRAMES = 12
CONTAINERS = "mp4 mov mkv webm avi flv ts mpg ogv gif 3gp wmv mxf".split()
CODECS = {  # name in the table -> encoder, pixel format, options
    "H.264": ("libx264", "yuv420p", {"preset": "veryfast", "bf": "2", "g": "6"}),
    "HEVC": ("libx265", "yuv420p", {"preset": "ultrafast", "x265-params":
             "log-level=none:pools=1:frame-threads=1:bframes=2:keyint=6"}),
    "VP8": ("libvpx", "yuv420p", {"deadline": "realtime", "cpu-used": "8"}),
    "VP9": ("libvpx-vp9", "yuv420p", {"deadline": "realtime", "cpu-used": "8"}),
    # SVT-AV1 takes real-time priority where it may, and can then starve the machine.
    "AV1": ("libaom-av1", "yuv420p", {"cpu-used": "8", "usage": "realtime"}),
    "MPEG-4": ("mpeg4", "yuv420p", {"bf": "2", "g": "6"}),
    "MPEG-2": ("mpeg2video", "yuv420p", {"bf": "2", "g": "6"}),
    "MPEG-1": ("mpeg1video", "yuv420p", {"bf": "2", "g": "6"}),
    "Theora": ("", "", {}),
    "MJPEG": ("mjpeg", "yuvj420p", {}),
    "ProRes": ("prores", "yuv422p10le", {}),
    "GIF": ("gif", "rgb8", {}),
    "H.263": ("h263", "yuv420p", {}),
    "WMV": ("wmv2", "yuv420p", {}),
}  # fmt: skip


def write(path: Path, codec: str) -> Path:
    """Encode ``make_frames``; Theora is copied. Raises where the container can't hold the codec."""
    encoder, pix_fmt, options = CODECS[codec]
    if not encoder:
        return copy_packets(path, REPEATS)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=25)
        stream.width, stream.height, stream.pix_fmt = 176, 144, pix_fmt  # a size that H.263 has
        stream.codec_context.thread_count, stream.options = 1, options
        for number, image in enumerate(make_frames(NUM_FRAMES, 176, 144)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame = frame.reformat(format=pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def copy_packets(path: Path, source: Path, keep=lambda number, packet: [packet]) -> Path:
    """Copy a video's packets; ``keep`` gives those that stand for each one."""
    with av.open(str(source)) as container, av.open(str(path), "w") as out:
        stream = container.streams.video[0]
        copy = out.add_stream_from_template(stream, opaque=True)
        packets = [packet for packet in container.demux(stream) if packet.size]
        for number, packet in enumerate(packets):
            for kept in keep(number, packet):
                kept.stream = copy
                out.mux(kept)
    return path


def decode(path: Path) -> list[np.ndarray]:
    """What FFmpeg shows; as its own tools do, packets without data are left out."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        packets = [packet for packet in container.demux(stream) if packet.size]
        frames = [frame for packet in packets for frame in packet.decode()]
        frames += stream.codec_context.decode(None)
        return [frame.to_ndarray(format="rgb24") for frame in frames]


def try_combination(path: Path, codec: str) -> str:
    """Return the table's cell; "" where this PyAV has no such encoder."""
    encoder = CODECS[codec][0]
    try:
        if encoder:
            av.Codec(encoder, "w")
    except ValueError:
        return ""
    try:
        expected = decode(write(path, codec))
    except (av.error.FFmpegError, ValueError, IndexError):
        return "–"
    if not expected:
        return "–"
    assert len(expected) == (NUM_FRAMES if encoder else 5)
    assert_reads(path, expected)
    return "✓"


def assert_reads(path: Path, expected: list[np.ndarray]) -> np.ndarray:
    """All frames, and some out of order, are as they should be; returns their times."""
    with open_video(path, "av") as video:
        assert video.num_frames == len(expected)
        np.testing.assert_array_equal(video.frames(range(len(expected))), expected)
        some = [len(expected) - 1, 0, len(expected) // 2]
        np.testing.assert_array_equal(video.frames(some), np.stack(expected)[some])
        times = video.times()
    assert times[0] == 0 and (np.diff(times) >= 0).all() and times[-1] > 0
    return times


def read_table() -> dict[str, dict[str, str]]:
    """README's table: container -> codec -> cell."""
    lines = (ROOT / "README.md").read_text().split("## Search your own videos")[1].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    first = next(number for number, row in enumerate(rows) if row[1:] == list(CODECS))
    table = {}
    for name, *cells in rows[first + 2 : first + 2 + len(CONTAINERS)]:
        table[name] = dict(zip(CODECS, cells, strict=True))
    return table


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setitem(os.environ, "SVT_LOG", "0")


@pytest.mark.parametrize("container", CONTAINERS)
def test_what_ffmpeg_decodes_is_read_as_the_readme_says(tmp_path, container):
    assert f".{container}" in SEARCHABLE_EXTENSIONS
    found = {codec: try_combination(tmp_path / f"{codec}.{container}", codec) for codec in CODECS}
    said = read_table()[container]
    assert {codec: cell or said[codec] for codec, cell in found.items()} == said
    assert "✓" in found.values()


def test_pictures_that_are_as_before_are_no_frames_of_their_own():
    times = assert_reads(REPEATS, decode(REPEATS))
    np.testing.assert_allclose(times * 25, [0, 3, 6, 7, 9])


def test_a_container_that_tells_few_times_has_the_rate_of_its_frames(tmp_path):
    path = write(tmp_path / "a.vob", "H.264")
    with av.open(str(path)) as container:
        assert None in [packet.pts for packet in container.demux(video=0) if packet.size]
    times = assert_reads(path, decode(path))
    np.testing.assert_allclose(times, np.arange(NUM_FRAMES) / 25)


def test_times_before_zero_and_uneven_ones_are_told_from_the_first_frame(tmp_path):
    shown = [-7, -5, -4, 0, 3, 4]
    with av.open(str(tmp_path / "a.asf"), "w", options={"avoid_negative_ts": "disabled"}) as out:
        stream = out.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for image, time in zip(make_frames(6, 64, 48), shown, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 25)
            out.mux(stream.encode(frame))
    with av.open(str(tmp_path / "a.asf")) as container:
        assert next(container.demux(video=0)).pts < 0
    times = assert_reads(tmp_path / "a.asf", decode(tmp_path / "a.asf"))
    np.testing.assert_allclose(times * 25, [0, 2, 3, 7, 10, 11])


def test_times_are_those_of_decoding_where_only_they_are_told():
    facts = [PacketFacts(pts, dts, True, True) for pts, dts in ((None, 3), (8, 4), (5, 6))]
    assert choose_times(facts) == [3, 4, 6]
    assert choose_times([PacketFacts(None, None, True, True)]) is None


def test_frames_are_counted_by_times_that_a_decoder_could_have_reordered():
    assert is_nearly_ascending([0, 3, 1, 2]) and not is_nearly_ascending([0, 2, 2, 1])
    assert not is_nearly_ascending([*range(40), *range(100, 140), 41, 42])  # begins anew
    assert not is_nearly_ascending([*range(40), 10**9, *range(41, 80)])


def test_times_follow_the_order_of_showing():
    assert mend_times([0, 2, 1, 2, 4]) == [0, 1, 2, 2, 4]  # those of decoding
    gap = [*range(30), *range(10**6, 10**6 + 30)]
    assert mend_times(gap) == gap and mend_times([7]) == [7]
    assert mend_times([*range(0, 60, 2)] * 3) == [*range(0, 180, 2)]  # recordings in a row
    for outlier in (10**12, -(10**12)):
        assert mend_times([*range(20), outlier, *range(21, 40)]) == [*range(40)]
    assert mend_times([10**12, *range(1, 40)]) == [1, *range(1, 40)]


def test_mpeg4_pictures_that_are_not_coded_are_no_frames(tmp_path):
    """As DivX and Xvid write them for what stands still: a header, and nothing behind it."""

    def add_uncoded(number, packet):
        if number != 5:
            return [packet]
        empty = av.Packet(bytes.fromhex("000001b6504f"))
        empty.pts, empty.dts, empty.time_base = packet.pts, packet.dts, packet.time_base
        packet.pts, packet.dts = packet.pts + 2, packet.dts + 2
        return [empty, packet]

    with av.open(str(tmp_path / "a.mkv"), "w") as out:
        stream = out.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number, image in enumerate(make_frames(NUM_FRAMES, 64, 48)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    path = copy_packets(tmp_path / "b.mkv", tmp_path / "a.mkv", add_uncoded)
    expected = decode(path)
    assert len(expected) == NUM_FRAMES  # of 13 packets
    assert_reads(path, expected)


class Bytes(bytes):
    """Stands for a packet."""


@pytest.mark.parametrize(
    ("is_hidden", "data", "expected"),
    [
        (is_hidden_vp8, "10 02 00", False),  # key frame, shown
        (is_hidden_vp8, "11 02 00", False),
        (is_hidden_vp8, "01 02 00", True),
        (is_hidden_vp9, "82 49 83", False),  # frame marker 2, profile 0, key frame, shown
        (is_hidden_vp9, "86 00 40", False),  # an inter frame that is shown
        (is_hidden_vp9, "84 00 40", True),
        (is_hidden_vp9, "88", False),  # an earlier picture is shown
        (is_hidden_vp9, "84 00 40 86 c9 02 02 c9", False),  # with a shown one behind it
        (is_hidden_vp9, "b2 00 40", True),  # profile 3 has one bit more
        (is_hidden_vp9, "b3 00 40", False),
    ],
)
def test_pictures_for_reference_only_are_known_by_their_header(is_hidden, data, expected):
    assert is_hidden(Bytes.fromhex(data)) is expected


def test_a_gif_of_one_frame_is_a_picture(tmp_path):
    def keep_first(number, packet):
        return [packet] if number == 0 else []

    path = copy_packets(tmp_path / "one.gif", write(tmp_path / "a.gif", "GIF"), keep_first)
    with pytest.raises(VideoError, match="GIF of one frame: a picture"), open_video(path, "av"):
        pass


def test_files_that_only_end_like_a_video_are_left_out(tmp_path):
    write(tmp_path / "animated.gif", "GIF")
    write(tmp_path / "recording.ts", "MPEG-2")
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.gif")
    (tmp_path / "main.ts").write_text("export const größe: number = 1;\n" * 100)
    (tmp_path / "empty.ts").touch()  # perhaps a recording that failed
    (tmp_path / "broken.gif").write_bytes(b"GIF89a")
    listing = list_searchable(tmp_path)
    assert listing.names == ["animated.gif", "broken.gif", "empty.ts", "recording.ts"]
    assert listing.left_out == {"main.ts": "text", "picture.gif": "a picture"}
    said = "main.ts: left out, it is text, no video, and 1 more such files"
    assert listing.describe_left_out() == said and listing.num_others == 2
    assert FileListing().describe_left_out() is None
