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
        stamps: of the videos to add and to update.
        failed: path -> why it can't be read.
        num_same: videos that are as they were.
    """

    add: list[str] = field(default_factory=list)
    update: list[str] = field(default_factory=list)
    drop: list[str] = field(default_factory=list)
    touch: dict[int, Stamps] = field(default_factory=dict)
    stamps: dict[str, Stamps] = field(default_factory=dict)
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

    A file of the same size and time is taken for the same; otherwise its content decides.

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
        before = known.get(name)
        try:
            now = _stamps(folder / name, name, before, source)
        except (UserError, OSError) as error:
            changes.failed[name] = str(error)
            continue
        if before is not None and _content(now) == _content((before.stamp, before.ocr_stamp)):
            changes.num_same += 1
            if now != (before.stamp, before.ocr_stamp):
                changes.touch[before.id] = now
        else:
            (changes.add if before is None else changes.update).append(name)
            changes.stamps[name] = now
    return changes


def _stamps(file: Path, name: str, before: KnownVideo | None, source: OcrSource) -> Stamps:
    same = before is not None and before.stamp.is_like(file)
    stamp = before.stamp if same else Stamp.of(file)
    return stamp, source.stamp(name, None if before is None else before.ocr_stamp)


def _content(stamps: Stamps) -> tuple[str | None, ...]:
    return tuple(stamp and stamp.sha256 for stamp in stamps)
