"""Reading a frame cache from a URL: http with ranges, and S3."""

import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest

from base.batch import SampleKey
from data_loader.frame_cache.store import Store, _hash_index
from data_loader.readers.base_reader import VideoError
from tests.conftest import tiny
from tests.data_loader.cached_folder import dataset, overrides, run
from tests.data_loader.textvr_folder import change_json, write_textvr
from tests.range_server import serve_folder
from tests.trainer.test_resume import differences, made, settings
from tools import cache_frames
from utils import remote_files
from utils.checkpoint.files import load_checkpoint
from utils.errors import UserError

pytest.importorskip("aiohttp")
pytest.importorskip("s3fs")
boto3 = pytest.importorskip("boto3")
fsspec = pytest.importorskip("fsspec")
moto_server = pytest.importorskip("moto.server")


@pytest.fixture(scope="module")
def texts(demo, tmp_path_factory):
    return overrides(demo, write_textvr(tmp_path_factory.mktemp("data")))


def make_cache(texts, out, *options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_frames, "SHARD_BYTES", 1)  # a video each
        assert run(texts, "--out", str(out), *options) == 0
    return out


@pytest.fixture(scope="module")
def cache(texts, tmp_path_factory):
    return make_cache(texts, tmp_path_factory.mktemp("cache"))


@pytest.fixture
def server(cache, tmp_path):
    """A server of a copy of the cache, which may be damaged."""
    shutil.copytree(cache, tmp_path / "served")
    with serve_folder(tmp_path / "served") as running:
        yield running


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(remote_files, "PAUSES_S", (0.01, 0.01))


def samples(data, epoch=1):
    return [data[SampleKey(epoch, index)] for index in range(len(data))]


def assert_equal_samples(some, others):
    for one, other in zip(some, others, strict=True):
        assert one.frames.any() and one.frames.equal(other.frames)
        assert (one.id, one.num_frames, one.captions) == (
            other.id,
            other.num_frames,
            other.captions,
        )


@pytest.mark.parametrize("training", [False, True])
def test_http_gives_the_samples_of_the_folder_and_reads_their_bytes_alone(
    training, texts, cache, server
):
    remote = dataset(texts, server.url, training=training)
    server.requests.clear()
    for epoch in (1, 2):
        found = samples(remote, epoch)
        assert_equal_samples(samples(dataset(texts, cache, training=training), epoch), found)
    use = "train" if training else "test"
    (folder,) = cache.glob(f"TextVR-{use}-*")
    spans = {
        (f"/{folder.name}/{held.shard:05d}.bin", int(start), int(end) - 1)
        for held in Store(folder).read_videos().values()
        for start, end in zip(held.offsets[:-1], held.offsets[1:], strict=True)
    }
    assert set(server.requests) <= spans and len(server.requests) == 2 * sum(
        sample.num_frames for sample in found
    )


def test_http_gives_jpeg_frames_too(texts, tmp_path, quick):
    make_cache(texts, tmp_path, "--format", "jpeg", "--split", "val")
    with serve_folder(tmp_path) as server:
        assert_equal_samples(samples(dataset(texts, tmp_path)), samples(dataset(texts, server.url)))


def _read_in_process(data, pipe):
    pipe.send([sample.frames.numpy() for sample in samples(data)])


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_processes_open_their_own_connections(method, texts, cache, server):
    """Also after this one has read: connections and their thread don't outlive a fork."""
    data = dataset(texts, server.url)
    expected = [sample.frames.numpy() for sample in samples(data)]
    context = multiprocessing.get_context(method)
    here, there = context.Pipe()
    process = context.Process(target=_read_in_process, args=(data, there))
    process.start()
    try:
        assert here.poll(60), "the process hangs"
        for one, other in zip(here.recv(), expected, strict=True):
            np.testing.assert_array_equal(one, other)
        process.join(60)
        assert process.exitcode == 0
    finally:
        process.kill()
    assert_equal_samples(samples(data), samples(dataset(texts, cache)))


@pytest.mark.parametrize("fault", ["short", "drop", "error", "flip"])
def test_a_fault_that_passes_is_tried_again_and_one_that_stays_is_one_error(
    fault, texts, cache, server, quick
):
    data, expected = dataset(texts, server.url), samples(dataset(texts, cache))
    server.fault, server.num_faults = fault, 2
    assert data[SampleKey(1, 0)].frames.equal(expected[0].frames)
    assert server.num_faults < 0
    server.num_faults = None
    with pytest.raises(UserError) as caught:
        data[SampleKey(1, 1)]
    text = str(caught.value)
    assert not isinstance(caught.value, VideoError)  # no black clip may stand in for it
    assert text.startswith(f"{server.url}/TextVR-test-64x64-2f/00001.bin: ")
    assert "News_Movie/b.mp4 can't be read in 3 tries (" in text and "\n" not in text
    server.fault = "none"
    assert data[SampleKey(1, 1)].frames.equal(expected[1].frames)


def test_a_server_that_goes_away_is_one_error(texts, cache, tmp_path, quick):
    with serve_folder(cache) as server:
        data = dataset(texts, server.url)
        assert data[SampleKey(1, 0)].frames.any()
    with pytest.raises(UserError, match=r"c.mp4 can't be read in 3 tries \((Client|Server)"):
        data[SampleKey(1, 2)]
    with pytest.raises(UserError, match="cache.json: can't be read in 3 tries"):
        dataset(texts, server.url)


def test_a_server_without_ranges_is_refused_before_anything_large_is_read(texts, server, quick):
    data = dataset(texts, server.url)
    server.fault = "whole"
    with pytest.raises(UserError, match="00000.bin: its server does not answer ranges of bytes"):
        dataset(texts, server.url)
    with pytest.raises(UserError, match="a.mp4 can't be read .* bytes came in place of the"):
        data[SampleKey(1, 0)]  # where another server took the place of the first


def test_damaged_and_cut_shards_are_never_read_as_frames(texts, cache, server, quick):
    data = dataset(texts, server.url)
    folder = server.folder / "TextVR-test-64x64-2f"
    shards = [folder / f"{number:05d}.bin" for number in range(4)]
    content = bytearray(shards[0].read_bytes())
    content[100] ^= 1
    shards[0].write_bytes(content)
    shards[1].write_bytes(shards[1].read_bytes()[:-1])
    shards[3].unlink()
    for number, reason in ((0, "differ from their checksum"), (1, "bytes came in place"), (3, "")):
        with pytest.raises(UserError, match=f"0000{number}.bin: .*mp4 can't be read.*{reason}"):
            data[SampleKey(1, number)]
    shutil.copy(cache / folder.name / "00000.bin", shards[0])
    lax = dataset([*texts, "data_loader.args.video_params.loading=lax"], server.url)
    with pytest.raises(UserError, match="00001.bin: .*bytes came in place"):
        lax[SampleKey(1, 1)]
    assert data[SampleKey(1, 2)].frames.equal(dataset(texts, cache)[SampleKey(1, 2)].frames)


def test_a_copy_that_is_not_whole_is_refused(texts, server, quick):
    folder = server.folder / "TextVR-test-64x64-2f"
    shard, index, listed = folder / "00000.bin", folder / "00002.json", folder / "shards.json"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=f"bin: has {len(whole) - 1} bytes, not {len(whole)}; copy"):
        dataset(texts, server.url)
    shard.unlink()
    with pytest.raises(UserError, match="00000.bin: is missing; copy it there"):
        dataset(texts, server.url)
    shard.write_bytes(whole)
    text = index.read_text()
    index.write_text(text.replace('"video": [', '"video": [1', 1))
    with pytest.raises(UserError, match="00002.json: differs from its checksum; copy .*2[.][*] th"):
        dataset(texts, server.url)
    index.unlink()
    with pytest.raises(UserError, match="index of a shard is missing .*copy the cache again"):
        dataset(texts, server.url)
    index.write_text(text)
    listed.write_text("[]")
    with pytest.raises(UserError, match="shards.json: is no list of shards"):
        dataset(texts, server.url)
    listed.unlink()
    with pytest.raises(UserError, match="shards.json: is missing: .*run python -m tools.cache_fra"):
        dataset(texts, server.url)


def test_what_is_not_there_is_said(texts, server, quick):
    with pytest.raises(UserError, match="nowhere: this frame cache has no TextVR-test.*copy it t"):
        dataset(texts, f"{server.url}/nowhere")
    with pytest.raises(UserError, match="nothing://x/TextVR.*: can't be opened .*correct the URL"):
        dataset(texts, "nothing://x")
    with pytest.raises(UserError, match="http://.*: frames are written to a folder here; give --o"):
        run([*texts, f"data_loader.args.frame_cache={server.url}"])


def test_verify_reads_everything_at_a_url(texts, server, capsys, quick):
    texts = [*texts, f"data_loader.args.frame_cache={server.url}"]
    assert run(texts, "--split", "val", "--verify") == 0
    shard = server.folder / "TextVR-test-64x64-2f/00003.bin"
    shard.write_bytes(bytes(1) + shard.read_bytes()[1:])
    capsys.readouterr()
    assert run(texts, "--split", "val", "--verify") == 1
    said = capsys.readouterr().out.splitlines()
    assert "00003.bin: differs from its checksum; copy" in said[0]
    assert said[1] == f"{server.url}/TextVR-test-64x64-2f: 1 of 4 shards are damaged"


def test_a_cache_of_a_former_release_is_read_and_gets_its_checksums(texts, server, quick):
    """Its indexes have no checksums of frames, and nothing lists its shards."""
    folder = server.folder / "TextVR-test-64x64-2f"
    store = Store(folder)
    expected = store.read_videos()
    for shard in store.list_shards():
        ((_, index),) = store._read_indexes([shard])
        videos = store._parse_videos(shard, index)
        old = {name: video._replace(checksums=None) for name, video in videos.items()}
        store.write_index(shard, old, index["bytes"], index["sha256"])
        change_json(store.index_path(shard), _drop_keys)
    (folder / "shards.json").unlink()
    local = samples(dataset(texts, server.folder))
    before = (folder / "00000.bin").stat().st_mtime_ns
    assert run(texts, "--out", str(server.folder), "--split", "val") == 0
    assert (folder / "00000.bin").stat().st_mtime_ns == before
    found = Store(folder).read_videos()
    assert [video.checksums for video in found.values()] == [
        video.checksums for video in expected.values()
    ]
    assert_equal_samples(local, samples(dataset(texts, server.url)))


def _drop_keys(value):
    for video in value["index"]["videos"].values():
        del video["crc32"], video["times"]
    value["sha256"] = _hash_index(value["index"])


def test_a_resumed_run_equals_one_that_never_stopped(
    demo, make_config, dropout_text_model, tmp_path
):
    cache = make_cache(tiny(demo), tmp_path / "cache")

    def make_run(name, place):
        more = settings(dropout_text_model, "data_loader.args.num_workers=1")
        more.append(f"data_loader.args.frame_cache={place}")
        return made(make_config(*more, kind="vision"), tmp_path / name)

    with serve_folder(cache) as server:
        make_run("whole", server.url).fit()
        first = make_run("first", server.url)
        first.epochs = 1  # stopped after it
        first.fit()
        second = make_run("second", server.url)
        second.resume(tmp_path / "first/model_last.pth")
        second.fit()
        assert server.requests
    make_run("local", cache).fit()
    whole, second, local = (
        load_checkpoint(tmp_path / name / "model_last.pth") for name in ("whole", "second", "local")
    )
    assert differences(whole, second) == [] and whole["epoch"] == 2
    assert differences(whole, local) == ["/config/data_loader/args/frame_cache"]


@pytest.fixture(scope="module")
def bucket():
    """An S3 server of this machine's, and the environment that leads to it."""
    server = moto_server.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # of another test's server
        client = boto3.client("s3")
        client.create_bucket(Bucket="frames")
        yield client
    server.stop()


def test_s3_gives_the_samples_of_the_folder(texts, cache, bucket, quick):
    for path in filter(Path.is_file, cache.rglob("*")):
        name = f"{cache.name}/{path.relative_to(cache)}"
        bucket.upload_file(str(path), "frames", name)
    url = f"s3://frames/{cache.name}"
    for training in (False, True):
        data = dataset(texts, url, training=training)
        assert_equal_samples(samples(data), samples(dataset(texts, cache, training=training)))
    name = f"{cache.name}/TextVR-train-69x69-2f/00000.bin"
    content = (cache / name.partition("/")[2]).read_bytes()
    bucket.put_object(Bucket="frames", Key=name, Body=content[:50])
    with pytest.raises(UserError, match=f"s3://frames/{name}: .*a.mp4 can't be read"):
        data[SampleKey(1, 0)]
    with pytest.raises(UserError, match=f"s3://frames/{name}: has 50 bytes, not"):
        dataset(texts, url, training=True)
    with pytest.raises(UserError, match="s3://no-such-bucket/x: this frame cache has no"):
        dataset(texts, "s3://no-such-bucket/x")
