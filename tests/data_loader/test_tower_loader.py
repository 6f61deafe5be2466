"""From a configuration to a tower's own numbers: videos, captions and words of real files."""

import json

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional as F

from base.config import resolve_config
from data_loader.frame_sampling import sample_frame_indices
from data_loader.readers.video_readers import open_video
from parse_config import load_config
from parsing.config_builder import build_config
from tests.conftest import ROOT
from tests.model.small_towers import SIZE, write_tower
from trainer.build import build_loader, build_model
from utils.errors import UserError

FAMILIES = ("clip", "siglip", "siglip2")  # transformers has an image processor of each
CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=FAMILIES)
def tower(request, tmp_path_factory):
    return write_tower(tmp_path_factory.mktemp("tower") / request.param, request.param)


def configure(demo, tower, *changes):
    """The demo's fusion, by a tower; the data loader's size of frames is the default."""
    arch = {"type": "DualEncoder", "args": {"tower": tower}}
    sizes = {"input_res": 224, "num_frames": 2}
    return load_config(
        ROOT / "configs/demo/fusion.json",
        [
            f"arch={json.dumps(arch)}",
            f"data_loader.args.data_dir={demo}",
            f"data_loader.args.video_params={json.dumps(sizes)}",
            "data_loader.args.tsfm_params=null",
            "data_loader.args.batch_size=4",
            "data_loader.args.num_workers=0",
            *changes,
        ],
    )


def read_frames(path):
    with open_video(path) as video:
        return video.frames(sample_frame_indices(2, video.num_frames))


@torch.no_grad()
def test_a_configuration_gives_the_librarys_zero_shot_numbers(tower, demo):
    prompt = "a sign reads {}"
    config = configure(demo, tower, f'arch.args.prompt="{prompt}"')
    model = build_model(config, CPU).eval()
    loader = build_loader(config, 0, training=False, split="test")
    batch = loader.to_device(next(iter(loader)), CPU)
    found = model(batch)

    library = transformers.AutoModel.from_pretrained(tower).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(tower)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tower)
    entries = loader.dataset.entries[:4]
    frames = [frame for entry in entries for frame in read_frames(entry.video)]
    images = processor(list(frames), return_tensors="pt")
    if "spatial_shapes" in images:  # it keeps the shape of images that are no square
        square = transformers.SiglipImageProcessor(
            size={"height": SIZE, "width": SIZE}, resample=processor.resample
        )
        resized = square(list(frames), do_rescale=False, do_normalize=False)["pixel_values"]
        images = processor(list(resized), return_tensors="pt")
    vectors = F.normalize(library.get_image_features(**images).pooler_output, dim=-1)
    expected = F.normalize(vectors.view(4, 2, -1).mean(1), dim=-1)
    torch.testing.assert_close(F.normalize(found["fusion"], dim=-1), expected, atol=1e-5, rtol=0)

    captions = [prompt.format(e.captions[0].lower()) for e in entries]
    tokens = tokenizer(captions, padding="max_length", max_length=16, truncation=True,
                       return_tensors="pt")  # fmt: skip
    if "siglip" in tower:
        tokens.pop("attention_mask", None)
    texts = F.normalize(library.get_text_features(**tokens).pooler_output, dim=-1)
    torch.testing.assert_close(F.normalize(found["text"], dim=-1), texts, atol=1e-5, rtol=0)
    decoded, words = loader.get_texts(batch, 0)
    assert "<end>" not in decoded[0] and words


def test_a_resolved_configuration_is_read_again(tower, demo):
    config = configure(demo, tower)
    again = build_config(resolve_config(config), "x.json", (), [])
    for made in (config, again):
        params = build_loader(made, 0, training=True, only_dataset=True).dataset.transform.params
        assert (params.recipe, params.input_res, params.antialias) == ("tower", SIZE, True)


@pytest.mark.parametrize(
    ("change", "texts"),
    [
        ("video_params.input_res=64", ["64", f"{SIZE}"]),
        ('tsfm_params={"input_res": 64}', ["64", f"{SIZE} pixels"]),
        ('tsfm_params={"recipe": "textvr"}', ['"textvr"', f"{SIZE} pixels"]),
        ('tsfm_params={"norm_mean": [0.1, 0.2, 0.3]}', ["[0.1, 0.2, 0.3]", "[0.4, 0.5, 0.6]"]),
    ],
)
@pytest.mark.parametrize("tower", ["clip"], indirect=True)
def test_what_contradicts_the_tower_is_one_line_when_it_is_read(tower, demo, change, texts):
    with pytest.raises(UserError) as caught:
        configure(demo, tower, f"data_loader.args.{change}")
    [said] = caught.value.problems
    key = change.partition("=")[0]
    assert said.startswith(f"data_loader.args.{key}") and all(text in said for text in texts)


@pytest.mark.parametrize("tower", ["clip"], indirect=True)
def test_the_words_of_a_video_as_a_caption(tower, demo):
    config = configure(demo, tower, "arch.args.ocr=caption")
    loaders = [build_loader(config, 0, training=True)]
    loaders.append(build_loader(config, 0, training=False, split="test"))
    for loader in loaders:
        batch = next(iter(loader))
        assert batch.words.mask.all() and batch.words.index.shape == (len(batch), 1)
        assert not batch.words.tracks.any()
        assert batch.words.input_ids.shape[1] <= 16
        assert set(batch.words.token_ids()) <= set(loader.word_tokens)
        words = [loader.dataset.get_words(i) for i in batch.video_index.tolist()]
        joined = [loader.collate.tokenize_distinct_words([own])[0] for own in words]
        found = [batch.words.token_ids()[row] for row in batch.words.index[:, 0].tolist()]
        assert found == joined and any(len(own) > 1 for own in words)
    with torch.no_grad():
        embeds = build_model(config, CPU).eval()(loader.to_device(batch, CPU))
    assert np.isfinite(embeds["fusion"].numpy()).all()
