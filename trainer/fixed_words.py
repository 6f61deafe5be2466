"""The vectors of OCR words in a run that does not train the word encoder."""

import torch

from base.base_model import RetrievalModel
from trainer.loading import Loader
from trainer.text_table import MustStop, TextTable, encode_texts


class FixedWords:
    """One table for each data set, made once for the whole run; none where words are trained.

    Args:
        model: whose word encoder it is.
        device: where the tables are kept, 4 bytes a number: 0.3 GB for 100,000 words of width 768.
    """

    def __init__(self, model: RetrievalModel, device: torch.device) -> None:
        self._model = model
        self._device = device
        self._tables: dict[Loader, TextTable] = {}

    def encode(self, loader: Loader, must_stop: MustStop = lambda: False) -> bool:
        """Encode the words of a data set, unless that is done or they are trained.

        Every process has to call this.

        Args:
            loader: of the data set.
            must_stop: asked before every chunk of words.

        Returns:
            False where some process was told to stop.
        """
        if not self._model.words_are_fixed or loader in self._tables:
            return True
        texts = loader.word_tokens, self._model.encode_words, self._device
        table = encode_texts(*texts, must_stop, f"{loader.name}: OCR words")
        if table is None:
            return False
        self._tables[loader] = table
        return True

    def table(self, loader: Loader) -> TextTable | None:
        """Return the words of a data set, or None: the model encodes them."""
        return self._tables.get(loader)
