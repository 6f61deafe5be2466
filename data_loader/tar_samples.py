"""Samples of webdataset tars, of any origin: members that share a name up to its first dot.

Nothing in a tar is executed or takes a path of its own: members are plain files of known kinds and
bounded size, and what they are called is checked. Compressed tars are not read.
"""

import tarfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from data_loader.datasets.annotations import find_name_problem
from data_loader.readers.container import VIDEO_EXTENSIONS
from utils.errors import UserError
from utils.optional import import_optional
from utils.remote_files import is_url

MAX_HEADER, MAX_TEXT, MAX_ARRAY, MAX_VIDEO = 1 << 20, 16 << 20, 1 << 30, 2 << 30  # bytes
_LIMITS = {".json": MAX_TEXT, ".txt": MAX_TEXT, ".npy": MAX_ARRAY, ".jpg": MAX_TEXT}
_LIMITS |= dict.fromkeys(VIDEO_EXTENSIONS, MAX_VIDEO)


@dataclass
class TarSample:
    """One sample of a tar.

    Attributes:
        tar: file or URL.
        key: what its members share; a path that stays within a folder.
        fields: content by the rest of the name, in lower case, such as ``json`` or ``ocr.json``.
        problem: why it can't be used; None: nothing is known to be wrong.
    """

    tar: str
    key: str
    fields: dict[str, bytes] = field(default_factory=dict)
    problem: str | None = None


class TarReadError(UserError):
    """A tar that can't be read on; the message names it."""


class _BoundedTarInfo(tarfile.TarInfo):
    """Refuses headers larger than any name, which tarfile would read into memory."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        info = super().frombuf(buf, encoding, errors)
        if not info.isreg() and info.size > MAX_HEADER:
            raise tarfile.ReadError(f"a header of {info.size:,} bytes")
        return info


def expand_tars(names: Sequence[str]) -> list[str]:
    """Return the files and URLs that names stand for, in which ``{000..012}`` counts."""
    if not any("{" in name for name in names):
        return list(names)
    expand = import_optional("braceexpand", "a list of tars in braces").braceexpand
    return [tar for name in names for tar in expand(name)]


def read_tar_samples(tar: str) -> Iterator[TarSample]:
    """Yield the samples of a tar, a file or URL, in its order.

    Members of other kinds are left out. A sample that breaks a bound has a ``problem``.

    Raises:
        TarReadError: it can't be opened, is damaged or cut short; what came before is whole.
    """
    try:
        with (
            _open_tar(tar) as file,
            closing(tarfile.open(fileobj=file, mode="r|", tarinfo=_BoundedTarInfo)) as archive,
        ):
            yield from _group_members(tar, archive)
    except UserError:
        raise
    except (GeneratorExit, KeyboardInterrupt):
        raise
    except Exception as error:  # of tarfile, of the file system at a URL
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise TarReadError(f"{tar}: can't be read on ({reason}); bring the tar again") from error


def _open_tar(tar: str) -> AbstractContextManager[BinaryIO]:
    if not is_url(tar):
        return Path(tar).expanduser().open("rb")
    return import_optional("fsspec", "a tar at a URL").open(tar, "rb")


def _group_members(tar: str, archive: tarfile.TarFile) -> Iterator[TarSample]:
    sample: TarSample | None = None
    for member in archive:
        archive.members = []  # which tarfile would keep for ever
        folder, slash, name = member.name.rpartition("/")
        stem, _, kind = name.partition(".")
        kind = kind.lower()
        limit = _LIMITS.get("." + kind.rpartition(".")[2])
        if not member.isreg() or limit is None or not stem:
            continue
        key = folder + slash + stem
        if sample is None or key != sample.key:
            if sample is not None:
                yield sample
            sample = TarSample(tar, key, problem=find_name_problem(key))
        if member.size > limit:
            sample.problem = f"its {kind} has {member.size:,} bytes, at most {limit:,} are read"
        elif kind in sample.fields:
            sample.problem = f"holds {kind} twice"
        if sample.problem is None:
            sample.fields[kind] = _read_member(archive, member)
        else:
            sample.fields = {}
    if sample is not None:
        yield sample


def _read_member(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = archive.extractfile(member).read()
    if len(content) != member.size:
        raise tarfile.ReadError("unexpected end of data")
    return content
