"""Small real models and batches for the tests of the package model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

from base.batch import Batch, Tokens
from data_loader.collate import lay_out_words
from model.frozen_in_time import FrozenInTime
from model.params import TextParams, VideoParams
from model.space_time_vit import RecomputedValue

VOCABULARY, WIDTH = 50, 32
RES, PATCH, FRAMES = 8, 4, 3
VIDEO = {"input_res": RES, "patch_size": PATCH, "embed_dim": WIDTH, "depth": 2, "num_heads": 4}
SMALL_VIT = {**VIDEO, "mlp_ratio": 2.0, "num_frames": FRAMES, "pretrained": False}
# Token ids of the words that batches are made of.
WORDS = {"one": [2, 7, 3], "two": [2, 8, 3], "long": [2, 9, 10, 3], "longer": [2, 7, 8, 9, 10, 3]}


def write_text_model(folder: Path, kind: str = "distilbert") -> Path:
    """Save a freshly initialised text model, weights and configuration."""
    torch.manual_seed(0)
    if kind == "bert":
        config = BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=WIDTH,
            num_hidden_layers=1,
            num_attention_heads=4,
            intermediate_size=48,
            initializer_range=0.3,
        )
        BertModel(config).save_pretrained(folder)
    else:
        config = DistilBertConfig(
            vocab_size=VOCABULARY,
            dim=WIDTH,
            n_layers=1,
            n_heads=4,
            hidden_dim=48,
            initializer_range=0.3,
        )
        DistilBertModel(config).save_pretrained(folder)
    return folder


def build(text_model: Path, video: dict | None = None, **options) -> FrozenInTime:
    """A small model in evaluation mode, its weights far from zero."""
    torch.manual_seed(1)
    model = FrozenInTime(
        VideoParams(**(SMALL_VIT | (video or {}))),
        TextParams(model=str(text_model), pretrained=False),
        **({"projection_dim": 16} | options),
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return model.eval()


def make_batch(texts: list[list[str]], frames: int = FRAMES, queries: int | None = None) -> Batch:
    """A batch of random videos that show these words."""
    count, rng = len(texts), np.random.default_rng(len(texts))
    tracks = [rng.random((len(words), 12), dtype=np.float32) for words in texts]
    used = {word: WORDS[word] for words in texts for word in words}
    queries = count if queries is None else queries
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, VOCABULARY, (queries, 6), generator=generator)
    return Batch(
        ids=[str(number) for number in range(count)],
        video_index=torch.arange(count),
        query=Tokens(ids, torch.ones_like(ids)),
        query_row=torch.arange(queries),
        video=torch.randn(count, frames, 3, RES, RES, generator=generator),
        words=lay_out_words(used, texts, tracks, pad_id=0),
    )


class SavedBytes(saved_tensors_hooks):
    """Counts what a forward pass keeps for the backward pass, parameters left out.

    The hooks of ``recompute_in_backward`` stand before these: they tell what they keep. Tensors of
    the same memory count once, and ``kept`` has them all.
    """

    def __init__(self, model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
        self.kept: list[torch.Tensor] = []
        self._weights = {find_memory(weight) for weight in model.parameters()}
        pack = RecomputedValue.pack

        def counted(own, tensor):
            kept = pack(own, tensor)
            return self.keep(kept) if isinstance(kept, torch.Tensor) else kept

        monkeypatch.setattr(RecomputedValue, "pack", counted)
        super().__init__(self.keep, lambda kept: kept)

    @property
    def bytes(self) -> int:
        """Size of what is kept."""
        sizes = {find_memory(tensor): tensor.untyped_storage().nbytes() for tensor in self.kept}
        return sum(sizes.values())

    def __enter__(self):
        super().__enter__()
        return self

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        """Count a tensor."""
        if find_memory(tensor) not in self._weights:
            self.kept.append(tensor)
        return tensor


def find_memory(tensor: torch.Tensor) -> int:
    """Return where a tensor's memory begins."""
    return tensor.untyped_storage().data_ptr()
