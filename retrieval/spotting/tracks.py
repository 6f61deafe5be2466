"""Tracks: the same line of text from picture to picture, and the texts that it is given."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from retrieval.spotting.journal import VideoLook
from retrieval.spotting.segmentation import Look, compare_texts, find_changes
from retrieval.spotting.text_spotter import TextLine

MAX_MISSED = 2  # pictures in which a line may go unread before its track ends
# Two lines are one where they overlap and read alike, or read nearly the same not far apart.
MIN_IOU, MIN_SIMILARITY = 0.3, 0.5
MIN_SIMILARITY_APART = 0.75
MAX_GROWTH = 1.6  # of the height, from one picture to the next


class Sighting(NamedTuple):
    """A line in one frame.

    ``read`` is false where it is carried over from the frame before; ``changed`` where the picture
    is, there, that in which the line was read before.
    """

    frame: int
    line: TextLine
    read: bool
    changed: bool = True


@dataclass
class Track:
    """One line of text through the video."""

    sightings: list[Sighting] = field(default_factory=list)  # at least one; frames ascend
    missed: int = 0  # pictures since the last sighting

    def predict_corners(self, frame: int) -> np.ndarray:
        """Return the (4, 2) corners that steady movement leads to."""
        before, last = self.sightings[-2:][0], self.sightings[-1]
        if before is last:
            return last.line.corners
        shift = last.line.corners.mean(axis=0) - before.line.corners.mean(axis=0)
        return last.line.corners + shift * (frame - last.frame) / (last.frame - before.frame)

    def elect_text(self) -> tuple[str, float]:
        """Return the text and its score in [0, 1].

        Each reading votes for every text that was read, by its confidence times how alike the two
        are: so a text wins that most others nearly agree with, even where all differ a little.
        The score is the text's share of the votes that equal readings, all surest, would give it.
        """
        weights: dict[str, float] = defaultdict(float)
        num_readings = 0
        for _, line, read, _ in self.sightings:
            weights[line.text] += line.score * read
            num_readings += read
        votes = {
            text: sum(weight * compare_texts(text, other) for other, weight in weights.items())
            for text in weights
        }
        # Of nearly equal ones, as a text and one look at the next, that which was there longer.
        times = Counter(sighting.line.text for sighting in self.sightings)
        winner = max(votes, key=lambda text: (round(votes[text], 2), times[text], weights[text]))
        return winner, votes[winner] / num_readings

    def split(self) -> list["Track"]:
        """Return a track for each text that was shown one after the other."""
        starts = [number for number, sighting in enumerate(self.sightings) if sighting.read]
        looks = []
        for start, stop in pairwise([*starts, len(self.sightings)]):
            _, line, _, changed = self.sightings[start]
            # One carried sighting confirms the reading; more are still the same guess.
            looks.append(Look(line.text, line.score, changed, min(stop - start, 1 + changed)))
        ends = [starts[number] for number in find_changes(looks)]
        bounds = pairwise([0, *ends, len(self.sightings)])
        return [Track(self.sightings[start:stop]) for start, stop in bounds]


class LineTracker:
    """Links lines to tracks, one picture after the other.

    ``reach`` is how far a line may be from where it is expected, in pixels; ``tracks`` are in the
    order of their first frames.
    """

    def __init__(self, reach: float) -> None:
        self.tracks: list[Track] = []
        self._reach = reach
        self._open: list[Track] = []

    def add(self, look: VideoLook) -> None:
        """Add a look at a frame, read or not; frames must ascend."""
        if look.lines is None:
            self.carry(look.frame)
        else:
            self.update(look.frame, look.lines, look.changed)

    def update(
        self, frame: int, lines: Sequence[TextLine], changed: Sequence[bool] | None = None
    ) -> None:
        """Add what was read in a frame; frames must ascend.

        ``changed`` says of each line whether the picture differs there from that of the frame that
        was read before; None: this is not known.
        """
        matched = self._match_lines(frame, lines)
        for track in self._open:
            track.missed += 1
        for number, line in enumerate(lines):
            track = matched.get(number)
            if track is None:
                track = Track()
                self.tracks.append(track)
                self._open.append(track)
            is_changed = changed is None or changed[number] or track.missed != 1
            track.sightings.append(Sighting(frame, line, read=True, changed=is_changed))
            track.missed = 0
        self._open = [track for track in self._open if track.missed <= MAX_MISSED]

    def carry(self, frame: int) -> None:
        """Add a frame that looks like the one before: its lines are there still."""
        for track in self._open:
            if not track.missed:
                line = track.sightings[-1].line
                track.sightings.append(Sighting(frame, line, read=False, changed=False))

    def _match_lines(self, frame: int, lines: Sequence[TextLine]) -> dict[int, Track]:
        """Return the open track that each line, by its number, goes on with: best pairs first."""
        pairs = []
        for track_number, track in enumerate(self._open):
            corners, text = track.predict_corners(frame), track.sightings[-1].line.text
            for number, line in enumerate(lines):
                score = self._score_match(corners, text, line)
                if score is not None:
                    pairs.append((-score, track_number, number))
        matched: dict[int, Track] = {}
        taken = set()
        for _, track_number, number in sorted(pairs):
            if number not in matched and track_number not in taken:
                matched[number] = self._open[track_number]
                taken.add(track_number)
        return matched

    def _score_match(self, corners: np.ndarray, text: str, line: TextLine) -> float | None:
        """Return how well a line goes on with a track, or None where it can't be the same line."""
        distance = float(np.linalg.norm(corners.mean(axis=0) - line.corners.mean(axis=0)))
        iou = compute_iou(corners, line.corners)
        heights = measure_height(corners), measure_height(line.corners)
        near = distance <= self._reach and max(heights) <= MAX_GROWTH * min(heights)
        if not near and iou < MIN_IOU:
            return None  # before the texts are compared, which takes longest
        similarity = compare_texts(text, line.text)
        if similarity < (MIN_SIMILARITY if iou >= MIN_IOU else MIN_SIMILARITY_APART):
            return None
        return similarity + iou - distance / self._reach


def compute_iou(corners: np.ndarray, other: np.ndarray) -> float:
    """Return intersection over union of two quadrangles' upright bounding boxes, in [0, 1]."""
    low = np.maximum(corners.min(axis=0), other.min(axis=0))
    high = np.minimum(corners.max(axis=0), other.max(axis=0))
    common = np.prod(np.clip(high - low, 0, None))
    both = sum(np.prod(np.ptp(quadrangle, axis=0)) for quadrangle in (corners, other)) - common
    return float(common / both) if both > 0 else 0.0


def measure_height(corners: np.ndarray) -> float:
    """Return the mean length of a line's left and right side, at least 1 pixel."""
    sides = np.linalg.norm(corners[[3, 2]] - corners[[0, 1]], axis=1)
    return max(1.0, float(sides.mean()))


def make_document(tracks: Sequence[Track]) -> dict[str, dict[str, Any]]:
    """Return the OCR document of a video in the form of Kwai_VideoOCR (data_loader.ocr.ocr_words).

    A track whose text changes is a line for each of its texts, with the frames that show it.
    The two numbers after the corners are the confidence of the reading, and 1, or 0 where the
    frame was not read because it looked like the one before.
    """
    document = {}
    texts = [part for track in tracks for part in track.split()]
    texts.sort(key=lambda track: track.sightings[0].frame)
    for number, track in enumerate(texts):
        text, score = track.elect_text()
        lines = [sighting.line for sighting in track.sightings]
        best = max(lines, key=lambda line: (line.text == text, line.score))
        document[str(number)] = {
            "text": text,
            "score": round(score, 4),
            "tracks": {
                str(frame): [*_round_corners(line.corners), round(line.score, 4), int(read)]
                for frame, line, read, _ in track.sightings
            },
            "recommend_box": _round_corners(best.corners),
        }
    return document


def _round_corners(corners: np.ndarray) -> list[int]:
    return np.rint(corners).astype(int).ravel().tolist()
