"""What each figure for a journal is drawn from: its files, what a study lacks for it, its words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load_file

from hyperdecode.errors import HyperdecodeError, UserError
from hyperdecode.generators.base import Generator
from hyperdecode.pipeline.latents import LatentSpace, refuse_other_generator
from hyperdecode.pipeline.map_files import MapFiles
from hyperdecode.pipeline.map_report import layer_drawing
from hyperdecode.pipeline.masking import MASK_NAMES
from hyperdecode.pipeline.report_parts import BASELINE_WORDS, Parts
from hyperdecode.pipeline.simulate import MANUFACTURER
from hyperdecode.pipeline.strips import attribute_scores
from hyperdecode.report.interpolation import interpolated
from hyperdecode.report.layerfigure import draw_layer_figure
from hyperdecode.report.publication.attributes import attributes_plate
from hyperdecode.report.publication.brain import layers_plate, mask_plate
from hyperdecode.report.publication.experiment import TRIALS, Trials, experiment_plate
from hyperdecode.report.publication.faces import ChosenFaces, choose_faces, methods_plate, ways_plate
from hyperdecode.report.publication.scores import scores_plate
from hyperdecode.report.publication.style import Plate, styled
from hyperdecode.report.words import METRICS
from hyperdecode.stimuli.schedule import REPEAT
from hyperdecode.stimuli.target import draw_target
from hyperdecode.study.bids import BoldRun, index_bids
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.events import read_events
from hyperdecode.study.images import image_space, read_image, same_grid
from hyperdecode.study.layout import Layout
from hyperdecode.study.planned import plan_path
from hyperdecode.study.stimulus_set import MANIFEST, StimulusSet, read_picture, read_stimuli

__all__ = ["NUMBERS", "Missing", "StudyFigures"]

NUMBERS = {
    2: "experiment",
    3: "mask",
    4: "reconstructions",
    5: "scores",
    6: "attributes",
    7: "methods",
    8: "layers",
}
"""The paper's figures that a study has analogues of (its Figure 1 draws the idea)."""
TOGETHER = (5,)
"""Figures of all subjects at once."""
STEPS, WITH_BARS = 5, 5
"""Faces from decoded to true; test faces of Figure 6."""
ORDERED_BY = "cosine"

Picture = NDArray[np.uint8]
Pictures = NDArray[np.uint8]


class Missing(HyperdecodeError):  # noqa: N818  (the study's lack, no fault)
    """A figure that cannot be drawn: what the study lacks for it, and which command makes that."""


class StudyFigures:
    """The figures of one study.

    Parameters
    ----------
    layout : Layout
    config : StudyConfig
    load : callable
        Gives the study's generator.
    subjects : tuple of str
        Labels.
    n_faces : int
        Test faces of a figure that shows faces.
    """

    def __init__(
        self,
        layout: Layout,
        config: StudyConfig,
        load: Callable[[], Generator],
        subjects: tuple[str, ...],
        n_faces: int,
    ) -> None:
        self.layout, self.config = layout, config.model_copy(update={"subjects": subjects})
        self.subjects, self.n_faces, self._load = subjects, n_faces, load
        self._ways: dict[tuple[str, int], Pictures] = {}
        self._drawn = {
            2: (self._experiment_files, self._experiment),
            3: (self._mask_files, self._mask),
            4: (self._decoded_files, self._reconstructions),
            5: (self._score_files, self._scores),
            6: (self._decoded_files, self._attributes),
            7: (self._method_files, self._methods),
            8: (self._layer_files, self._layers),
        }

    @property
    def settings(self) -> dict[str, Any]:
        """All but files that figures hang on."""
        return {"config": self.config.model_dump(mode="json"), "faces": self.n_faces}

    def subjects_of(self, number: int) -> tuple[str, ...]:
        """Return the subjects that a figure is drawn of one by one; an empty label for all at once."""
        return ("",) if number in TOGETHER else self.subjects

    def inputs(self, number: int, subject: str) -> list[Path]:
        """Return the files that a figure is drawn from.

        Raises
        ------
        Missing
            When one is not there.
        """
        return self._drawn[number][0](subject)

    def plate(self, number: int, subject: str) -> Plate:
        """Draw a figure.

        Raises
        ------
        Missing
            When the study lacks what no file says: attributes of its generator, a brain in MNI space.
        """
        plate = self._drawn[number][1](subject)
        return Plate(plate.canvas, f"{plate.caption}{self._simulated(subject)}")

    # The experiment

    def _experiment_files(self, subject: str) -> list[Path]:
        events = [run.events for run in self._runs(subject)]
        planned = (plan_path(self._study, self.config, subject, k + 1) for k in range(self.config.schedule.n_runs))
        found = events or [path for path in planned if path.is_file()]
        if not found:
            raise Missing(f"no events of sub-{subject}: hyperdecode schedule {self._study}")
        return [*found, self._stimuli.folder / MANIFEST]

    def _experiment(self, subject: str) -> Plate:
        paths = [path for path in self._experiment_files(subject) if path.name != MANIFEST]
        runs = [self._faces_of(read_events(path)) for path in paths]
        first, timing, view = runs[0].head(TRIALS), self.config.timing, self.config.viewing
        size = int(self._stimuli.settings["size"])

        def seen(picture: Picture) -> Picture:
            return draw_target(picture, size / view.picture_deg, view.target_deg, view.background)

        trials = Trials(
            np.stack([seen(read_picture(self._stimuli.folder / name)) for name in first["stim_file"]]),
            seen(np.full((size, size, 3), view.background, np.uint8)),
            first["onset"].tolist(),
            timing.on,
            timing.off,
            timing.flash_hz,
            timing.flash_duty,
        )
        maker = f"{self.config.generator} (truncation {self.config.stimuli.truncation:g})"
        words = f"Faces were made by {maker} and shown at {view.picture_deg:g} degrees of visual angle."
        return experiment_plate(trials, runs, f"sub-{subject}", words)

    def _faces_of(self, events: pd.DataFrame) -> pd.DataFrame:
        """Events that show a face, by its role."""
        faces = events[events["stim_file"].notna() & (events["stim_file"] != "n/a")]
        names = [Path(str(name)).name for name in faces["stim_file"]]
        roles = np.where(faces["trial_type"] == REPEAT, REPEAT, self._stimuli.roles(names))
        return faces.assign(stim_file=names, trial_type=roles).reset_index(drop=True)

    # Brains

    def _mask_files(self, subject: str) -> list[Path]:
        mask = self.layout.subject(subject, f"desc-{MASK_NAMES[self.config.bold.voxels]}_mask.nii.gz")
        return self._there([mask], f"no voxel mask of sub-{subject}")

    def _mask(self, subject: str) -> Plate:
        mask = read_image(self._mask_files(subject)[0], n_dimensions=3)
        background = None if image_space(mask) == "mni" else self._background(subject, mask)
        bold, n = self.config.bold, int(np.count_nonzero(np.asarray(mask.dataobj)))
        how = {
            "active": "those of highest mean z over training trials",
            "reliable": "those of highest reliability over repeats of training faces",
            "regions": f"those of {', '.join(bold.regions)}",
            "all": "all of the brain",
        }[bold.voxels]
        return mask_plate(mask, background, f"sub-{subject}", f"{n:,} voxels, {how}; test trials had no part in it.")

    def _background(self, subject: str, mask: Any) -> Any:
        folder = self.layout.derivatives / f"sub-{subject}"
        for path in sorted(folder.rglob("*desc-mean_boldref.nii.gz")):
            image = read_image(path, n_dimensions=3)
            if same_grid(image, mask):
                return image
        raise Missing(
            f"the mask of sub-{subject} is not in MNI space, and no mean functional lies on its grid: "
            f"hyperdecode run {self._study}"
        )

    def _layer_files(self, subject: str) -> list[Path]:
        files = list(MapFiles(self.layout, subject).paths)
        return self._there(files, f"no brain maps of sub-{subject}", "map")

    def _layers(self, subject: str) -> Plate:
        drawing = layer_drawing(self.layout, self.config, subject)
        if drawing is None:
            raise Missing(
                f"the maps of sub-{subject} are not in MNI space: set bold.space in study.toml, then "
                f"hyperdecode run {self._study}"
            )
        with styled():
            figure = draw_layer_figure(**drawing.parts)
        return layers_plate(figure, drawing.titles, drawing.n_voxels, drawing.caption, f"sub-{subject}")

    # Faces

    def _decoded_files(self, subject: str) -> list[Path]:
        files = [self.layout.decoded(subject, self._model, name) for name in ("latents.safetensors", "faces.tsv")]
        return self._there([*files, *self._pictures_of(subject)], f"no decoded faces of sub-{subject}")

    def _pictures_of(self, subject: str) -> list[Path]:
        return [
            path
            for name in self._names
            for path in (self.layout.full_stimulus(name), self.layout.reconstruction(subject, self._model, name))
        ]

    def _reconstructions(self, subject: str) -> Plate:
        chosen = self._chosen(subject, self.n_faces)
        return ways_plate(self._ways_of(subject, chosen), chosen, f"sub-{subject}")

    def _attributes(self, subject: str) -> Plate:
        if self._space.attributes is None:
            name = self.config.generator
            raise Missing(f"no attributes of {name} are known: hyperdecode attributes fit --generator {name}")
        chosen = self._chosen(subject, min(WITH_BARS, self.n_faces))
        names, scores = attribute_scores(self._space, self._lines(subject)[list(chosen.places)])
        return attributes_plate(self._ways_of(subject, chosen), scores, names, chosen, f"sub-{subject}")

    def _method_files(self, subject: str) -> list[Path]:
        if not self._parts.wanted:
            raise Missing(
                'no baselines: set baselines = ["eigenfaces", "vaegan"] in [evaluation] of study.toml, then '
                f"hyperdecode run {self._study}"
            )
        made = [self.layout.reconstruction(subject, one, name) for one in self._parts.wanted for name in self._names]
        table = self.layout.decoded(subject, self._model, "faces.tsv")
        best = [self.layout.best_possible(one, name) for one in self._parts.wanted for name in self._names]
        needed = self._there([table, *self._pictures_of(subject), *made], f"no faces of baselines of sub-{subject}")
        return [*needed, *(path for path in best if path.is_file())]

    def _methods(self, subject: str) -> Plate:
        chosen, layout, wanted = self._chosen(subject, self.n_faces), self.layout, self._parts.wanted
        names = [self._names[place] for place in chosen.places]

        def read(paths: Sequence[Path]) -> Pictures:
            return np.stack([read_picture(path) for path in paths])

        decoded = {"HYPER": read([layout.reconstruction(subject, self._model, name) for name in names])}
        decoded |= {
            BASELINE_WORDS[one]: read([layout.reconstruction(subject, one, name) for name in names]) for one in wanted
        }
        best = {
            BASELINE_WORDS[one]: read([layout.best_possible(one, name) for name in names])
            for one in wanted
            if all(layout.best_possible(one, name).is_file() for name in names)
        }
        shown = read([layout.full_stimulus(name) for name in names])
        return methods_plate(shown, decoded, best, chosen, f"sub-{subject}")

    def _chosen(self, subject: str, n: int) -> ChosenFaces:
        table = pd.read_csv(self.layout.decoded(subject, self._model, "faces.tsv"), sep="\t")
        label, meaning = METRICS[ORDERED_BY]
        names = [Path(name).stem for name in self._names]
        return choose_faces(names, table[ORDERED_BY].to_numpy(float), n, f"{label.lower()} ({meaning})")

    def _lines(self, subject: str) -> NDArray[np.float64]:
        found = load_file(self.layout.decoded(subject, self._model, "latents.safetensors"))
        return interpolated(found["drawn"], found["true"], STEPS)

    def _ways_of(self, subject: str, chosen: ChosenFaces) -> Pictures:
        """Faces from decoded to shown: both ends from disk, those between drawn now."""
        lines = self._lines(subject)
        for place in chosen.places:
            if (subject, place) not in self._ways:
                name = self._names[place]
                ends = [self.layout.reconstruction(subject, self._model, name), self.layout.full_stimulus(name)]
                first, last = (read_picture(path) for path in ends)
                self._ways[subject, place] = np.stack([first, *self._space.pictures(lines[place, 1:-1]), last])
        return np.stack([self._ways[subject, place] for place in chosen.places])

    # Scores

    def _score_files(self, _: str) -> list[Path]:
        needed = [
            self.layout.decoded(label, model, name)
            for label in self.subjects
            for model in self._models
            for name in ("scores.tsv", "faces.tsv")
        ]
        return [*self._there(needed, "not all decoders have scores"), *self._parts.inputs]

    def _scores(self, _: str) -> Plate:
        found = {f"sub-{label}": self._parts.attributes(label) for label in self.subjects}
        known = {label: table for label, table in found.items() if table is not None and len(table)}
        return scores_plate(self._parts.bars(self._parts.wanted), known)

    # What several of them use

    @property
    def _study(self) -> Path:
        return self.layout.study

    @property
    def _model(self) -> str:
        return self.config.decoding.model

    @property
    def _models(self) -> tuple[str, ...]:
        return (self._model, *self.config.decoding.beside)

    @cached_property
    def _stimuli(self) -> StimulusSet:
        return read_stimuli(self._study)

    @cached_property
    def _names(self) -> list[str]:
        return self._stimuli.names("test")

    @cached_property
    def _parts(self) -> Parts:
        return Parts(self.layout, self.config, self._models, tuple(self._names))

    @cached_property
    def _space(self) -> LatentSpace:
        generator = self._load()
        refuse_other_generator(self.config, self._stimuli, generator)
        return LatentSpace(generator, self.config.decoding.space, self.config.stimuli.truncation)

    @cached_property
    def _all_runs(self) -> tuple[BoldRun, ...]:
        try:
            return index_bids(self._study).runs
        except UserError:  # no BOLD yet
            return ()

    def _runs(self, subject: str) -> list[BoldRun]:
        mine = (run for run in self._all_runs if run.subject == subject and run.task == self.config.task)
        return [run for run in mine if run.events.is_file()]

    def _simulated(self, subject: str) -> str:
        """Say so where the BOLD came from no scanner."""
        labels = [subject] if subject else list(self.subjects)
        made = [s for s in labels if any(run.sidecar.get("Manufacturer") == MANUFACTURER for run in self._runs(s))]
        if not made:
            return ""
        if made != labels:
            return f" Simulated, not measured: {', '.join(f'sub-{label}' for label in made)}."
        return f" {'The subject is' if len(labels) == 1 else 'The subjects are'} simulated: no brain was measured."

    def _there(self, paths: list[Path], what: str, command: str = "run") -> list[Path]:
        if not all(path.is_file() for path in paths):
            raise Missing(f"{what}: hyperdecode {command} {self._study}")
        return paths
