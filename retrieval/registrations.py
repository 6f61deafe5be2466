"""Imports every module of this package that registers a name."""

import retrieval.spotting.rapid_ocr  # noqa: F401
