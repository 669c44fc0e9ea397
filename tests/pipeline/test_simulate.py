"""Simulated subjects in a study: what is written is what was planted, a null subject, resume, presented runs."""

import dataclasses
import json
import shutil
import subprocess
import sys
from functools import lru_cache
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nibabel.affines import apply_affine
from nilearn.datasets import load_mni152_template
from safetensors.numpy import load_file
from scipy import ndimage

from hyperdecode.errors import UserError
from hyperdecode.fmri.realign import framewise_displacement, realign
from hyperdecode.fmri.singletrial import single_trial_zmaps
from hyperdecode.pipeline import simulate as module
from hyperdecode.pipeline.schedule import make_schedule
from hyperdecode.simulation.hrf import delayed_response, volume_times
from hyperdecode.simulation.motion import rigid_matrices
from hyperdecode.study.stimulus_set import read_stimuli
from hyperdecode.weights.atlas import load_atlas
from tests.pipeline.studies import contents, func, new_study, planted, rehearse, settings, work

T_R = 1.5


@pytest.fixture(scope="module", autouse=True)
def _each_head_grown_once():
    """Heads of the same settings are the same: studies here share them, which saves a minute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "grow_head", lru_cache(module.grow_head))
        yield


@pytest.fixture(scope="module")
def seeing(tmp_path_factory, tiny_generator):
    """A noiseless subject in MNI space."""
    study = new_study(tmp_path_factory.mktemp("seeing") / "study", settings(), tiny_generator)
    assert work(study, settings(), tiny_generator) == ["01"]
    return study


@pytest.fixture(scope="module")
def moving(tmp_path_factory, seeing, tiny_generator):
    """A noiseless subject with a head of its own that moves."""
    config = settings(head="own", coverage="whole", motion=0.3, voxel_size=6.0)
    study = new_study(tmp_path_factory.mktemp("moving") / "study", config, tiny_generator, seeing)
    work(study, config, tiny_generator)
    return study


@pytest.fixture(scope="module")
def null(tmp_path_factory, seeing, tiny_generator):
    """The seeing subject's twin, whose voxels know nothing."""
    study = new_study(tmp_path_factory.mktemp("null") / "study", settings(null=True), tiny_generator, seeing)
    work(study, settings(null=True), tiny_generator)
    return study


@pytest.fixture
def fresh(tmp_path, seeing, tiny_generator):
    """Stimuli and settings, nothing simulated."""
    return new_study(tmp_path / "fresh", settings(), tiny_generator, seeing)


@pytest.fixture
def copied(tmp_path, seeing):
    return shutil.copytree(seeing, tmp_path / "copied")


def bold(study, run=1):
    image = nib.load(func(study, run, "bold.nii.gz"))
    return image, np.asarray(image.dataobj)


def events(study, run=1):
    return pd.read_csv(func(study, run, "events.tsv"), sep="\t", na_values="n/a")


def trials(study, run=1):
    return pd.read_csv(planted(study, f"run-0{run}_desc-planted_trials.tsv"), sep="\t")


def truth(study):
    """Tensors of the truth, and the row of each stimulus."""
    tensors = load_file(planted(study, "desc-planted_responses.safetensors"))
    names = json.loads(planted(study, "desc-planted_simulation.json").read_text())["Stimuli"]
    return tensors, {name: row for row, name in enumerate(names)}


def volume(study, name):
    return np.asarray(nib.load(planted(study, f"desc-{name}.nii.gz")).dataobj)


def fitted(study, table, run=1):
    """Amplitudes (n_trials, n_voxels) and residual by the model that the truth names, with each voxel's own HRF."""
    tensors, _ = truth(study)
    series = bold(study, run)[1].reshape(-1, bold(study, run)[1].shape[3])[tensors["voxels"]].T.astype(float)
    amplitudes = np.empty((len(table), series.shape[1]))
    left = np.empty(series.shape[1])
    for delay in np.unique(tensors["hrf_delay"]):
        here = tensors["hrf_delay"] == delay
        times = volume_times(len(series), T_R)
        responses = delayed_response(table["onset"], table["duration"], times, float(delay))
        design = np.column_stack([np.ones(len(series)), responses])
        found, *_ = np.linalg.lstsq(design, series[:, here], rcond=None)
        amplitudes[:, here] = found[1:] / found[0]
        left[here] = np.sqrt(((series[:, here] - design @ found) ** 2).mean(axis=0))
    return amplitudes, left


def test_planted_responses_come_back_through_the_single_trial_model(seeing):
    tensors, row_of = truth(seeing)
    table = events(seeing)
    planted_here = tensors["responses"][[row_of[name] for name in table["stim_file"]]]
    data = bold(seeing)[1].reshape(-1, bold(seeing)[1].shape[3])
    found = single_trial_zmaps(
        data.T, table["onset"], table["duration"], T_R, method="lsa", high_pass=0, slice_time_ref=0.5
    )
    # Without noise nothing else changes: voxels that the truth does not name are constant.
    named = volume(seeing, "region_dseg").ravel() > 0
    np.testing.assert_array_equal(np.flatnonzero(named), tensors["voxels"])
    assert np.isnan(found.z[:, ~named]).all() and np.isfinite(found.z[:, named]).all()
    beta = found.beta[:, named]
    r = np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(beta.T, planted_here.T, strict=True)])
    # The canonical model fits a response the worse the later it comes; one on time comes back whole.
    late = np.abs(tensors["hrf_delay"])
    assert r[late < 0.1].min() > 0.94 and r[late < 1].min() > 0.85 and np.median(r) > 0.98
    assert np.corrcoef(late, r)[0, 1] < -0.5
    amplitude = beta / np.median(data[named], axis=1)
    slopes = (amplitude * planted_here).sum(axis=0) / (planted_here**2).sum(axis=0)
    assert 0.9 < np.median(slopes) < 1.1
    other = np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(beta.T, planted_here[::-1].T, strict=True)])
    assert abs(np.median(other)) < 0.3


def test_planted_amplitudes_come_back_exactly_with_the_planted_hrf(seeing):
    tensors, row_of = truth(seeing)
    for run in (1, 2):
        amplitudes, left = fitted(seeing, events(seeing, run), run)
        rows = [row_of[name] for name in events(seeing, run)["stim_file"]]
        error = amplitudes - tensors["responses"][rows]
        assert error.std() < 1e-3 < 0.1 * tensors["responses"].std() * 5
        assert left.max() < 0.4  # rounding to whole numbers alone


def test_truth_volumes_are_the_tensors_put_in_place(seeing):
    tensors, _ = truth(seeing)
    about = json.loads(planted(seeing, "desc-planted_simulation.json").read_text())
    at = np.unravel_index(tensors["voxels"], bold(seeing)[1].shape[:3])
    np.testing.assert_array_equal(volume(seeing, "region_dseg")[at], tensors["region"])
    np.testing.assert_array_equal(volume(seeing, "hrfdelay_map")[at], tensors["hrf_delay"])
    np.testing.assert_array_equal(volume(seeing, "noiseceiling_map")[at], tensors["noise_ceiling"])
    np.testing.assert_array_equal(volume(seeing, "layer_dseg")[at], tensors["mix"].argmax(axis=0) + 1)
    np.testing.assert_allclose(volume(seeing, "meanresponse_map")[at], tensors["responses"].mean(axis=0), rtol=1e-6)
    assert len(about["Layers"]) == len(tensors["mix"]) == volume(seeing, "mix_map").shape[3]
    assert about["Stimuli"] == list(read_stimuli(seeing).manifest["stim_file"])
    names = load_atlas().names
    assert {names[int(label)] for label in np.unique(tensors["region"])} <= set(about["Regions"].values())
    assert about["Settings"] == settings().simulation.model_dump()


def test_planted_motion_is_the_motion_that_realignment_finds(moving):
    image, data = bold(moving)
    table = pd.read_csv(planted(moving, "run-01_desc-planted_motion.tsv"), sep="\t")
    about = json.loads(planted(moving, "run-01_desc-planted_motion.json").read_text())
    assert about["RotationCentreUnits"] == "mm" and [about[name]["Units"] for name in table] == ["mm"] * 3 + ["rad"] * 3
    assert framewise_displacement(table.to_numpy())[1:].mean() == pytest.approx(0.3, rel=1e-3)
    assert not table.iloc[0].any()
    wanted = rigid_matrices(table.to_numpy(), about["RotationCentre"])
    found = realign(data, image.affine).matrices
    found = found @ np.linalg.inv(found[0])
    corners = np.array([[x, y, z, 1] for x in (-50, 50) for y in (-80, 40) for z in (-30, 50)]).T

    def apart(a, b):
        return np.linalg.norm((a @ corners - b @ corners)[:, :3], axis=1)

    assert apart(wanted, np.eye(4)[None]).mean() > 0.5
    assert apart(found, wanted).max() < 0.03
    # The centre is part of the truth: about another point the same numbers are another motion.
    assert apart(found, rigid_matrices(table.to_numpy(), np.zeros(3))).mean() > 0.1


def test_a_head_that_lies_still_has_a_motion_of_nothing(seeing):
    table = pd.read_csv(planted(seeing, "run-01_desc-planted_motion.tsv"), sep="\t")
    assert len(table) == bold(seeing)[1].shape[3] and not table.to_numpy().any()


def sample(image, mm):
    at = apply_affine(np.linalg.inv(image.affine), mm).T
    return ndimage.map_coordinates(np.asarray(image.dataobj, np.float32), at, order=1)


@pytest.mark.parametrize(("name", "code"), [("seeing", 4), ("moving", 1)])
def test_t1w_bold_and_truth_lie_in_one_space_and_mni_where_the_truth_says(request, name, code):
    study = request.getfixturevalue(name)
    t1w, scan = nib.load(study / "sub-01" / "anat" / "sub-01_T1w.nii.gz"), bold(study)[0]
    warp = nib.load(planted(study, "desc-mniposition_map.nii.gz"))
    for image in (t1w, scan, warp, nib.load(planted(study, "desc-region_dseg.nii.gz"))):
        assert image.get_sform(coded=True)[1] == image.get_qform(coded=True)[1] == code
    np.testing.assert_allclose(warp.affine, scan.affine)
    mm = apply_affine(scan.affine, np.moveaxis(np.indices(scan.shape[:3]), 0, -1)).reshape(-1, 3)
    mni = np.asarray(warp.dataobj).reshape(-1, 3)
    template = load_mni152_template(resolution=1)
    brain = sample(template, mni) > 0.2 * np.asarray(template.dataobj).max()

    def likeness(places, others):
        return np.corrcoef(sample(t1w, places[brain]), sample(template, others[brain]))[0, 1]

    assert likeness(mm, mni) > 0.95
    assert likeness(mm + np.array([0, 8, 0]), mni) < 0.6
    if name == "moving":
        assert likeness(mm, mm) < 0.6
    region, atlas = volume(study, "region_dseg").ravel(), load_atlas()
    at = np.rint(apply_affine(np.linalg.inv(atlas.affine), mni[region > 0])).astype(int)
    label, mine = atlas.labels[tuple(at.T)], region[region > 0]
    assert ((label == mine) | (label == 0)).all() and (label == mine).mean() > 0.7


def test_a_null_subject_differs_from_a_seeing_one_in_its_responses_alone(seeing, null):
    mine, other = contents(null), contents(seeing)
    assert mine.keys() == other.keys()
    differing = {name.rsplit("/", 1)[-1] for name in mine if mine[name] != other[name]}
    stems = [f"sub-01_task-faces_run-0{run}" for run in (1, 2)]
    assert differing == {
        "study.toml",
        "sub-01_task-faces_desc-planted_simulation.json",
        *(f"{stem}_bold.nii.gz" for stem in stems),
        *(f"{stem}_desc-planted_trials.tsv" for stem in stems),
    }
    assert json.loads(planted(null, "desc-planted_simulation.json").read_text())["Settings"]["null"] is True
    assert (trials(seeing)["responses_of"] == trials(seeing)["stim_file"]).all()


def test_a_null_subject_responds_to_the_faces_that_its_truth_names(null):
    tensors, row_of = truth(null)
    amplitudes, _ = fitted(null, events(null))
    named, shown = (tensors["responses"][[row_of[n] for n in trials(null)[c]]] for c in ("responses_of", "stim_file"))
    assert np.abs(amplitudes - named).std() < 1e-3 < np.abs(amplitudes - shown).std()


def test_what_a_null_subject_responds_to_has_nothing_to_do_with_what_it_saw(
    tmp_path, seeing, tiny_generator, monkeypatch
):
    """Over many trials the face behind a response is the one shown as often as any other."""
    still = nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4))
    grown, drawn = module.grow_head, module.simulate_run

    def unmoved(*args, **kwargs):
        run = drawn(*args, **kwargs)
        return dataclasses.replace(run, _maker=SimpleNamespace(noise=None, volume=lambda *_: np.zeros(run.shape)))

    def plain(*args, **kwargs):
        """One head without anatomy for all: only the order of things matters here."""
        return dataclasses.replace(grown(*args, **kwargs | {"seed": 0}), make_t1w=lambda: still)

    monkeypatch.setattr(module, "grow_head", plain)
    monkeypatch.setattr(module, "simulate_run", unmoved)
    tables = []
    for seed in range(8):
        config = settings(null=True, seed=seed, voxel_size=10.0)
        study = new_study(tmp_path / str(seed), config, tiny_generator, seeing)
        work(study, config, tiny_generator)
        tables += [trials(study, run) for run in (1, 2)]
    both = pd.concat(tables)
    n = len(both)
    assert n > 200 and both["responses_of"].nunique() == 24
    hits = (both["responses_of"] == both["stim_file"]).sum()
    assert abs(hits - n / 24) < 3 * np.sqrt(n / 24)
    role = both["responses_of"].str.startswith("test")
    shares = [role[both["trial_type"] == kind].mean() for kind in ("test", "train")]
    assert abs(shares[0] - shares[1]) < 3 * np.sqrt(4 / 24 * 20 / 24 * (1 / 64 + 1 / 160))
    assert len({tuple(table["responses_of"]) for table in tables}) == 16


def alike(study):
    """How much more alike repeats of a test face are than other pairs of test trials, and its permutation p-value."""
    faces, patterns = [], []
    for run in (1, 2):
        table = events(study, run)
        test = (table["trial_type"] == "test").to_numpy()
        faces += list(table["stim_file"][test])
        patterns.append(fitted(study, table, run)[0][test])
    values = np.concatenate(patterns)
    r = np.corrcoef(values - values.mean(axis=0))
    above = np.triu_indices(len(r), 1)

    def contrast(names):
        same = (names[:, None] == names[None, :])[above]
        return r[above][same].mean() - r[above][~same].mean()

    names, rng = np.array(faces), np.random.default_rng(0)
    chance = np.array([contrast(rng.permutation(names)) for _ in range(999)])
    return contrast(names), (1 + (chance >= contrast(names)).sum()) / 1000


def test_repeats_of_a_face_are_no_more_alike_than_other_faces_for_a_null_subject(seeing, null):
    difference, p = alike(seeing)
    assert difference > 0.9 and p < 0.02
    difference, p = alike(null)
    assert abs(difference) < 0.3 and p > 0.05


def test_null_after_seeing_and_back_again(copied, seeing, tiny_generator):
    before = contents(copied)
    assert work(copied, settings(null=True), tiny_generator) == ["01"]
    assert not (trials(copied)["responses_of"] == trials(copied)["stim_file"]).all()
    assert work(copied, settings(null=True), tiny_generator) == []
    assert work(copied, settings(), tiny_generator) == ["01"]
    assert contents(copied) == before


class Killed(BaseException):
    """What no code catches."""


def test_a_killed_simulation_goes_on(fresh, seeing, tiny_generator, monkeypatch):
    inner, calls = module.write_series, []

    def dying(path, series):
        calls.append(path)
        if len(calls) == 2:
            pieces = iter(series.chunks)
            next(pieces)
            raise Killed
        inner(path, series)

    monkeypatch.setattr(module, "write_series", dying)
    with pytest.raises(Killed):
        work(fresh, settings(), tiny_generator)
    assert not func(fresh, 2, "bold.nii.gz").exists()
    kept = [func(fresh, 1, "bold.nii.gz"), fresh / "sub-01" / "anat" / "sub-01_T1w.nii.gz"]
    before = [path.stat().st_mtime_ns for path in kept]
    assert work(fresh, settings(), tiny_generator) == ["01"]
    assert calls[2:] == [func(fresh, 2, "bold.nii.gz")]
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert contents(fresh) == contents(seeing)


def test_what_is_done_again(copied, seeing, tiny_generator):
    before, progress = contents(copied), []
    path = func(copied, 1, "bold.nii.gz")
    written = path.stat().st_mtime_ns
    assert work(copied, settings(), tiny_generator, progress=lambda *n: progress.append(n)) == []
    assert path.stat().st_mtime_ns == written and progress[-1] == (2, 2)
    # A flash is no part of a response that is modelled by the trial's length.
    assert work(copied, settings(timing={"flash_hz": 2.0}), tiny_generator) == []
    planted(copied, "run-02_desc-planted_motion.json").unlink()
    func(copied, 2, "bold.nii.gz").write_bytes(b"damaged")
    assert work(copied, settings(), tiny_generator) == ["01"]
    assert contents(copied) == before and path.stat().st_mtime_ns == written
    assert work(copied, settings(), tiny_generator, force=True) == ["01"]
    assert contents(copied) == before and path.stat().st_mtime_ns > written
    assert work(copied, settings(noise_ceiling=0.5), tiny_generator) == ["01"]
    assert bold(copied)[1].shape == bold(seeing)[1].shape and (bold(copied)[1] != bold(seeing)[1]).mean() > 0.5


def test_a_rehearsed_run_is_simulated_as_it_was_shown(fresh, seeing, tiny_generator, monkeypatch):
    make_schedule(fresh, settings(), read_stimuli(fresh), "01")
    # The display hangs for a second and a half in the fixation before the third face, and now and then briefly.
    late = {int((3 + 2 * 4.5 - 0.5) * 60): 90, 700: 3, 1500: 5}
    session = rehearse(monkeypatch, fresh, settings(), 1, late=late)
    assert session.outcome == "complete"
    shown = {path: path.read_bytes() for path in (session.files.events, session.files.sidecar, session.files.log)}
    assert work(fresh, settings(), tiny_generator) == ["01"]
    assert {path: path.read_bytes() for path in shown} == shown
    table = events(fresh)
    delays = table["onset"] - table["planned_onset"]
    assert delays.max() > 0.5
    np.testing.assert_allclose(trials(fresh)["onset"], table["onset"], atol=1e-4)
    # The BOLD is explained by the shown onsets to the last digit, by the planned ones it is not.
    _, left = fitted(fresh, table)
    _, planned = fitted(fresh, table.assign(onset=table["planned_onset"]))
    assert left.max() < 0.4 and planned.max() > 2 * left.max()
    assert func(fresh, 2, "bold.nii.gz").read_bytes() == func(seeing, 2, "bold.nii.gz").read_bytes()
    assert work(fresh, settings(), tiny_generator) == []
    assert session.files.events.read_bytes() == shown[session.files.events]


def test_a_rehearsal_that_was_broken_off_is_simulated_up_to_there(fresh, seeing, tiny_generator, monkeypatch):
    make_schedule(fresh, settings(), read_stimuli(fresh), "01")
    assert rehearse(monkeypatch, fresh, settings(), 2, script=[("escape", 30.0)]).outcome == "aborted"
    work(fresh, settings(), tiny_generator)
    table = events(fresh, 2)
    assert 3 <= len(table) == len(trials(fresh, 2)) < len(events(seeing, 2))
    assert bold(fresh, 2)[1].shape[3] < bold(seeing, 2)[1].shape[3]
    assert fitted(fresh, table, 2)[1].max() < 0.4


def test_a_rehearsal_of_another_plan_is_refused(fresh, tiny_generator, monkeypatch):
    make_schedule(fresh, settings(), read_stimuli(fresh), "01")
    rehearse(monkeypatch, fresh, settings(), 1)
    make_schedule(fresh, settings(seed=2), read_stimuli(fresh), "01", force=True)
    with pytest.raises(UserError, match=r"run-01_events\.tsv was rehearsed by another plan: move it away"):
        work(fresh, settings(seed=2), tiny_generator)
    assert not list(fresh.rglob("*_bold.nii.gz"))


def test_what_a_scanner_triggered_is_not_simulated_over(fresh, tiny_generator, monkeypatch):
    make_schedule(fresh, settings(), read_stimuli(fresh), "01")
    triggers = [("5", 2.0 + T_R * k) for k in range(60)]
    session = rehearse(monkeypatch, fresh, settings(), 1, script=triggers, simulated=False)
    before = session.files.events.read_bytes()
    for force in (False, True):
        with pytest.raises(UserError, match=r"run-01_events\.tsv was shown in a scanner, to somebody real"):
            work(fresh, settings(), tiny_generator, force=force)
    assert session.files.events.read_bytes() == before and not list(fresh.rglob("*_bold.nii.gz"))


WHOLE_RUN = """
import resource, sys
from pathlib import Path
import numpy as np, pandas as pd
from hyperdecode.simulation.bold import simulate_run
from hyperdecode.simulation.features import FeatureBank
from hyperdecode.simulation.head import grow_head
from hyperdecode.simulation.motion import draw_motion
from hyperdecode.simulation.noise import noise_sd
from hyperdecode.simulation.responses import grow_subject
from hyperdecode.study.raw import Series, write_series
from hyperdecode.weights.atlas import load_atlas

n, n_stimuli = 160, 1086
rng = np.random.default_rng(0)
values = tuple(rng.standard_normal((n_stimuli, 32, 8, 8), np.float32) for _ in range(6))
head = grow_head(load_atlas(), seed=0, voxel_size=2.0, coverage="whole", shape="own")
head.t1w
subject = grow_subject(FeatureBank(tuple("abcde") + ("picture",), values), head, seed=0)
events = pd.DataFrame({"onset": 6 + 4.5 * np.arange(45), "duration": 1.5})
run = simulate_run(
    subject, events, rng.integers(n_stimuli, size=45), t_r=1.5, n_volumes=n, seed=0,
    noise=noise_sd(subject, events, t_r=1.5, n_volumes=n), motion=draw_motion(n, scale=0.15, seed=1),
)
held = []
def pieces():
    for piece in run.volumes():
        held.append(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024)
        yield piece
write_series(Path(sys.argv[1]), Series(pieces(), (*run.shape, n), run.affine, 1.5, "scanner"))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(int(np.prod(run.shape)), len(subject.voxels), held[3], max(held[4:]), peak)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_whole_brain_at_2_mm_streams_to_the_disk(tmp_path):
    path = tmp_path / "bold.nii.gz"
    said = subprocess.run([sys.executable, "-c", WHOLE_RUN, str(path)], capture_output=True, text=True, check=True)
    size, n_voxels, early, late, peak = map(int, said.stdout.split())
    assert size > 600_000 and n_voxels > 10_000 and nib.load(path).shape[3] == 160
    assert peak < 4_000_000  # kB
    # What comes after the first pieces takes no more room: the whole run would be twice `size` x 160 bytes.
    assert late - early < 0.3 * 2 * size * 160 / 1024


def test_what_a_killed_run_left_is_no_data_of_a_scanner(copied, tiny_generator):
    left = func(copied, 1, "bold.nii.gz")
    left.with_name(f".{left.name}.x7.nii.gz").write_bytes(b"half")
    assert work(copied, settings(), tiny_generator) == []


def test_the_header_says_whether_the_head_lies_in_mni_space(seeing, moving):
    codes = [int(bold(study)[0].header["sform_code"]) for study in (seeing, moving)]
    assert codes == [4, 1]
