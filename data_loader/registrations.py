"""Importing this module registers every data set, loader and reader that a file may name.

The package itself imports nothing, so that commands which need no torch start at once.
"""

from data_loader import (  # noqa: F401
    conceptual_captions,
    didemo,
    directory,
    loader,
    lsmdc,
    msrvtt,
    msvd,
    textvr,
    video_reader,
    webvid,
    youcook2,
)
