"""Identity of the model in an index: its weights, and the settings that its embeddings depend on.

Kept in the index as ``format``, ``name``, ``path``, ``sha256`` (of the checkpoint file, which tells
at once that nothing has changed), ``weights`` (of the tensors alone, so that a checkpoint without
its optimizer is the same model) and ``settings``: those that differ from their defaults, so that a
release with further options changes nothing. Format 1, of former releases, had a checksum of the
whole resolved configuration as ``settings`` and no ``weights``.
"""

import hashlib
from pathlib import Path
from typing import Any

from retrieval.errors import IndexFolderError
from utils.errors import UserError
from utils.files import hash_file

FORMAT = 2


def identify_file(path: Path, name: str) -> dict[str, Any]:
    """Return ``name``, ``path`` and ``sha256`` of a checkpoint; raises ``UserError``."""
    try:
        checksum = hash_file(path)
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror})") from error
    return {"name": name, "path": str(path.absolute()), "sha256": checksum}


def hash_weights(path: Path) -> str:
    """Return the SHA-256 of a checkpoint's weights, by their names; raises ``UserError``."""
    import torch

    from utils.checkpoint.files import load_checkpoint
    from utils.checkpoint.weights import get_weights

    digest = hashlib.sha256()
    for name, weight in sorted(get_weights(load_checkpoint(path), path).items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        digest.update(weight.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def check_weights(out: Path, own: dict[str, Any], given: dict[str, Any]) -> None:
    """Raise ``IndexFolderError``, which names both, where an index is of another model's weights.

    Args:
        own: identity that it has, of any format.
        given: of another checkpoint, by ``identify_file``.
    """
    if own["sha256"] == given["sha256"] or "weights" in own and _has_weights(own, given):
        return
    names = [f"{m['name']} ({m['path']}, sha256 {m['sha256'][:12]})" for m in (own, given)]
    raise IndexFolderError(
        f"{out}: was made with the model {names[0]}, not with {names[1]}; embeddings of two "
        "models can't be compared: give the first one, or another --out"
    )


def _has_weights(own: dict[str, Any], given: dict[str, Any]) -> bool:
    try:
        return own["weights"] == hash_weights(Path(given["path"]))
    except UserError:  # no checkpoint at all is another model, too
        return False


def check_settings(out: Path, name: str, own: dict[str, Any], given: dict[str, Any]) -> None:
    """Raise ``IndexFolderError``, which names the settings, where they differ from an index's."""
    different = [
        f"{key} {given.get(key, 'as by default')}, not {own.get(key, 'as by default')}"
        for key in sorted(own.keys() | given.keys())
        if own.get(key) != given.get(key)
    ]
    if different:
        raise IndexFolderError(
            f"{out}: was made with the same weights of {name}, but other settings of the model, "
            f"frames or words ({'; '.join(different)}); leave out -c and --set, or give another "
            "--out"
        )
