"""Which model an index was made with."""

from pathlib import Path

from retrieval.errors import IndexFolderError


def check_model(out: Path, own: dict[str, str], given: dict[str, str]) -> None:
    """Raise ``IndexFolderError`` where an index was made with another model.

    Args:
        out: the index.
        own: name, path, sha256 of its checkpoint, and sha256 of the settings that matter.
        given: the same of another one; without ``settings`` only the weights are compared.
    """
    if own["sha256"] != given["sha256"]:
        names = [f"{m['name']} ({m['path']}, sha256 {m['sha256'][:12]})" for m in (own, given)]
        raise IndexFolderError(
            f"{out}: was made with the model {names[0]}, not with {names[1]}; embeddings of two "
            "models can't be compared: give the first one, or another --out"
        )
    if given.get("settings", own["settings"]) != own["settings"]:
        raise IndexFolderError(
            f"{out}: was made with the same weights of {given['name']}, but other settings of "
            "frames or words; leave out -c and --set, or give another --out"
        )
