"""Where matched words stand in a line."""

import pytest

from retrieval.web.marks import marks_of


@pytest.mark.parametrize(
    ("text", "word", "marked"),
    [
        ("CASINO ROYALE", "casino", ["CASINO"]),
        ("no casino, no Casino!", "casino", ["casino,", "Casino!"]),
        ("the casinos", "casino", []),
        ("SALE  UP\tTO 60", "sale up to", ["SALE  UP\tTO"]),
        ("up up up", "up up", ["up up"]),
        ("\U0001f600 Straße", "strasse", ["Straße"]),
        ("ＲＥ１６ TGK", "re16", ["ＲＥ１６"]),
        ("", "casino", []),
        ("--- ...", "casino", []),
    ],
)
def test_marks(text, word, marked):
    assert [text[first:end] for first, end in marks_of(text, word)] == marked
