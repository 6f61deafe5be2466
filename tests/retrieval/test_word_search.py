"""Search by words, against what a reader of the lines would say."""

import random
import string

import pytest

from retrieval import VideoIndex
from retrieval.index.words import fold, get_words
from retrieval.search.keyword import Term, parse_terms
from retrieval.search.snapshot import MAX_LETTERS, Vocabulary
from tests.retrieval.made_index import BOX, index_of_lines

LINES = [
    ["CASINO ROYALE", "open 24 hours"],  # 1
    ["Casinos & hotels"],  # 2
    ["maxicasinox"],  # 3
    ["casimo"],  # 4: an OCR error
    ["RE16 TGK", "SALE UP TO 60 OFF"],  # 5
    ["up to the sale"],  # 6
    ["Crème brûlée €9.99!"],  # 7
    ["大酒店 HOTEL"],  # 8
    ["100%", "a+b", "NEAR AND OR NOT", "drop table"],  # 9
    ["the end of the road"],  # 10
]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words") / "my.index"
    with VideoIndex.open(index_of_lines(folder, LINES)) as opened:
        yield opened


def ids(index, query: str, **options) -> list[int]:
    return [hit.id for hit in index.search(query, mode="keyword", k=100, **options)]


def kinds(index, query: str) -> dict[int, set[str]]:
    hits = index.search(query, mode="keyword")
    return {hit.id: {match.kind for match in hit.words} for hit in hits}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('Now -50%: $9.99!  "Sale"', ["now", "50", "9.99", "sale"]),
        ("ＣＡＦÉ Straße ﬁn", ["cafe", "strasse", "fin"]),
        ("rock'n'roll a/b www.x.com/y?z", ["rock'n'roll", "a/b", "www.x.com/y?z"]),
        ("हिन्दी 大酒店。 קפה", ["हिन्दी", "大酒店", "קפה"]),
        ("--- \x00 \ud800 … ''", []),
        ("new\nline\ttab\u00a0blank", ["new", "line", "tab", "blank"]),
    ],
)
def test_words_of_a_text(text, words):
    assert get_words(text) == words
    assert get_words(fold(text)) == words  # nothing more is left to fold


@pytest.mark.parametrize(
    ("query", "terms"),
    [
        ("a red Car passes the sign CASINO", ["red", "car", "passes", "sign", "casino"]),
        ("to be or to do", ["to", "be", "or", "do"]),  # nothing but such words
        ("the the", ["the"]),
        ('the "Sale up to" 60', [("sale up to",), "60"]),
        ('"the"', [("the",)]),
        ('five" tall', ["five", "tall"]),
        ("„up to“ «a b»", [("up to",), ("a b",)]),
        ("!?! -- …", []),
        ('"" " "', []),
    ],
)
def test_terms_of_a_query(query, terms):
    wanted = [Term(t[0], True) if isinstance(t, tuple) else Term(t) for t in terms]
    assert parse_terms(query) == wanted


def test_exact_before_prefix_before_substring_before_edits(index):
    assert ids(index, "casino") == [1, 2, 3, 4]
    found = kinds(index, "casino")
    assert found == {1: {"exact"}, 2: {"prefix"}, 3: {"substring"}, 4: {"fuzzy"}}
    hits = index.search("casino", mode="keyword")
    assert [hit.keyword_rank for hit in hits] == [1, 2, 3, 4]
    assert [hit.semantic_rank for hit in hits] == [None] * 4 and hits[0].similarity is None


def test_a_hit_says_which_word_was_seen_when_and_where(index):
    (hit,) = index.search("RE16", mode="keyword")
    assert (hit.video, hit.start_s, hit.end_s) == ("4.mp4", 0.0, 10.0)
    (match,) = hit.words
    assert (match.query, match.word, match.kind) == ("re16", "re16", "exact")
    assert match.text == "RE16 TGK"
    assert (match.start_s, match.end_s) == (0.5, 1.5)
    assert match.box == pytest.approx(BOX)
    assert hit.explanation is None


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("16", [5]),  # within a word, and shorter than a trigram
        ("酒", [8]),
        ("酒店", [8]),
        ("o", []),  # a letter alone is found as a word only
        ("creme brulee", [7]),
        ("9.99", [7]),
        ("60", [5]),
        ("61", []),  # a number with another digit is another number
        ("re61", [5]),  # two letters swapped
        ("hotle", [8]),  # hotels is two edits away, too many for five letters
        ("casinxxs", [2]),
        ('"sale up to"', [5]),
        ('"up to"', [5, 6]),
        ('"to up"', []),
        ('"sale"', [5, 6]),
        ('"cas"', []),  # quoted: as it stands
        ('"end road"', []),
        ("100%", [9]),
        ("zebra", []),
    ],
)
def test_what_is_found(index, query, found):
    assert sorted(ids(index, query)) == sorted(found)


@pytest.mark.parametrize(
    "query",
    [
        'NEAR("drop" "table") OR *',
        "text:drop^2 NOT table",
        "'; DROP TABLE words; --",
        'drop" OR 1=1',
        "{drop} + table : *",
        "a+b -- /* %_ */ drop",
        "\x00drop\ud800 table",
    ],
)
def test_the_syntax_of_sql_and_fts_is_plain_text(index, query):
    found = ids(index, query)
    assert found[0] == 9 and len(index) == 10
    assert ids(index, "table") == [9]


@pytest.mark.parametrize("query", ["%", "_", "*", '"', "''", "...!", "--", "\\"])
def test_punctuation_finds_no_word(index, query):
    assert ids(index, query) == []


def test_rare_words_weigh_more_and_more_words_more(index):
    assert ids(index, "hotel casino royale")[0] == 1
    hotel, end = (index.search(q, mode="keyword")[0].score for q in ("hotels", "up"))
    assert hotel > end  # in one entry, and in two
    both = index.search("sale off", mode="keyword")
    assert [hit.id for hit in both][:1] == [5] and both[0].score > both[1].score


def test_equal_scores_share_a_rank(index):
    hits = index.search('"up to"', mode="keyword")
    assert [(hit.id, hit.keyword_rank) for hit in hits] == [(5, 1), (6, 1)]
    assert len(index.search('"up to"', mode="keyword", k=1)) == 1


def edits(a: str, b: str) -> int:
    """Optimal string alignment distance, as its definition says."""
    d = {(i, j): i + j for i in range(len(a) + 1) for j in range(len(b) + 1) if not i * j}
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            swap = i > 1 and j > 1 and a[i - 1] == b[j - 2] and a[i - 2] == b[j - 1]
            d[i, j] = min(
                d[i - 1, j] + 1,
                d[i, j - 1] + 1,
                d[i - 1, j - 1] + (a[i - 1] != b[j - 1]),
                d[i - 2, j - 2] + 1 if swap else 99,
            )
    return d[len(a), len(b)]


def test_nearly_equal_words_are_all_found():
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdé酒7", k=rng.randint(1, 9))) for _ in range(400)]
    words += ["x" * (MAX_LETTERS + 1), "", "casino"]
    vocabulary = Vocabulary(list(enumerate(words)))
    for text in [*words[:25], "casion", "x" * MAX_LETTERS, "x" * 40]:
        for most in (0, 1, 2):
            found = vocabulary.find_similar(text, most)
            wanted = {n: d for n, w in enumerate(words) if 0 < (d := edits(text, w)) <= most}
            if len(text) <= MAX_LETTERS:
                wanted.pop(400, None)  # longer words are not compared
                assert {number: d for number, _, d in found} == wanted, (text, most)
            assert all(words[number] == word for number, word, _ in found)


def test_every_substring_is_found_with_its_kind(tmp_path):
    rng = random.Random(1)
    letters = string.ascii_lowercase[:4] + "é"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 8))) for _ in range(120)]
    words = list(dict.fromkeys(fold(word) for word in words))
    with VideoIndex.open(index_of_lines(tmp_path / "i", [[word] for word in words])) as index:
        for length in (2, 3, 4):
            query = next(word[-length:] for word in words if len(word) == length + 2)
            found = {h.id: h.words[0].kind for h in index.search(query, 500, mode="keyword")}
            wanted = {}
            for number, word in enumerate(words, 1):
                if query in word:
                    at_start = "exact" if word == query else "prefix"
                    wanted[number] = at_start if word.startswith(query) else "substring"
                elif length > 3 and sorted(word) == sorted(query) and edits(query, word) == 1:
                    wanted[number] = "fuzzy"  # of four letters, two neighbours that are swapped
            assert wanted and found == wanted, query
