"""Methods of a study as text to paste into a paper: what its settings and records say was done, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hyperdecode.report.references import REFERENCES, reference_list
from hyperdecode.report.words import NO_SCORES, metric_label
from hyperdecode.study.settings import StudyConfig

__all__ = ["GENERATORS", "MethodsFacts", "methods_text"]

GENERATORS = {"MobileStyleGAN": "mobilestylegan", "PGGAN": "pggan", "StyleGAN2": "stylegan2", "StyleGAN3": "stylegan3"}
"""Family of a generator -> its reference."""

CITED = re.compile(r"\[([a-z0-9-]+(?:; ?[a-z0-9-]+)*)\]")
GLM = {
    "lss": "a general linear model of its own for each trial, with all other trials as one further regressor "
    "(least squares separate) [lss]",
    "lsa": "one general linear model of all trials (least squares all)",
    "ridge": "one general linear model of all trials whose amplitudes were pulled towards their common mean by a ridge "
    "penalty, chosen for each voxel by generalized cross-validation over volumes",
}
HRF = {
    "spm": "the canonical haemodynamic response of SPM",
    "glover": "the canonical haemodynamic response of Glover",
    "library": "a haemodynamic response that was chosen for each voxel from a library of 24, on training trials",
}
BASELINES = {
    "eigenfaces": "eigenfaces (principal components of the training faces) [eigenfaces]",
    "vaegan": "the latents of a VAE-GAN [larsen; vaegan]",
}
PAPERS = ("dense", "hyper-", "activation-")
RIDGES = ("ridge", "weighted-ridge", "banded-ridge")


@dataclass(frozen=True)
class MethodsFacts:
    """What no setting says: what was found in the study's records and files.

    Attributes
    ----------
    family : str
        Class of the generator, a key of `GENERATORS` where it is a known one.
    resolution, latent_dim : int
        Of the generator.
    subjects : sequence of str
        ``"sub-01"``.
    simulated : sequence of str
        Those whose BOLD was simulated.
    n_runs : sequence of int
        Runs of BOLD of each subject; 0 where single-trial maps were made elsewhere.
    n_training, n_test : sequence of int
        Trials of each subject that were analysed.
    n_voxels : sequence of int
        Voxels that the decoder of each subject reads.
    source : {"raw", "as-is", "fmriprep", "estimates"}
        What the BOLD was.
    bold : sequence of str
        Sentences on what was done to it.
    model : mapping
        Of the single-trial models: ``HighPass`` and ``Confounds``, as the sidecar of the z-maps has them; empty where
        there were none.
    decoder : str
        What the decoder is, in words.
    decoded : sequence of mapping
        Record of each subject's decoder: ``alpha``, ``cv``, ``stretch`` where it has them.
    metrics : sequence of str
        Metrics in the score table.
    corrected : bool
        Whether it has q-values.
    null : str
        What the p-values are against: ``"pairing"`` or ``"random latents"``.
    attributes : sequence of str
        Attributes that were scored.
    baselines : sequence of str
        Baselines that were decoded.
    mapped : sequence of str
        Subjects with brain maps.
    versions : mapping of str to str
        Package -> version.
    """

    family: str
    resolution: int
    latent_dim: int
    subjects: Sequence[str]
    simulated: Sequence[str]
    n_runs: Sequence[int]
    n_training: Sequence[int]
    n_test: Sequence[int]
    n_voxels: Sequence[int]
    source: str
    bold: Sequence[str]
    model: Mapping[str, Any]
    decoder: str
    decoded: Sequence[Mapping[str, Any]]
    metrics: Sequence[str]
    corrected: bool
    null: str
    attributes: Sequence[str] = ()
    baselines: Sequence[str] = ()
    mapped: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)


def methods_text(config: StudyConfig, facts: MethodsFacts) -> str:
    """Write the methods of a study, with the list of works that it cites.

    Parameters
    ----------
    config : StudyConfig
        The settings of the study.
    facts : MethodsFacts
        What its records say.

    Returns
    -------
    str
        Paragraphs, then ``References`` and one line a work, with empty lines between them.
    """
    paragraphs = [
        _stimuli(config, facts),
        _bold(config, facts),
        _decoding(config, facts),
        _evaluation(config, facts),
        _maps(config, facts),
        _software(config, facts),
    ]
    written, cited = [], []
    for paragraph in filter(None, paragraphs):
        keys = [key.strip() for found in CITED.findall(paragraph) for key in found.split(";")]
        cited += keys
        written.append(CITED.sub(_named, paragraph))
    return "\n\n".join([*written, "References", *reference_list(cited)])


def _named(found: re.Match[str]) -> str:
    return f"({'; '.join(REFERENCES[key.strip()][0] for key in found[1].split(';'))})"


def _stimuli(config: StudyConfig, facts: MethodsFacts) -> str:
    faces, time = config.stimuli, config.timing
    key = GENERATORS.get(facts.family)
    truncated = f", truncated to {faces.truncation:g} in w" if faces.truncation < 1 and key != "pggan" else ""
    text = (
        f"Stimuli. The stimuli were {faces.n_train} training faces and {faces.n_test} test faces. They were made by "
        f"the generator {config.generator}{f' [{key}]' if key else ''} from random latents of {facts.latent_dim} "
        f"dimensions{truncated}, at {faces.render} px, and scaled to {faces.size} px, following the HYPER framework "
        "[hyper]: the latents of every stimulus are known. No stimulus was both a training and a test face."
    )
    if facts.source == "estimates":
        return text
    trials = (
        f"{_each(facts.n_training)} training trials and {_each(facts.n_test)} trials of test faces "
        f"({_in_runs(facts.n_runs)})"
    )
    if len(facts.simulated) == len(facts.subjects):
        who = _subjects(facts.subjects)
        return f"{text} No brain was measured: the responses of {who} to {trials} were simulated."
    if facts.simulated:
        text += f" The responses of {', '.join(facts.simulated)} were simulated, not measured."
    flashing = f", flashing at {time.flash_hz:g} Hz" if time.flash_hz else ""
    return (
        f"{text} {_subjects(facts.subjects).capitalize()} had {trials}. By the study's settings each picture was shown "
        f"for {time.on:g} s{flashing} and followed by {time.off:g} s of fixation; pictures were "
        f"{config.viewing.picture_deg:g} degrees of visual angle wide, with a fixation target of "
        f"{config.viewing.target_deg:g} degrees [target]."
    )


def _bold(config: StudyConfig, facts: MethodsFacts) -> str:
    bold, text = config.bold, " ".join(("Responses.", *facts.bold))
    if facts.source == "estimates":
        text = (
            f"Responses. Single-trial maps of {_subjects(facts.subjects)}, {_each(facts.n_training)} training trials "
            f"and {_each(facts.n_test)} trials of test faces, were estimated elsewhere and taken as they are."
        )
    elif facts.source == "fmriprep":
        text = text.replace("fMRIPrep (", "fMRIPrep [fmriprep] (", 1)
    elif facts.source == "raw" and "MNI" in text:
        text += " MNI space was that of the ICBM 2009c nonlinear asymmetric template [mni]."
    if facts.model:
        shape, _, more = bold.hrf.partition(" + ")
        derivatives = f" and its {more.replace(' + ', ' and ')} as further regressors" if more else ""
        noise = {"ols": "white noise", "ar1": "first-order autoregressive noise"}[bold.noise_model]
        cut = float(facts.model.get("HighPass", 0))
        confounds = facts.model.get("Confounds", ())
        nuisance = [f"cosines below {cut:g} Hz"] if cut else []
        nuisance += [f"{len(confounds)} confounds a run ({_listed(confounds)})"] if len(confounds) else []
        text += (
            f" Each trial's response was estimated by {GLM[bold.glm]}, with {HRF[shape]}{derivatives} and {noise}, "
            f"and expressed as z.{f' Taken out were {_joined(nuisance)}.' if nuisance else ''}"
        )
    both = config.decoding.repeats == "average"
    averaged = ", and so were those of the same training face" if both else "; training trials were not"
    return f"{text} {_voxels(config, facts)} Trials of the same test face were averaged before decoding{averaged}."


def _voxels(config: StudyConfig, facts: MethodsFacts) -> str:
    bold, counts = config.bold, _each(facts.n_voxels)
    atlas = "a label image" if bold.region_image else "HCP-MMP1 [hcp-mmp1]"
    return {
        "active": f"The {counts} voxels with the highest mean z over training trials were taken.",
        "reliable": f"The {counts} voxels most reliable over repeats of training faces were taken.",
        "regions": f"The {counts} voxels of {', '.join(bold.regions)} in {atlas} were taken.",
        "all": f"All {counts} voxels of the brain were taken.",
    }[bold.voxels]


def _decoding(config: StudyConfig, facts: MethodsFacts) -> str:
    decoding, name = config.decoding, config.decoding.model
    works = {"ridge": name in RIDGES or name.startswith("ridge-"), "banded": name == "banded-ridge"}
    works |= {"hyper": name.startswith(PAPERS)}
    cited = "; ".join(key for key, mine in works.items() if mine)
    text = (
        f"Decoding. Latents {decoding.space}, standardised by their mean and standard deviation over the generator's "
        f"faces, were decoded from the voxels of each subject by {facts.decoder}{f' [{cited}]' if cited else ''}, "
        "fitted on training trials alone."
    )
    penalties = [float(one["alpha"]) for one in facts.decoded if "alpha" in one]
    if len(penalties) == len(facts.decoded) and penalties:
        cv = facts.decoded[0].get("cv")
        how = {None: "", "loo": " by leaving one training trial out"}.get(
            cv, f" by {cv}-fold cross-validation over training trials"
        )
        text += f" The penalty was chosen{how} ({_each([_penalty(value) for value in penalties])})."
    stretches = [float(one.get("stretch", 1)) for one in facts.decoded]
    if any(value != 1 for value in stretches):
        text += (
            " Predictions of averaged trials were stretched by one factor a subject "
            f"({_each([f'{value:.2f}' for value in stretches])}), from how far repeats of test faces scatter and not "
            "from which face was shown."
        )
    text += f" Decoded latents were turned into pictures of {facts.resolution} px by the same generator"
    text += ", after they were stretched to the mean length of training latents." if decoding.match_norm else "."
    if decoding.posterior:
        text += (
            f" For each test face {decoding.posterior} latents were drawn from a posterior under a linear Gaussian "
            "model of the voxels with the generator's own latents as prior."
        )
    if facts.baselines:
        text += (
            f" For comparison {_joined([BASELINES[one] for one in facts.baselines])} were decoded from the same "
            "voxels of the same trials."
        )
    return text


def _evaluation(config: StudyConfig, facts: MethodsFacts) -> str:
    labels = [_metric(name) for name in facts.metrics if name not in NO_SCORES]
    n = f"{config.evaluation.n_permutations:,}"
    text = (
        f"Evaluation. Predictions were judged by {_joined(labels)}, each beside predictors that never saw the brain, "
        "among them the mean of the training latents, noise with the decoder's mean and spread, and the decoder's "
        "predictions paired with other faces. "
    )
    networks = [("fsim", "a ResNet50 trained on VGGFace2 [vggface2]"), ("fsim_dlib", "the face network of dlib [dlib]")]
    used = [words for name, words in networks if name in facts.metrics]
    text += f"Features of faces were those of {_joined(used)}. " if used else ""
    similar = ["SSIM [ssim]"] if any(name.startswith("ssim_") for name in facts.metrics) else []
    similar += ["MS-SSIM [ms-ssim]"] if "ms_ssim" in facts.metrics else []
    text += f"Pictures were compared by {_joined(similar)}. " if similar else ""
    if facts.null == "pairing":
        text += f"P-values come from {n} permutations of the pairing of predictions and stimuli"
    else:
        text += (
            f"The p-value of 2-way identification comes from {n} permutations of the pairing of predictions and "
            "stimuli, the others are against random latents of the generator [hyper]"
        )
    text += "; q-values correct for the number of metrics [fdr]." if facts.corrected else "."
    if facts.attributes:
        text += (
            f" Attributes ({', '.join(facts.attributes)}) were directions in latent space found by linear support "
            "vector machines [interfacegan]; scores of decoded and true latents on them were correlated over test "
            "faces (Pearson's r, Fisher z intervals, Student's t, corrected for the number of attributes [fdr])."
        )
    return text


def _maps(config: StudyConfig, facts: MethodsFacts) -> str:
    if not facts.mapped:
        return ""
    maps = config.mapping
    readout = {
        "linear": "ridge regression from the voxels straight to each layer's activations",
        "generator": "the decoded latents and the generator",
        "second-order": "the decoded latents and the generator, to second order",
    }[maps.readout]
    regions = "" if maps.region_image else " Regions were those of HCP-MMP1 [hcp-mmp1]."
    return (
        f"Brain maps. For each voxel the voxels in a {maps.shape} of {maps.size_mm:g} mm around it were set to their "
        f"training mean, and activations of generator layers {', '.join(map(str, maps.layers))} were predicted again "
        f"through {readout} (searchlight-occlusion [hyper]). The voxel was given the layer whose similarity to the "
        f"true activation fell most, and tested against {maps.n_permutations:,} permutations of the pairing of "
        f"predictions and faces, at {maps.alpha:g} over all voxels and layers.{regions}"
    )


def _software(config: StudyConfig, facts: MethodsFacts) -> str:
    known = {"torch": " [torch]", "scikit-learn": " [sklearn]", "nilearn": " [nilearn]"}
    packages = [
        f"{name} {version}{known.get(name, '')}" for name, version in facts.versions.items() if name != "hyperdecode"
    ]
    ours = facts.versions.get("hyperdecode", "")
    bids = "" if facts.source == "estimates" else " Data were organised by BIDS [bids]."
    return (
        f"Software. All analyses were done with hyperdecode {ours}, with {_joined(packages)}. Everything random came "
        f"from the seed {config.seed}.{bids}"
    )


def _metric(name: str) -> str:
    """Name of a metric inside a sentence: ``"2-way identification (pixels)"``, ``"cosine"``, ``"MS-SSIM"``."""
    label, _, kind = metric_label(name).partition(", ")
    plain = label[0].lower() + label[1:] if label[1:2].islower() else label
    return f"{plain} ({kind})" if kind else plain


def _penalty(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _each(values: Sequence[object]) -> str:
    """One value where all subjects have the same, else theirs in turn."""
    texts = [f"{value:,}" if isinstance(value, int) else str(value) for value in values]
    return texts[0] if len(set(texts)) == 1 else " / ".join(texts)


def _in_runs(n_runs: Sequence[int]) -> str:
    return f"{_each(n_runs)} {'run' if set(n_runs) == {1} else 'runs'} a subject"


def _subjects(subjects: Sequence[str]) -> str:
    return "one subject" if len(subjects) == 1 else f"{len(subjects)} subjects"


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _listed(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
