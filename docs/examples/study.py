# %% [markdown]
# # A whole study
#
# From no data at all to a report, by seven commands. The participants are
# simulated: `simulate` puts their BOLD where a scanner's would be, and what was
# planted is read by no other command.
#
# ```bash
# hyperdecode init study --preset quick      # a third of the paper's trials
# hyperdecode stimuli study                  # faces with known latents
# hyperdecode schedule study                 # which face when
# hyperdecode simulate study                 # two subjects
# hyperdecode validate study
# hyperdecode run study                      # from BOLD to report.html
# hyperdecode status study
# ```
#
# `hyperdecode demo study --quick` is the same in one. This page looks at what
# they leave, in Python. Say in `EXAMPLE_STUDY` where yours lies (default:
# `demo`, which `make demo QUICK=1` makes).

# %%
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image

from hyperdecode.decoding.ridge import RidgeDecoder
from hyperdecode.evaluation.summary import evaluate_latents
from hyperdecode.pipeline.trials import read_trials
from hyperdecode.study.config import read_config
from hyperdecode.study.layout import Layout
from hyperdecode.study.stimulus_set import read_stimuli

folder = Path(os.environ.get("EXAMPLE_STUDY", "demo"))
if not (folder / "table.tsv").exists():
    raise SystemExit(f"no analysed study at {folder}: run `make demo QUICK=1`")
config, layout = read_config(folder), Layout(folder)
stimuli = read_stimuli(folder)
subject, model = config.subjects[0], config.decoding.model
counts = " and ".join(
    f"{len(stimuli.names(role))} {role}" for role in ("train", "test")
)
print(f"{config.name}: {counts} faces, decoder {model}")

# %% [markdown]
# ## The scores
#
# `table.tsv` has a row a metric and subject, beside each score what the best
# predictor reaches that never saw the brain, and the p of the permuted pairing.
# The verdict of the report rests on identification.

# %%
table = pd.read_csv(layout.table, sep="\t")
columns = ["subject", "metric", "decoder", "best_blind_score", "p_value"]
rows = table["metric"].isin(["identification", "cosine", "lsim"])
print(
    table.loc[rows & (table["model"] == model), columns]
    .round(4)
    .to_string(index=False)
)

# %% [markdown]
# Latent similarity (`lsim`) is high for the best blind predictor already: a
# score alone says little.

# %% [markdown]
# ## The faces
#
# All test faces of the first subject, from the best to the worst by 2-way
# identification, then cosine. Top: shown. Below: decoded from voxels.

# %%
faces = pd.read_csv(layout.decoded(subject, model, "faces.tsv"), sep="\t")
faces = faces.sort_values(["identification", "cosine"], ascending=False)
drawn = layout.reconstruction(subject, model, "")
caption = "Shown (top) and decoded (below), best to worst"
figure, axes = plt.subplots(2, len(faces), figsize=(9.5, 1.3), num=caption)
for column, name in enumerate(faces["stim_file"]):
    paths = (stimuli.folder / name, drawn / name)
    for axis, path in zip(axes[:, column], paths, strict=True):
        axis.imshow(np.asarray(Image.open(path).convert("RGB").resize((96, 96))))
        axis.set_axis_off()
figure.subplots_adjust(wspace=0.03, hspace=0.03)

# %% [markdown]
# ## A decoder of your own on the study's trials
#
# What the mask step left is an array of trials x voxels with its split into
# training and test. Any estimator will do. Here plain ridge on fewer and fewer
# voxels, those of highest mean z first; the mean over *training* trials chooses
# them.

# %%
trials = read_trials(layout, stimuli, subject, config.decoding.space)
z, latents = np.asarray(trials.z), trials.latents
split = trials.split
mean = split.training(latents).mean(0)
strongest = np.argsort(-split.training(z).mean(0))
for n_voxels in (len(strongest), len(strongest) // 4, len(strongest) // 16):
    some = z[:, strongest[:n_voxels]]
    decoder = RidgeDecoder().fit(split.training(some), split.training(latents))
    predicted = decoder.predict(split.test_averages(some))
    found = evaluate_latents(predicted, split.test_averages(latents), mean)
    scores = found.table.set_index("metric")["decoder"].round(3)
    print(f"{n_voxels} voxels:", scores[["identification", "cosine"]].to_dict())

# %% [markdown]
# ## Which attributes came through
#
# Scores of decoded and true latents along gender, age, eyeglasses, smile and
# pose: r over test faces, its interval, and the false discovery rate over the
# five.

# %%
path = layout.decoded(subject, model, "attributescores.tsv")
if path.exists():
    attributes = pd.read_csv(path, sep="\t")
    columns = ["attribute", "r", "low", "high", "q_value"]
    print(attributes[columns].round(4).to_string(index=False))

# %% [markdown]
# The same, with intervals, maps of generator layers on the cortex, and what was
# fitted on which trials, is in `report.html`.
