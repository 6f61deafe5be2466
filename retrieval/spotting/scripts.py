"""Scripts of writing by name: the recogniser that reads each, and the letters it may read.

The files are PP-OCR's recognisers in ONNX form as RapidOCR publishes them (its list of models,
``default_models.yaml`` of RapidOCR 3.10); nothing is ever downloaded. PyPI's package rapidocr 3.10
holds one that reads several scripts: where it is installed, its file is used.
"""

import os
import re
import unicodedata
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import platformdirs

from utils.errors import UserError

FOLDER_VARIABLE = "TEXTVR_RECOGNISERS"
_SOURCE = "https://www.modelscope.cn/models/RapidAI/RapidOCR/resolve/v3.10.0/onnx"
_SHARED = "PP-OCRv6_rec_small.onnx"  # Chinese, Japanese, Latin letters with accents
_SHARED_PACKAGE = "rapidocr"
_SIGNS = "€£¥©®™°•·×‘’“”–—…"


class Script(NamedTuple):
    """A script of writing.

    Attributes:
        letters: the first words of its letters' names in Unicode; empty: all that is known is read.
        file: the published recogniser, as part of its address; None: RapidOCR's own.
        is_shared: whether the recogniser in PyPI's package rapidocr reads it, too.
        is_plain: whether full-width forms and typographic quotes become plain ones.
    """

    letters: tuple[str, ...] = ()
    file: str | None = None
    is_shared: bool = False
    is_plain: bool = True

    def may_read(self, character: str) -> bool:
        """Whether a character of a recogniser is read: ASCII, the usual signs, and its letters."""
        if not self.letters:
            return True
        if len(character) != 1:
            return False
        if character.isascii() or character in _SIGNS:
            return True
        return unicodedata.name(character, "").startswith(self.letters)


_EAST_ASIAN = ("CJK ", "FULLWIDTH ", "IDEOGRAPHIC ", "LEFT ", "RIGHT ")  # brackets
_KANA = ("HIRAGANA ", "KATAKANA", "HALFWIDTH KATAKANA")
SCRIPTS = {
    "latin": Script(("LATIN ", "FULLWIDTH ")),
    "latin+accents": Script(
        ("LATIN ", "FULLWIDTH ", "INVERTED "), "PP-OCRv5/rec/latin_PP-OCRv5_rec_mobile.onnx", True
    ),
    "cyrillic": Script(("CYRILLIC ", "NUMERO "), "PP-OCRv5/rec/cyrillic_PP-OCRv5_rec_mobile.onnx"),
    "arabic": Script(("ARABIC",), "PP-OCRv5/rec/arabic_PP-OCRv5_rec_mobile.onnx"),
    "devanagari": Script(("DEVANAGARI ",), "PP-OCRv5/rec/devanagari_PP-OCRv5_rec_mobile.onnx"),
    "greek": Script(("GREEK ",), "PP-OCRv5/rec/el_PP-OCRv5_rec_mobile.onnx"),
    "chinese": Script(is_plain=False),
    "japanese": Script(_EAST_ASIAN + _KANA, "PP-OCRv4/rec/japan_PP-OCRv4_rec_mobile.onnx", True),
    "korean": Script(
        ("HANGUL ", *_EAST_ASIAN), "PP-OCRv5/rec/korean_PP-OCRv5_rec_mobile.onnx"
    ),
}  # fmt: skip
ANY = Script(is_plain=False)  # of a recogniser that is given without a script


def recogniser_folder() -> Path:
    """Return the folder that recognisers of other scripts are looked for in."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder:
        return Path(folder).expanduser()
    return platformdirs.user_data_path("textvr", appauthor=False) / "recognisers"


def find_recogniser(name: str) -> tuple[Path | None, Path | None]:
    """Return a script's recogniser and its keys, if they lie beside it; (None, None): RapidOCR's.

    What lies in ``recogniser_folder`` comes first: the published name or that of another version
    (``cyrillic_PP-OCRv3_rec_mobile.onnx``), of several the highest.

    Raises:
        UserError: there is no such script, or its recogniser is nowhere.
    """
    script = get_script(name)
    if script.file is None:
        return None, None
    folder, file = recogniser_folder(), script.file.rpartition("/")[2]
    found = sorted(folder.glob(f"{file.partition('_')[0]}_PP-OCR*rec*.onnx"))
    if found:
        keys = found[-1].with_suffix(".txt")
        return found[-1], keys if keys.is_file() else None
    if script.is_shared and (path := _find_shared()) is not None:
        return path, None
    hint = f"; or pip install --no-deps {_SHARED_PACKAGE}==3.10.0" if script.is_shared else ""
    raise UserError(
        f"--script {name} needs the recogniser {file}, which is not there: get it from "
        f"{_SOURCE}/{script.file} and put it into {folder} (or the folder that ${FOLDER_VARIABLE} "
        f"names), or give it as --rec_model, and its characters, if they are not in the file, as "
        f"--rec_keys{hint}"
    )


def get_script(name: str) -> Script:
    """Return a script by its name.

    Raises:
        UserError: there is no such script.
    """
    if name not in SCRIPTS:
        raise UserError(f"--script {name}: no such script; give one of: {', '.join(SCRIPTS)}")
    return SCRIPTS[name]


def _find_shared() -> Path | None:
    """Return the recogniser of PyPI's package rapidocr, without importing it."""
    package = find_spec(_SHARED_PACKAGE)
    try:
        version(_SHARED_PACKAGE)
    except PackageNotFoundError:
        return None
    if package is None or package.origin is None:
        return None
    file = Path(package.origin).parent / "models" / _SHARED
    return file if file.is_file() else None


# What keeps its order within a line that is written from the right: words and numbers of Latin
# letters and digits, with the signs between them.
_LEFT_TO_RIGHT = re.compile(r"[A-Za-z0-9]+(?:[ .,:/%+\-@_]*[A-Za-z0-9]+)*%?|.", re.DOTALL)


def order_right_to_left(text: str) -> str:
    """Return a line that was read from the left in the order in which Arabic is written.

    Brackets stay as they are: recognisers were taught what they mean, not how they look.
    """
    return "".join(reversed(_LEFT_TO_RIGHT.findall(text)))
