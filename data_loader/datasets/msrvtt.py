"""MSR-VTT: 10k videos of 20 captions each, in Frozen in Time's cuts or in the TextVR form."""

from pathlib import Path

from base.base_dataset import DatasetForm, VideoEntry
from base.registry import DATASETS
from data_loader.datasets.annotations import (
    AnnotationError,
    find_caption_problem,
    get_text,
    raise_entry_errors,
    read_json,
    read_list,
)
from data_loader.datasets.text_video_dataset import FROZEN_IN_TIME
from data_loader.datasets.textvr import AnnotatedVideos
from utils.checkpoint.unpickling import read_pickle

LISTS_FOLDER = "high-quality/structured-symlinks"
# cut -> list of training; list of validation and test
LISTS = {
    "miech": ("train_list_miech", "test_list_miech"),
    "jsfusion": ("train_list_jsfusion", "val_list_jsfusion"),
    "full-val": ("train_list_full", "val_list_full"),
    "full-test": ("train_list_full", "test_list_full"),
    # The three of the 2020 challenge (Video Pentathlon), whose training list they share.
    "val": ("train_list", "val_list"),
    "public_server_val": ("train_list", "public_server_val"),
    "public_server_test": ("train_list", "public_server_test"),
}
# The members that name the split in published annotations of the TextVR form.
ANNOTATION_CUTS = ("split", "official_split", "oneka_split")
CHOSEN_CAPTIONS = "jsfusion_val_caption_idx.pkl"


@DATASETS.register("MSRVTT")
class MSRVTT(AnnotatedVideos):
    """MSR-VTT; ``cut`` says which of its published forms.

    ``miech``, ``jsfusion``, ``full-val``, ``full-test``, and those of the challenge, ``val``,
    ``public_server_val``, ``public_server_test``: captions from ``annotation/MSR_VTT.json``, ids
    from the lists in ``high-quality/structured-symlinks`` (``LISTS``), videos
    ``videos/all/ID.mp4``, OCR documents, where there are any, ``Kwai_VideoOCR/ID.json``; entries
    sorted by id. jsfusion tests with one caption a video, which
    ``jsfusion_val_caption_idx.pkl`` names; the other cuts, as published, with each video's first.
    ``split``, ``official_split``, ``oneka_split``: the form of TextVR, see ``AnnotatedVideos``.
    """

    stem = "MSRVTT"
    test_captions = "first"

    @classmethod
    def get_form(cls, cut: str | None) -> DatasetForm | None:
        """Return the form of the cut."""
        return FROZEN_IN_TIME if cut in LISTS else super().get_form(cut)

    def name_annotation_file(self) -> str:
        """Return the file of captions of the cut."""
        if self._check_cut() in LISTS:
            return "annotation/MSR_VTT.json"
        return super().name_annotation_file()

    def load_entries(self) -> list[VideoEntry]:
        """Read the entries of the cut and split; raises ``AnnotationError``."""
        cut = self._check_cut()
        if cut not in LISTS:
            return super().load_entries()
        folder = self.metadata_dir / LISTS_FOLDER
        listed = folder / f"{LISTS[cut][self.options.split != 'train']}.txt"
        captions = read_captions(self.annotation_file)
        ids = sorted(read_list(listed))
        missing = [name for name in ids if name not in captions]
        without = f"has no caption in {self.annotation_file}"
        raise_entry_errors(listed, [f"{name}: {without}" for name in missing])
        if cut == "jsfusion" and self.options.split != "train":
            captions = choose_captions(folder / CHOSEN_CAPTIONS, ids, captions)
        videos = self.data_dir / "videos" / "all"
        rows = [(name, f"{name}.mp4", captions[name]) for name in ids]
        return self.build_entries(videos, rows, source=listed)

    def _check_cut(self) -> str:
        valid = ", ".join((*LISTS, *ANNOTATION_CUTS))
        if self.cut is None:
            raise AnnotationError(f"MSRVTT has several cuts; set data_loader.args.cut to: {valid}")
        if self.cut not in (*LISTS, *ANNOTATION_CUTS):
            raise AnnotationError(f'MSRVTT has no cut "{self.cut}"; data_loader.args.cut: {valid}')
        return self.cut


def read_captions(path: Path) -> dict[str, tuple[str, ...]]:
    """Read each video's captions, in the order of ``MSR_VTT.json``; raises ``AnnotationError``."""
    data = read_json(path)
    items = data.get("annotations") if isinstance(data, dict) else None
    if not isinstance(items, list) or not items:
        raise AnnotationError(f'{path}: must hold an object with a list "annotations"')
    errors: list[str] = []
    captions: dict[str, list[str]] = {}
    for number, item in enumerate(items):
        name, text = (get_text(item, key) for key in ("image_id", "caption"))
        if not (name and name.strip() and text and text.strip()):
            errors.append(f'annotation {number}: needs texts "image_id" and "caption"')
        elif problem := find_caption_problem(text):
            errors.append(f"annotation {number}: its caption {problem}")
        else:
            captions.setdefault(name, []).append(text)
    raise_entry_errors(path, errors)
    return {name: tuple(texts) for name, texts in captions.items()}


def choose_captions(
    path: Path, ids: list[str], captions: dict[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """Choose one caption of each video by a pickled ``{id: number}``; raises ``UserError``."""
    numbers = read_pickle(path)
    if not isinstance(numbers, dict):
        raise AnnotationError(f"{path}: must hold a dict of caption numbers")
    chosen, errors = {}, []
    for name in ids:
        number, texts = numbers.get(name), captions[name]
        if type(number) is int and 0 <= number < len(texts):
            chosen[name] = (texts[number],)
        else:
            errors.append(f"{name}: {number!r} is no number of its {len(texts)} captions")
    raise_entry_errors(path, errors)
    return chosen
