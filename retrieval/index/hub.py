"""Files of a pretrained model: a local folder, the Hugging Face cache, or one download.

Whoever has a model here never waits for a network: nothing is asked of the hub where the cache has
the model, or where ``HF_HUB_OFFLINE`` or ``TRANSFORMERS_OFFLINE`` is set. What is returned is a
folder, and transformers, given a folder, asks nothing either.
"""

import json
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from utils.errors import UserError

# The base size of SigLIP 2: it was trained on texts of many languages, its licence (Apache-2.0)
# allows any use, and transformers has it, without code from elsewhere.
DEFAULT_TOWER = "google/siglip2-base-patch16-224"
OPEN_CLIP = "open_clip:"  # that package finds its weights by itself
TIMEOUT_S = 10.0  # that a hub which refuses, or does not answer, may cost in all
_TEXT_FILES = {".json", ".txt", ".model"}  # configuration, tokenizer, processor
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
_PROCESSORS = (
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json",
)  # fmt: skip
_CUT = 200  # characters of an error of the hub that are shown


class HubError(UserError):
    """A model that is not here can't be had from the hub."""


@dataclass(frozen=True)
class HubModel:
    """A model of the hub, and those of its files that are needed."""

    name: str
    files: tuple[str, ...]
    num_bytes: int


def locate_model(name: str, timeout_s: float = TIMEOUT_S) -> Path:
    """Return the folder with a model's files, downloaded where the cache hasn't got them.

    Args:
        name: of the hub, or a folder.
        timeout_s: most seconds to wait until the hub has said what it has; a download then takes
            what it takes, and its size is said on stderr before.

    Raises:
        HubError: it is not here, and the hub is not to be asked, or hasn't got it.
        UserError: the name is neither that of a folder nor one that the hub could have.
    """
    if Path(name).is_dir():
        return Path(name).absolute()
    _check_name(name)
    return find_cached(name) or download_model(ask_hub(name, timeout_s))


def find_cached(name: str) -> Path | None:
    """Return the folder of a model in the local cache; None where something of it is missing."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json")
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    return folder if _is_complete(folder) else None


def ask_hub(name: str, timeout_s: float = TIMEOUT_S) -> HubModel:
    """Ask the hub for a model's list of files; raises ``HubError``, after ``timeout_s`` at most."""
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        raise HubError(
            f"{name}: is not in the local cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE "
            "forbids to ask the hub"
        )
    answers: list[Any] = []

    def ask() -> None:
        try:
            answers.append(HfApi().model_info(name, timeout=timeout_s, files_metadata=True))
        except Exception as error:  # of HTTP, sockets and the hub: the types share no base class
            answers.append(error)

    # In a thread, as a limit for each part of a request is none for the whole of it.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout_s)
    if not answers:
        raise HubError(f"{name}: {constants.ENDPOINT} did not answer within {timeout_s:g} s")
    if isinstance(answers[0], Exception):
        raise _explain(name, answers[0]) from answers[0]
    sizes = {file.rfilename: file.size or 0 for file in answers[0].siblings or ()}
    files = choose_files(list(sizes))
    if not files:
        raise HubError(f"{name}: the hub has no weights of it that can be read")
    return HubModel(name, files, sum(sizes[file] for file in files))


def download_model(model: HubModel) -> Path:
    """Download the files of a model into the cache; raises ``HubError``."""
    from huggingface_hub import constants, hf_hub_download

    sys.stderr.write(
        f"downloading {model.name}, {model.num_bytes / 1e6:,.0f} MB, from {constants.ENDPOINT} "
        f"into {constants.HF_HUB_CACHE}, once\n"
    )
    try:
        for file in model.files:
            hf_hub_download(model.name, file)
    except Exception as error:  # as above
        raise _explain(model.name, error) from error
    folder = find_cached(model.name)
    if folder is None:
        raise HubError(f"{model.name}: the hub has no {_TOKENIZERS[0]} or {_PROCESSORS[0]} of it")
    return folder


def choose_files(names: Sequence[str]) -> tuple[str, ...]:
    """Return those of a model's files that are read; none where there are no weights.

    Weights are taken as safetensors where there are both kinds. Folders hold other formats.
    """
    top = [name for name in names if len(PurePosixPath(name).parts) == 1]
    texts = [name for name in top if PurePosixPath(name).suffix in _TEXT_FILES]
    for start, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        weights = [name for name in top if name.startswith(start) and name.endswith(suffix)]
        if weights:
            return tuple(sorted(texts) + sorted(weights))
    return ()


def _is_complete(folder: Path) -> bool:
    """Whether a folder of the cache has weights, all parts of them, tokenizer and processor."""

    def has(name: str) -> bool:
        return (folder / name).exists()  # names are links: one may lead nowhere

    kinds = ("model.safetensors", "pytorch_model.bin")
    return (
        any(map(has, _TOKENIZERS))
        and any(map(has, _PROCESSORS))
        and any(has(kind) or _has_parts(folder / f"{kind}.index.json") for kind in kinds)
    )


def _has_parts(index: Path) -> bool:
    try:
        parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False
    return bool(parts) and all((index.parent / part).exists() for part in parts)


def _check_name(name: str) -> None:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(
            f"{name}: no such folder, and no name that the Hugging Face hub could have; give a "
            "folder, or a name such as google/siglip2-base-patch16-224"
        ) from error


def _explain(name: str, error: Exception) -> HubError:
    from huggingface_hub import constants
    from huggingface_hub.errors import RepositoryNotFoundError

    if isinstance(error, RepositoryNotFoundError):
        return HubError(f"{name}: no such folder, and {constants.ENDPOINT} has no such model")
    detail = " ".join(str(error).split())[:_CUT] or type(error).__name__
    return HubError(f"{name}: could not be had from {constants.ENDPOINT} ({detail})")
