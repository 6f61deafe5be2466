"""LSMDC: 118k short clips of films, each with the sentence that describes it."""

from base.base_dataset import VideoEntry
from base.registry import DATASETS
from data_loader.datasets.annotations import (
    AnnotationError,
    join_inside,
    raise_entry_errors,
    read_list,
    read_text,
)
from data_loader.datasets.text_video_dataset import TextVideoDataset
from utils.checkpoint.unpickling import read_pickle

FOLDER = "structured-symlinks"
CAPTIONS = "raw-captions.pkl"
FILMS = "frame_tar_list.txt"  # tells which film's folder a clip lies in


@DATASETS.register("LSMDC")
class LSMDC(TextVideoDataset):
    """LSMDC in Frozen in Time's layout.

    In ``metadata_dir``: ``structured-symlinks/{train,val,test}_list.txt`` (ids, in the order of
    the entries), ``structured-symlinks/raw-captions.pkl`` ({id: [[word, …]]}) and
    ``frame_tar_list.txt`` (paths that end in ``FILM/ID.tar``). Videos ``videos/FILM/ID.avi``; OCR
    documents, where there are any, ``Kwai_VideoOCR/FILM/ID.json``.
    """

    def name_annotation_file(self) -> str:
        """Return the split's list."""
        return f"{FOLDER}/{self.options.split}_list.txt"

    def load_entries(self) -> list[VideoEntry]:
        """Read lists and captions; raises ``AnnotationError``."""
        ids = read_list(self.annotation_file)
        captions = read_pickle(self.metadata_dir / FOLDER / CAPTIONS)
        if not isinstance(captions, dict):
            raise AnnotationError(f"{self.metadata_dir / FOLDER / CAPTIONS}: must hold a dict")
        films = self._read_films()
        found, errors = [], []
        for name in ids:
            texts = _join_sentences(captions.get(name))
            file = f"{films.get(name)}/{name}.avi"
            video = join_inside(self.data_dir / "videos", file)
            if name not in films:
                errors.append(f"{name}: stands not in {FILMS}")
            elif video is None:
                errors.append(f"{name}: {file!r} leads out of the data folder")
            elif len(texts) != 1:
                errors.append(f"{name}: has {len(texts)} captions in {CAPTIONS}, should have one")
            else:
                found.append((name, video, texts, file))
        raise_entry_errors(self.annotation_file, errors)
        documents = self.find_documents([file for *_, file in found])
        return [
            VideoEntry(name, video, texts, document)
            for (name, video, texts, _), document in zip(found, documents, strict=True)
        ]

    def _read_films(self) -> dict[str, str]:
        """Id -> folder, from paths such as ``frames/FILM/ID.tar``."""
        path = self.metadata_dir / FILMS
        lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
        parts = [line.removesuffix(".tar").split("/") for line in lines]
        raise_entry_errors(path, [f"line {line!r} does not end in FILM/ID.tar"
                            for line, part in zip(lines, parts, strict=True)
                            if len(part) < 2])  # fmt: skip
        return {part[-1]: part[-2] for part in parts}


def _join_sentences(captions: object) -> tuple[str, ...]:
    """The captions of a clip as sentences; the pickle fills missing ones up with None."""
    lists = captions if isinstance(captions, list | tuple) else []
    texts = [" ".join(map(str, c)) if isinstance(c, list | tuple) else str(c)
             for c in lists if c is not None]  # fmt: skip
    return tuple(text for text in texts if text.strip())
