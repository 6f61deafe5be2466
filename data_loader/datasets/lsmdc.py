"""LSMDC: 118k short clips of films, each with the sentence that describes it."""

from base.base_dataset import DatasetForm, VideoEntry
from base.registry import DATASETS
from data_loader.datasets.annotations import (
    AnnotationError,
    raise_entry_errors,
    read_lines,
    read_list,
)
from data_loader.datasets.text_video_dataset import FROZEN_IN_TIME, TextVideoDataset
from utils.checkpoint.unpickling import read_pickle

FOLDER = "structured-symlinks"
CAPTIONS = "raw-captions.pkl"
FILMS = "frame_tar_list.txt"  # names the film, which is the folder, of each clip


@DATASETS.register("LSMDC")
class LSMDC(TextVideoDataset):
    """LSMDC in Frozen in Time's layout.

    In ``metadata_dir``: ``structured-symlinks/{train,val,test}_list.txt`` (ids, in the order of
    the entries), ``structured-symlinks/raw-captions.pkl`` ({id: [[word, …]]}) and
    ``frame_tar_list.txt`` (paths that end in ``FILM/ID.tar``). Videos ``videos/FILM/ID.avi``; OCR
    documents, where there are any, ``Kwai_VideoOCR/FILM/ID.json``.
    """

    @classmethod
    def get_form(cls, cut: str | None) -> DatasetForm:
        """Return Frozen in Time's."""
        return FROZEN_IN_TIME

    def name_annotation_file(self) -> str:
        """Return the split's list."""
        return f"{FOLDER}/{self.options.split}_list.txt"

    def load_entries(self) -> list[VideoEntry]:
        """Read lists and captions; raises ``AnnotationError``."""
        ids, path = read_list(self.annotation_file), self.metadata_dir / FOLDER / CAPTIONS
        captions = read_pickle(path)
        if not isinstance(captions, dict):
            raise AnnotationError(f"{path}: must hold a dict")
        films, folder = self._read_films(), self.data_dir / "videos"
        rows, errors = [], []
        for name in ids:
            texts = _join_sentences(captions.get(name))
            file = f"{films.get(name)}/{name}.avi"
            if name not in films:
                errors.append(f"{name}: is not in {FILMS}")
            elif len(texts) != 1:
                errors.append(f"{name}: has {len(texts)} captions in {CAPTIONS}, should have one")
            else:
                rows.append((name, file, texts))
        return self.build_entries(folder, rows, errors=errors)

    def _read_films(self) -> dict[str, str]:
        """Return id -> folder, from paths such as ``frames/FILM/ID.tar``."""
        path = self.metadata_dir / FILMS
        lines = read_lines(path)
        short = [line for line in lines if "/" not in line]
        raise_entry_errors(path, [f"line {line!r} does not end in FILM/ID.tar" for line in short])
        parts = [line.removesuffix(".tar").split("/") for line in lines]
        return {part[-1]: part[-2] for part in parts}


def _join_sentences(captions: object) -> tuple[str, ...]:
    """Return the captions of a clip as sentences; None in the pickle stands for a missing one."""
    lists = captions if isinstance(captions, list | tuple) else []
    sentences = (c if isinstance(c, list | tuple) else [c] for c in lists if c is not None)
    texts = [" ".join(map(str, words)) for words in sentences]
    return tuple(text for text in texts if text.strip())
