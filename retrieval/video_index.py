"""Search in an index of one's own videos, from Python."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from retrieval.errors import IndexFolderError, MissingFileError, WordsOnlyError
from retrieval.index import identity
from retrieval.index.location import open_store
from retrieval.index.records import decode_path
from retrieval.index.remote_videos import Place, RemoteVideo, RemoteVideos
from retrieval.index.roots import Roots
from retrieval.index.store import IndexStore, StoreReader
from retrieval.results import (
    MODES,
    Entry,
    Hit,
    LibraryOverview,
    Mode,
    TextTrack,
    Video,
    VideoResults,
)
from retrieval.search.example import (
    MINUS_WEIGHT,
    Like,
    Picture,
    Weighted,
    combine_embeddings,
    read_examples,
)
from retrieval.search.grouping import NEAR_DUPLICATE
from retrieval.search.hybrid import EmbeddedQuery, SearchRequest, choose_mode, run_search
from retrieval.search.overview import describe_library
from retrieval.search.snapshot import Snapshot, find_video, read_entry, read_video
from retrieval.search.videos import VideoFilter, list_videos, run_video_search

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from retrieval.index.picture import PictureEncoder
    from retrieval.index.query_embedder import QueryEmbedder, QueryPrecision


Found = TypeVar("Found")
Run = Callable[[StoreReader, Snapshot, SearchRequest, EmbeddedQuery], Found]


class VideoIndex:
    """An index, opened for searching.

    Every method may be called from several threads at once, and while ``index.py`` updates the
    index: each call sees one commit, the last one. Another index that is put in its place is
    opened with the next call.

    Attributes:
        store: that has the index.
        videos: the folder that was indexed; of a library of several, the first one.
    """

    def __init__(self, store: IndexStore, precision: "QueryPrecision" = "auto") -> None:
        self.store = store
        self._precision = precision
        self._lock = threading.Lock()
        self._snapshot: Snapshot | None = None  # the last one
        self._encoder: tuple[tuple[str, str], QueryEmbedder] | None = None  # and which it is
        self._picture_lock = threading.Lock()
        self._picture_encoder: tuple[dict[str, Any], PictureEncoder] | None = None  # and its model
        self.videos = next(iter(self.roots.folders.values()), Path(store.location))

    @classmethod
    def open(cls, location: str | Path, precision: "QueryPrecision" = "auto") -> "VideoIndex":
        """Open an index; the query encoder is loaded with the first search that needs it.

        Args:
            location: of the index, as ``retrieval.index.location.open_store`` takes it.
            precision: that queries are embedded in, whatever that of the index; see
                ``retrieval.index.query_embedder.QueryEmbedder``.

        Raises:
            IndexFolderError: it is no index, is damaged, or was written by a newer version.
        """
        return cls(open_store(location), precision)

    def close(self) -> None:
        """Release files and memory, as the end of a ``with`` block does."""
        self.store.close()
        self._snapshot = self._encoder = self._picture_encoder = None

    def __enter__(self) -> "VideoIndex":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def model(self) -> dict[str, Any] | None:
        """Identity of the model (``retrieval.index.identity``); None: the index has words only."""
        with self.reading() as (_, snapshot):
            return snapshot.model

    @property
    def modes(self) -> tuple[Mode, ...]:
        """The modes in which it can be searched."""
        return MODES if self.model is not None else ("keyword",)

    def load_query_encoder(self) -> "QueryEmbedder":
        """Load the query encoder, before the first search needs it; raises ``UserError``."""
        return self._load_current_encoder()[1]

    def _load_current_encoder(self) -> "tuple[tuple[str, str], QueryEmbedder]":
        """Return the query encoder of the last commit, and which one it is."""
        from retrieval.index.query_embedder import QueryEmbedder

        while True:
            with self.reading() as (_, snapshot):
                wanted = snapshot.query_encoder
            if wanted is None:
                raise WordsOnlyError
            try:
                with self._lock:
                    if self._encoder is None or self._encoder[0] != wanted:
                        folder = self.store.open_model_folder(snapshot.meta) / wanted[0]
                        embedder = QueryEmbedder(folder, wanted[1], self._precision)
                        self._encoder = wanted, embedder
                    return self._encoder
            except IndexFolderError:
                with self.reading() as (_, latest):
                    if latest.query_encoder == wanted:
                        raise  # otherwise another model has taken over meanwhile

    def load_picture_encoder(self) -> "PictureEncoder":
        """Load the video model of the index, before the first picture needs it.

        Raises:
            ModelUnavailableError: it is gone.
            UserError: it sees no pictures.
        """
        import torch

        from retrieval.index.picture import PictureEncoder, load_video_encoder
        from utils.precision import Precision

        with self._picture_lock:
            with self.reading() as (reader, _):
                meta = reader.meta
            if meta.get("model") is None:
                raise WordsOnlyError
            if self._picture_encoder is None or self._picture_encoder[0] != meta["model"]:
                # 8-bit integers are for texts; a picture now and then may take its time.
                name = "fp32" if self._precision in ("auto", "int8") else self._precision
                precision = Precision(name, torch.device("cpu"))
                loaded = load_video_encoder(self.store, meta, precision)
                self._picture_encoder = meta["model"], PictureEncoder(*loaded)
            return self._picture_encoder[1]

    def check_model(self, checkpoint: str | Path) -> None:
        """Raise ``IndexFolderError``, which names both, where the index is of another model."""
        file, model = Path(checkpoint), self.model
        if model is None:
            what = "holds words only, and was made without a model"
            raise IndexFolderError(f"{self.store.location}: {what}")
        identity.check_weights(self.store.location, model, identity.identify_file(file, file.stem))

    @property
    def roots(self) -> Roots:
        """The folders that were indexed, by name; more may come while the index is open."""
        with self.reading() as (reader, _):
            return Roots.from_meta(reader.meta)

    @property
    def link_targets(self) -> list[Path]:
        """Files and folders outside of the roots to which links in them led, when last indexed."""
        with self.reading() as (reader, _):
            targets = reader.meta.get("link_targets", [])
        return [decode_path(target) for target in targets]

    def __len__(self) -> int:
        """Return the number of entries."""
        with self.reading() as (_, snapshot):
            return snapshot.num_entries

    def search(
        self,
        query: str = "",
        k: int = 10,
        mode: str = "hybrid",
        folder: str | None = None,
        explain: bool = False,
        exact: bool = False,
        words_weight: float = 1.0,
        *,
        like: Like | Sequence[Like] = (),
        image: Picture | Sequence[Picture] = (),
        minus: str = "",
        minus_like: Like | Sequence[Like] = (),
        minus_image: Picture | Sequence[Picture] = (),
        group: bool = False,
        near_duplicate: float = NEAR_DUPLICATE,
        like_meaning: bool = False,
    ) -> list[Hit]:
        """Return the best entries, at most ``k``: first what was found, best first, then others.

        Others are the nearest of what is not like the query; their ``Hit.likely`` is False. It is
        None where nothing is judged: in the mode ``keyword``, with too few entries, and by example.

        What is given of query, ``like`` and ``image`` is searched for together, as one embedding:
        see ``retrieval.search.example``. The keyword list knows the query's words only; an entry
        that shows a word of ``minus`` exactly is not in it.

        Args:
            query: a sentence, words, numbers, ``"quoted phrases"``; anything is plain text. May be
                empty where there is another example.
            k: at least 1.
            mode: ``semantic``, ``keyword``, or ``hybrid``, which adds up the evidence of both
                (``retrieval.search.hybrid``), and without a model is ``keyword``; their former
                names are ``meaning``, ``words`` and ``fused``.
            folder: only videos in this folder (as ``folders`` names it) and those below.
            explain: also say where the similarity comes from.
            exact: compare with all embeddings, even where ``index.py --ann`` has been used.
            words_weight: weight of what is read or said in the sum; what is seen has 1.
            like: ids of entries, or ``"PATH@SECONDS"``, which is the entry that holds this time
                (where windows overlap, the one whose centre is nearest). It is compared by its
                embedding in the index; neither it nor a window that shares a time with it is found.
            image: files of pictures, or their content. Each is embedded by the video model of the
                index, which is loaded (on the CPU) with the first of them, as a clip of one frame
                in which no word is read, and compared with what the entries are without their
                words. The FAISS index is then left aside.
            minus: words that say what is not wanted.
            minus_like: as ``like``, not wanted.
            minus_image: as ``image``, not wanted.
            group: whether near-duplicates are one hit, whose ``also`` has the others; ``k`` then
                counts groups. See ``retrieval.search.grouping``.
            near_duplicate: cosine from which two entries are near-duplicates.
            like_meaning: whether words of like meaning are found, too, after all others; needs
                the package ``wordllama``.

        Raises:
            ModelUnavailableError: a picture is given and the model is gone.
            UserError: nothing is given or a text is longer than ``MAX_QUERY`` characters, ``k``
                below 1, the mode unknown, there is no such folder, entry or time, a picture can't
                be read, or the model sees no pictures.
            WordsOnlyError: the mode is ``semantic``, or an example is given, and the index has no
                model.
        """
        request = self._make_request(
            query, k, mode, folder, explain, exact, words_weight, like=like, image=image,
            minus=minus, minus_like=minus_like, minus_image=minus_image, group=group,
            near_duplicate=near_duplicate, like_meaning=like_meaning,
        )  # fmt: skip
        return self._search(request, run_search)

    @staticmethod
    def _make_request(
        query: str,
        k: int,
        mode: str,
        folder: str | None,
        explain: bool = False,
        exact: bool = False,
        words_weight: float = 1.0,
        *,
        minus: str = "",
        **options: Any,
    ) -> SearchRequest:
        """Return what is asked; an example may be one or several. Raises ``UserError``."""
        query, minus = (text.encode("utf-8", "replace").decode() for text in (query, minus))
        several = {"like", "image", "minus_like", "minus_image"}
        options = {name: _list(v) if name in several else v for name, v in options.items()}
        first = query, k, mode, folder, explain, exact, words_weight
        return SearchRequest(*first, minus=minus, **options)

    def _search(self, request: SearchRequest, run: Run[Found]) -> Found:
        """Embed what is searched with, and search in one state of the index."""
        given: _Embedded | None = None
        while True:
            with self.reading() as (reader, snapshot):
                mode = choose_mode(request, snapshot)
                if mode != "keyword" or request.group:
                    snapshot.vectors.check()
                if mode == "keyword":
                    by_words = replace(request, mode=mode)
                    return run(reader, snapshot, by_words, EmbeddedQuery())
                if given is not None and given.encoder == snapshot.query_encoder:
                    found = read_examples(reader, snapshot, request.like, request.minus_like)
                    whole, seen = combine_embeddings(
                        given.texts + found.weighted,
                        given.pictures,
                        "ocr" in snapshot.vectors.parts,
                    )
                    query = EmbeddedQuery(whole, given.unrelated, seen, found.nearby)
                    return run(reader, snapshot, request, query)
            # Once, or again where another model has taken over meanwhile.
            given = self._embed(request)

    def search_videos(
        self,
        query: str = "",
        wanted: VideoFilter | None = None,
        mode: str = "hybrid",
        folder: str | None = None,
        **options: Any,
    ) -> VideoResults:
        """Return the videos that fit a query, each once, with its moments.

        Args:
            query: as of ``search``. May be empty where a filter or an order is given: then all
                videos are listed.
            wanted: which videos may be found, their order, and which part of the list is returned.
            options: examples, as of ``search``.

        Raises:
            as ``search``.
        """
        wanted = wanted or VideoFilter()
        if not query.strip() and not any(options.values()) and (wanted.is_given or folder):
            with self.reading() as (reader, snapshot):
                return list_videos(reader, snapshot, wanted, folder)
        request = self._make_request(query, wanted.k, mode, folder, **options)
        return self._search(request, partial(run_video_search, wanted=wanted))

    def describe_library(self) -> LibraryOverview:
        """Return what the index holds: the latest videos, lines in them, and words to look for."""
        with self.reading() as (reader, snapshot):
            return describe_library(reader, snapshot)

    def _embed(self, request: SearchRequest) -> "_Embedded":
        with self.reading() as (_, snapshot):
            wanted = snapshot.query_encoder
        texts = [(1.0, request.query), (-MINUS_WEIGHT, request.minus)]
        texts = [(weight, text) for weight, text in texts if text.strip()]
        words: list[Weighted] = []
        unrelated = None
        if texts:
            wanted, encoder = self._load_current_encoder()
            words = [(weight, encoder.embed(text)) for weight, text in texts]
            if len(texts) == 1 and not request.has_examples:  # a text is judged, by other texts
                unrelated = encoder.load_unrelated()
        pictures = [(1.0, self._embed_picture(one)) for one in request.image]
        pictures += [(-MINUS_WEIGHT, self._embed_picture(one)) for one in request.minus_image]
        return _Embedded(wanted, words, pictures, unrelated)

    def _embed_picture(self, source: Picture) -> "NDArray":
        name = "the picture" if isinstance(source, bytes) else str(source)
        return self.load_picture_encoder().embed(
            source if isinstance(source, bytes) else Path(source), name
        )

    def entry(self, entry_id: int) -> Entry:
        """Return an entry; raises ``UnknownEntryError`` (a ``UserError``)."""
        with self.reading() as (reader, _):
            return read_entry(reader, entry_id)

    def video(self, video_id: int) -> Video:
        """Return a video; raises ``UnknownEntryError``."""
        with self.reading() as (reader, _):
            return read_video(reader, video_id)

    def find_video(self, path: str) -> Video:
        """Return the video with a path within the folder; raises ``UnknownEntryError``."""
        with self.reading() as (reader, snapshot):
            return find_video(reader, snapshot, path)

    def video_tracks(self, video_id: int) -> list[TextTrack]:
        """Return all lines of text of a video, by time; raises ``UnknownEntryError``."""
        with self.reading() as (reader, _):
            read_video(reader, video_id)
            return reader.read_video_tracks(video_id)

    def first_time(self, video_id: int) -> float:
        """Return when the first entry of a video begins, with its first frame, in seconds."""
        with self.reading() as (reader, _):
            read_video(reader, video_id)
            entries = reader.list_entries(video_id)
        return min((start_s for _, start_s, _ in entries), default=0.0)

    def nearest_entry(self, video_id: int, time_s: float) -> int:
        """Return the entry of a video whose centre is nearest to a time, by its id."""
        with self.reading() as (reader, _):
            read_video(reader, video_id)
            entries = reader.list_entries(video_id)
        centres = [
            (abs((start_s + end_s) / 2 - time_s), entry) for entry, start_s, end_s in entries
        ]
        return min(centres)[1]

    def video_file(self, entry_id: int) -> Place:
        """Return the place of an entry's video, and errors, as ``locate_video``."""
        return self.locate_video(self.entry(entry_id))

    def locate_video(self, video: Video | Entry) -> Place:
        """Return the resolved path of a video's file, or its place at a URL.

        Whether it is still there, only the second has to be asked for.

        Raises:
            MissingFileError: the file is gone, or is a link to where no link led when the folder
                was indexed.
        """
        name = video.video
        roots = self.roots
        root, path = roots.split(name)
        folder = roots.folders.get(root)
        if folder is None:
            raise MissingFileError(f"{name}: its folder is no part of the library any more")
        if isinstance(folder, RemoteVideos):
            return RemoteVideo(folder, path)
        try:
            # Links are followed; one that leads to itself stays what it is.
            top = Path(os.path.realpath(folder))
            file = Path(os.path.realpath(top / path))
        except OSError as error:  # what is there is being replaced
            raise MissingFileError(f"{name}: can't be found ({error.strerror})") from error
        if not any(file.is_relative_to(at) for at in (top, *self.link_targets)):
            raise MissingFileError(
                f"{name}: leads out of the indexed folder {folder}; run index.py again"
            )
        if not os.path.isfile(file):
            raise MissingFileError(f"{name}: is not in {folder} any more; run index.py again")
        return file

    def read_thumbnail(self, entry_id: int) -> bytes:
        """Return an entry's thumbnail, a JPEG.

        Raises:
            UnknownEntryError: there is no such entry.
            MissingFileError: it is gone.
        """
        with self.reading() as (reader, _):
            read_entry(reader, entry_id)
            return reader.read_thumbnail(entry_id)

    def tracks(self, entry_id: int) -> list[TextTrack]:
        """Return the lines of text seen or said in an entry, by time.

        Raises ``UnknownEntryError``.
        """
        with self.reading() as (reader, _):
            read_entry(reader, entry_id)
            tracks = reader.read_tracks(entry_id)
        return [track for track in tracks if track.kind != "name"]

    def paths(self) -> list[str]:
        """Return the paths of all videos within the folder."""
        with self.reading() as (reader, snapshot):
            return snapshot.list_paths(reader)

    def folders(self) -> list[str]:
        """Return every folder below the indexed one that holds videos, sorted, with parents."""
        names = {PurePosixPath(path).parent for path in self.paths()}
        return sorted({str(folder) for name in names for folder in (name, *name.parents)} - {"."})

    @contextmanager
    def reading(self) -> Iterator[tuple[StoreReader, Snapshot]]:
        """Yield a reader of the last commit, and the snapshot that it sees."""
        with self.store.reading() as reader:
            snapshot = self._snapshot
            if snapshot is None or snapshot.state != reader.state:
                snapshot = self._snapshot = Snapshot(reader)
            yield reader, snapshot


def _list(values: Any) -> tuple[Any, ...]:
    """Return one example, or several, as a tuple."""
    return (values,) if isinstance(values, int | str | bytes | os.PathLike) else tuple(values)


class _Embedded(NamedTuple):
    """What of a search is embedded before the index is read."""

    encoder: tuple[Path, str] | None  # which query encoder the index had: names its model
    texts: list[Weighted]
    pictures: list[Weighted]
    unrelated: "NDArray | None"  # embeddings by which a text is judged
