"""The published study anew from its released files: the paper's decoder and ours, beside the printed Table 1."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file, save_file
from scipy.stats import pearsonr

import hyperdecode
from hyperdecode.decoding.base import LinearDecoder
from hyperdecode.decoding.models import MODELS, Context, build_decoder
from hyperdecode.errors import UserError
from hyperdecode.evaluation.blind import matched_noise
from hyperdecode.evaluation.summary import TABLE_COLUMNS
from hyperdecode.files import atomic_path, sha256_bytes, write_text
from hyperdecode.generators.base import picture_latents
from hyperdecode.pipeline.checkpoints import FileCheckpoint
from hyperdecode.pipeline.records import Step, read_facts, refuse_other_settings, run_step
from hyperdecode.pipeline.released import Faces, Released, ReleasedSubject, Scorer, fsim_name
from hyperdecode.pipeline.seeds import derived_seed
from hyperdecode.pipeline.zmaps import noting_warnings
from hyperdecode.report.build import ModelReport, ReportData, SubjectReport, render_report
from hyperdecode.report.published import CITATION, METHOD_WORDS, PUBLISHED, paper_metric
from hyperdecode.report.strips import reconstruction_strip
from hyperdecode.report.table1 import p_text, table1
from hyperdecode.report.verdict import subject_verdict
from hyperdecode.report.words import metric_label
from hyperdecode.stimuli.pictures import to_uint8
from hyperdecode.study.derivatives import write_json, write_table
from hyperdecode.study.stimulus_set import read_picture, write_picture

__all__ = ["PAPER_EPOCHS", "PAPER_MODEL", "Reproduction", "Settings", "paper_rows", "readable"]

PAPER_MODEL, PAPER_EPOCHS, REPEATS = "dense", 1500, 14
"""The notebook's decoder and its epochs; how often a test face was shown (its released row is the average)."""
BATCH, STRIP_FACES, STRIP_SIDE = 8, 9, 160
Pictures = NDArray[np.uint8]
Tell = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Settings:
    """What a reproduction does.

    Attributes
    ----------
    models : tuple of str
        Decoders beside the paper's; the verdict rests on the first.
    epochs : int, optional
        Instead of those of the decoders that are trained by gradient descent: a quick look, named so everywhere.
    resolution : int, optional
        Side of the pictures; default: the generator's full side.
    n_permutations, n_random : int
        Pairings drawn for a p-value; faces drawn for the paper's null.
    seed : int
    """

    models: tuple[str, ...] = ("weighted-ridge",)
    epochs: int | None = None
    resolution: int | None = None
    n_permutations: int = 10_000
    n_random: int = 36
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.models:
            if name not in MODELS:
                raise UserError(f"no decoder {name!r}: choose among {', '.join(MODELS)}")
        if self.epochs is not None and self.epochs < 1:
            raise UserError(f"cannot train for {self.epochs} epochs: give 1 or more")

    @property
    def is_quick(self) -> bool:
        """Whether decoders are trained for other than their own number of epochs."""
        return self.epochs not in (None, PAPER_EPOCHS)

    @property
    def all_models(self) -> tuple[str, ...]:
        """Every decoder once, ours first."""
        return tuple(dict.fromkeys((*self.models, PAPER_MODEL)))

    def label(self, model: str) -> str:
        """Name of a decoder in every output; that of a quick look says its epochs."""
        trained = MODELS[model].paper or model.startswith(PAPER_MODEL)
        return f"{model}-{self.epochs}-epochs" if trained and self.is_quick else model

    @property
    def note(self) -> str:
        """Sentence on a quick look, empty for a full run."""
        if not self.is_quick:
            return ""
        return (
            f"QUICK LOOK: {self.epochs} epochs instead of the paper's {PAPER_EPOCHS:,}. The numbers of the trained "
            "decoder are not those of the paper's decoder."
        )


@dataclass(frozen=True)
class Reproduction:
    """Steps from released files to Table 1; a killed run goes on where it was.

    Attributes
    ----------
    released : Released
    out : pathlib.Path
        Folder of the results.
    settings : Settings
    tell : callable, optional
        Called with (steps done, steps in all, what is being done).
    """

    released: Released
    out: Path
    settings: Settings = Settings()
    tell: Tell | None = None

    def run(self, force: bool = False) -> pd.DataFrame:
        """Do what is not done yet, and return Table 1.

        Parameters
        ----------
        force : bool
            Make everything again, over what is there.

        Returns
        -------
        pandas.DataFrame
            As it lies in ``table1.tsv``.

        Raises
        ------
        UserError
            When the folder holds something made with other settings or by something else.
        """
        self._check()
        steps = self._steps()
        if not force:
            for step in steps:
                refuse_other_settings(step, self.records)
        for k, step in enumerate(steps):
            self._say(k, len(steps), step.name)
            run_step(step, self.out, self.records, force=force)
        self._say(len(steps), len(steps), "done")
        return pd.read_csv(self.out / "table1.tsv", sep="\t")

    def scores(self, subject: str, model: str) -> pd.DataFrame:
        """Return the scores of a decoder beside those of blind predictors."""
        return pd.read_csv(self.folder(subject, model) / "scores.tsv", sep="\t")

    def verdicts(self) -> list[str]:
        """Return what was decoded, a sentence a subject and decoder."""
        return [
            subject_verdict(f"sub-{one.label}, {self.settings.label(model)}", self.scores(one.label, model)).sentence
            for one in self.released.subjects
            for model in self.settings.all_models
        ]

    @property
    def records(self) -> Path:
        """Folder of the steps' records."""
        return self.out / "records"

    @property
    def side(self) -> int:
        """Side of the pictures."""
        return self.settings.resolution or self.released.generator.resolution

    def folder(self, subject: str, model: str) -> Path:
        """Folder of one subject's decoder."""
        return self.out / f"sub-{subject}" / self.settings.label(model)

    def faces(self, subject: ReleasedSubject, model: str | None = None) -> tuple[Path, ...]:
        """Return the pictures of the test faces: as shown, or as a decoder decodes them."""
        where = self.out / f"sub-{subject.label}" / "shown" if model is None else self.folder(subject.label, model)
        names = [f"test-{k:04d}.png" for k in range(1, len(subject.data.t_test) + 1)]
        return tuple(where / name if model is None else where / "faces" / name for name in names)

    def _check(self) -> None:
        generator = self.released.generator
        if self.side not in generator.resolutions:
            raise UserError(f"{generator.name} makes pictures of {generator.resolutions} px, not {self.side}")
        if self.settings.n_random < 1:
            raise UserError(f"the paper's null needs random faces, got {self.settings.n_random}: give 1 or more")

    def _say(self, done: int, total: int, what: str) -> None:
        if self.tell:
            self.tell(done, total, what)

    def _steps(self) -> list[Step]:
        steps = [self._random_step()]
        for subject in self.released.subjects:
            steps.append(self._draw_step(f"shown_sub-{subject.label}", subject, None))
            for model in self.settings.all_models:
                label = f"sub-{subject.label}_{self.settings.label(model)}"
                steps.append(self._decode_step(f"decode_{label}", subject, model))
                steps.append(self._draw_step(f"draw_{label}", subject, model))
                steps.append(self._score_step(f"score_{label}", subject, model))
        return [*steps, self._summary_step()]

    def _random_step(self) -> Step:
        n, seed = self.settings.n_random, derived_seed(self.settings.seed, "random faces")
        paths = tuple(self.out / "random" / f"face-{k:04d}.png" for k in range(1, n + 1))
        latents = self.released.generator.sample(n, seed).numpy()
        return Step("random", 1, self._drawn_with() | {"seed": seed}, (), paths, partial(self._draw, latents, paths))

    def _draw_step(self, name: str, subject: ReleasedSubject, model: str | None) -> Step:
        paths = self.faces(subject, model)
        if model is None:
            work = partial(self._draw, subject.data.t_test, paths)
            return Step(name, 1, self._drawn_with() | {"data": subject.sha256}, (subject.path,), paths, work)
        decoded = self.folder(subject.label, model) / "latents.safetensors"
        settings = self._drawn_with() | {"data": subject.sha256}
        return Step(name, 1, settings, (decoded,), paths, lambda: self._draw(load_file(decoded)["predicted"], paths))

    def _drawn_with(self) -> dict[str, Any]:
        return {"generator": self.released.generator.fingerprint, "side": self.side}

    def _pictures(self, latents: NDArray[np.floating]) -> Pictures:
        """Pictures of latents z, a batch at a time."""
        tensor = torch.from_numpy(np.ascontiguousarray(latents, np.float32))
        generator, made = self.released.generator, []
        with torch.inference_mode():
            for rows in torch.split(tensor, BATCH):
                made.append(to_uint8(generator.images(picture_latents(generator, rows), resolution=self.side)))
        return np.concatenate(made)

    def _draw(self, latents: NDArray[np.floating], paths: Sequence[Path]) -> None:
        for start in range(0, len(paths), BATCH):
            some = slice(start, start + BATCH)
            for path, picture in zip(paths[some], self._pictures(latents[some]), strict=True):
                write_picture(path, picture)

    def _decode_step(self, name: str, subject: ReleasedSubject, model: str) -> Step:
        folder = self.folder(subject.label, model)
        seed = derived_seed(self.settings.seed, "decoder", subject.label)
        settings = {
            "model": model,
            "epochs": self.settings.epochs if self.settings.label(model) != model else None,
            "seed": seed,
            "data": subject.sha256,
            "generator": self.released.generator.fingerprint,
        }
        outputs = (folder / "decoder.safetensors", folder / "latents.safetensors")
        work = partial(self._decode, name, subject, model, seed)
        return Step(name, 1, settings, (subject.path,), outputs, work)

    def _decode(self, name: str, subject: ReleasedSubject, model: str, seed: int) -> dict[str, Any]:
        folder, data = self.folder(subject.label, model), subject.data
        checkpoint = FileCheckpoint(folder / "checkpoint.safetensors", MODELS[model].epochs_a_save)
        steps = [step.name for step in self._steps()]
        place = (steps.index(name), len(steps))
        decoder = self._decoder(
            model, seed, data.t_train.shape[1], checkpoint,
            lambda done, total: self._say(*place, f"{name}, epoch {done} of {total}"),
        )  # fmt: skip
        with noting_warnings() as noted:
            decoder.fit(data.x_train, data.t_train, roles=subject.roles)
        predicted = np.asarray(decoder.predict(data.x_test), np.float32)
        said = {
            "model": self.settings.label(model), "space": "z", "note": self.settings.note, "data": subject.sha256,
            "generator": self.released.generator.fingerprint,
        }  # fmt: skip
        arrays = {
            "coef": np.asarray(decoder.coef_, np.float32),
            "intercept": np.asarray(decoder.intercept_, np.float32),
            "kept_voxels": subject.kept,
        }
        _save(folder / "decoder.safetensors", arrays, said)
        latents = {"predicted": predicted, "true": data.t_test, "training_mean": data.t_train.mean(0)}
        _save(folder / "latents.safetensors", latents, said)
        checkpoint.clear()
        return {"n_training_faces": len(data.x_train), "n_voxels": data.x_train.shape[1], "warnings": noted}

    def _decoder(
        self, model: str, seed: int, width: int, checkpoint: FileCheckpoint, progress: Callable[[int, int], None]
    ) -> LinearDecoder:
        context = Context(
            seed=seed,
            n_averaged=REPEATS,
            generator=self.released.generator,
            space="z",
            scale=(np.zeros(width), np.ones(width)),
            progress=progress,
            checkpoint=checkpoint,
        )
        decoder = build_decoder(model, context)
        if model == PAPER_MODEL:
            decoder.set_params(standardize=False)  # the notebook trains on the released z-values as they are
        if self.settings.epochs is not None and "n_epochs" in decoder.get_params(deep=False):
            decoder.set_params(n_epochs=self.settings.epochs)
        return decoder

    def _score_step(self, name: str, subject: ReleasedSubject, model: str) -> Step:
        folder = self.folder(subject.label, model)
        inputs = (folder / "latents.safetensors", *self.faces(subject), *self.faces(subject, model))
        settings = {
            "seed": derived_seed(self.settings.seed, "scores", subject.label),
            "n_permutations": self.settings.n_permutations,
            "features": self.released.network.name,
            "feature_files": sorted(self.released.hashes.values()),
            "data": subject.sha256,
            **self._drawn_with(),
        }
        work = partial(self._score, subject, model, settings["seed"])
        outputs = (folder / "scores.tsv", folder / "faces.tsv")
        return Step(name, 1, settings, (*inputs, *self._random_step().outputs), outputs, work)

    def _score(self, subject: ReleasedSubject, model: str, seed: int) -> None:
        folder = self.folder(subject.label, model)
        latents = load_file(folder / "latents.safetensors")
        predicted, true, mean = (latents[name] for name in ("predicted", "true", "training_mean"))
        made, shown, random = (
            _read(paths) for paths in (self.faces(subject, model), self.faces(subject), self._random_step().outputs)
        )
        blind = {
            "mean": self._pictures(mean[None]),
            "zero": self._pictures(np.zeros_like(mean[None])),
            "noise": self._pictures(matched_noise(predicted, 1, seed)[0]),
        }
        scorer = Scorer(self.released.network, self.settings.n_permutations, seed)
        judged = scorer.judged(predicted, true, mean, Faces(made, shown, random, blind))
        write_table(folder / "faces.tsv", judged.per_face)
        write_table(folder / "scores.tsv", judged.table)

    def _summary_step(self) -> Step:
        settings = {
            "models": [self.settings.label(model) for model in self.settings.all_models],
            "epochs": self.settings.epochs,
            "seed": self.settings.seed,
            "n_permutations": self.settings.n_permutations,
            "n_random": self.settings.n_random,
            "inputs": self.released.hashes,
            **self._drawn_with(),
        }
        inputs: list[Path] = []
        for subject in self.released.subjects:
            inputs += self.faces(subject)
            for model in self.settings.all_models:
                folder = self.folder(subject.label, model)
                inputs += [folder / name for name in ("latents.safetensors", "scores.tsv", "faces.tsv")]
                inputs += self.faces(subject, model)
        names = ["table1.tsv", "scores.tsv", "faces.tsv", "record.json", *self.reports, *self.strips]
        names += ["attributes.tsv"] if self.released.attributes is not None else []
        return Step("summary", 1, settings, tuple(inputs), tuple(self.out / name for name in names), self._summarise)

    @property
    def _groups(self) -> dict[str, tuple[ReleasedSubject, ...]]:
        """Subjects that saw the same test faces, by what is added to the names of their files."""
        if self.released.same_faces:
            return {"": self.released.subjects}
        return {f"_sub-{one.label}": (one,) for one in self.released.subjects}

    @property
    def reports(self) -> list[str]:
        """Names of the HTML reports: one, or one a subject where they saw other test faces."""
        return [f"report{suffix}.html" for suffix in self._groups]

    @property
    def strips(self) -> list[str]:
        """Names of the contact sheets, as `reports`."""
        return [f"faces{suffix}.jpg" for suffix in self._groups]

    def _summarise(self) -> None:
        table = self._table1()
        write_table(self.out / "table1.tsv", table)
        write_table(self.out / "scores.tsv", self._together("scores.tsv"))
        write_table(self.out / "faces.tsv", self._together("faces.tsv"))
        attributes = self._attributes()
        if attributes is not None:
            write_table(self.out / "attributes.tsv", attributes)
        for name, strip, group in zip(self.reports, self.strips, self._groups.values(), strict=True):
            self._write_strip(self.out / strip, group)
            html = render_report(self._report_data(group))
            write_text(
                self.out / name,
                _with_section(html, _table1_section(table, attributes, [*self.verdicts(), *self.words])),
            )
        write_json(self.out / "record.json", self._record())

    @property
    def words(self) -> list[str]:
        """What a reader of the numbers must know, a sentence each."""
        network = self.released.network.name
        said = [self.settings.note] if self.settings.note else []
        if not self.released.network_is_the_papers:
            said.append(
                f"Feature similarity is of another network ({network}) than the paper's (ResNet50 of VGGFace2): it is "
                "not comparable with the published numbers. Give the VGGFace2 weights with --features."
            )
        if self.side < self.released.generator.resolution:
            said.append(
                f"Pictures have {self.side} px instead of the generator's {self.released.generator.resolution}: "
                "their scores are not those of the full pictures."
            )
        said += [
            "Blind: the best predictor that never saw the brain. p pairing: of which face goes with which prediction. "
            "p random: against random latents, the paper's own null, which also rejects for predictors that never saw "
            "the brain.",
            "The authors chose the voxels before the release: which trials that choice saw cannot be checked here.",
            "Released test responses are averages already, so that the unshrinking of averages is left out.",
        ]
        for one in self.released.subjects:
            if not one.kept.all():
                said.append(
                    f"sub-{one.label}: {int((~one.kept).sum())} voxels are constant over the training faces, left out."
                )
            if one.reordered:
                said.append(
                    f"sub-{one.label}: test faces brought into the order of sub-{self.released.subjects[0].label}."
                )
            for label in map(self.settings.label, self.settings.all_models):
                noted = read_facts(self.records, f"decode_sub-{one.label}_{label}").get("warnings", [])
                said += [f"sub-{one.label}, {label}: {text}" for text in noted]
        return said

    def _together(self, name: str) -> pd.DataFrame:
        parts = []
        for one in self.released.subjects:
            for model in self.settings.all_models:
                part = pd.read_csv(self.folder(one.label, model) / name, sep="\t")
                part.insert(0, "subject", f"sub-{one.label}")
                part.insert(1, "model", self.settings.label(model))
                if name == "faces.tsv":
                    part.insert(2, "face", [path.name for path in self.faces(one)])
                parts.append(part)
        return pd.concat(parts, ignore_index=True)

    def _table1(self) -> pd.DataFrame:
        """Table 1: our rows with the paper's number beside them, then methods of the paper that are not run here."""
        metrics = ["lsim", fsim_name(self.released.network), "ssim_hyper-paper", "ssim_hyper-code"]
        names = {"model": "method"}
        faces = self._together("faces.tsv").rename(columns=names)
        keys = ["method", "subject"]
        long = faces.melt(keys, metrics, "metric", "score")
        tests = self._together("scores.tsv").rename(columns=names)
        tests["test"] = np.where(tests["p_value"].notna(), "pairing permutation", "not tested")
        table = table1(long, tests[tests["metric"].isin(metrics)])
        keys = [*keys, "metric"]
        table = table.merge(tests[[*keys, "p_random_latents"]], on=keys, how="left")
        printed = [(metric, both) for metric, method, *both in PUBLISHED if method == "hyper"]
        own = {(f"sub-{k}", metric): score for metric, both in printed for k, score in enumerate(both, 1)}
        # Another feature network's similarity has no number beside it.
        keyed = [(str(s), str(m)) for s, m in zip(table["subject"], table["metric"], strict=True)]
        table["paper_hyper"] = [
            float("nan") if m.startswith("fsim_") else own.get((s, paper_metric(m)), float("nan")) for s, m in keyed
        ]
        table["note"] = self.settings.note or None
        return table

    def _attributes(self) -> pd.DataFrame | None:
        """Pearson's r of decoded and true attribute scores (latent . normal), with Student's t and a 95 % interval."""
        normals = self.released.attributes
        if normals is None:
            return None
        rows = []
        for one in self.released.subjects:
            for model in self.settings.all_models:
                found = load_file(self.folder(one.label, model) / "latents.safetensors")
                decoded, true = (normals.scores(torch.from_numpy(found[key])).numpy() for key in ("predicted", "true"))
                for k, name in enumerate(normals.names):
                    rows.append(
                        {"subject": f"sub-{one.label}", "model": self.settings.label(model), "attribute": name}
                        | _correlation(decoded[:, k], true[:, k])
                    )
        return pd.DataFrame(rows)

    def _write_strip(self, path: Path, group: Sequence[ReleasedSubject]) -> None:
        rows = {
            f"sub-{one.label}, {self.settings.label(model)}": _read(self.faces(one, model))
            for one in group
            for model in self.settings.all_models
        }
        shown = _read(self.faces(group[0]))
        blocks = [slice(start, start + STRIP_FACES) for start in range(0, len(shown), STRIP_FACES)]
        strips = [reconstruction_strip(shown[b], {k: v[b] for k, v in rows.items()}, size=STRIP_SIDE) for b in blocks]
        sheet = Image.new("RGB", (max(s.width for s in strips), sum(s.height for s in strips)), "white")
        for k, strip in enumerate(strips):
            sheet.paste(strip, (0, sum(s.height for s in strips[:k])))
        with atomic_path(path) as temporary:
            sheet.save(temporary, "JPEG", quality=90)

    def _report_data(self, group: Sequence[ReleasedSubject]) -> ReportData:
        released = self.released
        title = "HYPER (Dado et al. 2022), reproduced from the released files"
        return ReportData(
            title=f"{title}: quick look" if self.settings.is_quick else title,
            summary={
                "Data": f"{', '.join(one.path.name for one in group)} of the authors' release: responses and latents.",
                "Faces": f"Drawn by {released.generator_source}, {self.side} px.",
                "Decoders": "; ".join(
                    f"{self.settings.label(model)}: {MODELS[model].words}" for model in self.settings.all_models
                ),
            },
            stimuli=_read(self.faces(group[0])),
            stimulus_names=[path.name for path in self.faces(group[0])],
            subjects=[self._subject_report(one) for one in group],
            notes=self.words,
            versions={"hyperdecode": hyperdecode.__version__, "python": platform.python_version()},
            commands=["hyperdecode reproduce hyper2021 DATA_DIR"],
            seed=self.settings.seed,
        )

    def _subject_report(self, one: ReleasedSubject) -> SubjectReport:
        first, *others = self.settings.all_models
        hashes = [sha256_bytes(latents.tobytes()) for latents in (one.data.t_train, one.data.t_test)]
        return SubjectReport(
            label=f"sub-{one.label}",
            model=self.settings.label(first),
            **self._of_model(one, first),
            beside=[
                ModelReport(name=self.settings.label(name), words=MODELS[name].words, **self._of_model(one, name))
                for name in others
            ],
            n_voxels=one.data.x_train.shape[1],
            n_training_trials=len(one.data.x_train),
            n_test_trials=len(one.data.x_test),
            training_hash=hashes[0],
            test_hash=hashes[1],
            facts={f"{one.path.name}, SHA-256": one.sha256},
        )

    def _of_model(self, one: ReleasedSubject, model: str) -> dict[str, Any]:
        folder = self.folder(one.label, model)
        return {
            "table": pd.read_csv(folder / "scores.tsv", sep="\t")[list(TABLE_COLUMNS)],
            "per_face": pd.read_csv(folder / "faces.tsv", sep="\t"),
            "reconstructions": _read(self.faces(one, model)),
        }

    def _record(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "reproduces": CITATION,
            "hyperdecode": hyperdecode.__version__,
            "quick_look": settings.is_quick,
            "notes": self.words,
            "verdicts": self.verdicts(),
            "inputs_sha256": self.released.hashes,
            "generator": {"source": self.released.generator_source, "fingerprint": self.released.generator.fingerprint},
            "feature_network": self.released.network.name,
            "settings": {
                "models": [settings.label(model) for model in settings.all_models],
                "epochs": settings.epochs or PAPER_EPOCHS,
                "resolution": self.side,
                "n_permutations": settings.n_permutations,
                "n_random_faces": settings.n_random,
                "seed": settings.seed,
            },
        }


def _read(paths: Sequence[Path]) -> Pictures:
    return np.stack([read_picture(path) for path in paths])


def _save(path: Path, arrays: Mapping[str, NDArray[Any]], said: Mapping[str, str]) -> None:
    with atomic_path(path) as temporary:
        save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, temporary, metadata=dict(said))


def _correlation(decoded: NDArray[np.floating], true: NDArray[np.floating]) -> dict[str, float]:
    n = len(true)
    if n < 4 or np.ptp(decoded) == 0 or np.ptp(true) == 0:
        return dict.fromkeys(("r", "low", "high", "t", "p_value"), float("nan")) | {"df": n - 2, "n_faces": n}
    found = pearsonr(true, decoded)
    low, high = found.confidence_interval(0.95)
    r = float(found.statistic)
    t = r * np.sqrt((n - 2) / max(1 - r * r, np.finfo(float).tiny))
    return {
        "r": r, "low": float(low), "high": float(high), "t": float(t), "df": n - 2, "p_value": float(found.pvalue),
        "n_faces": n,
    }  # fmt: skip


def paper_rows() -> list[str]:
    """Return what the paper prints of methods that are not run here, a line a method and metric."""
    return [
        f"{METHOD_WORDS.get(method, method)}, {metric}: {first:.4f} / {second:.4f}"
        for metric, method, first, second in PUBLISHED
        if method != "hyper"
    ]


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Write Table 1 in words, a row a metric, subject and decoder, for a terminal or a report."""
    dash = "\N{EN DASH}"
    return pd.DataFrame(
        {
            "Metric": [metric_label(str(metric)) for metric in table["metric"]],
            "Subject": table["subject"],
            "Decoder": table["method"],
            "Mean ± SE": [f"{mean:.4f} ± {se:.4f}" for mean, se in table[["mean", "se"]].to_numpy()],
            "Blind": [f"{score:.4f}" for score in table["best_blind_score"]],
            "p pairing": table["p_value"].map(p_text),
            "p random": table["p_random_latents"].map(p_text),
            "Paper": [dash if np.isnan(score) else f"{score:.4f}" for score in table["paper_hyper"]],
        }
    )


def _table1_section(table: pd.DataFrame, attributes: pd.DataFrame | None, words: Sequence[str]) -> Markup:
    """Write Table 1, what must be known of it, and the attributes as a section of the report; names are escaped."""
    section = Markup(
        '<section id="table1" aria-labelledby="table1-title"><h2 id="table1-title">Table 1</h2>{}'
        '<p class="quiet">{}</p><ul>{}</ul>{}</section>'
    )
    return section.format(
        _scrolling(readable(table), "Table 1"),
        "The last column is printed in the paper for its own decoder; data_1.dat is its S1 and data_2.dat its S2. "
        f"Other methods of the paper, not run here (S1 / S2): {'; '.join(paper_rows())}. {CITATION}",
        Markup("").join(Markup("<li>{}</li>").format(line) for line in words),
        "" if attributes is None else _attributes_html(attributes),
    )


def _attributes_html(attributes: pd.DataFrame) -> Markup:
    said = pd.DataFrame(
        {
            "Attribute": attributes["attribute"],
            "Subject": attributes["subject"],
            "Decoder": attributes["model"],
            "r (95%)": [f"{r:.3f} ({a:.3f} to {b:.3f})" for r, a, b in attributes[["r", "low", "high"]].to_numpy()],
            "p": attributes["p_value"].map(p_text),
        }
    )
    words = (
        "Pearson correlation of decoded and true scores over test faces, two-sided Student's t, not corrected for the "
        "number of attributes."
    )
    return Markup('<h3>Attributes</h3>{}<p class="quiet">{}</p>').format(_scrolling(said, "Attributes"), words)


def _scrolling(table: pd.DataFrame, label: str) -> Markup:
    head, body = table.set_index(table.columns[0]).rename_axis(None).to_html(border=0, escape=True).split("<tbody>")
    html = Markup(head + "<tbody>" + body.replace("<th>", '<th scope="row" style="text-align:left">'))
    return Markup('<div class="scroll" tabindex="0" role="region" aria-label="{}">{}</div>').format(label, html)


def _with_section(html: str, section: Markup) -> str:
    """Put Table 1 in front of the scores, and leave out what the report says of a voxel mask that was not made here."""
    before = '<section id="scores"'
    if html.count(before) != 1:
        raise UserError("the report has no place for Table 1: please report this")
    html = html.replace(before, f"{section}\n{before}")
    return html.replace("Voxel mask, voxel scaling, decoder", "Voxel scaling, decoder")
