"""Search with a picture: what is read, how it is embedded, and the model that does it."""

import io
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import search as search_script
from base.batch import Sample
from base.config import resolve_config
from data_loader.collate import Collate, load_tokenizer
from data_loader.readers.video_readers import open_video
from data_loader.transforms import ClipTransform, DeviceTransform
from parse_config import load_config
from retrieval import VideoIndex
from retrieval.errors import ModelUnavailableError, WordsOnlyError
from retrieval.index import picture
from retrieval.index.ocr_text import OcrFolder, OcrSource
from retrieval.index.picture import MAX_PIXELS, MAX_RATIO, read_picture
from retrieval.index.tower import TowerModel
from retrieval.index.update import IndexOptions, update_index
from retrieval.search.example import MAX_PICTURE_BYTES
from tests.conftest import ROOT
from tests.model.small_towers import SIZE, write_tower
from tests.retrieval.conftest import CPU, Library
from trainer.build import build_model
from utils.checkpoint.files import load_checkpoint, save_checkpoint
from utils.errors import UserError
from utils.files import write_json

ORIENTATION = 0x0112  # of EXIF


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def make_gradient(width: int = 64, height: int = 40) -> Image.Image:
    """Another colour at each place, so that a turned picture differs."""
    y, x = np.mgrid[:height, :width]
    parts = [255 * x // width, 255 * y // height, 100 + 0 * x]
    return Image.fromarray(np.stack(parts, axis=2).astype(np.uint8))


def claim_size(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has this size."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    data = [
        struct.pack(">I", len(content)) + name + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in chunks
    ]  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(data)


def take_frame(video: Path) -> bytes:
    """The middle frame of a video, as a PNG."""
    with open_video(video, "av") as reader:
        (frame,) = reader.frames([reader.num_frames // 2])
    return encode(Image.fromarray(frame))


def test_pictures_of_every_kind_are_read(tmp_path):
    image = make_gradient()
    wanted = np.asarray(image)
    assert np.array_equal(read_picture(encode(image), "x"), wanted)
    (tmp_path / "photo.bin").write_bytes(encode(image, "BMP"))  # the content decides
    assert np.array_equal(read_picture(tmp_path / "photo.bin", "x"), wanted)
    for kind in ("JPEG", "WEBP", "GIF"):
        found = read_picture(encode(image, kind), "x")
        assert found.shape == wanted.shape and found.dtype == np.uint8
        assert np.abs(found.astype(int) - wanted).mean() < 12
    for mode in ("L", "P", "RGBA", "1", "LA", "I;16"):
        assert read_picture(encode(image.convert("L").convert(mode)), "x").shape == (40, 64, 3)
    assert read_picture(encode(image.convert("CMYK"), "JPEG"), "x").shape == (40, 64, 3)


def test_a_photo_is_turned_as_its_camera_was():
    image, exif = make_gradient(), Image.Exif()
    exif[ORIENTATION] = 6  # has to be turned to the right
    turned = read_picture(encode(image, exif=exif), "x")
    assert np.array_equal(turned, np.rot90(np.asarray(image), -1))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "x: is empty"),
        (b"no picture", "x: is no picture; give a JPEG, PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "x: is no picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "x: is no picture"),
        (encode(make_gradient(), "TIFF"), "x: is no picture"),
        (encode(make_gradient(400, 400), "JPEG")[:2000], "x: can't be read as a picture .*whole"),
        (encode(make_gradient())[:60], "x: can't be read as a picture"),
        (claim_size(50, 50), "x: can't be read as a picture"),
        (claim_size(10_000, 5_001), "10,000 x 5,001 pixels; a picture may have 50,000,000"),
        (claim_size(10_000, 10_000), "pixels; a picture may have"),  # of which Pillow warns
        (claim_size(100_000, 100_000), "pixels; a picture may have"),  # which Pillow refuses
        (claim_size(1, 51), "1 x 51 pixels; the longer side may be 50 times"),
    ],
)
def test_what_can_t_be_read_is_one_message(content, message, recwarn):
    with pytest.raises(UserError, match=message):
        read_picture(content, "x")
    assert not recwarn.list
    assert MAX_PIXELS == 50_000_000 and MAX_RATIO == 50


def test_files_that_are_none(tmp_path):
    for path, message in ((tmp_path, "is no file"), (tmp_path / "none.png", "is missing"),
                          (Path("/dev/zero"), "is no file")):  # fmt: skip
        with pytest.raises(UserError, match=f"{path}: {message}"):
            read_picture(path, str(path))
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(MAX_PICTURE_BYTES + 1)
    with pytest.raises(UserError, match=r"large.png: has 33,554,433 bytes; .* make it smaller"):
        read_picture(large, str(large))


def embed_by_hand(library: Library, content: bytes) -> np.ndarray:
    """What the model itself says of a clip of one frame, without words."""
    file = library.model
    model = build_model(file.config, torch.device("cpu"), initial_weights=False).eval()
    model.load_state_dict(load_checkpoint(file.path)["state_dict"])
    params = file.build_transforms()
    frame = torch.from_numpy(np.array(Image.open(io.BytesIO(content)))).permute(2, 0, 1)
    frames, _ = ClipTransform(params, train=False)(frame[None], None)
    collate = Collate(load_tokenizer(file.model_input.tokenizer_name), file.model_input.uses_ocr)
    batch = collate([Sample("x", 0, [], frames=frames, num_frames=1)])
    batch.video = DeviceTransform(params)(batch.video, None, batch.num_frames)
    assert batch.video.shape[:3] == (1, 1, 3)
    with torch.inference_mode():
        embeds = model.embed_videos_apart(batch)
    row = embeds.get("ocr", embeds["whole"])[0].numpy()
    return row / np.linalg.norm(row)


def test_a_picture_is_a_clip_of_one_frame_without_words(built):
    """Of a fusion model, it is compared with what the entries are without their words."""
    folder, library = built
    content = take_frame(next(library.videos.rglob("*.mp4")))
    wanted = embed_by_hand(library, content)
    with VideoIndex.open(folder) as index:
        with index.reading() as (_, snapshot):
            rows, without = (
                np.array(snapshot.vectors.windows),
                np.array(snapshot.vectors.without["ocr"]),
            )
            entries = snapshot.ids.tolist()
        assert np.abs(rows - without).max() > 0.01
        hits = index.search(image=content, mode="semantic", explain=True)
        similarities = without @ wanted
        assert [hit.id for hit in hits] == [entries[i] for i in np.argsort(-similarities)]
        for hit in hits:
            similarity = float(similarities[entries.index(hit.id)])
            assert hit.similarity == pytest.approx(similarity, abs=1e-5) == hit.score
            assert hit.explanation.similarity == hit.similarity and hit.explanation.ocr is None
        some = index.search(image=content, mode="semantic", folder=index.folders()[0])
        assert [hit.similarity for hit in some] == pytest.approx(
            [hit.similarity for hit in hits if hit.id in {h.id for h in some}], abs=1e-6
        )
        # With words: one sum, of which each part is compared with its own embeddings.
        text = index.load_query_encoder().embed("casino")
        mixed = (rows @ text + similarities) / np.linalg.norm(text + wanted)
        for hit in index.search("casino", image=content, mode="semantic"):
            similarity = float(mixed[entries.index(hit.id)])
            assert hit.similarity == pytest.approx(similarity, abs=1e-5)
        less = index.search("casino", minus_image=content, mode="semantic")
        order = np.argsort(-(rows @ text - 0.5 * similarities))
        assert [hit.id for hit in less] == [entries[i] for i in order]
        assert any(hit.words for hit in index.search("casino", image=content))


def test_a_model_that_only_sees(demo, make_checkpoint, test_names, tmp_path):
    library = Library(demo / "Videos", demo / "Kwai_VideoOCR", make_checkpoint("vision"))
    library.index(tmp_path / "i")
    content = take_frame(demo / "Videos" / test_names[0])
    wanted = embed_by_hand(library, content)
    file = tmp_path / "photo.png"
    file.write_bytes(content)
    with VideoIndex.open(tmp_path / "i") as index:
        with index.reading() as (_, snapshot):
            similarities = np.array(snapshot.vectors.windows) @ wanted
        hits = index.search(image=[file], mode="semantic", k=100)
        assert [hit.id - 1 for hit in hits] == np.argsort(-similarities).tolist()


@pytest.mark.parametrize(
    ("family", "modalities"), [("clip", '["vision"]'), ("siglip2", '["vision","ocr"]')]
)
def test_a_tower_embeds_a_picture_as_its_library(demo, test_names, tmp_path, family, modalities):
    tower = write_tower(tmp_path / "tower", family)
    changes = {"arch.args.tower": tower, "arch.args.pretrained": "true"}
    changes |= {"arch.args.modalities": modalities, "data_loader.args.data_dir": demo}
    options = [f"{name}={value}" for name, value in changes.items()]
    config = load_config(ROOT / "configs/demo/dual_encoder.json", options)
    checkpoint = tmp_path / "run" / "model.pth"
    checkpoint.parent.mkdir()
    write_json(checkpoint.parent / "config.json", resolve_config(config))
    save_checkpoint(checkpoint, {"state_dict": build_model(config, CPU).state_dict()})
    videos = tmp_path / "videos"
    for name in test_names[:3]:
        (videos / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(demo / "Videos" / name, videos / name)
    Library(videos, demo / "Kwai_VideoOCR", checkpoint).index(tmp_path / "i")
    image = make_gradient(SIZE, SIZE)  # of the tower's size, so that nothing is resized
    wanted = embed_by_library(tower, image)
    with VideoIndex.open(tmp_path / "i") as index:
        with index.reading() as (_, snapshot):
            rows = np.array(snapshot.vectors.without.get("ocr", snapshot.vectors.windows))
        found = index.load_picture_encoder().embed(encode(image), "x")
        np.testing.assert_allclose(found, wanted, atol=2e-5)
        hits = index.search(image=encode(image), mode="semantic")
        assert [hit.similarity for hit in hits] == pytest.approx(
            sorted(rows @ wanted)[::-1], abs=1e-4
        )
        assert len(index.search(like=1)) == 2


def embed_by_library(tower: str, image: Image.Image) -> np.ndarray:
    """Return the image features of the library's own model, of length 1."""
    model = transformers.AutoModel.from_pretrained(tower).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(tower)
    with torch.no_grad():
        inputs = processor(images=np.array(image), return_tensors="pt")
        row = model.get_image_features(**inputs).pooler_output[0]
    return (row / row.norm()).numpy()


def test_a_model_that_only_reads_says_so(library, make_checkpoint, tmp_path):
    reader = Library(library.videos, library.ocr, make_checkpoint("ocr"))
    reader.index(tmp_path / "i")
    with VideoIndex.open(tmp_path / "i") as index:
        with pytest.raises(UserError, match="demo_ocr, reads words and sees no pictures") as caught:
            index.search(image=encode(make_gradient()))
        assert not isinstance(caught.value, ModelUnavailableError)
        assert len(index.search(like=1)) == 7  # by its embedding


def test_the_model_has_to_be_the_one_of_the_index(library, tmp_path, run_main):
    """Gone, or another: one message with the remedy, which helps; words need no model."""
    checkpoint = tmp_path / "run" / "model.pth"
    shutil.copytree(library.checkpoint.parent, checkpoint.parent)
    mine = Library(library.videos, library.ocr, checkpoint)
    out, photo = tmp_path / "i", tmp_path / "photo.png"
    mine.index(out)
    photo.write_bytes(encode(make_gradient()))
    state = load_checkpoint(checkpoint)["state_dict"]
    checkpoint.unlink()
    code, _, error = run_main(search_script, out, "--image", photo)
    error = error.splitlines()[-1]  # after the index's progress bar
    assert code == 2 and error.startswith("a picture is embedded by the model of the index, demo_")
    assert f"{checkpoint}: can't be read" in error and "index.py VIDEOS --out INDEX -r" in error
    with VideoIndex.open(out) as index:
        assert len(index.search("casino")) == 8 and len(index.search(like=1)) == 7
    other = {name: weight + 0.1 for name, weight in state.items()}
    save_checkpoint(checkpoint, {"state_dict": other})
    code, _, error = run_main(search_script, out, "--image", photo)
    assert code == 2 and "was made with the model" in error
    save_checkpoint(checkpoint, {"state_dict": state, "epoch": 7})  # another file, the same weights
    code, text, _ = run_main(search_script, out, "--image", photo)
    assert code == 0 and text.startswith("   time")
    checkpoint.rename(tmp_path / "run" / "moved.pth")
    Library(library.videos, library.ocr, tmp_path / "run" / "moved.pth").index(out)  # the remedy
    assert run_main(search_script, out, "--image", photo)[0] == 0
    assert run_main(search_script, out, "--image", tmp_path / "none.png")[0] == 2


def test_the_model_is_loaded_once_and_only_for_pictures(built, monkeypatch):
    loaded, load = [], picture.load_video_encoder
    monkeypatch.setattr(
        picture, "load_video_encoder", lambda *given: loaded.append(1) or load(*given)
    )
    with VideoIndex.open(built[0]) as index:
        index.search("casino", like=1)
        assert loaded == []
        first = index.search(image=encode(make_gradient()))
        assert index.search(image=encode(make_gradient())) == first and loaded == [1]


def test_a_tower_by_its_name_and_the_one_that_replaces_it(library, tmp_path):
    """Loaded by its name, compared by its weights; another model is loaded when it takes over."""
    out, image = tmp_path / "i", make_gradient(SIZE, SIZE)
    first, second = (
        TowerModel(write_tower(tmp_path / family, family)) for family in ("clip", "siglip")
    )
    update_index(library.videos, out, None, OcrFolder(library.ocr), IndexOptions())
    with VideoIndex.open(out) as index:
        for options in ({"image": encode(image)}, {"like": 1}):
            with pytest.raises(WordsOnlyError, match="holds words only"):
                index.search(**options)
        assert index.search("casino", minus="hotel", group=True)
        for model in (first, second):
            options = IndexOptions(replace_model=model is second)
            update_index(library.videos, out, model, OcrFolder(library.ocr), options)
            found = index.load_picture_encoder().embed(encode(image), "x")
            np.testing.assert_allclose(found, embed_by_library(model.name, image), atol=2e-5)
            assert len(index.search("casino", image=encode(image), like=1)) == 7
    shutil.rmtree(tmp_path / "siglip")
    with VideoIndex.open(out) as index:
        assert len(index.search("casino", like=1, mode="semantic")) == 7
        with pytest.raises(ModelUnavailableError, match="which can't be loaded: .*siglip"):
            index.search(image=encode(image))
    write_tower(tmp_path / "siglip", "siglip", seed=5)
    with VideoIndex.open(out) as index:
        with pytest.raises(ModelUnavailableError, match="was made with the model .*siglip"):
            index.search(image=encode(image))


def test_a_video_tower_takes_a_video_of_one_frame(library, tmp_path):
    model = TowerModel(write_tower(tmp_path / "tower", "videoprism"))
    update_index(library.videos, tmp_path / "i", model, OcrSource(), IndexOptions())
    picture = make_gradient(SIZE, SIZE)
    alone = transformers.AutoModel.from_pretrained(model.name).eval()
    processor = transformers.AutoVideoProcessor.from_pretrained(model.name)
    pixels = processor([np.array(picture)[None]], return_tensors="pt")["pixel_values_videos"]
    with torch.no_grad():
        features = alone.get_video_features(
            pixel_values_videos=pixels, interpolate_pos_encoding=True
        )
    wanted = features.pooler_output[0, 0]
    with VideoIndex.open(tmp_path / "i") as index:
        found = index.load_picture_encoder().embed(encode(picture), "x")
        np.testing.assert_allclose(found, wanted / wanted.norm(), atol=2e-5)
        assert len(index.search(image=encode(picture))) == 8
