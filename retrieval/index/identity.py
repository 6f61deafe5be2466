"""Identity of the model of an index: its weights, and the settings that its embeddings depend on.

Kept in the index as ``format``, ``name``, ``path``, ``sha256`` (of the checkpoint file, which shows
at once that nothing has changed), ``weights`` (SHA-256 of the tensors, so that a checkpoint without
its optimizer is the same model) and ``settings``: those that differ from their defaults, so that a
release with further options changes nothing. Of a tower that is used as it is, ``name`` is what
finds it, and there is no ``path`` and no ``sha256``. Format 1, of former releases, had a checksum
of the whole resolved configuration as ``settings`` and no ``weights``.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.errors import OtherModelError
from retrieval.index.layout import CONFIG
from retrieval.index.store import IndexStore
from utils.errors import UserError
from utils.files import hash_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from retrieval.index.embedding import ModelFile, WindowEncoder

FORMAT = 2


def identify_file(path: Path, name: str) -> dict[str, Any]:
    """Return ``name``, ``path`` and ``sha256`` of a checkpoint; raises ``UserError``."""
    try:
        checksum = hash_file(path)
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from error
    return {"name": name, "path": str(path.absolute()), "sha256": checksum}


def identify_model(
    model: "ModelFile", load_encoder: "Callable[[], WindowEncoder]"
) -> dict[str, Any]:
    """Return the complete identity of a model; raises ``UserError``.

    Args:
        load_encoder: loads it, which is needed where its weights are in no file of ours.
    """
    if model.path is None:
        found = {"name": model.name, "weights": load_encoder().weights_checksum}
    else:
        found = identify_file(model.path, model.name) | {"weights": _hash_weights(model.path)}
    return found | {"format": FORMAT, "settings": model.settings()}


def check_weights(location: str, before: dict[str, Any], found: dict[str, Any]) -> None:
    """Raise ``OtherModelError``, which names both, where an index is of another model's weights.

    Args:
        location: of the index.
        before: identity of the model of the index, of any format.
        found: ``identify_file`` of another checkpoint, or an identity.
    """
    if "sha256" in found and before.get("sha256") == found["sha256"]:
        return
    try:
        weights = found.get("weights") or _hash_weights(Path(found["path"]))
        if before.get("weights") == weights:
            return
    except UserError:  # what is no checkpoint is another model, too
        pass
    raise OtherModelError(
        f"{location}: was made with the model {describe_model(before)}, not with "
        f"{describe_model(found)}; embeddings of two models can't be compared: give the first one, "
        "another --out, or --replace-model, which embeds all videos anew"
    )


def describe_model(identity: dict[str, Any]) -> str:
    """Return name, place and checksum of a model, for messages."""
    if "path" not in identity:
        return f"{identity['name']} (weights {identity['weights'][:12]})"
    return f"{identity['name']} ({identity['path']}, sha256 {identity['sha256'][:12]})"


def check_model(
    store: IndexStore,
    meta: dict[str, Any],
    model: "ModelFile",
    load_encoder: "Callable[[], WindowEncoder]",
) -> dict[str, Any]:
    """Compare a model with that of an index; returns the identity that the index should keep.

    Args:
        meta: of the index, whose ``model`` is an identity of any format.
        load_encoder: as for ``identify_model``.

    Raises:
        OtherModelError: the weights, or settings that change embeddings, differ.
    """
    if model.path is None:
        found = identify_model(model, load_encoder)
    else:
        found = identify_file(model.path, model.name)
    settings, before = model.settings(), meta["model"]
    check_weights(store.location, before, found)
    if before.get("format") == FORMAT:
        old, weights = before["settings"], before["weights"]
    else:
        old, weights = _read_old_settings(store, meta), _hash_weights(model.path)
    names = sorted(old.keys() | settings.keys()) if old is not None else []
    different = [
        f"{name} {settings.get(name, 'as by default')}, not {old.get(name, 'as by default')}"
        for name in names
        if old.get(name) != settings.get(name)
    ]
    if different:
        raise OtherModelError(
            f"{store.location}: was made with the same weights of {found['name']}, but other "
            f"settings of the model, frames or words ({'; '.join(different)}); leave out -c and "
            "--set, or give another --out, or --replace-model, which embeds all videos anew"
        )
    return found | {"format": FORMAT, "weights": weights, "settings": settings}


def _hash_weights(path: Path) -> str:
    """Return the SHA-256 of a checkpoint's tensors and their names; raises ``UserError``."""
    from utils.checkpoint.files import load_checkpoint
    from utils.checkpoint.weights import get_weights, hash_weights

    return hash_weights(get_weights(load_checkpoint(path), path))


def _read_old_settings(store: IndexStore, meta: dict[str, Any]) -> dict[str, Any] | None:
    """Return the settings of an index of format 1, by the configuration that it was made with.

    None where this release can't read that configuration: the weights are the same, and settings
    that can't be compared must not keep anyone from their index.
    """
    from parsing.config_builder import build_config
    from parsing.json_files import read_config
    from retrieval.index.embedding import ModelFile

    folder = store.open_model_folder(meta)
    path = str(folder / CONFIG)
    try:
        data, errors = read_config(path)
        return ModelFile(folder, build_config(data, path, (), errors, made_with=data)).settings()
    except UserError:
        return None
