"""The methods text says what was done in this study, cites what it names, and says nothing else."""

import re
from dataclasses import replace

import pytest

from hyperdecode.report.methods import CITED, MethodsFacts, methods_text
from hyperdecode.report.references import REFERENCES, reference_list
from hyperdecode.study.settings import StudyConfig

FACTS = MethodsFacts(
    family="MobileStyleGAN",
    resolution=1024,
    latent_dim=512,
    subjects=["sub-01", "sub-02"],
    simulated=[],
    n_runs=[6, 6],
    n_training=[384, 380],
    n_test=[96, 96],
    n_voxels=[2048, 2048],
    source="fmriprep",
    bold=["The BOLD was preprocessed by fMRIPrep (space-MNI); confounds: motion."],
    model={"HighPass": 0.01, "Confounds": ["trans_x", "rot_z"]},
    decoder="ridge regression that trusts each voxel as far as latents explain it",
    decoded=[{"alpha": 10000.0, "cv": 5, "stretch": 2.0948}, {"alpha": 1000.0, "cv": 5, "stretch": 1.5}],
    metrics=["identification", "lsim", "fsim_dlib", "ssim_hyper-paper", "ms_ssim"],
    corrected=True,
    null="pairing",
    attributes=["age", "smile"],
    baselines=["vaegan"],
    mapped=["sub-01", "sub-02"],
    versions={"hyperdecode": "0.1.0", "torch": "2.9", "numpy": "2.4"},
)


def config(**changes):
    return StudyConfig.model_validate({"mapping": {"readout": "linear"}, **changes})


def body(text):
    return text.split("\n\nReferences\n\n")[0]


def test_numbers_are_the_studys_own():
    text = methods_text(config(seed=7, stimuli={"n_train": 384, "n_test": 16, "render": 256}), FACTS)
    for part in (
        "384 training faces and 16 test faces", "truncated to 0.7 in w, at 256 px", "384 / 380 training trials",
        "6 runs a subject", "stretched by one factor a subject (2.09 / 1.50)",
        "The 2,048 voxels with the highest mean z over training trials",
        "5-fold cross-validation over training trials (10,000 / 1,000)",
        "10,000 permutations of the pairing",
        "Taken out were cosines below 0.01 Hz and 2 confounds a run (trans_x, rot_z)",
        "layers 4, 9, 14, 19", "hyperdecode 0.1.0, with torch 2.9 (Paszke et al., 2019) and numpy 2.4", "the seed 7",
        "4 latents were drawn from a posterior", "2-way identification, latent similarity, feature similarity (dlib)",
    ):  # fmt: skip
        assert part in text, part


@pytest.mark.parametrize(
    ("settings", "facts", "gone"),
    [
        ({}, {"baselines": []}, "VAE-GAN"),
        ({}, {"attributes": []}, "support vector"),
        ({}, {"mapped": []}, "searchlight"),
        ({}, {"metrics": ["identification", "lsim"]}, "dlib"),
        ({}, {"metrics": ["identification", "lsim"]}, "SSIM"),
        ({}, {"corrected": False, "attributes": []}, "Benjamini"),
        ({}, {"simulated": ["sub-01", "sub-02"]}, "fixation"),
        ({}, {"source": "estimates", "model": {}, "n_runs": [0, 0]}, "linear model of its own"),
        ({}, {"source": "estimates", "model": {}, "n_runs": [0, 0]}, "BIDS"),
        ({"decoding": {"posterior": 0}}, {}, "posterior"),
        ({"decoding": {"match_norm": False}}, {}, "mean length"),
        ({"stimuli": {"truncation": 1.0}}, {}, "truncated"),
        ({"bold": {"glm": "lsa"}}, {}, "Mumford"),
        ({}, {"decoded": [{}, {}]}, "penalty was chosen"),
    ],
)
def test_what_was_not_done_does_not_stand_there(settings, facts, gone):
    assert gone in methods_text(config(), FACTS)
    assert gone not in methods_text(config(**settings), replace(FACTS, **facts))


def test_every_work_that_is_named_is_listed_and_no_other():
    text = methods_text(config(), FACTS)
    listed = text.split("\n\nReferences\n\n")[1].split("\n\n")
    assert listed == sorted(listed, key=str.casefold)
    assert not CITED.search(text), "keys became names"
    named = {name for name, _ in REFERENCES.values() if name in body(text)}
    by_line = {line: name for name, line in REFERENCES.values()}
    assert {by_line[line] for line in listed} == named and len(listed) > 12
    for name, line in REFERENCES.values():
        assert re.search(r"\d{4}", name)[0] in line and line.startswith(name.split()[0].rstrip(","))
    assert reference_list(["ssim", "ssim"]) == [REFERENCES["ssim"][1]]


def test_simulated_subjects_are_said_to_be_simulated():
    text = methods_text(config(), replace(FACTS, simulated=["sub-01", "sub-02"], source="as-is"))
    assert "No brain was measured" in text
    assert "sub-02 were simulated, not measured" in methods_text(config(), replace(FACTS, simulated=["sub-02"]))


def test_maps_made_elsewhere_are_said_to_be():
    text = methods_text(config(), replace(FACTS, source="estimates", model={}, bold=["One map (sub-01)."]))
    assert "maps of 2 subjects, 384 / 380 training trials and 96 trials of test faces, were estimated elsewhere" in text
    assert "One map (sub-01)" not in text


def test_the_papers_null_is_named_where_it_is_used():
    text = methods_text(config(evaluation={"preset": "hyper-paper"}), replace(FACTS, null="random latents"))
    assert "the others are against random latents of the generator (Dado et al., 2022)" in text
    assert "against random latents" not in methods_text(config(), FACTS)


def test_decoders_name_their_works():
    banded = methods_text(config(decoding={"model": "banded-ridge"}), FACTS)
    assert "(Hoerl & Kennard, 1970; Nunez-Elizalde et al., 2019)" in banded
    dense = methods_text(config(decoding={"model": "dense"}), FACTS)
    assert "explain it (Dado et al., 2022)" in dense and "Hoerl" not in dense
