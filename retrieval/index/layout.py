"""Files of an index folder."""

from pathlib import Path

LOCK = "index.lock"
CONFIG = "config.json"  # of the model, resolved
QUERY_ENCODER = "query_encoder"  # weights and tokenizer: a search needs no checkpoint
EMBEDDINGS = "embeddings"
IDS = "entries"  # row -> entry
WITHOUT = {"vision": "embeddings_without_vision", "ocr": "embeddings_without_ocr"}
_BUCKETS = 256


def array_file(folder: Path, name: str, generation: int) -> Path:
    """Return the file of an array; a new generation of files is written where rows are dropped."""
    return folder / f"{name}-{generation:06}.npy"


def ann_file(folder: Path, generation: int, num_rows: int) -> Path:
    """Return the file of a FAISS index of the first ``num_rows`` embeddings."""
    return folder / f"ann-{generation:06}-{num_rows}.faiss"


def thumbnail_file(folder: Path, entry_id: int) -> Path:
    """Return the file of an entry's thumbnail."""
    return folder / "thumbnails" / f"{entry_id % _BUCKETS:02x}" / f"{entry_id}.jpg"
