"""Damaged and cut files: search reads what of them decodes; the strict readers raise as ever."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from data_loader.readers.base_reader import VideoError
from data_loader.readers.tolerant_reader import (
    Gap,
    PartialReader,
    format_gaps,
    insert_missing,
    open_tolerantly,
)
from data_loader.readers.video_readers import open_video
from tests.data_loader.test_video_reader import decode_all
from tests.videos import (
    break_packets,
    read_packets,
    truncate,
    write_audio,
    write_trimmed,
    write_video,
)

av = pytest.importorskip("av")

NUM_FRAMES, GOP = 60, 12


def write_container(path: Path, **options) -> Path:
    """A video of 60 frames, 25 a second, with a key frame every 12 and B-frames between."""
    options = {"codec": "libx264", "x264": "bframes=2:scenecut=0"} | options
    return write_video(path, NUM_FRAMES, gop=GOP, **options)


KINDS = {
    "mp4": {},
    "mkv": {},
    "flv": {},
    "avi": {"codec": "mpeg4"},  # with no B-frames
    "mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
}


@pytest.fixture(scope="module", params=KINDS)
def intact(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("intact")
    return write_container(folder / f"a.{request.param}", **KINDS[request.param])


def get_frame_number(packets: list[tuple[int | None, bytes]], packet: int) -> int:
    return sorted(pts for pts, _ in packets).index(packets[packet][0])


def test_a_damaged_frame_costs_what_depends_on_it(intact, tmp_path):
    expected = decode_all(intact)
    number = 16  # a packet within the second group
    path = break_packets(tmp_path / intact.name, intact, [number])
    frame = get_frame_number(read_packets(intact), number)
    with open_tolerantly(path) as video:
        is_known = intact.suffix == ".avi"  # which is decoded when it is opened
        assert video.num_frames == NUM_FRAMES and (video.describe_damage() is None) != is_known
        frames = dict(video.stream(range(NUM_FRAMES)))
        assert sorted(frames) == [n for n in range(NUM_FRAMES) if n != frame]
        for n in (*range(GOP), *range(2 * GOP, NUM_FRAMES)):  # the other groups
            np.testing.assert_array_equal(frames[n], expected[n])
        (gap,) = format_gaps([Gap(frame / 25, (frame + 1) / 25)])
        assert video.describe_damage() == f"{gap} can't be decoded"
        np.testing.assert_allclose(video.times(), np.arange(NUM_FRAMES) / 25, atol=1e-3)
    with closing(PartialReader(path)) as video:
        (found,) = video.find_gaps()
        np.testing.assert_allclose(found, (frame / 25, (frame + 1) / 25), atol=1e-3)
    with pytest.raises(VideoError), open_video(path, "av") as video:
        video.frames(range(NUM_FRAMES))


def test_the_nearest_frame_stands_for_a_damaged_one(intact, tmp_path):
    packets = read_packets(intact)
    broken = list(range(24, 36))
    path = break_packets(tmp_path / intact.name, intact, broken)
    frames = [get_frame_number(packets, number) for number in broken]
    assert sorted(frames) == broken
    expected = decode_all(intact)
    with open_tolerantly(path) as video:
        found = list(video.stream([3, 25, 28, 29, 33, 40]))
        assert [number for number, _ in found] == [3, 23, 23, 23, 36, 40]
        for number, frame in found:
            np.testing.assert_array_equal(frame, expected[number])
        assert video.describe_damage() == "0:00.9-0:01.5 can't be decoded"
        assert [number for number, _ in video.stream([30])] == [36]  # once more, it is known


def test_damage_in_an_mpeg_ts_is_passed_over(tmp_path):
    path = write_container(tmp_path / "a.ts")
    expected, data = decode_all(path), bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        positions = [packet.pos for packet in container.demux(video=0) if packet.size]
    for start in range(positions[26], positions[28], 188):
        data[start + 100 : start + 188] = b"\xff" * 88
    path.write_bytes(data)
    with open_tolerantly(path) as video:
        frames = dict(video.stream(range(video.num_frames)))
        assert video.num_frames >= NUM_FRAMES - 2
    for number in range(GOP):
        np.testing.assert_array_equal(frames[number], expected[number])
    np.testing.assert_array_equal(frames[max(frames)], expected[-1])


def test_a_first_frame_that_is_damaged(intact, tmp_path):
    path = break_packets(tmp_path / intact.name, intact, list(range(GOP)))
    with open_tolerantly(path) as video:
        assert (video.width, video.height, video.num_frames) == (64, 48, NUM_FRAMES)
        assert next(video.stream([0]))[0] == GOP
        assert video.describe_damage() == "0:00-0:00.5 can't be decoded"


def write_faststart(path: Path) -> Path:
    return write_container(path, faststart=True)


def write_avi(path: Path) -> Path:
    return write_container(path, codec="mpeg4")


CUT = {"mkv": write_container, "flv": write_container, "ts": write_container, "avi": write_avi,
       "mp4": write_faststart}  # fmt: skip


@pytest.mark.parametrize("kind", CUT)
def test_a_file_that_was_cut_is_read_up_to_there(tmp_path, kind):
    whole = CUT[kind](tmp_path / f"whole.{kind}")
    expected = decode_all(whole)
    with open_tolerantly(whole) as video:
        assert video.describe_damage() is None
    path = truncate(tmp_path / f"cut.{kind}", whole, 0.703)
    with open_tolerantly(path) as video:
        assert 10 < video.num_frames < NUM_FRAMES
        frames = dict(video.stream(range(video.num_frames)))
        assert len(frames) >= video.num_frames - 2
        for number in range(10):
            np.testing.assert_array_equal(frames[number], expected[number])
        said = video.describe_damage()
    assert "it is cut short at 0:0" in said, said


def test_fragments_are_read_up_to_the_cut(tmp_path):
    whole = write_container(tmp_path / "whole.mp4")
    options = {"movflags": "frag_keyframe+empty_moov"}
    with (
        av.open(str(whole)) as source,
        av.open(str(tmp_path / "f.mp4"), "w", options=options) as out,
    ):
        copy = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                out.mux(packet)
    path = truncate(tmp_path / "cut.mp4", tmp_path / "f.mp4", 0.7)
    with pytest.raises(VideoError, match="cut short"), open_video(path, "av"):
        pass
    expected = decode_all(whole)
    with open_tolerantly(path) as video:
        frames = dict(video.stream(range(video.num_frames)))
        assert 24 <= len(frames) < NUM_FRAMES
        assert "cut short" in video.describe_damage()
    for number in range(24):
        np.testing.assert_array_equal(frames[number], expected[number])


def test_another_reader_goes_on_where_the_first_choice_stops(tmp_path):
    pytest.importorskip("decord")
    whole = write_container(tmp_path / "a.mp4")
    path = break_packets(tmp_path / "b.mp4", whole, [30])
    with open_tolerantly(path, "decord") as video:
        frames = dict(video.stream(range(0, NUM_FRAMES, 2)))
    np.testing.assert_array_equal(frames[58], decode_all(whole)[58])
    with open_tolerantly(write_container(tmp_path / "a.ts"), "decord") as video:  # refuses it
        assert video.num_frames == NUM_FRAMES and video.describe_damage() is None


def test_frames_that_an_edit_list_hides_stay_hidden(tmp_path):
    whole = write_container(tmp_path / "whole.mp4")
    path = write_trimmed(tmp_path / "a.mp4", whole, 6)
    broken = break_packets(tmp_path / "b.mp4", path, [30])
    expected = decode_all(whole)[6:]
    with open_tolerantly(broken) as video:
        frames = dict(video.stream(range(54)))
        assert video.num_frames == 54 and len(frames) == 53
    np.testing.assert_array_equal(frames[50], expected[50])


def test_the_reason_is_that_of_the_reader_that_opens_most(tmp_path, caplog, capfd):
    (tmp_path / "text.avi").write_text("no video at all\n" * 50)
    cases = {
        "text.avi": "can't be opened as a video (av: ",
        "sound.mp4": "holds no video stream, perhaps only sound",
        "none.mp4": "is missing",
        "cut.mp4": "is cut short (",
    }
    write_audio(tmp_path / "sound.mp4")
    truncate(tmp_path / "cut.mp4", write_container(tmp_path / "a.mp4"), 0.5)
    for name, reason in cases.items():
        for first in ("av", "decord"):
            with pytest.raises(VideoError) as caught, open_tolerantly(tmp_path / name, first):
                pass
            assert reason in str(caught.value)
    assert not caplog.records and capfd.readouterr() == ("", "")


def test_all_frames_damaged_is_an_error(tmp_path):
    path = write_container(tmp_path / "a.mp4")
    broken = break_packets(tmp_path / "b.mp4", path, list(range(NUM_FRAMES)))
    with pytest.raises(VideoError, match="b.mp4: "), open_tolerantly(broken):
        pass


def test_gaps_are_told_in_tenths_and_join_where_they_touch():
    gaps = [Gap(12.44, 12.98), Gap(13.02, 13.06), Gap(20.0, 20.5), Gap(3661.0, 3662.0)]
    assert format_gaps(gaps) == ["0:12.4-0:13.1", "0:20-0:20.5", "1:01:01-1:01:02"]


def test_packets_without_a_frame_take_their_place():
    assert insert_missing([0, 2, 1, 4, 3], []) == [0, 2, 1, 4, 3]
    assert insert_missing([0, 2, 1, 3, 6, 5], [4]) == [0, 2, 1, 3, 4, 6, 5]
    assert insert_missing([2, 1], [0, 3, 4]) == [0, 2, 1, 3, 4]
