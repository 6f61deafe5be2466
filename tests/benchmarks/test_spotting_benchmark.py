"""``python -m benchmarks.spotting``: its videos, what it counts, and its tables."""

import dataclasses

import numpy as np
import pytest

from benchmarks import spotting, text_scenes
from benchmarks.inputs import TextVideo, render_line
from benchmarks.text_scenes import SCENES, TextScene, draw_bitmap, draw_dots
from data_loader.readers.video_readers import open_video


@pytest.mark.parametrize("height", spotting.LETTER_HEIGHTS)
def test_letters_are_as_high_as_is_said(height):
    rows = np.flatnonzero((render_line("HXE", height) > 127).any(axis=1))
    assert height - 1 <= len(rows) <= height


def frames_of(path):
    with open_video(path) as video:
        return video.frames(range(video.num_frames)).astype(int)


def test_videos_show_their_lines_move_and_are_blurred(tmp_path):
    size = {"width": 320, "height": 180, "num_frames": 12}
    lines = TextVideo(24, **size).write(tmp_path / "still.mp4", seed=3)
    assert len(lines) == 3 and len(set(" ".join(lines).lower().split())) >= 3
    assert TextVideo(24, speed=100, **size).write(tmp_path / "moving.mp4", seed=3) == lines
    TextVideo(24, blur=2, **size).write(tmp_path / "soft.mp4", seed=3)
    still, moving, soft = (frames_of(tmp_path / f"{n}.mp4") for n in ("still", "moving", "soft"))
    assert still.shape == (12, 180, 320, 3)
    changes = [np.abs(video[0] - video[-1]).mean() for video in (still, moving)]
    assert changes[0] < 1 < 4 < changes[1]
    edges = [np.abs(np.diff(video[0, ..., 1], axis=1)).max() for video in (still, soft)]
    assert edges[1] < edges[0] / 2


def record(text: str, score: float = 0.9) -> dict:
    return {"text": text, "score": score, "tracks": {"0": [0, 0, 9, 0, 9, 9, 0, 9]}}


def test_words_are_counted_by_hand():
    document = {
        "0": record("GRAND Hotel"),
        "1": record("grand"),  # in two tracks
        "2": record("hotei ab"),  # wrong; too short for a model to be given
    }
    counts = spotting.count_words(["Grand Hotel", "OPEN DAILY"], document)
    assert counts == {"written": 4, "spotted": 3, "found": 2, "single": 1}
    assert spotting.count_words(["OPEN"], {})["found"] == 0


def test_the_table_has_every_kind_and_their_sums():
    numbers = {"written": [4, 4], "spotted": [4, 2], "found": [3, 1], "single": [2, 1]}
    kinds = [
        {"letter_height": height, "blur": 0.0, "speed": 60.0, "s_per_frame": [0.1, 0.3]} | numbers
        for height in (10, 24)
    ]
    kinds[1] |= {"written": [8, 8]}
    head = {"date": "2001-02-03", "machine": "one thread", "versions": "Python 3"}
    lines = spotting.make_table(head | {"kinds": kinds}).splitlines()
    assert lines[0] == "2001-02-03; one thread; Python 3"
    assert lines[4] == "| 10 | 0 | 60 | 50.0 | 66.7 | 75.0 | 0.200 |"
    assert lines[5] == "| 24 | 0 | 60 | 25.0 | 66.7 | 75.0 | 0.200 |"
    assert lines[-1] == "| all | all | all | 33.3 | 66.7 | 75.0 | 0.200 |"
    assert len(lines) == 4 + 2 + 2 + 1 + 1 + 1
    nothing = kinds[0] | {"spotted": [0, 0], "found": [0, 0], "single": [0, 0]}
    assert "| 0.0 | - | - |" in spotting.make_table(head | {"kinds": [nothing]})


def test_a_kind_is_measured_by_the_real_engine():
    pytest.importorskip("rapidocr_onnxruntime")
    found = spotting.measure_kind(TextVideo(24, width=320, height=180, num_frames=12), 1)
    assert found["found"] == found["written"] and found["s_per_frame"][0] > 0


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_scenes_show_their_lines_where_the_camera_pans(tmp_path, scene):
    short = dataclasses.replace(scene, num_frames=2, width=320, height=240, num_lines=4)
    lines = short.write(tmp_path / "scene.mp4", seed=1)
    assert len(lines) == 4 and short.write(tmp_path / "again.mp4", seed=1) == lines
    frames = frames_of(tmp_path / "scene.mp4")
    assert frames.shape == (2, 240, 320, 3)
    moved = np.abs(frames[0][:, 1:] - frames[1][:, :-1]).mean()
    assert moved < np.abs(frames[0] - frames[1]).mean()


def test_bitmap_letters_are_five_to_seven_pixels_high():
    for letters, height in ((text_scenes.TINY, 5), (text_scenes.SMALL, 7)):
        assert len(letters) == 26 and len(set(letters)) == 26
        ink = draw_dots(letters, "Il")
        assert ink.shape[0] == height and set(np.unique(ink)) == {0, 255}
    assert np.flatnonzero(draw_bitmap("HXE").any(axis=1)).size == 6
    expected = ["#..", "#..", "#..", "#..", "###"]
    rows = draw_dots(text_scenes.TINY, "L")[:, :3]
    assert ["".join("#" if dot else "." for dot in row) for row in rows] == expected


def test_the_table_of_scenes_and_a_scene_by_the_real_engine():
    pytest.importorskip("rapidocr_onnxruntime")
    scene = TextScene("sign", 640, 180, (16, 18), 2, board=True, num_frames=2)
    found = spotting.measure_kind(scene, 1, max_side=640)
    assert found["found"] == found["written"]
    head = {"date": "2001-02-03", "machine": "one thread", "versions": "Python 3"}
    table = spotting.make_scenes_table(head | {"kinds": [{"name": "sign"} | found]})
    assert table.splitlines()[-1].startswith("| sign | 100.0 | ")


def test_the_demonstrations_table():
    metrics = {"R1": 88.5, "R5": 99.0, "R10": 100.0, "MedR": 1.0}
    demo = {"given": metrics, "spotted": metrics | {"R1": 50.0}, "videos": 512, "seconds": 100.4}
    demo["videos_with_their_word"] = 300
    head = {"date": "2001-02-03", "machine": "one thread", "versions": "Python 3"}
    lines = spotting.make_demo_table(head | {"demo": demo}).splitlines()
    assert lines[1] == "512 test videos, 100 s; the word was spotted in 300"
    assert lines[-2:] == [
        "| given | 88.50 | 99.00 | 100.00 | 1.00 |",
        "| spotted | 50.00 | 99.00 | 100.00 | 1.00 |",
    ]
