"""Checkpoints made to be expensive: small files that ask for all memory or time, by kind and size.

Each kind is a function: size -> the content of a file. What matters is a value of the pickle, its
zip archive, or the header of a safetensors file.
"""

import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable

import torch

from tests.utils.test_hostile_files import EMPTY_ARRAY, legacy, name, text, zipped

MODULUS = 2**61 - 1  # of Python's hashes of numbers: its multiples all have the hash 0


def number(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8b" + struct.pack("<I", len(data)) + data if data else b"K\x00"


def raw(data: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(data)) + data


def memo(index: int, put: bool = False) -> bytes:
    return (b"r" if put else b"j") + struct.pack("<I", index)


def doubled(size: int, pair: bytes = b"\x86") -> bytes:
    return b")" + (b"2" + pair) * size


def doubled_in(size: int, opening: bytes, closing: bytes) -> bytes:
    """Values that hold the one before them twice, by the memo."""
    steps = [b"]" + memo(0, put=True) + b"0"]
    for i in range(size):
        inner = memo(i)
        steps.append(opening + b"(" + inner + inner + closing + memo(i + 1, put=True) + b"0")
    return b"".join(steps) + memo(size)


def doubled_dicts(size: int) -> bytes:
    steps = [b"}" + memo(0, put=True) + b"0"]
    for i in range(size):
        inner = b"K\x00" + memo(i) + b"K\x01" + memo(i)
        steps.append(b"}(" + inner + b"u" + memo(i + 1, put=True) + b"0")
    return b"".join(steps) + memo(size)


def array(shape: bytes, code: str, data: bytes) -> bytes:
    dtype = name("numpy", "dtype") + text(code) + b"\x89\x88\x87R"
    start = EMPTY_ARRAY + name("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"
    return start + b"(K\x01" + shape + dtype + b"\x89" + data + b"tb"


def storage(count: int, key: str = "0", kind: str = "FloatStorage") -> bytes:
    place = b"(" + text("storage") + name("torch", kind) + text(key) + text("cpu")
    return place + number(count) + b"tQ"


def tensor(sizes: list[int], strides: list[int], offset: int = 0, count: int = 4) -> bytes:
    numbers = [b"(" + b"".join(map(number, values)) + b"t" for values in (sizes, strides)]
    start = name("torch._utils", "_rebuild_tensor_v2") + b"(" + storage(count) + number(offset)
    return start + b"".join(numbers) + b"\x89}tR"


def tensor_of_type(dtype: str, count: int) -> bytes:
    start = name("torch._utils", "_rebuild_tensor_v3") + b"("
    start += storage(16, kind="UntypedStorage") + b"K\x00" + number(count) + b"\x85K\x01\x85"
    return start + b"\x89}" + name("torch", dtype) + b"tR"


def many(values: bytes) -> bytes:
    return b"](" + values + b"e"


def keys(numbers) -> bytes:
    return b"}(" + b"".join(number(value) + b"N" for value in numbers) + b"u"


def repeated(first: bytes, each: bytes, size: int) -> bytes:
    """``each`` so many times, which uses ``first`` of the memo (0)."""
    return first + memo(0, put=True) + b"0" + many(each * size)


PATH = name("pathlib", "PurePosixPath") + memo(0) + memo(0) + b"\x86R"
RECORD = name("a.b", "C") + b")\x81"
SCALAR = name("numpy.core.multiarray", "scalar")
# size -> a pickled value, without its beginning and end.
VALUES: dict[str, tuple[Callable[[int], bytes], tuple[int, ...]]] = {
    "tuples that double": (doubled, (20, 60, 99)),
    "tuples that triple": (lambda n: b")" + b"22\x87" * n, (15, 60)),
    "lists that double": (lambda n: doubled_in(n, b"]", b"e"), (20, 60, 99)),
    "dicts that double": (doubled_dicts, (20, 60)),
    "arguments that double": (lambda n: name("a.b", "C") + doubled(n) + b"\x85\x81", (25, 60)),
    "a state that doubles": (lambda n: RECORD + doubled(n) + b"b", (25, 60)),
    "a key that doubles": (lambda n: b"}" + doubled(n) + b"K\x01s", (18, 26, 60)),
    "a set of what doubles": (lambda n: b"\x80\x04(" + doubled(n) + b"\x91", (18, 26)),
    "lists in lists": (lambda n: b"]" * n + b"a" * (n - 1), (99, 2_000, 10**6)),
    "keys in keys": (lambda n: b"})" + b"\x85" * n + b"K\x01s", (90, 2_000, 200_000)),
    "keys of one hash": (lambda n: keys(i * MODULUS for i in range(n)), (8, 5_000, 60_000)),
    "tuples of one hash as keys": (
        lambda n: b"}(" + b"".join(number(i * MODULUS) + b"\x85N" for i in range(n)) + b"u",
        (1_000, 60_000),
    ),
    "a set of one hash": (
        lambda n: b"\x80\x04\x8f(" + b"".join(number(i * MODULUS) for i in range(n)) + b"\x90",
        (60_000,),
    ),
    "a number of many digits": (lambda n: number(10**n), (300, 5_000, 40_000, 500_000)),
    "a range of many digits": (
        lambda n: name("builtins", "range") + number(10**n) + b"\x85R", (300, 5_000)
    ),
    "a slice of many digits": (
        lambda n: name("builtins", "slice") + number(10**n) + b"\x85R", (5_000,)
    ),
    "a text of many letters": (lambda n: text("a" * n), (10**4, 10**7)),
    "a class of many letters": (lambda n: name("a.b", "C" * n), (400, 10**6)),
    "half a surrogate pair": (lambda n: b"X\x03\x00\x00\x00\xed\xa0\x80" * n, (1,)),
    "a text as key": (lambda n: b"}" + text("a\x1b[2J\n" * n) + b"Ns", (10, 10**6)),
    "bytes by number": (
        lambda n: name("builtins", "bytearray") + number(n) + b"\x85R", (3 * 10**8,)
    ),
    "a set of a range": (
        lambda n: name("builtins", "set") + name("builtins", "range") + number(n) + b"\x85R\x85R",
        (10**5, 2 * 10**7, 2**31 - 1),
    ),
    "a list of a range": (
        lambda n: name("collections", "deque") + name("builtins", "range") + number(n)
        + b"\x85R\x85R",
        (10**5, 2 * 10**7, 2**31 - 1),
    ),
    "empty texts by rows": (
        lambda n: array(number(n) + b"K\x00\x86", "U1", b"C\x00"), (10**6, 3 * 10**8)
    ),
    "empty texts by number": (
        lambda n: array(number(n) + b"\x85", "S1",
                        name("builtins", "bytes") + number(n) + b"\x85R"),
        (10**5, 3 * 10**8),
    ),
    "texts of no letters": (lambda n: array(number(n) + b"\x85", "U0", b"C\x00"), (1, 3 * 10**8)),
    "empty rows of numbers": (
        lambda n: array(number(n) + b"K\x00\x86", "f4", b"C\x00"), (10**6, 3 * 10**8)
    ),
    "texts of one letter": (lambda n: array(number(n) + b"\x85", "S1", raw(bytes(n))), (10**7,)),
    "an array of many dimensions": (
        lambda n: array(b"(" + number(2**62) * n + b"t", "f4", b"C\x00"), (64, 10**5)
    ),
    "arrays of the same bytes": (
        lambda n: repeated(raw(bytes(10**6)), array(number(10**6) + b"\x85", "u1", memo(0)), n),
        (1, 5_000),
    ),
    "scalars of the same bytes": (
        lambda n: repeated(
            raw(bytes(10**6)),
            SCALAR + name("numpy", "dtype") + text("S1000000") + b"\x89\x88\x87R" + memo(0)
            + b"\x86R", n
        ),
        (1, 5_000),
    ),
    "paths of the same text": (lambda n: repeated(text("a" * 10**6), PATH, n), (10, 5_000)),
    "the same text": (lambda n: repeated(text("a" * 10**6), memo(0), n), (10, 90_000)),
    "many lists": (lambda n: many(b"]" * n), (10**5, 10**7)),
    "many sets": (lambda n: b"\x80\x04" + many(b"\x8f" * n), (10**5, 3 * 10**6, 10**7)),
    "many records": (lambda n: many(RECORD * n), (10**4, 10**6)),
    "many tensors": (lambda n: many(tensor([1], [1]) * n), (10**3, 3 * 10**5)),
    "many scalars": (
        lambda n: repeated(
            name("numpy", "dtype") + text("f4") + b"\x89\x88\x87R",
            SCALAR + memo(0) + b"C\x04abcd\x86R", n
        ),
        (10**3, 10**6),
    ),
    "a storage of a petabyte": (lambda n: storage(n), (2**20, 2**48)),
    "a number that repeats": (lambda n: tensor([n], [0]), (1, 2**24, 10**9, 2**62)),
    "numbers that repeat": (lambda n: many(tensor([2**24], [0]) * n), (2, 1_000)),
    "the same tensor": (
        lambda n: repeated(tensor([2**24], [0]), memo(0), n), (2, 10_000)
    ),
    "a negative stride": (lambda n: tensor([2], [-n], n), (1, 2**62)),
    "an offset outside": (lambda n: tensor([1], [1], n), (1, 4, 2**63 - 1, -1, 2**80)),
    "sizes that overflow": (lambda n: tensor([n, n], [0, 0]), (2**31, 2**32, 2**62)),
    "sizes with a zero": (lambda n: tensor([0, n, n], [1, 1, 1]), (1, 2**31, 2**62)),
    "many dimensions": (lambda n: tensor([1] * n, [1] * n), (64, 10**5)),
    "sizes that are no numbers": (
        lambda n: name("torch._utils", "_rebuild_tensor_v2") + b"(" + storage(1) + b"NN]\x89}tR",
        (1,),
    ),
    **{
        f"numbers of {dtype}": (lambda n, dtype=dtype: tensor_of_type(dtype, n), (4,))
        for dtype in ("int1", "int2", "int4", "uint1", "uint4", "float4_e2m1fn_x2", "quint4x2",
                      "quint2x4", "qint8", "bits8", "bits1x8", "complex32", "float8_e8m0fnu",
                      "float8_e5m2", "complex64", "no_dtype")
    },
}  # fmt: skip


def hold(value: bytes, where: str) -> bytes:
    """A pickle of a checkpoint that holds a value in one of its places."""
    weight = text("a.w") + tensor([4], [1])
    if where == "state_dict":
        inside = text("state_dict") + b"}(" + weight + text("b.w") + value + b"u"
    else:
        inside = text("state_dict") + b"}(" + weight + b"u" + text(where)
        inside += b"}" + text("a") + value + b"s" if where == "config" else value
    return b"\x80\x04}(" + inside + b"u."


WEIGHTS = {"b\x1b[2J.w": torch.ones(4), "a.w": torch.ones(4)}


def archive(parts: list[tuple[str, bytes]], how: int = zipfile.ZIP_STORED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", how) as file:
        for part, data in parts:
            file.writestr(part, data)
    return target.getvalue()


def good(place: str = "optimizer") -> bytes:
    return archive([("a/data.pkl", hold(b"N", place)), ("a/data/0", bytes(16))])


def overlapping(size: int) -> bytes:
    """Many names for one part: each entry of the directory points to the first."""
    data = archive([("a/data.pkl", b"\x80\x02}."), *((f"a/data/{i}", b"") for i in range(size))])
    return _point_to_first(data)


def _point_to_first(data: bytes) -> bytes:
    changed, at = bytearray(data), 0
    while (at := changed.find(b"PK\1\2", at)) >= 0:
        changed[at + 42 : at + 46] = bytes(4)
        at += 4
    return bytes(changed)


def lying(offset: int, value: int, width: str = "<I") -> bytes:
    """The end of the directory says something impossible."""
    changed = bytearray(good())
    at = changed.rfind(b"PK\5\6") + offset
    changed[at : at + struct.calcsize(width)] = struct.pack(width, value)
    return bytes(changed)


ARCHIVES: dict[str, tuple[Callable[[int], bytes], tuple[int, ...]]] = {
    "parts that overlap": (overlapping, (1, 10_000)),
    "many parts": (lambda n: archive([("a/data.pkl", b"\x80\x02}."),
                                      *((f"a/data/{i}", b"") for i in range(n))]), (10**3, 10**5)),
    "two of one name": (lambda n: archive([("a/data.pkl", b"\x80\x02}.")] * n), (2, 100)),
    "a bomb of zeros": (lambda n: archive([("a/data.pkl", bytes(n))], zipfile.ZIP_DEFLATED),
                        (10**6, 3 * 10**8)),
    "a bomb beside": (lambda n: archive([("a/data.pkl", b"\x80\x02}."), ("a/byteorder", bytes(n))],
                                        zipfile.ZIP_DEFLATED), (3 * 10**8,)),
    "a long byte order": (lambda n: archive([("a/data.pkl", b"\x80\x02}."),
                                             ("a/byteorder", b" " * n)]), (100, 10**8)),
    "a long version": (lambda n: archive([("a/data.pkl", b"\x80\x02}."), ("a/version", b"9" * n)]),
                       (10**6,)),
    "an archive in an archive": (lambda n: archive([("a/data.pkl", zipped(zipped(b"N.")))] * 1),
                                 (1,)),
    "a directory elsewhere": (lambda n: lying(16, n), (0, 2**31, 2**32 - 1)),
    "a directory of another size": (lambda n: lying(12, n), (0, 2**31, 2**32 - 1)),
    "another number of parts": (lambda n: lying(10, n, "<H"), (0, 1, 2**16 - 1)),
    "a comment": (lambda n: good() + b"PK\5\6" * n, (1, 10_000)),
    "names of many letters": (lambda n: archive([("a/data.pkl", b"\x80\x02}."),
                                                 *((f"{i}" * 10_000, b"") for i in range(n))]),
                              (10, 2_000)),
    "control characters": (lambda n: archive([("a\x1b[2J/data.pkl", hold(b"N", "optimizer"))]),
                           (1,)),
}  # fmt: skip


def header(size: int, content: bytes, data: bytes = bytes(16)) -> bytes:
    return struct.pack("<Q", size) + content + data


def tensors(entries: str, data: bytes = bytes(16)) -> bytes:
    content = entries.encode()
    return header(len(content), content, data)


def entry(dtype: str = "F32", shape: str = "[4]", start: int = 0, end: int = 16) -> str:
    return f'{{"dtype": "{dtype}", "shape": {shape}, "data_offsets": [{start}, {end}]}}'


def with_metadata(key: str, value: str) -> bytes:
    return tensors(json.dumps({"__metadata__": {key: value}, "a.w": json.loads(entry())}))


SAFETENSORS: dict[str, tuple[Callable[[int], bytes], tuple[int, ...]]] = {
    "a long header": (lambda n: header(n, b"{}"), (2, 2**30, 2**63, 2**64 - 1)),
    "a header of blanks": (lambda n: tensors(" " * n), (10**6, 9 * 10**7)),
    "a deep header": (lambda n: tensors('{"a": ' + "[" * n), (100, 10**6)),
    "many tensors of nothing": (
        lambda n: tensors("{" + ",".join(f'"a{i}":{entry("F32", "[0]", 0, 0)}' for i in range(n))
                          + "}", b""),
        (10**3, 2 * 10**5, 8 * 10**5),
    ),
    "tensors that overlap": (lambda n: tensors(f'{{"a.w": {entry()}, "b.w": {entry()}}}'), (1,)),
    "two of one name": (lambda n: tensors(f'{{"a.w": {entry()}, "a.w": {entry()}}}'), (1,)),
    "shapes that overflow": (
        lambda n: tensors(f'{{"a.w": {entry("F32", f"[{n}, {n}]")}}}'), (2**31, 2**32, 2**62)
    ),
    "shapes with a zero": (
        lambda n: tensors(f'{{"a.w": {entry("F32", f"[0, {n}, {n}]", 0, 0)}}}', b""),
        (1, 2**31, 2**62),
    ),
    "many dimensions": (
        lambda n: tensors(f'{{"a.w": {entry("F32", str([1] * n), 0, 4)}}}', bytes(4)), (64, 10**5)
    ),
    **{
        f"numbers of {dtype}": (
            lambda n, dtype=dtype: tensors(f'{{"a.w": {entry(dtype, "[16]", 0, n)}}}', bytes(n)),
            (8, 16),
        )
        for dtype in ("F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "F8_E5M2", "C64", "U16", "I4", "X")
    },
    "an epoch of many digits": (lambda n: with_metadata("epoch", "9" * n), (300, 4_000, 40_000)),
    "a name of many letters": (lambda n: tensors(f'{{"{"a" * n}": {entry()}}}'), (10**3, 10**7)),
    "metadata of many letters": (lambda n: with_metadata("arch\\u001b", "a" * n), (10**7,)),
}  # fmt: skip


def flipped(data: bytes, size: int) -> bytes:
    """Bytes of which some, chosen by the size, are others."""
    changed = bytearray(data)
    for i in range(1 + size % 3):
        changed[zlib.crc32(b"%d %d" % (size, i)) % len(changed)] ^= 1 << (size % 8)
    return bytes(changed)


def list_files() -> list[tuple[str, str, bytes]]:
    """Every file: its kind, its suffix, and a function that makes its content."""
    files: list[tuple[str, str, Callable[[], bytes]]] = []
    for kind, (make, sizes) in VALUES.items():
        for size in sizes:
            for where in ("optimizer", "state_dict", "epoch", "config"):

                def content(make=make, size=size, where=where) -> bytes:
                    pickled = hold(make(size), where)
                    return archive([("a/data.pkl", pickled), ("a/data/0", bytes(16))])

                files.append((f"{kind}, {size}, as {where}", ".pth", content))
            files.append(
                (
                    f"{kind}, {size}, legacy",
                    ".pth",
                    lambda make=make, size=size: legacy(hold(make(size), "best")),
                )
            )
    for suffix, kinds in ((".pth", ARCHIVES), (".safetensors", SAFETENSORS)):
        for kind, (make, sizes) in kinds.items():
            files += [
                (f"{kind}, {size}", suffix, lambda make=make, size=size: make(size))
                for size in sizes
            ]
    for size in range(60):
        files.append((f"flipped bytes, {size}", ".pth", lambda size=size: flipped(good(), size)))
    return files  # fmt: skip
