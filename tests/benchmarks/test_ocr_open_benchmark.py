"""``python -m benchmarks.ocr_open``: what it measures and the table it writes."""

import json
import sys

from benchmarks import measuring, ocr_open


def test_the_documents_are_of_the_size_and_the_words_many(tmp_path):
    path = ocr_open.write_dataset(tmp_path / "data", 3, 20_000)
    documents = sorted((tmp_path / "data/Kwai_VideoOCR").iterdir())
    assert len(documents) == 3 and path in documents
    assert all(20_000 <= document.stat().st_size < 26_000 for document in documents)
    data = ocr_open.build_dataset(tmp_path / "data")
    assert all(len(data.get_words(number)) > 5 for number in range(3))


def test_every_run_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(measuring, "run_in_new_process", lambda function, *args: function(*args))
    options = ["--documents", "4", "--kilobytes", "5", "--runs", "2", "--json"]
    monkeypatch.setattr(sys, "argv", ["ocr_open", *options])
    ocr_open.main()
    found = json.loads(capsys.readouterr().out)
    assert set(found["seconds"]) == {"first", "second", "changed"}
    for values in (*found["seconds"].values(), *found["milliseconds"].values()):
        assert len(values) == 2 and min(values) > 0
    assert found["store_bytes"] > 1000 and found["documents"] == 4


def test_the_table_has_medians_and_ranges():
    head = {"date": "2001-02-03", "machine": "2 threads", "versions": "torch 2"}
    numbers = {"documents": 7, "kilobytes": 9, "store_bytes": 1_250_000}
    seconds = {"first": [9.0, 8.0, 7.0], "second": [1.0, 2.0, 3.0], "changed": [4, 4, 4]}
    reading = {"document": [10.0, 11.0, 12.0], "store": [0.5, 0.25, 0.125]}
    lines = ocr_open.make_table(
        head | numbers | {"seconds": seconds, "milliseconds": reading}
    ).splitlines()
    assert lines[:2] == ["2001-02-03; 2 threads; torch 2", "7 documents of 9 KB; store 1.2 MB"]
    cells = [line.strip("|").split("|")[1].strip() for line in lines[5:]]
    assert cells[:2] == ["8.00 (7.00 … 9.00) s", "2.00 (1.00 … 3.00) s"]
    assert cells[2:] == ["4.00 (4.00 … 4.00) s", "11.000 (10.000 … 12.000) ms",
                         "0.250 (0.125 … 0.500) ms"]  # fmt: skip
