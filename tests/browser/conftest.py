"""The system's Chromium, shut off from the network, and one report for all tests of this folder."""

from __future__ import annotations

import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hyperdecode.evaluation.attribute_scores import attribute_table
from hyperdecode.evaluation.summary import evaluate_latents
from hyperdecode.report.attributeplot import AttributePoints
from hyperdecode.report.build import ReportData, SubjectReport, write_report
from hyperdecode.report.figures import Figure, jpeg_bytes
from hyperdecode.report.mapsection import MapReport
from hyperdecode.report.methods import methods_text
from hyperdecode.report.sliceviewer import interactive_slices
from hyperdecode.study.settings import StudyConfig
from tests.report.test_build import solid
from tests.report.test_methods import FACTS
from tests.report.test_moves import face_moves

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ALONE = ("--disable-background-networking", "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND")
N = 6
TIED = (0.1, 0.9, 0.2, 0.9, 0.3, 0.4)
COSINES = {"sub-01": (0.5, 0.9, 0.1, 0.4, 0.3, 0.2), "sub-02": (0.5, 0.7, 0.2, 0.4, 0.3, 0.95)}


@pytest.fixture(scope="module")
def chromium():
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no Chromium on this computer (looked for {', '.join(NAMES)}): install it to run these tests")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=[*ALONE, "--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """File of a report with every section that answers to its reader; colours tell pictures apart."""
    return write_report(tmp_path_factory.mktemp("browser") / "report.html", _data(), picture_size=64)


@pytest.fixture
def opened(chromium, report):
    """Open the report from the disk; afterwards nothing may have been asked for, and no error been told."""
    told, contexts = [], []

    def open_report(**settings):
        context = chromium.new_context(**({"viewport": {"width": 1400, "height": 900}} | settings))
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: told.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda asked: _note(told, asked.url))
        page.set_default_timeout(8000)
        page.goto(report.as_uri())
        return page

    yield open_report
    for context in contexts:
        context.close()
    assert told == []


def _note(told, url):
    if not url.startswith(("file:", "data:", "about:")):
        told.append(f"asked for {url}")


def _data():
    rng = np.random.default_rng(0)
    true = rng.standard_normal((N, 20))
    judged = evaluate_latents(true + 0.5 * rng.standard_normal((N, 20)), true, np.zeros(20), n_permutations=99)
    names = [f"test-{i + 1:04d}" for i in range(N)]
    scores = rng.standard_normal((2, N, 2))
    table = attribute_table(scores[0], scores[1], ("age", "smile"), n_permutations=99)
    intervals = pd.DataFrame(
        [(name, what, 0.1, -1.0, 1.0, 0.4, True) for name in names for what in ("age", "smile")],
        columns=["stim_file", "attribute", "decoded", "low", "high", "true", "inside"],
    )
    subjects = [
        SubjectReport(
            label=label,
            table=judged.table,
            per_face=judged.per_face.assign(cosine=cosines, r_squared=TIED),
            reconstructions=np.stack([solid((10, 40 * i, 90)) for i in range(N)]),
            n_voxels=2048,
            n_training_trials=384,
            n_test_trials=96,
            draws=np.stack([np.stack([solid((200, 30 * i, k), 20) for k in range(2)]) for i in range(N)]),
            attributes=intervals,
            attribute_scores=table,
            attribute_points=AttributePoints(names, ("age", "smile"), scores[0], scores[1]),
            baselines={"VAE-GAN": np.stack([solid((90, 90, 40 * i), 20) for i in range(N)])},
        )
        for label, cosines in COSINES.items()
    ]
    map_ = MapReport("sub-01", "A map.", [], viewers=[("Slices", _slices())])
    wide = Figure("A wide figure", jpeg_bytes(Image.new("RGB", (1800, 60))), "Wider than a phone.", "A wide figure.")
    return ReportData(
        title="Faces & others",
        summary={"Stimuli": "six faces"},
        stimuli=np.stack([solid((40 * i, 10, 10)) for i in range(N)]),
        stimulus_names=names,
        subjects=subjects,
        comparisons=[wide],
        moves=[face_moves(label, N) for label in COSINES],
        maps=[map_],
        methods=methods_text(StudyConfig.model_validate({"mapping": {"readout": "linear"}}), FACTS),
        commands=["hyperdecode run STUDY"],
        versions={"hyperdecode": "0.1.0"},
    )


def _slices():
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 14)] * 3, indexing="ij"))
    brain = nib.Nifti1Image((np.sqrt((grid**2).sum(0)) < 0.9).astype(np.float32), np.diag([6.0, 6, 6, 1]))
    return interactive_slices(nib.Nifti1Image(grid[0].astype(np.float32) + 1, brain.affine), brain, title="A map")
