from data_loader.sampler import EpochSampler


def indices(sampler):
    return [key.index for key in sampler]


def test_in_order_without_shuffling():
    sampler = EpochSampler(5, shuffle=False, seed=3)
    sampler.epoch = 2
    assert [(key.epoch, key.index) for key in sampler] == [(2, n) for n in range(5)]


def test_the_order_is_a_function_of_seed_and_epoch():
    orders = {}
    for seed in (0, 1):
        sampler = EpochSampler(20, shuffle=True, seed=seed)
        for epoch in (2, 0, 1):  # not of the epochs read before
            sampler.epoch = epoch
            orders[seed, epoch] = tuple(indices(sampler))
            assert sorted(indices(sampler)) == list(range(20))
            assert {key.epoch for key in sampler} == {epoch}
    assert len(set(orders.values())) == 6
    again = EpochSampler(20, shuffle=True, seed=1)
    again.epoch = 1
    assert tuple(indices(again)) == orders[1, 1]


def test_a_limit_cuts_the_same_order():
    sampler = EpochSampler(10, shuffle=True, seed=0)
    whole = indices(sampler)
    sampler.limit = 4
    assert indices(sampler) == whole[:4] and len(sampler) == 4
    sampler.limit = 40
    assert indices(sampler) == whole and len(sampler) == 10
