"""The 22 configuration files of TextVR's and Frozen in Time's published code: what each means.

Their facts only: names, sizes and counts; what all of them have alike is written once.
"""

import copy
from typing import NamedTuple

import pytest

from base.config import ConfigError, resolve_config
from base.registry import DATASETS
from data_loader.transforms import TransformParams
from parse_config import config_from_dict
from parsing.schema import make_file_schema

BOTH, VISION, OCR = ("vision", "ocr"), ("vision",), ("ocr",)
OLD_KEYS = {"extraction_fps": 25, "extraction_res": 256, "stride": 1}


class Fact(NamedTuple):
    """A file: its name, what it says, and what that means."""

    file: str
    name: str
    dataset: str
    cut: str | None
    means: tuple | str  # modalities, data set, cut, recipe; or a part of the refusal
    arch: str = "FrozenInTime"
    reader: str | None = None
    batch: int = 64
    course: tuple[int, int, int] = (100, 9000, 10)  # epochs, samples an epoch, early stop


NO_CLASS = "its class is commented out"
NOT_PUBLISHED = "annotations were never published"
TEXTVR = [
    Fact("TextVR_fusion", "TextVR_fusion", "TextVR", "split", (BOTH, "TextVR", "split", "textvr"),
         reader="decord", course=(300, 20000, 200)),
    Fact("TextVR_ocr", "VITVR_ocr_all_ocr_gg", "VITVR_zyzocranns", "split",
         (OCR, "TextVR", None, "textvr"), course=(50, 7000, 30)),
    Fact("TextVR_vision", "TextVR_vision", "VITVR_zyzocranns", "split",
         (VISION, "TextVR", None, "textvr"), reader="imgs", course=(100, 7000, 10)),
    Fact("MSR-VTT_fusion", "MSRVTT_fusion", "MSRVTT", "split",
         (BOTH, "MSRVTT", "split", "textvr"), reader="decord", course=(100, 9000, 20)),
    Fact("WebVid_fusion", "WebVid_fusion", "WebVid", "split",
         (BOTH, "WebVid", "split", "textvr"), reader="decord", course=(100, 3000000, 100)),
    Fact("combine3000_frozen", "combine3000_frozen", "combine3000_zyzocranns", "jsfusion",
         NOT_PUBLISHED, course=(50, 9000, 50)),
    Fact("combine3000_frozen_v2", "combine3000_frozen_v2_gradstop_modalityebd",
         "combine3000_zyzocranns", "jsfusion", NO_CLASS, arch="FrozenInTime_v2"),
    Fact("combine_ocr", "debug", "combine_zyzocranns", "jsfusion", NOT_PUBLISHED,
         arch="FrozenInTime_v2"),
    Fact("didemo", "DIDEMO", "DIDEMO_zyzanns", "jsfusion",
         (VISION, "DiDeMo", "split", "textvr_mild")),
    Fact("msrvtt_ocr_official", "debug", "MSRVTT_zyzocranns_official", "jsfusion", NO_CLASS,
         arch="FrozenInTime_v1", batch=4),
    Fact("msrvtt_official", "MSRVTT_official", "MSRVTT_zyzanns_official", "jsfusion",
         (VISION, "MSRVTT", "official_split", "textvr_mild")),
    Fact("msrvtt_oneka", "MSRVTT_oneka", "MSRVTT_zyzocranns_oneka", "jsfusion",
         (BOTH, "MSRVTT", "oneka_split", "textvr")),
    Fact("msrvtt_vision_oneka", "MSRVTT_vision_oneka", "MSRVTT_zyzocranns_oneka", "jsfusion",
         (VISION, "MSRVTT", "oneka_split", "textvr")),
    Fact("msvd", "MSVD", "MSVD_zyzocranns", "jsfusion", (BOTH, "MSVD", "split", "textvr")),
    Fact("youcook2", "youcook2_fusion_ocr", "YOUCOOK2SEG_zyzocranns", "jsfusion",
         (BOTH, "YouCook2", "split", "textvr"), reader="cv2", course=(50, 9000, 30)),
    Fact("youcook2_ocr", "youcook2_v2", "youcook2_zyzocranns", "jsfusion", NO_CLASS,
         arch="FrozenInTime_v2"),
]  # fmt: skip
WEB = (100, 1000000, 10)
FROZEN = [
    Fact("cc-pt-i2k", "CC3M--1f-pti2k", "ConceptualCaptions3M", None,
         (VISION, "ConceptualCaptions3M", None, "frozen_in_time"), batch=8, course=WEB),
    Fact("webvid2m-pt-i2k", "WebVid2M-1f-pti2k", "WebVid", "2M",
         (VISION, "WebVid", "2M", "frozen_in_time"), batch=448, course=WEB),
    Fact("cc-webvid2m-pt-i2k", "CC3M-WebVid2M-1f-pti2k", "WebVid", "2M",
         (VISION, "WebVid", "2M", "frozen_in_time"), batch=8, course=WEB),
    Fact("msrvtt_4f_i21k", "MSRVTTjsfusion_4f_stformer_pt-im21k", "MSRVTT", "jsfusion",
         (VISION, "MSRVTT", "jsfusion", "frozen_in_time"), batch=16),
    Fact("image_feat_extract", "ImageDirectoryFeatureExtraction", "ImageDirectory", None,
         (VISION, "ImageDirectory", None, "frozen_in_time"), batch=16),
    Fact("video_feat_extract", "VideoDirectoryFeatureExtraction", "ImageDirectory", None,
         (VISION, "ImageDirectory", None, "frozen_in_time"), batch=16),
]  # fmt: skip


def make_loader(fact: Fact, lists: bool) -> dict:
    args = {
        "dataset_name": fact.dataset,
        "data_dir": "data",
        "shuffle": True,
        "num_workers": 16,
        "batch_size": fact.batch,
        "split": "test" if fact.dataset == "ImageDirectory" else "train",
        "subsample": 1,
        "text_params": {"input": "text"},
        "video_params": {"input_res": 224, "num_frames": 4},
    }
    if lists or fact.dataset == "ConceptualCaptions3M":
        args["video_params"] |= {"num_frames": 1, "loading": "lax"}
    elif fact in TEXTVR or fact.dataset == "MSRVTT":
        args["video_params"] |= OLD_KEYS
    for key, value in (("cut", fact.cut), ("reader", fact.reader)):
        if value is not None:
            args[key] = value
    return {"type": "TextVideoDataLoader", "args": args}


def make_file(fact: Fact) -> dict:
    lists = fact.course == WEB
    loaders = [make_loader(fact, lists)]
    if fact.file == "cc-webvid2m-pt-i2k":
        images = fact._replace(dataset="ConceptualCaptions3M", cut=None, reader="cv2")
        loaders.insert(0, make_loader(images, lists))
    video = {
        "model": "SpaceTimeTransformer",
        "arch_config": "base_patch16_224",
        "num_frames": 4,
        "pretrained": True,
        "time_init": "zeros",
    }
    text = {"model": "distilbert-base-uncased", "pretrained": True, "input": "text"}
    arch = {"video_params": video, "text_params": text, "projection": "minimal"}
    if fact.file == "didemo":
        video["loading"] = "nostrict"
    extracts = fact.file.endswith("feat_extract")
    arch["load_checkpoint"] = "/work/checkpoint-epoch6.pth" if extracts else ""
    epochs, samples, early_stop = fact.course
    return {
        "name": fact.name,
        "n_gpu": 8 if fact in TEXTVR else 4,
        "arch": {"type": fact.arch, "args": arch},
        "data_loader": loaders if lists else loaders[0],
        "optimizer": {"type": "AdamW", "args": {"lr": 3e-5}},
        "loss": {"type": "NormSoftmaxLoss", "args": {}},
        "metrics": ["t2v_metrics", "v2t_metrics"],
        "trainer": {
            "epochs": epochs,
            "max_samples_per_epoch": samples,
            "save_dir": "exps",
            "save_period": 5,
            "verbosity": 2,
            "monitor": "min val_loss_0",
            "early_stop": early_stop,
            "neptune": extracts,
        },
        "visualizer": {"type": ""} if lists else {"type": "", "args": {}},
    }


def test_there_are_sixteen_and_six():
    assert (len({fact.file for fact in TEXTVR}), len({fact.file for fact in FROZEN})) == (16, 6)


@pytest.mark.parametrize("fact", TEXTVR + FROZEN, ids=lambda fact: fact.file)
def test_a_published_file_means_what_it_meant_or_is_refused_with_the_reason(fact, caplog):
    data = make_file(fact)
    given = copy.deepcopy(data)
    if isinstance(fact.means, str):
        with pytest.raises(ConfigError) as caught:
            config_from_dict(data, "x.json")
        assert any(fact.means in problem for problem in caught.value.problems)
        assert all("can't be had: " in problem for problem in caught.value.problems)
        return
    config = config_from_dict(data, "x.json")
    modalities, name, cut, recipe = fact.means
    assert data == given and config.arch.args.modalities == modalities
    args = config.data_loader[-1].args
    assert (args.dataset_name, args.cut, args.batch_size) == (name, cut, fact.batch)
    own = DATASETS.get(args.dataset_name).get_recipe(args.cut)
    found = (args.tsfm_params or TransformParams()).resolve(own, args.video_params.input_res)
    assert found.recipe == recipe
    assert args.reader == (fact.reader if fact.reader in ("decord", "cv2") else "av")
    said = [record.getMessage() for record in caplog.records]
    [chosen] = [text for text in said if "arch.args.modalities: " in text]
    assert chosen.startswith(f"x.json: arch.args.modalities: {' and '.join(modalities)}, because ")
    renamed = [text for text in said if f'"{fact.dataset}" is {name}' in text]
    assert len(renamed) == (fact.dataset != name)
    # What is saved beside a checkpoint says it all, and is read without a word.
    caplog.clear()
    saved = resolve_config(config)
    assert resolve_config(config_from_dict(saved, "saved")) == saved
    assert not [r for r in caplog.records if "no effect" in r.getMessage()]
    assert "modalities" not in caplog.text


def test_the_modalities_of_a_file_win(caplog):
    data = make_file(FROZEN[3])
    data["arch"]["args"]["modalities"] = ["ocr"]
    assert config_from_dict(data, "x.json").arch.args.modalities == OCR
    assert "modalities" not in caplog.text


def test_a_set_of_frozen_in_time_with_ocr_documents_is_read():
    data = make_file(FROZEN[3])
    data["data_loader"]["args"] |= {"ocr_dir": "ocr", "tsfm_params": {"hflip": False}}
    assert config_from_dict(data, "x.json").arch.args.modalities == BOTH


def test_data_sets_that_do_not_agree_ask_for_the_key():
    data = make_file(FROZEN[2])
    data["data_loader"].append(make_loader(TEXTVR[0], False))
    with pytest.raises(ConfigError) as caught:
        config_from_dict(data, "x.json")
    [problem] = [p for p in caught.value.problems if p.startswith("arch.args.modalities: ")]
    assert "missing, and the data does not say it (vision, because ConceptualCaptions3M" in problem
    assert "vision and ocr, because TextVR" in problem
    assert problem.endswith('set it to ["vision"], ["ocr"] or ["vision", "ocr"]')


def test_what_is_set_beside_an_old_name_stays():
    data = make_file(TEXTVR[8])
    data["data_loader"]["args"]["tsfm_params"] = {"recipe": "textvr", "antialias": True}
    params = config_from_dict(data, "x.json").data_loader[0].args.tsfm_params
    assert (params.recipe, params.antialias) == ("textvr", True)


def test_an_old_name_works_with_a_list_and_from_the_command_line():
    data = make_file(FROZEN[2])
    data["data_loader"].pop(0)
    config = config_from_dict(data, "x.json", ["data_loader.0.args.dataset_name=MSVD_zyzanns"])
    args = config.data_loader[0].args
    assert (args.dataset_name, args.cut, config.arch.args.modalities) == ("MSVD", "split", VISION)


def test_editors_accept_the_old_names():
    args = make_file_schema()["$defs"]["TextVideoDataLoaderArgs"]["properties"]
    assert {"MSVD_zyzocranns", "TextVR"} <= set(args["dataset_name"]["enum"])
    assert "imgs" in args["reader"]["enum"]
