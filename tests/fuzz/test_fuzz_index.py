"""Damaged index folders: what is found in them is right, or the index is refused by name.

A case copies a tiny index, damages it once or twice, opens it, and searches by words and by
example; ``verify_index`` has to find what makes no difference to these searches.
"""

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.index.integrity import verify_index
from tests.fuzz.fuzzing import fuzz
from tests.retrieval.index_damage import ask, list_damages, list_files, make_index
from utils.errors import UserError

pytestmark = pytest.mark.slow

KINDS = ("windows", "frames", None)
# A search does without them: settings are a copy, and a picture is only shown.
UNSEEN = ("settings.json", "thumbnails")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str | None, tuple[Path, Path, list[Any]]]:
    """Of each kind an index, another one, and what is found in the first."""
    folder, found = tmp_path_factory.mktemp("made"), {}
    for kind in KINDS:
        one = make_index(folder / str(kind), kind)
        found[kind] = one, make_index(folder / f"{kind}2", kind, seed=40), ask(one)
        (one / "index.lock").unlink()
    return found


def try_case(case: tuple[Path, Path, list[Any]], damage: Any) -> None:
    """Damage a copy and search it.

    Where all that differs between two indexes is the database and the settings, and both are
    exchanged or lost, the folder is the other index, and right as such.
    """
    folder, other, wanted = case
    with tempfile.TemporaryDirectory(prefix="fuzz_index_") as name:
        at = Path(name) / "my.index"
        shutil.copytree(folder, at)
        damage(at, other)
        try:
            found = ask(at)
        except UserError as error:
            text = str(error)
            assert str(at) in text and len(text) <= 2_000
            return
        is_other = (at / "index.db").read_bytes() == (other / "index.db").read_bytes()
        assert found == (ask(other) if is_other else wanted)
        with suppress(UserError):
            verify_index(at)


@fuzz()
@given(st.data())
def test_files_are_flipped_cut_and_overwritten(made, data):
    kind = data.draw(st.sampled_from(KINDS))
    name = data.draw(st.sampled_from(list_files(made[kind][0])))
    content = bytearray((made[kind][0] / name).read_bytes())
    most = max(0, len(content) - 1)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, most))
        what = data.draw(st.sampled_from(("bit", "bytes", "zeros", "cut", "insert", "repeat")))
        if what == "bit" and place < len(content):
            content[place] ^= 1 << data.draw(st.integers(0, 7))
        elif what == "bytes":
            content[place : place + 8] = data.draw(st.binary(min_size=1, max_size=8))
        elif what == "zeros":
            size = data.draw(st.sampled_from((1, 64, 4096)))
            content[place : place + size] = bytes(len(content[place : place + size]))
        elif what == "cut":
            del content[place:]
        elif what == "insert":
            content[place:place] = data.draw(st.binary(min_size=1, max_size=16))
        else:
            content += content[place : place + 4096]
        most = max(0, len(content) - 1)
    try_case(made[kind], lambda at, _: (at / name).write_bytes(bytes(content)))


@fuzz()
@given(st.data())
def test_listed_damages_two_at_a_time(made, data):
    kind = data.draw(st.sampled_from(KINDS))
    damages = list_damages(made[kind][0])
    chosen = data.draw(st.lists(st.sampled_from(sorted(damages)), min_size=1, max_size=2))

    def damage(at: Path, other: Path) -> None:
        for name in chosen:
            with suppress(Exception):  # what the first one has removed can't be damaged again
                damages[name](at, other)

    try_case(made[kind], damage)
