import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from base.registry import VIDEO_READERS
from data_loader.readers.base_reader import VideoError
from data_loader.readers.video_readers import open_video
from tests.conftest import ROOT
from tests.videos import (
    damage,
    make_frames,
    truncate,
    write_audio,
    write_rotated,
    write_trimmed,
    write_video,
)

pytest.importorskip("av")


def _has_torchcodec():
    try:
        import torchcodec
    except Exception:
        return False
    return getattr(torchcodec, "ffmpeg_major_version", 0) is not None


needs_torchcodec = pytest.mark.skipif(not _has_torchcodec(), reason="torchcodec can't load FFmpeg")
TORCHCODEC = pytest.param("torchcodec", marks=needs_torchcodec)
READERS = ["decord", "av", "cv2", TORCHCODEC]


def decode_all(path):
    """What the file shows, by PyAV's plain decoding in order."""
    import av

    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("videos")


FILES = {
    "b-frames": {},
    "no-b-frames": {"x264": "bframes=0"},
    "one-key-frame": {"gop": 250},
    "open-gop": {"gop": 10, "x264": "open-gop=1:bframes=3:b-pyramid=normal:scenecut=0"},
    "recovery-points": {"gop": 7, "x264": "intra-refresh=1:bframes=0"},
    "late-start": {"start": 50},
    "width-70": {"width": 70},
    "height-50": {"width": 66, "height": 50},
    "full-range": {"pix_fmt": "yuvj420p"},
    "bt709": {"x264": "colormatrix=bt709"},
    "odd-444": {"pix_fmt": "yuv444p", "width": 63, "height": 47},
    "odd-width-mpeg4": {"codec": "mpeg4", "width": 63},
    "one-frame": {"num_frames": 1},
}


@pytest.fixture(scope="module", params=FILES)
def video(request, folder):
    options = {"num_frames": 60, **FILES[request.param]}
    path = write_video(folder / f"{request.param}.mp4", **options)
    return path, decode_all(path)


@pytest.mark.parametrize("reader", READERS)
def test_readers_return_the_same_frames(video, reader):
    path, expected = video
    rng = np.random.default_rng(0)
    with open_video(path, reader) as opened:
        assert opened.num_frames == len(expected)
        assert (opened.height, opened.width) == expected.shape[1:3]
        for _ in range(4):  # unsorted, with repeats, one request after the other
            indices = rng.integers(0, len(expected), 6)
            frames = opened.frames(indices)
            assert frames.dtype == np.uint8
            np.testing.assert_array_equal(frames, expected[indices])
        np.testing.assert_array_equal(opened.frames(range(len(expected))), expected)


@pytest.mark.parametrize("reader", READERS)
def test_readers_stream_the_same_frames_and_tell_their_times(video, reader):
    path, expected = video
    indices = range(0, len(expected), 7)
    with open_video(path, reader) as opened:
        for _ in range(2):  # again from the start
            streamed = opened.stream(indices)
            for index in indices:
                np.testing.assert_array_equal(next(streamed), expected[index])
            assert next(streamed, None) is None
        times = opened.times()
    np.testing.assert_allclose(times, np.arange(len(expected)) / 25, atol=1e-3)


def write_uneven(path):
    """A video whose frames are shown at 0, 0.2, 0.24, 1.0 and 2.0 seconds."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for image, time in zip(make_frames(5, 64, 48), (0, 5, 6, 25, 50), strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("reader", READERS)
def test_times_are_those_of_the_file_not_of_its_frame_rate(folder, reader):
    with open_video(write_uneven(folder / "uneven.mkv"), reader) as opened:
        np.testing.assert_allclose(opened.times(), [0, 0.2, 0.24, 1, 2], atol=2e-3)


def test_av_tells_times_where_the_container_has_none(folder):
    with open_video(write_video(folder / "old.avi", 30, codec="mpeg4"), "av") as opened:
        np.testing.assert_allclose(opened.times(), np.arange(30) / 25)


@pytest.mark.parametrize("reader", READERS)
def test_frames_are_rgb_and_in_presentation_order(folder, reader):
    path = write_video(folder / "order.mp4", 20, x264="bframes=3:qp=1")
    source = make_frames(20, 64, 48).astype(float)
    with open_video(path, reader) as opened:
        frames = opened.frames(range(20)).astype(float)
    distance = np.abs(frames[:, None] - source[None]).mean(axis=(2, 3, 4))  # (decoded, source)
    assert distance.argmin(axis=1).tolist() == list(range(20))
    swapped = np.abs(frames[..., ::-1] - source).mean()
    assert np.diag(distance).mean() < swapped / 2  # blue and red are not exchanged


@pytest.mark.parametrize("reader", READERS)
def test_frames_hidden_by_an_edit_list_are_not_counted(folder, reader):
    whole = write_video(folder / "whole.mp4", 60)
    path = write_trimmed(folder / f"trimmed-{reader}.mp4", whole, 6)
    expected = decode_all(whole)[6:]
    with open_video(path, reader) as opened:
        assert opened.num_frames == 54
        np.testing.assert_array_equal(opened.frames([53, 3, 20, 3]), expected[[53, 3, 20, 3]])


@pytest.mark.parametrize("reader", ["av", "cv2", TORCHCODEC])
def test_rotation_is_applied(folder, reader):
    upright = write_video(folder / "upright.mp4", 5)
    path = write_rotated(folder / "rotated.mp4", upright)
    with open_video(path, reader) as opened:
        assert (opened.width, opened.height) == (48, 64)
        expected = np.rot90(decode_all(upright), -1, axes=(1, 2))  # clockwise
        np.testing.assert_array_equal(opened.frames([4, 0]), expected[[4, 0]])


def test_decord_refuses_rotated_videos(folder):
    path = write_rotated(folder / "rotated.mp4", write_video(folder / "upright.mp4", 5))
    with pytest.raises(VideoError, match='"av"'), open_video(path):
        pass


def test_decord_refuses_containers_without_an_index(folder):
    path = write_video(folder / "stream.ts")
    with pytest.raises(VideoError, match='"av"'), open_video(path):
        pass
    with open_video(path, "av") as opened:
        np.testing.assert_array_equal(opened.frames([5, 29]), decode_all(path)[[5, 29]])


@pytest.mark.parametrize("reader", READERS)
def test_ten_bit_video_is_read(folder, reader):
    path = write_video(folder / "ten.mp4", 10, pix_fmt="yuv420p10le")
    with open_video(path, reader) as opened:
        frames = opened.frames([0, 9]).astype(float)
    source = make_frames(10, 64, 48)[[0, 9]]
    # Readers interpolate colours differently here, so the pixels are near, not equal.
    assert np.abs(frames - source).mean() < 20 < np.abs(frames - source[::-1]).mean()


def broken_files(folder):
    end, front = folder / "end.mp4", folder / "front.mp4"
    write_video(end, 60)
    write_video(front, 60, faststart=True)
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("not a video\n" * 50)
    (folder / "folder.mp4").mkdir(exist_ok=True)
    return {
        "missing": (folder / "nowhere.mp4", "missing"),
        "empty": (folder / "empty.mp4", "empty"),
        "text": (folder / "text.mp4", "text.mp4"),
        "folder": (folder / "folder.mp4", "folder"),
        "audio": (write_audio(folder / "audio.mp4"), "audio.mp4"),
        "no-index": (truncate(folder / "no_index.mp4", end, 0.6), "cut short"),
        "header-only": (truncate(folder / "header.mp4", front, 0.1), "cut short"),
        "cut-60": (truncate(folder / "cut60.mp4", front, 0.6), "cut short"),
        "cut-99": (truncate(folder / "cut99.mp4", front, 0.99), "cut short"),
        "damaged": (damage(folder / "damaged.mp4", front), "damaged.mp4"),
    }


@pytest.fixture(scope="module")
def broken(folder):
    return broken_files(folder)


KINDS = ["missing", "empty", "text", "folder", "audio", "no-index", "header-only", "cut-60"]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", [*KINDS, "cut-99", "damaged"])
def test_unreadable_files_are_video_errors(broken, reader, kind):
    path, reason = broken[kind]
    with pytest.raises(VideoError, match=reason) as caught, open_video(path, reader) as opened:
        opened.frames(np.arange(opened.num_frames))
    assert caught.value.path == str(path) and str(path) in str(caught.value)


@pytest.mark.parametrize("reader", ["av", TORCHCODEC])  # decord reads ahead and cv2 counts first
def test_frames_before_the_damage_are_right(broken, folder, reader):
    with open_video(broken["damaged"][0], reader) as opened:
        expected = decode_all(folder / "front.mp4")[[0, 5]]
        np.testing.assert_array_equal(opened.frames([0, 5]), expected)


@pytest.mark.parametrize("reader", READERS)
def test_indices_outside_of_the_video_are_errors(folder, reader):
    path = write_video(folder / "short.mp4", 5)
    with open_video(path, reader) as opened:
        for indices in ([5], [-1], []):
            with pytest.raises(VideoError):
                opened.frames(indices)


@pytest.mark.parametrize(
    ("reader", "library"),
    [("decord", "decord"), ("av", "av"), ("cv2", "cv2"), ("torchcodec", "torchcodec.decoders")],
)
def test_a_missing_library_is_an_install_hint(monkeypatch, folder, reader, library):
    monkeypatch.setitem(sys.modules, library, None)
    hint = "FFmpeg's shared libraries" if reader == "torchcodec" else "pip install"
    with pytest.raises(ValueError, match=hint) as caught, open_video(folder / "x.mp4", reader):
        pass
    assert not isinstance(caught.value, VideoError)  # the video is not to blame


def test_unknown_reader_names_the_nearest():
    with pytest.raises(ValueError, match="decord"), open_video("x.mp4", "decor"):
        pass
    assert VIDEO_READERS.names() == ["av", "cv2", "decord", "torchcodec"]


def test_errors_survive_the_way_out_of_a_worker():
    error = pickle.loads(pickle.dumps(VideoError("a.mp4", "is bad", "mend it")))
    assert (error.path, error.reason, str(error)) == ("a.mp4", "is bad", "a.mp4: is bad; mend it")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted on Linux")
def test_pyav_starts_no_thread(tmp_path):
    """A forked loading process that frees a reader of its parent would wait for it for ever."""
    file = write_video(tmp_path / "a.mp4", width=640, height=360)
    program = f"""
import os
from data_loader.readers.video_readers import open_video
before = len(os.listdir("/proc/self/task"))
with open_video({str(file)!r}, "av") as video:
    video.frames([0, 7])
    print(before, len(os.listdir("/proc/self/task")))
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    before, during = map(int, done.stdout.split())
    assert during == before, done.stderr


def write_late(path, start_s):
    """A video whose pictures begin some seconds after its sound."""
    import av

    source = write_video(path.with_name("source.mp4"), 10)
    with av.open(str(source)) as given, av.open(str(path), "w") as out:
        pictures = out.add_stream_from_template(given.streams.video[0])
        sound = out.add_stream("aac", rate=16000)
        silence = np.zeros((1, 5 * 16000), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        for packet in sound.encode(frame) + sound.encode():
            out.mux(packet)
        for packet in given.demux(video=0):
            if packet.dts is not None:
                shift = int(start_s / packet.time_base)
                packet.pts, packet.dts, packet.stream = (
                    packet.pts + shift,
                    packet.dts + shift,
                    pictures,
                )
                out.mux(packet)
    return path


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["mp4", "mkv"])
def test_the_first_frame_s_time_counts_from_the_file_s_start(tmp_path, reader, kind):
    with open_video(write_late(tmp_path / f"late.{kind}", 3), reader) as opened:
        assert opened.start_s == pytest.approx(3, abs=0.1)  # sound has its own lead-in
        assert opened.times()[0] == 0
    with open_video(write_video(tmp_path / f"plain.{kind}", 5), reader) as opened:
        assert opened.start_s == 0
    whole = write_video(tmp_path / "whole.mp4", 30)
    with open_video(write_trimmed(tmp_path / "trimmed.mp4", whole, 6), reader) as opened:
        assert opened.start_s == 0  # the hidden frames are no time before
