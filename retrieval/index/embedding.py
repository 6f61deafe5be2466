"""Model of an index: its checkpoint and configuration, and the embeddings of windows by it.

Shapes: E width of the common space.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import data_loader.registrations  # noqa: F401
import model.registrations  # noqa: F401
from base.base_model import ModelInput, describe_model_input
from base.batch import Sample
from base.config import Config, resolve_config
from base.registry import ARCHITECTURES, DATASETS
from data_loader.collate import Collate
from data_loader.transforms import (
    TOWER,
    ClipTransform,
    DeviceTransform,
    ResolvedTransforms,
    TransformParams,
)
from retrieval.index.arrays import EMBEDDINGS, FRAMES, WITHOUT
from retrieval.index.config_paths import make_paths_absolute
from retrieval.index.query_embedder import normalize_rows
from retrieval.index.video_file import ReadingParams
from retrieval.index.window_batches import BrokenModelError
from trainer.build import build_model
from trainer.checkpoint_folder import check_best
from utils.checkpoint.weights import hash_weights, load_weights
from utils.precision import Precision

# Transforms that only training uses: embeddings do not depend on them.
_AUGMENTATIONS = {
    "resize_train", "randcrop_scale", "hflip", "color_jitter", "color_jitter_p", "grayscale_p"
}  # fmt: skip


@dataclass(frozen=True)
class ModelFile:
    """A checkpoint and its configuration: the model, and how videos and words are given to it.

    ``path`` is None where the weights are those that the model starts from.
    """

    path: Path | None
    config: Config
    is_kept: ClassVar[bool] = False  # whether the index, not its user, names a model without path

    @property
    def name(self) -> str:
        """What the model is called in messages."""
        return self.config.name

    def list_files(self) -> list[Path]:
        """Return the files and folders that the weights are read from, as far as they are known."""
        return [] if self.path is None else [self.path]

    def resolve_config(self) -> dict[str, Any]:
        """Return the configuration as an index keeps it, which holds from any current folder."""
        tokenizers = self.model_input.tokenizer_name, self.model_input.word_tokenizer_name
        return make_paths_absolute(resolve_config(self.config), tokenizers)

    @cached_property
    def model_input(self) -> ModelInput:
        """Modalities and tokenizer of the model, and the statistics of its frames."""
        return describe_model_input(self.config.arch)

    @property
    def loader(self) -> dict[str, Any]:
        """Arguments of the first data loader: videos are read as in its test."""
        return self.config.data_loader[0].kwargs()

    def settings(self) -> dict[str, Any]:
        """Return what embeddings depend on beside the weights, as JSON values by dotted names.

        Of the model, the transforms and the OCR rules only what differs from the defaults, without
        paths of files and what only training uses.
        """
        arch, loader, transforms = self.config.arch, self.loader, self.build_transforms()
        of_arch = ARCHITECTURES.get(arch.type).inference_settings(**arch.kwargs())
        found = {"arch": arch.type} | {f"arch.{name}": value for name, value in of_arch.items()}
        if self.model_input.uses_vision:
            size = {"recipe": transforms.recipe, "input_res": transforms.input_res}
            found |= size | {"num_frames": loader["video_params"].num_frames}
            # What differs from these of a model's own frames says how they are made.
            recipe = "textvr" if transforms.recipe == TOWER else transforms.recipe
            plain = TransformParams().resolve(recipe, transforms.input_res).model_dump(mode="json")
            found |= {
                f"tsfm_params.{name}": value
                for name, value in transforms.model_dump(mode="json").items()
                if value != plain[name] and name not in _AUGMENTATIONS | size.keys()
            }
        if self.model_input.uses_ocr:
            rules = loader["ocr_params"].rules(exclude_defaults=True)
            found |= {f"ocr_params.{name}": value for name, value in rules.items()}
        return found

    def reading_params(self, window_s: float, stride_s: float) -> ReadingParams:
        """Return how videos are read for this model."""
        loader = self.loader
        return ReadingParams(
            window_s=window_s,
            stride_s=stride_s,
            num_frames=loader["video_params"].num_frames,
            transform=ClipTransform(self.build_transforms(), train=False),
            reader=loader["reader"],
            ocr=loader["ocr_params"],
            uses_vision=self.model_input.uses_vision,
            uses_ocr=self.model_input.uses_ocr,
        )

    def build_transforms(self) -> ResolvedTransforms:
        """Return the transforms of frames, as the model takes them."""
        loader = self.loader
        params = loader["tsfm_params"] or TransformParams()
        recipe = DATASETS.get(loader["dataset_name"]).get_recipe(loader.get("cut"))
        return params.resolve(recipe, loader["video_params"].input_res, self.model_input)


class WindowEncoder:
    """Embeds windows with a model, whose weights are read; raises ``UserError``."""

    def __init__(self, file: ModelFile, precision: Precision) -> None:
        self._name, self.precision = file.name, precision
        starts = file.path is None
        self.model = build_model(file.config, precision.device, initial_weights=starts).eval()
        if file.path is not None:
            check_best(file.path)
            load_weights(self.model, file.path)
        self.model.merge_adapters()
        self.collate = Collate.for_model(file.model_input, file.loader["text_params"].max_tokens)
        self._transform = DeviceTransform(file.build_transforms())

    @cached_property
    def weights_checksum(self) -> str:
        """SHA-256 of the model's weights."""
        return hash_weights(self.model.state_dict())

    @torch.inference_mode()
    def embed(self, samples: Sequence[Sample], frames: bool = False) -> list[dict[str, NDArray]]:
        """Return the embeddings of each window: array name -> (E,) float32 of length 1.

        Args:
            frames: also return ``FRAMES``, those of each of its F frames: (F, E) float16.

        Raises:
            BrokenModelError: they are not finite.
        """
        batch = self.collate(samples).to(self.precision.device)
        if batch.video is not None:
            batch.video = self._transform(batch.video, None, batch.num_frames)
        with self.precision.set_tf32(), self.precision.autocast():
            if frames:
                embeds, of_frames = self.model.embed_videos_and_frames(batch)
            else:
                embeds, of_frames = self.model.embed_videos_apart(batch), None
        names = {"whole": EMBEDDINGS} | WITHOUT
        arrays = {names[part]: self._normalize(rows) for part, rows in embeds.items()}
        found = [{name: rows[i] for name, rows in arrays.items()} for i in range(len(samples))]
        if of_frames is not None:
            # What stands behind the frames of a shorter clip is padding.
            counts = [sample.num_frames for sample in samples]
            real = [rows[:count] for rows, count in zip(of_frames, counts, strict=True)]
            halves = self._normalize(torch.cat(real)).astype(np.float16)
            for window, rows in zip(found, np.split(halves, np.cumsum(counts)[:-1]), strict=True):
                window[FRAMES] = rows
        return found

    def _normalize(self, embeds: Tensor) -> NDArray:
        """(N, E) -> (N, E) float32 of length 1; raises ``BrokenModelError``."""
        if not bool(embeds.isfinite().all()):
            raise BrokenModelError(
                f"{self._name}: the model's embeddings are not finite, its weights are "
                f"damaged; use an earlier checkpoint{self.precision.explain_overflow()}"
            )
        return normalize_rows(embeds.float().cpu().numpy())
