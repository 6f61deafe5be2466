"""The benchmark of an index's checksums runs."""

from benchmarks.index_checks import make_table, measure_case


def test_it_measures_a_small_index(tmp_path):
    case = measure_case(tmp_path / "index", 300)
    assert case["entries"] == 300 and min(case.values()) > 0
    assert len(make_table(case).splitlines()) == 7
