# %% [markdown]
# # Real fMRI
#
# Simulated subjects prove that a program finds what was put in. This example has
# a real one: a run of the studyforrest visual localizer (Sengupta et al. 2016,
# *Scientific Data* 3:160093; licence PDDL), one participant who looked at faces,
# bodies, houses, scenes, objects and scrambled pictures. From raw BIDS to
# single-trial maps in MNI space, and two questions with known answers: do faces
# light up face-selective cortex, and do single trials tell the category? The
# pictures had no latents, so no face can be drawn.
#
# The data are one raw BIDS folder with a T1w and a BOLD run. Say where they lie
# in `STUDYFORREST_LOCALIZER`; what comes out goes to `LOCALIZER_OUT`, else to a
# folder that is removed.

# %%
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd

from hyperdecode.evaluation.classification import classify_blocks, find_blocks
from hyperdecode.pipeline.preprocess import preprocess
from hyperdecode.study.settings import BoldSettings

usual = "../shared/data/studyforrest-localizer"
data = Path(os.environ.get("STUDYFORREST_LOCALIZER", usual))
if not data.is_dir():
    raise SystemExit(
        f"no data at {data}: set STUDYFORREST_LOCALIZER to their folder"
    )
scratch = tempfile.TemporaryDirectory()
out = Path(os.environ.get("LOCALIZER_OUT", scratch.name))

# %% [markdown]
# ## From raw BOLD to maps
#
# Realigned, registered to the T1w and to MNI in one interpolation; a contrast on
# smoothed BOLD, and one z-map a trial on BOLD as it is. A second call does
# nothing again. On the command line it is
#
# ```bash
# hyperdecode preprocess DATA OUT --contrast "face > other" --voxel-size 3
# ```

# %%
(run,) = preprocess(
    data, out, contrast="face > other", bold=BoldSettings(voxel_size=3)
)
for note in run.notes:
    print(note)

# %% [markdown]
# ## Where are faces?
#
# The face patches of ventral cortex lie on both sides in lateral occipital and
# fusiform cortex, about 40 mm from the midline. The strongest peaks of faces
# against everything else, in MNI coordinates:

# %%
print(run.peaks.head(6).round(1).to_string(index=False))

# %%
figure = plt.figure(
    figsize=(9, 4), num="face > other: z, from the step's own picture"
)
plt.imshow(plt.imread(run.files["contrast_figure"]))
plt.axis("off")

# %% [markdown]
# ## What a single trial says
#
# The z-maps of the 192 trials at the strongest face peak. Each dot is a trial.
# The peak was found on these very trials, so that faces come first is no test;
# how far single trials scatter is what there is to see.

# %%
trials = pd.read_csv(run.files["trials"], sep="\t")
image = nib.load(run.files["single_trial"])
maps = np.asarray(image.dataobj, dtype=np.float32)
peak = run.peaks.iloc[0]
voxel = np.linalg.solve(image.affine, [peak["x"], peak["y"], peak["z"], 1])[:3]
at_peak = maps[tuple(np.round(voxel).astype(int))]
kinds = trials.assign(z=at_peak).groupby("trial_type")["z"].mean()
kinds = kinds.sort_values(ascending=False)
print(kinds.round(2).to_string())
caption = "z of single trials at the face peak, and their means"
figure, axis = plt.subplots(figsize=(6, 2.8), num=caption)
for place, kind in enumerate(kinds.index):
    values = at_peak[trials["trial_type"] == kind]
    spread = place + np.linspace(-0.25, 0.25, len(values))
    axis.plot(spread, values, ".", color="0.6", markersize=4)
    axis.plot([place - 0.3, place + 0.3], [values.mean()] * 2, color="#b2182b")
axis.set_xticks(range(len(kinds)), list(kinds.index))
axis.set_ylabel("z")

# %% [markdown]
# ## Can the category be told?
#
# Trials of one category come in two blocks. Leave one block of each out, train a
# linear support vector machine on the other, and swap. Neighbouring trials share
# drift, so blocks, never single trials, are left out, and the test renames whole
# blocks.

# %%
usable = np.isfinite(maps).all(axis=3) & (maps != 0).any(axis=3)
kinds_of = list(trials["trial_type"])
blocks = find_blocks(kinds_of, trials["onset"])
found = classify_blocks(maps[usable].T, kinds_of, blocks)
print(f"{len(trials)} trials, six categories, chance {found.chance:.3f}")
print(f"accuracy {found.accuracy:.3f}, p {found.p_value:.4f}")
names = found.categories
print(pd.DataFrame(found.confusion, index=names, columns=names).to_string())

# %% [markdown]
# Rows are what was shown, columns what was said: above chance, best for houses
# and scenes; faces are often taken for objects and bodies. And it is one run of
# one person: category and block are confounded with time, and with two blocks a
# category the accuracy moves by several per cent with the size of the grid and
# the number of voxels ([validation](../validation.md) shows all of them).
