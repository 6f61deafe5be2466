"""``spot_text.py`` as it is called: documents, what is kept, what fails, what ends it."""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import spot_text
from data_loader.ocr_words import OcrParams, load_ocr_document, ocr_words
from retrieval.spotting.folder import shown
from tests.retrieval.spotting.engines import SameText, command, documents
from tests.videos import truncate, write_audio, write_rotated, write_video
from utils.cli import run_cli


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> bytes:
    """A small video's bytes."""
    return write_video(tmp_path_factory.mktemp("clip") / "a.mp4", 12).read_bytes()


@pytest.fixture
def same_text(monkeypatch):
    """The engine is a stand-in, in the worker processes, too: they are forked."""
    monkeypatch.setattr(spot_text, "RapidOcrSpotter", SameText)


def put(folder: Path, clip: bytes, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(clip)
    return folder


@pytest.mark.usefixtures("same_text")
def test_each_video_has_a_document_where_it_stands(tmp_path, clip, capsys):
    videos = put(tmp_path / "videos", clip, "a.mp4", "b/c.MP4", "b/d/e.f.mp4", "b/notes.txt")
    assert command(videos, "--out", tmp_path / "out", "--workers", 2) == 0
    assert documents(tmp_path / "out") == ["a.json", "b/c.json", "b/d/e.f.json"]
    for name in documents(tmp_path / "out"):
        document = load_ocr_document(tmp_path / "out" / name)
        assert ocr_words(document, OcrParams()).words == ["grand", "hotel"]
        assert list(document["0"]["tracks"]) == ["0", "10"]  # 0.4 s at 25 frames a second
    assert "3 videos spotted, 3 lines of text\n" in capsys.readouterr().out


@pytest.mark.usefixtures("same_text")
def test_every_usual_container_and_a_turned_file(tmp_path, clip, capsys):
    kinds = {"mkv": "libx264", "mov": "libx264", "avi": "mpeg4", "ts": "libx264"}
    kinds |= {"webm": "libvpx", "mpg": "mpeg2video", "wmv": "wmv2", "flv": "flv1", "m4v": "mpeg4"}
    kinds |= {"3gp": "mpeg4", "m2ts": "libx264", "vob": "mpeg2video"}
    for kind, codec in kinds.items():
        write_video(tmp_path / f"{kind}.{kind}", 12, codec=codec)
    write_rotated(tmp_path / "turned.mp4", put(tmp_path, clip, "upright.mp4") / "upright.mp4")
    assert command(tmp_path, "--out", tmp_path / "out", "--workers", 1) == 0, capsys.readouterr()
    made = documents(tmp_path / "out")
    assert made == sorted(f"{name}.json" for name in [*kinds, "turned", "upright"])
    for name in made:
        assert list(load_ocr_document(tmp_path / "out" / name)["0"]["tracks"]) == ["0", "10"], name


@pytest.mark.usefixtures("same_text")
def test_what_is_finished_is_kept_and_what_is_half_written_is_not(tmp_path, clip, capsys):
    videos, out = put(tmp_path / "videos", clip, "a.mp4", "b.mp4", "c.mp4"), tmp_path / "out"
    out.mkdir()
    (out / "a.json").write_text("{}")
    (out / "b.json").write_text('{"0": {"text": "Gra')
    (out / ".c.json.1.tmp").write_text('{"0": {"text": "Gra')
    assert command(videos, "--out", out) == 0
    assert "2 videos spotted, 2 lines of text; 1 kept\n" in capsys.readouterr().out
    assert (out / "a.json").read_text() == "{}"
    assert load_ocr_document(out / "b.json") == load_ocr_document(out / "c.json")
    assert command(videos, "--out", out) == 0
    assert "0 videos spotted, 0 lines of text; 3 kept\n" in capsys.readouterr().out
    assert command(videos, "--out", out, "--overwrite") == 0
    assert load_ocr_document(out / "a.json") == load_ocr_document(out / "b.json")


def _run_slowly(videos: Path, out: Path) -> None:
    spot_text.RapidOcrSpotter = lambda **_: SameText(pause=0.05)
    sys.argv = ["spot_text.py", str(videos), "--out", str(out), "--workers", "2"]
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the process is killed
    run_cli(spot_text.main)


@pytest.mark.usefixtures("same_text")
def test_killed_at_any_moment_it_goes_on_where_it_was(tmp_path, clip, capsys):
    videos = put(tmp_path / "videos", clip, *(f"{n}.mp4" for n in range(8)))
    out = tmp_path / "out"
    process = multiprocessing.get_context("fork").Process(target=_run_slowly, args=(videos, out))
    process.start()
    while not list(out.glob("*.json")):
        time.sleep(0.01)
    process.kill()
    process.join()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*.json")}
    assert 0 < len(kept) < 8
    assert all(load_ocr_document(path) for path in kept)
    assert command(videos, "--out", out) == 0
    assert f"; {len(kept)} kept" in capsys.readouterr().out
    assert len(list(out.glob("*.json"))) == 8
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def _run_slowly_to_its_end(videos: Path, out: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _run_slowly(videos, out)


def test_interrupted_it_leaves_no_process(tmp_path, clip):
    videos, out = put(tmp_path / "videos", clip, *(f"{n}.mp4" for n in range(30))), tmp_path / "out"
    process = multiprocessing.get_context("fork").Process(
        target=_run_slowly_to_its_end, args=(videos, out)
    )
    process.start()
    while not list(out.glob("*.json")):
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(process.pid, signal.SIGINT)
    process.join(30)
    assert process.exitcode == 130 and len(children) == 2
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert all(load_ocr_document(path) is not None for path in out.glob("*.json"))


@pytest.mark.usefixtures("same_text")
def test_videos_that_cant_be_read_are_named_and_the_rest_is_done(tmp_path, clip, capsys):
    videos = put(tmp_path / "videos", clip, "good.mp4", "z.mp4")
    (videos / "empty.mp4").touch()
    (videos / "locked.mp4").write_bytes(os.urandom(20_000))  # as an encrypted file looks
    (videos / "gone.mp4").symlink_to("nowhere.mp4")
    (videos / "text\nfile.mkv").write_text("not a video\n" * 50)
    write_audio(videos / "sound.mp4")
    truncate(videos / "cut.mp4", videos / "good.mp4", 0.6)
    reasons = {
        "empty.mp4": "is empty (0 bytes)",
        "locked.mp4": "can't be opened as a video",
        "gone.mp4": "is missing",
        r"text\nfile.mkv": "can't be opened as a video",
        "sound.mp4": "holds no video stream, perhaps only sound",
        "cut.mp4": "is cut short",
    }
    assert command(videos, "--out", tmp_path / "out", "--workers", 2) == 1
    captured = capsys.readouterr()
    assert documents(tmp_path / "out") == ["good.json", "z.json"]
    assert "2 videos spotted, 2 lines of text; 6 failed\n" in captured.out
    lines = captured.err.replace("\r", "\n").splitlines()
    for name, reason in reasons.items():
        assert len([x for x in lines if f"{name}" in x and f": {reason}" in x and "; " in x]) == 1
    assert command(videos, "--out", tmp_path / "out") == 1  # said again, nothing else to do


@pytest.mark.usefixtures("same_text")
def test_two_videos_of_one_document_are_said(tmp_path, clip, capsys):
    videos = put(tmp_path / "videos", clip, "a.mkv", "a.mp4")
    assert command(videos, "--out", tmp_path / "out") == 1
    assert f"a.mp4: has the same document as {videos}/a.mkv; rename" in capsys.readouterr().err
    assert documents(tmp_path / "out") == ["a.json"]


@pytest.mark.usefixtures("same_text")
def test_any_name_is_mirrored(tmp_path, clip):
    names = ["two  words", "it's \"so\"", "line\nend", "-o", "$(x);*?", "été 東京", "a" * 200]
    names.append(os.fsdecode(b"not \xff utf-8"))
    videos = put(tmp_path / "videos", clip, *(f"{name}.mp4" for name in names))
    assert command(videos, "--out", tmp_path / "out", "--workers", 2) == 0
    assert documents(tmp_path / "out") == sorted(f"{name}.json" for name in names)


def test_names_are_shown_on_one_line():
    assert shown(Path("été/two words.mp4")) == "été/two words.mp4"
    assert shown(Path("a\nb.mp4")) == r"'a\nb.mp4'"
    assert shown(Path(os.fsdecode(b"\xff.mp4"))) == r"'\udcff.mp4'"


@pytest.mark.usefixtures("same_text")
@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda path: path.mkdir(), "holds no video (a file with an extension of: .mp4 .m4v"),
        (lambda path: path.touch(), "is a file, not a folder"),
        (lambda path: None, "no such folder"),
    ],
)
def test_a_folder_that_holds_no_video_is_bad_usage(tmp_path, make, text, capsys):
    make(tmp_path / "videos")
    assert command(tmp_path / "videos", "--out", tmp_path / "out") == 2
    assert f"{tmp_path / 'videos'}: {text}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("same_text")
@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--every", "0"], "expected a number of seconds above 0, got 0"),
        (["--every", "inf"], "above 0, got inf"),
        (["--min_score", "2"], "expected a number from 0 to 1, got 2"),
        (["--workers", "0"], "at least 1, got 0"),
        (["--script", "runes"], "invalid choice: 'runes'"),
        (["--reader", "vlc"], "invalid choice: 'vlc'"),
    ],
)
def test_options_that_have_no_meaning_are_bad_usage(tmp_path, clip, options, text, capsys):
    assert command(put(tmp_path, clip, "a.mp4"), "--out", tmp_path / "out", *options) == 2
    assert text in capsys.readouterr().err


@pytest.mark.usefixtures("same_text")
def test_an_output_folder_that_cant_be_made_is_named(tmp_path, clip, capsys):
    out = tmp_path / "out"
    out.touch()
    assert command(put(tmp_path / "videos", clip, "a.mp4"), "--out", out) == 2
    assert capsys.readouterr().err == f"{out}: File exists\n"


def test_a_missing_package_is_said_once(tmp_path, clip, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rapidocr_onnxruntime", None)
    videos = put(tmp_path / "videos", clip, "a.mp4", "b.mp4", "c.mp4")
    assert command(videos, "--out", tmp_path / "out", "--workers", 2) == 2
    assert capsys.readouterr().err.count("--no-deps rapidocr-onnxruntime") == 1


@pytest.mark.usefixtures("same_text")
def test_another_reader_says_which_one_to_take(tmp_path, clip, capsys):
    put(tmp_path / "videos", clip, "a.mp4")
    write_rotated(tmp_path / "videos/turned.mp4", tmp_path / "videos/a.mp4")
    options = ["--out", tmp_path / "out", "--reader", "decord"]
    assert command(tmp_path / "videos", *options) == 1
    assert 'try the video reader "av"' in capsys.readouterr().err
    assert documents(tmp_path / "out") == ["a.json"]


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"a small disk needs the right to mount: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.usefixtures("same_text")
def test_a_full_disk_ends_it_and_what_is_written_stays(tmp_path, clip, small_disk, capsys):
    videos = put(tmp_path / "videos", clip, *(f"{n}.mp4" for n in range(9)))
    (small_disk / "ballast").write_bytes(bytes(8192))
    assert command(videos, "--out", small_disk / "out", "--workers", 1) == 2
    error = capsys.readouterr().err
    assert "No space left on device: free some space, or write to another folder" in error
    written = documents(small_disk / "out")
    assert 0 < len(written) < 9 and all(load_ocr_document(small_disk / "out" / x) for x in written)
    (small_disk / "ballast").unlink()
    for name in written:
        (tmp_path / "moved").mkdir(exist_ok=True)
        (tmp_path / "moved" / name).write_bytes((small_disk / "out" / name).read_bytes())
    assert command(videos, "--out", tmp_path / "moved") == 0
    assert len(documents(tmp_path / "moved")) == 9


@pytest.mark.usefixtures("same_text")
def test_a_limit_of_file_sizes_fails_the_documents_above_it(tmp_path, clip, capsys):
    import resource

    videos, out = put(tmp_path / "videos", clip, "a.mp4"), tmp_path / "out"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        assert command(videos, "--out", out, "--workers", 1) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err
    assert f"a.mp4: {out}/a.json can't be written (File too large); give another --out" in error
    assert documents(out) == []


def _run_unprivileged(videos: Path, out: Path) -> None:
    if os.geteuid() == 0:
        os.setegid(65534)
        os.seteuid(65534)
    sys.stderr = (out / "stderr").open("w")
    os._exit(command(videos, "--out", out, "--workers", 1))


@pytest.mark.usefixtures("same_text")
def test_a_video_without_permission_is_named(clip):
    """Root may read everything, so that the command runs as another user, where it is root."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        folder = Path(name)
        videos, out = put(folder / "videos", clip, "a.mp4", "closed.mp4"), folder / "out"
        out.mkdir()
        for path, mode in ((folder, 0o755), (out, 0o777), (videos / "closed.mp4", 0o000)):
            path.chmod(mode)
        process = multiprocessing.get_context("fork").Process(
            target=_run_unprivileged, args=(videos, out)
        )
        process.start()
        process.join(60)
        assert process.exitcode == 1
        error = (out / "stderr").read_text()
        assert "closed.mp4: can't be read (Permission denied); check its access rights" in error
        assert documents(out) == ["a.json", "stderr"]
