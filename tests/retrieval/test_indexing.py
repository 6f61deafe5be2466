"""Indexes of real videos with a real model: what is in them, and what an update changes."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from base.base_model import ModelInput, RetrievalModel
from evaluation.evaluator import Evaluator
from retrieval import VideoIndex
from retrieval.errors import IndexFolderError
from retrieval.index.ocr_text import OcrFolder, OcrSource
from retrieval.index.roots import Roots
from retrieval.index.update import IndexOptions, preview_update, update_index
from retrieval.index.video_file import open_video_file
from retrieval.index.writer import IndexWriter, lock_index
from tests.retrieval.conftest import CPU, Library
from tests.videos import (
    break_packets,
    damage,
    truncate,
    write_audio,
    write_rotated,
    write_video,
)
from trainer.build import build_criterion, build_loader, build_model
from utils.checkpoint.weights import load_weights
from utils.errors import UserError
from utils.precision import Precision


def captions_of(demo) -> list[str]:
    entries = json.loads((demo / "TextVR_test.json").read_text())
    return [entry["captions_info"][0]["caption"] for entry in entries]


def contents(index: VideoIndex) -> dict[str, tuple]:
    """What a search can see of every video: spans, embeddings, lines."""
    found = {}
    with index.reading() as (reader, snapshot):
        for entry_id, row in reader.connection.execute("SELECT id, row FROM entries ORDER BY id"):
            entry = index.entry(entry_id)
            lines = tuple((line.text, line.boxes) for line in index.tracks(entry_id))
            embedding = snapshot.vectors.windows[row].round(4).tobytes()
            assert snapshot.ids[row] == entry_id
            assert index.read_thumbnail(entry_id)[:2] == b"\xff\xd8"
            key = f"{entry.video} {entry.start_s:.3f}"
            found[key] = (round(entry.end_s, 3), embedding, lines)
    return found


@pytest.mark.parametrize("kind", ["fusion", "vision", "ocr"])
def test_similarities_are_those_of_test_py(demo, make_checkpoint, tmp_path, test_names, kind):
    """A short video is one window, so that the index holds what the evaluator compares."""
    checkpoint = make_checkpoint(kind)
    library = Library(demo / "Videos", demo / "Kwai_VideoOCR", checkpoint)
    config = library.model.config
    model = build_model(config, CPU)
    load_weights(model, checkpoint)
    loader = build_loader(config, 0, training=False, split="test")
    evaluator = Evaluator(config.metrics, build_criterion(config, CPU), Precision("fp32", CPU))
    wanted = evaluator.run(model, loader).similarity
    library.index(tmp_path / "i", batch_size=3)
    with VideoIndex.open(tmp_path / "i") as index:
        assert len(index) == 16  # the training's videos are in the folder, too
        for row, caption in enumerate(captions_of(demo)):
            hits = index.search(caption, 16, mode="semantic")
            found = {hit.video: hit.similarity for hit in hits}
            given = [found[name] for name in test_names]
            np.testing.assert_allclose(given, wanted[row], atol=2e-5)
            scores = [hit.score for hit in hits]
            assert scores == sorted(scores, reverse=True)
            assert [hit.semantic_rank for hit in hits] == list(range(1, 17))


def test_the_share_of_each_side_is_what_is_lost_without_it(built, demo):
    folder, library = built
    caption = captions_of(demo)[0]
    with VideoIndex.open(folder) as index:
        hits = index.search(caption, 8, mode="semantic", explain=True)
    config = library.model.config
    model = build_model(config, CPU)
    load_weights(model, library.checkpoint)
    loader = build_loader(config, 0, training=False, split="test", batch_size=8)
    batch = loader.to_device(next(iter(loader)), CPU)
    model.eval()
    with torch.no_grad():
        text = model(batch)["text"][0]
        embeds = model.embed_videos_apart(batch)
        batch.video = batch.video + 1  # nothing of it may be left
        other = model.embed_videos_apart(batch)["vision"]
    torch.testing.assert_close(other, embeds["vision"])
    cosine = {part: torch.cosine_similarity(text, rows).tolist() for part, rows in embeds.items()}
    place = {name: number for number, name in enumerate(batch.ids)}
    assert len(hits) == 8
    for hit in hits:
        found, row = hit.explanation, place[hit.video]
        assert found.similarity == pytest.approx(cosine["whole"][row], abs=1e-5)
        assert found.without_vision == pytest.approx(cosine["vision"][row], abs=1e-5)
        assert found.without_ocr == pytest.approx(cosine["ocr"][row], abs=1e-5)
        losses = [max(0, found.similarity - x) for x in (found.without_vision, found.without_ocr)]
        if sum(losses) == 0:
            assert found.vision is None and found.ocr is None
        else:
            assert found.vision == pytest.approx(losses[0] / sum(losses))
            assert found.vision + found.ocr == pytest.approx(1)


def test_an_index_needs_a_model_that_can_do_it():
    class Plain(RetrievalModel):
        def forward(self, batch):
            return {}

        @classmethod
        def describe_input(cls, **arguments):
            return ModelInput(("vision",), "")

    with pytest.raises(UserError, match="Plain has no embed_videos_apart"):
        Plain().embed_videos_apart(None)
    with pytest.raises(UserError, match="Plain has no build_query_encoder"):
        Plain.build_query_encoder()


def test_a_second_run_does_what_has_changed_and_no_more(library, tmp_path, test_names):
    out = tmp_path / "my.index"
    first = library.index(out)
    assert (first.num_videos, first.num_entries, first.failed) == (8, 8, {})
    names = sorted(test_names)
    with VideoIndex.open(out) as index:
        before = contents(index)
        same = library.index(out)
        assert same.plan.summarize().endswith("0 unreadable, 8 unchanged")
        os.utime(library.videos / names[0])  # another time, the same content
        shutil.copy(library.videos / names[1], library.videos / names[2])  # another content
        (library.videos / names[3]).unlink()
        (library.videos / "neu").mkdir()
        shutil.copy(library.videos / names[4], library.videos / "neu" / "x.mp4")
        document = library.ocr / names[5].replace(".mp4", ".json")
        document.write_text(document.read_text().replace('"text": "', '"text": "ZEBRA '))
        (library.ocr / names[6].replace(".mp4", ".json")).unlink()
        planned = preview_update(library.videos, out, OcrFolder(library.ocr))
        assert contents(index) == before  # nothing is done by looking
        done = library.index(out).plan
        for changes in (planned, done):
            assert changes.add == ["neu/x.mp4"] and changes.drop == [names[3]]
            assert changes.update == [names[2], names[5], names[6]]
            assert len(changes.touch) == 1 and changes.num_same == 4
        after = contents(index)
        fresh = tmp_path / "fresh.index"
        library.index(fresh)
        with VideoIndex.open(fresh) as other:
            assert after == contents(other)
        assert [hit.video for hit in index.search("zebra", mode="keyword")] == [names[5]]
    assert library.index(out).plan.num_same == 8


def test_dead_rows_are_dropped_when_they_are_many(library, tmp_path, test_names):
    out = tmp_path / "my.index"
    library.index(out)
    names = sorted(test_names)
    with VideoIndex.open(out) as index:
        (library.videos / names[0]).unlink()
        library.index(out)
        assert sorted(path.name for path in out.glob("embeddings-*")) == ["embeddings-000001.npy"]
        assert len(index) == 7 and np.load(out / "embeddings-000001.npy").shape == (8, 32)
        with index.reading() as (_, held):
            for name in names[1:4]:
                (library.videos / name).unlink()
            library.index(out)
            assert held.vectors.windows[7].any()  # its file is gone, and mapped
        assert sorted(path.name for path in out.glob("embeddings-*")) == ["embeddings-000002.npy"]
        assert len(index) == 4 and np.load(out / "embeddings-000002.npy").shape == (4, 32)
        after = contents(index)
        with lock_index(out), IndexWriter(out) as writer:
            assert writer.count_dead_rows() == 0 and not writer.compact()
    assert len(list(out.glob("thumbnails/*/*"))) == 4
    fresh = tmp_path / "fresh.index"
    library.index(fresh)
    with VideoIndex.open(fresh) as other:
        assert after == contents(other)


def test_a_long_video_is_found_in_the_window_that_shows_it(checkpoint, tmp_path):
    videos, ocr = tmp_path / "v", tmp_path / "o"
    videos.mkdir(), ocr.mkdir()
    write_video(videos / "long.mp4", num_frames=150)  # six seconds
    quad = [6.4, 4.8, 32, 4.8, 32, 9.6, 6.4, 9.6, 0, 0]
    frames = {str(frame): quad for frame in range(60, 80, 5)}
    line = {"text": "MUSEUM", "score": 0.9, "tracks": frames}
    beyond = {"text": "NEVER", "score": 0.9, "tracks": {"150": quad}}
    (ocr / "long.json").write_text(json.dumps({"0": line, "1": beyond}))
    library = Library(videos, ocr, checkpoint)
    library.index(tmp_path / "i", window_s=2.0, stride_s=1.0)
    with VideoIndex.open(tmp_path / "i") as index:
        spans = [(index.entry(i).start_s, index.entry(i).end_s) for i in range(1, len(index) + 1)]
        assert spans == [(i, i + 2) for i in range(5)]
        hits = index.search("museum", mode="keyword")
        assert [(hit.start_s, hit.end_s) for hit in hits] == [(1, 3), (2, 4), (3, 5)]
        (track,) = index.tracks(hits[0].id)
        assert (track.start_s, track.end_s) == pytest.approx((2.4, 3.0))
        assert track.box == pytest.approx((0.1, 0.1, 0.5, 0.2))
        assert [time for time, _ in track.boxes] == pytest.approx([2.4, 2.6, 2.8, 3.0])
        assert index.search("never", mode="keyword") == [] and index.tracks(1) == []
        # The model is given the words of the window alone.
        with index.reading() as (_, snapshot):
            rows, without = snapshot.vectors.windows, snapshot.vectors.without["ocr"]
            differs = [float(rows[i] @ without[i]) < 0.9999 for i in range(5)]
    assert library.index(tmp_path / "i").plan.num_same == 1  # windows as before
    assert differs[1] and len(differs) == 5


BAD = {
    "empty.mp4": lambda path, good: path.write_bytes(b""),
    "cut.mp4": lambda path, good: truncate(path, good, 0.5),
    "sound.mp4": lambda path, good: write_audio(path),
    "noise.mkv": lambda path, good: path.write_bytes(np.random.default_rng(0).bytes(9000)),
    "text.avi": lambda path, good: path.write_text("no video at all\n" * 50),
    "gone.mp4": lambda path, good: path.symlink_to("nowhere.mp4"),
}
GOOD = ["a b.mp4", "it's.mp4", 'say "hi".mp4', "new\nline.mp4", "видео 影片.mp4", "-r.mp4",
        "100%;#.mp4", b"latin-\xe9.mp4".decode("utf-8", "surrogateescape")]  # fmt: skip


def test_bad_videos_are_reported_and_the_others_found(checkpoint, tmp_path, caplog):
    videos = tmp_path / "v"
    videos.mkdir()
    good = write_video(tmp_path / "good.mp4", num_frames=20)
    for name in GOOD:
        shutil.copy(good, videos / name)
    for name, make in BAD.items():
        make(videos / name, good)
    write_rotated(videos / "turned.mp4", good)  # decord refuses it
    write_video(videos / "stream.ts", num_frames=20)  # and this
    damage(videos / "damaged.mp4", good)  # read but for the gap
    found = update_index(
        videos, tmp_path / "i", Library(videos, videos, checkpoint).model, OcrSource(),
        IndexOptions(batch_size=4),
    )  # fmt: skip
    assert found.failed.keys() == BAD.keys()
    assert all(str(videos / name) in reason for name, reason in found.failed.items())
    gap = f"{videos / 'damaged.mp4'}: 0:00.3-0:00.7 can't be decoded; the rest is indexed"
    assert [record.getMessage() for record in caplog.records] == [gap]
    with VideoIndex.open(tmp_path / "i") as index:
        hits = index.search("anything", 50)
        assert {hit.video for hit in hits} == {*GOOD, "turned.mp4", "stream.ts", "damaged.mp4"}
        assert all(index.video_file(hit.id) == videos / hit.video for hit in hits)
        turned = next(hit.id for hit in hits if hit.video == "turned.mp4")
        assert (index.entry(turned).width, index.entry(turned).height) == (48, 64)
    again = update_index(
        videos, tmp_path / "i", Library(videos, videos, checkpoint).model, OcrSource(),
        IndexOptions(),
    )  # fmt: skip
    assert again.failed.keys() == BAD.keys() and again.plan.num_same == len(GOOD) + 3


BOX = [1, 1, 40, 1, 40, 20, 1, 20, 0, 0]
ABSURD = {
    "frame": {"text": "sale", "score": 0.9, "tracks": {"9" * 23: BOX}},
    "corner": {"text": "sale", "score": 0.9, "tracks": {"0": [1e308] * 8, "1": [-1e308] * 8}},
    "score": {"text": "sale", "score": 1e308, "tracks": {"0": BOX}},
    "time": {"text": "sale", "score": 1, "kind": "spoken", "start_s": 0, "end_s": 1e308},
    "type": {"text": ["sale"], "score": 1, "tracks": {"0": BOX}},
}


def test_an_absurd_document_is_that_videos_fault(checkpoint, tmp_path, caplog):
    videos, ocr = tmp_path / "v", tmp_path / "ocr"
    for folder in (videos, ocr):
        folder.mkdir()
    good = write_video(tmp_path / "good.mp4", num_frames=5)
    read = {"text": "casino", "score": 0.9, "tracks": {"0": BOX}}
    names = ["a", *ABSURD, "z" * 250]  # its document's name would be too long
    for name in names:
        shutil.copy(good, videos / f"{name}.mp4")
        (ocr / f"{name}.json").write_text(json.dumps({"0": ABSURD.get(name, read)}))
    (ocr / "a.json").write_text(json.dumps({"0": read})[:-1] + f', "0": {json.dumps(read)}}}')
    library = Library(videos, ocr, checkpoint)
    found = library.index(tmp_path / "i")
    assert found.failed.keys() == {f"{name}.mp4" for name in ABSURD}
    for name in ABSURD:
        assert found.failed[f"{name}.mp4"].startswith(f"{ocr / name}.json: record '0': expected ")
    assert f"{ocr / 'a.json'}: 1 members are written again under the same key" in caplog.text
    with VideoIndex.open(tmp_path / "i") as index:
        hits = index.search("casino", mode="keyword")
        assert {hit.video for hit in hits} == {"a.mp4", f"{names[-1]}.mp4"}


def test_windows_of_which_nothing_decodes_are_left_out(make_checkpoint, tmp_path, caplog):
    """And what is seen in the others is found there; another model embeds the same ones."""
    videos, ocr, out = tmp_path / "v", tmp_path / "ocr", tmp_path / "i"
    videos.mkdir(), ocr.mkdir()
    good = write_video(tmp_path / "good.mp4", num_frames=100, gop=5, x264="bframes=0")
    break_packets(videos / "a.mp4", good, list(range(30, 65)))  # 1.2 s to 2.6 s
    boxes = {name: [1, 1, 40, 1, 40, 20, 1, 20, 0.9, 1] for name in ("2", "45", "55", "70")}
    lines = {"museum": ("2", "70"), "hidden": ("45", "55"), "casino": ("70",)}
    document = {
        str(number): {"text": text, "score": 0.9, "tracks": {name: boxes[name] for name in names}}
        for number, (text, names) in enumerate(lines.items())
    }
    (ocr / "a.json").write_text(json.dumps(document))
    library = Library(videos, ocr, make_checkpoint())
    assert not library.index(out, window_s=0.5, stride_s=0.5).failed
    assert "a.mp4: 0:01.2-0:02.6 can't be decoded; the rest is indexed" in caplog.text
    with VideoIndex.open(out) as index:
        starts = [index.entry(i).start_s for i in range(1, len(index) + 1)]
        assert starts == [0, 0.5, 1, 2.5, 3, 3.5]
        for word, expected in (("museum", [0, 2.5]), ("hidden", []), ("casino", [2.5])):
            hits = index.search(word, mode="keyword")
            assert sorted(hit.start_s for hit in hits) == expected
        assert all(index.read_thumbnail(i) for i in range(1, len(index) + 1))
    other = Library(videos, ocr, make_checkpoint("fusion", "seed=7"))
    assert other.index(out, replace_model=True).num_anew == 1
    with VideoIndex.open(out) as index:
        assert [index.entry(i).start_s for i in range(1, len(index) + 1)] == starts
        assert len(index.search("anything", 20)) == 6


def test_a_clip_has_fewer_frames_where_some_do_not_decode(checkpoint, tmp_path):
    good = write_video(tmp_path / "good.mp4", num_frames=25, gop=5, x264="bframes=0")
    break_packets(tmp_path / "a.mp4", good, list(range(5, 20)))
    model = Library(tmp_path, tmp_path, checkpoint).model
    params = replace(model.reading_params(10.0, 5.0), num_frames=6)
    read = {}
    for name in ("good.mp4", "a.mp4"):
        with open_video_file(Roots.of(tmp_path), params, OcrSource(), name) as file:
            read[name] = list(file.read_windows())
    (((whole, full),), ((part, sample),)) = read["good.mp4"], read["a.mp4"]
    assert full.num_frames == 6 and 2 <= sample.num_frames < 6
    for time, frame in zip(part.frame_times, sample.frames, strict=False):
        assert not 0.2 <= time < 0.8
        if time in whole.frame_times:
            np.testing.assert_array_equal(frame, full.frames[whole.frame_times.index(time)])
    assert not sample.frames[sample.num_frames :].any()
    assert part.thumbnail != whole.thumbnail and part.thumbnail[:2] == b"\xff\xd8"


def test_a_video_that_is_damaged_later_leaves_the_index(library, tmp_path, test_names):
    out = tmp_path / "i"
    library.index(out)
    (library.videos / test_names[0]).write_bytes(b"")
    assert list(library.index(out).failed) == [test_names[0]]
    with VideoIndex.open(out) as index:
        assert len(index) == 7
        assert test_names[0] not in {hit.video for hit in index.search("x", 20)}


def test_a_malformed_document_is_an_error_of_its_video(library, tmp_path, test_names):
    document = library.ocr / test_names[0].replace(".mp4", ".json")
    document.write_text('{"0": {"text": 3}}')
    (reason,) = library.index(tmp_path / "i").failed.values()
    assert str(document) in reason and '"text"' in reason


def test_what_does_not_fit_an_index_is_refused(library, built, make_checkpoint, tmp_path):
    folder, own = built
    out = tmp_path / "copy"
    shutil.copytree(folder, out)
    other = make_checkpoint("fusion", "seed=7")
    with pytest.raises(IndexFolderError) as caught:
        Library(own.videos, own.ocr, other).index(out)
    assert str(own.checkpoint) in str(caught.value) and str(other) in str(caught.value)
    with pytest.raises(IndexFolderError, match="of .*videos, not of .*my videos"):
        library.index(out)
    with pytest.raises(UserError, match="has windows of 10 s every 5 s, not of 4"):
        own.index(out, window_s=4.0, stride_s=2.0)
    with pytest.raises(UserError, match="stride <= window"):
        own.index(tmp_path / "new", window_s=4.0, stride_s=5.0)
    changed = make_checkpoint("fusion", "data_loader.args.ocr_params.max_words=5")
    with pytest.raises(
        IndexFolderError, match="other settings .* \\(ocr_params.max_words 5, not as "
    ):
        Library(own.videos, own.ocr, changed).index(out)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "letter.txt").write_text("dear")
    with pytest.raises(IndexFolderError, match="holds something else than an index"):
        own.index(tmp_path / "files")
    assert os.listdir(tmp_path / "files") == ["letter.txt"]
    with lock_index(out), pytest.raises(IndexFolderError, match="another index.py"):
        own.index(out)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match="nothing: holds no video"):
        Library(tmp_path / "nothing", own.ocr, own.checkpoint).index(tmp_path / "new")
    with pytest.raises(UserError, match="no such folder"):
        OcrFolder(tmp_path / "nowhere")
    with VideoIndex.open(out) as index, VideoIndex.open(folder) as before:
        assert contents(index) == contents(before)
