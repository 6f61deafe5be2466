"""Mutations of JSON values and of the text of their files, for tests of foreign files."""

import codecs
import copy
import json
from typing import Any

from hypothesis import strategies as st

HUGE = [10**9, 10**23, 2**31, 2**63, 10**400, 1e39, 1e308, -1e308, 1e-320, 0.5, -1, -(2**63)]
NOT_FINITE = [float("nan"), float("inf"), float("-inf")]
TEXTS = [
    "", " ", "\t\n", "0", "-1", "1e400", "nan", "inf", "1_0", "९", "07", "9" * 23, "9" * 5000,
    "a\0b", "a\ud83d", "\udce9t\udce9", "\ud83d\ude00", "e\u0301te\u0301", "\u00e9t\u00e9",
    "\u202eabc", "\x1b[31mred", "x" * 300, "é" * 200, "x" * 200_001, "a/" * 3000, ".", "..",
    "../x.mp4", "/etc/passwd", "C:\\x\\a.mp4", "Sports\\a.mp4", "./Sports/a.mp4", "Sports//a.mp4",
    "Sports/./a.mp4", "Sports/a.mp4", "Sports/a.mp4/", "Sports/a.mp4/b", "~", "NA", "null", "a:b",
    "spoken", "read", "影片", "SALE now", "\r", "\u2028", "\ufeff",
]  # fmt: skip
# In the place of a number or text: what json.dumps would not write.
RAW = ["1" * 5000, "-" + "1" * 400 + ".5e9", "1e99999", "[" * 3000 + "]" * 3000, '"\\ud83d"', "-0"]
_MARK = "raw-value-"
_CHANGES = ["of its kind"] * 5 + ["odd", "delete", "rename", "again"]
_WRITINGS = ["as it is"] * 12 + [
    "cut", "flipped", "repeated", "BOM", "UTF-16", "other encoding", "member again", "member again"
]  # fmt: skip

odd_values = st.one_of(
    st.sampled_from([None, True, False, 0, [], {}, [[]], {"": {}}]),
    st.sampled_from(HUGE + NOT_FINITE),
    st.sampled_from(TEXTS),
    st.sampled_from([f"{_MARK}{number}" for number in range(len(RAW))]),
    st.floats(),
    st.integers(),
    st.text(max_size=8),
)


def _list_places(value: Any, path: tuple = ()) -> list[tuple]:
    places = [path]
    if isinstance(value, dict | list):
        members = value.items() if isinstance(value, dict) else enumerate(value)
        for key, member in members:
            places += _list_places(member, (*path, key))
    return places


def _replace(value: Any, path: tuple, draw: Any) -> Any:
    odd = copy.deepcopy(draw(odd_values))  # a later mutation may change it
    if not path:
        return odd
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    key, kind = path[-1], draw(st.sampled_from(_CHANGES))
    if kind == "of its kind" and isinstance(parent[key], str):
        parent[key] = draw(st.sampled_from(TEXTS))
    elif kind == "of its kind" and isinstance(parent[key], int | float):
        parent[key] = draw(st.sampled_from(HUGE + NOT_FINITE))
    elif kind == "delete":
        del parent[key]
    elif kind in ("rename", "again") and isinstance(parent, list):
        parent.insert(key, copy.deepcopy(parent[key]))
    elif kind == "rename":
        parent[draw(st.sampled_from(TEXTS))] = parent.pop(key)
    elif kind == "again":
        parent[draw(st.sampled_from(TEXTS))] = copy.deepcopy(parent[key])
    else:
        parent[key] = odd
    return value


@st.composite
def mutated_values(draw: Any, value: Any, most: int = 3) -> Any:
    """A copy of a JSON value in which up to ``most`` places are others."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.sampled_from([0, *range(1, most + 1)] + [1] * most))):
        value = _replace(value, draw(st.sampled_from(_list_places(value))), draw)
        if not isinstance(value, dict | list):
            break
    return value


def dump(value: Any, ensure_ascii: bool = True) -> bytes:
    """Write a JSON value, odd ones included."""
    text = json.dumps(value, ensure_ascii=ensure_ascii)
    for number, raw in enumerate(RAW):
        text = text.replace(f'"{_MARK}{number}"', raw)
    return text.encode("utf-8", "surrogatepass")


@st.composite
def mutated_bytes(draw: Any, content: bytes) -> bytes:
    """The bytes of a text: mostly as they are, or in another encoding, cut, flipped, repeated."""
    kind = draw(st.sampled_from(_WRITINGS))
    if kind == "cut":
        return content[: draw(st.integers(0, len(content)))]
    if kind == "flipped" and content:
        place = draw(st.integers(0, len(content) - 1))
        return content[:place] + draw(st.binary(max_size=3)) + content[place + 1 :]
    if kind == "repeated":
        start, end = sorted(draw(st.tuples(*[st.integers(0, len(content))] * 2)))
        return content[:end] + content[start:]
    text = content.decode("utf-8", "replace")
    if kind == "BOM":
        return codecs.BOM_UTF8 + content
    if kind == "UTF-16":
        return codecs.BOM_UTF16_LE + text.encode("utf-16-le", "surrogatepass")
    if kind == "other encoding":
        return text.encode(draw(st.sampled_from(["utf-16-be", "cp1252", "utf-32-le"])), "replace")
    if kind == "member again":
        parts = text.split(", ")
        place = draw(st.integers(0, len(parts) - 1))
        return ", ".join([*parts[: place + 1], *parts[place:]]).encode("utf-8", "replace")
    return content
