"""LSMDC: 118k short clips of films, each with the sentence that describes it."""

from base.base_dataset import VideoEntry
from base.registry import DATASETS
from data_loader.annotations import AnnotationError, inside, raise_faults, read_text
from data_loader.lists import read_list
from data_loader.text_video_dataset import TextVideoDataset
from utils.checkpoint.inert import read_pickle

FOLDER = "structured-symlinks"
CAPTIONS = "raw-captions.pkl"
FILMS = "frame_tar_list.txt"  # tells which film's folder a clip lies in


@DATASETS.register("LSMDC", provided=("data_dir", "options", "transform"))
class LSMDC(TextVideoDataset):
    """The LSMDC data set in Frozen in Time's layout.

    In ``metadata_dir``: ``structured-symlinks/{train,val,test}_list.txt`` (ids, in the order of
    the entries), ``structured-symlinks/raw-captions.pkl`` ({id: [[word, …]]}) and
    ``frame_tar_list.txt`` (paths that end in ``FILM/ID.tar``). Videos ``videos/FILM/ID.avi``; OCR
    documents, where there are any, ``Kwai_VideoOCR/FILM/ID.json``.
    """

    def default_annotation(self) -> str:
        """Return the split's list."""
        return f"{FOLDER}/{self.options.split}_list.txt"

    def load_entries(self) -> list[VideoEntry]:
        """Read lists and captions.

        Raises:
            UserError: a file is missing or faulty, or a clip has not exactly one caption.
        """
        ids = read_list(self.annotation_file)
        captions = read_pickle(self.metadata_dir / FOLDER / CAPTIONS)
        if not isinstance(captions, dict):
            raise AnnotationError(f"{self.metadata_dir / FOLDER / CAPTIONS}: must hold a dict")
        films = self._films()
        entries, faults = [], []
        for name in ids:
            texts = _sentences(captions.get(name))
            file = f"{films.get(name)}/{name}.avi"
            video = inside(self.data_dir / "videos", file)
            if name not in films:
                faults.append(f"{name}: stands not in {FILMS}")
            elif video is None:
                faults.append(f"{name}: {file!r} leads out of the data folder")
            elif len(texts) != 1:
                faults.append(f"{name}: has {len(texts)} captions in {CAPTIONS}, should have one")
            else:
                entries.append(VideoEntry(name, video, texts, self.mirrored_ocr(file)))
        raise_faults(self.annotation_file, faults)
        return entries

    def _films(self) -> dict[str, str]:
        """Id -> folder, from paths such as ``frames/FILM/ID.tar``."""
        path = self.metadata_dir / FILMS
        lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
        parts = [line.removesuffix(".tar").split("/") for line in lines]
        raise_faults(path, [f"line {line!r} does not end in FILM/ID.tar"
                            for line, part in zip(lines, parts, strict=True)
                            if len(part) < 2])  # fmt: skip
        return {part[-1]: part[-2] for part in parts}


def _sentences(captions: object) -> tuple[str, ...]:
    """The captions of a clip as sentences; the pickle fills missing ones up with None."""
    lists = captions if isinstance(captions, list | tuple) else []
    texts = [" ".join(map(str, c)) if isinstance(c, list | tuple) else str(c)
             for c in lists if c is not None]  # fmt: skip
    return tuple(text for text in texts if text.strip())
