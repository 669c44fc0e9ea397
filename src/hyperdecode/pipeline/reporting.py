"""The last step of a study: what its files say, put into the report."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load_file

import hyperdecode
from hyperdecode.decoding.models import MODELS
from hyperdecode.errors import UserError
from hyperdecode.evaluation.presets import preset_words
from hyperdecode.files import atomic_path
from hyperdecode.generators.attribute_store import attribute_spaces
from hyperdecode.pipeline.analyse import Analysis
from hyperdecode.pipeline.certificate import study_certificate, training_hashes
from hyperdecode.pipeline.map_report import map_report
from hyperdecode.pipeline.methods import methods_facts, model_sidecars, package_versions, simulated
from hyperdecode.pipeline.moves import Moves
from hyperdecode.pipeline.near_duplicates import check_stimuli_apart
from hyperdecode.pipeline.quality import quality_figures, quality_inputs
from hyperdecode.pipeline.records import Step, read_facts
from hyperdecode.pipeline.report_parts import Parts
from hyperdecode.pipeline.schedule import efficiency_of
from hyperdecode.pipeline.strips import Strips, attribute_axes
from hyperdecode.pipeline.subjects import SubjectChain
from hyperdecode.report.attributeplot import AttributePoints
from hyperdecode.report.build import ModelReport, ReportData, SubjectReport, write_report
from hyperdecode.report.duplicatesfigure import duplicates_caption, duplicates_figure
from hyperdecode.report.figures import Figure
from hyperdecode.report.methods import methods_text
from hyperdecode.report.schedulefigure import schedule_caption, schedule_figure
from hyperdecode.report.strips import reconstruction_strip
from hyperdecode.stimuli.duplicates import NeighbourCheck
from hyperdecode.stimuli.schedule import REPEAT, scan_time
from hyperdecode.study.bids import read_events
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.derivatives import write_table
from hyperdecode.study.settings import BoldSettings
from hyperdecode.study.stimulus_set import read_picture

__all__ = ["report_step"]

STRIP_FACES = 8
DECODER_FILES = ("latents.safetensors", "decoder.safetensors", "decoder.json")
TIMES = ("fit_seconds",)
"""Facts that no two runs agree on; the report quotes none of them and does not hang on them."""
AGAIN = "hyperdecode run STUDY  # the folder that this report lies in"
"""Whatever the folder is called: the same study gives the same report anywhere."""


def report_step(analysis: Analysis, chains: list[SubjectChain], skipped: dict[str, str]) -> Step:
    """Return the step that writes the report; it depends on what the earlier steps noted, so ask for it after them.

    `skipped` names the runs of BOLD that were left out, and why.
    """
    layout, names = analysis.layout, analysis.stimuli.names("test")
    inputs = [layout.full_stimulus(name) for name in names]
    inputs += [analysis.stimuli.folder / "manifest.tsv", *(run.events for chain in chains for run in chain.runs)]
    for chain in chains:
        inputs += [*quality_inputs(chain), *model_sidecars(chain)]
        for model in analysis.models:
            inputs += [layout.decoded(chain.label, model, name) for name in ("scores.tsv", "faces.tsv")]
            inputs += [layout.reconstruction(chain.label, model, name) for name in names]
            inputs += [layout.decoded(chain.label, model, name) for name in DECODER_FILES]
        inputs += [layout.subject(chain.label, "trials.tsv"), layout.masked(chain.label)]
        if analysis.config.decoding.posterior:
            inputs += analysis.posterior(chain.label).outputs
        inputs += _moves(analysis).step(chain.label).outputs
    inputs += _parts(analysis).inputs
    settings = {
        "config": analysis.config.model_dump(mode="json"),
        "version": hyperdecode.__version__,
        "facts": {
            name: _quotable(read_facts(layout.records, name))
            for chain in chains
            for name in _noting_steps(analysis, chain)
        },
        "skipped": skipped,
    }
    outputs = (layout.report, layout.table, layout.strip)
    return Step("report", 8, settings, tuple(inputs), outputs, lambda: _write_report(analysis, chains, skipped))


def _noting_steps(analysis: Analysis, chain: SubjectChain) -> list[str]:
    """Names of the steps whose records the report quotes."""
    decoded = [analysis.decode(chain.label, model).name for model in analysis.models]
    names = [*(step.name for _, step in chain.steps()), *decoded]
    if analysis.config.decoding.posterior:
        names.append(analysis.posterior(chain.label).name)
    who = f"sub-{chain.label}"
    names += [f"evaluate_{who}_{model}" for model in analysis.models]
    baselines = analysis.config.evaluation.baselines
    return [
        *names,
        f"ceiling_{who}",
        f"learning_{who}",
        f"map_{who}",
        *(f"{kind}_{who}_{name}" for name in baselines for kind in ("decode", "evaluate")),
    ]


def _quotable(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name not in TIMES}


def _write_report(analysis: Analysis, chains: list[SubjectChain], skipped: dict[str, str]) -> None:
    layout, config, names = analysis.layout, analysis.config, analysis.stimuli.names("test")
    stimuli = np.stack([read_picture(layout.full_stimulus(name)) for name in names])
    parts, subjects = _parts(analysis), [_subject_report(analysis, chain, skipped) for chain in chains]
    checks, strips = check_stimuli_apart(analysis.stimuli), Strips(layout, tuple(names))
    data = ReportData(
        title=config.name,
        summary=_summary(analysis, chains),
        stimuli=stimuli,
        stimulus_names=[Path(name).stem for name in names],
        subjects=subjects,
        notes=_study_notes(config, chains),
        versions={"hyperdecode": hyperdecode.__version__, "python": platform.python_version()} | package_versions(),
        commands=[AGAIN],
        seed=config.seed,
        figures=[*_schedule(analysis, chains), _duplicates(analysis, checks)],
        table1=parts.table1(),
        comparisons=parts.comparisons(stimuli, [subject.reconstructions for subject in subjects]),
        strips=[page for chain in chains for page in strips.read(chain.label, config.decoding.model)],
        moves=[_moves(analysis).read(chain.label) for chain in chains],
        ceilings=parts.ceilings(),
        maps=[found for chain in chains if (found := map_report(layout, config, chain.label)) is not None],
        preset=preset_words(config.evaluation.preset),
        methods=methods_text(config, methods_facts(analysis, chains)),
        certificate=study_certificate(
            layout, config, analysis.stimuli, analysis.models, axes=_axes(analysis), checks=checks, skipped=skipped
        ),
    )
    write_report(layout.report, data)
    tables = [
        pd.read_csv(layout.decoded(chain.label, model, "scores.tsv"), sep="\t")
        for chain in chains
        for model in analysis.models
    ]
    write_table(layout.table, pd.concat(tables))
    # The faces that the first subject's decoder identified best, stated as such wherever the sheet is shown.
    best = np.argsort(-subjects[0].per_face["cosine"].to_numpy(), kind="stable")[:STRIP_FACES]
    strip = reconstruction_strip(stimuli[best], {s.label: s.reconstructions[best] for s in subjects})
    with atomic_path(layout.strip) as temporary:
        strip.convert("RGB").save(temporary, format="JPEG", quality=88)


def _schedule(analysis: Analysis, chains: list[SubjectChain]) -> list[Figure]:
    """Picture of what the first subject was shown, and how well its trials can be told apart; none without events."""
    subject, mine = chains[0].label, chains[0].runs
    if not mine:
        return []
    config, timing = analysis.config, analysis.config.timing
    shown = [_faces(analysis, read_events(run.events)) for run in mine]
    time = scan_time(shown, off=timing.off, lead_out=timing.lead_out, t_r=timing.t_r)
    caption = f"What sub-{subject} was shown. {schedule_caption(shown)} {efficiency_of(config, shown, time).words}"
    return [Figure("Order of the faces", schedule_figure(shown), caption)]


def _faces(analysis: Analysis, events: pd.DataFrame) -> pd.DataFrame:
    """Events that show a face, by its role: a data set may call its trials as it likes."""
    faces = events[events["stim_file"].notna()]
    names = [Path(str(name)).name for name in faces["stim_file"]]
    roles = np.where(faces["trial_type"] == REPEAT, REPEAT, analysis.stimuli.roles(names))
    return faces.assign(stim_file=names, trial_type=roles)


def _parts(analysis: Analysis) -> Parts:
    return Parts(analysis.layout, analysis.config, analysis.models, tuple(analysis.stimuli.names("test")))


def _moves(analysis: Analysis) -> Moves:
    return Moves(analysis.layout, analysis.config, analysis.stimuli, analysis.generator)


def _axes(analysis: Analysis) -> str:
    """Say where the attribute axes come from; empty where there are none."""
    name = analysis.generator.name
    if analysis.space.attributes is None:
        return ""
    return f"fitted to faces of {name}, {', '.join(attribute_spaces(name)[analysis.config.decoding.space].names)}"


def _duplicates(analysis: Analysis, checks: Mapping[str, NeighbourCheck]) -> Figure:
    caption = duplicates_caption(checks, analysis.stimuli.names("test"))
    return Figure("Test faces are no training faces", duplicates_figure(checks), caption)


def _subject_report(analysis: Analysis, chain: SubjectChain, skipped: dict[str, str]) -> SubjectReport:
    layout, config, subject = analysis.layout, analysis.config.decoding, chain.label
    facts = {name: read_facts(layout.records, name) for name in _noting_steps(analysis, chain)}
    model = analysis.config.decoding.model
    masked, decoded = facts[f"mask_sub-{subject}"], facts[analysis.decode(subject, model).name]
    if not masked or not decoded:
        raise UserError(f"the mask or the decoder of sub-{subject} was not finished: run the earlier steps first")
    parts, hashes = _parts(analysis), training_hashes(layout, analysis.stimuli, subject)
    notes = [f"{masked['n_dropped_nan']} voxels without usable values (NaN or constant) were left out of the mask."]
    n_nan = sum(int(found.get("n_nan_voxels", 0)) for found in facts.values())
    if n_nan:
        notes.append(f"{n_nan} voxel series with NaN, summed over {len(chain.runs)} runs.")
    notes += [f"Left out: {text}" for stem, text in skipped.items() if stem.startswith(f"sub-{subject}_")]
    notes += [text for found in facts.values() for text in found.get("warnings", [])]
    return SubjectReport(
        label=f"sub-{subject}",
        model=model,
        **_of_model(analysis, subject, model),
        beside=[
            ModelReport(name=other, words=MODELS[other].words, **_of_model(analysis, subject, other))
            for other in config.beside
        ],
        draws=_draws(analysis, subject) if config.posterior else None,
        attributes=_attributes(analysis, subject) if config.posterior else None,
        attribute_scores=parts.attributes(subject),
        attribute_points=_points(analysis, subject),
        dimensions=parts.dimensions(subject),
        baselines=parts.methods(subject),
        n_voxels=int(masked["n_voxels"]),
        n_training_trials=int(masked["n_training_trials"]),
        n_test_trials=int(masked["n_test_trials"]),
        training_hash=hashes["train"],
        test_hash=hashes["test"],
        mask_png=chain.masking.files["picture"].read_bytes(),
        facts={"Decoder": MODELS[model].words, **_penalty(decoded), **_stretch(decoded)},
        notes=notes,
        quality=quality_figures(chain),
    )


def _of_model(analysis: Analysis, subject: str, model: str) -> dict[str, Any]:
    """Scores and faces of one decoder."""
    layout, names = analysis.layout, analysis.stimuli.names("test")
    table = pd.read_csv(layout.decoded(subject, model, "scores.tsv"), sep="\t")
    return {
        "table": table.drop(columns=["subject", "model"]),
        "per_face": pd.read_csv(layout.decoded(subject, model, "faces.tsv"), sep="\t").drop(columns="stim_file"),
        "reconstructions": np.stack([read_picture(layout.reconstruction(subject, model, name)) for name in names]),
    }


def _draws(analysis: Analysis, subject: str) -> NDArray[np.uint8]:
    """Faces drawn from the posterior, (n_faces, n_draws, side, side, 3)."""
    names, n_draws = analysis.stimuli.names("test"), analysis.config.decoding.posterior
    return np.stack(
        [
            np.stack([read_picture(analysis.layout.drawn(subject, name, draw)) for draw in range(n_draws)])
            for name in names
        ]
    )


def _attributes(analysis: Analysis, subject: str) -> pd.DataFrame:
    return pd.read_csv(analysis.layout.subject(subject, "desc-posterior_attributes.tsv"), sep="\t")


def _points(analysis: Analysis, subject: str) -> AttributePoints | None:
    """Scores of each test face: of the latents as decoded, as the correlations are."""
    axes = attribute_axes(analysis.space)
    if not axes.names:
        return None
    found = load_file(analysis.layout.decoded(subject, analysis.config.decoding.model, "latents.safetensors"))
    names = [Path(name).stem for name in analysis.stimuli.names("test")]
    return AttributePoints(names, axes.names, axes.scores(found["predicted"]), axes.scores(found["true"]))


def _penalty(decoded: dict[str, Any]) -> dict[str, str]:
    if "alpha" not in decoded:
        return {}
    # Records of older versions do not say how.
    cv = decoded.get("cv")
    how = {None: "", "loo": " by leaving one trial out"}.get(cv, f" by {cv}-fold cross-validation")
    return {"Ridge penalty": f"{decoded['alpha']:.4g}, chosen{how} on training trials"}


def _stretch(decoded: dict[str, Any]) -> dict[str, str]:
    factor = float(decoded.get("stretch", 1.0))
    if factor == 1:
        return {}
    how = "by how far repeats of a test face scatter, not by which face it was; no direction changes"
    return {"Averages stretched": f"{factor:.2f} times, {how}"}


def _summary(analysis: Analysis, chains: list[SubjectChain]) -> dict[str, str]:
    config, faces = analysis.config, analysis.config.stimuli
    n_trials = sum(len(pd.read_csv(chain.masking.files["trials"], sep="\t")) for chain in chains)
    n_runs = sum(len(chain.runs) for chain in chains)
    return {
        "Stimuli": (
            f"{faces.n_train} training faces and {faces.n_test} test faces, planned to be shown {faces.test_repeats} "
            f"times each, made by {config.generator} (truncation {faces.truncation}), {faces.size} px."
        ),
        "Experiment": (
            f"{n_trials} trials {f'in {n_runs} runs ' if n_runs else ''}of {len(chains)} "
            f"{'subject' if len(chains) == 1 else 'subjects'}.{_simulated(chains)}"
        ),
        "BOLD to z-maps": f"{_model_words(config.bold)} {_mask_words(config.bold)}",
        "Decoder": f"{_decoder_words(config)} from voxels to {config.decoding.space}, fitted on training trials.",
    }


def _decoder_words(config: StudyConfig) -> str:
    words = MODELS[config.decoding.model].words
    beside = ", ".join(MODELS[name].words for name in config.decoding.beside)
    return words[0].upper() + words[1:] + (f" (beside it: {beside})" if beside else "")


def _model_words(bold: BoldSettings) -> str:
    if bold.source == "estimates":
        return "Single-trial maps were made elsewhere; repeats of test faces were averaged."
    response = {"library": "a response chosen for each voxel from a library on training trials"}.get(
        bold.hrf, f"the canonical response ({bold.hrf})"
    )
    noise = {"ols": "white noise", "ar1": "AR(1) noise"}[bold.noise_model]
    return f"One z-map a trial by {bold.glm.upper()} with {response}, {noise}; repeats of test faces averaged."


def _mask_words(bold: BoldSettings) -> str:
    return {
        "active": f"The {bold.n_voxels} voxels of highest mean z over training trials.",
        "reliable": f"The {bold.n_voxels} voxels of highest reliability over repeats of training faces.",
        "regions": f"The voxels of {', '.join(bold.regions)}.",
        "all": "All voxels of the brain.",
    }[bold.voxels]


def _simulated(chains: list[SubjectChain]) -> str:
    """Say so where the BOLD came from no scanner."""
    made = simulated(chains)
    if not made:
        return ""
    if len(made) == len(chains):
        return " The subjects are simulated: no brain was measured."
    return f" Simulated, not measured: {', '.join(made)}."


def _study_notes(config: StudyConfig, chains: list[SubjectChain]) -> list[str]:
    notes = list(dict.fromkeys(chain.words for chain in chains))
    if config.decoding.match_norm:
        notes.append(
            "Pictures and their scores are of decoded latents stretched to the mean length of training latents (ridge "
            "regression shrinks them towards the average face); scores of latents are of the latents as decoded."
        )
    return notes
