"""Is any test face of a study a near-duplicate of a training face, in latents or to the eye."""

from __future__ import annotations

from hyperdecode.stimuli.duplicates import NeighbourCheck, nearest_neighbours, picture_vectors
from hyperdecode.study.stimulus_set import StimulusSet, read_picture

__all__ = ["check_stimuli_apart"]


def check_stimuli_apart(stimuli: StimulusSet) -> dict[str, NeighbourCheck]:
    """Compare test with training faces in latent space and in picture space.

    Parameters
    ----------
    stimuli : StimulusSet

    Returns
    -------
    dict of str to NeighbourCheck
        ``"latent space"`` and ``"picture space"``.
    """
    test, train = stimuli.names("test"), stimuli.names("train")
    latents = (stimuli.latents(names, "w").numpy() for names in (test, train))
    pictures = (picture_vectors(read_picture(stimuli.folder / name) for name in names) for names in (test, train))
    return {"latent space": nearest_neighbours(*latents), "picture space": nearest_neighbours(*pictures)}
