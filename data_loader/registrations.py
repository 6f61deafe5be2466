"""Registration of every data set, loader and reader that a configuration may name.

The package itself imports nothing, so that commands which need no torch start at once.
"""

from data_loader import loader  # noqa: F401
from data_loader.datasets import (  # noqa: F401
    csv_tables,
    directory,
    lsmdc,
    msrvtt,
    published_names,
    textvr,
)
from data_loader.readers import video_readers  # noqa: F401
