"""Names of data sets and readers in the configuration files of TextVR's published code.

Its classes for data sets in TextVR's form take annotations and videos from folders written in the
code, and the split's name from ``dataset_name``: the ``data_dir`` and ``cut`` of such a file mean
nothing. ``NAME_zyzocranns`` are read with OCR documents; whether a model is given frames, words or
both is a constant of the code. ``NAME_zyzanns`` have frames only, and transforms of their own.
"""

from base.registry import DATASETS, VIDEO_READERS, PublishedName

WITH_OCR, FRAMES_ONLY = "zyzocranns", "zyzanns"
_NOTE = "the published code knew folder and cut by the name: check data_loader.args.data_dir"
# published stem -> registered name and cut
_STEMS = {
    "VITVR": ("TextVR", None),
    "MSRVTT": ("MSRVTT", "split"),
    "MSVD": ("MSVD", "split"),
    "DIDEMO": ("DiDeMo", "split"),
    "WEBVID": ("WebVid", "split"),
    "WEBIVD": ("WebVid", "split"),  # as the code spells it
    "YOUCOOK2SEG": ("YouCook2", "split"),
    "youcook2": ("YouCook2", "split"),
}
_MSRVTT_CUTS = {"official": "official_split", "oneka": "oneka_split"}


def _add_names() -> None:
    mild = {"tsfm_params": {"recipe": "textvr_mild"}}
    for kind in (WITH_OCR, FRAMES_ONLY):
        frames_only = kind == FRAMES_ONLY
        more = {"modalities": ("vision",), "defaults": mild} if frames_only else {}
        for stem, (name, cut) in _STEMS.items():
            DATASETS.published[f"{stem}_{kind}"] = PublishedName(
                name, {"cut": cut}, note=_NOTE, **more
            )
        for end, cut in _MSRVTT_CUTS.items():
            DATASETS.published[f"MSRVTT_{kind}_{end}"] = PublishedName(
                "MSRVTT", {"cut": cut}, note=_NOTE, **more
            )
    for name in ("combine", "combine3000"):
        DATASETS.refuse(
            f"{name}_{WITH_OCR}",
            "a mixture of data sets whose annotations were never published; give a list of loaders",
        )
    VIDEO_READERS.published["imgs"] = PublishedName(
        "av",
        note="it read JPEG frames from a folder of its own, or else the video; the videos are "
        "read, and python -m tools.cache_frames keeps their frames",
    )


_add_names()
