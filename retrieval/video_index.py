"""Search in an index of one's own videos, from Python."""

from pathlib import Path

from retrieval.results import Entry, Hit, Mode, TextTrack


class VideoIndex:
    """An index folder, opened for searching.

    Every method may be called from several threads at once, and while ``index.py`` updates the
    folder: each call sees the state of the last completed update.
    """

    @classmethod
    def open(cls, path: str | Path) -> "VideoIndex":
        """Open an index folder; the query encoder is loaded with the first search that needs it.

        Raises:
            UserError: it is no index, is damaged, or was written by a newer version.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Give back files and memory; also at the end of a ``with`` block."""

    def load_query_encoder(self) -> None:
        """Load what embeds queries now, so that the first search need not wait for it."""
        raise NotImplementedError

    def __len__(self) -> int:
        """Return the number of entries."""
        raise NotImplementedError

    def search(
        self,
        query: str,
        k: int = 10,
        mode: Mode = "fused",
        folder: str | None = None,
        explain: bool = False,
    ) -> list[Hit]:
        """Return the best entries, best first, at most ``k``.

        Args:
            query: a sentence, words, numbers, ``"quoted phrases"``; anything is plain text.
            k: at least 1.
            mode: by meaning, by words, or both lists fused.
            folder: only videos in this folder (as ``folders`` names it) and those below.
            explain: also say where the similarity comes from.

        Raises:
            UserError: the query is empty or longer than ``MAX_QUERY`` characters, ``k`` below 1,
                the mode unknown, or there is no such folder.
        """
        raise NotImplementedError

    def entry(self, entry_id: int) -> Entry:
        """Return an entry; raises ``UnknownEntryError`` (a ``UserError``)."""
        raise NotImplementedError

    def video_file(self, entry_id: int) -> Path:
        """Return the absolute path of an entry's video file.

        Raises:
            UnknownEntryError: there is no such entry.
            MissingFileError: the file is gone, or is a link out of the indexed folder.
        """
        raise NotImplementedError

    def thumbnail_file(self, entry_id: int) -> Path:
        """Return the path of an entry's thumbnail, a JPEG; errors as ``video_file``."""
        raise NotImplementedError

    def tracks(self, entry_id: int) -> list[TextTrack]:
        """Return the lines of text seen within an entry, by time; raises ``UnknownEntryError``."""
        raise NotImplementedError

    def folders(self) -> list[str]:
        """Return every folder below the indexed one that holds videos, sorted, with parents."""
        raise NotImplementedError
