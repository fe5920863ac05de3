"""Who trains on which posts when: each post once an epoch, and means that are exact, whatever the number of workers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emo.config import UserError
from emo.sampler import ROWS_PER_WINDOW, Share, parts, windows

COUNTS = st.lists(st.integers(0, 400), max_size=30)


def positions(counts: list[int], seed: tuple[int, int] | None, start: int, stop: int) -> list[tuple[int, int]]:
    """The rows at some positions of an epoch's order, each as its unit and its place there."""
    found = []
    for part in parts(windows(counts, seed), start, stop):
        rows = [(unit, row) for unit in part.window.units for row in range(counts[unit])]
        found += [rows[place] for place in part.window.order()[part.first : part.stop]]
    return found


def shares(num_rows: int, batch_size: int, world_size: int) -> list[Share]:
    return [Share(num_rows, batch_size, rank, world_size) for rank in range(world_size)]


@given(COUNTS, st.integers(0, 5), st.integers(1, 4), st.integers(0, 30))
def test_every_row_comes_once_an_epoch(counts, epoch, world_size, more):
    all_shares = shares(sum(counts), world_size + more, world_size)
    for seed in ((7, epoch), None):
        seen = [row for share in all_shares for row in positions(counts, seed, *share.bounds)]
        assert sorted(seen) == [(unit, row) for unit, count in enumerate(counts) for row in range(count)]
        assert seen == positions(counts, seed, 0, sum(counts))
    assert seen == sorted(seen), "without a seed, the order is the corpus's"


@given(st.integers(0, 500), st.integers(1, 40), st.integers(1, 5), st.none() | st.integers(1, 9))
def test_scales_make_the_mean_over_workers_that_over_posts(num_rows, batch_size, world_size, most):
    if batch_size < world_size:
        return
    losses = np.random.default_rng(0).random(num_rows)
    steps = []
    for share in shares(num_rows, batch_size, world_size):
        start, stop = share.bounds
        sums, current, done = [], 0.0, start
        for each in share.micro_batches(most):
            assert most is None or each.num_rows <= most
            current += each.scale * losses[done : done + each.num_rows].sum()
            done += each.num_rows
            if each.ends_step:
                sums.append(current)
                current = 0.0
        assert done == stop
        assert len(sums) == share.num_steps == -(-num_rows // batch_size)
        steps.append(sums)
    weighted = np.mean(steps, axis=0) * [min(batch_size, num_rows - at) for at in range(0, num_rows, batch_size)]
    np.testing.assert_allclose(weighted.sum(), losses.sum())


def test_the_order_is_that_of_seed_and_epoch_and_mixes_units():
    counts = [256] * 20
    orders = {key: positions(counts, key, 0, 5120) for key in [(0, 0), (0, 1), (1, 0)]}
    assert orders[0, 0] == positions(counts, (0, 0), 0, 5120)
    assert len({tuple(order) for order in orders.values()}) == 3
    assert len({unit for unit, _ in orders[0, 0][:32]}) == ROWS_PER_WINDOW // 256


def test_windows_are_no_larger_than_they_may_be():
    found = windows([300, 0, 300, 300, 300, 2000, 1], None)
    assert [each.units for each in found] == [(0, 2, 3), (4,), (5,), (6,)]
    assert [each.start for each in found] == [0, 900, 1200, 3200]


def test_the_first_workers_take_one_row_more_of_a_step():
    sizes = [[each.num_rows for each in share.micro_batches(None)] for share in shares(23, 8, 3)]
    assert sizes == [[3, 3, 3], [3, 3, 2], [2, 2, 2]]
    assert [each.num_rows for each in Share(9, 8, 1, 2).micro_batches(3)] == [3, 1, 0]
    assert [each.ends_step for each in Share(9, 8, 1, 2).micro_batches(3)] == [False, True, True]


def test_a_batch_smaller_than_the_workers_is_refused():
    with pytest.raises(UserError, match=r"--batch-size is 2, but --num-workers is 3"):
        Share(100, 2, 0, 3)
