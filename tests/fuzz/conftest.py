"""What the fuzz tests of annotations and of OCR documents share."""

import logging
from collections.abc import Iterator

import pytest

from data_loader.collate import Collate
from data_loader.tokenizers import load_tokenizer
from tests.data_loader.frozen_folders import TEXT_MODEL


@pytest.fixture(scope="module")
def collate() -> Collate:
    """Makes batches, with words."""
    return Collate(load_tokenizer(TEXT_MODEL), with_words=True)


@pytest.fixture
def _quiet() -> Iterator[None]:
    """Nothing below an error is logged, thousands of times."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)
