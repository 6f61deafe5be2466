"""Words that are written otherwise: signs, marks, digits of other scripts, other blanks."""

import sqlite3
from contextlib import closing

import numpy as np
import pytest

from retrieval import VideoIndex
from retrieval.index.words import get_words, list_pieces, reduce_word
from retrieval.index.writer import IndexWriter, lock_index
from retrieval.printing import format_hits
from retrieval.results import WordMatch
from retrieval.search.keyword import MAX_WORDS
from retrieval.search.videos import VideoFilter
from retrieval.web.api import find_marks
from tests.retrieval.made_index import (
    add,
    create,
    index_of_lines,
    made_embeddings,
    made_video,
    make_former,
)

# What is shown, how it is found, and a query that it is not found by.
WRITTEN_OTHERWISE = [
    ("PRICE 1,299.00 EUR", "1299 1299.00 1,299 1.299,00 1'299 1299,00", "1298 129900"),
    ("TOTAL 1.299,50", "1299.50 1,299.50 1299,5", "1299,51"),
    ("CALL +1-800-555-0199", "18005550199 5550199 555-0199", "5550198"),
    ("AB-123 CD", "ab123cd AB-123-CD AB123-CD ab123", "ab124cd"),
    ("RE16 XYZ", "re16xyz RE-16-XYZ", "re17xyz"),
    ("K-9 UNIT", "k9 K9 K.9", "k8"),
    ("U.S.A.", "usa USA u-s-a", "usb"),
    ("NATO", "n.a.t.o N-A-T-O", "n.a.t.u"),
    ("H&M", "hm h&m", "hn"),
    ("AT & T", "at&t", "at&x"),
    ("e-mail me", "email E-MAIL e.mail", "emael"),
    ("rock’n’roll", "rock'n'roll rocknroll", "rock'n'ro1l2"),
    ("at 10:59:45", "10:59:45 105945 10.59.45", "10:59:46 105946"),
    ("2024-05-31", "20240531 2024/05/31 2024.05.31", "20240530"),
    ("Kızılay", "kızılay kizilay KIZILAY", "kizilai"),
    ("rødgrød", "rodgrod RØDGRØD", "rodgrid2"),
    ("Łódź", "lodz łódź", "lodx"),
    ("Müllstraße", "mullstrasse MÜLLSTRASSE müllstraße", "mullstrand"),
    ("naïve Œuvre", "naive oeuvre œuvre", "oeuvra"),
    ("Phở đặc biệt", "pho dac biet", "bien"),
    ("Ωμέγα", "ωμεγα ΩΜΈΓΑ", "ωμεγω"),
    ("ёлка", "елка", "елки"),
    ("الْعَرَبِيَّة", "العربية العربيه", "العربي2"),
    ("أحمد", "احمد إحمد", "احمر"),
    ("مـــرحبا", "مرحبا", "مرحبة2"),
    ("שָׁלוֹם", "שלום", "שלוש"),
    ("क़लम", "कलम", "कमल2"),
    ("١٢٣٤ شارع", "1234 ۱۲۳۴", "1235"),
    ("१,५६७.००", "1567", "1568"),
    ("ﾗｰﾒﾝ", "ラーメン らーめん", "ラーメ2"),
    ("ＦＵＬＬ ７７７", "full 777", "778"),
    ("ﬁﬂﬀ office", "fiflff", "fifles"),
    ("res\u00adtau\u200drant", "restaurant", "restaurateur"),
    ("CA SINO", "casino CASINO", "casimir"),
    ("the CASI NO is", "casino", "casinos2x"),
    ("MU SE UM", "museum", "mus"),
    ("S A L E 50", "sale", "sales2"),
    ("dial 555 0142 now", "5550142 555-0142", "5550143"),
    ("+49 170 88 0099", "170880099 49170880099", "49170880098"),
    ("12 500 km", "12500 12,500 12.500", "12501"),
    ("北京首都机场欢迎您", "机场 机 首都机场 北京机场 您", "北京大学 场机 车站"),
    ("東京タワーへようこそ", "東京 タワー 東京タワー たわー", "京東"),
    ("สนามบินสุวรรณภูมิ", "สนามบิน สุวรรณภูมิ", "ภูเขาไฟ"),
    ("인천국제공항에서", "공항 인천 인천공항", "부산공항"),
    ("인천 공항", "인천공항", "인천항"),
]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reduced") / "my.index"
    with VideoIndex.open(index_of_lines(folder, [[line] for line, *_ in WRITTEN_OTHERWISE])) as it:
        yield it


def find(index: VideoIndex, query: str) -> dict[int, WordMatch]:
    """Each hit by the number of its line, with its first match."""
    return {hit.id - 1: hit.words[0] for hit in index.search(query, 100, mode="keyword")}


@pytest.mark.parametrize(("line", "queries", "others"), WRITTEN_OTHERWISE)
def test_words_that_are_written_otherwise_are_found(index, line, queries, others):
    number = [shown for shown, *_ in WRITTEN_OTHERWISE].index(line)
    for query in queries.split():
        found = find(index, query)
        assert number in found, query
        assert find_marks(line, found[number].word), (query, found[number])
    for query in others.split():
        assert number not in find(index, query), query


def test_a_reduced_match_ranks_below_the_exact_one_and_is_named(tmp_path):
    lines = ["casimo", "maxicasinox", "casinos", "CA SINO", "cas-ino", "casino", "C A S I N O"]
    with VideoIndex.open(index_of_lines(tmp_path / "i", [[line] for line in lines])) as index:
        hits = index.search("casino", mode="keyword")
        kinds = [hit.words[0].kind for hit in hits]
        assert kinds == ["exact", "variant", "pieces", "pieces", "prefix", "substring", "fuzzy"]
        assert [hit.words[0].word for hit in hits[:4]] == ["casino", "cas-ino", "ca sino",
                                                           "c a s i n o"]  # fmt: skip
        assert all(a.score > b.score for a, b in zip(hits, hits[1:], strict=False) if a.id != 4)
        table = format_hits(hits, explain=True)
        assert 'casino: variant in "cas-ino"' in table
        assert 'casino: pieces in "CA SINO"' in table
        # The other way round each word of the query is a piece of the one that is there.
        hits = index.search("ca sino", mode="keyword")
        assert [hit.id for hit in hits[:3]] == [4, 5, 6]
        assert {(w.query, w.word, w.kind) for w in hits[2].words} == {
            ("ca", "casino", "pieces"), ("sino", "casino", "pieces"),
        }  # fmt: skip


def test_a_part_of_spaced_letters_is_marked_beside_better_matches(tmp_path):
    lines = ["S A L E", "ale", "pale ale"]
    with VideoIndex.open(index_of_lines(tmp_path / "i", [[line] for line in lines])) as index:
        assert find(index, "ale")[0].word == "a l e" and find(index, "ale")[1].kind == "exact"


def test_quoted_words_are_found_as_they_stand(index):
    for query in ("1299", "ab123cd", "casino", "机场", "kizilay", "usa"):
        assert not find(index, f'"{query}"'), query
    for query in ("ca sino", "k-9", "u.s.a", "kızılay", "1,299.00"):
        (match,) = find(index, f'"{query}"').values()
        assert match.kind == "exact"


@pytest.mark.parametrize(
    ("query", "found"),
    [("c++", ["C++", "C++17"]), ("C#", ["C#"]), ("c", ["C"]), ("g++", ["g++ -O2"]),
     ("f#", ["F#."]), ("мой", ["мой дом"]), ("мои", ["мои дома"]), ("май", ["МАЙ"])],
)  # fmt: skip
def test_signs_and_letters_that_make_another_word_stay(tmp_path, query, found):
    lines = ["C", "C++", "C++17", "C#", "F#.", "g++ -O2", "мой дом", "мои дома", "МАЙ", "маи"]
    with VideoIndex.open(index_of_lines(tmp_path / "i", [[line] for line in lines])) as index:
        shown = {lines[number]: match.kind for number, match in find(index, query).items()}
    assert set(shown) == set(found) and shown[found[0]] == "exact"


def test_letters_that_look_alike_in_numbers_and_scripts(tmp_path):
    lines = ["2O24", "555-O1Z3", "САSINО", "HOTE1", "modem", "ΗΟΤΕL", "6ATE"]
    with VideoIndex.open(index_of_lines(tmp_path / "i", [[line] for line in lines])) as index:
        for query, wanted in [("2024", 0), ("5550123", 1), ("555-0123", 1), ("casino", 2),
                              ("hotel", 3), ("modern", 4), ("hotel", 5), ("gate", 6)]:  # fmt: skip
            assert find(index, query)[wanted].kind == "fuzzy", query
        assert not find(index, "2025") and not find(index, "5550124")


def test_words_of_a_file_s_name_are_found_in_pieces(tmp_path):
    create(tmp_path / "i")
    names = ["ipod_nano.mp4", "हिन्दी_गीत.mp4", "cafés.mp4", "AB-123-CD.mov"]
    rows = made_embeddings(len(names))
    videos = [made_video(name, [], rows[i : i + 1]) for i, name in enumerate(names)]
    add(tmp_path / "i", *videos)
    with VideoIndex.open(tmp_path / "i") as index:
        for query, wanted in [("ipodnano", 0), ("ipod nano", 0), ("ipod_nano.mp4", 0),
                              ("हिन्दी", 1), ("cafés", 2), ("ab123cd", 3)]:  # fmt: skip
            found = find(index, query)
            assert set(found) == {wanted} and found[wanted].track_kind == "name", query


def test_the_line_with_the_pieces_is_the_one_that_is_marked(tmp_path):
    create(tmp_path / "i")
    video = made_video("a.mp4", ["nothing here", "the GRAND CA SINO opens"], made_embeddings(1))
    for number, track in enumerate(video.tracks):
        track.boxes[:, 1:] = np.array([0.1, 0.3 * number, 0.2, 0.3 * number + 0.1])
    add(tmp_path / "i", video)
    with VideoIndex.open(tmp_path / "i") as index:
        (hit,) = index.search("casino", mode="keyword")
        (match,) = hit.words
        assert match.text == "the GRAND CA SINO opens" and match.box.top == pytest.approx(0.3)
        assert find_marks(match.text, match.word) == [(10, 17)]
        found = index.search_videos("casino", VideoFilter(), "keyword")
        (term,) = found.terms
        assert (term.num_videos, term.kind) == (1, "pieces")
        assert found.videos[0].moments[0].box.top == pytest.approx(0.3)


def test_more_sentences_than_words_are_looked_through(tmp_path):
    lines = [[f"机场{chr(0x4E00 + number)}的第{number}班"] for number in range(MAX_WORDS + 50)]
    with VideoIndex.open(index_of_lines(tmp_path / "i", lines)) as index:
        assert len(index.search("机场", 1000, mode="keyword")) == MAX_WORDS + 50


def read_words(folder) -> tuple[set, set, set]:
    """The words with their reduced forms, where they stand, and their pieces."""
    with closing(sqlite3.connect(folder / "index.db")) as connection:
        used = "JOIN words ON words.id = word_id"
        words = f"SELECT text, reduced FROM postings {used}"
        places = f"SELECT words.text, entry_id, tracks.text FROM postings {used} "
        places += "JOIN tracks ON tracks.id = track_id"
        pieces = f"SELECT piece, text FROM pieces {used} WHERE id IN (SELECT word_id FROM postings)"
        return tuple(set(connection.execute(query)) for query in (words, places, pieces))


FORMER_LINES = [["мой C++", "S A L E"], ["1,299.00 北京首都机场"], ["мои C", "plain words"], ["Й"]]


@pytest.mark.parametrize("version", [2, 3])
def test_an_upgraded_index_is_as_one_that_is_made_anew(tmp_path, version):
    fresh = index_of_lines(tmp_path / "fresh", FORMER_LINES)
    former = index_of_lines(tmp_path / "former", FORMER_LINES)
    make_former(former, version)
    with lock_index(former), IndexWriter(former):
        pass
    assert read_words(former) == read_words(fresh)
    with VideoIndex.open(former) as index:
        for query, kind in [("sale", "pieces"), ("1299", "variant"), ("机场", "substring"),
                            ("c++", "exact"), ("北京机场", "pieces")]:  # fmt: skip
            assert [match.kind for match in find(index, query).values()] == [kind], query


@pytest.mark.parametrize("version", [2, 3])
def test_a_former_index_is_searched_by_written_forms(tmp_path, version):
    folder = index_of_lines(tmp_path / "i", FORMER_LINES)
    make_former(folder, version)
    with VideoIndex.open(folder) as index:
        wanted = {
            "мой": {0, 2},
            "c++": {0, 2},
            "1,299.00": {1},
            "机场": {1},
            "plain": {2},
        }
        for query, numbers in wanted.items():
            found = find(index, query)
            assert set(found) == numbers, query
        assert {match.kind for match in find(index, "мой").values()} == {"exact"}
        assert find(index, '"мой c++"').keys() == {0, 2}
        assert not find(index, "kizilay") and set(find(index, "1299")) == set()


@pytest.mark.parametrize(
    ("word", "reduced"),
    [("1,299.00", "1299"), ("1.299,5", "1299.5"), ("1,299,000", "1299000"), ("2:3", "2:3"),
     ("9.00", "9"), ("0.50", "0.50"), ("192.168.1.1", "19216811"), ("3.11.7", "3117"),
     ("c++", "c++"), ("a+b", "ab"), ("ـ", "ـ"), ("1⁄2", "1⁄2"), ("ÿ", "ÿ"), ("хороший", "хороший"),
     ("ў", "ў"), ("9-11", "911"), ("٢٣", "23"), ("v2.0", "v2"), ("1299eur", "1299eur"),
     ("0.1:25", "0125"), ("0.1:0.1:0.1", "010101")],
)  # fmt: skip
def test_the_reduced_form(word, reduced):
    if word == "ÿ":
        word, reduced = get_words(word)[0], "y"
    assert reduce_word(word) == reduced
    assert reduce_word(reduced) == reduced  # nothing more is left to reduce


def test_pieces_are_neighbours_of_unspaced_scripts():
    assert list_pieces("北京首都abc机场") == ["北京", "京首", "首都", "都", "机场", "场"]
    assert list_pieces("plain") == []
