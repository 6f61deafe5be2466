from pathlib import Path

import pytest

from base.base_dataset import VideoEntry
from data_loader.data_check.splits import (
    count_captions_in,
    count_shared_captions,
    find_copies,
    find_shared_files,
)


def entries(*captions):
    """An entry for each tuple of captions."""
    return [VideoEntry(str(n), Path(f"{n}.mp4"), texts) for n, texts in enumerate(captions)]


@pytest.mark.parametrize(
    ("captions", "expected"),
    [
        ([("a",), ("b",)], (0, 0, 100)),
        ([("a",), ("a",), ("b",), ("c",)], (1, 2, 75)),
        ([("a",), ("a",), ("a",), ("b",)], (1, 3, 50)),
        ([("a",), (" A ",), ("b  c",), ("B c",)], (2, 4, 50)),  # the same for a text model
        ([("a", "a"), ("b", "c")], (0, 0, 100)),  # both are right for the one video
        ([("a", "a"), ("a", "b")], (1, 2, 75)),
        ([("a", "b"), ("b", "c"), ("c", "a")], (3, 3, 50)),
        ([()], (0, 0, None)),
    ],
)
def test_captions_of_several_videos(captions, expected):
    found = count_shared_captions(entries(*captions))
    assert (found.captions, found.videos, found.best_r1) == expected


def test_the_real_test_files_proportions():
    """2,727 captions, of which 223 stand at 496 videos: 89.99 %."""
    captions = [(f"own {n}",) for n in range(2727 - 496)]
    captions += [(f"shared {n % 223}",) for n in range(496)]
    found = count_shared_captions(entries(*captions))
    assert (found.captions, found.videos, round(found.best_r1, 2)) == (223, 496, 89.99)


def test_captions_that_are_also_in_training():
    assert count_captions_in(entries(("a", "B"), ("b",), ("c",)), entries(("x", "b "))) == 2


def test_a_link_is_the_file_that_it_leads_to(tmp_path):
    (tmp_path / "a").write_text("a")
    (tmp_path / "link").symlink_to("a")
    names = [str(tmp_path / name) for name in ("a", "link", "gone")]
    assert find_shared_files(names, [str(tmp_path / "x/../a")]) == names[:2]
    assert find_shared_files(names[2:], [names[2]]) == names[2:]  # missing in both
    assert find_shared_files(names, [str(tmp_path / "b")]) == []


def test_copies_have_the_same_bytes_and_not_only_the_same_size(tmp_path):
    for name, text in {"a": "one", "b": "two", "c": "one", "d": "longer"}.items():
        (tmp_path / name).write_text(text)
    sizes = {str(tmp_path / name): (tmp_path / name).stat().st_size for name in "abcd"}
    mine = {name: sizes[name] for name in (str(tmp_path / "a"), str(tmp_path / "d"))}
    others = {name: sizes[name] for name in (str(tmp_path / "b"), str(tmp_path / "c"))}
    assert find_copies(mine, others) == {str(tmp_path / "a"): str(tmp_path / "c")}
    assert find_copies(others, {}) == {}
