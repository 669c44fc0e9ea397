"""Pictures of brain maps as PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyperdecode.files import atomic_path

__all__ = ["draw_contrast", "draw_mask", "draw_registration"]

SLICES = (-24, -18, -12, -6, 0, 10, 25, 45)


def draw_contrast(path: Path, z: Any, title: str, threshold: float = 3.1) -> None:
    """Draw a z-map (image in MNI space) as axial slices above a glass brain."""
    from matplotlib.figure import Figure
    from nilearn import plotting

    figure = Figure(figsize=(13, 6))
    top = max(float(np.nanmax(np.abs(np.asarray(z.dataobj)))), threshold + 0.1)
    common = {"threshold": threshold, "vmax": top, "figure": figure}
    plotting.plot_stat_map(
        z, display_mode="z", cut_coords=SLICES, axes=(0, 0.55, 1, 0.42), title=title, cmap="cold_hot", **common
    )
    plotting.plot_glass_brain(
        z, display_mode="lyrz", axes=(0, 0, 1, 0.52), plot_abs=False, colorbar=True, cmap="cold_hot", **common
    )
    _save(figure, path)


def draw_mask(path: Path, mask: Any, title: str) -> None:
    """Draw a mask (image in MNI space) on the template."""
    from matplotlib.figure import Figure
    from nilearn import plotting

    figure = Figure(figsize=(13, 3.2))
    plotting.plot_roi(mask, display_mode="z", cut_coords=SLICES, figure=figure, title=title, cmap="autumn")
    _save(figure, path)


def draw_registration(path: Path, mean: NDArray[np.floating], template: Any, affine: ArrayLike, title: str) -> None:
    """Draw the template's edges on the normalised mean functional: the check of the registration."""
    from matplotlib.figure import Figure
    from nilearn import plotting

    figure = Figure(figsize=(13, 6.4))
    image = nib.Nifti1Image(np.nan_to_num(mean).astype(np.float32), np.asarray(affine))
    top = float(np.percentile(np.nan_to_num(mean), 99.5))
    for k, (mode, cuts) in enumerate((("z", SLICES), ("x", (-45, -30, -15, 0, 15, 30, 45)))):
        display = plotting.plot_anat(
            image, display_mode=mode, cut_coords=cuts, figure=figure, axes=(0, 0.5 - 0.5 * k, 1, 0.48), vmax=top,
            title=title if k == 0 else None, colorbar=False,
        )  # fmt: skip
        levels = [part * float(np.max(template.dataobj)) for part in (0.3, 0.75)]
        display.add_contours(template, levels=levels, colors="r", linewidths=0.6)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png", facecolor="white")
