"""Text spotting by RapidOCR: PP-OCR's detector and recogniser on onnxruntime, without network.

The models come inside the package. Its recogniser (PP-OCRv4) knows Chinese and the Latin letters
without accents; other scripts need another recogniser in ONNX form, which the user names.
"""

import os
import unicodedata
from collections.abc import Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from base.registry import TEXT_SPOTTERS
from data_loader.readers.base_reader import load_library
from retrieval.spotting.text_spotter import TextLine, TextSpotter
from utils.errors import UserError
from utils.files import hash_file

SCRIPTS = ("latin", "chinese")
# Without --no-deps it brings opencv-python, which lies over opencv-python-headless and needs libGL.
_INSTALL = (
    "text spotting needs RapidOCR: pip install onnxruntime pyclipper shapely pyyaml six, then "
    "pip install --no-deps rapidocr-onnxruntime==1.4.4"
)
# The recogniser was trained on text that is mostly Chinese and leaves out blanks between words: a
# blank is read where its probability times this is the highest. Of 152 words in 20 pictures of the
# spotting benchmark, 49 are right without it, 130 with 8, 148 with 32, all with 64; no more than
# 32, since that is one font.
_BLANK_GAIN = 32.0
# As keyboards write them: TextVR's models leave out words with characters beyond ASCII.
_PLAIN = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "..."})
_RECOGNISER = "ch_PP-OCRv4_rec_infer.onnx"  # of the package
_SIGNS = "€£¥©®™°•·×‘’“”–—…"


@TEXT_SPOTTERS.register("rapidocr")
class RapidOcrSpotter(TextSpotter):
    """RapidOCR 1.4 in one thread.

    The detector sees the picture shrunk to ``max_side`` and never enlarged, which takes longer and
    finds less, even of letters 8 pixels high; the recogniser sees the lines as large as they are.
    (RapidOCR's own ``limit_side_len`` is not used with ``limit_type=max``: it takes 960, 1500 or
    2000 after the picture's size.) Lines that stand on their head are not turned.

    Args:
        script: "latin": what is no Latin letter, digit or usual sign is never read, and full-width
            forms and typographic quotes become plain ones; "chinese": everything the packaged
            recogniser knows, Latin letters included. None: latin with the packaged recogniser,
            everything that another one knows.
        rec_model: another recogniser, an ONNX file of PP-OCR's form.
        rec_keys: its characters, one a line, where the file itself doesn't list them.
        min_score: lines read with less confidence are left out.
        max_side: of the picture in the detector, pixels.

    Raises:
        UserError: there is no such file.
    """

    def __init__(
        self,
        script: str | None = None,
        rec_model: str | Path | None = None,
        rec_keys: str | Path | None = None,
        min_score: float = 0.5,
        max_side: int = 960,
    ) -> None:
        self._min_score, self._max_side = min_score, max_side
        self._script = script or ("latin" if rec_model is None else "any")
        files = {"rec_model_path": rec_model, "rec_keys_path": rec_keys}
        self._files = {name: str(path) for name, path in files.items() if path is not None}
        for path in self._files.values():
            if not Path(path).is_file():
                raise UserError(f"{path}: no such file; give a recogniser's ONNX file and keys")
        self._cv2: Any = None
        self._engine: Any = None  # RapidOCR's, once it is loaded

    def identity(self) -> dict[str, str]:
        """Return the version, the script and the recogniser's checksums; nothing is imported."""
        package = find_spec("rapidocr_onnxruntime")
        try:
            number = version("rapidocr-onnxruntime")
        except PackageNotFoundError:
            package = None
        if package is None or package.origin is None:
            raise UserError(_INSTALL)
        packaged = Path(package.origin).parent / "models" / _RECOGNISER
        files = {"recogniser": self._files.get("rec_model_path", packaged)}
        if "rec_keys_path" in self._files:
            files["characters"] = self._files["rec_keys_path"]
        hashes = {name: hash_file(Path(path)) for name, path in files.items()}
        return {"engine": "rapidocr", "version": number, "script": self._script} | hashes

    def load(self) -> None:
        """Load the models, once."""
        if self._engine is not None:
            return
        self._cv2, library = load_library(_import_rapidocr, _INSTALL)
        try:
            engine = library.RapidOCR(
                intra_op_num_threads=1,
                inter_op_num_threads=1,
                det_limit_type="max",
                **self._files,
            )
            recogniser = engine.text_rec
            decoder = recogniser.postprocess_op
            weights = _weigh_characters(decoder.character, self._script)
            recogniser.postprocess_op = partial(_decode, decoder, weights)
            recogniser([np.zeros((48, 96, 3), np.uint8)])  # fails where files don't fit together
        except Exception as error:  # onnxruntime's share no base class
            if not self._files:
                raise
            raise UserError(
                f"{', '.join(self._files.values())}: can't be used as a recogniser "
                f"({' '.join(str(error).split())[:200]}); give an ONNX file of PP-OCR's form, and "
                "its characters with --rec_keys where it doesn't list them"
            ) from error
        self._engine = engine

    def spot(self, picture: np.ndarray) -> list[TextLine]:
        """Find and read the lines of text, from the top down."""
        self.load()
        picture = np.ascontiguousarray(picture[..., ::-1])  # RapidOCR wants BGR
        boxes = self._detect(picture)
        if not len(boxes):
            return []
        crops = self._engine.get_crop_img_list(picture, list(boxes))
        readings, _ = self._engine.text_rec(crops)
        lines = []
        for corners, (text, score) in zip(boxes, readings, strict=True):
            text = _normalise_signs(text) if self._script == "latin" else text
            text = " ".join(text.split())
            if text and score >= self._min_score:
                lines.append(TextLine(text, float(score), corners.astype(np.float64)))
        return lines

    def _detect(self, picture: np.ndarray) -> np.ndarray:
        """Return the corners of the lines, (N, 4, 2) float32 in pixels of the picture."""
        cv2, (height, width) = self._cv2, picture.shape[:2]
        scale = min(1.0, self._max_side / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        if scale < 1:
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        boxes, _ = self._engine.auto_text_det(picture)
        if boxes is None:
            return np.zeros((0, 4, 2), np.float32)
        limits = np.array([width, height], np.float32)
        boxes = np.minimum(np.asarray(boxes, np.float32) / np.float32(scale), limits)
        sides = np.linalg.norm(boxes - np.roll(boxes, 1, axis=1), axis=2)  # (N, 4)
        return boxes[sides.min(axis=1) >= 2]  # the recogniser can't take a crop without pixels


def _weigh_characters(characters: Sequence[str], script: str) -> np.ndarray:
    """Return the factors, (C,), of the characters' probabilities; 0: it is never read."""
    weights = np.ones(len(characters), np.float32)
    if script == "latin":
        # The first one stands for no character (CTC's "blank"), and a blank is the last one.
        weights[1:] = [_is_latin(character) for character in characters[1:]]
        weights[characters.index(" ")] = _BLANK_GAIN
    return weights


def _decode(
    decoder: Any, weights: np.ndarray, probabilities: np.ndarray, *_: Any, **__: Any
) -> Sequence[tuple[str, float]]:
    """Return N texts and their mean confidence from (N, T, C) probabilities (CTC, best path)."""
    if probabilities.shape[2] != len(weights):
        raise ValueError(f"{probabilities.shape[2]} classes, but {len(weights)} characters")
    weighted = probabilities * weights  # (N, T, C)
    best, confidence = weighted.argmax(axis=2), weighted.max(axis=2).clip(max=1)
    return decoder.decode(best, confidence, is_remove_duplicate=True)


def _is_latin(character: str) -> bool:
    if len(character) != 1:
        return False
    if character.isascii() or character in _SIGNS:
        return True
    return unicodedata.name(character, "").startswith(("LATIN ", "FULLWIDTH "))


def _normalise_signs(text: str) -> str:
    return unicodedata.normalize("NFKC", text).translate(_PLAIN)


def _import_rapidocr() -> tuple[Any, Any]:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported
    import cv2
    import rapidocr_onnxruntime

    cv2.setNumThreads(1)
    return cv2, rapidocr_onnxruntime
