"""Pictures that are searched with: read within limits, and embedded by the video model of an index.

Shapes: H x W pixels, E width of the common space.
"""

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from base.batch import Sample
from data_loader.readers.image_reader import convert_to_rgb
from data_loader.transforms import ClipTransform
from retrieval.errors import ModelUnavailableError
from retrieval.index.arrays import EMBEDDINGS, WITHOUT
from retrieval.index.embedding import ModelFile, WindowEncoder
from retrieval.index.identity import check_weights, identify_file, identify_model
from retrieval.index.store import IndexStore
from retrieval.index.tower import open_model
from retrieval.search.example import MAX_PICTURE_BYTES
from utils.errors import UserError
from utils.precision import Precision

MAX_PIXELS = 50_000_000  # 150 MB when decoded
MAX_RATIO = 50  # of the longer side to the shorter one, which transforms give a fixed size
# Of Pillow's formats those of photos; others start programs (EPS), or are seldom read by anyone.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP")
_KINDS = "a JPEG, PNG, WebP, AVIF, GIF or BMP"
_TOO_LARGE = f"{{}}: has {{}} pixels; a picture may have {MAX_PIXELS:,}: make it smaller"
_warning_lock = threading.Lock()


class PictureEncoder:
    """Embeds pictures with a video model, as clips of one frame without words.

    May be used by several threads at once; they take turns.

    Args:
        model: of the index.
        encoder: the same model, with its weights.
    """

    def __init__(self, model: ModelFile, encoder: WindowEncoder) -> None:
        self._transform = ClipTransform(model.build_transforms(), train=False)
        self._encoder = encoder
        self._lock = threading.Lock()

    def embed(self, source: Path | bytes, name: str) -> NDArray:
        """Return the embedding of a picture, (E,) float32 of length 1; raises ``UserError``.

        Of a model that fuses frames and words it is the one of the frames without words.
        """
        with self._lock:  # one decoded picture at a time
            picture = torch.from_numpy(read_picture(source, name))  # (H, W, 3)
            frames, _ = self._transform(picture.permute(2, 0, 1)[None], None)
            sample = Sample(name, 0, [], frames=frames, num_frames=1)
            (arrays,) = self._encoder.embed([sample])
        return arrays.get(WITHOUT["ocr"], arrays[EMBEDDINGS])


def load_video_encoder(
    store: IndexStore, meta: dict[str, Any], precision: Precision
) -> tuple[ModelFile, WindowEncoder]:
    """Load the model that the videos of an index were embedded with.

    Args:
        meta: of the index, which has a model: a checkpoint, or a tower by its name.

    Raises:
        ModelUnavailableError: the checkpoint, or the tower, is gone or is another one.
        UserError: the model sees no frames.
    """
    identity = meta["model"]
    with _explain(identity):
        model = open_model(store.open_model_folder(meta), meta)
        uses_vision = model.model_input.uses_vision  # reads a tower's files
    if not uses_vision:
        raise UserError(
            f"the model of this index, {model.name}, reads words and sees no pictures; search "
            "with words, or with a moment of a video"
        )
    with _explain(identity):
        if model.path is not None:
            check_weights(store.location, identity, identify_file(model.path, model.name))
        encoder = WindowEncoder(model, precision)
        if model.path is None:
            check_weights(store.location, identity, identify_model(model, lambda: encoder))
    return model, encoder


@contextmanager
def _explain(identity: dict[str, Any]) -> Iterator[None]:
    """Say of an error what it keeps from working, and the remedy."""
    try:
        yield
    except UserError as error:
        raise ModelUnavailableError(
            f"a picture is embedded by the model of the index, {identity['name']}, which can't be "
            f"loaded: {error}. Put it back, or, where it lies elsewhere now, run index.py VIDEOS "
            "--out INDEX -r MODEL (--model MODEL) once; words and moments of videos need no model"
        ) from error


def read_picture(source: Path | bytes, name: str) -> NDArray:
    """Read a picture, turned as its EXIF data ask; of an animation the first image.

    Args:
        source: a file, or its content.
        name: for messages.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UserError: it can't be read, is no picture, or is too large.
    """
    content = source if isinstance(source, bytes) else _read_file(source, name)
    if len(content) > MAX_PICTURE_BYTES:
        raise UserError(
            f"{name}: has {len(content):,} bytes; a picture may have {MAX_PICTURE_BYTES:,}: make "
            "it smaller"
        )
    if not content:
        raise UserError(f"{name}: is empty (0 bytes); give a picture")
    from PIL import Image, UnidentifiedImageError

    Image.init()
    formats = [kind for kind in FORMATS if kind in Image.OPEN]  # some Pillows are without AVIF
    try:
        # Pillow warns of large pictures; here they are an error.
        with _warning_lock, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=formats)
        with image:
            _check_size(*image.size, name)
            return np.array(convert_to_rgb(image))  # Pillow's own memory is read-only
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UserError(_TOO_LARGE.format(name, "too many")) from error
    except UnidentifiedImageError as error:  # its text is about a buffer
        raise UserError(f"{name}: is no picture; give {_KINDS}") from error
    except UserError:
        raise
    except Exception as error:  # of decoders: the types share no base class
        detail = " ".join(str(error).split())[:200]
        raise UserError(
            f"{name}: can't be read as a picture ({detail}); give {_KINDS} that is whole"
        ) from error


def _read_file(path: Path, name: str) -> bytes:
    try:
        if not path.is_file():
            what = "is no file" if path.exists() else "is missing"
            raise UserError(f"{name}: {what}; give the path of a picture")
        with path.open("rb") as file:
            return file.read(MAX_PICTURE_BYTES + 1)
    except OSError as error:
        raise UserError(f"{name}: can't be read ({error.strerror})") from error


def _check_size(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise UserError(_TOO_LARGE.format(name, f"{width:,} x {height:,}"))
    if max(width, height) > MAX_RATIO * min(width, height):
        raise UserError(
            f"{name}: is {width:,} x {height:,} pixels; the longer side may be {MAX_RATIO} times "
            "the shorter one: cut out a part of it"
        )
