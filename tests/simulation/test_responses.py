from dataclasses import replace

import numpy as np
import pytest

from hyperdecode.errors import UserError
from hyperdecode.simulation.features import FeatureBank
from hyperdecode.simulation.regions import lookup
from hyperdecode.simulation.responses import MEAN_RESPONSE, SELECTIVITY, grow_subject, truth_volumes


@pytest.fixture(scope="module")
def subject(bank, template_head):
    return grow_subject(bank, template_head, seed=1, noise_ceiling=0.2)


def of(subject, short):
    labels = [label for label, region in subject.head.table.items() if region.short == short]
    return np.isin(subject.region, labels)


def read_by_hand(values, centre, sd):
    """Channels of a layer under a receptive field, (n_stimuli, n_channels)."""
    places = (np.arange(values.shape[-1]) + 0.5) / values.shape[-1]
    width = max(sd, 0.5 / values.shape[-1])
    field = np.outer(*(np.exp(-0.5 * ((places - c) / width) ** 2) for c in centre))
    return np.einsum("nchw,hw->nc", values, field / field.sum())


def test_shapes_and_scale(subject, bank):
    n = len(subject.voxels)
    assert n > 1500 and (np.diff(subject.voxels) > 0).all()
    assert subject.responses.shape == (400, n) and subject.mix.shape == (6, n)
    mean = subject.responses.mean(0)
    np.testing.assert_allclose(subject.responses.std(0), SELECTIVITY * mean, rtol=1e-3)
    expected = MEAN_RESPONSE * lookup(subject.region, subject.head.table, "response")
    assert np.median(mean / expected) == pytest.approx(1, abs=0.05)
    assert (mean / expected).min() > 0.49 and (mean / expected).max() < 1.51


def test_only_grey_matter_of_visual_regions_responds(subject):
    assert set(np.unique(subject.region)) == set(subject.head.table)
    assert (subject.head.regions.ravel()[subject.voxels] == subject.region).all()
    assert (subject.head.grey.ravel()[subject.voxels] > 0.3).all()


def test_squares_of_the_mix_sum_to_one_and_follow_depth(subject):
    np.testing.assert_allclose((subject.mix**2).sum(0), 1, rtol=1e-5)
    layer = (np.arange(6)[:, None] * subject.mix**2).sum(0)
    means = [layer[of(subject, name)].mean() for name in ("FFC", "VVC", "PIT", "V4", "V3", "V2", "V1")]
    assert means == sorted(means) and means[0] < 1 and means[-1] > 4.5


def test_a_voxel_responds_to_the_layers_of_its_mix(subject, bank):
    """Features of each layer, under the voxel's own field, explain the responses in the order of the planted mix."""
    rng = np.random.default_rng(0)
    right, picked = 0, rng.choice(len(subject.voxels), 60, replace=False)
    for v in picked:
        y = subject.responses[:, v] - subject.responses[:, v].mean()
        explained = []
        for values in bank.values:
            x = read_by_hand(values, subject.field_centre[v], subject.field_sd[v])
            x = x - x.mean(0)
            explained.append(1 - ((y - x @ np.linalg.lstsq(x, y, rcond=None)[0]) ** 2).sum() / (y**2).sum())
        n_channels = np.array([values.shape[1] for values in bank.values])
        adjusted = 1 - (1 - np.array(explained)) * 399 / (399 - n_channels)
        np.testing.assert_allclose(adjusted, subject.mix[:, v] ** 2, atol=0.2)
        right += adjusted.argmax() == subject.mix[:, v].argmax()
    assert right >= 55


def test_hemispheres_see_opposite_halves(subject):
    left = subject.region <= 180
    v1, ffc = of(subject, "V1"), of(subject, "FFC")
    assert (subject.field_centre[v1 & left, 1] >= 0.5).all() and (subject.field_centre[v1 & ~left, 1] <= 0.5).all()
    assert (subject.field_centre[ffc & left, 1] < 0.5).mean() > 0.2
    assert subject.field_sd[v1].max() < subject.field_sd[ffc].min()
    # In between, areas see more of the other side and some of their own; none piles up on the middle line.
    beyond = []
    for short in ("V1", "V4", "LO2", "PIT", "FFC"):
        column = subject.field_centre[of(subject, short), 1]
        beyond.append(((column > 0.5) == left[of(subject, short)]).mean())
        assert short == "V1" or (np.abs(column - 0.5) < 1e-4).mean() < 0.01
    assert beyond == sorted(beyond, reverse=True) and beyond[-1] < 0.75


def test_tuning_is_smooth_over_the_cortex(subject):
    where = {tuple(p): i for i, p in enumerate(np.argwhere(np.isin(subject.head.regions, list(subject.head.table))))}
    pairs = [(i, where[x, y + 1, z]) for (x, y, z), i in where.items() if (x, y + 1, z) in where]
    pairs = [(i, j) for i, j in pairs if subject.region[i] == subject.region[j]]
    neighbours = np.mean([np.corrcoef(subject.responses[:, i], subject.responses[:, j])[0, 1] for i, j in pairs])
    rng = np.random.default_rng(0)
    same = [rng.choice(np.flatnonzero(subject.region == label), 2) for label in np.unique(subject.region)]
    strangers = np.mean(
        [np.corrcoef(subject.responses[:, i], subject.responses[:, j])[0, 1] for i, j in same if i != j]
    )
    assert len(pairs) > 500 and neighbours > strangers + 0.15


def test_noise_ceilings_scatter_about_what_was_asked(subject, bank, template_head):
    assert np.median(subject.noise_ceiling) == pytest.approx(0.2, abs=0.01)
    assert subject.noise_ceiling.min() > 0.02 and subject.noise_ceiling.max() <= 0.9
    assert subject.noise_ceiling.std() > 0.05
    assert (grow_subject(bank, template_head, seed=1, noise_ceiling=1.0).noise_ceiling == 1).all()


def test_one_delay_a_region(subject):
    delays = {label: np.unique(subject.hrf_delay[subject.region == label]) for label in np.unique(subject.region)}
    assert all(len(values) == 1 and -0.5 <= values[0] <= 1.5 for values in delays.values())
    assert len(np.unique(subject.hrf_delay)) > 20


def test_seeds(subject, bank, template_head):
    again = grow_subject(bank, template_head, seed=1, noise_ceiling=0.2)
    np.testing.assert_array_equal(again.responses, subject.responses)
    other = grow_subject(bank, template_head, seed=2, noise_ceiling=0.2)
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(subject.responses.T, other.responses.T, strict=True)]
    assert abs(np.mean(r)) < 0.05


def test_what_is_known_of_a_face_is_not_what_is_asked(subject):
    """Every voxel sees faces through a weighted sum; none is given a latent, and responses span many dimensions."""
    values = np.linalg.svd(subject.responses - subject.responses.mean(0), compute_uv=False)
    assert (values**2).sum() ** 2 / (values**4).sum() > 30


def test_truth_volumes(subject):
    volumes = truth_volumes(subject)
    shape = subject.head.brain.shape
    responds = np.isin(subject.head.regions, list(subject.head.table))
    for name, volume in volumes.items():
        assert volume.shape[:3] == shape and not volume[~responds].any(), name
    np.testing.assert_array_equal(volumes["region_dseg"][responds], subject.region)
    np.testing.assert_array_equal(volumes["layer_dseg"][responds] - 1, subject.mix.argmax(0))
    np.testing.assert_array_equal(volumes["mix_map"][responds], subject.mix.T)
    np.testing.assert_array_equal(volumes["noiseceiling_map"][responds], subject.noise_ceiling)


def test_what_cannot_be_grown(bank, template_head):
    with pytest.raises(UserError, match="above 0 and at most 1, got"):
        grow_subject(bank, template_head, seed=0, noise_ceiling=1.5)
    blind = replace(template_head, regions=np.zeros_like(template_head.regions))
    with pytest.raises(UserError, match="no voxel of this head lies in a region that responds"):
        grow_subject(bank, blind, seed=0)


def test_a_layer_of_one_cell_and_a_constant_feature(template_head):
    rng = np.random.default_rng(0)
    values = (rng.standard_normal((30, 3, 1, 1)).astype(np.float32), np.zeros((30, 2, 4, 4), np.float32))
    found = grow_subject(FeatureBank(("a", "b"), values), template_head, seed=0)
    assert np.isfinite(found.responses).all()
