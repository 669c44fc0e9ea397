"""Decoders by name: each can be built and fitted, on the scale of latents that studies use."""

import numpy as np
import pytest

from hyperdecode.decoding.activation_loss import ActivationLossDecoder
from hyperdecode.decoding.base import LinearDecoder
from hyperdecode.decoding.layers import MODEL_LAYERS, PAPER_LAYERS
from hyperdecode.decoding.models import MODELS, Context, build_decoder
from hyperdecode.decoding.posterior import latent_prior
from hyperdecode.errors import UserError


@pytest.fixture
def context(tiny_generator):
    mean, sd = (value.double().numpy() for value in tiny_generator.w_statistics())
    return Context(seed=3, generator=tiny_generator, scale=(mean, sd), bands=["V1"] * 30 + ["FFA"] * 30)


def trials(generator, context, n=130):
    """Return responses of 60 voxels to faces, and their standardised latents."""
    rng = np.random.default_rng(0)
    mean, sd = context.scale
    latents = (generator.to_w(generator.sample(n, 1)).double().numpy() - mean) / sd
    return latents @ rng.standard_normal((latents.shape[1], 60)) + 5 * rng.standard_normal((n, 60)), latents


@pytest.mark.parametrize(
    "name", ["ridge", "ridge-per-latent", "ridge-per-component", "banded-ridge", "inverted", "hyper-1", "activation-4"]
)
def test_a_decoder_by_name_learns(name, context, tiny_generator):
    x, y = trials(tiny_generator, context)
    decoder = build_decoder(name, context).fit(x[:120], y[:120])
    assert isinstance(decoder, LinearDecoder)
    new, true = decoder.predict(x[120:]), y[120:]
    cosines = (new * true).sum(1) / np.linalg.norm(new, axis=1) / np.linalg.norm(true, axis=1)
    assert cosines.mean() > 0.5


def test_the_papers_models_differ_by_layer_and_weight_of_latents(context, tiny_generator):
    built = {name: MODELS[name].build for name in MODELS if name.startswith(("hyper-", "activation-"))}
    assert list(built) == [f"hyper-{k}" for k in range(1, 6)] + [f"activation-{k}" for k in PAPER_LAYERS]
    assert MODEL_LAYERS[1:] == PAPER_LAYERS
    first, alone = (build_decoder(name, context) for name in ("hyper-2", "activation-4"))
    assert isinstance(first, ActivationLossDecoder) and isinstance(alone, ActivationLossDecoder)
    assert first.layer == alone.layer == "b8.conv2"
    assert (first.latent_weight, alone.latent_weight) == (1.0, 0.0)
    assert all(model.paper for name, model in MODELS.items() if name in built or name == "dense")


def test_the_prior_is_standardised_as_the_latents_are(context, tiny_generator):
    decoder = build_decoder("inverted", context)
    mean, covariance = latent_prior(tiny_generator, "w")
    centre, sd = context.scale
    np.testing.assert_allclose(np.asarray(decoder.prior_mean) * sd + centre, mean)
    np.testing.assert_allclose(np.asarray(decoder.prior_covariance) * np.outer(sd, sd), covariance)
    assert np.abs(np.diag(decoder.prior_covariance) - 1).max() < 0.1


def test_what_a_decoder_needs_and_lacks_is_said(tiny_generator):
    with pytest.raises(UserError, match="no decoder 'lasso': choose among weighted-ridge, ridge, "):
        build_decoder("lasso", Context())
    with pytest.raises(UserError, match="needs the region of each voxel"):
        build_decoder("banded-ridge", Context())
    for name in ("hyper-1", "activation-9", "inverted", "ridge-per-component"):
        with pytest.raises(UserError, match="needs the generator"):
            build_decoder(name, Context())
    with pytest.raises(UserError, match="256 px"):
        build_decoder("hyper-4", Context(generator=tiny_generator))
