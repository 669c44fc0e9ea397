"""Regions of the visual cortex that respond in a simulated subject, and what each of them reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hyperdecode.errors import UserError

__all__ = ["REGIONS", "Region", "lookup", "region_labels"]


@dataclass(frozen=True)
class Region:
    """What the voxels of a region respond to; the numbers are assumptions of the simulation, not measurements.

    Attributes
    ----------
    short : str
        Name as in Glasser et al. (2016), without hemisphere.
    name : str
        Name in the atlas, without hemisphere.
    depth : float
        Which generator layers it reads: 0 those next to the latent, 1 the picture itself.
    response : float
        Mean response to a face, relative to V1's.
    field : float
        Receptive field: standard deviation as a share of the picture's side.
    lateral : float
        1: each hemisphere sees the other half of the picture alone; 0: both see all of it.
    """

    short: str
    name: str
    depth: float
    response: float
    field: float
    lateral: float


REGIONS: tuple[Region, ...] = (
    # Early: fine, local and on the other side.
    Region("V1", "Primary_Visual_Cortex", 0.98, 1.0, 0.07, 1.0),
    Region("V2", "Second_Visual_Area", 0.92, 1.0, 0.09, 1.0),
    Region("V3", "Third_Visual_Area", 0.84, 0.9, 0.11, 0.9),
    Region("V4", "Fourth_Visual_Area", 0.70, 0.9, 0.14, 0.8),
    # Dorsal stream: answers less to a still face.
    Region("V3A", "Area_V3A", 0.80, 0.6, 0.14, 0.8),
    Region("V3B", "Area_V3B", 0.76, 0.5, 0.16, 0.7),
    Region("V3CD", "Area_V3CD", 0.74, 0.6, 0.16, 0.7),
    Region("V6", "Sixth_Visual_Area", 0.80, 0.4, 0.18, 0.8),
    Region("V6A", "Area_V6A", 0.76, 0.3, 0.20, 0.6),
    Region("V7", "Seventh_Visual_Area", 0.70, 0.4, 0.18, 0.6),
    # Lateral occipital cortex and the motion complex.
    Region("LO1", "Area_Lateral_Occipital_1", 0.62, 0.7, 0.18, 0.6),
    Region("LO2", "Area_Lateral_Occipital_2", 0.54, 0.8, 0.20, 0.5),
    Region("LO3", "Area_Lateral_Occipital_3", 0.56, 0.6, 0.20, 0.5),
    Region("V4t", "Area_V4t", 0.56, 0.5, 0.20, 0.5),
    Region("MT", "Middle_Temporal_Area", 0.60, 0.5, 0.22, 0.5),
    Region("MST", "Medial_Superior_Temporal_Area", 0.58, 0.4, 0.25, 0.4),
    Region("FST", "Area_FST", 0.46, 0.4, 0.25, 0.3),
    Region("PH", "Area_PH", 0.40, 0.6, 0.25, 0.3),
    # Ventral stream; PIT holds the occipital face area, FFC and VVC the fusiform ones.
    Region("V8", "Eighth_Visual_Area", 0.50, 0.8, 0.20, 0.5),
    Region("VMV1", "VentroMedial_Visual_Area_1", 0.60, 0.4, 0.22, 0.4),
    Region("VMV2", "VentroMedial_Visual_Area_2", 0.52, 0.4, 0.24, 0.3),
    Region("VMV3", "VentroMedial_Visual_Area_3", 0.46, 0.5, 0.25, 0.3),
    Region("PIT", "Posterior_InferoTemporal_complex", 0.32, 1.1, 0.25, 0.3),
    Region("VVC", "Ventral_Visual_Complex", 0.22, 0.9, 0.30, 0.2),
    Region("FFC", "Fusiform_Face_Complex", 0.12, 1.2, 0.35, 0.1),
    # Further on: small answers, whole faces.
    Region("TE2p", "Area_TE2_posterior", 0.16, 0.5, 0.40, 0.1),
    Region("TF", "Area_TF", 0.10, 0.3, 0.40, 0.1),
    Region("STSvp", "Area_STSv_posterior", 0.20, 0.4, 0.40, 0.1),
)
"""Early visual cortex to face-selective cortex; groups after Glasser et al. (2016, supplement)."""


def region_labels(names: Mapping[int, str]) -> dict[int, Region]:
    """Find each region's two labels in an atlas.

    Parameters
    ----------
    names : mapping of int to str
        Label -> name ending in ``_L`` or ``_R``.

    Returns
    -------
    dict of int to Region

    Raises
    ------
    UserError
        When the atlas lacks a region.
    """
    label_of = {name: label for label, name in names.items()}
    found = {}
    for region in REGIONS:
        for side in "LR":
            if f"{region.name}_{side}" not in label_of:
                raise UserError(f"the atlas has no region {region.name}_{side}: give HCP-MMP1 (`load_atlas`)")
            found[label_of[f"{region.name}_{side}"]] = region
    return found


def lookup(labels: NDArray[np.int16], of: Mapping[int, Region], field: str) -> NDArray[np.float32]:
    """Return one property of the region of each label, (n,)."""
    table = np.zeros(max(of) + 1, np.float32)
    for label, region in of.items():
        table[label] = getattr(region, field)
    return table[labels]
