"""Files of an index folder: where those lie that are neither its database nor an array."""

from pathlib import Path
from typing import Any

CONFIG = "config.json"  # of the model, resolved
QUERY_ENCODER = "query_encoder"  # folder of the weights and the tokenizer, of the first model
THUMBNAILS = "thumbnails"
_BUCKETS = 256  # folders of thumbnails


def thumbnail_file(folder: Path, entry_id: int) -> Path:
    """Return the file of an entry's thumbnail."""
    return folder / THUMBNAILS / f"{entry_id % _BUCKETS:02x}" / f"{entry_id}.jpg"


def name_query_encoder(meta: dict[str, Any]) -> str:
    """Return the name of the folder of an index's query encoder; a later model has its own."""
    return meta.get("query_encoder_folder", QUERY_ENCODER)


def query_encoder_folder(folder: Path, meta: dict[str, Any]) -> Path:
    """Return the folder of an index's query encoder."""
    return folder / name_query_encoder(meta)


def config_file(folder: Path, meta: dict[str, Any]) -> Path:
    """Return the file of the configuration of an index's model."""
    return folder / meta.get("config_file", CONFIG)


def list_model_files(folder: Path, meta: dict[str, Any]) -> list[Path]:
    """Return the files of an index that are its model's."""
    encoder = query_encoder_folder(folder, meta)
    return [config_file(folder, meta), *(path for path in encoder.rglob("*") if path.is_file())]
