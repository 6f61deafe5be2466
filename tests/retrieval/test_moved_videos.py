"""Videos that were renamed or moved, and folders: what an index has of them stays, by content."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import index as index_script
from retrieval import VideoIndex
from retrieval.index import update as update_module
from retrieval.index.ocr_text import OcrFolder
from retrieval.index.tower import open_model
from retrieval.index.update import IndexOptions, preview_update, update_index
from retrieval.index.writer import IndexWriter, lock_index, read_index_meta
from tests.retrieval.conftest import Library
from tests.retrieval.made_index import MODEL, WIDTH, add, create, made_embeddings, made_video
from utils.errors import UserError


def read_contents(out: Path) -> dict[str, tuple[list[int], list[str]]]:
    """Path of each video -> ids of its entries, and the lines of text of the first."""
    with VideoIndex.open(out) as index, index.reading() as (reader, _):
        rows = reader.connection.execute(
            "SELECT path, entries.id FROM entries JOIN videos ON video_id = videos.id"
        ).fetchall()
        found: dict[str, tuple[list[int], list[str]]] = {}
        for path, entry in rows:
            found.setdefault(os.fsdecode(path), ([], []))[0].append(entry)
        for ids, texts in found.values():
            texts += [track.text for track in index.tracks(ids[0]) if track.kind == "read"]
        return found


@pytest.fixture
def embedded(monkeypatch) -> list[str]:
    """The names of the videos that are read and embedded."""
    names: list[str] = []
    embed_videos = update_module.embed_videos

    def noting(given, *arguments):
        for complete, failed in embed_videos(given, *arguments):
            names.extend(video.path for video in complete)
            yield complete, failed

    monkeypatch.setattr(update_module, "embed_videos", noting)
    return names


def move(library: Library, old: str, new: str) -> None:
    """Rename a video and its document."""
    for folder, suffix in ((library.videos, ".mp4"), (library.ocr, ".json")):
        target = (folder / new).with_suffix(suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        (folder / old).with_suffix(suffix).rename(target)


def test_renamed_and_moved_videos_keep_all(library, tmp_path, test_names, embedded):
    out, names = tmp_path / "my.index", sorted(test_names)
    library.index(out)
    before = read_contents(out)
    embedded.clear()
    move(library, names[0], "Elsewhere/deep/anything.mp4")
    move(library, names[1], "other name.mp4")
    (library.videos / names[2]).unlink()
    moved = {"Elsewhere/deep/anything.mp4": names[0], "other name.mp4": names[1]}
    plan = preview_update(library.videos, out, OcrFolder(library.ocr))
    assert plan.moved == moved and plan.drop == [names[2]] and not plan.add and not plan.update
    assert plan.summarize() == (
        "0 to add, 0 to update, 2 moved, 1 to drop, 0 unreadable, 5 unchanged"
    )
    done = library.index(out)
    assert done.plan.moved == moved and embedded == []
    assert done.summarize() == "0 added, 0 updated, 2 moved, 1 dropped, 0 unreadable, 5 unchanged"
    after = read_contents(out)
    assert after == {
        **{name: before[name] for name in names[3:]},
        **{new: before[old] for new, old in moved.items()},
    }
    with VideoIndex.open(out) as index:  # by its name it is found as it is called by now
        found = {hit.video for hit in index.search("anything", mode="keyword")}
        assert found == {"Elsewhere/deep/anything.mp4"}
        stem = Path(names[0]).stem.split("_")[0]
        assert all(hit.video in after for hit in index.search(stem, 50, mode="keyword"))
        entry = after["other name.mp4"][0][0]
        assert index.video_file(entry) == library.videos / "other name.mp4"
    assert library.index(out).plan.num_same == 7


def test_another_video_in_the_place_of_one_that_has_moved(library, tmp_path, test_names, embedded):
    out, names = tmp_path / "my.index", sorted(test_names)
    library.index(out)
    before = read_contents(out)
    embedded.clear()
    move(library, names[0], "older.mp4")
    (library.videos / names[0]).write_bytes((library.videos / names[1]).read_bytes())
    done = library.index(out)
    assert done.plan.moved == {"older.mp4": names[0]} and done.plan.add == [names[0]]
    assert embedded == [names[0]]
    after = read_contents(out)
    assert after["older.mp4"] == before[names[0]] and after[names[1]] == before[names[1]]
    # A copy beside its original, and a touched original, have not moved.
    shutil.copy(library.videos / names[2], library.videos / "copy.mp4")
    os.utime(library.videos / names[2], (1, 1))
    done = library.index(out)
    assert done.plan.moved == {} and done.plan.add == ["copy.mp4"]
    assert read_contents(out)[names[2]] == before[names[2]]


def test_other_text_embeds_nothing_where_the_model_does_not_read(
    make_checkpoint, library, tmp_path, test_names, embedded
):
    out, texts = tmp_path / "my.index", {}
    for name in test_names:
        texts[name] = json.loads((library.ocr / name).with_suffix(".json").read_text())
    name = next(name for name in sorted(test_names) if texts[name])
    checkpoint = make_checkpoint("dual_encoder", 'arch.args.modalities=["vision"]')
    library = Library(library.videos, library.ocr, checkpoint)
    for _ in range(2):
        library.index(out)
    before = read_contents(out)
    embedded.clear()
    document = (library.ocr / name).with_suffix(".json")
    next(iter(texts[name].values()))["text"] = "ZEBRA CROSSING"
    document.write_text(json.dumps(texts[name]))
    done = library.index(out)
    assert done.plan.update == [name] and embedded == []
    after = read_contents(out)
    assert after[name][0] == before[name][0] and "ZEBRA CROSSING" in after[name][1]
    assert after | {name: before[name]} == before
    with VideoIndex.open(out) as index:
        assert [hit.video for hit in index.search("zebra", mode="keyword")] == [name]
    assert library.index(out).plan.num_same == 8


def test_a_folder_that_lies_elsewhere(library, tmp_path, run_main):
    out, new = tmp_path / "my.index", tmp_path / "disk" / "videos"
    update_index(library.videos, out, None, OcrFolder(library.ocr), IndexOptions())
    before = read_contents(out)
    new.parent.mkdir()
    library.videos.rename(new)
    library.videos.mkdir()  # where a disk was: it is not told what is there now
    command = [new, "--out", out]
    code, _, error = run_main(index_script, *command)
    assert code == 2 and f"--relocate {library.videos} {new}" in error
    options = "--relocate", library.videos, new
    code, _, error = run_main(index_script, *command, *options, "--dry-run")
    assert code == 2 and "without --dry-run" in error
    code, text, error = run_main(index_script, *command, *options)
    assert code == 0, error
    assert text.splitlines()[0] == f"{library.videos}: is {new} from now on, 8 videos"
    assert "0 added, 0 updated, 0 dropped, 0 unreadable, 8 unchanged" in text
    assert read_contents(out) == before
    with VideoIndex.open(out) as index:
        assert index.videos == new and index.video_file(1).is_relative_to(new)
    code, _, error = run_main(index_script, new, "--out", tmp_path / "none", *options)
    assert code == 2 and "holds no index as yet" in error and not (tmp_path / "none").exists()


def test_an_index_follows_its_folder_that_lies_elsewhere(library, tmp_path, run_main):
    out, new = tmp_path / "my.index", tmp_path / "videos"
    update_index(library.videos, out, None, OcrFolder(library.ocr), IndexOptions())
    before = read_contents(out)
    other = tmp_path / "other"
    other.mkdir()
    library.videos.rename(new)
    shutil.copy(next(new.rglob("*.mp4")), other / "a.mp4")
    code, _, error = run_main(index_script, other, "--out", out)
    assert code == 2 and f"--relocate {library.videos} {other}" in error
    code, text, error = run_main(index_script, new, "--out", out)
    assert code == 0, error
    assert text.splitlines()[0] == f"{library.videos}: is {new} from now on, 8 videos"
    assert "0 added, 0 updated, 0 dropped, 0 unreadable, 8 unchanged" in text
    assert read_contents(out) == before


def test_what_failed_and_what_has_no_document_is_counted(library, tmp_path, test_names, run_main):
    out, names = tmp_path / "my.index", sorted(test_names)
    for name in names[:2]:
        (library.videos / name).write_bytes(b"no video")
    (library.ocr / names[3]).with_suffix(".json").unlink()
    command = [library.videos, "-r", library.checkpoint, "--ocr", library.ocr, "--out", out]
    code, text, _ = run_main(index_script, *command)
    assert code == 1
    lines = text.splitlines()
    assert [line.split(":")[0] for line in lines[:2]] == [f"failed  {name}" for name in names[:2]]
    assert lines[2:] == [
        "1 of the videos have no document of text",
        "6 added, 0 updated, 0 dropped, 2 unreadable, 0 unchanged",
        f"{out}: 6 videos, 6 entries",
    ]


def test_the_model_of_an_index_is_found_from_any_folder(
    demo, library, tmp_path, monkeypatch, make_checkpoint
):
    """Its tokenizer's folder was named as seen from where the command was run."""
    monkeypatch.chdir(demo)
    checkpoint = make_checkpoint("fusion", "arch.args.text_params.model=text_model")
    library, out = Library(library.videos, library.ocr, checkpoint), tmp_path / "my.index"
    library.index(out)
    kept = json.loads((out / "config.json").read_text())["arch"]["args"]["text_params"]["model"]
    assert kept == str(demo / "text_model")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    shutil.copy(next(library.videos.rglob("*.mp4")), library.videos / "new.mp4")
    again = open_model(out, read_index_meta(out))
    done = update_index(library.videos, out, again, OcrFolder(library.ocr), IndexOptions())
    assert done.plan.add == ["new.mp4"] and not done.failed
    # Of earlier versions it is relative: it is looked for beside the checkpoint, or said.
    config = json.loads((out / "config.json").read_text())
    config["arch"]["args"]["text_params"]["model"] = "some/where/text_model"
    (out / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="names some/where/text_model, which is in none of"):
        open_model(out, read_index_meta(out))
    shutil.copytree(demo / "text_model", checkpoint.parent / "some/where/text_model")
    model = open_model(out, read_index_meta(out))
    assert model.config.arch.kwargs()["text_params"].model == str(
        checkpoint.parent / "some/where/text_model"
    )


def test_rows_in_another_order_than_entries(tmp_path):
    """As after a change of models that was stopped, and went on with what had failed before."""
    rows, out = made_embeddings(3), tmp_path / "i"
    create(out)
    add(out, *(made_video(f"{n}.mp4", [f"word{n}"], rows[n : n + 1]) for n in range(3)))
    with lock_index(out), IndexWriter(out) as writer:
        new = {"generation": writer.next_generation(), "width": WIDTH, "leaves_out": []}
        writer.begin_successor(new | {"model": MODEL, "num_frames": None})
        for number in (2, 0, 1):
            entry = made_video("x", [], rows[number : number + 1]).entries[0]
            writer.write_successor([(number + 1, entry)])
        writer.switch_to_successor()
    with VideoIndex.open(out) as index, index.reading() as (_, snapshot):
        ids = np.array([3, 1, 2])
        np.testing.assert_array_equal(
            snapshot.vectors.windows[snapshot.find_rows_of(ids)], rows[ids - 1]
        )
