# %% [markdown]
# # Arrays only
#
# You have responses of voxels and latents of what was shown, from wherever. No
# study folder, no BIDS, no command: arrays in, latents, scores and faces out.
# Here the responses are simulated, so that the truth is known.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

from hyperdecode.decoding.ridge import RidgeDecoder
from hyperdecode.evaluation.identification import win_rates
from hyperdecode.evaluation.metrics import correlation_scores
from hyperdecode.evaluation.permutation import (
    null_statistics,
    pairing_permutation_test,
)
from hyperdecode.evaluation.summary import evaluate_latents
from hyperdecode.generators import load_generator
from hyperdecode.split import Split

generator = load_generator("mobilestylegan-ffhq")

# %% [markdown]
# ## Faces with known latents
#
# 400 training faces are shown once, 12 test faces ten times. The generator draws
# a small picture of any latent through its early exit at 128 px.

# %%
n_train, n_test, repeats = 400, 12, 10
z = generator.sample(n_train + n_test, seed=1)
w = generator.to_w(z, truncation=0.7).numpy()
shown = [*range(n_train), *list(range(n_train, n_train + n_test)) * repeats]
stimuli = [f"face-{k:03d}" for k in shown]
roles = ["train" if k < n_train else "test" for k in shown]
latents = w[shown]
print(f"{len(shown)} trials, latents of {latents.shape[1]} dimensions")

# %% [markdown]
# ## Responses
#
# 1500 voxels, each a random mix of latent dimensions, with noise: 0.5 % of a
# voxel's variance over single trials is signal.

# %%
rng = np.random.default_rng(0)
z_scored = (latents - w.mean(0)) / w.std(0)
signal = z_scored @ rng.normal(size=(latents.shape[1], 1500))
noise_sd = signal.std() * np.sqrt(0.995 / 0.005)
responses = signal + noise_sd * rng.normal(size=signal.shape)

# %% [markdown]
# ## Decode
#
# A `Split` gives each stimulus one role. `training` hands out training rows
# alone; test trials come averaged over repeats.

# %%
split = Split.of(stimuli, roles)
decoder = RidgeDecoder().fit(split.training(responses), split.training(latents))
predicted = decoder.predict(split.test_averages(responses))
true = split.test_averages(latents)
mean, sd = split.training(latents).mean(0), split.training(latents).std(0)
table = evaluate_latents(predicted, true, mean, mean=mean, sd=sd).table
rows = table["metric"].isin(["identification", "cosine", "lsim"])
columns = ["metric", "decoder", "low", "high", "best_blind_score", "p_value"]
print(table.loc[rows, columns].round(4).to_string(index=False))

# %% [markdown]
# Each score stands beside the best predictor that never saw the brain. Look at
# `lsim`: next to nothing above the best blind one, although most faces are told
# apart.

# %% [markdown]
# ## Is it more than chance?
#
# Permute which face each prediction belongs to. The histogram is what 2-way
# identification does without any decoding.

# %%
# Each dimension in its own unit, as in the table.
similarity = correlation_scores(predicted / sd, true / sd, mean / sd)
wins = win_rates(similarity)
test = pairing_permutation_test(wins)
caption = "2-way identification: permuted pairings (bars) and the true one (line)"
figure, axis = plt.subplots(figsize=(5, 2.6), num=caption)
axis.hist(null_statistics(wins[None])[0], bins=40, color="0.7")
axis.axvline(test.statistic, color="#b2182b")
axis.set(xlabel="2-way identification", ylabel="permuted pairings")
print(f"identification {test.statistic:.4f}, p {test.p_value:.4f}")

# %% [markdown]
# ## Faces
#
# What was shown (top) and what was decoded (below), best to worst by similarity
# to its own face. All are there: a chosen few would show nothing.

# %%
order = np.argsort(-np.diag(similarity))
# Regression shrinks. Stretch predictions to the length of real latents.
away = predicted - mean
length = np.linalg.norm(true - mean, axis=1).mean()
drawn = mean + away * length / np.linalg.norm(away, axis=1, keepdims=True)
caption = "Shown (top) and decoded (below), best to worst"
figure, axes = plt.subplots(2, n_test, figsize=(9, 1.6), num=caption)
for line, some in zip(axes, (true, drawn), strict=True):
    wanted = torch.from_numpy(some[order]).float()
    pictures = generator.images(wanted, resolution=128)
    for axis, picture in zip(line, pictures, strict=True):
        axis.imshow((picture.permute(1, 2, 0).numpy() + 1).clip(0, 2) / 2)
        axis.set_axis_off()
figure.subplots_adjust(wspace=0.03, hspace=0.03)
