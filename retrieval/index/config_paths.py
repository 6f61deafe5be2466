"""Paths in the configuration of an index's model, which have to hold from any current folder.

Only the model's own module knows which of its arguments name files: its tokenizers, as it says. Of
the others a text with a slash is taken for a path where there is such a folder of a model, or file.
"""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from retrieval.errors import IndexFolderError

_IN_MODELS = ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
_HUB_PARTS = 2  # of a name of the hub: owner/model


def make_paths_absolute(config: dict[str, Any], tokenizers: Collection[str]) -> dict[str, Any]:
    """Return a resolved configuration in which the model's files are named from the root.

    Args:
        tokenizers: names or folders of the model's tokenizers.
    """

    def change(text: str) -> str:
        may_be_path = "/" in text or text in tokenizers
        is_path = may_be_path and _is_relative_path(text, Path.cwd())
        return str(Path(text).absolute()) if is_path else text

    return _change_arguments(config, change)


def find_relative_paths(
    config: dict[str, Any], folders: Sequence[Path], source: Path
) -> dict[str, Any]:
    """Return a configuration whose relative paths, of earlier versions, are looked for.

    Args:
        folders: in which a path may begin, beside the current folder, which comes first.
        source: file of the configuration, for messages.

    Raises:
        IndexFolderError: a path is in none of them.
    """

    def change(text: str) -> str:
        if "/" not in text:
            return text
        for folder in (Path.cwd(), *folders):
            if _is_relative_path(text, folder):
                return str(folder / text)
        if len(Path(text).parts) > _HUB_PARTS and not Path(text).exists():
            raise IndexFolderError(
                f"{source}: names {text}, which is in none of "
                f"{', '.join(map(str, dict.fromkeys((Path.cwd(), *folders))))}; run the command "
                "where the index was made, or write the whole path there"
            )
        return text

    return _change_arguments(config, change)


def _is_relative_path(text: str, folder: Path) -> bool:
    """Whether a text that is no absolute path names a model's folder, or a file, in a folder."""
    path = folder / text
    if not text or Path(text).is_absolute():
        return False
    if path.is_dir():
        return any((path / name).exists() for name in _IN_MODELS)
    return bool(path.suffix) and path.is_file()


def _change_arguments(config: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """Apply a function to all texts among the arguments of a configuration's model."""

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: walk(member) for key, member in value.items()}
        if isinstance(value, list):
            return [walk(member) for member in value]
        return change(value) if isinstance(value, str) else value

    arch = config.get("arch")
    if not isinstance(arch, dict):
        return config
    return config | {"arch": arch | {"args": walk(arch.get("args", {}))}}
