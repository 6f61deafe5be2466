"""Changes between two sets of settings: found by name, and listed in a few lines."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ABSENT = object()  # the value of a name that one side does not have
_MAX_VALUE, _MAX_LISTED = 60, 20  # characters, changes


@dataclass(frozen=True)
class Change:
    """A value that differs.

    Attributes:
        name: dotted.
        before, now: JSON values, or ``ABSENT``.
    """

    name: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.name} was {_shorten(self.before)}, is {_shorten(self.now)}"


def find_changes(before: Any, now: Any, name: str = "") -> Iterator[Change]:
    """Yield where two JSON values differ; a name that is not there is as good as null."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in sorted(before.keys() | now.keys()):
            inner = f"{name}.{key}" if name else key
            yield from find_changes(before.get(key, ABSENT), now.get(key, ABSENT), inner)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        if not any(isinstance(value, Mapping) for value in now):
            if before != now:
                yield Change(name, before, now)
            return
        for number, values in enumerate(zip(before, now, strict=True)):
            yield from find_changes(*values, f"{name}.{number}")
    elif before != now and not all(value is None or value is ABSENT for value in (before, now)):
        yield Change(name, before, now)


def list_changes(changes: Sequence[Change], limit: int = _MAX_LISTED) -> list[str]:
    """Return a text for each change, and one for how many more there are."""
    more = [f"{len(changes) - limit} more"] if len(changes) > limit else []
    return [*map(str, changes[:limit]), *more]


def _shorten(value: Any) -> str:
    text = "null" if value is ABSENT else json.dumps(value)
    return text if len(text) <= _MAX_VALUE else text[: _MAX_VALUE - 3] + "…"
