import numpy as np
import pytest

from hyperdecode.decoding.blocks import Responses
from hyperdecode.decoding.repeats import average_repeats
from hyperdecode.decoding.ridge import RidgeDecoder
from hyperdecode.decoding.views import AveragedTrials, TrialRows, fits_memory, taken
from hyperdecode.decoding.weighted import WeightedRidgeDecoder
from hyperdecode.errors import UserError


class OnDisk:
    """Like a store on disk: it has slices, and remembers which trials were read."""

    def __init__(self, values):
        self.values, self.shape, self.dtype, self.ndim = values, values.shape, values.dtype, 2
        self.read = set()

    def __getitem__(self, key):
        rows, columns = key if isinstance(key, tuple) else (key, slice(None))
        rows = np.arange(self.shape[0])[rows]
        self.read |= set(rows.tolist())
        return self.values[rows, columns]


@pytest.fixture
def z():
    return np.random.default_rng(0).standard_normal((90, 50)).astype(np.float32)


def test_only_the_rows_of_a_view_can_be_reached(z):
    disk, rows = OnDisk(z), np.array([80, 2, 3, 50])
    view = taken(disk, rows)
    assert isinstance(view, TrialRows) and view.shape == (4, 50) and len(view) == 4
    for key in (slice(None), slice(1, 3), np.array([3, 0]), (slice(None), slice(4, 9)), (np.array([1]), slice(0, 5))):
        np.testing.assert_array_equal(view[key], z[rows][key])
    np.testing.assert_array_equal(np.asarray(view), z[rows])
    np.testing.assert_allclose(view.mean(0, dtype=np.float64), z[rows].mean(0, dtype=np.float64), rtol=1e-12)
    assert disk.read == {80, 2, 3, 50}
    with pytest.raises(IndexError):
        view[np.array([4])]
    np.testing.assert_array_equal(taken(view, np.array([1, 2]))[:], z[[2, 3]])
    assert isinstance(taken(z, rows), np.ndarray)


def test_averages_are_those_of_average_repeats_bit_for_bit(z, monkeypatch):
    monkeypatch.setattr("hyperdecode.decoding.views.BLOCK_BYTES", 4 * 50 * 7)
    shown = [f"face{k % 37}" for k in range(90)]
    expected, _, _, names = average_repeats(z, np.zeros((90, 1)), shown)
    view = AveragedTrials(OnDisk(z), np.array([names.index(name) for name in shown]))
    assert view.shape == expected.shape == (37, 50)
    for key in (slice(None), np.array([36, 0, 5]), (slice(None), slice(11, 30)), (slice(3, 9), slice(0, 1))):
        np.testing.assert_array_equal(view[key], expected[key])


def test_what_does_not_fit_memory_is_refused_in_one_piece(z, monkeypatch):
    view = TrialRows(OnDisk(z), np.arange(60))
    monkeypatch.setattr("hyperdecode.memory.working_memory", lambda: 4 * 60 * 50 * 5)
    with pytest.raises(UserError, match="working on 60 trials x 50 voxels in memory") as caught:
        np.asarray(view)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="working on 60 trials"):
        # A decoder without a form that reads in blocks.
        average_repeats(view, np.zeros((60, 1)), ["a"] * 60)
    assert view[:, :10].shape == (60, 10)
    assert not fits_memory((60_000, 200_000)) and fits_memory((30_000, 4096))


@pytest.mark.filterwarnings("ignore:the best ridge penalty:hyperdecode.errors.DataWarning")
@pytest.mark.parametrize("shape", [(200, 3000, 12), (200, 300, 150), (500, 90, 12)], ids=["dual", "latents", "primal"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("decoder", [WeightedRidgeDecoder, RidgeDecoder])
def test_a_decoder_that_reads_in_blocks_finds_the_same(shape, dtype, weighted, decoder, monkeypatch):
    n, n_voxels, n_latents = shape
    rng = np.random.default_rng(1)
    y = rng.standard_normal((n, n_latents))
    x = y @ rng.standard_normal((n_latents, n_voxels)) * 0.1 + rng.standard_normal((n, n_voxels)) + 1
    x = (x * rng.uniform(0.5, 2, n_voxels)).astype(dtype)
    weights = {"sample_weight": rng.uniform(0.5, 2, n)} if weighted else {}
    whole = decoder(cv=4).fit(x, y, **weights)
    widths = []
    columns = Responses.columns
    monkeypatch.setattr(Responses, "columns", lambda s, a, b: widths.append(b - a) or columns(s, a, b))
    monkeypatch.setattr("hyperdecode.decoding.weighted.LEAST_BLOCKS", 1)
    monkeypatch.setattr("hyperdecode.decoding.standardised.ROW_BYTES", 8 * n_voxels * 37)
    planned = decoder._planned

    def tight(self, responses, n_latents):
        form, _ = planned(self, responses, n_latents)
        return form, 3 * n * 1030 * responses.itemsize if n_voxels > 1024 else n * n_voxels

    monkeypatch.setattr(decoder, "_planned", tight)
    blocks = decoder(cv=4).fit(OnDisk(x), y, **weights)
    assert decoder is RidgeDecoder or (max(widths) < n_voxels and len(widths) > 2)
    for name in ("coef_", "intercept_", "alpha_", *(["voxel_weights_", "scale_"] if hasattr(whole, "scale_") else [])):
        one, other = (np.asarray(getattr(d, name)) for d in (whole, blocks))
        assert np.abs(one - other).max() <= (1e-5 if dtype == np.float32 else 1e-9) * np.abs(one).max(), name


def test_sums_do_not_depend_on_how_many_voxels_fit_memory():
    """Blocks are cut where sums in float32 are: the same bits with more memory and with less."""
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((60, 9000)).astype(np.float32), rng.standard_normal((60, 5))
    needs = 60_000_000
    found = [WeightedRidgeDecoder(alphas=(1e4,), cv=3, memory=needs + more).fit(x, y).coef_ for more in (10**8, 10**9)]
    np.testing.assert_array_equal(*found)


def test_a_system_that_does_not_fit_is_refused_in_one_line():
    x, y = np.broadcast_to(np.float32(0), (30_000, 200_000)), np.zeros((30_000, 512))
    with pytest.raises(UserError, match=r"30000 trials x 200000 voxels needs .*: average repeats") as e:
        WeightedRidgeDecoder(memory=3_250_000_000)._planned(Responses(OnDisk(x)), y.shape[1])
    assert "\n" not in str(e.value)
    for shape in ((10_000, 200_000), (30_000, 4096)):
        x = np.broadcast_to(np.float32(0), shape)
        WeightedRidgeDecoder(memory=3_250_000_000)._planned(Responses(OnDisk(x)), 512)
