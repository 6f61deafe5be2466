"""Frame cache in shards: clips a second of one core, against one file, and from http and S3.

    python -m benchmarks.shards            # a table
    python -m benchmarks.shards --json     # the same as JSON, each round's numbers included

A raw cache of made frames (242 x 242, 16 candidates a video) is written once as one large shard and
once in shards of --shard_mb. Clips of 4 frames are read in turn from the one file, as the release
before read it, from the shards, and from a server on this machine (moto) by http and by S3, whose
own work counts, too: a real one has a network in place of it. It reads the whole file for each
range, so that its time grows with --shard_mb. All frames are compared first.
"""

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks import measuring
from data_loader.frame_cache.store import CachedVideo, FrameSpec, StorageFormat, Store
from data_loader.frame_sampling import choose_candidates
from utils.cli import positive_int, run_cli
from utils.files import FileStamp
from utils.remote_files import Location

SIDE, NUM_FRAMES, PER_INTERVAL, LENGTH = 242, 4, 4, 250
BUCKET = "frames"
SINGLE, SHARDS, HTTP, S3 = "one file, as before", "shards", "http", "S3"

ReadClip = Callable[[str, np.ndarray], np.ndarray]  # a video, places of frames -> (F, 3, h, w)


def main() -> None:
    """Run the command."""
    parser = measuring.make_parser(__doc__)
    parser.add_argument("--videos", type=positive_int, default=200)
    parser.add_argument("--shard_mb", type=positive_int, default=40, help="(default: 40)")
    parser.add_argument("--rounds", type=positive_int, default=15)
    parser.add_argument("--clips", type=positive_int, default=400, help="of a round, local")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, serve_bucket() as (client, address):
        root = Path(name)
        single = write_store(root / "single", asked.videos, 10**15)
        shards = write_store(root / "shards", asked.videos, asked.shard_mb * 10**6)
        for path in shards.folder.iterdir():
            client.upload_file(str(path), BUCKET, path.name, ExtraArgs={"ACL": "public-read"})
        reads = {
            SINGLE: read_one_file(single),
            SHARDS: read_store(shards.folder),
            HTTP: read_store(f"{address}/{BUCKET}"),
            S3: read_store(f"s3://{BUCKET}"),
        }
        result = measure(reads, asked.videos, asked.rounds, asked.clips)
        result["shards"] = len(shards.list_shards())
        shutil.rmtree(root / "single")
    measuring.write_result(measuring.describe_machine() | result, asked.json, make_table)


@contextmanager
def serve_bucket() -> Iterator[tuple[object, str]]:
    """Run an S3 server with one bucket; yields a client, and its address for plain http."""
    import boto3
    import fsspec
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line for every request
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        os.environ["AWS_ENDPOINT_URL"] = address = f"http://{host}:{port}"
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            os.environ[name] = "test"
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # of another server
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket=BUCKET)
        yield client, address
    finally:
        server.stop()


def name_video(number: int) -> str:
    """Return the name of a made video."""
    return f"Videos/{number}.mp4"


def write_store(root: Path, num_videos: int, shard_bytes: int) -> Store:
    """Write a cache of random frames, the same whatever the shards."""
    spec = FrameSpec("TextVR", "train", (SIDE, SIDE), False, NUM_FRAMES)
    store = Store.create(root, spec, StorageFormat("raw", None, PER_INTERVAL, spec.size))
    rng, number = np.random.default_rng(0), 0
    candidates = choose_candidates(PER_INTERVAL, NUM_FRAMES, LENGTH)
    noise = rng.integers(0, 256, (len(candidates), 3, SIDE, SIDE), dtype=np.uint8)
    facts = {"num_frames": LENGTH, "width": 640, "height": 360, "shape": (SIDE, SIDE)}
    for shard in range(num_videos):
        with store.write_shard(shard) as writer:
            while number < num_videos:
                noise[:, 0, 0, :4] = np.frombuffer(np.uint32(number).tobytes(), np.uint8)
                parts = [frame.tobytes() for frame in noise]
                if not writer.has_room(parts, shard_bytes):
                    break
                stamp = FileStamp(number, 0)
                writer.add(name_video(number), parts, stamp=stamp, candidates=candidates, **facts)
                number += 1
        if number == num_videos:
            break
    store.write_shard_list()
    return store


def read_one_file(store: Store) -> ReadClip:
    """Read as the release before did: one map of the file, and an index by places."""
    videos, data = store.read_videos(), np.memmap(store.data_path(0), np.uint8, "r")

    def read(name: str, places: np.ndarray) -> np.ndarray:
        cached: CachedVideo = videos[name]
        block = data[cached.offsets[0] : cached.offsets[-1]].reshape(-1, 3, *cached.shape)
        return block[places]

    return read


def read_store(folder: Location) -> ReadClip:
    """Read as ``CachedReader`` does."""
    store = Store(folder)
    videos = store.read_videos()

    def read(name: str, places: np.ndarray) -> np.ndarray:
        cached = videos[name]
        parts = store.read_frames(cached, places, name)
        return np.concatenate(parts).reshape(-1, 3, *cached.shape)

    return read


def measure(
    reads: dict[str, ReadClip], num_videos: int, rounds: int, num_clips: int
) -> measuring.Result:
    """Compare the clips, and return seconds a clip by way: of the processor, and of the clock."""
    rng = np.random.default_rng(1)
    clips = [
        (name_video(int(rng.integers(num_videos))), np.sort(rng.choice(16, 4, replace=False)))
        for _ in range(num_clips)
    ]
    for clip in clips[:20]:
        found = [read(*clip) for read in reads.values()]
        assert all(np.array_equal(found[0], other) for other in found[1:]), clip
    seconds: dict[str, list[float]] = {name: [] for name in reads}
    clock: dict[str, list[float]] = {name: [] for name in reads}
    for number in range(rounds + 1):
        order = list(reads.items())
        for name, read in order[:: -1 if number % 2 else 1]:
            part = clips if name in (SINGLE, SHARDS) else clips[: max(1, num_clips // 20)]
            begin, began = time.process_time(), time.perf_counter()
            for clip in part:
                read(*clip)
            if number:  # the first round warms up
                seconds[name].append((time.process_time() - begin) / len(part))
                clock[name].append((time.perf_counter() - began) / len(part))
    return {"seconds": seconds, "clock": clock}


def make_table(result: measuring.Result) -> str:
    """Return clips a second by way, and the ratio to the one file."""
    rows = []
    for name, seconds in result["seconds"].items():
        ratios = [b / s for b, s in zip(result["seconds"][SINGLE], seconds, strict=True)]
        numbers = ([1 / s for s in seconds], 0), (ratios, 3)
        clock = f"{1000 * median(result['clock'][name]):.2f}"
        rows.append([name, *(measuring.format_spread(*pair) for pair in numbers), clock])
    columns = ["read from", "clips a core second", "times the one file", "ms a clip, by the clock"]
    head = f"{measuring.format_head(result)}; {result['shards']} shards"
    return f"{head}\n\n{measuring.format_table(columns, rows, 1)}"


if __name__ == "__main__":
    run_cli(main)
