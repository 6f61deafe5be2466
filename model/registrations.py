"""Registrations: importing this module registers every part of a model that a file may name."""

from model import (  # noqa: F401
    dual_encoder,
    frozen_in_time,
    loss,
    metric,
    open_clip_tower,
    word_overlap,
)
