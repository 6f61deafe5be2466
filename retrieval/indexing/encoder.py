"""A trained model that embeds windows of videos.

Shapes: B windows, E width of the common space.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

import data_loader.registrations  # noqa: F401
import model.registrations  # noqa: F401
from base.base_model import RetrievalModel
from base.batch import Sample
from base.config import Config, resolved
from base.registry import DATASETS
from data_loader.collate import Collate
from data_loader.tokenizer import load_tokenizer
from data_loader.transforms import ClipTransform, DeviceTransform, TransformParams
from retrieval.indexing.reading import ReadingParams
from retrieval.query_encoder import QueryEncoder, save_query_encoder, unit
from retrieval.storage.contents import sha256_of
from retrieval.storage.layout import EMBEDDINGS, WITHOUT
from trainer.build import build_model
from utils.checkpoint.weights import load_weights
from utils.errors import UserError


class SpoiltModelError(UserError):
    """A model whose weights are spoilt: no video's fault."""


@dataclass(frozen=True)
class ModelFile:
    """A checkpoint and the configuration of its model.

    Attributes:
        path: of the checkpoint.
        config: its model's, and how videos and words are given to it.
    """

    path: Path
    config: Config

    def identity(self) -> dict[str, str]:
        """Return name, path, sha256 of the file, and sha256 of the settings that matter.

        Raises:
            UserError: the file can't be read.
        """
        try:
            checksum = sha256_of(self.path)
        except OSError as error:
            raise UserError(f"{self.path}: can't be read ({error.strerror})") from error
        settings = json.dumps(self._settings(), sort_keys=True)
        return {
            "name": self.config.name,
            "path": str(self.path.absolute()),
            "sha256": checksum,
            "settings": sha256(settings.encode()).hexdigest(),
        }

    def _settings(self) -> dict[str, Any]:
        """What embeddings depend on beside the weights; where files are is not among it."""
        loader = self._loader()
        names = ("video_params", "tsfm_params", "ocr_params")
        values = {name: loader[name] and loader[name].model_dump(mode="json") for name in names}
        arch = resolved(self.config)["arch"]
        arch["args"]["text_params"] = {}
        return values | {"recipe": DATASETS.get(loader["dataset_name"]).recipe, "arch": arch}

    def _loader(self) -> dict[str, Any]:
        return self.config.data_loader[0].kwargs()

    def reading(self, window_s: float, stride_s: float) -> ReadingParams:
        """Return how videos are read for this model: as its first data loader's test does."""
        loader, video = self._loader(), self._loader()["video_params"]
        modalities = self.config.arch.kwargs()["modalities"]
        return ReadingParams(
            window_s=window_s,
            stride_s=stride_s,
            num_frames=video.num_frames,
            transform=ClipTransform(self._transforms(), train=False),
            reader=loader["reader"],
            ocr=loader["ocr_params"],
            sees="vision" in modalities,
            reads="ocr" in modalities,
        )

    def _transforms(self) -> TransformParams:
        loader = self._loader()
        own = loader["tsfm_params"] or TransformParams()
        recipe = DATASETS.get(loader["dataset_name"]).recipe
        return own.resolved(recipe, loader["video_params"].input_res)

    def load(self, device: torch.device) -> "WindowEncoder":
        """Build the model and read its weights; raises ``UserError``."""
        built = build_model(self.config, device, initial_weights=False)
        load_weights(built, self.path)
        name = self.config.arch.kwargs()["text_params"].model
        reads = "ocr" in self.config.arch.kwargs()["modalities"]
        most = self._loader()["text_params"].max_tokens
        collate = Collate(load_tokenizer(name), reads, most)
        transform = DeviceTransform(self._transforms())
        return WindowEncoder(built.eval(), collate, transform, device, self.config)


@dataclass(frozen=True)
class WindowEncoder:
    """Embeds windows with a model.

    Attributes:
        model: in evaluation mode.
        collate: windows -> batch.
        transform: the device's part of the transforms.
        device: where the model is.
        config: the model's.
    """

    model: RetrievalModel
    collate: Collate
    transform: DeviceTransform
    device: torch.device
    config: Config

    @torch.inference_mode()
    def embed(self, samples: Sequence[Sample]) -> list[dict[str, NDArray]]:
        """Return the embeddings of each window: array name -> (E,) float32 of length 1.

        Raises:
            SpoiltModelError: they are not finite.
        """
        batch = self.collate(samples).to(self.device)
        if batch.video is not None:
            batch.video = self.transform(batch.video, None, batch.num_frames)
        embeds = self.model.embed_videos_apart(batch)
        names = {"whole": EMBEDDINGS} | WITHOUT
        arrays = {names[part]: unit(rows.float().cpu().numpy()) for part, rows in embeds.items()}
        for rows in arrays.values():
            if not bool(torch.from_numpy(rows).isfinite().all()):
                raise SpoiltModelError(
                    f"{self.config.name}: the model's embeddings are not finite, its weights are "
                    "spoilt; use an earlier checkpoint"
                )
        return [
            {name: rows[number] for name, rows in arrays.items()} for number in range(len(samples))
        ]

    def leaves_out(self) -> list[str]:
        """Return which embeddings without a part there are: both for a fusion, else none."""
        modalities = self.config.arch.kwargs()["modalities"]
        return sorted(WITHOUT) if set(WITHOUT) == set(modalities) else []

    def save_queries(self, folder: Path) -> tuple[str, int]:
        """Write what embeds queries; returns its checksum, and E as it is when read again."""
        checksum = save_query_encoder(folder, self.model, self.config, self.collate)
        return checksum, len(QueryEncoder(folder, checksum).embed("a"))
