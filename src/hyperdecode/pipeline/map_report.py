"""What the report shows of a subject's brain maps, from the files that the map step left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.colors import ListedColormap

from hyperdecode.mapping.regions import RegionSet
from hyperdecode.mapping.surface import Hemisphere, regions_on_cortex
from hyperdecode.pipeline.map_files import MapFiles
from hyperdecode.pipeline.map_regions import map_regions
from hyperdecode.pipeline.records import read_facts
from hyperdecode.report.cortexfigure import cortex_value_figure, layer_colours
from hyperdecode.report.figures import Figure
from hyperdecode.report.layerfigure import LayerSimilarity, layer_figure
from hyperdecode.report.mapsection import MapReport, map_words, region_table_html
from hyperdecode.report.sliceviewer import interactive_slices
from hyperdecode.study.config import StudyConfig
from hyperdecode.study.images import image_space, read_image
from hyperdecode.study.layout import Layout
from hyperdecode.weights.atlas import load_atlas

__all__ = ["LayerDrawing", "layer_drawing", "map_report"]


def map_report(layout: Layout, config: StudyConfig, subject: str) -> MapReport | None:
    """Return the maps of a subject; None where the study asks for none or they were not made."""
    files = MapFiles(layout, subject)
    if config.mapping.readout == "none" or not all(path.is_file() for path in files.paths):
        return None
    layers = pd.read_csv(files.path("desc-occlusion_layers.tsv"), sep="\t")
    titles = _titles(layers)
    facts = read_facts(layout.records, f"map_sub-{subject}") | {"alpha": config.mapping.alpha}
    raw = read_image(files.path("desc-layers_dseg.nii.gz"), n_dimensions=3)
    held = read_image(files.path("desc-layersthresholded_dseg.nii.gz"), n_dimensions=3, blank=True)
    table = pd.read_csv(files.path("desc-layers_regions.tsv"), sep="\t")
    drawing = layer_drawing(layout, config, subject)
    figures = [] if drawing is None else _figures(layout, subject, drawing)
    return MapReport(
        f"sub-{subject}",
        map_words(layers, facts),
        figures,
        region_table_html(table),
        _viewers(layout, raw, held, titles),
    )


@dataclass(frozen=True)
class LayerDrawing:
    """What is drawn of a subject's layers, with its words.

    Attributes
    ----------
    parts : mapping of str to object
        Arguments of `hyperdecode.report.layerfigure.layer_figure`.
    titles : list of str
        Of the layers.
    n_voxels : list of int
        Voxels of each.
    caption : str
    """

    parts: Mapping[str, Any]
    titles: list[str]
    n_voxels: list[int]
    caption: str


def layer_drawing(layout: Layout, config: StudyConfig, subject: str) -> LayerDrawing | None:
    """Return the paper's Figure 8 of a subject whose maps are there; None where they are not in MNI space."""
    files = MapFiles(layout, subject)
    raw = read_image(files.path("desc-layers_dseg.nii.gz"), n_dimensions=3)
    if image_space(raw) != "mni":
        return None
    held = read_image(files.path("desc-layersthresholded_dseg.nii.gz"), n_dimensions=3, blank=True)
    layers = pd.read_csv(files.path("desc-occlusion_layers.tsv"), sep="\t")
    faces = pd.read_csv(files.path("desc-occlusion_faces.tsv"), sep="\t")
    values = np.asarray(raw.dataobj)
    where = np.argwhere(values > 0)
    regions = map_regions(layout.study, config.mapping, raw, where, config.mapping.regions)
    assert regions is not None
    names = [f"depth_{depth}" for depth in layers["depth"]]
    shown, what = (
        (held, "voxels beyond chance")
        if np.asarray(held.dataobj).any()
        else (raw, "all voxels, none of them beyond chance")
    )
    titles = _titles(layers)
    parts = {
        "layer_img": shown,
        "layer_names": titles,
        "layers": values[tuple(where.T)].astype(np.int64) - 1,
        "regions": regions,
        "similarity": LayerSimilarity(faces[names].to_numpy(float).T, layers["blind_similarity"].to_numpy(float)),
        "on_cortex": None if config.mapping.region_image else _regions_on_cortex(),
        "mask_img": raw if np.any((values > 0) & (np.asarray(shown.dataobj) == 0)) else None,
    }
    caption = (
        f"A: the layer whose decoded activation loses most similarity when the voxels around a "
        f"voxel are taken out ({what}; other voxels of the mask grey). B: the same of all voxels of the mask, by "
        "region. C: similarity of decoded and true activations from all voxels, mean and standard error over test "
        "faces; dashes: the training mean, which knows nothing of the brain."
    )
    return LayerDrawing(parts, titles, [int(n) for n in layers["n_voxels"]], caption)


def _titles(layers: pd.DataFrame) -> list[str]:
    return [f"{row.depth} ({row.layer})" for row in layers.itertuples()]


def _figures(layout: Layout, subject: str, drawing: LayerDrawing) -> list[Figure]:
    alt = f"Layers on the cortex of sub-{subject}: " + ", ".join(
        f"{title} in {n} voxels" for title, n in zip(drawing.titles, drawing.n_voxels, strict=True)
    )
    caption = f"The paper's Figure 8. {drawing.caption}"
    png = layer_figure(**drawing.parts)
    return [Figure(f"Layers on the brain of sub-{subject}", png, caption, alt), *_ceiling(layout, subject)]


def _ceiling(layout: Layout, subject: str) -> list[Figure]:
    image = read_image(MapFiles(layout, subject).path("desc-noiseceiling_map.nii.gz"), n_dimensions=3, blank=True)
    values = np.asarray(image.dataobj)
    if not np.isfinite(values).any():
        return []
    caption = (
        "Noise ceiling: the share of the variance over test faces, averaged over repeats, that any model of the face "
        "could explain. Where it is low no layer can be told."
    )
    alt = f"Noise ceiling on the cortex, median {np.nanmedian(values):.2f}."
    png = cortex_value_figure(image, label="noise ceiling")
    return [Figure(f"Noise ceiling of sub-{subject}", png, caption, alt)]


def _viewers(layout: Layout, raw: Any, held: Any, titles: list[str]) -> list[tuple[str, Markup]]:
    background = None if image_space(raw) == "mni" else _background(layout, raw)
    found = []
    colours = ListedColormap(layer_colours(len(titles)))
    for name, image in (("voxels beyond chance", held), ("all voxels", raw)):
        if np.asarray(image.dataobj).any():
            plain = nib.Nifti1Image(np.asarray(image.dataobj, np.float32), image.affine)
            title = f"Layers, {name}: " + ", ".join(f"{k} = {title}" for k, title in enumerate(titles, start=1))
            limits = (0.5, len(titles) + 0.5)
            found.append((title, interactive_slices(plain, background, title=title, cmap=colours, limits=limits)))
            break
    return found


def _background(layout: Layout, mask: Any) -> Any:
    """Return the mask itself as a brain, where there is no template for its space."""
    inside = (np.asarray(mask.dataobj) > 0).astype(np.float32)
    return nib.Nifti1Image(inside, mask.affine)


@cache
def _regions_on_cortex() -> dict[Hemisphere, RegionSet]:
    atlas = load_atlas()
    return regions_on_cortex(atlas.labels, atlas.affine, atlas.names)
