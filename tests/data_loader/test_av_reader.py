"""The reader av: which pictures of an H.264 stream it decodes for the wanted ones."""

import numpy as np
import pytest

from data_loader.readers.av_reader import AvReader, find_needed_packets
from data_loader.readers.packet_headers import Picture, get_length_size, read_picture
from tests.data_loader.test_video_reader import decode_all
from tests.videos import write_video

IDR, P, B = Picture(True, True), Picture(False, True), Picture(False, False)


def packet(*heads, size=4):
    """NAL units of three bytes each, behind their length."""
    units = [bytes([head, 1, 2]) for head in heads]
    return memoryview(b"".join(len(unit).to_bytes(size, "big") + unit for unit in units))


def test_a_packet_says_whether_others_refer_to_its_picture():
    assert read_picture(packet(0x65, 0x65), 4) == IDR
    assert read_picture(packet(0x06, 0x41), 4) == P  # behind a message to the player
    assert read_picture(packet(0x01, size=2), 2) == B


def test_a_packet_says_whether_parameters_change():
    assert read_picture(packet(0x67, 0x65), 4) == IDR._replace(has_parameters=True)
    assert read_picture(packet(0x68, 0x41), 4) == P._replace(has_parameters=True)


@pytest.mark.parametrize(
    "data",
    [packet(0x06), packet(0x41)[:-1], bytes(20), b""],
    ids=["no picture", "cut", "zeros", "empty"],
)
def test_what_can_not_be_relied_on_is_none(data):
    assert read_picture(memoryview(data), 4) is None


def test_only_length_prefixed_streams_have_a_length_size():
    assert get_length_size(b"\x01\x64\x00\x1e\xff\xe1\x00") == 4
    assert get_length_size(b"\x01\x64\x00\x1e\xfd\xe1\x00") == 2
    assert get_length_size(b"\x00\x00\x00\x01\x67\x64\x00") is None  # start codes, as in MPEG-TS
    assert get_length_size(None) is get_length_size(b"\x01") is None


def test_a_wanted_picture_needs_the_referred_ones_since_the_start():
    pictures = [IDR, P, B, B, P, B, IDR, P, B, IDR, P]
    assert find_needed_packets(pictures, [5]) == [[0, 1, 4, 5]]
    assert find_needed_packets(pictures, [8, 3, 7]) == [[0, 1, 3], [6, 7, 8]]
    assert find_needed_packets(pictures, [9, 0]) == [[0], [9]]


@pytest.fixture
def decoded(monkeypatch):
    """Numbers of the packets given to the decoder at a time; decoding in order is a failure."""
    counts = []
    real = AvReader._decode_packets

    def spy(self, packets):
        counts.append(len(packets))
        return real(self, packets)

    def never(self, wanted):
        raise AssertionError("all was decoded")

    monkeypatch.setattr(AvReader, "_decode_packets", spy)
    monkeypatch.setattr(AvReader, "_decode_in_order", never)
    return counts


def test_real_files_are_decoded_in_part_and_exactly(tmp_path, decoded):
    path = write_video(tmp_path / "a.mp4", 60, gop=25, x264="bframes=3:b-adapt=0:scenecut=0")
    expected = decode_all(path)
    reader = AvReader(path)
    assert reader.num_frames == 60 and decoded == []  # opening decodes nothing
    np.testing.assert_array_equal(reader.frames([58, 24, 52]), expected[[58, 24, 52]])
    # The frames 0 … 24 and 50 … 58 hold the wanted ones; about half of them are referred to.
    assert len(decoded) == 2 and decoded[0] <= 15 and decoded[1] <= 7
    for frame in range(60):
        np.testing.assert_array_equal(reader.frames([frame])[0], expected[frame])
    reader.close()


def test_the_size_is_known_without_asking_for_frames(tmp_path):
    reader = AvReader(write_video(tmp_path / "a.mp4", 3))
    assert (reader.width, reader.height) == (64, 48)


def test_a_damaged_picture_that_no_wanted_frame_refers_to_does_no_harm(tmp_path, decoded):
    path = write_video(tmp_path / "a.mp4", 40, gop=20, x264="bframes=0:scenecut=0")
    expected = decode_all(path)
    reader = AvReader(path)
    last = bytes(reader._packets[19])
    data = path.read_bytes()
    path.write_bytes(data.replace(last[-40:], bytes(40)))
    assert path.read_bytes() != data
    damaged = AvReader(path)
    np.testing.assert_array_equal(damaged.frames([5, 30]), expected[[5, 30]])


def test_a_damaged_reference_is_decoded_in_order(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mp4", 40, gop=40, x264="bframes=0:scenecut=0", width=128)
    unit = bytes(AvReader(path)._packets[10])
    data = path.read_bytes()
    path.write_bytes(data.replace(unit[8:48], bytes(range(100, 140))))
    asked = []
    in_order = np.full((1, 2, 2, 3), 7, np.uint8)
    monkeypatch.setattr(
        AvReader, "_decode_in_order", lambda self, wanted: asked.append(wanted) or [*in_order]
    )
    reader = AvReader(path)
    assert reader.frames([5]).shape == (1, 48, 128, 3) and asked == []
    np.testing.assert_array_equal(reader.frames([30]), in_order)
    assert asked == [[30]]


def test_other_streams_are_decoded_in_order(tmp_path):
    for name, options in {"a.ts": {}, "b.mp4": {"codec": "mpeg4"}}.items():
        path = write_video(tmp_path / name, 20, **options)
        assert AvReader(path)._packets == []
