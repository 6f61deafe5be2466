"""``index.py`` and ``search.py`` as they are called."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import index as index_script
import search as search_script
from retrieval.index.writer import read_index_meta
from retrieval.printing import format_hits
from retrieval.results import Box, Explanation, Hit, WordMatch
from retrieval.spotting.rapid_ocr import RapidOcrSpotter
from tests.conftest import ROOT


def test_a_folder_that_is_nobody_s(library, tmp_path, test_names, run_script, monkeypatch):
    """Its name holds a colon; in it are links, one to itself, and folders of the system."""
    folder, out = tmp_path / "10:30", tmp_path / "my.index"
    first, second, third = sorted(test_names)[:3]
    for name, target in ((first, "a.mp4"), (second, "raw/b.mp4"), (third, "lost+found/c.mp4")):
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library.videos / name, folder / target)
    (tmp_path / "elsewhere").mkdir()
    shutil.move(folder / "a.mp4", tmp_path / "elsewhere/a.mp4")
    (folder / "a.mp4").symlink_to(tmp_path / "elsewhere/a.mp4")
    (folder / "self.mp4").symlink_to(folder / "self.mp4")
    monkeypatch.chdir(tmp_path)
    command = ["10:30", "--out", out]
    code, text, error = run_script(index_script, *command, "-r", library.checkpoint, "--no-ocr")
    assert code == 1 and text.startswith("failed  self.mp4: ") and "2 added" in text, error
    assert "1 hidden or of the system and left out (lost+found)" in error
    assert "1 link leads out of the folder and is followed" in error
    code, text, error = run_script(index_script, *command, "--exclude", "self*", "--exclude", "raw")
    assert code == 0 and "1 dropped" in text and "2 left out by --exclude" in error
    code, text, _ = run_script(index_script, *command)  # it is remembered
    assert code == 0 and "0 added" in text and "1 unchanged" in text
    code, text, _ = run_script(index_script, *command, "--exclude", "", "--dry-run")
    assert "add     raw/b.mp4" in text


def test_make_update_search(library, tmp_path, test_names, run_script):
    out = tmp_path / "my.index"
    command = [library.videos, "--out", out]
    options = ["-r", library.checkpoint, "--ocr", library.ocr]
    code, text, _ = run_script(index_script, *command, *options, "--dry-run")
    assert code == 0 and not out.exists()
    assert text.splitlines()[:-1] == [f"add     {name}" for name in sorted(test_names)]
    code, text, _ = run_script(index_script, *command, *options)
    assert code == 0 and text.splitlines()[-1] == f"{out}: 8 videos, 8 entries"
    # Model, windows and OCR are as before.
    (library.videos / sorted(test_names)[0]).unlink()
    (library.videos / "bad.mp4").write_bytes(b"")
    code, text, _ = run_script(index_script, *command, "--dry-run")
    assert code == 0 and text.splitlines() == [
        "add     bad.mp4",
        f"drop    {sorted(test_names)[0]}",
        "1 to add, 0 to update, 1 to drop, 0 unreadable, 7 unchanged",
    ]
    code, text, _ = run_script(index_script, *command)
    assert code == 1 and text.startswith("failed  bad.mp4: ") and "is empty (0 bytes)" in text
    assert text.splitlines()[-1] == f"{out}: 7 videos, 7 entries"
    code, _, error = run_script(index_script, *command, "--set", "seed=3")
    assert code == 2 and "--set changes nothing without a model" in error
    code, _, error = run_script(index_script, *command, "--ann")
    assert code == 2 and "--ann is for 10,000 entries and more" in error

    command = [search_script, out, "casino", "--all"]  # untrained, all are near-duplicates
    code, text, _ = run_script(*command, "--json", "--explain", "-k", 20)
    hits = json.loads(text)
    assert all(hit["meaning_rank"] == hit["semantic_rank"] for hit in hits)
    assert all(hit["words_rank"] == hit["keyword_rank"] for hit in hits)
    assert code == 0 and len(hits) == 7 and hits[0]["words"][0]["kind"] == "exact"
    assert set(hits[0]["words"][0]["box"]) == {"left", "top", "right", "bottom"}
    code, text, _ = run_script(*command, "-k", 2)
    lines = text.splitlines()
    assert code == 0 and lines[0].split() == ["time", "score", "words", "video"] and len(lines) == 3
    assert lines[1].endswith(hits[0]["video"]) and f"{hits[0]['score']:.4f}" in lines[1]
    for mode in ("keyword", "words"):  # and by its name in former releases
        assert run_script(search_script, out, "zebra", "--mode", mode)[1] == "nothing found\n"
    code, _, error = run_script(search_script, out, "zebra", "--mode", "smell")
    assert code == 2 and "'hybrid', 'semantic', 'keyword'" in error
    code, _, error = run_script(search_script, out, "  ")
    assert code == 2 and error.startswith("the query is empty")
    other = shutil.copy(library.checkpoint.parent / "config.json", tmp_path / "other.pth")
    code, _, error = run_script(search_script, out, "casino", "-r", other)
    assert code == 2 and str(library.checkpoint) in error and str(other) in error
    assert run_script(search_script, out, "casino", "-r", library.checkpoint)[0] == 0


def test_the_precision_of_the_index_and_of_queries(library, tmp_path, run_script):
    out = tmp_path / "my.index"
    command, model = [library.videos, "--out", out], ["-r", library.checkpoint]
    half = "--set", "evaluation.precision=bf16"
    code, _, error = run_script(index_script, *command, *model, "--ocr", library.ocr, *half)
    assert code == 0 and "embedded in" not in error
    code, _, error = run_script(index_script, *command)  # as before
    assert code == 0 and "embedded in" not in error
    assert read_index_meta(out)["precision"] == "bf16"
    code, _, error = run_script(index_script, *command, *model)  # by the model's configuration
    assert code == 0 and error.count("were embedded in bf16; those that are ") == 1
    assert read_index_meta(out)["precision"] == "fp32"
    search = ["a red circle", "--mode", "semantic", "--json"]
    found = {
        name: json.loads(run_script(search_script, out, *search, "--precision", name)[1])
        for name in ("fp32", "bf16")
    }
    assert json.loads(run_script(search_script, out, *search)[1]) == found["fp32"]
    one, other = ({hit["video"]: hit["similarity"] for hit in hits} for hits in found.values())
    assert one == pytest.approx(other, abs=0.02) and one != other
    code, _, error = run_script(search_script, out, *search, "--precision", "half")
    assert code == 2 and "invalid choice: 'half'" in error


def test_text_is_spotted_on_the_way(library, tmp_path, test_names, run_script, monkeypatch):
    """The words that RapidOCR reads in the demonstration's videos are found."""
    videos = tmp_path / "v"
    videos.mkdir()
    name = next(n for n in test_names if json.loads(document(library, n)).get("0"))
    word = json.loads(document(library, name))["0"]["text"]
    shutil.copy(library.videos / name, videos / "one.mp4")
    code, _, error = run_script(
        index_script, videos, "-r", library.checkpoint, "--out", tmp_path / "i"
    )
    assert code == 0, error
    code, text, _ = run_script(search_script, tmp_path / "i", word, "--mode", "words", "--json")
    assert code == 0
    code, text, _ = run_script(index_script, videos, "--out", tmp_path / "i", "--dry-run")
    assert text == "0 to add, 0 to update, 0 to drop, 0 unreadable, 1 unchanged\n"
    code, text, _ = run_script(
        index_script, videos, "--out", tmp_path / "i", "--no-ocr", "--dry-run"
    )
    assert text.splitlines()[0] == "update  one.mp4"  # its text is another one
    own = RapidOcrSpotter().identity()
    monkeypatch.setattr(RapidOcrSpotter, "identity", lambda self: own | {"version": "9.9"})
    command = [videos, "--out", tmp_path / "i", "--dry-run"]
    code, _, error = run_script(index_script, *command)
    assert code == 2 and f"version {own['version']}" in error and "version 9.9" in error
    assert "give --spot, which spots the text of all videos anew" in error
    code, text, _ = run_script(index_script, *command, "--spot")
    assert code == 0 and text.splitlines()[0] == "update  one.mp4"


def document(library, name: str) -> str:
    return (library.ocr / name).with_suffix(".json").read_text()


def test_a_search_by_words_loads_no_model(built):
    code = (
        "import sys; from retrieval import VideoIndex;"
        "print(VideoIndex.open(sys.argv[1]).search('casino', mode='keyword')[0].words[0].text);"
        "print([m for m in ('torch', 'transformers', 'pandas') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, built[0]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.lower().split() == ["casino", "[]"]


def test_the_table():
    box = Box(0.1, 0.2, 0.3, 0.45)
    match = WordMatch("cas", "casino", "prefix", 'THE "CASINO"', 61.0, 63.5, box)
    found = Explanation(0.5, 0.25, 0.4, 5 / 7, 2 / 7)
    alone = Explanation(0.4, None, None, None, None)  # of a model that does not fuse
    hits = [
        Hit(7, "a\nb.mp4", 60.0, 70.0, 0.0325, 0.5, 1, 2, (match,), found),
        Hit(8, "c.mp4", 3600.0, 3612.5, 0.03, 0.4, 2, None, (), alone),
    ]
    hits[0], hits[1] = (replace(hits[0], moment_s=61.0), replace(hits[1], moment_s=3601.5))
    assert format_hits(hits).splitlines() == [
        "   time       score   words   video",
        "1  1:01       0.0325  casino  'a\\nb.mp4'",
        "2  1:00:01.5  0.0300          c.mp4",
    ]
    located = format_hits(hits, locate=Path("/my videos").joinpath).splitlines()
    assert located[2].endswith("  /my videos/c.mp4")
    lines = format_hits(hits, explain=True).splitlines()
    assert lines.pop(2).strip() == "from the window 1:00-1:10"
    assert lines.pop(5).strip() == "from the window 1:00:00-1:00:12.5"
    assert lines[2].strip() == (
        "similarity 0.500, without vision 0.250, without OCR 0.400: 71% vision, 29% OCR"
    )
    assert lines[3].strip() == (
        'cas: prefix in "THE \\"CASINO\\"", 1:01-1:03.5, x 10-30 %, y 20-45 % of the frame'
    )
    assert lines[5].strip() == "similarity 0.400"
    likely = [replace(hits[0], z_score=2.25, likely=True), replace(hits[1], likely=False)]
    lines = format_hits(likely, explain=True).splitlines()
    assert lines[3].strip().startswith("similarity 0.500 (z-score 2.2), without vision 0.250")
    assert lines[5] == "others look alike:" and lines[6].startswith("2  1:00:01")
    lines = format_hits(likely[1:]).splitlines()
    assert lines[0] == "nothing found that looks like it; the nearest are:" and len(lines) == 3
