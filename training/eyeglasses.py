"""Train the classifier of eyeglasses on generated faces that were labelled by eye.

    python training/face_pool.py --faces 3000      # the faces behind the labels
    python training/eyeglasses.py                  # writes features/data/eyeglasses.safetensors, prints accuracy

`labels/eyeglasses.tsv` holds the labels: 1 for glasses or sunglasses before the eyes, 0 for bare eyes, n/a where
contact sheets at 112 px did not tell (goggles on a hat, eyes in shadow). `random` faces are seeds 3,000,000 to
3,000,863 in turn; `ranked` ones were shown because a first classifier placed them near or beyond its boundary.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import load_file, save_file
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from hyperdecode.features.eyeglasses import eye_features
from hyperdecode.files import atomic_path
from hyperdecode.pipeline.face_pool import CHUNK, FIRST_SEED, chunk_path

LABELS = Path(__file__).parent / "labels" / "eyeglasses.tsv"
TARGET = Path(__file__).parents[1] / "src" / "hyperdecode" / "features" / "data" / "eyeglasses.safetensors"
GENERATOR = "mobilestylegan-ffhq"
PENALTY = 1e-3


def labelled() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features (n, p), labels (n,) and whether a face was drawn at random (n,), faces that did not tell left out."""
    table = pd.read_csv(LABELS, sep="\t").dropna()
    pictures = []
    for chunk, rows in table.groupby((table["seed"] - FIRST_SEED) // CHUNK):
        path = chunk_path(GENERATOR, chunk)
        if not path.exists():
            raise SystemExit(f"{path} is absent: run training/face_pool.py first")
        pictures.append(load_file(path)["pictures"][(rows["seed"] - FIRST_SEED) % CHUNK])
    faces = torch.from_numpy(np.concatenate(pictures)).permute(0, 3, 1, 2) / 127.5 - 1
    table = table.sort_values("seed")
    return eye_features(faces), table["eyeglasses"].to_numpy(bool), (table["chosen"] == "random").to_numpy()


def classifier() -> LinearSVC:
    """Return the estimator, not fitted."""
    return make_pipeline(StandardScaler(), LinearSVC(C=PENALTY, class_weight="balanced", max_iter=5000))


def main() -> None:
    """Cross-validate, fit on all labels, write."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    features, labels, random = labelled()
    folds = StratifiedKFold(8, shuffle=True, random_state=0)
    held_out = cross_val_predict(classifier(), features, labels, cv=folds, method="decision_function")
    report = {"faces": len(labels), "with_glasses": int(labels.sum())}
    for name, rows in (("all", np.full(len(labels), True)), ("random", random)):
        report[f"auc_{name}"] = round(float(roc_auc_score(labels[rows], held_out[rows])), 4)
        report[f"accuracy_{name}"] = round(float(((held_out > 0) == labels)[rows].mean()), 4)
        report[f"balanced_{name}"] = round(float(balanced_accuracy_score(labels[rows], held_out[rows] > 0)), 4)
    print(json.dumps(report))
    scaler, svm = classifier().fit(features, labels).steps
    tensors = {"mean": scaler[1].mean_, "sd": scaler[1].scale_, "weight": svm[1].coef_[0], "bias": svm[1].intercept_}
    with atomic_path(TARGET) as temporary:
        save_file({name: value.astype(np.float32) for name, value in tensors.items()}, temporary)


if __name__ == "__main__":
    main()
