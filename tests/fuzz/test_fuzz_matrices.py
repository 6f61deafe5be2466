"""Matrix files of any content are scored as their own values ask, or refused in one message."""

import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.lib import format as npy

from evaluation.similarity_file import check_finite, load_matrix
from tests.fuzz.fuzzing import end_well, fuzz, time_limit
from utils.ranking import compute_t2v_ranks, compute_v2t_ranks

pytestmark = pytest.mark.slow
CASE_S = 10.0
NUM = 6  # captions and videos
DTYPES = [
    *"<f2 <f4 <f8 >f2 >f4 >f8 <i1 <i2 <i4 <i8 >i4 >i8 <u1 <u2 <u4 <u8 >u8".split(),
    np.dtype(np.longdouble).str,
]
OTHERS = "?, <c8, <c16, <U3, S2, |V4, <M8[s], <m8[s], O, [('a', '<f4')], ('<f4', (2,))".split(", ")


@st.composite
def matrices(draw) -> np.ndarray:
    """A matrix of few values, many of which are equal or the nearest neighbours of others."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    if dtype.kind == "f":
        width = min(64, 8 * dtype.itemsize)
        elements = st.one_of(
            st.floats(width=width),
            st.floats(-1, 1, width=width),
            st.sampled_from([0.0, -0.0, 0.5, 1.0, math.inf, -math.inf, math.nan]),
        )
    else:
        info = np.iinfo(dtype)
        elements = st.one_of(
            st.integers(int(info.min), int(info.max)), st.integers(0, 3),
            st.sampled_from([int(info.max), int(info.max) - 1, int(info.min), int(info.min) + 1]),
        )  # fmt: skip
    pool = draw(st.lists(elements, min_size=1, max_size=6))
    with np.errstate(over="ignore"):
        values = np.array(pool, dtype=dtype)
    if dtype.kind == "f":
        values = np.concatenate([values, np.nextafter(values, values.dtype.type(0))])
    chosen = draw(arrays.arrays(np.int8, (NUM, NUM), elements=st.integers(0, len(values) - 1)))
    matrix = values[chosen].astype(dtype)
    return np.asfortranarray(matrix) if draw(st.booleans()) else matrix


def rank_exactly(matrix: np.ndarray) -> list[float]:
    """Ranks of the diagonal, by Python's own comparisons."""
    rows = [
        [value.item() if value.dtype.itemsize <= 8 else value for value in row] for row in matrix
    ]
    return [
        1 + sum(value > row[own] for value in row)
        + sum(value == row[own] for column, value in enumerate(row) if column != own) / 2
        for own, row in enumerate(rows)
    ]  # fmt: skip


@given(matrix=matrices())
@fuzz()
def test_any_values(tmp_path_factory, matrix):
    path = tmp_path_factory.getbasetemp() / "values.npy"
    np.save(path, matrix)
    loaded = end_well(lambda: load_matrix(path), str(path))
    finite = end_well(lambda: check_finite(loaded, path), str(path))
    assert (finite is None) == bool(np.isfinite(matrix).all())
    if finite is None:
        pairs = np.arange(NUM), np.arange(NUM)
        assert compute_t2v_ranks(loaded, *pairs).tolist() == rank_exactly(matrix)
        assert compute_v2t_ranks(loaded, *pairs).tolist() == rank_exactly(matrix.T)


numbers = st.one_of(
    st.integers(-3, 8),
    st.sampled_from([2**31, 2**62, 2**63, 2**64, -(2**63), 10**30]),
    st.sampled_from(["True", "1.5", "None", "'a'", "(2,)", "9" * 5000]),
)
headers = st.builds(
    "{{'descr': {}, 'fortran_order': {}, 'shape': {}, {}}}".format,
    st.sampled_from([repr(name) for name in DTYPES] + [
        other if other[0] in "[(" else repr(other) for other in OTHERS
    ] + ["'<f999999999'", "'V1000000000'", "None", "'x'", "''", "'" + "f" * 10**5 + "'"]),
    st.sampled_from(["False", "True", "0", "None", "'a'"]),
    st.lists(numbers, max_size=4).map(lambda shape: f"({', '.join(map(str, shape))},)"),
    st.sampled_from(["", "", "", "'x': 1", "'shape': (3, 3)", "(" * 150 + ")" * 150]),
)  # fmt: skip
edits = st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=3)), max_size=3)


def build_file(header: str, version: int, padding: bytes) -> bytes:
    text = header.encode("latin1") + b"\n"
    size = len(text).to_bytes(2 if version == 1 else 4, "little", signed=False)
    return npy.MAGIC_PREFIX + bytes([version, 0]) + size + text + padding


@given(
    header=st.one_of(headers, st.text(st.characters(max_codepoint=255), max_size=40)),
    version=st.sampled_from([1, 2, 3]),
    padding=st.sampled_from([b"", b"\0" * 7, b"\0" * 300, b"\xff" * 300]),
    changes=st.one_of(st.just([]), edits),
    as_zip=st.sampled_from([False, False, False, True]),
)
@fuzz()
def test_any_file(tmp_path_factory, header, version, padding, changes, as_zip):
    if version == 1 and len(header) > 60_000:
        version = 2
    content = build_file(header, version, padding)
    if as_zip:
        archive = io.BytesIO()
        np.savez(archive, a=np.zeros((2, 2)))
        content = archive.getvalue()
    for where, own in changes:
        start = round(where * len(content))
        content = content[:start] + own + content[start + len(own) :] if own else content[:start]
    path = tmp_path_factory.getbasetemp() / "any.npy"
    path.write_bytes(content)
    with time_limit(CASE_S):
        loaded = end_well(lambda: load_matrix(path), str(path))
        if isinstance(loaded, np.ndarray):
            end_well(lambda: check_finite(loaded, path), str(path))
