"""Masked trials of a subject as a dictionary of arrays, to look at and to change."""

from hyperdecode.study.trial_store import open_store, write_store


def load_masked(path):
    store = open_store(path)
    return {"z": store[:], "voxels": store.voxels}


def save_masked(arrays, path):
    with write_store(path, len(arrays["z"]), arrays["voxels"]) as writer:
        writer.add(arrays["z"])
