"""A path always opens one local file, and nothing that the file, or its name, speaks of."""

import shutil
import struct
from pathlib import Path

import av
import pytest

import data_loader.registrations  # noqa: F401
from data_loader.readers.base_reader import VideoError
from data_loader.readers.opening import open_container
from data_loader.readers.tolerant_reader import open_tolerantly
from data_loader.readers.video_readers import open_video
from retrieval.spoken.timeline import open_streams
from retrieval.spoken.transcription import transcribe_video
from retrieval.spotting.folder import estimate_looks
from retrieval.web.playback.media import UnplayableError, probe_media
from tests.videos import write_video
from utils.files import FileStamp

READERS = ["av", "cv2", "decord"]
NUM_FRAMES = 7
NAMES = [
    "10:30/a.mp4",
    "-",
    "pipe:",
    "pipe:0",
    "http:",
    "concat:a.mp4",
    ":",
    "-i",
    "file:a.mp4",
    "%",
]


@pytest.fixture
def outside(tmp_path):
    """A real video in another folder, which is never to be read."""
    return write_video(tmp_path / "outside.mp4", NUM_FRAMES)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_always_that_of_a_local_file(tmp_path, monkeypatch, outside, reader, name):
    folder = tmp_path / "here"
    (folder / name).parent.mkdir(parents=True)
    shutil.copy(outside, folder / name)
    monkeypatch.chdir(folder)
    with open_video(name, reader) as video:
        assert video.num_frames == NUM_FRAMES


def test_a_pattern_of_names_is_a_name(tmp_path):
    """FFmpeg takes it for a sequence of pictures, GIFs for one."""
    for number in range(3):
        write_video(tmp_path / f"a{number:02}.gif", 9, codec="gif", pix_fmt="rgb8")
    write_video(tmp_path / "a%02d.gif", 4, codec="gif", pix_fmt="rgb8", start=0)
    with open_video(tmp_path / "a%02d.gif", "av") as video:
        assert video.num_frames == 4
    moved = shutil.copy(write_video(tmp_path / "b.mp4", 4), tmp_path / "b%d.mp4")
    for reader in ("cv2", "decord"):
        with pytest.raises(VideoError, match="b%d.mp4: .*has a %d"), open_video(moved, reader):
            pass


def write_playlists(folder: Path, target: str) -> list[Path]:
    """Files that name another one; their extensions are those of videos."""
    texts = {
        "a.mkv": f"ffconcat version 1.0\nfile '{target}'\n",
        "b.mp4": f"ffconcat version 1.0\nfile 'file:{target}'\noption safe 0\n",
        "c.ts": f"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
        "d.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5 RTP/AVP 96\n",
        "e.mp4": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" '
        'profiles="urn:mpeg:dash:profile:isoff-on-demand:2011" type="static"><Period>'
        f"<AdaptationSet><Representation><BaseURL>{target}</BaseURL></Representation>"
        "</AdaptationSet></Period></MPD>",
        "f.avi": "ffconcat version 1.0\nfile 'a.mkv'\n",  # one within another
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    return [folder / name for name in texts]


def test_what_names_other_files_is_read_by_nobody(tmp_path, outside):
    (tmp_path / "inside").mkdir()
    shutil.copy(outside, tmp_path / "inside" / "outside.mp4")
    for path in write_playlists(tmp_path / "inside", "outside.mp4"):
        for reader in READERS:
            with pytest.raises(VideoError, match=path.name), open_video(path, reader):
                pass
        with pytest.raises(VideoError, match=path.name), open_tolerantly(path):
            pass
        with pytest.raises(ValueError, match=path.name), open_streams(path):
            pass
        with pytest.raises(ValueError, match=path.name):
            transcribe_video(path)
        with pytest.raises(UnplayableError):
            probe_media(path, FileStamp.of(path), 1.0)
        assert estimate_looks([path], 0.4) == [max(1, path.stat().st_size)]
    with av.open(str(tmp_path / "inside" / "a.mkv")) as followed:  # as FFmpeg does by itself
        assert followed.streams.video


def refer_outside(path: Path, source: Path, target: Path) -> Path:
    """Copy a MOV whose samples lie, by its data reference, in another file."""
    name = str(target).encode()
    name += b"\0" * (len(name) % 2)
    alias = bytes(10) + b"\0" * 28 + bytes(12) + b"\1a" + bytes(62) + bytes(16)
    alias += struct.pack(">HH", 1, 1) + bytes(16) + struct.pack(">HH", 2, len(name)) + name
    alias += struct.pack(">HH", 0xFFFF, 0)
    entry = struct.pack(">I4sI", 12 + len(alias), b"alis", 0) + alias
    old = struct.pack(">I4sI", 12, b"url ", 1)
    data = source.read_bytes()
    assert data.count(old) == 1 and data.index(b"mdat") < data.index(b"moov")
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        at = data.index(box) - 4
        size = int.from_bytes(data[at : at + 4], "big") + len(entry) - len(old)
        data = data[:at] + size.to_bytes(4, "big") + data[at + 4 :]
    path.write_bytes(data.replace(old, entry))
    return path


def test_a_reference_of_mov_to_another_file_is_not_followed(tmp_path, outside):
    other = write_video(tmp_path / "here.mov", NUM_FRAMES, 32, 32)
    path = refer_outside(tmp_path / "refers.mov", other, outside)

    def read(container):
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]

    with open_container(path) as found:
        assert read(found) == []
    for reader in READERS:
        with pytest.raises(VideoError, match=path.name), open_video(path, reader):
            pass
    followed = {"enable_drefs": "1", "use_absolute_path": "1"}
    with av.open(str(path), options=followed) as container:  # the test's file does refer to it
        assert read(container)


@pytest.mark.parametrize("reader", READERS)
def test_sizes_that_no_memory_holds_are_the_file_s_fault(tmp_path, reader):
    if reader == "decord":
        pytest.importorskip("decord")
    path = write_video(tmp_path / "absurd.mp4", 8)
    content = bytearray(path.read_bytes())
    place = content.index(b"stts") + 8  # the number of its rows
    content[place : place + 4] = b"\x7f\xff\xff\xff"
    path.write_bytes(content)
    with pytest.raises(VideoError, match=r"absurd\.mp4: .*Cannot allocate memory"):
        open_video(path, reader)


def run_out_of_memory(*_):
    raise MemoryError


def test_want_of_memory_of_the_machine_is_not_the_file_s_fault(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", 8)
    with open_video(path, "av") as video:
        monkeypatch.setattr(video, "_decode", run_out_of_memory)
        with pytest.raises(MemoryError):
            list(video.frames([0]))
