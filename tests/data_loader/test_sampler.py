import pytest

from data_loader.sampler import EpochBatches


def made(size, batch_size=4, shuffle=True, seed=0, **options):
    return EpochBatches(size, batch_size, shuffle, seed, **options)


def indices(batches):
    return [[key.index for key in batch] for batch in batches]


def flat(batches):
    return [index for batch in indices(batches) for index in batch]


def test_in_order_without_shuffling():
    batches = made(5, 2, shuffle=False, seed=3)
    batches.epoch = 2
    assert indices(batches) == [[0, 1], [2, 3], [4]] and len(batches) == 3
    assert {key.epoch for batch in batches for key in batch} == {2}


def test_the_order_is_a_function_of_seed_and_epoch():
    orders = {}
    for seed in (0, 1):
        batches = made(20, seed=seed)
        for epoch in (2, 0, 1):  # not of the epochs read before
            batches.epoch = epoch
            orders[seed, epoch] = tuple(flat(batches))
            assert sorted(flat(batches)) == list(range(20))
    assert len(set(orders.values())) == 6
    again = made(20, seed=1)
    again.epoch = 1
    assert tuple(flat(again)) == orders[1, 1]


def test_a_limit_and_a_start_cut_the_same_order():
    batches = made(10)
    whole = indices(batches)
    assert list(map(len, whole)) == [4, 4, 2]
    for first, limit in ((0, 2), (1, None), (1, 2), (2, 40), (3, None)):
        batches.first, batches.limit = first, limit
        assert indices(batches) == whole[first:limit]
        assert len(batches) == len(whole[first:limit])


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [3, 8, 9, 13])
def test_the_parts_of_all_processes_are_the_batches_of_one(size, num_ranks):
    whole = indices(made(size))
    parts = [made(size, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    assert {len(part) for part in parts} == {len(whole)}
    for number, batches in enumerate(zip(*parts, strict=True)):
        assert all(batches), "a process without samples would be waited for"
        real = [key.index for batch in batches for key in batch if not key.is_filler]
        assert real == whole[number]
        for batch in batches:
            fillers = [key for key in batch if key.is_filler]
            assert not fillers or (len(batch) == 1 and fillers[0].index in whole[number])


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 7])
def test_whole_batches_by_turns(num_ranks):
    whole = indices(made(22, shuffle=False))
    parts = [made(22, shuffle=False, rank=rank, num_ranks=num_ranks, share="epoch")
             for rank in range(num_ranks)]  # fmt: skip
    taken = [indices(part) for part in parts]
    assert sorted(batch for part in taken for batch in part) == sorted(whole)
    assert [len(part) for part in parts] == [len(part) for part in taken]
    for rank, part in enumerate(taken):
        assert part == whole[rank::num_ranks]
