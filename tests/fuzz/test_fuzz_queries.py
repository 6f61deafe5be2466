"""Queries of any text: each is answered, in time, and what is exact is found and comes first."""

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval import VideoIndex
from retrieval.index.words import (
    find_joined,
    fold_formerly,
    get_words,
    list_index_words,
    list_pieces,
    reduce_word,
)
from retrieval.search.hybrid import MAX_QUERY
from retrieval.search.keyword import parse_terms
from retrieval.search.videos import VideoFilter
from retrieval.web.api import find_marks
from tests.fuzz.fuzzing import end_well, fuzz
from tests.retrieval.made_index import index_of_lines
from tests.retrieval.test_reduced_words import WRITTEN_OTHERWISE
from utils.errors import UserError

pytestmark = pytest.mark.slow

MAX_S = 10
# What is near each other in what it means, and what breaks text.
_ALPHABETS = [
    "abcmnoslirz0158 ", "0123456789.,'-:/ ", "ABÇéøıßœþłñ", "авейёуўМОЙ", "אבגשָׁלוֹ",
    "اأإآلعَرَبِيَّةـى٠١٢", "कखग़ि्०१२", "北京首都机场の東タワーﾗｰﾒ", "สนามบิน", "인천공항 ", "αβΏςΜ",
    "+#&@$€%*\"“”„«»()[]{}!?|\\^_~`", "\x00\t\n\r\x1b\x7f\u2028\ud800\udfff",
    "\u200b\u200d\u00ad\u202e\ufeff\u0301\u0306\ufe0f", "\U0001f600\U00020000",
]  # fmt: skip
_PARTS = [part for row in WRITTEN_OTHERWISE for text in row for part in text.split()]
_PARTS += ["c++", "C#", "the", "of", "video of", '"', "show me", "NEAR", "OR", "NOT", "img_1.mp4"]


def make_lines() -> list[str]:
    """Lines of all scripts, the same ones each time."""
    draw = random.Random(0)
    lines = [line for line, *_ in WRITTEN_OTHERWISE]
    for _ in range(200):
        words = [
            "".join(draw.choices(draw.choice(_ALPHABETS), k=draw.randint(1, 8)))
            for _ in range(draw.randint(1, 5))
        ]
        lines.append(" ".join([*words, draw.choice(_PARTS)]))
    return [line.encode("utf-8", "replace").decode() for line in lines]


LINES = make_lines()
WORDS = [get_words(line) for line in LINES]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("queries") / "my.index"
    with VideoIndex.open(index_of_lines(folder, [[line] for line in LINES])) as opened:
        yield opened


def mutate(text: str, draw: random.Random) -> str:
    """A text with something left out, doubled, put in, or blanks elsewhere."""
    place = draw.randint(0, len(text))
    kind = draw.randrange(5)
    if kind == 0:
        return text[:place] + text[place + 1 :]
    if kind == 1:
        return text[:place] + draw.choice(draw.choice(_ALPHABETS)) + text[place:]
    if kind == 2:
        return text.replace(" ", "")
    if kind == 3:
        return text[:place] + " " + text[place:]
    return f'"{text}"'


known = st.builds(
    lambda text, seed: mutate(text, random.Random(seed)) if seed % 3 else text,
    st.sampled_from([*_PARTS, *LINES, *(word for words in WORDS for word in words)]),
    st.integers(0, 10_000),
)
mixed = st.lists(st.one_of(*(st.text(part, max_size=6) for part in _ALPHABETS), known), max_size=6)
long = st.builds(lambda text, times: text * times, st.text(min_size=1, max_size=9),
                 st.sampled_from([50, 111, 300, 5000]))  # fmt: skip
queries = st.one_of(known, known, mixed.map(" ".join), mixed.map("".join), long,
                    st.text(st.characters(), max_size=40))  # fmt: skip


@given(queries)
@fuzz()
def test_a_query_of_any_text_is_answered(index, query):
    start = time.perf_counter()
    terms = parse_terms(query.encode("utf-8", "replace").decode())
    hits = end_well(lambda: index.search(query, 1000, mode="words"))
    found = end_well(lambda: index.search_videos(query, VideoFilter(), "keyword"))
    assert time.perf_counter() - start < MAX_S
    if isinstance(hits, UserError):
        assert not query.strip() or len(query) > MAX_QUERY
        assert isinstance(found, UserError)
        return
    assert found.num_videos == len({hit.video for hit in hits}) and len(found.terms) == len(terms)
    asked = {term.text for term in terms}
    for hit in hits:
        assert hit.words and asked.issuperset(match.query for match in hit.words)
    if len(terms) == 1 and not terms[0].quoted:
        check_exact_is_first(terms[0].text, hits)


def check_exact_is_first(word, hits):
    """All lines with a word are found, exactly, and none that has it otherwise is above them."""
    best = {hit.id - 1: hit.words[0] for hit in hits if hit.words[0].track_kind == "read"}
    exact = {number for number, words in enumerate(WORDS) if word in words}
    assert exact <= best.keys(), word
    assert all(best[number].kind == "exact" for number in exact)
    of_line = {hit.id - 1: hit.score for hit in hits}
    if exact:
        others = [of_line[number] for number in of_line.keys() - exact]
        assert min(of_line[number] for number in exact) >= max(others, default=0.0)


@given(st.one_of(mixed.map(" ".join), long, st.text(st.characters(), max_size=60)))
@fuzz()
def test_the_forms_of_any_line(text):
    text = text[: 2 * MAX_QUERY]
    words = get_words(text)
    assert get_words(" ".join(words)) == words
    forms = list_index_words(text)
    assert list(forms)[: len(set(words))] == list(dict.fromkeys(words)) and all(forms.values())
    for reduced in forms.values():
        assert reduce_word(reduced) == reduced and " " not in reduced
        assert all(0 < len(piece) <= 2 and piece in reduced for piece in list_pieces(reduced))
    for word in words[:5]:
        assert find_marks(text, word), word
        assert fold_formerly(fold_formerly(word)) == fold_formerly(word)
    if 1 < len(words) < 20:
        joined = find_joined(words, "".join(map(reduce_word, words)))
        assert joined is not None and joined in " ".join(words)
