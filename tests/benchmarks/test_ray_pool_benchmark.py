"""``python -m benchmarks.ray_pool``: what is computed of a run, and its table."""

from benchmarks import ray_pool
from retrieval.spotting.rapid_ocr import RapidOcrSpotter
from utils.processes import run_tasks


def test_the_speed_is_that_after_the_first_video_of_each_worker():
    speed = ray_pool.compute_speed(10.0, [14.0, 15.0, 16.0, 17.0, 19.0], workers=2)
    assert speed == {"whole": 9.0, "steady": 0.75}


def test_a_run_has_a_video_s_end_for_each_video(tmp_path, monkeypatch):
    (tmp_path / "videos").mkdir()
    monkeypatch.setattr(RapidOcrSpotter, "spot", lambda self, picture: [])
    for seed in range(3):
        ray_pool.KIND.write(tmp_path / f"videos/{seed}.mp4", seed)
    speed = ray_pool.measure_run(
        tmp_path / "videos", lambda make, tasks: run_tasks(make, tasks, 2), workers=2
    )
    assert speed["whole"] > 0 and speed["steady"] > 0
    assert not (tmp_path / "documents").exists()


def test_the_table_has_both_and_the_ratio_of_each_round():
    rounds = [
        {"processes": {"whole": 10.0, "steady": 2.0}, "ray": {"whole": 20.0, "steady": steady}}
        for steady in (1.0, 1.8, 2.0)
    ]
    text = ray_pool.make_table(
        {"date": "", "machine": "", "versions": "", "videos": 9, "workers": 2, "rounds": rounds}
    )
    assert "| ray | 20.00 (20.00 … 20.00) | 1.80 (1.00 … 2.00) |" in text
    assert text.endswith("ray / processes, steady: 0.90 (0.50 to 1.00)\n")
