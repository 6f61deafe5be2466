"""check_data.py on the demonstration's files: whole ones, and every kind of damaged ones."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import check_data
import train
from data_loader.datasets.annotations import is_held_out
from tests.conftest import ROOT, tiny
from tests.data_loader.textvr_folder import change_json
from tests.videos import damage, truncate
from utils.cli import run_cli
from utils.errors import UserError

CONFIG = ROOT / "configs/demo/fusion.json"
TRAIN, HELD_OUT = "loader 0, train", "loader 0, val and test"


class Checked:
    """What a check ended with: exit code, page, the lists that it wrote."""

    def __init__(self, code: int, text: str, lists: dict):
        self.code, self.text, self.lists = code, text, lists
        self.wrong = lists["wrong"]

    def rows(self, split: str) -> str:
        """The part of the page about a split, blanks made one."""
        (part,) = [part for part in self.text.split("\n\n") if part.startswith(split + "\n")]
        return " ".join(part.split())


@pytest.fixture
def folder(demo, tmp_path):
    """A copy of the demonstration's data that a test may damage."""
    return Path(shutil.copytree(demo, tmp_path / "demo"))


@pytest.fixture
def check(monkeypatch, capsys, tmp_path):
    """Return a function that checks a folder and says what it ended with."""

    def run(data_dir, *arguments, overrides=(), workers=1):
        out = tmp_path / "lists.json"
        values = [*tiny(data_dir), f"trainer.save_dir={tmp_path}", *overrides]
        changes = [part for text in values for part in ("--set", text)]
        command = ["check_data.py", "-c", str(CONFIG), "--out", str(out), *changes, *arguments]
        monkeypatch.setattr(sys, "argv", [*command, "--workers", str(workers)])
        code = check_data.main()
        return Checked(code, capsys.readouterr().out, json.loads(out.read_text()))

    return run


def entries(folder, split="test"):
    return json.loads((folder / f"TextVR_{split}.json").read_text())


def video(folder, number, split="test"):
    return folder / "Videos" / entries(folder, split)[number]["path"]


def document(folder, number, split="test"):
    return folder / "Kwai_VideoOCR" / entries(folder, split)[number]["videos_info"]["Kwai_OCR"]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_good_set(demo, check, tmp_path, workers):
    found = check(demo, "--decode", "--json", str(tmp_path / "all.json"), workers=workers)
    assert found.code == 0 and found.wrong == [] and "\nnothing wrong\n" in found.text
    assert found.lists["splits"][HELD_OUT]["missing_videos"] == []
    for split, name, captions in ((TRAIN, "train", 16), (HELD_OUT, "test", 8)):
        rows = found.rows(split)
        assert f"entries 8 with {captions} captions" in rows
        total = sum(video(demo, number, name).stat().st_size for number in range(8))
        assert f"8 files, {total / 1000:.3g} kB in 8 of them; 0 missing, 0 unreadable" in rows
        assert "96 – 96 – 96 width" in rows and "decoded 8; 0 shorter than a clip" in rows
        assert f"need reading 100.0 %: {captions} of the {captions} captions" in rows
    everything = json.loads((tmp_path / "all.json").read_text())
    frames = everything["splits"][0]["videos"]["decoded"]["num_frames"]
    assert 1 < frames["min"] <= frames["median"] <= frames["max"]
    assert everything["estimates"]["model"]["parameters"] > 10**5


def test_missing_and_unreadable_files(folder, check):
    gone, empty, short = (video(folder, number) for number in range(3))
    truncate(short, short, 0.5)
    empty.write_bytes(b"")
    gone.unlink()
    document(folder, 4).unlink()
    document(folder, 5).write_text("{")
    found = check(folder)
    assert found.code == 1
    assert found.wrong == [
        f"{HELD_OUT}: 1 of 8 videos are missing",
        f"{HELD_OUT}: 2 of 8 videos can't be read",
        f"{HELD_OUT}: 1 of 8 OCR documents are missing",
        f"{HELD_OUT}: 1 of 8 OCR documents are faulty",
    ]
    lists = found.lists["splits"][HELD_OUT]
    assert lists["missing_videos"] == [str(gone)]
    assert set(lists["unreadable_videos"]) == {str(empty), str(short)}
    assert "cut short" in lists["unreadable_videos"][str(short)]
    assert lists["missing_ocr_documents"] == [str(document(folder, 4))]
    assert "no readable OCR document" in lists["faulty_ocr_documents"][str(document(folder, 5))]
    for line in (*found.wrong, f"{gone}: missing", f"{empty}: is empty (0 bytes)"):
        assert line in found.text
    assert found.lists["splits"][TRAIN]["missing_videos"] == []


REFUSED = {
    "half a caption": lambda value: value[1]["captions_info"][0].update(caption="\ud83d"),
    "a caption of another kind": lambda value: value[1]["captions_info"][0].update(caption=7),
    "half a path": lambda value: value[1].update(path="\ud83d.mp4"),
    "a long path": lambda value: value[1].update(path="x" * 300),
    "a path of Windows": lambda value: value[1].update(path="a\\b.mp4"),
    "a long document": lambda value: value[1]["videos_info"].update(Kwai_OCR="x" * 300),
    "twice": lambda value: value[1].update(path=f"./{value[0]['path']}"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_training_refuses_is_wrong_here(folder, check, run_main, tmp_path, kind):
    change_json(folder / "TextVR_train.json", REFUSED[kind])
    changes = [part for text in tiny(folder) for part in ("--set", text)]
    code, _, error = run_main(train, "-c", CONFIG, *changes, "--run_dir", tmp_path / "run")
    assert code == 2 and error.startswith(f"{folder}/TextVR_train.json: 1 entries can't be used\n")
    found = check(folder)
    assert found.code == 1
    assert found.wrong == [f"loader 0, train: {' '.join(error.split())}"]


ABSURD_TRACKS = {"frame": {"9" * 23: [0] * 8}, "corner": {"0": [1e308] * 8, "1": [-1e308] * 8}}


@pytest.mark.parametrize("kind", ABSURD_TRACKS)
def test_an_absurd_document_is_named_here_and_by_training(folder, check, run_main, tmp_path, kind):
    path = document(folder, 3, "train")
    record = {"text": "sale", "score": 0.9, "tracks": ABSURD_TRACKS[kind]}
    path.write_text(json.dumps({"0": record}))
    found = check(folder)
    assert found.wrong == [f"{TRAIN}: 1 of 8 OCR documents are faulty"]
    [reason] = found.lists["splits"][TRAIN]["faulty_ocr_documents"].values()
    changes = [part for text in tiny(folder) for part in ("--set", text)]
    code, _, error = run_main(train, "-c", CONFIG, *changes, "--run_dir", tmp_path / "run")
    assert code == 2 and error.strip().splitlines()[-1] == reason
    assert reason.startswith(f"{path}: record '0': expected ") and "optimizer" not in error


def test_what_the_model_does_not_read_is_not_wrong(folder, check):
    video(folder, 0).unlink()
    document(folder, 0).unlink()
    for kind, line in (("ocr", "OCR documents"), ("vision", "videos")):
        found = check(folder, overrides=[f'arch.args.modalities=["{kind}"]'])
        assert found.wrong == [f"{HELD_OUT}: 1 of 8 {line} are missing"]
        assert len(found.lists["splits"][HELD_OUT]["missing_videos"]) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_frames_that_only_decoding_finds_damaged(folder, check, workers):
    path = video(folder, 3)
    damage(path, path)
    assert check(folder).code == 0
    found = check(folder, "--decode", workers=workers)
    assert found.code == 1 and found.wrong == [f"{HELD_OUT}: 1 of 8 videos can't be read"]
    assert list(found.lists["splits"][HELD_OUT]["unreadable_videos"]) == [str(path)]
    assert "decoded 7" in found.rows(HELD_OUT)


def test_the_page_shows_ten_of_a_kind(folder, check):
    shutil.rmtree(folder / "Videos")
    (folder / "Videos").mkdir()
    more = [entries(folder)[0] | {"path": f"Sports/{number}.mp4"} for number in range(12)]
    change_json(folder / "TextVR_test.json", lambda value: value.__setitem__(slice(None), more))
    found = check(folder)
    assert found.rows(HELD_OUT).count(": missing") == 10 and "… and 2 more" in found.text
    assert len(found.lists["splits"][HELD_OUT]["missing_videos"]) == 12


def test_no_documents_though_the_model_reads(folder, check):
    for split in ("train", "test"):
        change_json(
            folder / f"TextVR_{split}.json",
            lambda value: [entry["videos_info"].pop("Kwai_OCR") for entry in value],
        )
    found = check(folder)
    text = "no entry names an OCR document, but the model reads OCR words"
    assert found.wrong == [f"{TRAIN}: {text}", f"{HELD_OUT}: {text}"] and found.code == 1
    assert check(folder, overrides=['arch.args.modalities=["vision"]']).code == 0


def test_a_video_and_captions_in_both_splits(folder, check):
    shared = entries(folder, "train")[0]
    change_json(folder / "TextVR_test.json", lambda value: value.append(shared))
    found = check(folder)
    assert found.wrong == [f"{HELD_OUT}: 1 of 9 videos are in training too"] and found.code == 1
    leak = str(folder / "Videos" / shared["path"])
    assert found.lists["splits"][HELD_OUT]["videos_in_training"] == [leak]
    assert "in training 1 videos, 2 captions" in found.rows(HELD_OUT)


def test_a_part_held_out_of_training_is_shown_and_is_no_leak(folder, check):
    found = check(folder, overrides=["data_loader.args.val_share=0.4"])
    assert found.code == 0 and found.wrong == []
    part, rest = found.rows("loader 0, val"), found.rows(TRAIN)
    names = [entry["path"] for entry in entries(folder, "train")]
    count = sum(is_held_out(name, 0.4) for name in names)
    assert f"entries {count} with {2 * count} captions" in part and 0 < count < 8
    assert "held out of training, by val_share 0.4" in part and "TextVR_train.json" in part
    assert f"entries {8 - count} with {16 - 2 * count} captions" in rest and "held out" not in rest
    assert "in training 0 videos" in part and "entries 8" in found.rows("loader 0, test")


def test_a_copy_under_another_name_is_found_when_decoding(folder, check):
    shutil.copy(video(folder, 0, "train"), video(folder, 0))
    assert check(folder).code == 0
    found = check(folder, "--decode")
    assert found.wrong == [f"{HELD_OUT}: 1 of 8 videos are in training too"]
    (leak,) = found.lists["splits"][HELD_OUT]["videos_in_training"]
    assert leak == f"{video(folder, 0)} (same bytes as {video(folder, 0, 'train')})"


def test_equal_captions_are_no_fault(folder, check):
    def repeat(value):
        value[1]["captions_info"] = value[2]["captions_info"] = value[0]["captions_info"]

    change_json(folder / "TextVR_test.json", repeat)
    found = check(folder)
    assert found.code == 0
    text = "1 captions stand at several videos, 3 in all; the best possible R@1 is 75.00 %"
    assert text in found.rows(HELD_OUT)


def test_a_shuffled_file(folder, check):
    shutil.copy(folder / "TextVR_test.json", folder / "TextVR_test_rand.json")
    name = "TextVR_test_rand.json"
    found = check(folder, overrides=[f"data_loader.args.annotation_file={name}"])
    assert found.code == 1 and len(found.wrong) == 1
    assert found.wrong[0].startswith(f"{HELD_OUT}: {folder / name} is SHUFFLED")


def test_what_cant_be_opened_does_not_end_the_report(folder, check):
    (folder / "TextVR_test.json").unlink()
    found = check(folder)
    assert found.code == 1 and len(found.wrong) == 1
    assert found.wrong[0].startswith(f"{HELD_OUT}: {folder / 'TextVR_test.json'}: no such")
    assert "entries 8 with 16 captions" in found.rows(TRAIN)
    shutil.rmtree(folder / "Videos")
    found = check(folder)
    assert len(found.wrong) == 2 and "parameters" in found.text


def test_too_small_a_disk(demo, check):
    found = check(demo, overrides=["trainer.epochs=1000000000", "trainer.save_period=1"])
    assert found.code == 1 and found.wrong[0].startswith("disk: 1000000000 checkpoints need")


def test_a_reader_that_is_not_there_ends_the_decoding_only(demo, check, monkeypatch):
    def missing(*_):
        raise UserError("the reader needs a library")

    monkeypatch.setattr("data_loader.data_check.videos.open_video", missing)
    found = check(demo, "--decode")
    text = "the videos can't be decoded: the reader needs a library"
    assert found.wrong == [f"{TRAIN}: {text}", f"{HELD_OUT}: {text}"]


def test_the_exit_code_of_the_command(folder, tmp_path):
    video(folder, 0).unlink()
    changes = [part for text in tiny(folder) for part in ("--set", text)]
    done = subprocess.run(
        [sys.executable, ROOT / "check_data.py", "-c", CONFIG, *changes],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert done.stdout.endswith("The whole lists are in data_check.json\n")
    lists = json.loads((tmp_path / "data_check.json").read_text())
    assert lists["wrong"] == [f"{HELD_OUT}: 1 of 8 videos are missing"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [(["-c", "no.json"], "no.json"), (["-c", str(CONFIG), "--out", "no/a.json"], "no folder no")],
)
def test_what_cant_be_used_ends_with_2(monkeypatch, capsys, tmp_path, arguments, text):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["check_data.py", *arguments])
    with pytest.raises(SystemExit) as caught:
        run_cli(check_data.main)
    assert caught.value.code == 2 and text in capsys.readouterr().err
