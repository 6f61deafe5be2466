"""How files and requests of any content are tried: how many, and what is a right end of it."""

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from hypothesis import HealthCheck, settings

from utils.errors import UserError

# The same cases on every machine; TEXTVR_FUZZ_CASES=500 tries fewer.
NUM_CASES = int(os.environ.get("TEXTVR_FUZZ_CASES", 10_000))
MAX_CHARACTERS = 2_000  # of a message
_UNPRINTABLE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def fuzz(num_cases: int = NUM_CASES) -> settings:
    """Settings of a test that tries so many cases, always the same ones."""
    return settings(
        max_examples=min(num_cases, NUM_CASES),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


class TooSlowError(Exception):
    """A case took longer than it may."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise ``TooSlowError`` in the main thread where a ``with`` block takes longer."""

    def give_up(*_: object) -> NoReturn:
        raise TooSlowError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def end_well(call: Callable[[], Any], *named: str, max_characters: int = MAX_CHARACTERS) -> Any:
    """Call what may fail by a ``UserError`` only; returns its value, or the error.

    Args:
        named: what the message of an error has to say, such as the file's name.
    """
    try:
        return call()
    except UserError as error:
        check_message(str(error), *named, max_characters=max_characters)
        return error


def check_message(text: str, *named: str, max_characters: int = MAX_CHARACTERS) -> None:
    """Check that a message is short, can be shown on a terminal, and names what it is about."""
    assert len(text) <= max_characters, f"{len(text)} characters: {text[:200]}"
    assert not _UNPRINTABLE.search(text), ascii(text)
    for name in named:
        assert name in text, f"{name!r} is not in {text!r}"
