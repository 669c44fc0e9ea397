"""What the files of a study say for its methods text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

import hyperdecode
from hyperdecode.decoding.models import MODELS
from hyperdecode.evaluation.presets import preset_named
from hyperdecode.pipeline.analyse import Analysis
from hyperdecode.pipeline.map_files import MapFiles
from hyperdecode.pipeline.records import read_facts
from hyperdecode.pipeline.report_parts import Parts
from hyperdecode.pipeline.simulate import MANUFACTURER
from hyperdecode.pipeline.sources import Fmriprep, KeptBold
from hyperdecode.pipeline.spatial import Raw
from hyperdecode.pipeline.subjects import SubjectChain
from hyperdecode.report.methods import MethodsFacts

__all__ = ["methods_facts", "model_sidecars", "package_versions", "simulated"]

PACKAGES = ("numpy", "scipy", "torch", "scikit-learn", "nilearn", "nibabel", "scikit-image")


def package_versions() -> dict[str, str]:
    """Return the versions of packages that results depend on."""
    return {name: version(name) for name in PACKAGES}


def simulated(chains: Sequence[SubjectChain]) -> list[str]:
    """Return the subjects (``"sub-01"``) whose BOLD came from no scanner."""
    return [
        f"sub-{chain.label}"
        for chain in chains
        if any(run.sidecar.get("Manufacturer") == MANUFACTURER for run in chain.runs)
    ]


def methods_facts(analysis: Analysis, chains: Sequence[SubjectChain]) -> MethodsFacts:
    """Read what no setting says of how a study was done.

    Parameters
    ----------
    analysis : Analysis
        Its steps have run.
    chains : sequence of SubjectChain
        Its subjects.
    """
    layout, config, model = analysis.layout, analysis.config, analysis.config.decoding.model
    labels = [chain.label for chain in chains]
    masked = [read_facts(layout.records, f"mask_sub-{label}") for label in labels]
    tables = [pd.read_csv(layout.decoded(label, model, "scores.tsv"), sep="\t") for label in labels]
    parts = Parts(layout, config, analysis.models, tuple(analysis.stimuli.names("test")))
    attributes = [table for label in labels if (table := parts.attributes(label)) is not None and len(table)]
    wanted = labels if config.mapping.readout != "none" else []
    mapped = [label for label in wanted if all(path.is_file() for path in MapFiles(layout, label).paths)]
    return MethodsFacts(
        family=type(analysis.generator).__name__,
        resolution=analysis.generator.resolution,
        latent_dim=analysis.generator.latent_dim,
        subjects=[f"sub-{label}" for label in labels],
        simulated=simulated(chains),
        n_runs=[len(chain.runs) for chain in chains],
        n_training=[int(found["n_training_trials"]) for found in masked],
        n_test=[int(found["n_test_trials"]) for found in masked],
        n_voxels=[int(found["n_voxels"]) for found in masked],
        source=_source(chains[0]),
        bold=list(dict.fromkeys(chain.words for chain in chains)),
        model=_single_trial_model(chains[0]),
        decoder=MODELS[model].words,
        decoded=[read_facts(layout.records, analysis.decode(label, model).name) for label in labels],
        metrics=list(dict.fromkeys(str(name) for table in tables for name in table["metric"])),
        corrected=any("q_value" in table and bool(table["q_value"].notna().any()) for table in tables),
        null=preset_named(config.evaluation.preset).null,
        attributes=[str(name) for name in attributes[0]["attribute"]] if attributes else [],
        baselines=[name for name in parts.wanted if all(name in parts.baselines(label) for label in labels)],
        mapped=[f"sub-{label}" for label in mapped],
        versions={"hyperdecode": hyperdecode.__version__} | package_versions(),
    )


def model_sidecars(chain: SubjectChain) -> list[Path]:
    """Return the files that say how each run was modelled; none where its maps were made elsewhere."""
    return [chain.singles.files(run)["sidecar"] for run in chain.runs] if chain.singles is not None else []


def _source(chain: SubjectChain) -> str:
    if chain.singles is None:
        return "estimates"
    source = chain.singles.source
    inner = source.source if isinstance(source, KeptBold) else source
    return "raw" if isinstance(inner, Raw) else "fmriprep" if isinstance(inner, Fmriprep) else "as-is"


def _single_trial_model(chain: SubjectChain) -> dict[str, Any]:
    """Return what the sidecar of the first run's z-maps says; empty where these were made elsewhere."""
    paths = model_sidecars(chain)
    said: dict[str, Any] = json.loads(paths[0].read_text(encoding="utf-8")) if paths else {}
    return said
