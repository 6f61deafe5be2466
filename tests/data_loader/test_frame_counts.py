"""What a frame is: what FFmpeg's decoder shows, in its order, by every reader or by none."""

from contextlib import ExitStack, closing
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from base.registry import VIDEO_READERS
from data_loader.data_check.videos import VideoFacts, decode_videos
from data_loader.readers.av_reader import AvReader
from data_loader.readers.base_reader import VideoError
from data_loader.readers.packet_headers import may_hold_fields
from data_loader.readers.tolerant_reader import open_tolerantly
from data_loader.readers.video_readers import open_video
from tests.data_loader.test_containers import copy_packets, decode
from tests.data_loader.test_video_reader import READERS
from tests.videos import make_frames, read_packets, write_video

av = pytest.importorskip("av")


def encode(
    path: Path, codec: str, num_frames: int = 60, size=(64, 48), pix_fmt="yuv420p", **options
):
    """Encode ``make_frames`` with these options of the encoder; returns the path."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.thread_count = 1
        for number, image in enumerate(make_frames(num_frames, *size)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame = frame.reformat(format=pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def assert_read_or_refused(path: Path, expected, distance: float = 4) -> list[str]:
    """Every reader gives these frames, or says that av does; returns the names of those that do."""
    able = []
    for reader in READERS[:3]:
        try:
            with open_video(path, reader) as video:
                frames, times = video.frames(range(video.num_frames)), video.times()
        except VideoError as error:
            assert reader != "av", error
            assert str(error).startswith(f"{path}: ") and '"av"' in str(error), error
            continue
        able.append(reader)
        assert frames.shape == np.shape(expected), reader
        assert np.abs(frames.astype(int) - expected).mean(axis=(1, 2, 3)).max() < distance, reader
        assert times[0] == 0 and (np.diff(times) >= 0).all(), reader
    return able


def cut_front(path: Path, source: Path) -> Path:
    """Copy an MPEG-TS without its first third."""
    data = source.read_bytes()
    path.write_bytes(data[len(data) // 188 // 3 * 188 :])
    return path


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
def test_a_recording_that_begins_anywhere_has_the_frames_that_decode(tmp_path, codec):
    options = {"g": "25", "bf": "2"} | ({"preset": "veryfast"} if codec == "libx264" else {})
    whole = encode(tmp_path / "whole.ts", codec, **options)
    path = cut_front(tmp_path / "cut.ts", whole)
    expected = decode(path)
    assert 0 < len(expected) < len(decode(whole))
    assert "av" in assert_read_or_refused(path, expected)
    with open_video(path, "av") as video:
        left_out = video.num_left_out
        assert left_out > 0
        np.testing.assert_allclose(np.diff(video.times()), 1 / 25, atol=1e-3)
        assert video.start_s > 0.01  # the pictures left out come first
    with open_tolerantly(path) as video:
        assert video.num_frames == len(expected)
        said = f"{left_out} pictures before its first whole one are left out"
        assert video.describe_damage() == said
    facts = VideoFacts(files=1, sizes={str(path): 1})
    decode_videos(facts, "av", 8, 0, "test")
    assert facts.decoded.begun_before == 1 and not facts.unreadable
    with open_video(whole, "av") as video:
        assert video.num_left_out == 0


def test_two_recordings_in_one_stream_are_one_after_the_other(tmp_path):
    part = write_video(tmp_path / "part.ts", 30)
    path = tmp_path / "two.ts"
    path.write_bytes(part.read_bytes() * 2)
    expected = decode(path)
    assert len(expected) == 60
    assert "av" in assert_read_or_refused(path, expected)
    with open_video(path, "av") as video:
        np.testing.assert_allclose(video.times(), np.arange(60) / 25, atol=1e-3)
        np.testing.assert_array_equal(video.frames([29, 30]), np.stack(expected)[[29, 30]])


@pytest.mark.parametrize("outlying", [5, 21, 38])
def test_one_outlying_time_moves_no_frame(tmp_path, outlying):
    source = write_video(tmp_path / "a.mp4", 40, x264="bframes=0")

    def move(number, packet):
        packet.pts += (number == outlying) * 10**6
        return [packet]

    path = copy_packets(tmp_path / "b.mp4", source, move)
    expected = decode(path)
    assert len(expected) == 40 and max(time for time, _ in read_packets(path)) > 10**6
    with open_video(path, "av") as video:
        np.testing.assert_array_equal(video.frames(range(40)), expected)
        np.testing.assert_array_equal(video.frames([outlying])[0], expected[outlying])
        np.testing.assert_allclose(video.times(), np.arange(40) / 25, atol=0.021)


@pytest.mark.parametrize("name", ["sizes.webm", "sizes.ts"])
def test_pictures_of_two_sizes_are_scaled_to_the_first(tmp_path, name):
    codec = {"webm": "libvpx", "ts": "libx264"}[name.split(".")[1]]
    parts = [
        encode(tmp_path / f"{width}.{name}", codec, 10, (width, height), g="5")
        for width, height in ((64, 48), (128, 96))
    ]
    path = tmp_path / name
    if name.endswith("ts"):
        path.write_bytes(b"".join(part.read_bytes() for part in parts))
    else:
        join(path, *parts)
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert {(frame.width, frame.height) for frame in frames} == {(64, 48), (128, 96)}
    expected = [
        frame.to_ndarray(format="rgb24", width=64, height=48, interpolation="BICUBIC")
        for frame in frames
    ]
    assert "av" in assert_read_or_refused(path, expected, distance=8)  # decord is bilinear
    with open_tolerantly(path) as video:
        found = dict(video.stream([0, 15]))
        np.testing.assert_array_equal(found[15], expected[15])
    with open_video(path, "av") as video:
        np.testing.assert_array_equal(video.frames([19])[0], expected[19])  # not its own size


def test_the_first_picture_s_size_counts_and_not_the_container_s(tmp_path):
    parts = [
        encode(tmp_path / f"{width}.webm", "libvpx", 10, (width, height), g="5")
        for width, height in ((64, 48), (128, 96))
    ]
    path = tmp_path / "grows.webm"
    join(path, *parts, header=parts[1])
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.width == 128
    with open_video(path, "av") as video:
        assert (video.width, video.height) == (64, 48)
        assert video.frames(range(20)).shape == (20, 48, 64, 3)
    with open_video(path, "av") as video:
        assert video.frames([19]).shape == (1, 48, 64, 3)


def join(path: Path, *parts: Path, header: Path | None = None) -> None:
    """Write the packets of files one after the other into one stream, as one of them has it."""
    with ExitStack() as stack:
        described = stack.enter_context(av.open(str(header or parts[0])))
        out = stack.enter_context(av.open(str(path), "w"))
        copy = out.add_stream_from_template(described.streams.video[0])
        shift = 0
        for part in parts:
            with av.open(str(part)) as container:
                stream = container.streams.video[0]
                for packet in container.demux(stream):
                    if packet.size:
                        packet.pts, packet.dts, packet.stream = packet.pts + shift, None, copy
                        packet.dts, last = packet.pts, packet.pts
                        out.mux(packet)
            shift = last + 40


INTERLACED = {
    "h264.mp4": ("libx264", {"flags": "+ildct+ilme", "x264-params": "tff=1"}),
    "h264.mkv": ("libx264", {"flags": "+ildct+ilme", "x264-params": "tff=1"}),
    "mpeg2.mpg": ("mpeg2video", {"flags": "+ildct+ilme"}),
    "mpeg4.avi": ("mpeg4", {"flags": "+ildct+ilme"}),
}


@pytest.mark.parametrize("name", INTERLACED)
def test_interlaced_pictures_are_frames_by_av_and_refused_by_others(tmp_path, name):
    codec, options = INTERLACED[name]
    path = encode(tmp_path / name, codec, 12, (96, 64), **options)
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).interlaced_frame
    assert assert_read_or_refused(path, decode(path)) == ["av"]


def test_an_h264_header_says_whether_there_may_be_fields(tmp_path):
    for name, options, expected in (
        ("a.mp4", {}, False),
        ("b.mp4", {"flags": "+ildct+ilme"}, True),
        ("c.mp4", {"profile": "baseline"}, False),
        ("d.mp4", {"x264-params": "qpmax=30", "pix_fmt": "yuv444p"}, False),
    ):
        path = encode(tmp_path / name, "libx264", 3, **options)
        with av.open(str(path)) as container:
            assert may_hold_fields(container.streams.video[0].codec_context.extradata) is expected
    assert may_hold_fields(b"") and may_hold_fields(bytes(8)) and may_hold_fields(bytes(400))


def test_hevc_that_was_cut_at_an_open_group_has_the_frames_that_decode(tmp_path):
    params = "log-level=none:pools=1:frame-threads=1:open-gop=1:keyint=12:min-keyint=12:scenecut=0"
    options = {"preset": "fast", "x265-params": f"{params}:bframes=3:b-adapt=0"}
    whole = encode(tmp_path / "whole.mp4", "libx265", **options)
    for name, start in (("cut.mkv", 1), ("cut.mp4", 1), ("whole.mkv", 0)):
        keys = []

        def keep(number, packet, keys=keys, start=start):
            keys.extend([number] * packet.is_keyframe)
            return [packet] if len(keys) > start else []

        path = copy_packets(tmp_path / name, whole, keep)
        expected = decode(path)
        assert "av" in assert_read_or_refused(path, expected)
        with closing(AvReader(path)) as video:
            # An edit list of the MP4 hides those that another container leaves to the decoder.
            assert video.num_left_out == (3 if name == "cut.mkv" else 0)
            assert video._is_counted is (start == 0)  # decodes nothing at opening


def test_packed_mpeg4_is_read_by_av_and_not_in_part_by_another(tmp_path):
    path = encode(tmp_path / "packed.avi", "mpeg4", 98, bf="2", g="12")
    assert "decord" not in assert_read_or_refused(path, decode(path))


@pytest.mark.parametrize("kind", ["mkv", "webm", "ts"])
def test_a_cut_is_recognised_where_the_container_tells_of_it(tmp_path, kind):
    codec = "libvpx" if kind == "webm" else "libx264"
    whole = encode(tmp_path / f"whole.{kind}", codec, 30)
    with open_video(whole, "av") as video:
        assert video.num_frames == 30
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size * 3 // 5 // 188 * 188 + 100])
    for reader in READERS[:3]:
        with pytest.raises(VideoError, match=rf"cut\.{kind}: is cut short"):
            open_video(path, reader)
    with open_tolerantly(path) as video:
        assert 5 < video.num_frames < 30 and "cut short" in video.describe_damage()


def test_a_file_of_any_few_bytes_is_an_error_that_names_it(tmp_path):
    heads = [b"\x1a\x45\xdf\xa3", b"RIFF", b"FLV", b"\0\0\0\x08moov", b"\x47" * 400, b"GIF89a"]
    for number, head in enumerate(heads):
        path = tmp_path / f"{number}.mp4"
        path.write_bytes(head)
        for reader in VIDEO_READERS.names()[:3]:
            with pytest.raises(VideoError, match=path.name):
                open_video(path, reader)
        with pytest.raises(VideoError, match=path.name), open_tolerantly(path):
            pass
