"""What a pickle may say here: plain values, and records of what is not known, which do nothing."""

from dataclasses import dataclass
from typing import Any


class RefusedError(Exception):
    """A file asks for something that would run code; the text says for what."""


@dataclass(eq=False)
class InertRecord:
    """An object of a class that is not imported: what the file says about it, and no behaviour.

    Attributes:
        class_name: ``module.Class``, as the file has it.
        args: what the class would be given.
        state: what the object would be filled with, mostly a dict of its attributes.
        items: what it would hold, where the class is a kind of list or dict.
    """

    class_name: str
    args: tuple = ()
    state: Any = None
    items: list | dict | None = None


@dataclass(eq=False)
class InertName(InertRecord):
    """A class or function that the file only names."""


# The same modules under the names they had in Python 2.
_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg", "cPickle": "pickle"}
# Classes of builtins that are data. Everything else there acts.
_PLAIN_BUILTINS = frozenset(
    "bool bytearray bytes complex dict float frozenset int list object range set slice str tuple "
    "xrange".split()
)  # fmt: skip
_PLAIN_NAMES = {"copyreg": {"_reconstructor", "__newobj__", "__newobj_ex__"}}
_PLAIN_NAMES |= {"builtins": _PLAIN_BUILTINS, "types": {"SimpleNamespace"}}
# Modules that start programs, reach files, or build calls out of data. Nothing that a checkpoint
# needs is in them, so that a file which as much as names one is refused.
_ACTING = frozenset(
    """
    _ctypes _functools _io _operator _pickle _posixsubprocess _socket _thread ast asyncio atexit
    bdb builtins cloudpickle code codeop commands concurrent copyreg ctypes dill distutils ftplib
    functools gc http imp importlib inspect io itertools joblib linecache marshal mmap
    multiprocessing nt ntpath operator os pdb pickle pip pkgutil platform posix posixpath
    profile pty pydoc requests runpy setuptools shelve shutil signal site smtplib socket
    socketserver subprocess sys tempfile threading timeit trace types urllib webbrowser zipimport
    """.split()
)


def named(module: str, name: str) -> InertName:
    """Return what the file names; nothing is imported.

    Raises:
        RefusedError: the name belongs to a module that acts.
    """
    module = _RENAMED.get(module, module)
    top = module.split(".")[0]
    if top in _ACTING and name not in _PLAIN_NAMES.get(module, ()):
        raise RefusedError(f"wants to use {module}.{name}")
    return InertName(f"{module}.{name}")


def kind_of(value: Any) -> str:
    """Return what a message calls a value: what it names, or its type."""
    return value.class_name if isinstance(value, InertRecord) else type(value).__name__


def printable(text: str, longest: int = 500) -> str:
    """Return one line that is safe to show, of text that a file brings."""
    text = text if len(text) <= longest else text[:longest] + "…"
    return "".join(letter if letter.isprintable() else "?" for letter in text)
