"""Times of videos: the one clock that they are of, and how people read them.

All times of a video, in the index, in results and their JSON, of lines of text and of what is
played or cut, are seconds of its file as players count them: 0 is where the first of its streams
begins. So pictures that begin at 3 s, after the sound, begin at 3 s. Readers and OCR documents
count from the first frame; ``retrieval.index.video_file`` turns their times into those of the
clock. Of an index of before that rule entries begin at 0, and its videos are played by that.
"""

LATE_S = 0.1  # from when on pictures begin late: less is the lead-in that sound has
LONGEST_S = 1e10  # of a video: what a file shows later than this has time stamps of junk


def format_time(seconds: float) -> str:
    """Return a time as ``1:02:03.5``, with a tenth where it is not a whole second."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest // 10:02}" + (f".{rest % 10}" if rest % 10 else "")
    return f"{hours}:{minutes:02}:{text}" if hours else f"{minutes}:{text}"
