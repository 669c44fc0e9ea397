from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from hyperdecode.fmri.normalise import Anatomy, Normalisation, epi_template, mni_template
from hyperdecode.fmri.realign import rigid_matrix
from hyperdecode.fmri.registration_quality import registration_quality

STILL = np.zeros((2, 2, 2, 3), np.float32)
GOOD = Normalisation(np.eye(4), np.eye(4), STILL, np.eye(4))


@pytest.fixture(scope="module")
def template():
    return mni_template(4)


@pytest.fixture(scope="module")
def epi(template):
    """A functional that looks like one: its own contrast, a rim of fluid, uneven, noisy."""
    values = 1000 * epi_template(4).brain
    values[ndimage.binary_dilation(template.mask) & ~template.mask] = 900
    x = np.linspace(-1, 1, values.shape[1])[None, :, None]
    values = values * (1 + 0.2 * x) + np.random.default_rng(0).normal(20, 15, values.shape)
    return nib.Nifti1Image(values.astype(np.float32), template.affine)


@pytest.fixture(scope="module")
def anatomy(template):
    return Anatomy(template.brain, template.affine, np.eye(4), STILL, np.eye(4))


def moved(x, y, z, degrees_x=0.0, degrees_y=0.0, degrees_z=0.0):
    turn = np.radians([degrees_x, degrees_y, degrees_z])
    return replace(GOOD, epi_from_t1=rigid_matrix([x, y, z, *turn], [0, -20, 10]))


def test_a_good_registration_is_not_called_poor(epi, template, anatomy):
    quality = registration_quality(epi, GOOD, template, anatomy)
    assert quality.poor == ()
    assert quality.dice > 0.9 and quality.off_mm < 1.5 and quality.seen > 0.98
    assert quality.t1_correlation == pytest.approx(1.0)
    assert registration_quality(epi, GOOD, template).t1_correlation is None


@pytest.mark.parametrize(
    "broken",
    [(10, 0, 0), (0, -10, 0), (0, 0, 10), (0, 0, 0, 15), (0, 0, 0, 0, -15), (0, 0, 0, 0, 0, 15), (40, 0, 0)],
)
def test_a_centimetre_or_fifteen_degrees_is_called_poor(epi, template, broken):
    quality = registration_quality(epi, moved(*broken), template)
    assert len(quality.poor) >= 1 and all("registration looks poor" in words for words in quality.poor)
    assert quality.off_mm > 5 or quality.dice < 0.8


def test_a_t1w_that_missed_the_template_is_called_poor(epi, template, anatomy):
    off = replace(GOOD, t1_from_template=rigid_matrix([0, 10, 0, 0, 0, 0], [0, 0, 0]))
    quality = registration_quality(epi, off, template, anatomy)
    assert quality.t1_correlation < 0.7 and any("T1w correlates" in words for words in quality.poor)


def test_a_field_of_view_beside_the_brain(epi, template):
    quality = registration_quality(epi, moved(400, 0, 0), template)
    assert (
        quality.seen == 0 and quality.off_mm == np.inf and any("0% of the template" in words for words in quality.poor)
    )


def test_a_cut_field_of_view_is_judged_by_what_is_in_it(epi, template):
    cut = nib.Nifti1Image(np.asarray(epi.dataobj)[:, :, 16:], template.affine.copy())
    cut.affine[:3, 3] = template.affine[:3] @ [0, 0, 16, 1]
    quality = registration_quality(cut, GOOD, template)
    # Against the whole template no mask of this slab could reach 0.83.
    assert 0.6 < quality.seen < 0.75 and quality.dice > 0.87 and quality.off_mm < 1.5 and quality.poor == ()
