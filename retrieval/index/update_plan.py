"""Plan of an update: what has come, changed, moved and gone since an index was last written."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from retrieval.index.ocr_text import OcrSource
from retrieval.index.records import KnownVideo, Stamps
from retrieval.index.roots import Folder, Roots
from retrieval.index.store import StoreWriter
from utils.errors import UserError
from utils.files import FileStamp


@dataclass
class UpdatePlan:
    """Videos, by their paths within the folder, and what is to be done with them."""

    add: list[str] = field(default_factory=list)
    update: list[str] = field(default_factory=list)  # the file, or its text, has changed
    drop: list[str] = field(default_factory=list)  # they are gone
    moved: dict[str, str] = field(default_factory=dict)  # path -> the one that the index has it by
    touch: dict[int, Stamps] = field(default_factory=dict)  # by id: only times have changed
    failed: dict[str, str] = field(default_factory=dict)  # path -> why it can't be compared
    num_same: int = 0
    num_anew: int = 0  # videos of the index that another model is to embed
    num_without_document: int = 0  # where the text is in documents

    def summarize(self) -> str:
        """Return one line with the number of videos of each kind."""
        moved = f"{len(self.moved)} moved, " if self.moved else ""
        return (
            f"{len(self.add)} to add, {len(self.update)} to update, {moved}"
            f"{len(self.drop)} to drop, {len(self.failed)} unreadable, {self.num_same} unchanged"
        )


def plan_update(
    videos: Folder | Roots,
    names: Sequence[str],
    known: Mapping[str, KnownVideo],
    source: OcrSource,
    kept: Collection[str] = (),
) -> UpdatePlan:
    """Compare the videos that there are with those that an index knows.

    The index keeps what it has of a video that can't be compared.

    Args:
        videos: the folder, or folders.
        names: of the videos that there are.
        known: those of the index.
        kept: those of the index that stay as they are, whether they are there or not.
    """
    roots = Roots.of(videos)
    names = [name for name in names if name not in kept]
    gone = sorted(known.keys() - set(names) - set(kept))
    plan = UpdatePlan(moved=find_moved(roots, names, known, gone), num_same=len(kept))
    old_names = set(plan.moved.values())
    plan.drop = [name for name in gone if name not in old_names]
    before = {name: video for name, video in known.items() if name not in old_names}
    before |= {name: known[old] for name, old in plan.moved.items()}
    source.find_documents([*names, *sorted(kept)], plan.moved)
    plan.num_without_document = source.count_missing(names)
    for name in names:
        if name not in before:
            plan.add.append(name)
            continue
        try:
            stamps = _compare_video(roots, name, before[name], source)
        except (UserError, OSError) as error:
            plan.failed[name] = str(error)
            continue
        if stamps is None:
            plan.update.append(name)
            continue
        plan.num_same += name not in plan.moved
        if stamps != before[name][1:]:
            plan.touch[before[name].id] = stamps
    return plan


def apply_plan(
    writer: StoreWriter, plan: UpdatePlan, known: Mapping[str, KnownVideo], source: OcrSource
) -> None:
    """Write what of a plan takes no time: what has moved, is gone, or has another time.

    Args:
        known: the videos of the index, as the plan was made.
    """
    source.move_documents(plan.moved)
    # Nothing is written where there is nothing: searches would look at everything again.
    if plan.moved:
        writer.rename_videos({known[old].id: name for name, old in plan.moved.items()})
    if plan.touch:
        writer.update_stamps(plan.touch)
    if plan.drop:
        writer.write((), [known[name].id for name in plan.drop])


def find_moved(
    roots: Roots, names: Iterable[str], known: Mapping[str, KnownVideo], gone: Sequence[str]
) -> dict[str, str]:
    """Return new name -> old one of the videos that have been renamed or moved, by their content.

    Only a new file that is as large as one that is gone is read for it. A video counts as gone,
    too, where its file has another content by now: another one may have taken its place.

    Args:
        gone: names of the index's videos whose files are not there.
    """
    new = [name for name in names if name not in known]
    there = [name for name in names if name in known and new]
    by_size: dict[int, list[str]] = defaultdict(list)
    for name in (*gone, *(n for n in there if _is_touched(roots, n, known[n]))):
        by_size[known[name].stamp.size].append(name)
    is_gone, moved = set(gone), {}
    for name in new:
        try:
            if not by_size.get(roots.look_at(name).size):
                continue
            found = roots.read_stamp(name)
        except (UserError, OSError):  # it is reported when it is opened
            continue
        for old in by_size[found.size]:
            if known[old].stamp.sha256 == found.sha256 and (
                old in is_gone or has_changed(roots, old, known[old])
            ):
                moved[name] = old
                by_size[found.size].remove(old)
                break
    return moved


def _is_touched(roots: Roots, name: str, before: KnownVideo) -> bool:
    try:
        return roots.look_at(name) != FileStamp(before.stamp.size, before.stamp.mtime_ns)
    except (UserError, OSError):
        return False


def has_changed(roots: Roots, name: str, before: KnownVideo) -> bool:
    """Whether a video that can be read has another content than the index knows."""
    try:
        return roots.find_same(name, before.stamp) is None
    except (UserError, OSError):
        return False


def _compare_video(roots: Roots, name: str, before: KnownVideo, source: OcrSource) -> Stamps | None:
    """Return the stamps of a video whose content and text are unchanged, otherwise None."""
    ocr = source.get_stamp(name, before.ocr_stamp)
    if (ocr and ocr.sha256) != (before.ocr_stamp and before.ocr_stamp.sha256):
        return None
    stamp = roots.find_same(name, before.stamp)
    return None if stamp is None else (stamp, ocr)
