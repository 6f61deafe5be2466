"""Which stream of a file is its film, and which way up it is shown: the same by every reader."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from base.registry import VIDEO_READERS
from data_loader.readers.base_reader import VideoError
from data_loader.readers.tolerant_reader import open_tolerantly
from data_loader.readers.video_readers import open_video
from data_loader.readers.video_stream import (
    Orientation,
    choose_video_stream,
    find_orientation,
    open_container,
    read_start_times,
)
from retrieval.web.playback.decoding import Job, decode_picture
from retrieval.web.playback.media import UnplayableError, probe_media
from tests.data_loader.test_video_reader import READERS, decode_all
from tests.videos import make_frames, write_audio, write_turned, write_video
from utils.files import FileStamp

av = pytest.importorskip("av")

ONE = 1 << 16
FLAGS = av.stream.Disposition


class Track(NamedTuple):
    """A stream of a file that is written."""

    num_frames: int = 12
    width: int = 64
    height: int = 48
    codec: str = "libx264"
    disposition: FLAGS = FLAGS(0)


STILL = Track(1, 96, 96, "mjpeg")
COVER = STILL._replace(disposition=FLAGS.attached_pic)


def write_tracks(path: Path, *tracks: Track, has_sound: bool = False) -> Path:
    """Write a file of several streams of pictures, perhaps with sound."""
    with av.open(str(path), "w") as out:
        streams = []
        for track in tracks:
            stream = out.add_stream(track.codec, rate=25)
            stream.width, stream.height = track.width, track.height
            stream.pix_fmt = "yuvj420p" if track.codec == "mjpeg" else "yuv420p"
            stream.codec_context.thread_count = 1
            stream.disposition = track.disposition
            streams.append(stream)
        packets = [] if not has_sound else _encode_sound(out.add_stream("aac", rate=16000))
        for stream, track in zip(streams, tracks, strict=True):
            for image in make_frames(track.num_frames, track.width, track.height):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
                packets += stream.encode(frame)
            packets += stream.encode()
        for packet in packets:
            out.mux(packet)
    return path


def _encode_sound(stream):
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), "fltp", "mono")
    frame.sample_rate, frame.pts = 16000, 0
    return stream.encode(frame) + stream.encode()


def choose(path: Path) -> int | None:
    with open_container(path) as container:
        stream = choose_video_stream(container)
        return None if stream is None else stream.index


DEFAULT = FLAGS.default
FILES = {  # name: streams, and the one that is the film
    "still.mp4": ((STILL, Track()), 1),
    "still.mkv": ((STILL, Track()), 1),
    "default_still.mp4": ((STILL._replace(disposition=DEFAULT), Track()), 1),
    "cover.mp4": ((Track(), COVER), 0),
    "previews.mp4": ((Track(3, codec="mjpeg", disposition=DEFAULT), Track(40)), 1),
    "default.mkv": ((Track(20), Track(disposition=DEFAULT)), 1),
    "most.mp4": ((Track(disposition=DEFAULT), Track(20, disposition=DEFAULT)), 1),
    "most.mkv": ((Track(disposition=DEFAULT), Track(20, disposition=DEFAULT)), 1),
    "largest.mp4": (
        (Track(disposition=DEFAULT), Track(12, 96, 80, disposition=DEFAULT)),
        1,
    ),
    "alike.mkv": ((Track(disposition=DEFAULT), Track(disposition=DEFAULT)), 0),
}


@pytest.mark.parametrize("name", FILES)
def test_the_film_is_chosen_by_one_rule(tmp_path, name):
    tracks, film = FILES[name]
    path = write_tracks(tmp_path / name, *tracks, has_sound=True)
    assert choose(path) == film
    chosen = tracks[film]
    expected = (chosen.num_frames, chosen.height, chosen.width, 3)
    num_read = 0
    for reader in VIDEO_READERS.names():
        try:
            with open_video(path, reader) as video:
                assert video.frames(range(video.num_frames)).shape == expected, reader
                num_read += 1
        except VideoError as error:  # never another one
            assert reader != "av" and '"av"' in str(error) and "several streams" in str(error)
        except ValueError as error:
            assert reader == "torchcodec" and "torchcodec" in str(error)  # not installed
    assert num_read >= 1
    with open_tolerantly(path) as video:
        assert (video.num_frames, video.height, video.width) == expected[:3]
    assert probe_media(path, FileStamp.of(path), 0).video == film
    assert read_start_times(path).first_frame_s == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize("track", [COVER, STILL], ids=["cover", "still"])
def test_sound_with_a_picture_is_no_video(tmp_path, track):
    path = write_tracks(tmp_path / "song.mp4", track, has_sound=True)
    assert choose(path) is None
    for reader in READERS[:3]:
        with pytest.raises(VideoError, match=r"song\.mp4: .*only a still") as caught:
            open_video(path, reader)
        assert caught.value.path == str(path)
    with pytest.raises(VideoError, match="only a still"), open_tolerantly(path):
        pass
    with pytest.raises(UnplayableError, match="only a still"):
        probe_media(path, FileStamp.of(path), 0)
    with pytest.raises(VideoError, match="no video stream"):
        open_video(write_audio(tmp_path / "sound.mp4"), "av")


def test_a_film_of_one_picture_is_a_video_where_there_is_nothing_else(tmp_path):
    path = write_tracks(tmp_path / "one.mp4", Track(1), has_sound=True)
    with open_video(path, "av") as video:
        assert video.num_frames == 1


def test_a_path_is_no_address_and_a_list_is_not_followed(tmp_path, monkeypatch):
    (tmp_path / "10:30").mkdir()
    write_video(tmp_path / "10:30/a.mp4", 5)
    monkeypatch.chdir(tmp_path)
    for reader in READERS[:3]:
        with open_video("10:30/a.mp4", reader) as video:
            assert video.num_frames == 5
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile 10:30/a.mp4\n")
    write_video(tmp_path / "b.ts", 5)
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nb.ts\n#EXT-X-ENDLIST\n"
    (tmp_path / "play.ts").write_text(playlist)
    for name in ("list.mp4", "play.ts"):
        for reader in READERS[:3]:
            with pytest.raises(VideoError, match=name):
                open_video(name, reader)


MATRICES = {  # as they stand in a track's header: a, b, c, d -> FFmpeg's filters
    "upright": (1, 0, 0, 1),
    "mirrored": (-1, 0, 0, 1),
    "upside down": (-1, 0, 0, -1),
    "mirrored, upside down": (1, 0, 0, -1),
    "clockwise": (0, 1, -1, 0),
    "counter-clockwise": (0, -1, 1, 0),
    "transposed": (0, 1, 1, 0),
    "transposed about the other diagonal": (0, -1, -1, 0),
}


def show_by_ffmpeg(path: Path, matrix: tuple[int, ...]) -> np.ndarray:
    """The frames of a file as FFmpeg's own tool turns them by this matrix, by its filters.

    The conditions are those of ``ffmpeg_filter.c``.
    """
    a, b, c, d = matrix
    angle = round(np.degrees(np.arctan2(b, a))) % 360
    if angle in (90, 270):
        kinds = ("cclock_flip", "clock") if angle == 90 else ("clock_flip", "cclock")
        filters = [("transpose", kinds[0] if (c > 0) == (angle == 90) else kinds[1])]
    else:
        filters = [("hflip", "")] * (a < 0) + [("vflip", "")] * (d < 0)
    shown = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            graph = av.filter.Graph()
            steps = [graph.add_buffer(template=container.streams.video[0])]
            steps += [graph.add(*one) for one in filters]
            graph.link_nodes(*steps, graph.add("buffersink")).configure()
            graph.vpush(frame)
            shown.append(graph.vpull().to_ndarray(format="rgb24"))
    return np.stack(shown)


@pytest.mark.parametrize("name", MATRICES)
def test_all_eight_orientations_are_as_ffmpeg_shows_them(tmp_path, name):
    matrix = MATRICES[name]
    stored = write_video(tmp_path / "stored.mp4", 5, width=80, pix_fmt="yuv444p")
    path = write_turned(tmp_path / "turned.mp4", stored, [ONE * value for value in matrix])
    expected = show_by_ffmpeg(stored, matrix)
    if name != "upright":
        plain = decode_all(stored)
        assert expected.shape != plain.shape or (expected != plain).any()
    num_read = 0
    for reader in VIDEO_READERS.names():
        try:
            with open_video(path, reader) as video:
                assert (video.height, video.width) == expected.shape[1:3]
                got = video.frames([0, 2, 4]).astype(int)
                assert np.abs(got - expected[[0, 2, 4]]).max() <= 3, reader
                num_read += 1
        except VideoError as error:  # never another one
            assert reader in ("decord", "torchcodec") and '"av"' in str(error)
            assert name != "upright" and "turned or mirrored" in str(error)
        except ValueError as error:
            assert reader == "torchcodec" and "torchcodec" in str(error)  # not installed
    assert num_read >= 2  # av and cv2
    with open_tolerantly(path) as video:
        ((_, frame),) = video.stream([3])
    np.testing.assert_allclose(frame.astype(int), expected[3], atol=3)
    media = probe_media(path, FileStamp.of(path), 0)
    assert not media.can_copy or name == "upright"
    with av.open(io.BytesIO(decode_picture(media, 0, 480, Job()))) as jpeg:
        picture = next(jpeg.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    assert np.abs(picture - expected[0]).mean() < 20


def test_other_angles_are_the_nearest_quarter_turn():
    def turn(degrees: float) -> Orientation:
        c, s = np.cos(np.radians(degrees)) * ONE, np.sin(np.radians(degrees)) * ONE
        return find_orientation([round(v) for v in (c, s, 0, -s, c, 0, 0, 0, 1 << 30)])

    assert turn(0) == turn(30) == turn(-40) == Orientation()
    assert turn(90) == turn(60) == turn(130) == Orientation(True, flips_x=True)
    assert find_orientation([0] * 9) == Orientation()
    assert find_orientation([2 * ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30]) == Orientation()
