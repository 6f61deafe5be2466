"""Search quality: judged queries over a made library, by kind of query and mode of search.

    python -m benchmarks.search_quality                      # made looks, made lines: seconds
    python -m benchmarks.search_quality --demo work_dirs/demo --data data/demo   # a trained model
    python -m benchmarks.search_quality --json

The made library has videos of sports, slides, streets and kitchens, with signs, scores, subtitles
and file names, among them misreadings, and signs whose words are looks ("RED BULL", "CAR WASH"). No
model is needed: embeddings are sums of directions, one for each thing that is shown or asked for,
and of noise; what is written large in the picture is in them, too, weakly, as image-text models
read a little. Each query names the videos that are right for it. Of the first ten videos that each
mode finds it prints the mean reciprocal rank of the first right one (MRR), and nDCG, over several
draws of the noise; of queries that nothing matches, how often nothing is said to be found. Beside
the three modes stands what fusing both lists by their ranks would give (reciprocal rank fusion,
Cormack, Clarke, Büttcher, SIGIR 2009).

With --demo, the index of the demonstration and its trained fusion model are searched instead: for
the words alone, with a misspelt letter, the looks alone, and the captions of the test videos.
"""

import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import measuring
from benchmarks.nothing_found import SENTENCES
from data_loader.synthetic.scene import list_looks
from retrieval import VideoIndex
from retrieval.index.arrays import EMBEDDINGS
from retrieval.index.records import ContentStamp, NewEntry, NewTrack, NewVideo
from retrieval.index.unrelated import UNRELATED_TEXTS
from retrieval.index.words import get_words
from retrieval.index.writer import IndexWriter, lock_index
from retrieval.results import TrackKind
from retrieval.search.hybrid import EmbeddedQuery, SearchRequest, run_search
from utils.cli import positive_int, run_cli
from utils.errors import UserError

TOP = 10  # videos that are looked at
WIDTH = 64
WINDOW_S = 10.0
MODES = ("keyword", "semantic", "hybrid")
NOTHING = "nothing"  # kind of query that no video is right for
RANK_OFFSET = 60  # k of reciprocal rank fusion
NUM_OTHERS = 120  # videos that no query is for
# Shares, against 1 for each thing that is shown: of what is written, of a video, of a window, and
# of a text. With these a look is found first in two of three cases, as by SigLIP 2 on photographs.
_WRITTEN, _VIDEO_NOISE, _WINDOW_NOISE, _TEXT_NOISE = 0.25, 0.9, 0.4, 0.9
_SIGNS_SEED = 1000
_SHARED = 0.6  # of the axis that all embeddings have in common


@dataclass(frozen=True)
class MadeVideo:
    """A video: what it shows, and its lines, each in one of its windows, in order."""

    name: str
    looks: str
    read: Sequence[str] = ()
    spoken: Sequence[str] = ()


@dataclass(frozen=True)
class JudgedQuery:
    """A query, what of it is a look, and the videos that are right."""

    kind: str
    text: str
    looks: str = ""
    right: frozenset[str] = field(default_factory=frozenset)


VIDEOS = (
    MadeVideo("sports/final.mp4", "tennis court", ["Djokovic", "Del Potro", "6 4 7 5 US OPEN"]),
    MadeVideo("sports/clay.mp4", "tennis court", ["NADAL", "Roland Garros", "6 3"]),
    MadeVideo("sports/grass.mp4", "tennis court", ["FEDERER", "Wimbledon", "7 6"]),
    MadeVideo("sports/training.mp4", "tennis court man"),
    MadeVideo("sports/club.mp4", "tennis court dog"),
    MadeVideo("sports/elbow.mp4", "office man", ["Tennis elbow clinic", "open match day"]),
    MadeVideo("sports/derby.mp4", "football stadium", ["ARSENAL 2 1 CHELSEA", "67:12"]),
    MadeVideo("sports/cup.mp4", "football stadium", ["REAL MADRID 0 0 MILAN", "12:45"]),
    MadeVideo("sports/kick.mp4", "football park dog"),
    MadeVideo("street/a.mp4", "car street night", ["CASINO ROYALE", "Open 24 hours"]),
    MadeVideo("street/b.mp4", "car street", ["CAR WASH", "RE16 TGK"]),
    MadeVideo("street/c.mp4", "bicycle street", ["RED BULL", "Bakery Lindner"]),
    MadeVideo("street/d.mp4", "red car beach", ["KA AB 1234"]),
    MadeVideo("street/e.mp4", "red car street", ["pharmacy"]),
    MadeVideo("street/f.mp4", "bus street", ["Line 42 Hauptbahnhof", "Ausstieg hinten"]),
    MadeVideo("street/g.mp4", "bus night", ["Line 17 Flughafen"]),
    MadeVideo("street/h.mp4", "street shop", ["DOG CAFE", "BEACH BAR"]),
    MadeVideo("street/i.mp4", "street night", ["HOTE1 BELLEVUE"]),  # misread
    MadeVideo("street/j.mp4", "street shop", ["Restauramt Adria"]),
    MadeVideo("street/k.mp4", "street shop", ["PHARMAGY", "24h"]),
    MadeVideo("street/l.mp4", "street shop", ["8AKERY", "fresh bread"]),
    MadeVideo("street/m.mp4", "street museum", ["MUSEUM 0F M0DERN ART"]),
    MadeVideo("street/n.mp4", "street station", ["Hauptbahnh0f", "G1eis 7"]),
    MadeVideo("talks/ipod.mp4", "stage man", ["iPod nano", "1,000 songs in your pocket"]),
    MadeVideo("talks/iphone.mp4", "stage man", ["iPhone", "Apple reinvents the phone"]),
    MadeVideo("talks/climate.mp4", "slide chart", ["Global mean temperature", "CO2 420 ppm"]),
    MadeVideo("talks/market.mp4", "slide chart", ["Revenue 2023", "EBITDA 18.4 %"]),
    MadeVideo("talks/attention.mp4", "slide", ["Attention is all you need", "Vaswani et al."]),
    MadeVideo("talks/life.mp4", "slide man", ["What is life?", "Schrödinger"]),
    MadeVideo("screen/terminal.mp4", "screen", ["git rebase --continue", "CONFLICT (content)"]),
    MadeVideo("screen/editor.mp4", "screen", ["def fibonacci(n):", "return memo[n]"]),
    MadeVideo("screen/error.mp4", "screen", ["Segmentation fault (core dumped)", "0x7fff5694dc58"]),
    MadeVideo("screen/install.mp4", "screen", ["Installing packages", "61 %"]),
    MadeVideo("games/kart.mp4", "game car", ["LAP 2/3", "000300", "MUSHROOM CUP"]),
    MadeVideo("games/maze.mp4", "game", ["SCORE 042180", "GAME OVER"]),
    MadeVideo("games/blocks.mp4", "game", ["SCORE 000100", "LEVEL 9"]),
    MadeVideo("films/chaplin.mp4", "man street film"),
    MadeVideo("films/nosferatu_1922.mp4", "man night film"),
    MadeVideo("films/metropolis-restored.mp4", "city film"),
    MadeVideo("films/kurosawa rashomon.mp4", "man forest film"),
    MadeVideo("phone/2019 holiday Lisbon.mp4", "beach children"),
    MadeVideo("phone/birthday_oma.mp4", "cake children kitchen"),
    MadeVideo("phone/IMG_4711.mp4", "dog beach"),
    MadeVideo("phone/snow.mp4", "dog snow"),
    MadeVideo("phone/cat.mp4", "cat sofa"),
    MadeVideo("phone/cake.mp4", "cake kitchen", ["Happy Birthday Emma"]),
    MadeVideo("cook/pasta.mp4", "kitchen man", ["Carbonara"], ["now add the guanciale"]),
    MadeVideo("cook/soup.mp4", "kitchen woman", [], ["simmer the lentils for twenty minutes"]),
    MadeVideo("cook/bread.mp4", "kitchen woman", ["450 g flour"], ["let the sourdough rest"]),
    MadeVideo("news/storm.mp4", "sea storm", ["BREAKING"], ["hurricane Katrina made landfall"]),
    MadeVideo("news/vote.mp4", "office man", ["LIVE"], ["the parliament voted against the treaty"]),
    MadeVideo("news/moon.mp4", "moon", [], ["one giant leap for mankind"]),
    MadeVideo("news/bridge.mp4", "bridge sea", [], ["the Øresund bridge opened in July"]),
    MadeVideo("lab/cells.mp4", "microscope", ["mitochondria", "scale 20 µm"]),
    MadeVideo("lab/rocket.mp4", "rocket night", ["T-00:10", "MAXICASINOX"], ["nine ignition"]),
)  # fmt: skip

# Words that are asked for as they are not written.
SIGNS = (
    MadeVideo("signs/price.mp4", "sign", ["PRICE 1,299.00 EUR"]),
    MadeVideo("signs/sale.mp4", "sign", ["PRICE 1,298.00 EUR", "129,900 SOLD"]),
    MadeVideo("signs/phone.mp4", "sign", ["CALL 555-0123"]),
    MadeVideo("signs/fax.mp4", "sign", ["FAX 555-0124"]),
    MadeVideo("signs/plate.mp4", "sign", ["AB-123 CD"]),
    MadeVideo("signs/unit.mp4", "sign", ["K-9 UNIT"]),
    MadeVideo("signs/flag.mp4", "sign", ["MADE IN U.S.A."]),
    MadeVideo("signs/clothes.mp4", "sign", ["H&M"]),
    MadeVideo("signs/window.mp4", "sign", ["GRAND BOUTI QUE"]),
    MadeVideo("signs/guard.mp4", "sign", ["P O L I Z E I"]),
    MadeVideo("signs/airport.mp4", "sign", ["北京首都机场欢迎您"]),
    MadeVideo("signs/gate.mp4", "sign", ["北京大学西门"]),
    MadeVideo("signs/tower.mp4", "sign", ["東京タワーへようこそ"]),
    MadeVideo("signs/square.mp4", "sign", ["KIZILAY", "Çıkış"]),
    MadeVideo("signs/pudding.mp4", "sign", ["rødgrød med fløde"]),
    MadeVideo("signs/school.mp4", "sign", ["الْعَرَبِيَّة"]),
    MadeVideo("signs/since.mp4", "sign", ["SINCE 2O24"]),
    MadeVideo("signs/clock.mp4", "sign", ["10:59:45"]),
)  # fmt: skip

_OTHER_LOOKS = (
    "park forest beach sea snow street office kitchen sofa shop man woman children dog cat horse "
    "bicycle train boat mountain river market garden concert city night film"
).split()
_OTHER_WORDS = (
    "welcome open sale exit parking north south entry closed ticket push free today price grand "
    "royal park main lane avenue public special summer winter offer menu daily fresh deluxe night "
    "service private central corner plaza level floor best live news video episode subscribe part "
    "chapter total home phone road works speed limit zone gate platform shows like never always "
    "house school library cinema theater campus garage station hospital water coffee juice island"
).split()


def _judge(kind: str, *rows: tuple[str, str, str]) -> list[JudgedQuery]:
    """Return queries of a kind, given as text, its looks, and the names of right videos."""
    of_name = {Path(video.name).stem: video.name for video in (*VIDEOS, *SIGNS)}
    return [
        JudgedQuery(
            kind, text, looks, frozenset(of_name[name] for name in right.split(",") if name)
        )
        for text, looks, right in rows
    ]


def list_queries() -> list[JudgedQuery]:
    """Return the judged queries of the made library."""
    looks = ("tennis court", "red car", "dog beach", "bus street", "football stadium", "dog snow",
             "cat sofa", "slide chart", "cake kitchen", "microscope", "bridge sea", "rocket night",
             "screen", "man forest film")  # fmt: skip
    sentences = ("a tennis court", "a red car drives", "a dog runs on the beach",
                 "video of a bus in the street", "a football stadium", "dog in the snow",
                 "a cat on a sofa like mine", "a slide showing a chart", "a cake in the kitchen",
                 "through a microscope", "a bridge over the sea", "a rocket at night",
                 "a recording of a screen", "a man in a forest, old film")  # fmt: skip
    seen = [
        JudgedQuery("a look", text, look, frozenset(
            video.name for video in VIDEOS if {*look.split()} <= {*video.looks.split()}))
        for text, look in zip(sentences, looks, strict=True)
    ]  # fmt: skip
    return [
        *_judge("a name",
                ("Djokovic", "tennis court", "final"), ("Del Potro", "tennis", "final"),
                ("nadal", "tennis court", "clay"), ("Federer Wimbledon", "tennis court", "grass"),
                ("Roland Garros", "tennis", "clay"), ("Schrödinger", "man", "life"),
                ("casino royale", "night city", "a"), ("Arsenal Chelsea", "football", "derby"),
                ("Real Madrid", "football stadium", "cup"), ("iPod nano", "", "ipod"),
                ("Vaswani", "", "attention"), ("mushroom cup", "game", "kart"),
                ("What is life?", "", "life")),
        *_judge("a number",
                ("RE16 TGK", "car", "b"), ("1234", "", "d"), ("000300", "", "kart"),
                ("042180", "", "maze"), ("18.4", "", "market"), ("67:12", "", "derby"),
                ("line 42", "bus", "f"), ("420 ppm", "chart", "climate"),
                ("0x7fff5694dc58", "screen", "error"), ("61 %", "", "install")),
        *_judge("misread",
                ("hotel bellevue", "night", "i"), ("restaurant adria", "shop", "j"),
                ("pharmacy 24h", "shop", "k"), ("bakery fresh bread", "shop", "l"),
                ("museum of modern art", "museum", "m"), ("Gleis 7", "station", "n"),
                ("restaurant", "shop", "j"), ("modern", "", "m"), ("mitochondira", "", "cells"),
                ("carbonora", "kitchen", "pasta")),
        *_judge("part of a word",
                ("bahnhof", "station", "f,n"), ("ausstieg", "bus", "f"), ("fibo", "", "editor"),
                ("flug", "", "g"), ("install", "screen", "install"), ("TGK", "", "b"),
                ("mito", "", "cells"), ("xicasino", "", "rocket"), ("segment", "", "error")),
        *seen,
        *_judge("a look and words",
                ("tennis match Djokovic against Del Potro", "tennis court", "final"),
                ("a red car passes the sign pharmacy", "red car street", "e"),
                ("a car at night in front of the casino", "car street night", "a"),
                ("a bus showing line 17", "bus night", "g"),
                ("a man on a stage presents the iPhone", "stage man", "iphone"),
                ("a slide with a chart of CO2", "slide chart", "climate"),
                ("football stadium, Arsenal leads", "football stadium", "derby"),
                ("a game whose score is 000100", "game", "blocks"),
                ("a screen with a git conflict", "screen", "terminal"),
                ("a birthday cake for Emma", "cake kitchen", "cake"),
                ("tennis on grass with Federer", "tennis court", "grass"),
                ("video of a street with a bakery Lindner", "street bicycle", "c"),
                ("the slide that says attention is all you need", "slide", "attention")),
        *_judge("said",
                ("guanciale", "kitchen", "pasta"), ("simmer the lentils", "kitchen", "soup"),
                ("sourdough", "kitchen", "bread"), ("hurricane Katrina", "storm sea", "storm"),
                ("voted against the treaty", "office", "vote"), ("giant leap", "", "moon"),
                ("Øresund", "bridge", "bridge"), ("ignition", "rocket", "rocket")),
        *_judge("a file's name",
                ("chaplin", "man film", "chaplin"), ("nosferatu", "night film", "nosferatu_1922"),
                ("metropolis restored", "city film", "metropolis-restored"),
                ("rashomon", "film", "kurosawa rashomon"),
                ("lisbon", "beach city", "2019 holiday Lisbon"),
                ("birthday oma", "cake", "birthday_oma"), ("IMG_4711", "", "IMG_4711"),
                ("holiday 2019", "beach", "2019 holiday Lisbon")),
        *(JudgedQuery(NOTHING, text, f"unknown{number} other{number}")
          for number, text in enumerate((
              "a zebra in the savanna", "lite beer", "Sharapova",
              "a submarine dives", "a knitting woman", "4242424", "penguins on ice",
              "xylophone quartet", "a volcano erupts", "an astronaut with a falcon"))),
        *_judge("written otherwise",
                ("1299", "", "price"), ("1.299,00 EUR", "sign", "price"), ("5550123", "", "phone"),
                ("555 0123", "", "phone"), ("ab123cd", "", "plate"), ("AB 123 CD", "sign", "plate"),
                ("k9", "sign", "unit"), ("usa", "", "flag"), ("h & m", "sign", "clothes"),
                ("boutique", "sign", "window"), ("polizei", "sign", "guard"),
                ("机场", "", "airport"), ("北京机场", "", "airport"), ("東京 タワー", "", "tower"),
                ("kızılay", "", "square"), ("cikis", "sign", "square"),
                ("rodgrod", "", "pudding"), ("العربية", "", "school"), ("2024", "", "since"),
                ("105945", "", "clock")),
    ]  # fmt: skip


def make_direction(thing: str) -> NDArray:
    """Return the direction (WIDTH,) of a thing that is shown, read or asked for."""
    seed = int.from_bytes(hashlib.sha256(thing.encode()).digest()[:8])
    return _normalize(np.random.default_rng(seed).standard_normal(WIDTH))


def _normalize(values: NDArray) -> NDArray:
    return values / np.linalg.norm(values)


class Space:
    """Embeddings of what is shown and of texts, with noise of its own."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._entry_axis = make_direction("axis of entries")
        self._text_axis = _normalize(self._entry_axis + make_direction("axis of texts"))

    def draw(self, share: float) -> NDArray:
        """Return noise (WIDTH,) of that length."""
        return share * _normalize(self._rng.standard_normal(WIDTH))

    def embed_window(self, looks: Sequence[str], words: Sequence[str], noise: NDArray) -> NDArray:
        """Return the embedding of a window, with the noise of its video."""
        shown = sum((make_direction(look) for look in looks), noise + self.draw(_WINDOW_NOISE))
        return self._mix(shown + _WRITTEN * self._add(words), self._entry_axis)

    def embed_text(self, looks: Sequence[str], words: Sequence[str]) -> NDArray:
        """Return the embedding of a text that is about looks and has these words."""
        length = math.sqrt(max(1, len(looks)))
        asked = self._add(looks) + self.draw(_TEXT_NOISE * length)
        return self._mix(asked + _WRITTEN * self._add(words), self._text_axis)

    @staticmethod
    def _add(things: Sequence[str]) -> NDArray:
        return sum((make_direction(thing) for thing in things), np.zeros(WIDTH))

    @staticmethod
    def _mix(content: NDArray, axis: NDArray) -> NDArray:
        content = _normalize(content)
        mixed = _SHARED * axis + math.sqrt(1 - _SHARED**2) * content
        return _normalize(mixed).astype(np.float32)


def make_videos(seed: int) -> list[MadeVideo]:
    """Return the videos of the library: those that are asked for, and others."""
    rng = np.random.default_rng(seed)
    others = [
        MadeVideo(
            f"other/{number:03}.mp4",
            " ".join(rng.choice(_OTHER_LOOKS, rng.integers(2, 4), replace=False)),
            [" ".join(rng.choice(_OTHER_WORDS, 2)) for _ in range(rng.integers(0, 4))],
        )
        for number in range(NUM_OTHERS)
    ]
    return [*VIDEOS, *others]


def write_index(folder: Path, space: Space, seed: int) -> None:
    """Write the library as an index in a new folder."""
    folder.mkdir(parents=True)
    model = dict.fromkeys(("name", "path", "sha256", "settings"), "")
    meta = {"folder": b"/".hex(), "model": model, "query_encoder": "", "windows": [10, 5]}
    with lock_index(folder):
        IndexWriter.create(folder, WIDTH, (), meta)
        with IndexWriter(folder) as writer:
            videos = [make_new_video(video, space) for video in make_videos(seed)]
            apart = Space(_SIGNS_SEED + seed)  # what came before them keeps its noise
            writer.write(videos + [make_new_video(video, apart) for video in SIGNS])


def make_new_video(video: MadeVideo, space: Space) -> NewVideo:
    """Return a video as an index keeps it: a window a line, and two more."""
    lines: list[tuple[str, TrackKind]] = [(text, "read") for text in video.read]
    lines += [(text, "spoken") for text in video.spoken]
    noise, looks = space.draw(_VIDEO_NOISE), video.looks.split()
    found = NewVideo(video.name, ContentStamp(1, 2, "3"), None, 0.0, 64, 48)
    for number in range(len(lines) + 2):
        start, words = WINDOW_S * number, []
        if number < len(lines):
            text, kind = lines[number]
            words = get_words(text) if kind == "read" else []
            boxes = np.array([(start + 3, 0.1, 0.1, 0.5, 0.2)], dtype=np.float32)
            boxes = boxes if kind == "read" else boxes[:0]
            found.tracks.append(NewTrack(text, 0.9, start + 3, start + 5, boxes, (number,), kind))
        row = space.embed_window(looks, words, noise)
        found.entries.append(NewEntry(start, start + WINDOW_S, b"", {EMBEDDINGS: row}))
    found.duration_s = WINDOW_S * len(found.entries)
    return found


Ask = Callable[[JudgedQuery, str], list[tuple[str, bool]]]  # query, mode -> videos, whether found


def ask_made(index: VideoIndex, space: Space) -> Ask:
    """Return how the made library is asked."""
    unrelated = np.stack([
        space.embed_text([f"thing {number}", f"place {number}"], [])
        for number in range(len(UNRELATED_TEXTS))
    ])  # fmt: skip
    embeddings: dict[str, NDArray] = {}

    def ask(query: JudgedQuery, mode: str) -> list[tuple[str, bool]]:
        if query.text not in embeddings:
            words = get_words(query.text)
            embeddings[query.text] = space.embed_text(query.looks.split(), words)
        embedded = EmbeddedQuery(embeddings[query.text], unrelated)
        request = SearchRequest(query.text, 1000, mode, None, False, True, 1.0)
        with index.reading() as (reader, snapshot):
            asked = EmbeddedQuery() if mode == "keyword" else embedded
            hits = run_search(reader, snapshot, request, asked)
        return [(hit.video, hit.likely is not False) for hit in hits]

    return ask


def ask_index(index: VideoIndex) -> Ask:
    """Return how an index with a query encoder is asked."""

    def ask(query: JudgedQuery, mode: str) -> list[tuple[str, bool]]:
        hits = index.search(query.text, 1000, mode)
        return [(hit.video, hit.likely is not False) for hit in hits]

    return ask


def list_demo_queries(data: Path) -> list[JudgedQuery]:
    """Return queries for the test videos of a demonstration.

    Raises:
        UserError: the files of its data are not there.
    """
    try:
        made = json.loads((data / "synthetic.json").read_text(encoding="utf-8"))
        entries = json.loads((data / "TextVR_test.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{data}: has no demonstration ({error}); run make demo") from error
    names = [entry["path"] for entry in entries]
    pair = {name: (made["test"][name]["look"], made["test"][name]["word"]) for name in names}
    queries = []
    for number, word in enumerate(made["words"]):
        right = frozenset(name for name in names if pair[name][1] == number)
        queries.append(JudgedQuery("a word", word, "", right))
        swapped = word[:2] + word[3] + word[2] + word[4:]
        queries.append(JudgedQuery("a mistyped word", swapped, "", right))
    for number, look in enumerate(list_looks()[: len(made["looks"])]):
        right = frozenset(name for name in names if pair[name][0] == number)
        text = f"a {look.colour} {look.shape} over {look.background}"
        queries.append(JudgedQuery("a look", text, "", right))
    for entry in entries[::4]:
        right = frozenset(name for name in names if pair[name] == pair[entry["path"]])
        caption = entry["captions_info"][0]["caption"]
        queries.append(JudgedQuery("a look and a word", caption, "", right))
    return queries + [JudgedQuery(NOTHING, text) for text in SENTENCES]


def rank_videos(found: Sequence[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """Return each video once, where it is first, and whether any of its entries is found."""
    likely = {name for name, is_likely in found if is_likely}
    return [(name, name in likely) for name in dict.fromkeys(name for name, _ in found)]


def fuse_ranks(*lists: Sequence[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """Return the videos of several lists by reciprocal rank fusion."""
    scores: dict[str, float] = {}
    likely: dict[str, bool] = {}
    for ranked in lists:
        for rank, (name, is_likely) in enumerate(ranked, 1):
            scores[name] = scores.get(name, 0.0) + 1 / (RANK_OFFSET + rank)
            likely[name] = likely.get(name, False) or is_likely
    order = sorted(scores, key=lambda name: (not likely[name], -scores[name]))
    return [(name, likely[name]) for name in order]


def judge(query: JudgedQuery, ranked: Sequence[tuple[str, bool]]) -> dict[str, float]:
    """Return reciprocal rank and nDCG of the first ten; of ``NOTHING``, 1 where none is found."""
    if query.kind == NOTHING:
        told = float(not any(is_likely for _, is_likely in ranked))
        return {"MRR": told, "nDCG": told}
    gains = [name in query.right for name, _ in ranked[:TOP]]
    discounts = [1 / math.log2(2 + place) for place in range(TOP)]
    best = sum(discounts[: len(query.right)])
    return {
        "MRR": next((1 / (place + 1) for place, gain in enumerate(gains) if gain), 0.0),
        "nDCG": sum(d for d, gain in zip(discounts, gains, strict=False) if gain) / best,
    }


def measure_queries(queries: Sequence[JudgedQuery], ask: Ask) -> list[measuring.Result]:
    """Return what each query is worth in each mode, and by the fusion of ranks."""
    rows = []
    for query in queries:
        found = {mode: rank_videos(ask(query, mode)) for mode in MODES}
        found["rank fusion"] = fuse_ranks(found["semantic"], found["keyword"])
        values = {mode: judge(query, ranked) for mode, ranked in found.items()}
        rows.append({"kind": query.kind, "query": query.text, "values": values})
    return rows


def summarize(rows: Sequence[measuring.Result]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the means by kind of query (and of all) and mode."""
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    parts = {kind: [row for row in rows if row["kind"] == kind] for kind in kinds}
    parts["all"] = list(rows)
    return {
        kind: {
            mode: {
                name: float(np.mean([row["values"][mode][name] for row in part]))
                for name in ("MRR", "nDCG")
            }
            for mode in (*MODES, "rank fusion")
        }
        for kind, part in parts.items()
    }


def measure_made(num_draws: int) -> list[measuring.Result]:
    """Return what the queries of the made library are worth, over draws of the noise."""
    rows = []
    for seed in range(num_draws):
        with tempfile.TemporaryDirectory(prefix="search_quality_") as name:
            space, folder = Space(seed), Path(name) / "index"
            write_index(folder, space, seed)
            with VideoIndex.open(folder) as index:
                rows += measure_queries(list_queries(), ask_made(index, space))
    return rows


def format_table(result: measuring.Result) -> str:
    """Return the means as a Markdown table."""
    columns = ["queries", "number"]
    columns += [f"{mode}: MRR, nDCG@10" for mode in (*MODES, "rank fusion")]
    rows = []
    for kind, modes in result["kinds"].items():
        cells = [f"{value['MRR']:.3f}, {value['nDCG']:.3f}" for value in modes.values()]
        rows.append([kind, str(result["numbers"][kind]), *cells])
    return f"{measuring.format_head(result)}\n\n{measuring.format_table(columns, rows, 1)}"


def count_kinds(rows: Sequence[measuring.Result]) -> Mapping[str, int]:
    """Return how many distinct queries there are of each kind, and of all."""
    distinct = {(row["kind"], row["query"]) for row in rows}
    kinds = [kind for kind, _ in distinct]
    return {kind: kinds.count(kind) for kind in kinds} | {"all": len(distinct)}


def main() -> None:
    """Run the command."""
    parser = measuring.make_parser(__doc__)
    parser.add_argument("--draws", type=positive_int, default=5, help="of the noise")
    parser.add_argument("--demo", type=Path, help="folder of a demonstration, with my.index")
    parser.add_argument("--data", type=Path, default=Path("data/demo"), help="and of its data")
    asked = parser.parse_args()
    if asked.demo is None:
        rows = measure_made(asked.draws)
    else:
        with VideoIndex.open(asked.demo / "my.index") as index:
            rows = measure_queries(list_demo_queries(asked.data), ask_index(index))
    result = measuring.describe_machine() | {"kinds": summarize(rows), "queries": rows}
    measuring.write_result(result | {"numbers": count_kinds(rows)}, asked.json, format_table)


if __name__ == "__main__":
    run_cli(main)
