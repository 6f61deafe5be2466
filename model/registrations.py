"""Importing this module registers every architecture, loss and metric that a file may name."""

from model import frozen_in_time, loss, metric  # noqa: F401
