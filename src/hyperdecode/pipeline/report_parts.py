"""Parts of the report that rest on files which a study may or may not have; where they are absent so is the part."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import NDArray

from hyperdecode.evaluation.bootstrap import bootstrap_interval
from hyperdecode.pipeline.map_files import MapFiles
from hyperdecode.pipeline.records import read_facts
from hyperdecode.pipeline.seeds import derived_seed
from hyperdecode.report.beside import beside_figure, models_figure
from hyperdecode.report.ceilingfigure import ceiling_figure, learning_figure
from hyperdecode.report.comparisonfigure import comparison_figure
from hyperdecode.report.figures import Figure
from hyperdecode.report.table1 import table1, table1_html
from hyperdecode.report.words import metric_label, score_text
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import read_picture

__all__ = ["BASELINES", "Parts"]

BASELINES = {"vaegan": "vae-gan", "eigenfaces": "eigenfaces"}
"""Label of a baseline in file names -> method of the paper's Table 1."""

BASELINE_WORDS = {"vaegan": "VAE-GAN", "eigenfaces": "eigenfaces"}
IN_TABLE1 = re.compile("lsim|fsim.*|ssim_.*")
"""Metrics of the paper's Table 1, feature similarity and SSIM in all the ways in which a study computes them."""
PICTURES_IN_TABLE1 = re.compile("fsim.*|ssim_.*")
IN_FIGURE5 = ("identification", "cosine", "lsim", "fsim", "fsim_dlib", "ssim_hyper-paper")
TESTS = {
    "pairing": "pairing permutation",
    "random latents": "against random latents of the generator (the paper's own null; predictors that never saw the "
    "brain may pass it)",
}
Pictures = NDArray[np.uint8]


@dataclass(frozen=True)
class Parts:
    """What the files of a study give for its report.

    Attributes
    ----------
    layout : Layout
    config : StudyConfig
    models : tuple of str
        Decoders of the study, the one that its verdict rests on first.
    names : tuple of str
        Test stimuli.
    """

    layout: Layout
    config: StudyConfig
    models: tuple[str, ...]
    names: tuple[str, ...]

    @property
    def inputs(self) -> list[Path]:
        """Files that are there and are read: the report is made again when one changes."""
        paths = [self._comparison]
        for label in self.config.subjects:
            files = [(self.models[0], f"{name}.tsv") for name in ("attributescores", "dimensions", "repeats")]
            files += [(name, file) for name in self.wanted for file in ("scores.tsv", "faces.tsv")]
            paths += [self.layout.decoded(label, model, file) for model, file in files]
            paths += [self.layout.subject(label, f"desc-{what}_scores.tsv") for what in ("ceiling", "learning")]
            paths += [self.layout.reconstruction(label, name, file) for name in self.wanted for file in self.names]
            if self.config.mapping.readout != "none":
                paths += MapFiles(self.layout, label).paths
        paths += [self.layout.best_possible(name, file) for name in self.wanted for file in self.names]
        return [path for path in paths if path.is_file()]

    @property
    def wanted(self) -> list[str]:
        """Baselines that the study asks for; what others left is not shown."""
        return [name for name in BASELINES if name in self.config.evaluation.baselines]

    def baselines(self, label: str) -> list[str]:
        """Return the baselines of a subject that were decoded and scored."""
        files = ("scores.tsv", "faces.tsv")
        return [name for name in self.wanted if all(self.layout.decoded(label, name, file).is_file() for file in files)]

    def table1(self) -> Markup:
        """Table 1: every decoder and baseline of every subject beside what the paper printed."""
        faces, tests = [], []
        for label in self.config.subjects:
            for model in (*self.models, *self.baselines(label)):
                method = BASELINES.get(model, model)
                said = {"method": method, "subject": f"sub-{label}"}
                scores = self._scores(label, model)
                # Latents of a baseline are its own, and their similarity is no measure beside that of the generator's.
                wanted = PICTURES_IN_TABLE1 if model in BASELINES else IN_TABLE1
                metrics = [name for name in scores["metric"] if wanted.fullmatch(str(name))]
                each = pd.read_csv(self.layout.decoded(label, model, "faces.tsv"), sep="\t")
                faces.append(each[metrics].melt(var_name="metric", value_name="score").assign(**said))
                tested = scores[scores["metric"].isin(metrics)].assign(**said)
                tests.append(tested.assign(test=_tests(tested)))
        table = table1(pd.concat(faces, ignore_index=True), pd.concat(tests, ignore_index=True))
        # Every decoder of the generator's latents is a kind of HYPER.
        return table1_html(table, published_as=dict.fromkeys(self.models, "hyper"))

    def comparisons(self, shown: Pictures, decoded: Sequence[Pictures]) -> list[Figure]:
        """Figures of decoders and methods beside each other.

        Parameters
        ----------
        shown : uint8 array of shape (n_faces, height, width, 3)
            Test stimuli.
        decoded : sequence of such arrays
            What the first decoder makes of them, one a subject.
        """
        found = [models_figure(self.bars())] if len(self.models) > 1 else []
        if self._comparison.is_file():
            found.append(_simulated(pd.read_csv(self._comparison, sep="\t")))
        for label, pictures in zip(self.config.subjects, decoded, strict=True):
            methods = self.methods(label)
            if methods:
                own = {f"HYPER ({self.models[0]})": pictures}
                names = [Path(name).stem for name in self.names]
                found.append(beside_figure(shown, own | methods, self._best(), names, label=f"sub-{label}"))
        return found

    def ceilings(self) -> list[Figure]:
        """Scores by the number of averaged repeats below their ceilings, and by the number of training trials."""
        return [*self._repeats(), *self._learning()]

    def _repeats(self) -> list[Figure]:
        tables = [_read(self.layout.decoded(label, self.models[0], "repeats.tsv")) for label in self.config.subjects]
        curves = [table for table in tables if table is not None and len(table)]
        if not curves:
            return []
        limits = {
            (f"sub-{label}", str(row["what"])): float(row["ceiling"])
            for label in self.config.subjects
            for _, row in self._ceiling(label).iterrows()
        }
        figure = ceiling_figure(pd.concat(curves, ignore_index=True), limits, self._floor())
        words = [text for label in self.config.subjects if (text := self._ceiling_words(label))]
        return [Figure(figure.title, figure.png, " ".join([figure.caption, *words]), figure.alt)]

    def _learning(self) -> list[Figure]:
        tables = [_read(self.layout.subject(label, "desc-learning_scores.tsv")) for label in self.config.subjects]
        curves = [table for table in tables if table is not None and len(table)]
        if not curves:
            return []
        figure = learning_figure(pd.concat(curves, ignore_index=True), self._floor())
        facts = {label: read_facts(self.layout.records, f"learning_sub-{label}") for label in self.config.subjects}
        words = [f"sub-{label}: {said['trials_words']}" for label, said in facts.items() if "trials_words" in said]
        return [Figure(figure.title, figure.png, " ".join([figure.caption, *words]), figure.alt)]

    def attributes(self, label: str) -> pd.DataFrame | None:
        """Attribute scores of the first decoder, with their noise ceilings where these are known."""
        table = _read(self.layout.decoded(label, self.models[0], "attributescores.tsv"))
        if table is None:
            return None
        known = self._ceiling(label).set_index("what")["ceiling"]
        return table.assign(ceiling=[float(known.get(name, np.nan)) for name in table["attribute"]])

    def dimensions(self, label: str) -> pd.DataFrame | None:
        """Scores of each latent dimension of the first decoder."""
        return _read(self.layout.decoded(label, self.models[0], "dimensions.tsv"))

    @property
    def _comparison(self) -> Path:
        return self.layout.study / "derivatives" / "comparison" / "comparison.tsv"

    def _scores(self, label: str, model: str) -> pd.DataFrame:
        return pd.read_csv(self.layout.decoded(label, model, "scores.tsv"), sep="\t")

    def _ceiling(self, label: str) -> pd.DataFrame:
        found = _read(self.layout.subject(label, "desc-ceiling_scores.tsv"))
        return pd.DataFrame(columns=["what", "ceiling", "low", "high"]) if found is None else found

    def _ceiling_words(self, label: str) -> str:
        """Say what no line is drawn of: ceilings of voxels and latents, and the power of the test."""
        table = self._ceiling(label)
        parts = []
        for _, row in table[table["what"].isin(["voxels", "latents"])].iterrows():
            limit, low, high = (score_text("", float(row[key])) for key in ("ceiling", "low", "high"))
            parts.append(f"{row['what']} {limit} ({low} to {high})")
        text = f"sub-{label}, ceilings with 95% intervals: {', '.join(parts)}." if parts else ""
        facts = read_facts(self.layout.records, f"ceiling_sub-{label}")
        said = [f"{facts['reason']}." if "reason" in facts else "", str(facts.get("power_words", ""))]
        more = " ".join(words for words in said if words)
        return " ".join(part for part in (text, f"sub-{label}: {more}" if more else "") if part)

    def _floor(self) -> dict[str, float]:
        """Best score without the brain of each metric, the highest over subjects."""
        tables = pd.concat([self._scores(label, self.models[0]) for label in self.config.subjects])
        best = tables.groupby("metric")["best_blind_score"].max().dropna()
        return {str(name): float(value) for name, value in best.items()}

    def bars(self, beside: Sequence[str] = ()) -> pd.DataFrame:
        """Scores of the study's decoders as `models_figure` draws them, and of the baselines named in `beside`."""
        rows = []
        for label in self.config.subjects:
            there = set(self.baselines(label))
            for model in (*self.models, *(name for name in beside if name in there)):
                each = pd.read_csv(self.layout.decoded(label, model, "faces.tsv"), sep="\t")
                # Latents of a baseline are its own, and so are scores of them.
                wanted = [name for name in IN_FIGURE5 if model in self.models or PICTURES_IN_TABLE1.fullmatch(name)]
                for _, row in self._scores(label, model).iterrows():
                    if row["metric"] in wanted:
                        named = BASELINE_WORDS.get(model, model)
                        rows.append({"model": named, "subject": f"sub-{label}", **self._bar(row, each)})
        places = {name: place for place, name in enumerate(IN_FIGURE5)}
        return pd.DataFrame(rows).sort_values("metric", key=lambda names: names.map(places), kind="stable")

    def _bar(self, row: pd.Series, each: pd.DataFrame) -> dict[str, object]:
        """One score with its interval over faces: that of the table, else one made here."""
        metric, score = str(row["metric"]), float(row["decoder"])
        low, high = (float(row.get(key, np.nan)) for key in ("low", "high"))
        values = each[metric].to_numpy(float)
        if np.isnan([low, high]).any() and np.isfinite(values).all():
            low, high = bootstrap_interval(values, seed=derived_seed(self.config.seed, "intervals", metric))
        if not low <= score <= high:
            low = high = float("nan")
        best = float(row["best_blind_score"])
        return {"metric": metric, "score": score, "low": low, "high": high, "best_blind_score": best}

    def methods(self, label: str) -> dict[str, Pictures]:
        """Pictures that baselines make of the brain's answers, by the name of the method."""
        made = {
            name: self._pictures([self.layout.reconstruction(label, name, f) for f in self.names])
            for name in self.wanted
        }
        return {BASELINE_WORDS[name]: pictures for name, pictures in made.items() if pictures is not None}

    def _best(self) -> dict[str, Pictures]:
        """Pictures that baselines make of the stimuli themselves."""
        made = {name: self._pictures([self.layout.best_possible(name, f) for f in self.names]) for name in self.wanted}
        return {BASELINE_WORDS[name]: pictures for name, pictures in made.items() if pictures is not None}

    @staticmethod
    def _pictures(paths: Sequence[Path]) -> Pictures | None:
        """All of them; None where one is not there."""
        return np.stack([read_picture(path) for path in paths]) if all(path.is_file() for path in paths) else None


def _read(path: Path) -> pd.DataFrame | None:
    return pd.read_csv(path, sep="\t") if path.is_file() else None


def _tests(scores: pd.DataFrame) -> list[str]:
    """Name the test of each row."""
    against = scores["null"] if "null" in scores else pd.Series("pairing", scores.index)
    return [
        "not tested" if np.isnan(p) else TESTS.get(str(null), str(null))
        for p, null in zip(scores["p_value"].astype(float), against, strict=True)
    ]


def _simulated(table: pd.DataFrame) -> Figure:
    """Draw decoders on simulated subjects, as `hyperdecode compare` left them."""
    ceilings = ", ".join(f"{value:g}" for value in sorted(table["noise_ceiling"].unique()))
    caption = (
        f"Simulated subjects with this study's faces, not this study's data: each bar is a decoder's mean over "
        f"{table['subject'].nunique()} subjects, dots are subjects, at noise ceilings (share of a single trial's "
        f"variance that the face explains) of {ceilings}. Dashed: chance, or the best predictor without the brain."
    )
    means = table.groupby("model", sort=False)["identification"].mean()
    words = ", ".join(f"{model} {score_text('identification', float(mean))}" for model, mean in means.items())
    alt = f"Bars of decoders on simulated subjects. {metric_label('identification')}, mean over all fits: {words}."
    return Figure("Decoders on simulated subjects", comparison_figure(table), caption, alt)
