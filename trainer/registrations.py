"""Importing this module registers every optimizer and schedule that a file may name."""

from trainer import optim  # noqa: F401
