from typing import get_args

import pytest

from hyperdecode.errors import UserError
from hyperdecode.evaluation.presets import PRESETS, Null, preset_named, preset_words


def test_every_preset_judges_what_the_verdict_rests_on():
    assert list(PRESETS) == ["strict", "hyper-paper", "hyper-code"]
    for name, preset in PRESETS.items():
        assert preset.name == name
        assert "identification" in preset.latent_metrics
        assert preset.null in get_args(Null)


def test_words_say_what_p_is_against():
    assert "permuting the pairing" in preset_words("strict")
    for name in ("hyper-paper", "hyper-code"):
        words = preset_words(name)
        assert words.startswith(f"Preset {name}.")
        assert "against random latents of the generator, not against shuffled pairs" in words
        assert "never saw the brain passes" in words
    with pytest.raises(UserError, match="no evaluation preset 'lenient'"):
        preset_named("lenient")
