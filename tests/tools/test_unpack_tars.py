"""Unpacking tars of videos, as video2dataset writes them, into a folder in TextVR's form."""

import io
import json
import os
import tarfile

import numpy as np
import pytest

from base.batch import SampleKey
from data_loader.readers.video_readers import open_video
from tests.data_loader.textvr_folder import BOX, dataset
from tests.range_server import serve_folder
from tests.videos import write_video
from tools import unpack_tars


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return [
        write_video(folder / f"{number}.mp4", 10 + number, 64 + 16 * number).read_bytes()
        for number in range(3)
    ]


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def tar(videos, tmp_path):
    """A tar as video2dataset writes it: 00000 of captions, keys of nine digits."""
    document = {"0": {"text": "SALE now", "score": "0.5", "tracks": {"0": BOX}}}
    return write_tar(
        tmp_path / "00000.tar",
        [
            ("000000000.mp4", videos[0]),
            ("000000000.txt", b"a red car"),
            ("000000000.json", json.dumps({"caption": "a red car", "status": "success"}).encode()),
            ("000000001.json", json.dumps({"captions": ["one", "two"]}).encode()),
            ("000000001.mp4", videos[1]),
            ("000000001.ocr.json", json.dumps(document).encode()),
            ("000000002.mp4", videos[2]),
            ("000000002.txt", b"a blue boat\n"),
        ],
    )


def test_a_tar_of_video2dataset_becomes_a_folder_that_is_trained_on(
    tar, videos, tmp_path, run_main
):
    out = tmp_path / "web"
    code, said, _ = run_main(unpack_tars, tar, "--out", out)
    assert (code, said) == (0, f"{out}: 3 videos, 3 of them with captions\n")
    data = dataset(out, training=True)
    assert [entry.captions for entry in data.entries] == [
        ("a red car",), ("one", "two"), ("a blue boat",)
    ]  # fmt: skip
    assert [data.get_words(index) for index in range(3)] == [[], ["sale", "now"], []]
    for number, entry in enumerate(data.entries):
        assert entry.video.read_bytes() == videos[number]
        assert data[SampleKey(1, number)].frames.any()
    before = {path: path.stat().st_mtime_ns for path in (out / "Videos").iterdir()}
    assert run_main(unpack_tars, tar, "--out", out)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "Videos").iterdir()} == before


def test_it_is_read_from_a_url(tar, tmp_path, run_main):
    with serve_folder(tar.parent) as server:
        url = f"{server.url}/{{00000..00000}}.tar"
        assert run_main(unpack_tars, url, "--out", tmp_path / "web", "--split", "test")[0] == 0
    assert len(dataset(tmp_path / "web").entries) == 3


def test_what_webdataset_wrote_is_unpacked(videos, tmp_path, run_main):
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as tar:
        tar.write({"__key__": "a/clip", "mp4": videos[0], "txt": "é", "json": {"caption": "é"}})
    assert run_main(unpack_tars, tmp_path / "a.tar", "--out", tmp_path / "web")[0] == 0
    (entry,) = dataset(tmp_path / "web", training=True).entries
    assert entry.captions == ("é",)
    with open_video(entry.video) as video:
        assert video.num_frames == 10 and np.any(video.frames([3]))


def test_videos_without_captions_are_unpacked_alone(videos, tmp_path, run_main):
    tar = write_tar(tmp_path / "a.tar", [("x.MP4", videos[0]), ("x.pickle", b"cos\nsystem\n")])
    code, said, _ = run_main(unpack_tars, tar, "--out", tmp_path / "web")
    assert code == 0 and "1 videos, 0 of them with captions" in said
    assert [path.name for path in (tmp_path / "web").rglob("*.*")] == ["x.mp4"]


def test_a_hostile_tar_leaves_nothing_outside_and_ends_nothing(videos, tmp_path, run_main):
    link = tarfile.TarInfo("Videos")
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
    pipe = tarfile.TarInfo("p.mp4")
    pipe.type = tarfile.FIFOTYPE
    names = ["/etc/a.mp4", "../b.mp4", "c/../../d.mp4", f"{'e' * 300}.mp4", "g\0h.mp4"]
    members = [(link, b""), (pipe, b""), *((name, videos[0]) for name in names)]
    members += [("i.mp4", videos[0]), ("i.webm", videos[1])]  # two videos
    members += [("j.mp4", videos[0]), ("k.mp4", videos[1]), ("j.mp4", videos[2])]
    members += [("l.mp4", videos[0]), ("l.json", b"[" * 10**5)]
    members += [("m.mp4", videos[0]), ("m.json", b'{"caption": 7}')]
    members += [("k.mp4/n.mp4", videos[0]), ("o.mp4", videos[0]), ("o.txt", b"\xff\xfe\xff")]
    members += [("q.mp4", videos[2]), ("q.txt", b"the last one")]
    tar = write_tar(tmp_path / "a.tar", members)
    out = tmp_path / "deep/web"
    code, said, _ = run_main(unpack_tars, tar, "--out", out)
    lines = said.splitlines()
    assert code == 1 and lines[0] == f"{out}: 3 videos, 1 of them with captions"
    assert all(line.startswith(f"  left out: {tar}, ") for line in lines[1:])
    left_out = [line.split(", ", 1)[1].partition(":")[0] for line in lines[1:]]
    assert left_out[:3] == ["/etc/a", "../b", "c/../../d"]
    assert left_out[4 - 1].startswith("eee") and left_out[-6:] == [
        "i",
        "j",
        "l",
        "m",
        "k.mp4/n",
        "o",
    ]
    files = {os.path.relpath(path, tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    kept = {f"deep/web/Videos/{name}.mp4" for name in "jkqg"}
    assert files - kept == {"a.tar", "deep/web/TextVR_train.json"}
    assert (out / "Videos/j.mp4").read_bytes() == videos[0]


def test_a_tar_that_is_cut_short_keeps_what_came_before(tar, tmp_path, run_main):
    content = tar.read_bytes()
    tar.write_bytes(content[: content.index(b"000000001.mp4") + 600])
    code, said, _ = run_main(unpack_tars, tar, tmp_path / "gone.tar", "--out", tmp_path / "web")
    lines = said.splitlines()
    assert code == 1 and "1 videos, 1 of them" in lines[0] and len(lines) == 3
    assert f"{tar}: can't be read on (ReadError" in lines[1] and "gone.tar: can't be" in lines[2]
    code, _, said = run_main(unpack_tars, tmp_path / "gone.tar", "--out", tmp_path / "none")
    assert code == 2 and "no sample of a video could be unpacked" in said
    assert not (tmp_path / "none").exists()


def test_large_members_are_refused_by_their_headers(videos, tmp_path, run_main):
    big = tarfile.TarInfo("a.json")
    big.size = 17 << 20
    with open(tmp_path / "a.tar", "wb") as file:
        file.write(big.tobuf())
        file.truncate(512 + big.size)
        file.seek(0, 2)
        file.write(write_tar(tmp_path / "b.tar", [("b.mp4", videos[0])]).read_bytes())
    code, said, _ = run_main(unpack_tars, tmp_path / "a.tar", "--out", tmp_path / "web")
    assert code == 1 and "1 videos" in said
    assert "a.tar, a: its json has 17,825,792 bytes, at most 16,777,216 are read" in said
