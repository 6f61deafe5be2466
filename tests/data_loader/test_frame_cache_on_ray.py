"""A frame cache that workers of a Ray cluster make is the one that processes make, to the byte."""

from pathlib import Path

from tests.data_loader.cached_folder import arguments, overrides
from tests.data_loader.textvr_folder import write_textvr
from tests.ray_cluster import ray_cluster  # noqa: F401 - a fixture
from tools import cache_frames


def list_files(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_the_same_files_and_a_bad_video_is_said_once(demo, tmp_path, run_main):
    data = write_textvr(tmp_path / "data")
    bad = sorted((data / "Videos").rglob("*.mp4"))[0]
    bad.write_bytes(b"no video")
    texts = overrides(demo, data)
    found = []
    for name, options in (("a", ["--workers", "2"]), ("b", ["--ray", "local"])):
        argv = [part for part in arguments(texts)[1:] if part not in ("--workers", "1")]
        code, out, _ = run_main(
            cache_frames, *argv, *options, "--split", "test", "--out", tmp_path / name
        )
        found.append((code, out.replace(str(tmp_path / name), "OUT")))
    assert found[0] == found[1] and str(bad) in found[0][1]
    files = list_files(tmp_path / "b")
    assert files == list_files(tmp_path / "a")
    assert len([name for name in files if name.endswith(".bin")]) == 2


def test_options_of_workers_without_a_cluster_are_refused(demo, tmp_path, run_main):
    argv = arguments(overrides(demo, tmp_path))[1:]
    code, _, said = run_main(cache_frames, *argv, "--ray-cpus", "2")
    assert code == 2 and said.startswith("--ray-cpus and --ray-gpus change nothing without --ray")
