"""Embeddings of videos by a trained model, a batch of windows at a time.

Shapes: E width of the common space.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

import data_loader.registrations  # noqa: F401
import model.registrations  # noqa: F401
from base.base_model import ModelInput, RetrievalModel, describe_model_input
from base.batch import Sample
from base.config import Config
from base.registry import ARCHITECTURES, DATASETS
from data_loader.collate import Collate, load_tokenizer
from data_loader.transforms import ClipTransform, DeviceTransform, TransformParams
from retrieval.index.database import NewEntry, NewVideo
from retrieval.index.layout import EMBEDDINGS, WITHOUT
from retrieval.index.query_embedder import QueryEmbedder, normalize_rows, save_query_encoder
from retrieval.index.video_file import ReadingParams, VideoFile, WindowSample
from trainer.build import build_model
from utils.checkpoint.weights import load_weights
from utils.errors import UserError

# Transforms of training alone: embeddings do not depend on them.
_AUGMENTATIONS = {"resize_train", "randcrop_scale", "color_jitter", "color_jitter_p", "grayscale_p"}


class BrokenModelError(UserError):
    """A model whose embeddings are not finite: no video's error."""


@dataclass(frozen=True)
class ModelFile:
    """A checkpoint and the configuration of its model."""

    path: Path  # of the checkpoint
    config: Config  # its model's, and how videos and words are given to it

    @cached_property
    def model_input(self) -> ModelInput:
        """What the model takes."""
        return describe_model_input(self.config.arch)

    @property
    def _loader(self) -> dict[str, Any]:
        return self.config.data_loader[0].kwargs()

    def settings(self) -> dict[str, Any]:
        """Return what embeddings depend on beside the weights, as JSON values by dotted names.

        Of the model, the transforms and the OCR rules only what differs from the defaults. Where
        files are, and what only training uses, is not among it.
        """
        arch, loader, transforms = self.config.arch, self._loader, self._build_transforms()
        found: dict[str, Any] = {"arch": arch.type}
        own = ARCHITECTURES.get(arch.type).inference_settings(**arch.kwargs())
        found |= {f"arch.{name}": value for name, value in own.items()}
        if self.model_input.uses_vision:
            size = {"recipe": transforms.recipe, "input_res": transforms.input_res}
            found |= size | {"num_frames": loader["video_params"].num_frames}
            plain = TransformParams().resolve(**size).model_dump(mode="json")
            found |= {
                f"tsfm_params.{name}": value
                for name, value in transforms.model_dump(mode="json").items()
                if value != plain[name] and name not in _AUGMENTATIONS | size.keys()
            }
        if self.model_input.uses_ocr:
            rules = loader["ocr_params"].model_dump(mode="json", exclude_defaults=True)
            found |= {f"ocr_params.{name}": value for name, value in rules.items()}
        return found

    def reading_params(self, window_s: float, stride_s: float) -> ReadingParams:
        """Return how videos are read for this model: as its first data loader's test does."""
        loader = self._loader
        return ReadingParams(
            window_s=window_s,
            stride_s=stride_s,
            num_frames=loader["video_params"].num_frames,
            transform=ClipTransform(self._build_transforms(), train=False),
            reader=loader["reader"],
            ocr=loader["ocr_params"],
            uses_vision=self.model_input.uses_vision,
            uses_ocr=self.model_input.uses_ocr,
        )

    def _build_transforms(self) -> TransformParams:
        loader = self._loader
        own = loader["tsfm_params"] or TransformParams()
        recipe = DATASETS.get(loader["dataset_name"]).recipe
        size, model = loader["video_params"].input_res, self.model_input
        return own.resolve(recipe, size, model.mean, model.std)

    def load(self, device: torch.device) -> "WindowEncoder":
        """Build the model and read its weights; raises ``UserError``."""
        built = build_model(self.config, device, initial_weights=False)
        load_weights(built, self.path)
        tokenizer = load_tokenizer(self.model_input.tokenizer_name)
        most_tokens = self._loader["text_params"].max_tokens
        collate = Collate(tokenizer, self.model_input.uses_ocr, most_tokens)
        transform = DeviceTransform(self._build_transforms())
        return WindowEncoder(
            built.eval(), collate, transform, device, self.config, self.model_input
        )


@dataclass(frozen=True)
class WindowEncoder:
    """Embeds windows with a model."""

    model: RetrievalModel  # in evaluation mode
    collate: Collate  # windows -> batch
    transform: DeviceTransform  # the device's part of the transforms
    device: torch.device  # where the model is
    config: Config  # the model's
    model_input: ModelInput  # what it takes

    @torch.inference_mode()
    def embed(self, samples: Sequence[Sample]) -> list[dict[str, NDArray]]:
        """Return the embeddings of each window: array name -> (E,) float32 of length 1.

        Raises:
            BrokenModelError: they are not finite.
        """
        batch = self.collate(samples).to(self.device)
        if batch.video is not None:
            batch.video = self.transform(batch.video, None, batch.num_frames)
        embeds = self.model.embed_videos_apart(batch)
        names = {"whole": EMBEDDINGS} | WITHOUT
        if not all(bool(rows.isfinite().all()) for rows in embeds.values()):
            raise BrokenModelError(
                f"{self.config.name}: the model's embeddings are not finite, its weights are "
                "spoilt; use an earlier checkpoint"
            )
        arrays = {
            names[part]: normalize_rows(rows.float().cpu().numpy()) for part, rows in embeds.items()
        }
        return [
            {name: rows[number] for name, rows in arrays.items()} for number in range(len(samples))
        ]

    def parts_left_out(self) -> list[str]:
        """Return which embeddings without a part there are: both for a fusion, else none."""
        return sorted(WITHOUT) if set(WITHOUT) == set(self.model_input.modalities) else []

    def save_query_encoder(self, folder: Path) -> tuple[str, int]:
        """Write what embeds queries; returns its checksum, and E as it is when read again."""
        checksum = save_query_encoder(folder, self.model, self.config, self.collate)
        return checksum, len(QueryEmbedder(folder, checksum).embed("a"))


@dataclass
class EmbeddedVideos:
    """Some of the videos: those that are complete, and path -> why one could not be read."""

    videos: list[NewVideo] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def embed_videos(
    names: Iterable[str],
    open_file: Callable[[str], AbstractContextManager[VideoFile]],
    encoder: WindowEncoder,
    batch_size: int,
) -> Iterator[EmbeddedVideos]:
    """Yield the videos in groups, in order, as they are complete; short ones share a batch.

    Args:
        open_file: opens one by its name; raises ``UserError`` where it can't be read.

    Raises:
        BrokenModelError: no video's error.
    """
    waiting: list[tuple[NewVideo, WindowSample]] = []  # for a whole batch
    unfinished: list[NewVideo] = []  # read, with windows that wait

    def embed_waiting() -> None:
        embeddings = encoder.embed([sample.sample for _, sample in waiting]) if waiting else []
        for (video, sample), arrays in zip(waiting, embeddings, strict=True):
            span = sample.window.start_s, sample.window.end_s
            video.entries.append(NewEntry(*span, arrays, sample.thumbnail))
        waiting.clear()

    for name in names:
        current: NewVideo | None = None
        try:
            with open_file(name) as file:
                current = file.video
                for sample in file.read_samples():
                    waiting.append((current, sample))
                    if len(waiting) == batch_size:
                        embed_waiting()
            unfinished.append(current)
        except BrokenModelError:
            raise
        except UserError as error:
            waiting[:] = [pair for pair in waiting if pair[0] is not current]
            yield EmbeddedVideos(failed={name: str(error)})
        still = {id(video) for video, _ in waiting}
        complete = [video for video in unfinished if id(video) not in still]
        if complete:
            yield EmbeddedVideos(complete)
            unfinished = [video for video in unfinished if id(video) in still]
    embed_waiting()
    if unfinished:
        yield EmbeddedVideos(unfinished)
