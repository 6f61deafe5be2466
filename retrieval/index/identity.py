"""Identity of the model of an index: its weights, and the settings that its embeddings depend on.

Kept in the index as ``format``, ``name``, ``path``, ``sha256`` (of the checkpoint file, which shows
at once that nothing has changed), ``weights`` (SHA-256 of the tensors, so that a checkpoint without
its optimizer is the same model) and ``settings``: those that differ from their defaults, so that a
release with further options changes nothing. Format 1, of former releases, had a checksum of the
whole resolved configuration as ``settings`` and no ``weights``.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.errors import IndexFolderError
from utils.errors import UserError
from utils.files import hash_file

if TYPE_CHECKING:
    from retrieval.index.embedding import ModelFile

FORMAT = 2
CONFIG = "config.json"  # of the model, resolved; in the index folder


def identify_file(path: Path, name: str) -> dict[str, Any]:
    """Return ``name``, ``path`` and ``sha256`` of a checkpoint; raises ``UserError``."""
    try:
        checksum = hash_file(path)
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from error
    return {"name": name, "path": str(path.absolute()), "sha256": checksum}


def identify_model(model: "ModelFile") -> dict[str, Any]:
    """Return the complete identity of a model; raises ``UserError``."""
    return identify_file(model.path, model.config.name) | {
        "format": FORMAT,
        "weights": _hash_weights(model.path),
        "settings": model.settings(),
    }


def check_weights(out: Path, before: dict[str, Any], file: dict[str, Any]) -> None:
    """Raise ``IndexFolderError``, which names both, where an index is of another model's weights.

    Args:
        before: identity of the model of the index, of any format.
        file: ``identify_file`` of another checkpoint.
    """
    if before["sha256"] == file["sha256"]:
        return
    try:
        if "weights" in before and before["weights"] == _hash_weights(Path(file["path"])):
            return
    except UserError:  # what is no checkpoint is another model, too
        pass
    names = [f"{m['name']} ({m['path']}, sha256 {m['sha256'][:12]})" for m in (before, file)]
    raise IndexFolderError(
        f"{out}: was made with the model {names[0]}, not with {names[1]}; embeddings of two "
        "models can't be compared: give the first one, or another --out"
    )


def check_model(out: Path, before: dict[str, Any], model: "ModelFile") -> dict[str, Any]:
    """Compare a model with that of an index; returns the identity that the index should keep.

    Args:
        before: identity of the model of the index, of any format.

    Raises:
        IndexFolderError: the weights, or settings that change embeddings, differ.
    """
    file, settings = identify_file(model.path, model.config.name), model.settings()
    check_weights(out, before, file)
    if before.get("format") == FORMAT:
        old, weights = before["settings"], before["weights"]
    else:
        old, weights = _read_old_settings(out), _hash_weights(model.path)
    names = sorted(old.keys() | settings.keys()) if old is not None else []
    different = [
        f"{name} {settings.get(name, 'as by default')}, not {old.get(name, 'as by default')}"
        for name in names
        if old.get(name) != settings.get(name)
    ]
    if different:
        raise IndexFolderError(
            f"{out}: was made with the same weights of {file['name']}, but other settings of the "
            f"model, frames or words ({'; '.join(different)}); leave out -c and --set, or give "
            "another --out"
        )
    return file | {"format": FORMAT, "weights": weights, "settings": settings}


def _hash_weights(path: Path) -> str:
    """Return the SHA-256 of a checkpoint's tensors and their names; raises ``UserError``."""
    from utils.checkpoint.files import load_checkpoint
    from utils.checkpoint.weights import get_weights, hash_weights

    return hash_weights(get_weights(load_checkpoint(path), path))


def _read_old_settings(out: Path) -> dict[str, Any] | None:
    """Return the settings of an index of format 1, by the configuration that it was made with.

    None where this release can't read that configuration: the weights are the same, and settings
    that can't be compared must not keep anyone from their index.
    """
    from parsing.config_builder import build_config
    from parsing.json_files import read_config
    from retrieval.index.embedding import ModelFile

    path = str(out / CONFIG)
    try:
        data, errors = read_config(path)
        return ModelFile(out, build_config(data, path, (), errors, made_with=data)).settings()
    except UserError:
        return None
