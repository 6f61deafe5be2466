from utils.times import format_time


def test_tenths_are_told_where_there_are_some():
    assert [format_time(t) for t in (0, 9.96, 59.99, 3599.96, 3661.2)] == [
        "0:00", "0:10", "1:00", "1:00:00", "1:01:01.2",
    ]  # fmt: skip
