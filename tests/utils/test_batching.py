"""Batches of what threads ask for at the same time."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from utils.batching import Batcher


class Squares:
    """Computes squares and notes the batches; the first waits until ``go`` is set."""

    def __init__(self):
        self.go, self.began, self.batches = threading.Event(), threading.Event(), []

    def __call__(self, numbers):
        self.batches.append(list(numbers))
        if len(self.batches) == 1:
            self.began.set()
            assert self.go.wait(30)
        if -1 in numbers:
            raise ValueError("no root")
        return [number * number for number in numbers]


def ask_at_once(squares, most, numbers):
    """Ask for numbers of which all but the first come while that one is computed."""
    batcher = Batcher(squares, most)
    with ThreadPoolExecutor(len(numbers)) as pool:
        results = [pool.submit(batcher.ask, numbers[0])]
        assert squares.began.wait(30)
        results += [pool.submit(batcher.ask, number) for number in numbers[1:]]
        while len(batcher._waiting) < len(numbers) - 1:
            threading.Event().wait(0.01)
        squares.go.set()
        for result in results:
            result.exception(30)
    assert not batcher._waiting
    return results


def test_what_waits_is_answered_by_one_call():
    squares, numbers = Squares(), [3, 1, 4, 1, 5]
    found = ask_at_once(squares, 16, numbers)
    assert [result.result() for result in found] == [9, 1, 16, 1, 25]
    assert squares.batches[0] == [3]
    assert len(squares.batches) == 2 and sorted(squares.batches[1]) == [1, 1, 4, 5]


def test_a_batch_has_an_end():
    squares, numbers = Squares(), [3, 1, 4, 2, 5, 9]
    found = ask_at_once(squares, 2, numbers)
    assert [result.result() for result in found] == [9, 1, 16, 4, 25, 81]
    assert max(map(len, squares.batches)) == 2 and len(squares.batches) == 4


def test_an_error_is_that_of_the_one_who_asked_for_it():
    squares, numbers = Squares(), [3, -1, 4, 2]
    found = ask_at_once(squares, 16, numbers)
    # The error may have come to another whose batch it was in, but only once a call.
    fine = [result.result() for result in found if result.exception() is None]
    assert set(fine) <= {9, 16, 4} and len(fine) >= 1
    failed = [batch for batch in squares.batches if -1 in batch]
    assert sum(result.exception() is not None for result in found) == len(failed)


def test_alone_it_is_answered_at_once():
    assert Batcher(lambda numbers: [-number for number in numbers], 4).ask(3) == -3


def test_many_threads_each_get_their_own():
    batcher = Batcher(lambda numbers: [2 * number for number in numbers], 8)
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(batcher.ask, range(2000))) == list(range(0, 4000, 2))


def test_answers_must_be_as_many():
    with pytest.raises(ValueError, match="argument 2"):
        Batcher(lambda numbers: [], 4).ask(1)
