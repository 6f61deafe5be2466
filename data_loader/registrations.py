"""Importing this module registers every data set, loader and reader that a file may name.

The package itself imports nothing, so that commands which need no torch start at once.
"""

from data_loader import loader, textvr, video_reader  # noqa: F401
