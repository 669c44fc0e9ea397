"""Slices of a brain map to click through: a fragment of HTML for the one-file report that asks for nothing else."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from matplotlib.colors import Colormap
from nibabel.affines import voxel_sizes
from nibabel.spatialimages import SpatialImage
from nilearn.datasets import load_mni152_template
from nilearn.image import new_img_like, resample_img
from nilearn.plotting import view_img

from hyperdecode.errors import UserError

__all__ = ["interactive_slices"]

VOXEL_SIZES = (2.0, 2.5, 3.0, 4.0, 6.0)
"""Of the drawn background, mm: the first that keeps the viewer small enough."""
ICON = re.compile(r"<link\s+rel=\"icon\"[^>]*>", re.DOTALL)
NAMED = re.compile(r"div_viewer-([0-9a-f]{32})")
"""What nilearn calls a viewer: a name drawn anew each time. Alone in its document it may have a fixed one."""
MADE = re.compile(r"\bbrain = (?=brainsprite\()")
KEYS = """<script>
(() => {
  const canvas = document.querySelector("canvas");
  const moves = {
    ArrowLeft: ["X", -1], ArrowRight: ["X", 1], PageDown: ["Y", -1], PageUp: ["Y", 1],
    ArrowDown: ["Z", -1], ArrowUp: ["Z", 1] };
  const say = where => canvas.setAttribute("aria-label",
    "Three crossing slices" + where + ". Arrow keys move left, right, down and up, page keys back and forth.");
  canvas.tabIndex = 0; canvas.setAttribute("role", "img"); say("");
  canvas.addEventListener("keydown", event => {
    const viewer = window.viewer, move = moves[event.key];
    if (!viewer || !move) return;
    event.preventDefault();
    const [axis, step] = move, at = viewer.numSlice, mm = viewer.coordinatesSlice;
    at[axis] = Math.max(0, Math.min(viewer.nbSlice[axis] - 1, at[axis] + step));
    viewer.init(); viewer.drawAll();
    say(" at " + ["X", "Y", "Z"].map(name => Math.round(mm[name])).join(", ") + " mm");
  });
})();
</script>"""
"""Keys for nilearn's viewer, which answers to a pointer alone."""
REMOTE = re.compile(r"(?:src|href)\s*=\s*[\"']?\s*(?:https?:)?//|url\(\s*[\"']?(?:https?:)?//|@import", re.IGNORECASE)


def interactive_slices(
    img: SpatialImage,
    background: SpatialImage | None = None,
    *,
    title: str,
    cmap: Colormap | str = "viridis",
    limits: tuple[float, float] | None = None,
    threshold: float = 1e-9,
    megabytes: float = 1.0,
) -> Markup:
    """Return a viewer of three crossing slices, a map in colour above a grey brain.

    It is nilearn's viewer in an ``iframe`` whose document is in the ``srcdoc`` attribute. It runs under a content
    security policy that lets inline scripts and styles and ``data:`` pictures through, and nothing else.

    Parameters
    ----------
    img : nibabel image, 3D
        NaN or 0 outside the mask. Drawn without interpolation.
    background : nibabel image, 3D, optional
        Drawn below. Default: the MNI152 template that nilearn ships, right for maps in MNI space alone.
    title : str
        Name of the frame for who does not see it.
    cmap : matplotlib colour map or its name
    limits : (float, float), optional
        Values of the two ends of the colours. Default: the 2nd and 98th percentile of the map.
    threshold : float
        Values below it in size are not drawn.
    megabytes : float
        The most that the fragment may take; the background is drawn in larger voxels until it fits.

    Returns
    -------
    markupsafe.Markup

    Raises
    ------
    UserError
        When the map is not 3D or empty, or does not fit at the coarsest resolution.
    """
    values = np.asarray(img.dataobj, dtype=np.float32)
    shown = np.isfinite(values) & (np.abs(values) >= threshold)
    if values.ndim != 3 or not shown.any():
        raise UserError(f"slices need one 3D map with values in it, got shape {values.shape}")
    low, high = limits or tuple(float(end) for end in np.percentile(values[shown], [2, 98]))
    style = {"cmap": cmap, "vmin": low, "vmax": max(high, low + 1e-6), "symmetric_cmap": False, "threshold": threshold}
    plain = new_img_like(img, np.nan_to_num(values))
    under = load_mni152_template(resolution=2) if background is None else background
    for size in VOXEL_SIZES:
        fragment = _frame(_document(plain, _coarser(under, size), style), title)
        if len(fragment) <= megabytes * 1e6:
            return fragment
    raise UserError(f"the slices take more than {megabytes} MB in voxels of {VOXEL_SIZES[-1]:.0f} mm: allow more")


def _coarser(image: SpatialImage, size: float) -> Any:
    """Return an image in voxels of at least that size (mm); finer ones are resampled on an upright grid."""
    if voxel_sizes(image.affine).max() >= size:
        return image
    return resample_img(
        image, target_affine=np.diag([size] * 3), interpolation="linear", copy_header=True, force_resample=True
    )


def _document(img: Any, background: Any, style: dict[str, Any]) -> str:
    view = view_img(img, bg_img=background, resampling_interpolation="nearest", black_bg=False, colorbar=True, **style)
    page = ICON.sub("", str(view.html))
    if drawn := NAMED.search(page):
        page = page.replace(drawn[1], "slices")
    if found := REMOTE.search(page):
        raise UserError(
            f"nilearn's viewer would ask for {page[found.start() : found.start() + 60]!r}: please report this"
        )
    return MADE.sub("brain = window.viewer = ", page).replace("</body>", f"{KEYS}</body>", 1)


def _frame(page: str, title: str) -> Markup:
    return Markup(
        '<iframe class="slices" title="{}" srcdoc="{}" width="620" height="360" loading="lazy" '
        'style="border:0;max-width:100%"></iframe>'
    ).format(title, escape(page))
