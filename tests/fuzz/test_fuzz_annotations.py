"""Annotation files of any content: entries that can be read, or one error that names the file."""

import csv
import io
import os
import shutil
import unicodedata
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from base.base_model import ModelInput
from base.batch import SampleKey
from data_loader.collate import Collate
from data_loader.data_check.splits import Split, check_split
from data_loader.loader import TextVideoDataLoader
from data_loader.ocr.ocr_words import OcrParams
from tests.data_loader.frozen_folders import TEXT_MODEL, pickled
from tests.data_loader.textvr_folder import BOX, write_json
from tests.fuzz.fuzzing import check_message, end_well, fuzz
from tests.fuzz.json_mutations import TEXTS, dump, mutated_bytes, mutated_values
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("_quiet")

NAMES = ["Sports/a.mp4", "Sports/\u00e9.mp4", "c.mp4"]
ENTRIES = [
    {
        "path": name,
        "captions_info": [{"caption": "a red car"}, {"caption": "été 影片"}],
        "videos_info": {"Kwai_OCR": f"{name}.json", "split": "test"},
    }
    for name in NAMES
]
MSRVTT = {"annotations": [{"image_id": n, "caption": f"one {n}"} for n in ("a", "b", "a")]}
ROWS = [["a", "Sports", "a dog"], ["é", "Sports", "NA"], ["7", "p", "a, b\nc"]]
KINDS = ["TextVR"] * 4 + ["MSVD", "MSRVTT", "list", "WebVid", "WebVid"]
HEAD = ["videoid", "page_dir", "name"]


class Case(NamedTuple):
    """A data set, the file of it that is odd, and its content."""

    dataset: str
    cut: str | None
    file: str
    content: bytes


@st.composite
def cases(draw) -> Case:
    kind, ascii_only = draw(st.sampled_from(KINDS)), draw(st.booleans())
    if kind == "TextVR":
        content = dump(draw(mutated_values(ENTRIES)), ascii_only)
        case = Case("TextVR", None, "TextVR_test.json", content)
    elif kind == "MSVD":
        content = dump(draw(mutated_values(ENTRIES)), ascii_only)
        case = Case("MSVD", "split", "MSVD.json", content)
    elif kind == "MSRVTT":
        content = dump(draw(mutated_values(MSRVTT)), ascii_only)
        case = Case("MSRVTT", "miech", "annotation/MSR_VTT.json", content)
    elif kind == "list":
        lines = draw(st.lists(st.sampled_from(["a", "b", *TEXTS]), min_size=1, max_size=4))
        content = "\n".join(lines).encode("utf-8", "surrogatepass")
        file = "high-quality/structured-symlinks/test_list_miech.txt"
        case = Case("MSRVTT", "miech", file, content)
    else:
        rows = draw(mutated_values([HEAD, *ROWS]))
        text = io.StringIO()
        rows = rows if isinstance(rows, list) else [rows]
        csv.writer(text).writerows([row if isinstance(row, list) else [row] for row in rows])
        content = text.getvalue().encode("utf-8", "surrogatepass")
        case = Case("WebVid", "2M", "metadata/results_2M_test.csv", content)
    return case._replace(content=draw(mutated_bytes(case.content)))


def make_folder(root: Path) -> Path:
    """A folder that holds what the data sets need beside the odd file, without real videos."""
    for name in NAMES:
        for file in (root / "Videos" / name, root / "videos" / name):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b"no video")
    record = {"text": "SALE car", "score": 0.5, "tracks": {"0": BOX}}
    write_json(root / "Kwai_VideoOCR/Sports/a.mp4.json", {"0": record})
    # The document of the second video is spelled as a Mac does.
    spelled = unicodedata.normalize("NFD", "\u00e9.mp4.json")
    write_json(root / "Kwai_VideoOCR/Sports" / spelled, {"0": record})
    write_json(root / "Kwai_VideoOCR/c.mp4.json", {"0": record | {"score": "high"}})
    write_json(root / "annotation/MSR_VTT.json", MSRVTT)
    lists = root / "high-quality/structured-symlinks"
    lists.mkdir(parents=True)
    (lists / "test_list_miech.txt").write_text("a\nb\n")
    pickled(lists / "jsfusion_val_caption_idx.pkl", {"a": 0})
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("odd") / "data")


def check_case(folder: Path, case: Case, collate: Collate) -> None:
    path = folder / case.file
    before = path.read_bytes() if path.exists() else None
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(case.content)
    try:
        # What can't be used may be a list, or what the list names.
        dataset = end_well(lambda: open_dataset(folder, case), str(folder))
        if not isinstance(dataset, UserError):
            check_dataset(dataset, case, collate)
    finally:
        path.unlink()
        if before is not None:
            path.write_bytes(before)


def open_dataset(folder: Path, case: Case):
    return TextVideoDataLoader(
        case.dataset, str(folder), split="test", cut=case.cut, batch_size=2, num_workers=0,
        model_input=ModelInput(("ocr",), TEXT_MODEL), seed=0, training=False, only_dataset=True,
    ).dataset  # fmt: skip


def check_dataset(dataset, case: Case, collate: Collate) -> None:
    assert len(dataset.entries) > 0
    files = [os.path.normpath(entry.video) for entry in dataset.entries]
    there = {file for file in files if os.path.lexists(file)}
    spelled = [f if f in there else unicodedata.normalize("NFC", f) for f in files]
    assert len({*spelled}) == len(files)  # no video is two entries
    faulty = set()
    for index, entry in enumerate(dataset.entries):
        assert os.path.commonpath([dataset.data_dir, files[index]]) == str(dataset.data_dir)
        os.fsencode(entry.video)
        assert entry.captions and all(isinstance(text, str) for text in entry.captions)
        sample = end_well(lambda index=index: dataset[SampleKey(0, index)], ".json")
        if isinstance(sample, UserError):
            faulty.add(str(entry.ocr))
            continue
        if entry.id == NAMES[1] and sample.ocr_missing is None:
            assert sample.words == ["sale", "car"]
        batch = collate([sample])
        assert not isinstance(batch, UserError)
        assert len(batch.query_row) == len(sample.captions) == len(entry.captions)
    # check_data.py finds wrong what can't be read, and nothing else.
    arguments = {"dataset_name": case.dataset, "ocr_params": OcrParams(), "val_share": None}
    split = Split("loader 0", ("test",), dataset, arguments)
    facts = check_split(split, ModelInput(("ocr",), TEXT_MODEL), 1, decode=False)
    assert set(facts.ocr.faulty if facts.ocr else ()) == faulty
    for line in facts.wrong:
        check_message(line)


@pytest.mark.slow
@fuzz()
@given(case=cases())
def test_annotations_of_any_content(folder, collate, case):
    check_case(folder, case, collate)


@fuzz(150)
@given(case=cases())
def test_some_annotations_of_any_content(folder, collate, case):
    check_case(folder, case, collate)


def test_the_folder_itself_can_be_read(folder, collate):
    """So that the cases above are odd by their own files only."""
    for file, content in (("TextVR_test.json", dump(ENTRIES)), ("MSVD.json", dump(ENTRIES))):
        name = file.partition(".")[0].partition("_")[0]
        case = Case(name, "split" if name == "MSVD" else None, file, content)
        (folder / file).write_bytes(content)
        dataset = open_dataset(folder, case)
        assert [entry.id for entry in dataset.entries] == NAMES
        check_dataset(dataset, case, collate)
        (folder / file).unlink()
    assert shutil.disk_usage(folder).free
