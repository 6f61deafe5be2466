"""Synthetic inputs of the benchmarks: batches, video folders, videos of known words, indexes.

Shapes: B videos, F frames, H x W pixels of a picture, h x w of a line of text, N entries of an
index, E width of the common space.
"""

import json
import random
import string
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch.nn.functional import interpolate

from base.batch import Batch, Tokens
from base.config import Config
from benchmarks.measuring import ROOT
from data_loader.collate import lay_out_words, pad_tokens
from data_loader.ocr.ocr_words import TRACK_SIZE, OcrParams
from data_loader.synthetic.layout import write_video
from data_loader.synthetic.words import DISTRACTORS, SIGN_WORDS, change_case
from parse_config import load_config
from retrieval.index import database
from retrieval.index.arrays import (
    EMBEDDINGS,
    FRAME_COUNTS,
    FRAME_TIMES,
    FRAMES,
    IDS,
    append_rows,
    array_file,
    map_rows,
)
from retrieval.index.query_embedder import normalize_rows
from retrieval.index.vectors import Vectors
from retrieval.index.writer import IndexWriter
from utils.errors import UserError

CONFIG = ROOT / "configs/TextVR_fusion.json"
FPS = 25
NUM_PIECES = 3000  # of the tokenizer: common words are whole, rare ones of two to five pieces
NUM_CAPTIONS, CAPTION_VOCABULARY = 2727, 6000
CLS, SEP, PAD = 2, 3, 0

GRAIN = 3.0  # standard deviation of a camera's noise, in levels of 255
_NUM_SHAPES = 3  # that move before the background

TEXT_WORDS = tuple(word for word in (*SIGN_WORDS, *DISTRACTORS) if len(word) > 3)

WIDTH = 256  # of the index's embeddings
ENTRY_FRAMES = 8  # in an index of frame vectors
FRAME_SPREAD = 0.6  # against the distance between clusters
INDEX_VOCABULARY = 50_000
ENTRY_WORDS = 6  # in two lines
ENTRIES_PER_VIDEO = ENTRIES_PER_CLUSTER = 100
CLUSTER_SPREAD = 0.8  # against the distance between clusters
_CHUNK = 50_000  # rows that are made at a time
_CACHE_KIB = 1 << 18  # of SQLite, while an index is made
_BOX = np.array([(1.0, 0.1, 0.1, 0.5, 0.2)], dtype=np.float32).tobytes()


# Batches of the published sizes: frames of noise, words drawn as often as captions have them


@dataclass(frozen=True)
class Texts:
    """Captions and words that queries and OCR words are drawn from.

    Attributes:
        captions: the queries.
        words: of all captions, lower-cased, as often as they occur; those that the OCR rules keep.
        tokenize: texts -> token ids of each, with first and last token.
    """

    captions: list[str]
    words: list[str]
    tokenize: Callable[[Sequence[str]], list[list[int]]]

    def draw_words(self, rng: np.random.Generator, count: int) -> list[str]:
        """Draw ``count`` distinct words of a video."""
        drawn: dict[str, None] = {}
        while len(drawn) < count:
            drawn[self.words[rng.integers(len(self.words))]] = None
        return list(drawn)


def load_texts(annotations: Path | None) -> Texts:
    """Read the captions of an annotation file of the TextVR form, or make some up.

    Raises:
        UserError: the file holds none.
    """
    captions = make_captions() if annotations is None else _read_captions(annotations)
    rules = OcrParams()
    words = [word.lower() for caption in captions for word in caption.split()]
    words = [
        w for w in words if len(w) >= rules.min_length and all(ord(c) <= rules.max_char for c in w)
    ]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106 - a token of text
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=NUM_PIECES, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(captions, trainer)

    def tokenize(texts: Sequence[str]) -> list[list[int]]:
        return [[CLS, *found.ids, SEP] for found in tokenizer.encode_batch(list(texts))]

    return Texts(captions, words, tokenize)


def _read_captions(file: Path) -> list[str]:
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
        return [info["caption"] for entry in entries for info in entry["captions_info"]]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file}: is no annotation file of the TextVR form ({error!r})") from error


def make_captions() -> list[str]:
    """Return captions of 14 words with Zipf's frequencies, the same ones each time."""
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    words = ["".join(rng.choice(letters, rng.integers(3, 10))) for _ in range(CAPTION_VOCABULARY)]
    share = 1 / np.arange(1, CAPTION_VOCABULARY + 1)
    drawn = rng.choice(CAPTION_VOCABULARY, (NUM_CAPTIONS, 14), p=share / share.sum())
    return [" ".join(words[number] for number in row) for row in drawn]


def load_base_config(*changes: str) -> Config:
    """Return the published run's configuration, without its pretrained weights.

    The time attention starts random, not at zero: zeros would hide what it computes.
    """
    fresh = [f"arch.args.{part}_params.pretrained=false" for part in ("video", "text")]
    fresh.append("arch.args.video_params.time_init=rand")
    return load_config(CONFIG, [*fresh, *changes])


def make_batch(
    texts: Texts, size: int, num_words: int, frames: int, res: int, device: torch.device
) -> Batch:
    """Return a batch as it is when the device transform has run: ``size`` videos, one query each.

    ``num_words`` are the distinct words of each video; with 0 it has the one blank word. ``res`` is
    the side of a frame in pixels.
    """
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    shown = [texts.draw_words(rng, num_words) if num_words else [" "] for _ in range(size)]
    distinct = list(dict.fromkeys(word for words in shown for word in words))
    used = dict(zip(distinct, texts.tokenize(distinct), strict=True))
    tracks = [rng.random((len(words), TRACK_SIZE), dtype=np.float32) for words in shown]
    chosen = rng.choice(len(texts.captions), size, replace=size > len(texts.captions))
    ids = texts.tokenize([texts.captions[number] for number in chosen])
    query = pad_tokens(ids, PAD)
    mask = torch.arange(query.shape[1]) < torch.tensor([len(row) for row in ids])[:, None]
    return Batch(
        ids=[str(number) for number in range(size)],
        video_index=torch.arange(size),
        query=Tokens(query, mask.long()),
        query_row=torch.arange(size),
        video=torch.randn((size, frames, 3, res, res), generator=generator),
        words=lay_out_words(used, shown, tracks, PAD),
    ).to(device)


# Videos that cost a decoder what real ones do


def make_video_folder(
    root: Path, width: int, height: int, seconds: float, cuts: int, count: int
) -> Path:
    """Make a folder in the layout of TextVR, the same videos for training and test.

    There are ``count`` videos, each with ``cuts`` to other scenes.
    """
    entries = []
    (root / "Videos").mkdir(parents=True)
    for number in range(count):
        path = root / "Videos" / f"{number}.mp4"
        frames = render_scenes(width, height, round(seconds * FPS), cuts, seed=number)
        _write_x264_default(path, frames)
        caption = {"caption": f"video {number}", "caption_info": {}}
        entries.append({"path": path.name, "captions_info": [caption], "videos_info": {}})
    for split in ("train", "test"):
        (root / f"TextVR_{split}.json").write_text(json.dumps(entries))
    return root


def _write_x264_default(path: Path, frames: Iterator[np.ndarray]) -> None:
    """Encode frames with x264's own choices: preset medium, CRF 23, GOP 250, 3 B-frames."""
    with av.open(str(path), "w") as container:
        options = {"preset": "medium", "crf": "23", "g": "250", "threads": "1"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.pix_fmt = "yuv420p"
        for number, image in enumerate(frames):
            if number == 0:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def render_scenes(
    width: int, height: int, length: int, cuts: int, seed: int
) -> Iterator[np.ndarray]:
    """Yield ``length`` frames (H, W, 3) uint8: shapes over a background that the camera pans."""
    rng = np.random.default_rng(seed)
    ends = np.linspace(0, length, cuts + 2).astype(int)[1:]
    end = 0
    for number in range(length):
        if number == end:
            end = ends[ends > number][0]
            background = _render_texture(rng, 2 * height, 2 * width)
            shapes = [_render_texture(rng, height // 4, width // 4) for _ in range(_NUM_SHAPES)]
            phase = rng.uniform(0, 6, 2 * (_NUM_SHAPES + 1))
        # Places of camera and shapes in [0, 1]; the camera's period, the last, is the longest.
        periods = np.linspace(25, 80, len(phase))  # frames
        places = (0.5 + 0.5 * np.sin(number / periods + phase)).reshape(-1, 2)[::-1]
        top, left = round(places[0, 0] * height), round(places[0, 1] * width)
        frame = background[top : top + height, left : left + width].copy()
        for shape, (y, x) in zip(shapes, places[1:], strict=True):
            top, left = int(y * (height - len(shape))), int(x * (width - shape.shape[1]))
            frame[top : top + len(shape), left : left + shape.shape[1]] = shape
        frame += rng.normal(0, GRAIN, (height, width, 1))
        yield frame.clip(0, 255).astype(np.uint8)


def _render_texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(H, W, 3) float32 around 128, with detail of several sizes, coarse more than fine."""
    image = torch.full((1, 3, height, width), 128.0)
    for cell in (4, 16, 64):  # pixels
        coarse = rng.normal(0, 5 * cell**0.5, (1, 3, height // cell + 2, width // cell + 2))
        image += interpolate(torch.from_numpy(coarse).float(), (height, width), mode="bicubic")
    return image[0].permute(1, 2, 0).numpy()


# Videos whose words are known: lines of text that drift over a smooth background


@dataclass(frozen=True)
class TextVideo:
    """A kind of video; with a seed, a video.

    Attributes:
        letter_height: of a capital letter, pixels.
        blur: standard deviation of a Gaussian, pixels.
        speed: pixels a second; faster lines are smeared as by a shutter open half of the time.
        width, height: of the picture, pixels, even.
        num_frames: at 25 a second.
    """

    letter_height: int
    blur: float = 0.0
    speed: float = 0.0
    width: int = 640
    height: int = 360
    num_frames: int = 100

    def write(self, path: Path, seed: int) -> list[str]:
        """Write the video; returns its lines as they are written in it."""
        rng = np.random.default_rng(seed)
        lines = self._draw_lines(rng)
        write_video(path, self._render_frames(rng, lines), FPS)
        return lines

    def _draw_lines(self, rng: np.random.Generator) -> list[str]:
        """As many lines as stand one below the other, up to 4, of words that fit the width."""
        words = iter(rng.permutation(TEXT_WORDS).tolist())
        lines = []
        for _ in range(min(4, int(self.height // (2.2 * self.letter_height)))):
            line = ""
            for _ in range(rng.integers(1, 4)):
                longer = f"{line} {next(words)}".strip()
                width = render_line(longer.upper(), self.letter_height).shape[1]
                line = longer if width < 0.8 * self.width or not line else line
            lines.append(change_case(rng, line))
        return lines

    def _render_frames(self, rng: np.random.Generator, lines: list[str]) -> Iterator[np.ndarray]:
        masks = [self._blur_line(render_line(line, self.letter_height)) for line in lines]
        dark, light = rng.uniform(20, 100), rng.uniform(215, 255)
        ink, ground = (dark, light) if rng.random() < 0.5 else (light, dark)
        coarse = np.clip(ground + rng.uniform(-35, 35, (5, 8, 3)), 0, 255).astype(np.uint8)
        smooth = Image.fromarray(coarse).resize((self.width, self.height), Image.Resampling.BICUBIC)
        background = np.asarray(smooth, dtype=np.float64)  # (H, W, 3)
        band = self.height / len(lines)
        starts = rng.uniform(0, 1, len(lines))
        turns = rng.choice([-1, 1], len(lines))
        for number in range(self.num_frames):
            picture = background.copy()
            for row, mask in enumerate(masks):
                span = max(1, self.width - mask.shape[1])
                way = starts[row] * span + turns[row] * self.speed * number / FPS
                left = round(span - abs(span - way % (2 * span)))  # thrown back at the edges
                top = max(0, int(row * band + (band - mask.shape[0]) / 2))
                part = picture[top : top + mask.shape[0], left : left + mask.shape[1]]  # cut off
                part += mask[: part.shape[0], : part.shape[1], None] * (ink - part)
            yield picture.astype(np.uint8)

    def _blur_line(self, mask: np.ndarray) -> np.ndarray:
        """Blur and smear a line, (h, w) -> (h + 2p, w + 2p) with p for what runs over its edges."""
        smear = round(self.speed / FPS / 2)
        padded = np.pad(mask, int(3 * self.blur) + smear)
        image = Image.fromarray(padded).filter(ImageFilter.GaussianBlur(self.blur))
        soft = np.asarray(image, dtype=np.float64) / 255
        if smear > 1:
            soft = np.mean([np.roll(soft, shift - smear // 2, axis=1) for shift in range(smear)], 0)
        return soft


def render_line(text: str, letter_height: int) -> np.ndarray:
    """Return a line's ink, (h, w) uint8, 255 where it is, with Pillow's font."""
    size = letter_height
    while True:  # the largest whose H is no higher
        _, top, _, bottom = ImageFont.load_default(size=size + 1).getbbox("H")
        if bottom - top > letter_height:
            break
        size += 1
    font = ImageFont.load_default(size=size)
    left, top, right, bottom = map(int, font.getbbox(text))
    image = Image.new("L", (right - left + 2, bottom - top + 2))
    ImageDraw.Draw(image).text((1 - left, 1 - top), text, font=font, fill=255)
    return np.asarray(image)


# Index folders, written in bulk


@dataclass(frozen=True)
class IndexContents:
    """The entries of a synthetic index.

    Attributes:
        rows: (N, E) float32 embeddings, in clusters, mapped.
        words: (N, ENTRY_WORDS) int32 numbers of words, with Zipf's frequencies.
        vocabulary: the words.
    """

    rows: NDArray
    words: NDArray
    vocabulary: list[str]

    def make_queries(self, count: int) -> tuple[NDArray, list[str]]:
        """Return embeddings (count, E) near to those of entries, and three of their words each.

        The last word has a wrong letter.
        """
        rng = np.random.default_rng(1)
        chosen = rng.integers(len(self.rows), size=count)
        size = count, self.rows.shape[1]
        noise = 0.5 * normalize_rows(rng.standard_normal(size, dtype=np.float32))
        texts = []
        for entry in chosen:
            first, second, third = (self.vocabulary[word] for word in self.words[entry, :3])
            texts.append(f"{first} {second} {third[:2]}q{third[3:]}")
        return normalize_rows(self.rows[chosen] + noise), texts


def make_index(
    folder: Path,
    size: int,
    vectors: Vectors = "windows",
    width: int = WIDTH,
    vocabulary: int = INDEX_VOCABULARY,
    with_checksums: bool = True,
) -> IndexContents:
    """Write an index of ``size`` entries in a new folder; E is ``width``.

    In memory are 8 bytes for each word of the text, to sort them, and never the vectors. What is
    written past the writer: rows of arrays and tables, and SQLite's own indexes, after the rows.
    There are no thumbnails.

    Args:
        vocabulary: how many distinct words there are.
        with_checksums: whether the writer adds them; without, it is an index of an early release.
    """
    folder.mkdir(parents=True)
    model = dict.fromkeys(("name", "path", "sha256", "settings"), "")
    meta = {"folder": b"/".hex(), "model": model, "query_encoder": "", "windows": [10, 5]}
    meta |= {"num_frames": 0} if vectors == "frames" else {}
    IndexWriter.create(folder, width, (), meta)
    _append_vectors(folder, size, width)
    rows = map_rows(array_file(folder, EMBEDDINGS, 1), np.float32, size, (width,))
    contents = IndexContents(rows, draw_words(size, vocabulary), make_vocabulary(vocabulary))
    counts = {"num_rows": size, "commits": 1}
    if vectors == "frames":
        counts["num_frames"] = _append_frames(folder, rows)
    with closing(database.connect(folder, writing=True)) as connection:
        execute = connection.execute
        execute("PRAGMA journal_mode = OFF")  # nothing is written twice
        execute("PRAGMA synchronous = OFF")
        execute(f"PRAGMA cache_size = {-_CACHE_KIB}")
        execute("BEGIN")
        _insert_contents(connection, contents)
        database.write_meta(connection, counts)
        execute("COMMIT")
        execute("PRAGMA journal_mode = WAL")
    if with_checksums:
        with IndexWriter(folder):  # adds those of what was written past it
            pass
    return contents


def make_rows(size: int, width: int) -> Iterator[tuple[int, NDArray]]:
    """Yield the embeddings of all entries, a part at a time, with the first one's number."""
    rng = np.random.default_rng(0)
    num_clusters = max(1, size // ENTRIES_PER_CLUSTER)
    centres = normalize_rows(rng.standard_normal((num_clusters, width), np.float32))
    for first in range(0, size, _CHUNK):
        count = min(_CHUNK, size - first)
        own = centres[rng.integers(num_clusters, size=count)]
        noise = normalize_rows(rng.standard_normal((count, width), dtype=np.float32))
        yield first, normalize_rows(own + CLUSTER_SPREAD * noise)


def _append_vectors(folder: Path, size: int, width: int) -> None:
    """Write the embeddings of all entries, a part at a time."""
    for first, part in make_rows(size, width):
        ids = np.arange(first + 1, first + 1 + len(part))
        append_rows(array_file(folder, EMBEDDINGS, 1), first, part)
        append_rows(array_file(folder, IDS, 1), first, ids)


def _append_frames(folder: Path, rows: NDArray) -> int:
    """Write ``ENTRY_FRAMES`` vectors near to each row's; returns how many they are."""
    rng, step = np.random.default_rng(4), _CHUNK // ENTRY_FRAMES
    for first in range(0, len(rows), step):
        own = np.repeat(rows[first : first + step], ENTRY_FRAMES, axis=0)
        noise = normalize_rows(rng.standard_normal(own.shape, dtype=np.float32))
        frames = normalize_rows(own + FRAME_SPREAD * noise).astype(np.float16)
        times = 5.0 * first + 0.6 * np.arange(len(frames))
        append_rows(array_file(folder, FRAMES, 1), ENTRY_FRAMES * first, frames)
        append_rows(array_file(folder, FRAME_TIMES, 1), ENTRY_FRAMES * first, times)
    counts = np.full(len(rows), ENTRY_FRAMES, dtype=np.int32)
    append_rows(array_file(folder, FRAME_COUNTS, 1), 0, counts)
    return ENTRY_FRAMES * len(rows)


def draw_words(size: int, vocabulary: int) -> NDArray:
    """Return the numbers (size, ENTRY_WORDS) int32 of the words of each entry."""
    limits = np.cumsum(1 / np.arange(1, vocabulary + 1))
    limits /= limits[-1]
    rng, words = np.random.default_rng(2), np.empty((size, ENTRY_WORDS), dtype=np.int32)
    for first in range(0, size, _CHUNK):
        part = words[first : first + _CHUNK]
        part[:] = np.minimum(np.searchsorted(limits, rng.random(part.shape)), vocabulary - 1)
    return words


def make_vocabulary(count: int) -> list[str]:
    """Return words of 4 to 11 letters, the most frequent first; the same ones each time."""
    letters, names = random.Random(3), dict[str, None]()
    while len(names) < count:
        names["".join(letters.choices(string.ascii_lowercase, k=letters.randint(4, 11)))] = None
    return list(names)


_STAMP = '{"size": 1, "mtime_ns": 0, "sha256": ""}'  # of every video file


def _insert_contents(connection: database.sqlite3.Connection, contents: IndexContents) -> None:
    insert, size = connection.executemany, len(contents.rows)
    found = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL"
    indexes = connection.execute(found).fetchall()
    for name, _ in indexes:
        connection.execute(f"DROP INDEX {name}")
    insert(
        "INSERT INTO videos VALUES (?, ?, ?, 'null', 600, 640, 360)",
        (
            (video, f"{video % 100}/{video}.mp4".encode(), _STAMP)
            for video in range(1, _find_video(size) + 1)
        ),
    )
    insert(
        "INSERT INTO entries VALUES (?, ?, ?, ?, ?)",
        (
            (entry, _find_video(entry), start, start + 10, entry - 1)
            for entry in range(1, size + 1)
            for start in [5.0 * ((entry - 1) % ENTRIES_PER_VIDEO)]
        ),
    )
    insert(
        "INSERT INTO tracks (id, video_id, text, score, start_s, end_s, boxes) "
        "VALUES (?, ?, ?, 0.9, 0, 1, ?)",
        _list_lines(contents),
    )
    insert("INSERT INTO words (id, text) VALUES (?, ?)", enumerate(contents.vocabulary, 1))
    connection.execute("INSERT INTO words_fts (words_fts) VALUES ('rebuild')")
    _insert_postings(connection, contents.words.ravel())
    for _, statement in indexes:  # sorted in files, not one row after the other
        connection.execute(statement)


def _find_video(entry: int) -> int:
    return (entry - 1) // ENTRIES_PER_VIDEO + 1


def _list_lines(contents: IndexContents) -> Iterator[tuple[int, int, str, bytes]]:
    """Yield id, video, text and box of the two lines of each entry."""
    half = ENTRY_WORDS // 2
    for first in range(0, len(contents.words), _CHUNK):
        numbers = contents.words[first : first + _CHUNK].tolist()
        for entry, row in enumerate(numbers, first + 1):
            words = [contents.vocabulary[word] for word in row]
            for line, text in enumerate((words[:half], words[half:])):
                yield 2 * entry - 1 + line, _find_video(entry), " ".join(text), _BOX


def _insert_postings(connection: database.sqlite3.Connection, words: NDArray) -> None:
    """Insert the places of all words (N * ENTRY_WORDS,), in the table's order."""
    order = np.argsort(words, kind="stable")  # those of a word by entry, then by line
    for first in range(0, len(order), _CHUNK):
        places = order[first : first + _CHUNK]
        keys = words[places] + 1, places // ENTRY_WORDS + 1, places // (ENTRY_WORDS // 2) + 1
        rows = zip(*(key.tolist() for key in keys), strict=True)
        connection.executemany("INSERT OR IGNORE INTO postings VALUES (?, ?, ?)", rows)
