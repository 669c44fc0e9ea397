"""scikit-learn's own checks of an estimator, for every decoder; each exception stands here with its reason."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import has_fit_parameter

from hyperdecode.decoding.banded import BandedRidgeDecoder
from hyperdecode.decoding.dense import DenseDecoder
from hyperdecode.decoding.ridge import RidgeDecoder
from hyperdecode.decoding.weighted import WeightedRidgeDecoder

DECODERS = [
    RidgeDecoder(),
    RidgeDecoder(cv=3, per_latent=True),
    BandedRidgeDecoder(n_iter=2, cv=3),
    WeightedRidgeDecoder(cv=3),
    DenseDecoder(n_epochs=100, learning_rate=0.01, weight_decay=0.0, first_weights=0.0),
]


EXCEPTIONS = {
    "check_n_features_in_after_fitting": "refused, but the message speaks of voxels and of the mask to apply",
    "check_dtype_object": "refused, but as a UserError (a ValueError), like all that a user can mend, not a TypeError",
}
EXCEPTIONS_OF_WEIGHTS = {
    "check_sample_weight_equivalence_on_dense_data": (
        "weights are divided by their mean, so that a penalty means the same in any unit, and none may be zero; "
        "the tests of each decoder compare them with fits or repeats of their own"
    ),
}


def exceptions(decoder):
    """Names of scikit-learn's checks that are not passed, and why."""
    return EXCEPTIONS | (EXCEPTIONS_OF_WEIGHTS if has_fit_parameter(decoder, "sample_weight") else {})


@pytest.mark.filterwarnings("ignore::hyperdecode.errors.DataWarning")
@parametrize_with_checks(DECODERS, expected_failed_checks=exceptions, xfail_strict=True)
def test_keeps_the_conventions_of_scikit_learn(estimator, check):
    check(estimator)
