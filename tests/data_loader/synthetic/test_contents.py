"""The made-up TextVR: its layout, and what videos, OCR documents and captions hold."""

import itertools
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageDraw
from synthetic_helpers import OPTIONS, contents, decode, read_json

from data_loader.synthetic.demo import (
    DemoOptions,
    choose_sign_texts,
    compute_best_r1,
    list_clips,
    make_demo,
    summarise_clips,
)
from data_loader.synthetic.scene import COLOURS, find_font_size, list_looks, load_font, plan_scene
from data_loader.synthetic.words import DISTRACTORS, SIGN_WORDS, TEMPLATES


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("synthetic") / "demo"
    make_demo(out, OPTIONS)
    return out


@pytest.fixture(scope="module")
def summary(demo) -> dict:
    return read_json(demo / "synthetic.json")


def target_record(demo: Path, path: str, word: str) -> dict:
    """The record of the word's sign, with the tracks of all its records."""
    document = read_json((demo / "Kwai_VideoOCR" / path).with_suffix(".json"))
    found = [record for record in document.values() if word in record["text"].lower().split()]
    assert 2 <= len(found) <= 4, "the tracker loses the sign a few times"
    assert len({record["text"] for record in found}) == 1
    tracks = {frame: box for record in found for frame, box in record["tracks"].items()}
    assert len(tracks) == sum(len(record["tracks"]) for record in found)
    return {**found[0], "tracks": tracks}


def likeness(picture: np.ndarray, text: str, box: tuple[int, ...]) -> float:
    """|correlation| of the picture's part in the box with the text drawn to fill the box."""
    left, top, right, bottom = box
    part = picture[top:bottom, left:right].mean(axis=2)
    best = 0.0
    for font_size in range(7, 20):
        font = load_font(font_size)
        x0, y0, x1, y1 = font.getbbox(text)
        drawn = Image.new("L", (round(x1 - x0), round(y1 - y0)))
        ImageDraw.Draw(drawn).text((-x0, -y0), text, font=font, fill=255)
        if drawn.size == (right - left, bottom - top) and part.std() > 0:
            best = max(best, abs(np.corrcoef(part.ravel(), np.asarray(drawn).ravel())[0, 1]))
    return best


@pytest.mark.parametrize(("split", "videos", "captions"), [("train", 16, 2), ("test", 8, 1)])
def test_annotations_have_the_real_layout(demo, split, videos, captions):
    entries = read_json(demo / f"TextVR_{split}.json")
    assert len(entries) == videos
    numbers = []
    for entry in entries:
        assert list(entry) == ["path", "captions_info", "videos_info"]
        category, name = entry["path"].split("/")
        assert (demo / "Videos" / category / name).is_file()
        assert (demo / "Kwai_VideoOCR" / entry["videos_info"]["Kwai_OCR"]).is_file()
        assert list(entry["videos_info"]) == ["source", "split", "Kwai_OCR"]
        assert entry["videos_info"]["split"] == split
        assert len(entry["captions_info"]) == captions
        assert len({info["caption"] for info in entry["captions_info"]}) == captions
        for info in entry["captions_info"]:
            assert list(info) == ["caption", "caption_info"]
            assert list(info["caption_info"]) == ["duration", "desc_id"]
            numbers.append(info["caption_info"]["desc_id"])
    assert numbers == list(range(videos * captions))


def test_only_the_files_of_the_layout_are_written(demo):
    found = set(contents(demo))
    assert not [name for name in found if name.endswith(".tmp")]
    top = {name for name in found if "/" not in name}
    assert top == {"TextVR_train.json", "TextVR_test.json", "synthetic.json"}
    assert sum(name.startswith("Videos/") for name in found) == 24
    assert sum(name.startswith("Kwai_VideoOCR/") for name in found) == 24


def test_captions_speak_of_the_look_and_the_word(demo, summary):
    for split in ("train", "test"):
        for entry in read_json(demo / f"TextVR_{split}.json"):
            pair = summary[split][entry["path"]]
            look = list_looks()[pair["look"]]
            for info in entry["captions_info"]:
                words = info["caption"].lower().strip(" .").split()
                expected = {look.colour, look.shape, look.background, SIGN_WORDS[pair["word"]]}
                assert expected <= set(words)
                assert not (set(SIGN_WORDS) - expected) & set(words)


def test_split_and_coverage(summary):
    pairs = {
        split: [(v["look"], v["word"]) for v in summary[split].values()]
        for split in ("train", "test")
    }
    assert not set(pairs["train"]) & set(pairs["test"])
    assert len(set(pairs["train"])) * 2 == len(pairs["train"]) == 16
    assert len(set(pairs["test"])) == len(pairs["test"]) == 8
    for side in (0, 1):
        assert {pair[side] for pair in pairs["train"]} == {0, 1, 2, 3}
        assert {pair[side] for pair in pairs["test"]} == {0, 1, 2, 3}


@pytest.mark.parametrize("sizes", [(2, 2), (2, 9), (5, 3), (32, 32), (50, 64)])
def test_no_look_foretells_a_word(sizes):
    clips = list_clips(DemoOptions(looks=sizes[0], words=sizes[1]))
    trained = np.zeros(sizes, dtype=bool)
    for clip in clips:
        trained[clip.look, clip.word] |= clip.split == "train"
    assert trained.any(axis=0).all() and trained.any(axis=1).all()
    assert (~trained).any(axis=0).all() and (~trained).any(axis=1).all()
    if min(sizes) > 8:  # one direction holding most of the pattern would be such a foretelling
        singular = np.linalg.svd(trained - trained.mean(), compute_uv=False)
        assert singular[0] ** 2 < 0.25 * (singular**2).sum()


def test_ceiling_is_that_of_the_written_test_pairs(summary):
    assert summary["ceiling_R1"] == {"vision": 50.0, "ocr": 50.0}
    assert compute_best_r1([0, 0, 1, 1, 1]) == pytest.approx(40.0)
    full = summarise_clips(DemoOptions(), list_clips(DemoOptions()))
    assert full["ceiling_R1"] == {"vision": 6.25, "ocr": 6.25}
    assert (len(full["train"]), len(full["test"])) == (1024, 512)
    # 3 x 5, a third of them test pairs: 3 looks, 5 words, 5 videos
    odd = DemoOptions(looks=3, words=5)
    ceiling = summarise_clips(odd, list_clips(odd))["ceiling_R1"]
    assert ceiling == {"vision": pytest.approx(60.0), "ocr": pytest.approx(100.0)}


def test_videos_show_the_look(demo, summary):
    for pair, path in ((v, p) for split in ("train", "test") for p, v in summary[split].items()):
        frames = decode(demo / "Videos" / path)
        assert 12 <= len(frames) <= 24
        assert frames.shape[1:] == (96, 96, 3)
        assert np.abs(np.diff(frames.astype(int), axis=0)).max() > 60, "nothing moves"
        look = list_looks()[pair["look"]]
        middle = frames[len(frames) // 2].reshape(-1, 1, 3).astype(int)
        palette = np.array(list(COLOURS.values()))
        nearest = np.abs(middle - palette).max(axis=2).argmin(axis=1)
        shares = np.bincount(nearest, minlength=len(palette)) / len(nearest)
        names = list(COLOURS)
        assert shares[names.index(look.background)] > 0.35
        assert shares[names.index(look.colour)] > 0.07
        others = [n for n in names if n not in (look.background, look.colour, "black", "white")]
        assert max(shares[names.index(name)] for name in others) < 0.05


def test_duration_is_that_of_the_video(demo):
    for entry in read_json(demo / "TextVR_test.json"):
        with av.open(str(demo / "Videos" / entry["path"])) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert stream.codec_context.pix_fmt == "yuv420p"
            seconds = stream.frames / float(stream.average_rate)
        stated = entry["captions_info"][0]["caption_info"]["duration"]
        assert stated == pytest.approx(seconds, abs=1e-3)


def test_the_word_can_be_read_where_and_when_its_track_says(demo, summary):
    shifted, absent = [], []
    for path, pair in {**summary["train"], **summary["test"]}.items():
        record = target_record(demo, path, SIGN_WORDS[pair["word"]])
        frames = decode(demo / "Videos" / path)
        tracked = sorted(map(int, record["tracks"]))
        assert 0 <= tracked[0] <= tracked[-1] < len(frames)
        for frame in tracked:
            corners = record["tracks"][str(frame)][:8]
            box = (corners[0], corners[1], corners[4], corners[5])
            assert likeness(frames[frame], record["text"], box) > 0.8
            down = (box[0], box[1] + 3, box[2], box[3] + 3)
            shifted.append(likeness(frames[frame], record["text"], down))
        for frame, known in ((tracked[0] - 1, tracked[0]), (tracked[-1] + 1, tracked[-1])):
            if 0 <= frame < len(frames):
                corners = record["tracks"][str(known)]
                box = (corners[0], corners[1], corners[4], corners[5])
                absent.append(likeness(frames[frame], record["text"], box))
    # The measure tells a wrong place and a wrong time from the right ones.
    assert np.mean(shifted) < 0.5
    assert len(absent) >= 5 and max(absent) < 0.6


@pytest.mark.parametrize("size", [64, 96, 512])
def test_signs_stay_in_the_picture_and_apart(size):
    moved = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        texts = choose_sign_texts(rng, SIGN_WORDS[seed % len(SIGN_WORDS)], size)
        scene = plan_scene(rng, list_looks()[seed % 8], size, texts)
        assert [sign.text for sign in scene.signs] == texts
        for sign in scene.signs:
            boxes = np.array(list(sign.boxes.values()))
            assert boxes.min() >= 2 and boxes.max() <= size - 2
            assert len(boxes) > scene.num_frames / 2
            moved += len(np.unique(boxes, axis=0)) > 1
        for frame in range(scene.num_frames):
            rows = sorted(s.boxes[frame][1::2] for s in scene.signs if frame in s.boxes)
            assert all(above[1] < below[0] for above, below in itertools.pairwise(rows))
    assert moved > 50


def test_ocr_documents_have_the_kwai_format(demo, summary):
    scores, cases, lines, texts = [], set(), [], []
    for path, pair in {**summary["train"], **summary["test"]}.items():
        document = read_json((demo / "Kwai_VideoOCR" / path).with_suffix(".json"))
        num_frames = len(decode(demo / "Videos" / path))
        assert [int(key) for key in document] == sorted({int(key) for key in document})
        for record in document.values():
            assert list(record) == ["text", "score", "tracks", "recommend_box"]
            scores.append(record["score"])
            texts.append(record["text"])
            assert len(record["recommend_box"]) == 8
            for frame, numbers in record["tracks"].items():
                assert 0 <= int(frame) < num_frames
                assert len(numbers) == 10
                x1, y1, x2, y2, x3, y3, x4, y4 = numbers[:8]
                assert (x1, y1, x3, y3) == (x4, y2, x2, y4)
                assert 0 <= x1 < x3 <= 96 and 0 <= y1 < y3 <= 96
            corners = [numbers[:8] for numbers in record["tracks"].values()]
            assert record["recommend_box"] in corners
        word = SIGN_WORDS[pair["word"]]
        target = target_record(demo, path, word)
        assert 0.6 <= float(target["score"]) <= 0.99
        lines.append(len(target["text"].split()))
        cases.add(target["text"].split()[0][:2].swapcase().islower())
        read = {word for record in document.values() for word in record["text"].lower().split()}
        assert read & set(DISTRACTORS)
        assert not read & (set(SIGN_WORDS) - {word}), "another word's name"
    assert {type(score) for score in scores} == {float, str}
    assert set(lines) == {1, 2} and len(cases) == 2
    assert any(text == "" for text in texts) and any(len(text) == 1 for text in texts)


def test_vocabularies_share_no_word():
    captions = {word for template in TEMPLATES for word in template.split() if "{" not in word}
    captions |= {word for look in list_looks() for word in look.name.split()}
    vocabularies = [captions, set(SIGN_WORDS), set(DISTRACTORS)]
    assert len(set().union(*vocabularies)) == sum(map(len, vocabularies))
    assert len(SIGN_WORDS) == len(set(SIGN_WORDS)) >= 32
    assert all(4 <= len(word) <= 10 and word.isascii() and word.islower() for word in SIGN_WORDS)
    assert all(find_font_size(word.upper(), 64) for word in (*SIGN_WORDS, *DISTRACTORS))
    order = [template.index("{word}") < template.index("{shape}") for template in TEMPLATES]
    assert len(set(TEMPLATES)) >= 6 and set(order) == {True, False}


def test_looks_differ_strongly():
    looks = list_looks()
    assert len(looks) >= 32
    assert len({(look.colour, look.background) for look in looks}) == len(looks)
    colours = np.array(list(COLOURS.values()))
    apart = np.abs(colours[:, None] - colours[None]).max(axis=2)  # largest channel's difference
    assert apart[~np.eye(len(colours), dtype=bool)].min() >= 150
