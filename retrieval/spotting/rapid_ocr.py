"""Text spotting by RapidOCR: PP-OCR's detector and recogniser on onnxruntime, without network.

The models come inside the package. Its recogniser (PP-OCRv4) knows Chinese and the Latin letters
without accents; other scripts need another recogniser (``retrieval.spotting.scripts``).
"""

import os
import re
import unicodedata
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from base.registry import TEXT_SPOTTERS
from data_loader.readers.base_reader import load_library
from retrieval.spotting.ctc import CtcDecoder, Reading, drop_icons
from retrieval.spotting.foreign_text import ForeignText, Noticed
from retrieval.spotting.scripts import ANY, Script, find_recogniser, get_script, order_right_to_left
from retrieval.spotting.text_spotter import TextLine, TextSpotter
from utils.errors import UserError
from utils.files import hash_file

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
# A score: between digits the recogniser takes a lone zero for the letter.
_SCORE = re.compile(r"(?<![^\W_])[O\d]{1,3} ?[:-] ?[O\d]{1,3}(?![^\W_])")
_WIDE = (
    3.0  # times its height: what can't be read and is less wide may be no text (a ball, a wheel)
)
_RECOGNISER = "ch_PP-OCRv4_rec_infer.onnx"  # of the package
# Longer side of the picture in the detector: a share of the frame's, at least and at most so many
# pixels; the last is the most for frames above _LARGE. Letters 9 to 16 pixels high in 1080p are
# found to 19 % at 960, to 61 % at 1280, 71 % at 1440 and 90 % at 1600, what 1280 x 720 has of weak
# contrast to 30 % at 960 and 48 % at 1120; at 1280 it is 53 %, but what is smeared or seen from
# the side is found less. Enlarged, small pictures take longer and are not read better, letters of
# bitmap fonts 5 to 7 pixels high worse (BENCHMARKS.md).
_SHARE, _MIN_SIDE, _MAX_SIDE, _LARGE, _MAX_LARGE_SIDE = 0.875, 960, 1600, 2560, 1920


@TEXT_SPOTTERS.register("rapidocr")
class RapidOcrSpotter(TextSpotter):
    """RapidOCR 1.4 in one thread.

    The detector sees the picture no larger than it is, and shrunk to ``max_side``; the recogniser
    sees the lines as large as they are. (RapidOCR's own ``limit_side_len`` is not used with
    ``limit_type=max``: it takes 960, 1500 or 2000 after the picture's size.) Lines that stand on
    their head are not turned.

    Args:
        script: a name of ``retrieval.spotting.scripts.SCRIPTS``. What is no letter of it, Latin
            letter, digit or usual sign is never read. None: latin with the packaged recogniser,
            everything that another one knows.
        rec_model: another recogniser, an ONNX file of PP-OCR's form; None: the script's own.
        rec_keys: its characters, one a line, where the file itself doesn't list them.
        min_score: lines read with less confidence are left out.
        max_side: of the picture in the detector, pixels; None: chosen by the picture.

    Raises:
        UserError: there is no such file or script, or the script's recogniser is nowhere.
    """

    def __init__(
        self,
        script: str | None = None,
        rec_model: str | Path | None = None,
        rec_keys: str | Path | None = None,
        min_score: float = 0.5,
        max_side: int | None = None,
    ) -> None:
        self._min_score, self._max_side = min_score, max_side
        self._name = script or ("latin" if rec_model is None else "any")
        self._script: Script = ANY if self._name == "any" else get_script(self._name)
        if rec_model is None:
            rec_model, found_keys = find_recogniser(self._name)
            rec_keys = found_keys if rec_keys is None else rec_keys
        files = {"rec_model_path": rec_model, "rec_keys_path": rec_keys}
        self._files = {name: str(path) for name, path in files.items() if path is not None}
        for path in self._files.values():
            if not Path(path).is_file():
                raise UserError(f"{path}: no such file; give a recogniser's ONNX file and keys")
        # Only the packaged recogniser's look-alikes are known.
        is_judged = self._name == "latin" and not self._files
        self._foreign = ForeignText() if is_judged else None
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
        return {"engine": "rapidocr", "version": number, "script": self._name} | hashes

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
            characters = recogniser.postprocess_op.character
            gain = _BLANK_GAIN if self._name == "latin" else 1.0
            weights = weigh_characters(characters, self._script, gain)
            recogniser.postprocess_op = CtcDecoder(characters, weights)
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
        boxes, self.noticed = self._detect(picture), None
        if not len(boxes):
            return []
        crops = self._engine.get_crop_img_list(picture, list(boxes))
        readings: list[Reading] = [drop_icons(x) for x in self._engine.text_rec(crops)[0]]
        sure = [number for number, reading in enumerate(readings) if self._is_seen(reading)]
        if self._foreign is not None:
            unread = sorted(set(range(len(readings))) - set(sure))
            num_unread = _count_wide(np.asarray(boxes)[unread])
            is_own, self.noticed = self._foreign.sort_out(
                [readings[number] for number in sure], num_unread
            )
            sure = [number for number, own in zip(sure, is_own, strict=True) if own]
        lines = []
        for number in sure:
            text = " ".join(self._clean(readings[number].text).split())
            if any(
                map(str.isalnum, text)
            ):  # nobody can search for a sign, and a ball is read as "?"
                corners = boxes[number].astype(np.float64)
                lines.append(TextLine(text, readings[number].score, corners))
        return lines

    def _is_seen(self, reading: Reading) -> bool:
        return reading.score >= self._min_score or bool(self._foreign and reading.unmasked)

    def _clean(self, text: str) -> str:
        if self._name == "arabic":
            text = order_right_to_left(text)
        return _normalise_signs(text) if self._script.is_plain else text

    def reset(self) -> None:
        """Forget what was left out of the last video."""
        if self._foreign is not None:
            self._foreign = ForeignText()

    def restore(self, noticed: Any) -> None:
        """Take in what ``noticed`` was of another picture of the video."""
        if self._foreign is not None:
            self._foreign.add(Noticed(*noticed))

    def confirm(self, text: str) -> bool:
        """Whether a line of the video is no look-alike of another script."""
        return self._foreign is None or self._foreign.confirm(text)

    def describe_unread(self) -> str | None:
        """Return which text was left out since ``reset``, and what reads it."""
        return None if self._foreign is None else self._foreign.describe()

    def _detect(self, picture: np.ndarray) -> np.ndarray:
        """Return the corners of the lines, (N, 4, 2) float32 in pixels of the picture."""
        cv2, (height, width) = self._cv2, picture.shape[:2]
        scale = min(1.0, (self._max_side or choose_side(picture)) / max(height, width))
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


def choose_side(picture: np.ndarray) -> int:
    """Return the longer side, in pixels, at which the detector sees a picture (H, W, 3) at most."""
    side = max(picture.shape[:2])
    if side > _LARGE:
        return _MAX_LARGE_SIDE
    return max(_MIN_SIDE, min(round(_SHARE * side), _MAX_SIDE))


def weigh_characters(characters: Sequence[str], script: Script, blank_gain: float) -> np.ndarray:
    """Return the factors, (C,), of the characters' probabilities; 0: it is never read."""
    weights = np.ones(len(characters), np.float32)
    # The first one stands for no character (CTC's "blank").
    weights[1:] = [script.may_read(character) for character in characters[1:]]
    if script.letters:
        weights[characters.index(" ")] = blank_gain
    return weights


def _normalise_signs(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).translate(_PLAIN)
    return _SCORE.sub(lambda found: found.group().replace("O", "0"), text)


def _count_wide(boxes: np.ndarray) -> int:
    """Return how many quadrangles (N, 4, 2) are as wide as words are."""
    widths, heights = (
        np.linalg.norm(boxes[:, second] - boxes[:, first], axis=1)
        for first, second in ((0, 1), (0, 3))
    )
    return int(np.count_nonzero(widths >= _WIDE * heights))


def _import_rapidocr() -> tuple[Any, Any]:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when onnxruntime is imported
    import cv2
    import rapidocr_onnxruntime

    cv2.setNumThreads(1)
    return cv2, rapidocr_onnxruntime
