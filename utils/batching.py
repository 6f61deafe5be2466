"""Batches of what several threads ask for at the same time."""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Item, Answer = TypeVar("Item"), TypeVar("Answer")


class Batcher(Generic[Item, Answer]):
    """Answers what threads ask for while another is being answered with one call for all of them.

    For work that takes less time for several items together than for one after the other. Nobody
    waits for others to come: a thread that is alone is answered at once.

    Args:
        compute: items -> their answers; runs in one thread at a time, one of those that ask.
        most: items of a call.
    """

    def __init__(self, compute: Callable[[list[Item]], Sequence[Answer]], most: int) -> None:
        self._compute, self._most = compute, most
        self._lock = threading.Lock()
        self._waiting: deque[_Asked[Item, Answer]] = deque()

    def ask(self, item: Item) -> Answer:
        """Return the answer to an item; may be called by any number of threads.

        What ``compute`` raises is raised to the thread that ran it; those whose items were in the
        same call ask again.
        """
        asked: _Asked[Item, Answer] = _Asked(item)
        self._waiting.append(asked)
        with self._lock:
            if not asked.answer:  # not part of another thread's call
                self._answer_waiting(asked)
        return asked.answer[0]

    def _answer_waiting(self, first: "_Asked[Item, Answer]") -> None:
        batch = [first]
        while self._waiting and len(batch) < self._most:
            asked = self._waiting.popleft()
            if asked is not first and not asked.answer:
                batch.append(asked)
        answers = self._compute([asked.item for asked in batch])
        for asked, answer in zip(batch, answers, strict=True):
            asked.answer.append(answer)


@dataclass(eq=False)
class _Asked(Generic[Item, Answer]):
    item: Item
    answer: list[Answer]  # empty until it is known

    def __init__(self, item: Item) -> None:
        self.item, self.answer = item, []
