"""Published configuration files: old names, and the mode that they leave to their code.

A file of the published TextVR does not say whether its model is given frames, words or both: that
is a constant of that code (``params.py``, "fusion" as published). A file of Frozen in Time does not
say it, for there are frames only. Here a key of the architecture says it; where a file has no such
key its data sets do, or the file is refused.
"""

import re
from collections.abc import Sequence
from typing import Any

from base.registry import (
    ARCHITECTURES,
    DATASETS,
    VIDEO_READERS,
    PublishedName,
    Registry,
    UnknownNameError,
)
from parsing.problems import Path, Problem, format_value, join_path

BOTH = ("vision", "ocr")
# Words of a published file's name, the first that it has says the mode.
_MODES = {"fusion": BOTH, "vision": ("vision",), "ocr": ("ocr",)}
_NAMED: dict[str, Registry] = {"dataset_name": DATASETS, "reader": VIDEO_READERS}
_OCR_KEYS = ("ocr_dir", "ocr_params")


def translate_published_file(
    data: dict[str, Any], loader_paths: Sequence[Path]
) -> tuple[list[str], list[Problem]]:
    """Put registered names for published ones, and the modalities where the file has none.

    Args:
        data: the file's values with all changes, not checked yet; changed in place.
        loader_paths: where its data loaders stand.

    Returns:
        Notes on what was chosen, and the problems.
    """
    notes: list[str] = []
    loaders = []
    for path in loader_paths:
        block: Any = data
        for key in path:
            block = block[key]
        args = block.get("args") if isinstance(block, dict) else None
        if isinstance(args, dict):
            names = _translate_names(args, (*path, "args"), notes)
            loaders.append((args, names.get("dataset_name"), path))
    problems = _choose_modalities(data, loaders, notes)
    return notes, problems


def _translate_names(
    args: dict[str, Any], path: Path, notes: list[str]
) -> dict[str, tuple[str, PublishedName]]:
    """Translate the names in a loader's arguments; returns key -> the old name and its meaning."""
    found = {}
    for key, registry in _NAMED.items():
        old = args.get(key)
        meaning = registry.published.get(old) if isinstance(old, str) else None
        if meaning is None:
            continue
        found[key] = old, meaning
        args |= {key: meaning.name} | meaning.args
        for name, value in meaning.defaults.items():
            if args.get(name) is None:
                args[name] = value
            elif isinstance(value, dict) and isinstance(args[name], dict):
                args[name] = value | args[name]
        others = meaning.args | meaning.defaults
        settings = "".join(f", {name} {format_value(value)}" for name, value in others.items())
        note = f"; {meaning.note}" if meaning.note else ""
        notes.append(f'{join_path((*path, key))}: "{old}" is {meaning.name}{settings}{note}')
    return found


def _choose_modalities(
    data: dict[str, Any],
    loaders: Sequence[tuple[dict[str, Any], tuple[str, PublishedName] | None, Path]],
    notes: list[str],
) -> list[Problem]:
    """Set the modalities of an architecture that a file leaves open; returns the problems."""
    arch = data.get("arch")
    args = arch.get("args", {}) if isinstance(arch, dict) else None
    try:
        key = ARCHITECTURES.entry(arch["type"]).target.modalities_argument
    except (TypeError, KeyError, AttributeError, UnknownNameError):
        return []  # wrong otherwise, or an architecture without such a key
    if key is None or not isinstance(args, dict) or key in args:
        return []
    place = ("arch", "args", key)
    found: dict[tuple[str, ...] | None, str] = {}
    for loader, published, path in loaders:
        name = loader.get("dataset_name")
        if not isinstance(name, str) or name not in DATASETS.names():
            return []  # said elsewhere
        modalities, reason = _find_modalities(loader, published, str(data.get("name", "")), path)
        found.setdefault(modalities, reason)
    if not found:
        return []
    if None in found or len(found) > 1:
        said = "; ".join(
            reason if modalities is None else f"{' and '.join(modalities)}, because {reason}"
            for modalities, reason in found.items()
        )
        remedy = 'set it to ["vision"], ["ocr"] or ["vision", "ocr"]'
        return [(place, f"missing, and the data does not say it ({said}); {remedy}")]
    [(modalities, reason)] = found.items()
    arch["args"] = args | {key: list(modalities)}
    notes.append(f"{join_path(place)}: {' and '.join(modalities)}, because {reason}")
    return []


def _find_modalities(
    args: dict[str, Any], published: tuple[str, PublishedName] | None, file_name: str, path: Path
) -> tuple[tuple[str, ...] | None, str]:
    """Return what a loader's data set is read for, None where that is not known, and the reason."""
    name, cut = args["dataset_name"], args.get("cut")
    if published is not None:
        old, meaning = published
        if meaning.modalities is not None:
            return meaning.modalities, f'the published class of "{old}" reads no text'
        words = re.split("[^a-z]+", file_name.lower())
        for word, modalities in _MODES.items():
            if word in words:
                return modalities, f'the published file is called "{file_name}"'
        return BOTH, f'"{old}" has OCR documents and the published code is set to "fusion"'
    for key in _OCR_KEYS:
        if args.get(key) is not None:
            return BOTH, f"{join_path((*path, 'args', key))} is set"
    get_form = getattr(DATASETS.get(name), "get_form", None)
    form = get_form(cut if isinstance(cut, str) else None) if get_form else None
    if form is None:
        return None, f"{name} has no published form"
    which = f"{name} (cut {cut})" if isinstance(cut, str) else name
    return form.modalities, f"{which} is {form.origin}"
