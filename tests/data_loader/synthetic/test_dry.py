"""The dry run: stand-ins for the files of a real annotation file, and what is refused."""

import json
import re
from pathlib import Path

import av
import numpy as np
import pytest
from synthetic_helpers import contents, decode, read_json, run

from data_loader.synthetic.dry_run import FPS, HEIGHT, NUM_FRAMES, WIDTH, make_dry_run
from utils.errors import UserError


def entry(path: str, ocr: str, *captions: str) -> dict:
    return {
        "path": path,
        "captions_info": [
            {"caption": caption, "caption_info": {"duration": 0, "desc_id": i}}
            for i, caption in enumerate(captions)
        ],
        "videos_info": {"source": "made", "split": "test", "Kwai_OCR": ocr},
    }


ENTRIES = [
    entry("Sports/a.mp4", "Sports/a.json", " The WARRIORS win at Café Noir."),
    entry("News_Movie/b.mp4", "News/b.json", "a reporter talks", "the news of today"),
    entry("Games/c.mp4", "Games/c.json", "score 3 to 1"),
]


@pytest.fixture
def annotations(tmp_path) -> Path:
    path = tmp_path / "TextVR_test.json"
    path.write_text(json.dumps(ENTRIES, indent=3), encoding="utf-8")
    return path


def test_dry_run_makes_what_the_entries_name(annotations, tmp_path):
    out = tmp_path / "dry"
    result = make_dry_run(annotations, out)
    assert (result.num_made, result.num_kept) == (3, 0)
    assert (out / "TextVR_test.json").read_bytes() == annotations.read_bytes()
    videos = [decode(out / "Videos" / item["path"]) for item in ENTRIES]
    assert {video.shape for video in videos} == {(NUM_FRAMES, HEIGHT, WIDTH, 3)}
    for index, video in enumerate(videos):
        another = videos[index - 1]
        assert np.abs(video[0].astype(int) - another[0]).mean() > 10
    documents = sorted(p.relative_to(out / "Kwai_VideoOCR") for p in out.glob("Kwai*/*/*"))
    assert documents == [Path("Games/c.json"), Path("News/b.json"), Path("Sports/a.json")]
    for item in ENTRIES:
        document = read_json(out / "Kwai_VideoOCR" / item["videos_info"]["Kwai_OCR"])
        captions = {w for info in item["captions_info"] for w in info["caption"].split()}
        read = {word for record in document.values() for word in record["text"].split()}
        assert read & captions
        for record in document.values():
            assert all(0 <= int(frame) < NUM_FRAMES for frame in record["tracks"])
            assert {len(numbers) for numbers in record["tracks"].values()} == {10}
            corners = np.array([numbers[:8] for numbers in record["tracks"].values()])
            assert corners.min() >= 0
            assert corners[:, ::2].max() <= WIDTH and corners[:, 1::2].max() <= HEIGHT
    assert "warriors" in (out / "text_model" / "vocab.txt").read_text().splitlines()
    with av.open(str(out / "Videos/Sports/a.mp4")) as container:
        assert container.streams.video[0].average_rate == FPS


def test_dry_run_is_resumed(annotations, tmp_path):
    out = tmp_path / "dry"
    make_dry_run(annotations, out)
    before = contents(out)
    (out / "Videos/Sports/a.mp4").write_bytes(b"kept")
    (out / "Videos/Games/c.mp4").unlink()
    (out / "Kwai_VideoOCR/News/b.json").unlink()
    result = make_dry_run(annotations, out)
    assert (result.num_made, result.num_kept) == (2, 1)
    assert contents(out) == {**before, "Videos/Sports/a.mp4": b"kept"}
    make_dry_run(annotations, out, overwrite=True)
    assert contents(out) == before


def test_dry_run_with_limit_then_whole(annotations, tmp_path):
    out = tmp_path / "dry"
    assert make_dry_run(annotations, out, limit=2).num_made == 2
    assert read_json(out / "TextVR_test.json") == ENTRIES[:2]
    assert make_dry_run(annotations, out).num_made == 1
    assert read_json(out / "TextVR_test.json") == ENTRIES


def test_dry_run_makes_a_shared_file_once(tmp_path):
    items = [entry("a/1.mp4", "a/1.json", "first"), entry("a/2.mp4", "a/1.json", "second")]
    (tmp_path / "list.json").write_text(json.dumps(items))
    result = make_dry_run(tmp_path / "list.json", tmp_path / "dry")
    assert (result.num_made, result.num_kept) == (2, 0)
    assert len(list((tmp_path / "dry/Videos/a").iterdir())) == 2
    document = read_json(tmp_path / "dry/Kwai_VideoOCR/a/1.json")
    texts = [record["text"] for record in document.values()]
    assert "first" in texts and "second" not in texts


def test_dry_run_does_not_mix_with_real_files(annotations, tmp_path):
    (tmp_path / "real/Videos").mkdir(parents=True)
    with pytest.raises(UserError, match="real ones"):
        make_dry_run(annotations, tmp_path / "real")
    assert not list((tmp_path / "real/Videos").iterdir())
    # the annotation file alone is in nobody's way
    (tmp_path / "new").mkdir()
    moved = annotations.rename(tmp_path / "new/TextVR_test.json")
    assert make_dry_run(moved, tmp_path / "new").num_made == 3


def changed(**changes) -> list:
    return [ENTRIES[0], {**ENTRIES[1], **changes}]


BAD_ANNOTATIONS = {
    "not JSON": (b"[{", "is not JSON"),
    "not text": (b"\xff\xfe[", "is not UTF-16-LE text"),
    "no list": ({"path": "a.mp4"}, "must hold a list"),
    "no entries": ([], "holds no entries"),
    "entry no object": ([ENTRIES[0], "a.mp4"], "entry 1: must be an object"),
    "no path": (changed(path=None), 'entry 1: has no "path"'),
    "twice": (changed(path="Sports/a.mp4"), "entry 1: the path 'Sports/a.mp4' occurs twice"),
    "no captions": (changed(captions_info=[]), "entry 1: News_Movie/b.mp4: has no captions"),
    "caption no text": (changed(captions_info=[{"caption": 3}]), "entry 1: .* has no captions"),
    "path up": (changed(path="a/../../x.mp4"), "entry 1: the path 'a/../../x.mp4' leads out"),
    "path absolute": (changed(path="/tmp/x.mp4"), "entry 1: .*leads out"),
    "OCR up": (changed(videos_info={"Kwai_OCR": "../x.json"}), "entry 1: .*Kwai_OCR .*leads out"),
}


@pytest.mark.parametrize("case", BAD_ANNOTATIONS)
def test_annotations_that_training_would_refuse(case, tmp_path, capsys):
    content, message = BAD_ANNOTATIONS[case]
    path, out = tmp_path / "bad.json", tmp_path / "dry"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    assert run(f"--annotations {path} --out {out}") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"{path}: ") and re.search(message, error)
    assert not out.exists()


def test_an_entry_without_a_document_gets_none(tmp_path):
    (tmp_path / "list.json").write_text(json.dumps(changed(videos_info={"split": "test"})))
    out = tmp_path / "dry"
    assert make_dry_run(tmp_path / "list.json", out).num_made == 2
    assert len(list(out.glob("Videos/*/*"))) == 2 and len(list(out.glob("Kwai*/*/*"))) == 1


def test_command_makes_a_dry_run(annotations, tmp_path, capsys):
    arguments = f"--annotations {annotations} --out {tmp_path}/dry --workers 1"
    assert run(f"{arguments} --limit 1") == 0
    assert "1 made, 0 kept" in capsys.readouterr().out
    assert run(arguments) == 0
    assert "2 made, 1 kept" in capsys.readouterr().out


def test_out_may_not_be_a_file(annotations, capsys):
    for arguments in ("--looks 2", f"--annotations {annotations}"):
        assert run(f"{arguments} --out {annotations}") == 2
        assert "is not a folder" in capsys.readouterr().err
