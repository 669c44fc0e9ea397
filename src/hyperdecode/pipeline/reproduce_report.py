"""What a reproduction ends with: Table 1, all scores, contact sheets, the report, and the record of what went in."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup
from PIL import Image

import hyperdecode
from hyperdecode.decoding.models import MODELS
from hyperdecode.evaluation.summary import TABLE_COLUMNS
from hyperdecode.files import atomic_path, sha256_bytes
from hyperdecode.pipeline.released import ReleasedSubject
from hyperdecode.pipeline.reproduce_table1 import attribute_rows, of_all, table1_rows, table1_section
from hyperdecode.pipeline.reproduced import PAPER_EPOCHS, Reproduced, read_pictures
from hyperdecode.report.build import write_report
from hyperdecode.report.data import ModelReport, ReportData, SubjectReport
from hyperdecode.report.published import CITATION
from hyperdecode.report.strips import reconstruction_strip
from hyperdecode.study.derivatives import write_json, write_table

__all__ = ["summarise"]

STRIP_FACES, STRIP_SIDE = 9, 160
FITTED = (
    "Voxel scaling, decoder and its penalty were fitted on training faces only; test faces were used once, for the "
    "scores above. The voxels were chosen by the authors before the release."
)


def summarise(made: Reproduced) -> None:
    """Write ``table1.tsv``, the scores of all decoders, contact sheets, reports and ``record.json``."""
    table = table1_rows(made)
    write_table(made.out / "table1.tsv", table)
    write_table(made.out / "scores.tsv", of_all(made, "scores.tsv"))
    write_table(made.out / "faces.tsv", of_all(made, "faces.tsv"))
    attributes = attribute_rows(made)
    if attributes is not None:
        write_table(made.out / "attributes.tsv", attributes)
    # The first decoder's verdict stands at the head of the report.
    section = table1_section(table, attributes, [*made.verdicts(made.settings.all_models[1:]), *made.words])
    for name, strip, group in zip(made.reports, made.strips, made.groups.values(), strict=True):
        _write_strip(made, made.out / strip, group)
        write_report(made.out / name, _report_data(made, group, section))
    write_json(made.out / "record.json", _record(made))


def _write_strip(made: Reproduced, path: Path, group: Sequence[ReleasedSubject]) -> None:
    rows = {
        f"sub-{one.label}, {made.settings.label(model)}": read_pictures(made.faces(one, model))
        for one in group
        for model in made.settings.all_models
    }
    shown = read_pictures(made.faces(group[0]))
    blocks = [slice(start, start + STRIP_FACES) for start in range(0, len(shown), STRIP_FACES)]
    strips = [reconstruction_strip(shown[b], {k: v[b] for k, v in rows.items()}, size=STRIP_SIDE) for b in blocks]
    sheet = Image.new("RGB", (max(s.width for s in strips), sum(s.height for s in strips)), "white")
    for k, strip in enumerate(strips):
        sheet.paste(strip, (0, sum(s.height for s in strips[:k])))
    with atomic_path(path) as temporary:
        sheet.save(temporary, "JPEG", quality=90)


def _report_data(made: Reproduced, group: Sequence[ReleasedSubject], section: Markup) -> ReportData:
    released = made.released
    title = "HYPER (Dado et al. 2022), reproduced from the released files"
    return ReportData(
        title=f"{title}: quick look" if made.settings.is_quick else title,
        summary={
            "Data": f"{', '.join(one.path.name for one in group)} of the authors' release: responses and latents.",
            "Faces": f"Drawn by {released.generator_source}, {made.side} px.",
            "Decoders": "; ".join(
                f"{made.settings.label(model)}: {MODELS[model].words}" for model in made.settings.all_models
            ),
        },
        stimuli=read_pictures(made.faces(group[0])),
        stimulus_names=[path.name for path in made.faces(group[0])],
        subjects=[_subject_report(made, one) for one in group],
        notes=made.words,
        versions={"hyperdecode": hyperdecode.__version__, "python": platform.python_version()},
        commands=["hyperdecode reproduce hyper2021 DATA_DIR"],
        seed=made.settings.seed,
        table1=section,
        fitted_words=FITTED,
    )


def _subject_report(made: Reproduced, one: ReleasedSubject) -> SubjectReport:
    first, *others = made.settings.all_models
    hashes = [sha256_bytes(latents.tobytes()) for latents in (one.data.t_train, one.data.t_test)]
    return SubjectReport(
        label=f"sub-{one.label}",
        model=made.settings.label(first),
        **_of_model(made, one, first),
        beside=[
            ModelReport(name=made.settings.label(name), words=MODELS[name].words, **_of_model(made, one, name))
            for name in others
        ],
        n_voxels=one.data.x_train.shape[1],
        n_training_trials=len(one.data.x_train),
        n_test_trials=len(one.data.x_test),
        training_hash=hashes[0],
        test_hash=hashes[1],
        facts={f"{one.path.name}, SHA-256": one.sha256},
    )


def _of_model(made: Reproduced, one: ReleasedSubject, model: str) -> dict[str, Any]:
    folder = made.folder(one.label, model)
    return {
        "table": pd.read_csv(folder / "scores.tsv", sep="\t")[list(TABLE_COLUMNS)],
        "per_face": pd.read_csv(folder / "faces.tsv", sep="\t"),
        "reconstructions": read_pictures(made.faces(one, model)),
    }


def _record(made: Reproduced) -> dict[str, Any]:
    settings = made.settings
    return {
        "reproduces": CITATION,
        "hyperdecode": hyperdecode.__version__,
        "quick_look": settings.is_quick,
        "notes": made.words,
        "verdicts": made.verdicts(),
        "inputs_sha256": made.released.hashes,
        "generator": {"source": made.released.generator_source, "fingerprint": made.released.generator.fingerprint},
        "feature_network": made.released.network.name,
        "settings": {
            "models": [settings.label(model) for model in settings.all_models],
            "epochs": settings.epochs or PAPER_EPOCHS,
            "resolution": made.side,
            "n_permutations": settings.n_permutations,
            "n_random_faces": settings.n_random,
            "seed": settings.seed,
        },
    }
