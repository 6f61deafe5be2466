"""Names that a JSON configuration may use, and what each of them builds.

A configuration names a part by ``{"type": NAME, "args": {...}}``. Only names registered here
resolve, so a configuration file can never call anything else.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from utils.errors import UserError

T = TypeVar("T", bound=Callable[..., Any])
Direction = Literal["min", "max"]  # which value of a metric is best


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return ``'; did you mean "x"?'`` for the closest valid name, or the list of valid names."""
    valid = sorted(valid)
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.6)
    if close:
        return f'; did you mean "{close[0]}"?'
    return "; valid: " + ", ".join(valid) if valid else ""


class UnknownNameError(UserError):
    """A name that is not registered; the message gives the nearest one that is."""


@dataclass(frozen=True)
class Entry:
    """What a name builds.

    Attributes:
        target: the class or function that is called with the configuration's arguments.
        provided: names of the parameters that the program supplies (the model's parameters, the
            tokenizer …); a configuration can't set them.
        keys: of a metric, the names of its values, which ``trainer.monitor`` may then give.
        directions: of each key, whether its least or its greatest value is best; None: not known.
    """

    target: Callable[..., Any]
    provided: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    directions: tuple[Direction | None, ...] = ()


@dataclass(frozen=True)
class PublishedName:
    """What a name of published files stands for here.

    Attributes:
        name: the registered one.
        args: arguments of its block that go with it, whatever the file says of them.
        defaults: arguments that go with it where the file does not set them.
        modalities: of the models trained with it, where the name says so.
        note: what the user has to know.
    """

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    modalities: tuple[str, ...] | None = None
    note: str = ""


class Registry:
    """A table from names to classes or functions, for one kind of part.

    Attributes:
        kind: of part, for messages.
        published: names of published files, which the reader of configurations translates.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.published: dict[str, PublishedName] = {}
        self._entries: dict[str, Entry] = {}
        self._refused: dict[str, str] = {}

    def refuse(self, name: str, reason: str) -> None:
        """Give the reason why a name of published files stands for nothing here."""
        self._refused[name] = reason

    def register(
        self,
        name: str,
        provided: tuple[str, ...] = (),
        keys: tuple[str, ...] | Mapping[str, Direction | None] = (),
    ) -> Callable[[T], T]:
        """Return a decorator that registers a class or function under ``name``.

        Args:
            provided: see ``Entry``.
            keys: of a metric, the names of its values; with ``min`` or ``max`` for each where it is
                known which value is best.

        Raises:
            KeyError: the name is taken (an error of the program, not of a configuration).
            ValueError: likewise, a direction is neither ``min`` nor ``max``.
        """
        directions = tuple(keys.values()) if isinstance(keys, Mapping) else (None,) * len(keys)
        if not set(directions) <= {"min", "max", None}:
            raise ValueError(f'{self.kind} {name!r}: best is "min" or "max", not {directions}')

        def add(target: T) -> T:
            if name in self._entries:
                raise KeyError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = Entry(target, provided, tuple(keys), directions)
            return target

        return add

    def entry(self, name: str) -> Entry:
        """Return the entry of ``name``; raises ``UnknownNameError``."""
        if name in self._refused:
            raise UnknownNameError(f'the {self.kind} "{name}" can\'t be had: {self._refused[name]}')
        if name not in self._entries:
            raise UnknownNameError(f'unknown {self.kind} "{name}"' + nearest(name, self._entries))
        return self._entries[name]

    def get(self, name: str) -> Callable[..., Any]:
        """Return what ``name`` stands for; raises ``UnknownNameError``."""
        return self.entry(name).target

    def names(self) -> list[str]:
        """Return the registered names, sorted."""
        return sorted(self._entries)


ARCHITECTURES = Registry("architecture")
VIDEO_ENCODERS = Registry("video encoder")
TEXT_ENCODERS = Registry("text encoder")
TOWERS = Registry("image-text tower")
FUSIONS = Registry("fusion")
DATA_LOADERS = Registry("data loader")
DATASETS = Registry("data set")
VIDEO_READERS = Registry("video reader")
TEXT_SPOTTERS = Registry("text spotter")
OPTIMIZERS = Registry("optimizer")
LR_SCHEDULERS = Registry("learning-rate schedule")
LOSSES = Registry("loss")
METRICS = Registry("metric")
