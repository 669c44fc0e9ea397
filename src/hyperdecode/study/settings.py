"""The sections of `study.toml`: every key with its meaning, default and allowed range."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "BaselineName",
    "BoldSettings",
    "DecodingSettings",
    "EvaluationSettings",
    "Label",
    "MappingSettings",
    "ModelName",
    "PresentationSettings",
    "ScheduleSettings",
    "Settings",
    "SimulationSettings",
    "StimulusSettings",
    "StudyConfig",
    "TimingSettings",
    "ViewingSettings",
]

ModelName = Literal[
    "weighted-ridge",
    "ridge",
    "ridge-per-latent",
    "ridge-per-component",
    "banded-ridge",
    "inverted",
    "dense",
    "dense-no-decay",
    "hyper-1",
    "hyper-2",
    "hyper-3",
    "hyper-4",
    "hyper-5",
    "activation-4",
    "activation-9",
    "activation-14",
    "activation-19",
]
"""A decoder (`hyperdecode.decoding.models.MODELS`)."""

BaselineName = Literal["eigenfaces", "vaegan"]
"""What a study's reconstructions are compared with (`hyperdecode.pipeline.baselines`)."""

Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9]+$", max_length=50)]
"""Three of them, subject, session and task, and what else is in a name leave it short enough for any disk."""
"""Value of a BIDS entity."""


class Settings(BaseModel):
    """One section: unknown keys are refused, values keep their TOML type, nothing changes after reading."""

    # The text under each key is its description: it becomes the comment above the key in a new study.toml.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class StimulusSettings(Settings):
    """Faces: how many, from which latents, at which size."""

    n_train: Annotated[int, Field(ge=20, le=100_000)] = 1050
    """Training faces; each is shown once."""
    n_test: Annotated[int, Field(ge=3, le=10_000)] = 36
    """Test faces."""
    test_repeats: Annotated[int, Field(ge=1, le=1000)] = 14
    """How often each test face is shown."""
    truncation: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Latents w are pulled towards the mean w by this factor (1: not at all; a generator without w ignores it)."""
    render: Annotated[int, Field(ge=16, le=4096)] = 1024
    """Side in pixels at which the generator makes the picture (an early exit is faster)."""
    crop: Annotated[float, Field(gt=0.1, le=1)] = 1.0
    """Share of the picture's side that is kept, from its centre, before it is resized."""
    size: Annotated[int, Field(ge=16, le=1024)] = 224
    """Side in pixels of the stimulus, area-averaged from what was kept."""


class ViewingSettings(Settings):
    """What the participant's eye meets, in degrees of visual angle."""

    picture_deg: Annotated[float, Field(gt=0, le=90)] = 15.0
    """Side of the picture in degrees."""
    target_deg: Annotated[float, Field(gt=0, le=10)] = 0.6
    """Diameter of the fixation target (bull's eye with cross hair, Thaler et al. 2013) in degrees."""
    pixels_per_deg: Annotated[float, Field(ge=2, le=500)] = 40.0
    """Screen pixels a degree: pixels a centimetre x distance in cm x 2 tan(0.5 deg). Measure it at your screen."""
    background: Annotated[int, Field(ge=0, le=255)] = 128
    """Grey level around the picture and between pictures."""


class TimingSettings(Settings):
    """Timing of the experiment, in seconds (paper: 1.5 s on, 3 s fixation, TR 1.5 s)."""

    t_r: Annotated[float, Field(gt=0.1, le=10)] = 1.5
    """Repetition time."""
    on: Annotated[float, Field(gt=0, le=60)] = 1.5
    """How long a picture is shown."""
    off: Annotated[float, Field(ge=0, le=60)] = 3.0
    """Fixation after it."""
    flash_hz: Annotated[float, Field(ge=0, le=30)] = 3.33
    """Flashes a second while the picture is shown (0: it stands still)."""
    flash_duty: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of each flash in which the picture is visible."""
    lead_in: Annotated[float, Field(ge=0, le=120)] = 6.0
    """Fixation before a run's first picture."""
    lead_out: Annotated[float, Field(ge=0, le=120)] = 15.0
    """Scanning after a run's last trial, so that its response is measured."""


class ScheduleSettings(Settings):
    """Which face comes when."""

    n_runs: Annotated[int, Field(ge=1, le=1000)] = 14
    """Runs; trials are dealt to them evenly."""
    one_back: Annotated[float, Field(ge=0, le=0.3)] = 0.0
    """Share of extra trials that repeat the face before, for the participant to press a key (0: no such task)."""


class PresentationSettings(Settings):
    """The screen and keyboard of `hyperdecode present`."""

    trigger_key: Annotated[str, Field(min_length=1, max_length=20)] = "5"
    """Key that the scanner sends with each volume; the first one starts the run."""
    response_keys: Annotated[tuple[str, ...], Field(strict=False)] = ("1", "2", "3", "4")
    """Keys of the participant that are written into the events."""
    screen: Annotated[int, Field(ge=0, le=15)] = 0
    """Number of the screen."""
    fullscreen: bool = True
    """Whether the whole screen is taken (a window is for the desk only)."""


class SimulationSettings(Settings):
    """Simulated subjects."""

    coverage: Literal["ventral", "whole"] = "ventral"
    """Field of view: occipital and ventral temporal cortex, or the whole brain."""
    voxel_size: Annotated[float, Field(ge=1.5, le=10)] = 3.0
    """Voxel size in mm."""
    head: Literal["mni", "own"] = "mni"
    """Each subject's head: the MNI template itself, or a smooth known warp of it (then normalise before decoding)."""
    noise_ceiling: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Share of a single trial's variance that the face explains, median over voxels that see (1: no noise at all)."""
    motion: Annotated[float, Field(ge=0, le=5)] = 0.0
    """Head motion, mean framewise displacement in mm (above 0: realign before decoding)."""
    shared_noise: Annotated[float, Field(ge=0, le=1)] = 0.30
    """Share of the noise variance that neighbouring voxels have in common (autoregressive)."""
    physiology: Annotated[float, Field(ge=0, le=1)] = 0.10
    """Share of heart beat and breathing, mean over grey matter."""
    thermal: Annotated[float, Field(ge=0, le=1)] = 0.35
    """Share of the scanner's white noise; what the three leave is autoregressive noise of each voxel alone."""
    ar1: Annotated[float, Field(ge=0, lt=1)] = 0.35
    """Correlation of autoregressive noise between neighbouring volumes."""
    drift: Annotated[float, Field(ge=0, le=0.2)] = 0.01
    """Slow drift over a run: standard deviation as a share of the baseline."""
    null: bool = False
    """Voxels respond, but to nothing about the face that was shown: a subject to test tests on."""


class BoldSettings(Settings):
    """From BOLD to z-maps."""

    source: Literal["auto", "as-is", "raw", "fmriprep", "estimates"] = "auto"
    """What comes in: raw BOLD (realigned and registered here), fMRIPrep's output, single-trial maps made elsewhere
    (estimates), or BOLD that lies still on one grid already (as-is). auto: as-is where its header says MNI, else
    raw."""
    source_dir: str = ""
    """Folder of fMRIPrep's output or of the estimates, as seen from the study folder."""
    space: Literal["mni", "native"] = "mni"
    """Where raw BOLD is taken to, or BOLD as-is lies: MNI space, or the subject's own (that of the first run)."""
    voxel_size: Annotated[int, Field(ge=1, le=8)] = 2
    """Voxel size in mm of the MNI grid that raw BOLD is taken to."""
    fmriprep_space: str = ""
    """Space of fMRIPrep's BOLD by its entity, MNI152NLin2009cAsym say (empty: the only one that is there)."""
    fmriprep_res: str = ""
    """Resolution of fMRIPrep's BOLD by its entity (empty: the only one that is there)."""
    keep_bold: bool = False
    """Keep the preprocessed BOLD as NIfTI (large; faster where the HRF is chosen from a library)."""
    confounds: Annotated[tuple[str, ...], Field(strict=False)] = ("motion",)
    """Confounds by nilearn's names: motion, high_pass, wm_csf, global_signal, compcor, ica_aroma, scrub. Raw BOLD has
    motion and scrub."""
    motion: Literal["basic", "derivatives", "power2", "full"] = "basic"
    """Motion columns: 6 parameters, with derivatives (12), with squares (12), with both and squares of both (24)."""
    fd_threshold: Annotated[float, Field(gt=0, le=10)] = 0.5
    """Framewise displacement in mm above which scrub leaves a volume out."""
    glm: Literal["lss", "lsa", "ridge"] = "lss"
    """One model a trial (lss), all trials in one model (lsa), or all trials with a ridge penalty (ridge)."""
    noise_model: Literal["ols", "ar1"] = "ols"
    """Noise of the model: white (ols) or autoregressive (ar1)."""
    hrf: Literal[
        "spm",
        "spm + derivative",
        "spm + derivative + dispersion",
        "glover",
        "glover + derivative",
        "library",
    ] = "spm"
    """Haemodynamic response: canonical, with derivatives, or chosen per voxel from a library on training trials."""
    high_pass: Annotated[float, Field(ge=0, le=0.1)] = 0.01
    """Cut-off of the cosine drift in Hz (left to fMRIPrep's cosines where high_pass is among the confounds)."""
    slice_time_ref: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Where in the repetition time a volume counts as taken: 0.5 without slice-time correction (fMRIPrep says)."""
    voxels: Literal["active", "reliable", "regions", "all"] = "active"
    """Voxels that the decoder reads: the most active, those most reliable over repeats of training faces, regions of
    an atlas, or the whole brain."""
    n_voxels: Annotated[int, Field(ge=2, le=1_000_000)] = 4096
    """How many, for active and reliable; by their mean z over training trials, or their reliability."""
    regions: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """For regions: names of the atlas (HCP-MMP1: Primary_Visual_Cortex, with _L for the left one), or numbers of
    region_image's labels."""
    region_image: str = ""
    """NIfTI of labels on any grid of the same space, as seen from the study folder (empty: HCP-MMP1)."""


class DecodingSettings(Settings):
    """From z-maps to latents."""

    space: Literal["w", "z"] = "w"
    """Latent space that is decoded (a PGGAN has z alone)."""
    model: ModelName = "weighted-ridge"
    """Decoder: weighted-ridge (voxels weighed by what latents tell of them), ridge, ridge-per-latent,
    ridge-per-component (of the latents), banded-ridge (a penalty a brain region), inverted (an encoding
    model turned round), or the paper's: dense, its notebook's layer; hyper-1 to hyper-5, latent and activation loss;
    activation-4, -9, -14, -19, activation loss alone."""
    beside: Annotated[tuple[ModelName, ...], Field(strict=False)] = ()
    """Other decoders to show beside it in the report."""
    n_folds: Annotated[int, Field(ge=0, le=50)] = 0
    """Folds of the cross-validation, over training trials, that chooses the penalty (0: leave one trial out where that
    needs no fit of its own, else five)."""
    repeats: Literal["trials", "average"] = "trials"
    """Training faces shown more than once: each trial apart, or their average."""
    weights: Literal["equal", "reliability"] = "equal"
    """Weight of training trials: the same, or by how reliable their run is over repeats of training faces."""
    posterior: Annotated[int, Field(ge=0, le=64)] = 4
    """Faces drawn from the posterior of each test face, beside intervals of its attributes (0: none)."""
    unshrink: bool = True
    """Stretch predictions of averaged trials, all by one factor, by what a decoder fitted to single trials shrinks them
    too much; from how far repeats scatter, never from their latents (the paper's decoders are left as they are)."""
    match_norm: bool = True
    """Draw pictures from predictions stretched to the length of training latents (scores are of them as they are)."""

    @property
    def cv(self) -> int | Literal["loo"]:
        """Cross-validation of ridge penalties as `RidgeDecoder` takes it."""
        return self.n_folds or "loo"

    @model_validator(mode="after")
    def _named_once(self) -> DecodingSettings:
        if self.n_folds == 1:
            raise ValueError("n_folds = 1 holds nothing out: give 2 or more, or 0 to leave one trial out")
        named = (self.model, *self.beside)
        if len(set(named)) < len(named):
            raise ValueError(f"a decoder is named twice among model and beside ({', '.join(named)}): name each once")
        return self


def _unique_baselines(names: tuple[BaselineName, ...]) -> tuple[BaselineName, ...]:
    if len(set(names)) < len(names):
        raise ValueError("a baseline is named twice: name each once")
    return names


class EvaluationSettings(Settings):
    """Inference."""

    preset: Literal["strict", "hyper-paper", "hyper-code"] = "strict"
    """What predictions are judged by: strict (all metrics, p by permuting the pairing), or the metrics of Dado et al.
    (2022) by their text (hyper-paper) or their program (hyper-code), with their p, against random latents."""
    n_permutations: Annotated[int, Field(ge=100, le=10_000_000)] = 10_000
    """Permutations of the pairing of predictions and stimuli."""
    baselines: Annotated[tuple[BaselineName, ...], Field(strict=False), AfterValidator(_unique_baselines)] = ()
    """Other ways to make pictures, decoded to compare with: eigenfaces (512 principal components of the training faces,
    64 px), vaegan (a VAE-GAN of 1024 latents, 128 px)."""


def _ascending(layers: tuple[int, ...]) -> tuple[int, ...]:
    if list(layers) != sorted(set(layers)):
        raise ValueError("name each layer once, the one next to the latent first")
    return layers


def _rising(amounts: tuple[float, ...]) -> tuple[float, ...]:
    if list(amounts) != sorted(set(amounts)):
        raise ValueError("name each move once, the smallest first")
    return amounts


class MappingSettings(Settings):
    """Brain maps: which layer of the generator the voxels around each voxel tell most of (searchlight-occlusion)."""

    readout: Literal["none", "linear", "generator", "second-order"] = "none"
    """How activations are decoded: not at all (no maps), by ridge straight from voxels to each layer (linear), or by
    the study's decoder and the generator, as in the paper (generator; hours on a CPU), the same to second order with a
    sample done exactly to see that it holds (second-order)."""
    decoder: Literal["study", "activation"] = "study"
    """Whose latents pass the generator: the study's decoder's, or, as in the paper, those of a model for each layer
    that was trained on that layer's activation (decoders activation-4, -9, -14, -19)."""
    layers: Annotated[
        tuple[Annotated[int, Field(ge=1, le=19)], ...],
        Field(strict=False, min_length=2),
        AfterValidator(_ascending),
    ] = (4, 9, 14, 19)
    """Layers, counted as in a PGGAN of 1024 px: 1 and 2 have maps of 4 px, 3 and 4 of 8 px, up to 18; 19 is the
    picture."""
    view: Literal["whole", "crop"] = "whole"
    """What of a layer's maps is compared: all of them, averaged over the cells of a grid (whole), or their centre as it
    is, as in the paper (crop; always where the generator is passed)."""
    side: Annotated[int, Field(ge=1, le=64)] = 16
    """Side of that grid, or of the centre, in cells or pixels."""
    shape: Literal["cube", "ball"] = "cube"
    """Of the voxels that are taken out together."""
    size_mm: Annotated[float, Field(gt=0, le=100)] = 14.0
    """Side of the cube or diameter of the ball in mm; 14 is the paper's 7 x 7 x 7 voxels of 2 mm."""
    stride: Annotated[int, Field(ge=1, le=10)] = 1
    """Take every voxel of the grid as a centre (1), every second one in each direction (2), ..."""
    standardise: Literal["voxels", "permutation"] = "voxels"
    """Losses of layers are compared by how far they lie from the mean of that layer's map (voxels), or from their mean
    over permuted pairings at that voxel (permutation), in standard deviations."""
    n_permutations: Annotated[int, Field(ge=100, le=100_000)] = 1000
    """Permutations of the pairing of predictions and faces, for maps and regions."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Level of the thresholded maps, kept over all voxels and layers."""
    regions: Literal["groups", "areas"] = "groups"
    """Rows of the table of regions in the report: the five groups of visual areas of the paper, or every area."""
    region_image: str = ""
    """NIfTI of labels to take regions from, as seen from the study folder (empty: HCP-MMP1)."""


class ReportSettings(Settings):
    """The report's pictures."""

    moves: Annotated[
        tuple[Annotated[float, Field(gt=0, le=5)], ...],
        Field(strict=False, max_length=8),
        AfterValidator(_rising),
    ] = (1.5, 3.0)
    """How far the sliders move a decoded face along an attribute, to either side, in standard deviations over the
    study's faces; each is a picture a face, subject and attribute (empty: only the way from decoded to true)."""
    moves_px: Annotated[int, Field(ge=16, le=512)] = 256
    """Side of these pictures in pixels; by an early exit of the generator where it has one that is not larger."""


def _unique(labels: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(labels)) < len(labels):
        raise ValueError("a subject is named twice: name each once")
    return labels


class StudyConfig(Settings):
    """Everything that defines a study."""

    name: str = "hyperdecode study"
    """Name of the data set."""
    generator: str = "mobilestylegan-ffhq"
    """Generator of the faces: the default one, or one imported by `hyperdecode weights import`."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Everything random comes from this seed: faces, order, simulated subjects, folds, permutations."""
    subjects: Annotated[tuple[Label, ...], Field(min_length=1, strict=False), AfterValidator(_unique)] = ("01", "02")
    """Participants, without the "sub-"."""
    task: Label = "faces"
    """BIDS label of the task."""
    stimuli: StimulusSettings = StimulusSettings()
    viewing: ViewingSettings = ViewingSettings()
    timing: TimingSettings = TimingSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    presentation: PresentationSettings = PresentationSettings()
    simulation: SimulationSettings = SimulationSettings()
    bold: BoldSettings = BoldSettings()
    decoding: DecodingSettings = DecodingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    mapping: MappingSettings = MappingSettings()
    report: ReportSettings = ReportSettings()

    @model_validator(mode="after")
    def _fits_together(self) -> StudyConfig:
        stimuli, timing, view = self.stimuli, self.timing, self.viewing
        kept = int(stimuli.render * stimuli.crop)
        if stimuli.size > kept:
            raise ValueError(
                f"stimuli.size = {stimuli.size} is more than the {kept} px that stimuli.render = {stimuli.render} and "
                f"stimuli.crop = {stimuli.crop:g} leave: lower the size or raise one of them"
            )
        if timing.flash_hz and timing.flash_hz * timing.on < 1:
            raise ValueError(
                f"timing.flash_hz = {timing.flash_hz:g} makes no whole flash in timing.on = {timing.on:g} s: "
                "raise one of them, or set flash_hz = 0"
            )
        if view.target_deg >= view.picture_deg:
            raise ValueError(
                f"viewing.target_deg = {view.target_deg:g} would hide the picture of {view.picture_deg:g} deg: lower it"
            )
        made = self.simulation
        shares = made.shared_noise + made.physiology + made.thermal
        if shares > 1 + 1e-9:
            raise ValueError(
                f"simulation.shared_noise, physiology and thermal are shares of the noise and sum to {shares:g}, more "
                "than 1: lower one of them"
            )
        if self.bold.source in ("fmriprep", "estimates") and not self.bold.source_dir:
            raise ValueError(
                f"bold.source = {self.bold.source!r} needs bold.source_dir: name the folder that it lies in"
            )
        if self.bold.voxels == "regions" and not self.bold.regions:
            raise ValueError("bold.voxels = 'regions' needs bold.regions: name at least one")
        trials = stimuli.n_train + stimuli.n_test * stimuli.test_repeats
        if trials < self.schedule.n_runs:
            raise ValueError(f"{trials} trials cannot fill schedule.n_runs = {self.schedule.n_runs} runs: lower it")
        return self
