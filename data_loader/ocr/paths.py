"""Paths of OCR documents: the one rule for every data set and command.

A document lies where its video lies, within a folder of its own, and is named after the whole name
of the file: ``a/talk.mp4`` has ``a/talk.mp4.json``. The published form, ``a/talk.json``, is read
where there is no other; where two videos would share it (``talk.mp4`` and ``talk.mov``) it is
neither's, and that is said. What an annotation names is read wherever it is there.
"""

import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

logger = logging.getLogger(__name__)


def name_document(video: str) -> str:
    """Return the path of a video's document: ``a/talk.mp4`` -> ``a/talk.mp4.json``."""
    return f"{video}.json"


def name_published_document(video: str) -> str:
    """Return the path of a video's document in the published form: ``a/talk.json``."""
    return str(PurePosixPath(video).with_suffix(".json"))


def find_document(folder: Path, video: str, given: str | None = None) -> Path:
    """Return the document of one video, which may be missing.

    Args:
        folder: of the documents.
        video: POSIX path within its own folder.
        given: what an annotation names, which comes before the video's own name; None: the
            document named fully where that is there, else the published form.
    """
    named = folder / name_document(video)
    if given is None:
        return named if named.is_file() else folder / name_published_document(video)
    path = folder / given
    return named if not path.is_file() and named.is_file() else path


def find_documents(folder: Path, videos: Sequence[str]) -> list[Path | None]:
    """Return the documents of the videos of a folder; None where two could share one.

    Args:
        folder: of the documents.
        videos: POSIX paths within their own folder, all of them.
    """
    full_names = set(map(name_document, videos))
    owners = defaultdict(list)
    for video in videos:
        owners[name_published_document(video)].append(video)
    documents, ambiguous = [], set()
    for video in videos:
        name = name_published_document(video)
        path: Path | None = find_document(folder, video)
        if path == folder / name != folder / name_document(video):
            if name in full_names:  # the document of another video, x.mp4 beside x.mp4.mov
                path = folder / name_document(video)
            elif len(owners[name]) > 1 and path.is_file():
                ambiguous.add(name)
                path = None
        documents.append(path)
    for name in sorted(ambiguous):
        logger.warning(
            "%s: could be the text of %s, so it is used for none of them; name it after its video, "
            "for example %s",
            folder / name, " and of ".join(owners[name]), name_document(owners[name][0]),
        )  # fmt: skip
    return documents
