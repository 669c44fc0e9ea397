import numpy as np
import pytest

from hyperdecode.errors import UserError
from hyperdecode.mapping.chunks import MemoryResults, Unit, collected, run_units, work_units


def test_units_cover_every_pair_once_and_cut_through_no_block():
    for n_centres, n_faces, block, centres, faces in [(10, 3, 4, 5, 2), (8, 1, 8, 1, None), (33, 5, 16, 100, 3)]:
        counts = np.zeros((n_centres, n_faces), int)
        for unit in work_units(n_centres, n_faces, block=block, centres=centres, faces=faces):
            counts[unit.centres, unit.faces] += 1
            assert unit.first_centre % block == 0
            assert unit.shape == counts[unit.centres, unit.faces].shape
        assert (counts == 1).all()


def test_a_unit_holds_the_centres_asked_for_in_whole_blocks():
    units = work_units(100, 4, block=8, centres=20)
    assert [unit.shape for unit in units] == [(24, 4)] * 4 + [(4, 4)]


@pytest.mark.parametrize("name", ["n_centres", "n_faces", "block", "centres", "faces"])
def test_numbers_of_units_are_positive(name):
    numbers = {"n_centres": 4, "n_faces": 4, "block": 2, "centres": 2, "faces": 2, name: 0}
    n_centres, n_faces = numbers.pop("n_centres"), numbers.pop("n_faces")
    with pytest.raises(UserError, match=f"units of work need {name} of 1 or more, got 0"):
        work_units(n_centres, n_faces, **numbers)


def product(unit):
    """Say of every pair who it is."""
    centres, faces = (np.arange(part.stop)[part] for part in (unit.centres, unit.faces))
    return {"pairs": np.stack(np.broadcast_arrays(centres[:, None], faces), axis=-1)}


@pytest.mark.parametrize("faces", [None, 2])
def test_results_in_any_order_are_put_together(faces):
    units = work_units(11, 5, block=2, centres=4, faces=faces)
    results = MemoryResults()
    run_units(product, [units[k] for k in np.random.default_rng(0).permutation(len(units))], results)
    whole = collected(results, units)["pairs"]
    assert whole.shape == (11, 5, 2)
    np.testing.assert_array_equal(whole, np.stack(np.indices((11, 5)), axis=-1))


def test_a_killed_run_goes_on_where_it_was():
    units, results, ran = work_units(8, 2, block=2, centres=2), MemoryResults(), []

    def killed(unit):
        if len(ran) == 3:
            raise KeyboardInterrupt
        ran.append(unit)
        return product(unit)

    with pytest.raises(KeyboardInterrupt):
        run_units(killed, units, results)
    with pytest.raises(UserError, match="1 of 4 units of work are not done"):
        collected(results, units)
    told, again = [], []

    def counted(unit):
        again.append(unit)
        return product(unit)

    run_units(counted, units, results, progress=lambda done, of: told.append((done, of)))
    assert again == units[3:]
    assert told == [(3, 4), (4, 4)]
    np.testing.assert_array_equal(collected(results, units)["pairs"][..., 0], np.indices((8, 2))[0])


def test_what_runs_side_by_side_gets_only_what_is_left():
    units, results = work_units(6, 2, block=2, centres=2), MemoryResults()
    results.put(units[1], product(units[1]))
    seen = []

    def backwards(run, left):
        seen.extend(left)
        return [(unit, run(unit)) for unit in reversed(left)]

    run_units(product, units, results, side_by_side=backwards)
    assert seen == [units[0], units[2]]
    assert all(results.has(unit) for unit in units)


def test_units_that_leave_pairs_out_are_refused():
    units, results = work_units(6, 2, block=2, centres=2), MemoryResults()
    run_units(product, units, results)
    with pytest.raises(UserError, match="do not cover 6 centres x 2 faces once"):
        collected(results, units[1:])


def test_units_have_names_of_their_own():
    units = work_units(50, 7, block=4, centres=8, faces=3)
    assert len({unit.name for unit in units}) == len(units)
    assert Unit(0, 64, 3, 6).name == "centres-0-64_faces-3-6"
