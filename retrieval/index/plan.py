"""The plan of an update: what has changed in a folder of videos since it was indexed."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from retrieval.index.database import ContentStamp, KnownVideo
from retrieval.index.ocr_text import OcrSource
from utils.errors import UserError

Stamps = tuple[ContentStamp, ContentStamp | None]


@dataclass
class UpdatePlan:
    """What is to be done, by path within the folder.

    Attributes:
        update: videos whose file, or whose text, is another one.
        touch: number in the index -> stamps, of videos that only have another time.
        failed: path -> why it can't be compared; the index keeps what it has.
    """

    add: list[str] = field(default_factory=list)  # new videos
    update: list[str] = field(default_factory=list)
    drop: list[str] = field(default_factory=list)  # videos that are gone
    touch: dict[int, Stamps] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    num_same: int = 0  # videos that are as they were

    def summarize(self) -> str:
        """Return one line."""
        counts = {
            "to add": self.add,
            "to update": self.update,
            "to drop": self.drop,
            "unreadable": self.failed,
        }
        parts = [f"{len(videos)} {what}" for what, videos in counts.items()]
        return ", ".join([*parts, f"{self.num_same} unchanged"])


def plan_update(
    folder: Path, names: Iterable[str], known: Mapping[str, KnownVideo], source: OcrSource
) -> UpdatePlan:
    """Compare a folder of videos with what an index knows of it.

    A file of the same size and time is taken for the same, one of another size for another;
    otherwise its content decides.
    """
    plan, names = UpdatePlan(), list(names)
    plan.drop = sorted(known.keys() - set(names))
    source.find_documents(names)
    for name in names:
        if name not in known:
            plan.add.append(name)
            continue
        try:
            now = _compare_video(folder / name, name, known[name], source)
        except (UserError, OSError) as error:
            plan.failed[name] = str(error)
            continue
        if now is None:
            plan.update.append(name)
            continue
        plan.num_same += 1
        if now != known[name][1:]:
            plan.touch[known[name].id] = now
    return plan


def _compare_video(file: Path, name: str, before: KnownVideo, source: OcrSource) -> Stamps | None:
    """Return the stamps of a video whose content and text are what they were; None: they aren't."""
    ocr = source.get_stamp(name, before.ocr_stamp)
    if (ocr and ocr.sha256) != (before.ocr_stamp and before.ocr_stamp.sha256):
        return None
    if before.stamp.has_size_and_time_of(file):
        return before.stamp, ocr
    if file.stat().st_size != before.stamp.size:
        return None
    stamp = ContentStamp.of(file)
    return (stamp, ocr) if stamp.sha256 == before.stamp.sha256 else None
