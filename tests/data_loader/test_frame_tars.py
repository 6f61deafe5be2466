"""Frame caches as webdataset tars: what webdataset reads of them, and back bit for bit."""

import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from base.batch import SampleKey
from data_loader.frame_cache.store import Store
from data_loader.frame_cache.tars import parse_frames
from tests.data_loader.cached_folder import dataset, overrides, run
from tests.data_loader.textvr_folder import VIDEOS, write_textvr
from tests.range_server import serve_folder
from tools import cache_frames
from utils.errors import UserError

webdataset = pytest.importorskip("webdataset")
TEST = "TextVR-test-64x64-2f"


@pytest.fixture(scope="module")
def texts(demo, tmp_path_factory):
    folder = write_textvr(tmp_path_factory.mktemp("data"))
    return overrides(demo, folder, 'arch.args.modalities=["vision", "ocr"]')


@pytest.fixture(scope="module", params=["raw", "jpeg"])
def cache(texts, tmp_path_factory, request):
    out = tmp_path_factory.mktemp("cache")
    assert run(texts, "--out", str(out), "--format", request.param) == 0
    return out


@pytest.fixture(scope="module")
def tars(texts, cache, tmp_path_factory):
    out = tmp_path_factory.mktemp("tars")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_frames, "SHARD_BYTES", 1)  # a video each
        assert run(texts, "--out", str(cache), "--to_tars", str(out)) == 0
    return out


def rewrite(source, target, change):
    """Copy a tar; ``change`` gives other members, (name, content), for each."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old:
            for name, content in change(member.name, old.extractfile(member).read()):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                new.addfile(info, io.BytesIO(content))
    return target


def list_tars(folder):
    return list(map(str, sorted(folder.glob("*.tar"))))


def test_webdataset_reads_frames_captions_words_and_times(texts, cache, tars):
    names = list_tars(tars / TEST)
    assert [name[-9:] for name in names] == [f"{number:05d}.tar" for number in range(4)]
    samples = list(webdataset.WebDataset(names, shardshuffle=False).decode("rgb8"))
    data, videos = dataset(texts, cache), Store(cache / TEST).read_videos()
    assert [sample["__key__"] for sample in samples] == [f"{n:09d}" for n in range(4)]
    for index, (sample, name) in enumerate(zip(samples, VIDEOS, strict=True)):
        facts, held = sample["json"], videos[f"Videos/{name}"]
        expected = data[SampleKey(1, index)].frames[: len(held.candidates)]
        if "frames.npy" in sample:
            frames = sample["frames.npy"]
            np.testing.assert_array_equal(frames.transpose(0, 3, 1, 2), expected)
        else:
            frames = np.stack([sample[f"{k:03d}.jpg"] for k in range(len(held.candidates))])
            away = np.abs(frames.transpose(0, 3, 1, 2) - expected.float().numpy())
            assert away.mean() < 2  # another decoder
        assert facts["name"] == f"Videos/{name}" and facts["id"] == name
        assert facts["captions"] == [f"test 0 of {name}"] and sample["txt"] == facts["captions"][0]
        assert facts["words"] == data.get_words(index)
        assert facts["frames"] == held.candidates.tolist()
        assert facts["times"] == pytest.approx(held.candidates / 25)
        assert sample["ocr.json"] == json.loads(data.entries[index].ocr.read_text())


def test_a_round_trip_gives_the_same_cache(texts, cache, tars, tmp_path, capsys):
    both = [*list_tars(tars / TEST), *list_tars(tars / "TextVR-train-69x69-2f")]
    assert run(texts, "--out", str(tmp_path), "--split", "val", "--from_tars", *both[:4]) == 0
    assert f"{tmp_path / TEST}: 4 videos written\n" in capsys.readouterr().out
    assert run(texts, "--out", str(tmp_path), "--split", "val", "--from_tars", *both[:4]) == 0
    assert "0 videos written, 4 were there" in capsys.readouterr().out
    first, second = (Store(folder / TEST) for folder in (cache, tmp_path))
    assert first.storage == second.storage
    videos = first.read_videos(), second.read_videos()
    for name, held in videos[0].items():
        other = videos[1][name]
        assert held.checksums == other.checksums and held.times == other.times
        assert held[1:7] == other[1:7] and held.candidates.tolist() == other.candidates.tolist()
    assert run(texts, "--out", str(tmp_path), "--split", "val", "--verify") == 0
    kind = "--format", first.storage.format
    assert run(texts, "--out", str(tmp_path), "--split", "val", *kind) == 0
    assert "4 of 4 videos, 0 of them read now" in capsys.readouterr().out
    for index in range(4):
        key = SampleKey(1, index)
        assert dataset(texts, tmp_path)[key].frames.equal(dataset(texts, cache)[key].frames)
    # Those of another use are left out, each told.
    assert run(texts, "--out", str(tmp_path), "--split", "val", "--from_tars", *both) == 1
    assert capsys.readouterr().out.count(f"holds TextVR-train-69x69-2f, not {TEST}") == 4


def test_tars_are_read_from_a_url(texts, cache, tars, tmp_path):
    with serve_folder(tars) as server:
        url = f"{server.url}/{TEST}/{{00000..00003}}.tar"
        assert run(texts, "--out", str(tmp_path), "--split", "val", "--from_tars", url) == 0
    key = SampleKey(1, 3)
    assert dataset(texts, tmp_path)[key].frames.equal(dataset(texts, cache)[key].frames)


def _change_facts(**changes):
    def change(name, content):
        if name.endswith(".json") and not name.endswith("ocr.json"):
            content = json.dumps(json.loads(content) | changes).encode()
        yield name, content

    return change


def _replace_frames(content):
    return lambda name, old: [(name, content if name.endswith(("npy", "jpg")) else old)]


def _pickled():
    buffer = io.BytesIO()
    np.save(buffer, np.array([pickle.PickleBuffer], dtype=object), allow_pickle=True)
    return buffer.getvalue()


BAD = {
    "numbers": _change_facts(frames=[5, 3]),
    "times": _change_facts(times=[1.0]),
    "text for a number": _change_facts(num_frames="many"),
    "huge": _change_facts(frames=[10**30, 10**31]),
    "a list": lambda name, content: [(name, b"[]" if name.count(".") == 1 else content)],
    "nested": lambda name, content: [(name, b"[" * 10**5 if name[-5:] == ".json" else content)],
    "pickle": _replace_frames(_pickled()),
    "no frames": lambda name, content: [] if name.endswith(("npy", "jpg")) else [(name, content)],
    "cut frames": lambda name, content: [
        (name, content[:60] if name.endswith(("npy", "jpg")) else content)
    ],
    "twice": lambda name, content: [(name, content)] * 2,
    "out of the folder": lambda name, content: [(f"../{name}", content)],
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_bad_samples_are_left_out_and_told(change, texts, tars, tmp_path, capsys):
    names = list_tars(tars / TEST)
    bad = rewrite(names[0], tmp_path / "bad.tar", change)
    out = ("--out", str(tmp_path / "cache"), "--split", "val")
    assert run(texts, *out, "--from_tars", str(bad), names[3]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("1 videos written") and len(said) == 2
    assert said[1].startswith(f"  left out: {bad}, ") and "000000000: " in said[1]
    with pytest.raises(UserError, match="no sample holds TextVR-test"):
        run(texts, "--out", str(tmp_path / "none"), "--split", "val", "--from_tars", str(bad))


@pytest.mark.parametrize("damage", ["cut", "no tar", "missing", "large header"])
def test_of_a_damaged_tar_the_samples_before_are_kept(damage, texts, tars, tmp_path, capsys):
    names = list_tars(tars / TEST)
    bad = tmp_path / "bad.tar"
    if damage == "cut":
        bad.write_bytes(Path(names[0]).read_bytes()[:3000])
    elif damage == "no tar":
        bad.write_bytes(b"no tar at all" * 1000)
    elif damage == "large header":
        info = tarfile.TarInfo("x")
        info.type, info.size = tarfile.XHDTYPE, 1 << 40
        bad.write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    assert (
        run(texts, "--out", str(tmp_path), "--split", "val", "--from_tars", str(bad), names[3]) == 1
    )
    said = capsys.readouterr().out
    assert f"left out: {bad}: can't be read on (" in said and "1 videos written" in said


def test_arrays_are_read_as_what_they_should_be_alone():
    def save(array, **options):
        buffer = io.BytesIO()
        np.save(buffer, array, **options)
        return buffer.getvalue()

    right = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    np.testing.assert_array_equal(parse_frames(save(right), 2), right)
    header = save(right)[:128].replace(b"(2, 4, 5, 3)", b"(2, 9**9, 3)")
    wrong = [right[..., :2], right[0], right.astype(np.int8), np.asfortranarray(right), right[:1]]
    for content in (*map(save, wrong), _pickled(), b"", save(right)[:-1], header):
        with pytest.raises(ValueError):
            parse_frames(content, 2)
