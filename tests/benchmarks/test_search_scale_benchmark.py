"""``python -m benchmarks.search_scale``: what it measures and the table it writes."""

import numpy as np

from benchmarks import inputs, search_scale
from retrieval import VideoIndex


def test_the_made_index_is_one(tmp_path):
    made = inputs.make_index(tmp_path / "i", 300)
    embeddings, texts = made.make_queries(10)
    with VideoIndex.open(tmp_path / "i") as index:
        assert len(index) == 300 and len(index.folders()) == 3
        for entry in (1, 100, 101, 300):
            words = [made.vocabulary[number] for number in made.words[entry - 1]]
            lines = " ".join(line.text for line in index.tracks(entry))
            assert sorted(lines.split()) == sorted(words)
            hits = index.search(f'"{" ".join(words[:3])}"', mode="words")
            assert entry in [hit.id for hit in hits]
            assert index.entry(entry).video.startswith(f"{1 + (entry - 1) // 100}/")
        for embedding, text in zip(embeddings, texts, strict=True):
            found = search_scale.ask_index(index, "fused", True, embedding, text)
            origin = int(np.argmax(made.rows @ embedding)) + 1
            assert origin == found[0]  # nearest, and it has two of the words
        with index.reading() as (reader, _):
            assert reader.connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_a_case_and_its_row(tmp_path, demo):
    encoder = search_scale.build_query_encoder(str(demo / "text_model"))
    case = search_scale.measure_case(
        tmp_path / "i", 1500, "windows", 256, 5, encoder, least_ann=1000
    )
    assert all(len(case[name]) == 5 and min(case[name]) > 0
               for name in ("meaning", "ann", "words", "fused", "fused_ann"))  # fmt: skip
    assert 1.5 < case["disk"] < 10 and case["memory"] < 1 and 0 < case["ann_memory"] < 2
    assert case["recall"] > 0.9 and min(case["per_second"], case["per_second_ann"]) > 0
    small = {"entries": 1000, "meaning": [1.0, 3.0, 2.0], "words": [4, 5, 6], "fused": [7, 7, 7],
             "disk": 12.3, "memory": 0.34}  # fmt: skip
    head = {"date": "2001-02-03", "machine": "2 threads", "versions": "torch 2"}
    result = head | {"cases": [small | {"per_second": 61.4}, case | {"recall": 0.9876}]}
    lines = search_scale.make_table(result).splitlines()
    assert lines[0] == "2001-02-03; 2 threads; torch 2"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert rows[2] == ["1,000", "", "2.0 (1.0 … 3.0)", "", "", "5.0 (4.0 … 6.0)",
                       "7.0 (7.0 … 7.0)", "", "61", "", "12", "0.3", ""]  # fmt: skip
    assert rows[3][0] == "1,500" and rows[3][4] == "0.988" and {len(row) for row in rows} == {13}


def test_a_case_of_frame_vectors(tmp_path, demo):
    encoder = search_scale.build_query_encoder(str(demo / "text_model"))
    case = search_scale.measure_case(tmp_path / "i", 4000, "frames", 64, 5, encoder, least_ann=1000)
    assert (case["entries"], case["frames"]) == (500, 4000) and case["recall"] > 0.9
    assert min(case["meaning"]) > 0 and min(case["fused_ann"]) > 0 and case["disk"] > 0.5
    with VideoIndex.open(tmp_path / "i") as index, index.reading() as (_, snapshot):
        frames = snapshot.vectors.frames
        assert frames.vectors.shape == (4000, 64) and len(frames.times) == 4000
        cosines = np.einsum(
            "ijk,ik->ij", frames.vectors.reshape(500, 8, 64), snapshot.vectors.windows
        )
        assert cosines.min() > 0.6  # each is near to its window


def test_recall_is_the_share_that_is_found():
    assert search_scale.compute_recall([[1, 2], [3, 4]], [[2, 1], [4, 9]]) == 0.75
