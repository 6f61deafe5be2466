"""Registrations: importing this module registers every part of a model that a file may name."""

from model import frozen_in_time, loss, metric, word_overlap  # noqa: F401
