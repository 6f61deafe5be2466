"""An index of videos that are in a bucket, or on a web server: made, kept up to date, and safe.

The store is moto's server of S3, on this machine.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
from PIL import Image

import index as index_script
import search as search_script
from retrieval import VideoIndex
from retrieval.index import remote_videos
from retrieval.index.layout import thumbnail_file
from retrieval.index.location import open_store
from retrieval.index.ocr_text import OcrFolder, OcrSource
from retrieval.index.relocation import plan_relocation
from retrieval.index.repair import repair_index
from retrieval.index.roots import Roots, parse_folder
from retrieval.index.update import IndexOptions, UpdateResult, preview_update, update_index
from retrieval.spoken.source import SpokenSource
from tests.conftest import ROOT
from tests.object_store import SECRET, Store, leading_to, refusing_store, running_store
from tests.range_server import serve_folder
from tests.retrieval.frame_colours import write_colours
from utils import remote_files
from utils.errors import UserError
from utils.files import list_files, select_files
from utils.remote_files import strip_secrets
from utils.remote_store import read_status

pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("aiohttp")

SRT = "1\n00:00:01,000 --> 00:00:02,000\nThe lighthouse of Alexandria\n"
LONG, SHORT = "a/moment.mp4", "b ä/100% #1.mp4"


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with running_store() as running:
        yield running


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path) -> Path:
    """Pauses between tries are short; copies lie in a folder of the test's."""
    monkeypatch.setattr(remote_files, "PAUSES_S", (0.01, 0.01))
    copies = tmp_path / "copies"
    copies.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(copies))
    return copies


@pytest.fixture(scope="module")
def made(colours, tmp_path_factory) -> Path:
    """``videos/``, among them much that is none, and ``ocr/``. Read only."""
    folder = tmp_path_factory.mktemp("made")
    videos, documents = folder / "videos", folder / "ocr"
    for name, source in ((LONG, "moment.mp4"), (SHORT, "short.mp4")):
        (videos / name).parent.mkdir(parents=True)
        shutil.copy(colours[0] / source, videos / name)
    (videos / "a/moment.en.srt").write_text(SRT)
    for name in (".hidden.mp4", "@eaDir/c.mp4", "a/.cache/d.mp4", "notes.txt", "broken/e.mp4"):
        (videos / name).parent.mkdir(parents=True, exist_ok=True)
        (videos / name).write_bytes(b"no video, but as long as one may be" * 10)
    (videos / "code.ts").write_text("export const video = 1;\n")
    Image.new("RGB", (8, 8)).save(videos / "still.gif")
    record = {"text": "Grand Hotel", "score": 0.9, "tracks": {"0": [1, 2, 40, 2, 40, 12, 1, 12]}}
    (documents / LONG).parent.mkdir(parents=True)
    (documents / f"{LONG}.json").write_text(json.dumps({"0": record}))
    return folder


@pytest.fixture
def url(store, made, request) -> str:
    """The videos in a bucket of the test's own."""
    bucket = f"videos-{abs(hash(request.node.name)) % 10**9}"
    store.make_bucket(bucket)
    store.upload(made / "videos", bucket, "my videos")
    store.put(bucket, "my videos/empty folder/", b"")
    store.put(bucket, "others/secret.mp4", b"not ours")
    store.requests.clear()
    return f"s3://{bucket}/my videos"


def bucket_of(url: str) -> str:
    return url.split("/")[2]


def update(place, out: Path, made: Path, model=None, **options) -> UpdateResult:
    roots = Roots.of(parse_folder(str(place)), ["broken"])
    source = SpokenSource(OcrFolder(made / "ocr"), roots.locate)
    return update_index(roots, out, model, source, IndexOptions(**options))


def export(out: Path, folder: Path) -> dict[str, list]:
    """All that an index has, but for where its videos are and when they were written."""
    from retrieval.export.parquet import export_parquet

    shutil.rmtree(folder, ignore_errors=True)
    with VideoIndex.open(out) as index:
        export_parquet(index, folder)
        ids = [row["id"] for row in pq.read_table(folder / "entries.parquet").to_pylist()]
        pictures = [index.read_thumbnail(one) for one in ids]
    tables = {path.stem: pq.read_table(path).to_pylist() for path in folder.glob("*.parquet")}
    for row in tables["videos"]:
        del row["folder"], row["modified_ns"]
    return tables | {"pictures": pictures}


def test_the_index_is_that_of_the_same_folder_here(url, made, colours, tmp_path, quick, caplog):
    def list_said() -> list[str]:
        ours = [r.getMessage() for r in caplog.records if r.name.startswith("retrieval")]
        caplog.clear()
        return [text.replace(str(made / "videos"), url) for text in ours]

    update(made / "videos", tmp_path / "local", made, colours[1])
    local_said = list_said()
    result = update(url, tmp_path / "remote", made, colours[1])
    assert result.failed == {} and result.num_videos == 2
    local, remote = (export(tmp_path / name, tmp_path / "out") for name in ("local", "remote"))
    assert local["entries"] and local["pictures"][0][:2] == b"\xff\xd8"
    assert remote == local
    # What was left out is told in the same words, with the URL.
    assert list_said() == local_said and "3 hidden or of the system" in local_said[0]
    with VideoIndex.open(tmp_path / "remote") as index:
        assert str(index.videos) == url
        for query in ("lighthouse", '"grand hotel"', "moment"):
            assert index.search(query, mode="keyword")[0].video == LONG
        assert str(index.locate_video(index.find_video(SHORT))) == f"{url}/{SHORT}"
    assert list(quick.iterdir()) == []


def test_an_update_reads_only_what_has_changed(url, store, made, tmp_path):
    out, bucket = tmp_path / "my.index", bucket_of(url)
    update(url, out, made)
    assert store.count_reads(".mp4") and store.count_reads(".srt")
    store.requests.clear()
    result = update(url, out, made)
    assert result.plan.num_same == 2 and store.count_reads(".mp4") == 0
    assert store.count_reads(".srt") == 0
    content = (made / "videos" / LONG).read_bytes()
    with VideoIndex.open(out) as index:
        ids = {name: index.find_video(name).id for name in (LONG, SHORT)}
    # Moved within the bucket, and another one in its place; one that is new.
    store.put(bucket, "my videos/c/moved.mp4", content)
    other = write_colours(tmp_path / "other.mp4", ("red", 1.0))
    store.put(bucket, f"my videos/{LONG}", other.read_bytes())
    store.put(bucket, f"my videos/{SHORT}", (made / "videos" / SHORT).read_bytes())
    plan = preview_update(Roots.of(parse_folder(url), ["broken"]), out, OcrSource())
    assert plan.moved == {"c/moved.mp4": LONG} and plan.add == [LONG]
    result = update(url, out, made)
    assert result.plan.moved == {"c/moved.mp4": LONG} and result.num_videos == 3
    with VideoIndex.open(out) as index:
        assert index.find_video("c/moved.mp4").id == ids[LONG]
        assert index.find_video(SHORT).id == ids[SHORT]
        assert index.find_video(LONG).duration_s == pytest.approx(1.0)
    store.delete(bucket, f"my videos/{LONG}")
    result = update(url, out, made)
    assert result.plan.drop == [LONG] and result.num_videos == 2


def test_a_change_within_a_second_is_seen_by_the_etag():
    when = datetime(2026, 11, 27, 8, 0, 1, tzinfo=timezone.utc)
    first = {"size": 7, "ETag": '"a"', "LastModified": when}
    stamp = read_status(first).make_stamp()
    assert stamp.size == 7 and stamp.mtime_ns // 10**9 == when.timestamp()
    assert read_status(first | {"ETag": '"b"'}).make_stamp() != stamp
    # As a list and a question, and as other stores say the same.
    for change in (
        {"LastModified": when.replace(microsecond=500_000)},
        {"LastModified": "2026-11-27T08:00:01.5Z"},
        {"LastModified": "", "Last-Modified": "Fri, 27 Nov 2026 08:00:01 GMT"},
        {"ETag": "", "etag": "a", "LastModified": None, "last_modified": when},
        {"ETag": 'W/"a"'},
    ):
        assert read_status(first | change).make_stamp() == stamp, change
    bare = read_status({"size": 7})
    assert not bare.tells_changes and read_status({"size": 7, "mtime": 5.25}).mtime_ns == 5.25e9


def test_where_no_version_is_told_the_content_decides(made, tmp_path):
    served, out = tmp_path / "served", tmp_path / "my.index"
    served.mkdir()
    content = (made / "videos" / LONG).read_bytes()
    other = write_colours(tmp_path / "other.mp4", ("red", 1.0)).read_bytes()
    (served / "film.mp4").write_bytes(content)
    with serve_folder(served, ".mp4") as server:
        server.tells_versions = False
        assert update(server.url, out, made).num_videos == 1
        assert update(server.url, out, made).plan.num_same == 1
        (served / "film.mp4").write_bytes(other + bytes(len(content) - len(other)))
        assert update(server.url, out, made).plan.update == ["film.mp4"]


def test_a_new_subtitle_is_found_and_a_model_embeds_what_is_there(
    url, store, made, colours, tmp_path
):
    out = tmp_path / "my.index"
    update(url, out, made)
    name = f"my videos/{SHORT.removesuffix('.mp4')}.srt"
    store.put(
        bucket_of(url), name, SRT.replace("1,0", "0,0").replace("lighthouse", "pyramid").encode()
    )
    assert update(url, out, made).plan.update == [SHORT]
    changed = SRT.replace("1,0", "0,0").replace("lighthouse", "pyramis").encode()
    store.put(bucket_of(url), name, changed)  # as long as it was
    assert update(url, out, made).plan.update == [SHORT]
    result = update(url, out, made, colours[1])
    assert result.num_anew == 2
    with VideoIndex.open(out) as index:
        assert index.search("pyramis", mode="keyword")[0].video == SHORT
        assert index.search("red", mode="semantic")[0].video == LONG


def test_what_goes_wrong_with_one_video_keeps_none_of_the_others(
    url, store, made, tmp_path, caplog, quick
):
    """Cut short, vanished meanwhile, too large for the disk."""

    class Vanishing(OcrSource):
        def prepare(self) -> None:
            store.delete(bucket_of(url), "my videos/vanished.mp4")

    content = (made / "videos" / LONG).read_bytes()
    store.put(bucket_of(url), "my videos/vanished.mp4", content)
    store.put(bucket_of(url), "my videos/cut.mp4", content[: len(content) // 2])
    roots = Roots.of(parse_folder(url))
    result = update_index(roots, tmp_path / "my.index", None, Vanishing(), IndexOptions())
    assert result.failed.keys() == {"vanished.mp4", "cut.mp4", "broken/e.mp4"}
    assert result.failed["vanished.mp4"].startswith(f"{url}/vanished.mp4: is not there any more")
    assert result.failed["cut.mp4"].startswith(f"{url}/cut.mp4: ")
    assert result.num_videos == 2 and list(quick.iterdir()) == []
    assert str(quick) not in "".join([*result.failed.values(), caplog.text])


def test_a_video_for_which_there_is_no_room(url, made, tmp_path, monkeypatch):
    usage = shutil.disk_usage("/")
    size = (made / "videos" / SHORT).stat().st_size
    free = size + remote_videos._ROOM
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=free))
    result = update(url, tmp_path / "my.index", made)
    assert result.failed.keys() == {LONG} and "set TMPDIR" in result.failed[LONG]
    assert result.num_videos == 1


def test_a_store_that_refuses_or_is_gone_never_looks_like_an_empty_folder(
    url, store, made, tmp_path
):
    out = tmp_path / "my.index"
    update(url, out, made)
    before = export(out, tmp_path / "out")
    with refusing_store() as address, leading_to(address):
        for act in (update, lambda *_: preview_update(parse_folder(url), out, OcrSource())):
            with pytest.raises(UserError, match=f"{url}: .*AccessDenied|PermissionError"):
                act(url, out, made)
    with leading_to("http://127.0.0.1:9"):
        with pytest.raises(UserError, match=f"{url}: .*AWS_ENDPOINT_URL.* stays"):
            update(url, out, made)
    for wrong in ("s3://there-is-no-such-bucket/x", f"s3://{bucket_of(url)}/nothing here"):
        with pytest.raises(UserError, match="no such folder|no video; is the URL right"):
            update(wrong, tmp_path / "other", made)
    assert export(out, tmp_path / "out") == before
    assert update(url, out, made).plan.num_same == 2


def test_a_store_that_stops_ends_the_run_and_drops_nothing(made, tmp_path):
    class Stopping(OcrSource):
        def prepare(self) -> None:
            own.stop()

    out = tmp_path / "my.index"
    with running_store() as own:
        own.make_bucket("brief")
        own.upload(made / "videos/a", "brief", "v")
        roots = Roots.of(parse_folder("s3://brief/v"))
        update_index(roots, out, None, OcrSource(), IndexOptions())
        other = write_colours(tmp_path / "other.mp4", ("red", 1.0))
        for name in ("moment.mp4", "new.mp4"):
            own.put("brief", f"v/{name}", other.read_bytes())
        with pytest.raises(UserError, match=r"s3://brief/v: .* What was known before stays"):
            update_index(roots, out, None, Stopping(), IndexOptions())
    with VideoIndex.open(out) as index:
        assert index.paths() == ["moment.mp4"]
        assert index.find_video("moment.mp4").duration_s == pytest.approx(14.0)


def test_an_index_follows_its_videos_into_a_bucket_and_back(url, made, colours, tmp_path):
    """All that it has stays, and is not made again."""
    out, folder = tmp_path / "my.index", made / "videos"
    update(folder, out, made, colours[1])
    with pytest.raises(UserError, match=f"--relocate {folder} {url}"):
        update(url, out, made)
    before = export(out, tmp_path / "out")
    for old, new in ((folder, url), (url, folder)):
        index_script.relocate(open_store(out), parse_folder(str(old)), parse_folder(str(new)))
        result = update(new, out, made, colours[1])
        assert result.plan.num_same + len(result.plan.update) == 2 and not result.plan.add
        assert export(out, tmp_path / "out")["frames"] == before["frames"]
    roots = Roots.of(parse_folder(url))
    for old, new, said in (
        (parse_folder("s3://other/x"), folder, "is none of the indexed folders"),
        (parse_folder(url), parse_folder(url.replace("my videos", "others")), "holds none of the"),
    ):
        with pytest.raises(UserError, match=said):
            plan_relocation(roots, [LONG], old, new)


def test_lost_pictures_are_made_anew_from_the_store(url, made, tmp_path):
    out = tmp_path / "my.index"
    update(url, out, made)
    file = thumbnail_file(out, 1)
    content = file.read_bytes()
    file.write_bytes(b"damaged")
    assert repair_index(out).damage
    assert file.read_bytes() == content


def test_commands_and_their_exit_codes_and_no_secret_anywhere(
    url, store, made, tmp_path, run_script, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", "/nonexistent")
    out, said = tmp_path / "my.index", ""
    command = [url, "--out", out, "--ocr", made / "ocr"]
    code, text, error = run_script(index_script, *command, "--dry-run")
    assert code == 0 and f"add     {LONG}" in text and not out.exists()
    code, text, error = run_script(index_script, *command)
    assert code == 1 and "failed  broken/e.mp4: " in text and "2 added" in text, error
    said += text + error
    code, text, error = run_script(index_script, *command, "--exclude", "broken")
    assert code == 0 and "2 unchanged" in text
    said += text + error
    code, text, error = run_script(search_script, out, "lighthouse", "--mode", "keyword")
    assert code == 0 and f"{url}/{LONG}" in text
    said += text + error
    with refusing_store() as address, leading_to(address):
        code, text, error = run_script(index_script, *command)
    assert code == 2 and text == "" and error.count(url) == 1 and "Traceback" not in error
    said += error
    for wrong in (url.replace("//", f"//user:{SECRET}@"), f"{url}?token={SECRET}"):
        code, text, error = run_script(index_script, wrong, "--out", tmp_path / "no", "--no-ocr")
        assert code == 2 and "leave out user, password" in error and not (tmp_path / "no").exists()
        said += text + error
    assert SECRET not in said and "test-key" not in said
    held = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert url.encode().hex().encode() in held
    assert SECRET.encode() not in held and SECRET.encode().hex().encode() not in held


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("https://me:pw@host/a b", "https://host/a b"),
        ("GET http://h:80/x?X-Amz-Signature=pw&y=1 403", "GET http://h:80/x 403"),
        ("url='https://h/x?sig=pw'", "url='https://h/x'"),
        ("s3://key:pw@bucket/me@home/x.mp4", "s3://bucket/me@home/x.mp4"),
        ("a@b.c and 3 > 2?", "a@b.c and 3 > 2?"),
    ],
)
def test_no_secret_of_a_url_is_left(text, left):
    assert strip_secrets(text).startswith(left) and "pw" not in strip_secrets(text)


def test_names_are_selected_by_the_rules_of_folders(made, tmp_path):
    names = [p.relative_to(made / "videos").as_posix() for p in (made / "videos").rglob("*")]
    names = [name for name in names if (made / "videos" / name).is_file()]
    for exclude in ((), ("a",), ("*.gif", "b*/*"), ("broken/",)):
        here = list_files(made / "videos", (".mp4", ".gif"), exclude)
        there = select_files(names, (".mp4", ".gif"), exclude)
        for names_of in (here.hidden, here.excluded, there.hidden, there.excluded):
            names_of.sort()
        assert there == here and here.hidden


def test_a_web_server_that_lists_its_folders(made, colours, tmp_path, caplog, monkeypatch):
    served = Path(shutil.copytree(made / "videos", tmp_path / "served"))
    update(served, tmp_path / "local", made, colours[1])
    out = tmp_path / "my.index"
    with serve_folder(tmp_path, ".mp4") as server:
        url = f"{server.url}/served"
        assert update(url, out, made, colours[1]).failed == {}
        said = [text for text in caplog.messages if text.startswith(url)]
        assert "3 hidden or of the system" in said[0] and "1 left out by --exclude" in said[0]
        assert server.requests
        remote, local = (export(one, tmp_path / "out") for one in (out, tmp_path / "local"))
        assert remote == local
        server.requests.clear()
        assert update(url, out, made, colours[1]).plan.num_same == 2 and not server.requests
        with VideoIndex.open(out) as index:
            shown = str(index.locate_video(index.find_video(SHORT)))
        assert shown == f"{url}/b%20%C3%A4/100%25%20%231.mp4"
        # A folder that is not listed any more keeps what is known of it.
        server.refused = {"served/a"}
        result = update(url, out, made, colours[1])
        assert result.plan.drop == [] and result.num_videos == 2
        assert "1 folders can't be read (a: is refused, 403)" in caplog.text
        server.refused = {f"served/{SHORT}"}  # one file: what is known of it stays, too
        result = update(url, out, made, colours[1])
        assert result.failed.keys() == {SHORT} and result.num_videos == 2
        said = result.failed[SHORT]
        assert said.startswith(f"{url}/b%20") and "403" in said and "tries" not in said
        server.refused = {"served"}
        with pytest.raises(UserError, match=f"{url}: .*403"):
            update(url, out, made, colours[1])
        server.refused, server.fault = set(), "whole"
        monkeypatch.setattr(remote_videos, "_CHUNK", 1000)  # not all of it at once
        write_colours(served / "new.mp4", ("red", 1.0))
        result = update(url, out, made, colours[1])
        assert "does not answer ranges" in result.failed["new.mp4"] and result.num_videos == 2
    with pytest.raises(UserError, match=f"{url}: .* stays"):
        update(url, out, made, colours[1])
    assert open_store(out).read_meta()["folder"] == url.encode().hex()


def test_what_a_server_redirects_to_is_shown_without_its_signature(made, tmp_path):
    with serve_folder(made / "videos", ".mp4") as server:
        server.redirect = f"?signature={SECRET}"
        result = update(server.url, tmp_path / "my.index", made)
        assert result.failed.keys() == {LONG, SHORT}
        assert f"{server.url}/{LONG}" in result.failed[LONG] and "403" in result.failed[LONG]
        assert SECRET not in "".join(result.failed.values())


def test_credentials_for_a_web_server_are_the_environments(made, tmp_path, monkeypatch):
    from fsspec.config import conf, set_conf_env

    out = tmp_path / "my.index"
    with serve_folder(made / "videos", ".mp4") as server:
        server.authorization = f"Bearer {SECRET}"
        with pytest.raises(UserError, match=f"{server.url}: .*403.*credentials") as caught:
            update(server.url, out, made)
        headers = json.dumps({"client_kwargs": {"headers": {"Authorization": f"Bearer {SECRET}"}}})
        monkeypatch.setattr("fsspec.config.conf", conf)
        monkeypatch.setitem(conf, "http", {})
        set_conf_env(conf, {"FSSPEC_HTTP": headers})
        assert update(server.url, out, made).num_videos == 2
    held = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert SECRET not in str(caught.value) and SECRET.encode() not in held


@pytest.mark.parametrize("kind", ["s3", "http"])
def test_a_video_that_is_replaced_while_it_is_copied(kind, url, store, made, tmp_path, monkeypatch):
    old, new = ((made / "videos" / name).read_bytes() for name in (LONG, SHORT))
    new += old[len(new) :]  # as long, so that nothing but its version tells
    served = tmp_path / "served"
    served.mkdir()
    (served / "film.mp4").write_bytes(old)
    store.put(bucket_of(url), "v/film.mp4", old)
    read = remote_videos.RemoteFile.read

    def replace_first(self, start: int, end: int) -> bytes:
        part = read(self, start, end)
        if start == 0:
            (served / "film.mp4").write_bytes(new)
            store.put(bucket_of(url), "v/film.mp4", new)
        return part

    monkeypatch.setattr(remote_videos, "_CHUNK", 1000)
    monkeypatch.setattr(remote_videos.RemoteFile, "read", replace_first)
    assert len(old) > 1000
    with serve_folder(served, ".mp4") as server:
        folder = parse_folder(server.url if kind == "http" else f"s3://{bucket_of(url)}/v")
        if kind == "s3":
            with folder.fetch("film.mp4") as copy:  # the second try finds what has come
                assert copy.path.read_bytes() == new and copy.stamp.size == len(new)
        else:  # the time of the file is another one with each write
            with pytest.raises(UserError, match="is being replaced all the time"):
                folder.read_stamp("film.mp4")


@pytest.mark.slow
def test_a_store_that_nobody_answers_for_ends_the_command_in_time(tmp_path):
    """With the pauses as they are: connections are refused at once, so those are the most."""
    with leading_to("http://127.0.0.1:9"):
        command = [sys.executable, "index.py", "s3://bucket/v", "--out", str(tmp_path / "i")]
        done = subprocess.run(
            [*command, "--no-ocr"], cwd=ROOT, capture_output=True, text=True, timeout=180
        )
    assert done.returncode == 2 and "s3://bucket/v: can't be read in 4 tries" in done.stderr
    assert SECRET not in done.stderr and not (tmp_path / "i").exists()
