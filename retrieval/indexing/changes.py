"""What has changed in a folder of videos since it was indexed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from retrieval.indexing.text import OcrSource
from retrieval.storage.contents import Stamp
from retrieval.storage.rows import KnownVideo
from utils.errors import UserError

Stamps = tuple[Stamp, Stamp | None]


@dataclass
class Changes:
    """What is to be done, by path within the folder.

    Attributes:
        add: new videos.
        update: videos whose file, or whose text, is another one.
        drop: videos that are gone.
        touch: number in the index -> stamps, of videos that only have another time.
        failed: path -> why it can't be compared; the index keeps what it has.
        num_same: videos that are as they were.
    """

    add: list[str] = field(default_factory=list)
    update: list[str] = field(default_factory=list)
    drop: list[str] = field(default_factory=list)
    touch: dict[int, Stamps] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    num_same: int = 0

    def summary(self) -> str:
        """Return one line."""
        counts = {
            "to add": self.add,
            "to update": self.update,
            "to drop": self.drop,
            "unreadable": self.failed,
        }
        parts = [f"{len(videos)} {what}" for what, videos in counts.items()]
        return ", ".join([*parts, f"{self.num_same} unchanged"])


def compare(
    folder: Path, names: Iterable[str], known: Mapping[str, KnownVideo], source: OcrSource
) -> Changes:
    """Compare a folder with what an index knows of it.

    A file of the same size and time is taken for the same, one of another size for another;
    otherwise its content decides.

    Args:
        folder: of the videos.
        names: paths of the videos in it.
        known: what the index has.
        source: of the text.
    """
    changes = Changes()
    names = list(names)
    changes.drop = sorted(known.keys() - set(names))
    for name in names:
        if name not in known:
            changes.add.append(name)
            continue
        try:
            now = _same(folder / name, name, known[name], source)
        except (UserError, OSError) as error:
            changes.failed[name] = str(error)
            continue
        if now is None:
            changes.update.append(name)
            continue
        changes.num_same += 1
        if now != known[name][1:]:
            changes.touch[known[name].id] = now
    return changes


def _same(file: Path, name: str, before: KnownVideo, source: OcrSource) -> Stamps | None:
    """The stamps of a video whose content, and whose text, is what it was; None: it is not."""
    ocr = source.stamp(name, before.ocr_stamp)
    if (ocr and ocr.sha256) != (before.ocr_stamp and before.ocr_stamp.sha256):
        return None
    if before.stamp.is_like(file):
        return before.stamp, ocr
    if file.stat().st_size != before.stamp.size:
        return None
    stamp = Stamp.of(file)
    return (stamp, ocr) if stamp.sha256 == before.stamp.sha256 else None
