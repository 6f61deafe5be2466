"""Words of like meaning: which they are, and that they come last and only when asked for."""

from importlib.util import find_spec

import pytest

import search as search_script
from retrieval import VideoIndex
from retrieval.search import word_vectors
from retrieval.search.word_vectors import SimilarWords
from tests.retrieval.made_index import index_of_lines

NEEDS_VECTORS = pytest.mark.skipif(
    find_spec("wordllama") is None, reason="needs wordllama==0.4.0.post1"
)
LIKE = (
    "supermarket grocery, casino gambling, car automobile, doctor physician, hospital clinic, "
    "dog puppy, beach seaside, money cash, price cost, film movie, police cop, house home, "
    "airport airplane, ship boat, train railway, win victory, tennis racket, football soccer, "
    "music song, school university, bike bicycle, forest woods, happy glad, big large, "
    "buy purchase, exit leave, war battle, medicine drug, coffee tea, street road, city town"
)
UNLIKE = (
    "supermarket cliff, casino volcano, car pencil, doctor river, hospital guitar, dog election, "
    "beach lawyer, money tennis, price forest, film bread, police flower, house goal, "
    "airport wine, ship teacher, train kitten, win carpet, tennis church, football medicine, "
    "music truck, school snow, bike parliament, forest invoice, happy bridge, big telephone, "
    "buy planet, exit violin, war lamp, medicine trumpet, coffee tunnel, street piano, city onion"
)


def count_found(pairs: str) -> tuple[int, int]:
    words = [tuple(pair.split()) for pair in pairs.split(", ")]
    found = [SimilarWords([(1, other)]).find_similar(word) for word, other in words]
    return sum(map(bool, found)), len(words)


@NEEDS_VECTORS
def test_most_words_of_like_meaning_are_found_and_no_others():
    found, count = count_found(LIKE)
    assert found >= 0.7 * count, (found, count)
    assert count_found(UNLIKE)[0] == 0


@NEEDS_VECTORS
def test_words_that_are_spelt_alike_are_not_of_like_meaning():
    words = list(enumerate("carl caramba casj drk 2024 auto grocery the".split()))
    similar = SimilarWords(words)
    assert [word for _, word, _ in similar.find_similar("car")] == ["auto"]
    assert similar.find_similar("casino") == similar.find_similar("doctor") == []
    assert similar.find_similar("2023") == similar.find_similar("") == []
    assert SimilarWords([]).find_similar("car") == []


@NEEDS_VECTORS
def test_they_are_found_last_and_only_when_asked_for(tmp_path):
    lines = [["Grocery"], ["supermarkt"], ["cliff"], ["Supermarket"], ["supermarkets"]]
    folder = index_of_lines(tmp_path / "i", lines)
    with VideoIndex.open(folder) as index:

        def find(query: str, **options):
            hits = index.search(query, mode="keyword", **options)
            return [(hit.video, hit.words[0].kind) for hit in hits]

        without = [("3.mp4", "exact"), ("4.mp4", "prefix"), ("1.mp4", "fuzzy")]
        assert find("supermarket") == without
        assert find("supermarket", like_meaning=True) == [*without, ("0.mp4", "similar")]
        assert find('"supermarket"', like_meaning=True) == without[:1]


@NEEDS_VECTORS
def test_the_command(tmp_path, run_main):
    folder = index_of_lines(tmp_path / "i", [["Gambling"]])
    command = folder, "casino", "--mode", "keyword"
    assert run_main(search_script, *command)[1] == "nothing found\n"
    code, text, _ = run_main(search_script, *command, "--like_meaning", "--explain")
    assert code == 0 and "casino: similar in" in text


def test_a_missing_package_is_said_with_its_remedy(tmp_path, run_main, monkeypatch):
    word_vectors.load_word_vectors.cache_clear()
    monkeypatch.setattr(word_vectors, "find_spec", lambda name: None)
    folder = index_of_lines(tmp_path / "i", [["Gambling"]])
    code, _, err = run_main(search_script, folder, "casino", "--mode", "keyword", "--like_meaning")
    assert code == 2 and "pip install wordllama==0.4.0.post1" in err
