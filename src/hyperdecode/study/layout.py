"""Where a study keeps what the analysis makes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hyperdecode.study.bids import BoldRun

__all__ = ["Layout"]


@dataclass(frozen=True)
class Layout:
    """Paths of a study's derivatives.

    Parameters
    ----------
    study : pathlib.Path
        The study folder, a raw BIDS dataset with ``study.toml`` and ``stimuli/``.
    out : pathlib.Path, optional
        Where derivatives go; default ``STUDY/derivatives/hyperdecode``.
    """

    study: Path
    out: Path | None = None

    @property
    def derivatives(self) -> Path:
        """BIDS derivatives of this package."""
        return self.out or self.study / "derivatives" / "hyperdecode"

    @property
    def records(self) -> Path:
        """Run records, one TOML file a step."""
        return self.derivatives / "records"

    @property
    def report(self) -> Path:
        """The report."""
        return self.study / "report.html"

    @property
    def table(self) -> Path:
        """Scores of all subjects."""
        return self.study / "table.tsv"

    @property
    def strip(self) -> Path:
        """Contact sheet of stimuli and reconstructions."""
        return self.derivatives / "reconstructions.jpg"

    def full_stimulus(self, name: str) -> Path:
        """Test stimulus at the generator's full resolution."""
        return self.derivatives / "stimuli" / name

    def func(self, run: BoldRun, name: str) -> Path:
        """Return an output of a run: ``sub-../[ses-../]func/STEM_NAME``."""
        folder = self.derivatives / f"sub-{run.subject}"
        folder = folder / f"ses-{run.session}" if run.session else folder
        return folder / "func" / f"{run.stem}_{name}"

    def anat(self, label: str, name: str) -> Path:
        """Return an output of a subject's anatomy: ``sub-LABEL/anat/sub-LABEL_NAME``."""
        return self.derivatives / f"sub-{label}" / "anat" / f"sub-{label}_{name}"

    def zmap(self, run: BoldRun, space: str = "") -> Path:
        """z-maps of a run, one volume a trial; the TSV of the same name lists the trials.

        `space` is the entities of the grid with a trailing underscore, ``"space-T1w_"``; empty for the BOLD's own.
        """
        return self.func(run, f"{space}desc-singletrial_stat-z_statmap.nii.gz")

    def trials(self, run: BoldRun, space: str = "") -> Path:
        """Table of the trials behind the volumes of `zmap`."""
        return self.func(run, f"{space}desc-singletrial_trials.tsv")

    def mean_functional(self, run: BoldRun, space: str = "") -> Path:
        """Mean over the volumes of a run."""
        return self.func(run, f"{space}desc-mean_boldref.nii.gz")

    def tsnr(self, run: BoldRun, space: str = "") -> Path:
        """Temporal signal-to-noise ratio of a run."""
        return self.func(run, f"{space}stat-tsnr_boldmap.nii.gz")

    def subject(self, label: str, name: str) -> Path:
        """Return a subject-level file: ``sub-LABEL/sub-LABEL_NAME``."""
        return self.derivatives / f"sub-{label}" / f"sub-{label}_{name}"

    def masked(self, label: str) -> Path:
        """Trials x voxels of a subject at the chosen voxels; `hyperdecode.study.trial_store.open_store` reads it."""
        return self.subject(label, "desc-masked_zmaps.zarr.zip")

    def decoded(self, label: str, model: str, name: str) -> Path:
        """Return a file of a decoder, ``sub-LABEL_desc-MODEL_NAME``; BIDS lets no hyphen into MODEL."""
        return self.subject(label, f"desc-{model.replace('-', '')}_{name}")

    def reconstruction(self, label: str, model: str, name: str) -> Path:
        """Picture that a decoder makes of a test stimulus."""
        return self.derivatives / f"sub-{label}" / "reconstructions" / model / name

    def drawn(self, label: str, name: str, draw: int) -> Path:
        """Picture of one draw from the posterior of a test stimulus."""
        return self.derivatives / f"sub-{label}" / "reconstructions" / "posterior" / f"{Path(name).stem}_{draw:02d}.png"

    @property
    def activations(self) -> Path:
        """Inner products of the stimuli's activations, one matrix a generator layer."""
        return self.derivatives / "stimuli" / "activations.safetensors"

    def baseline(self, baseline: str, name: str) -> Path:
        """Return a file of a baseline that no brain went into: ``baselines/desc-BASELINE_NAME``."""
        return self.derivatives / "baselines" / f"desc-{baseline}_{name}"

    def best_possible(self, baseline: str, name: str) -> Path:
        """Picture that a baseline makes of a test stimulus itself, without the brain."""
        return self.derivatives / "baselines" / baseline / name
