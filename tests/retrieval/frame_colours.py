"""A model that embeds frames by their mean colour, and a video that shows one at a known second."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from base.base_model import ModelInput, RetrievalModel
from base.config import resolve_config
from data_loader.collate import load_tokenizer
from data_loader.synthetic.layout import write_video
from parse_config import load_config
from retrieval.index.embedding import ModelFile
from tests.conftest import ROOT, tiny
from utils.checkpoint.files import save_checkpoint
from utils.files import write_json

FPS, NUM_FRAMES, SIZE = 10, 8, (48, 64)
COLOURS = {"red": (255, 0, 0), "cyan": (0, 255, 255), "blue": (0, 0, 255), "white": (255, 255, 255)}


class ColourWords(nn.Module):
    """The mean vector of a text's words."""

    def __init__(self, vocabulary: int, **_: object) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, 3)

    def forward(self, queries) -> Tensor:
        return (self.words(queries.input_ids) * queries.attention_mask[..., None]).mean(1)

    def save_text_config(self, folder) -> None:
        """Nothing is needed beside the tokenizer."""


class FrameColours(RetrievalModel):
    """Embeds frames, and windows as their mean."""

    video_key = "video"
    training_only = frozenset({"tokenizer"})
    embeds_frames = True

    def __init__(self, tokenizer: str, vocabulary: int) -> None:
        super().__init__()
        self.words = ColourWords(vocabulary).words

    @classmethod
    def describe_input(cls, tokenizer: str, vocabulary: int) -> ModelInput:
        grey = (0.5, 0.5, 0.5)
        return ModelInput(("vision",), tokenizer_name=tokenizer, mean=grey, std=grey)

    @classmethod
    def build_query_encoder(cls, text_folder=None, **arguments) -> ColourWords:
        return ColourWords(**arguments)

    def forward(self, batch) -> dict[str, Tensor]:
        raise NotImplementedError

    def embed_videos_apart(self, batch) -> dict[str, Tensor]:
        frames = self.embed_frames(batch)
        counts = torch.as_tensor(batch.num_frames).reshape(-1, 1)
        is_real = torch.arange(frames.shape[1]) < counts
        return {"whole": (frames * is_real[..., None]).sum(1) / counts}

    def embed_frames(self, batch) -> Tensor:
        return batch.video.mean((3, 4))  # (B, F, 3)


def write_colour_model(folder: Path, data: Path) -> ModelFile:
    """Write the checkpoint and its configuration; ``data`` is the demonstration's."""
    tokenizer = load_tokenizer(str(data / "text_model"))
    arch = f'{{"type": "FrameColours", "args": {{"tokenizer": "{data}/text_model", "vocabulary": '
    sets = [f"arch={arch}{len(tokenizer)}}}}}"]
    sets += [change for change in tiny(data) if not change.startswith("arch.")]
    sets += [f"data_loader.args.video_params.num_frames={NUM_FRAMES}"]
    config = load_config(ROOT / "configs/demo/vision.json", sets)
    weights = torch.zeros(len(tokenizer), 3)
    for name, colour in COLOURS.items():
        weights[tokenizer.convert_tokens_to_ids(name)] = torch.tensor(colour) / 127.5 - 1
    assert not weights[tokenizer.unk_token_id].any()  # each is a word of the tokenizer
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", resolve_config(config))
    save_checkpoint(folder / "model.pth", {"state_dict": {"words.weight": weights}})
    return ModelFile(folder / "model.pth", config)


def write_colours(path: Path, *scenes: tuple[str, float]) -> Path:
    """Write a video of one colour after the other, each for so many seconds."""

    def draw() -> Iterator[np.ndarray]:
        for name, seconds in scenes:
            for _ in range(round(seconds * FPS)):
                yield np.full((*SIZE, 3), COLOURS[name], dtype=np.uint8)

    write_video(path, draw(), FPS)
    return path
