"""Which models may update an index: the same weights, and the same settings of the forward pass."""

import hashlib
import shutil
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from base.registry import ARCHITECTURES, Entry
from model.frozen_in_time import FrozenInTime
from model.params import TextParams, VideoParams
from parse_config import load_config
from parsing.blocks import check_block
from retrieval import VideoIndex
from retrieval.errors import IndexFolderError
from retrieval.index.embedding import ModelFile
from retrieval.index.ocr_text import OcrFolder
from retrieval.index.update import IndexOptions, update_index
from retrieval.index.writer import IndexWriter, lock_index
from tests.retrieval.made_index import remove_checksums
from trainer.build import build_model
from utils.checkpoint.files import load_checkpoint, save_checkpoint

CPU = torch.device("cpu")


class LaterFrozenInTime(FrozenInTime):
    """That of a later release, which has one more option."""

    def __init__(
        self,
        video_params: VideoParams = VideoParams(),
        text_params: TextParams = TextParams(),
        projection_dim: int = 256,
        modalities: tuple[str, ...] = ("vision", "ocr"),
        projection: str = "minimal",
        load_checkpoint: str | None = "",
        fusion_heads: int = 8,
        load_parts: tuple[str, ...] | None = None,
        load_temporal_fix: str = "zeros",
        ocr_encoder_grad: bool = True,
        fusion: str = "attention",
        ocr_encoder_dropout: str = "word",
        ocr_encoder_init: str = "text_params",
        type_embedding_std: float = 1.0,
        new_option: float = 0.5,
    ) -> None:
        super().__init__(
            video_params, text_params, projection, projection_dim, modalities, load_checkpoint,
            fusion_heads, load_parts, load_temporal_fix, ocr_encoder_grad, fusion,
            ocr_encoder_init=ocr_encoder_init, type_embedding_std=type_embedding_std,
            ocr_encoder_dropout=ocr_encoder_dropout,
        )  # fmt: skip
        self.new_option = new_option


class OtherNames(FrozenInTime):
    """An architecture whose arguments have names of their own."""

    training_only = frozenset({"words.model", "words.pretrained", "frames.pretrained"})

    def __init__(self, frames: VideoParams, words: TextParams, width: int = 32) -> None:
        super().__init__(frames, words, projection_dim=width)

    @classmethod
    def describe_input(cls, frames: VideoParams, words: TextParams, width: int = 32):
        return FrozenInTime.describe_input(video_params=frames, text_params=words)

    @classmethod
    def build_query_encoder(cls, text_folder=None, *, words: TextParams, width: int, frames):
        own = {"text_params": words, "projection": "minimal", "projection_dim": width}
        return FrozenInTime.build_query_encoder(text_folder, **own)


@pytest.fixture
def update(built, copy):
    """Update the copy of the index with a checkpoint and changes of its configuration."""
    library = built[1]

    def run(*changes: str, checkpoint=library.checkpoint):
        config = load_config(library.checkpoint.parent / "config.json", changes)
        model, source = ModelFile(checkpoint, config), OcrFolder(library.ocr)
        return update_index(library.videos, copy, model, source, IndexOptions())

    return run


@contextmanager
def later_release(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setitem(ARCHITECTURES._entries, "FrozenInTime", Entry(LaterFrozenInTime))
        yield


def turn_back(folder) -> None:
    """Give an index the identity that former releases have written."""
    with lock_index(folder), IndexWriter(folder) as writer:
        own = {name: writer.meta["model"][name] for name in ("name", "path", "sha256")}
        writer.set_meta(model=own | {"settings": hashlib.sha256(b"all of them").hexdigest()})
    remove_checksums(folder)


def read_identity(folder) -> dict:
    with VideoIndex.open(folder) as index:
        return index.model


def test_a_new_option_of_an_architecture_keeps_nobody_from_updating(update, copy, monkeypatch):
    before = read_identity(copy)
    with later_release(monkeypatch):
        assert update().plan.num_same == 8
        assert read_identity(copy) == before
        with pytest.raises(IndexFolderError, match=r"other settings .*\(arch.new_option 0.75, not"):
            update("arch.args.new_option=0.75")


def test_an_index_of_a_former_release_is_taken_over(update, copy, monkeypatch):
    new = read_identity(copy)
    turn_back(copy)
    with pytest.raises(IndexFolderError, match=r"other settings .*num_frames 1, not 2"):
        update("data_loader.args.video_params.num_frames=1")
    with later_release(monkeypatch):
        assert update().plan.num_same == 8
    assert read_identity(copy) == new and new["format"] == 2
    turn_back(copy)  # its configuration is one that this release can't read
    (copy / "config.json").write_text('{"name": 3}')
    assert update().plan.num_same == 8
    assert read_identity(copy) == new


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("arch.args.fusion_heads=4", r"arch.fusion_heads 4, not as by default"),
        ("data_loader.args.video_params.num_frames=1", r"num_frames 1, not 2"),
        ("data_loader.args.tsfm_params.norm_std=[0.5,0.5,0.5]", r"tsfm_params.norm_std \[0.5"),
        ("data_loader.args.ocr_params.min_length=4", r"ocr_params.min_length 4, not as by def"),
    ],
)
def test_other_settings_of_the_forward_pass_are_refused(update, change, named):
    with pytest.raises(IndexFolderError, match=named):
        update(change)


def test_settings_of_training_do_not_matter(update):
    changes = ["load_checkpoint=nowhere.pth", "ocr_encoder_grad=false", "text_params.model=x"]
    changes += ["video_params.pretrained=true", "video_params.time_init=rand"]
    found = update(
        *(f"arch.args.{change}" for change in changes),
        "data_loader.args.tsfm_params.color_jitter=[0.1,0.1,0.1]",
        "data_loader.args.tsfm_params.resize_train=80",
        "data_loader.args.ocr_params.drop_words=0.3",
        "data_loader.args.ocr_params.noise=0.1",
        "data_loader.args.batch_size=2",
        "optimizer.args.lr=1",
        "seed=9",
    )
    assert found.plan.num_same == 8


def test_the_same_weights_in_another_file_are_the_same_model(update, built, copy, tmp_path):
    weights = load_checkpoint(built[1].checkpoint)["state_dict"]
    save_checkpoint(tmp_path / "slim.pth", {"state_dict": weights, "epoch": 3})
    before = read_identity(copy)
    assert update(checkpoint=tmp_path / "slim.pth").plan.num_same == 8
    after = read_identity(copy)
    assert after["path"] == str(tmp_path / "slim.pth") and after["weights"] == before["weights"]
    with VideoIndex.open(copy) as index:
        index.check_model(built[1].checkpoint)  # by its weights, as it is another file
    name = next(name for name, value in weights.items() if value.dim() == 2)
    weights[name] = weights[name] + 1e-3
    save_checkpoint(tmp_path / "other.pth", {"state_dict": weights})
    with pytest.raises(IndexFolderError, match=r"model .*slim.pth.*, not with .*other.pth"):
        update(checkpoint=tmp_path / "other.pth")


def test_an_architecture_with_other_names_of_arguments(built, make_config, tmp_path, monkeypatch):
    monkeypatch.setitem(ARCHITECTURES._entries, "OtherNames", Entry(OtherNames))
    library, config = built[1], make_config()
    own = config.arch.kwargs()
    data = {
        "frames": own["video_params"].model_dump(mode="json"),
        "words": own["text_params"].model_dump(mode="json"),
    }
    block, errors = check_block({"type": "OtherNames", "args": data}, ("arch",), ARCHITECTURES)
    assert not errors
    config = config.model_copy(update={"arch": block})
    save_checkpoint(tmp_path / "m.pth", {"state_dict": build_model(config, CPU).state_dict()})
    (tmp_path / "v").mkdir()
    video = next(library.videos.rglob("*.mp4"))
    shutil.copy(video, tmp_path / "v")
    model, source = ModelFile(tmp_path / "m.pth", config), OcrFolder(library.ocr)
    for num_same in (0, 1):
        done = update_index(tmp_path / "v", tmp_path / "i", model, source, IndexOptions())
        assert done.plan.num_same == num_same and not done.failed
    with VideoIndex.open(tmp_path / "i") as index:
        assert [hit.video for hit in index.search("a red circle", explain=True)] == [video.name]


def test_how_a_towers_frames_are_made_is_part_of_the_identity(built, monkeypatch):
    library, plain = built[1], FrozenInTime.describe_input
    own = {"resize": "square", "interpolation": "bicubic", "mean": (0.5,) * 3}
    describe = classmethod(lambda cls, **arguments: replace(plain(**arguments), **own))
    changes = ["data_loader.args.tsfm_params=null"]
    config = load_config(library.checkpoint.parent / "config.json", changes)
    before = ModelFile(library.checkpoint, config).settings()
    monkeypatch.setattr(FrozenInTime, "describe_input", describe)
    after = ModelFile(library.checkpoint, config).settings()
    made = {"resize": "square", "interpolation": "bicubic", "antialias": True}
    made |= {"norm_mean": [0.5, 0.5, 0.5]}
    expected = {f"tsfm_params.{name}": value for name, value in made.items()}
    assert after == before | expected | {"recipe": "tower"}
