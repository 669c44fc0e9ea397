"""Brain maps of a subject on disk: NIfTI on the mask's grid, GIFTI on fsaverage5, tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hyperdecode.mapping.assign import LayerMap
from hyperdecode.mapping.map_inference import MapInference
from hyperdecode.pipeline.map_regions import RegionTables
from hyperdecode.report.cortexfigure import layer_colours
from hyperdecode.study.derivatives import write_image, write_table
from hyperdecode.study.gifti import label_surface_maps, surface_maps, write_surface_maps
from hyperdecode.study.images import image_space, read_image
from hyperdecode.study.layout import Layout

__all__ = ["LayerFacts", "MapFiles", "SubjectMaps"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LayerFacts:
    """One layer of the map.

    Attributes
    ----------
    depth : int
        As PGGAN's layers are counted.
    name : str
        Of the generator's layer.
    similarity, blind : ndarray, shape (n_faces,)
        Euclidean similarity of each test face's activation with the predicted one, and with the mean training one.
    alpha : float
        Ridge penalty; NaN where the study's decoder was taken.
    """

    depth: int
    name: str
    similarity: Array
    blind: Array
    alpha: float

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.depth} ({self.name})"


@dataclass(frozen=True)
class SubjectMaps:
    """All that is mapped of a subject.

    Attributes
    ----------
    mask : nibabel image
        Whose grid the maps lie on.
    voxels : ndarray of int, shape (n_centres,)
        Place of each centre on the grid, flat in C order.
    faces : sequence of str
        Test stimuli.
    layers : sequence of LayerFacts
    inference : MapInference
    raw, thresholded : LayerMap
        The layer of each centre; of centres beyond chance alone.
    regions : RegionTables or None
        None where the mask has no place in an atlas.
    ceiling : ndarray, shape (n_voxels,), or None
        Noise ceiling of every voxel of the mask, for averages over repeats.
    ceiling_voxels : ndarray of int, shape (n_voxels,)
        Their places.
    """

    mask: Any
    voxels: NDArray[np.integer[Any]]
    faces: Sequence[str]
    layers: Sequence[LayerFacts]
    inference: MapInference
    raw: LayerMap
    thresholded: LayerMap
    regions: RegionTables | None
    ceiling: Array | None
    ceiling_voxels: NDArray[np.integer[Any]]


@dataclass(frozen=True)
class MapFiles:
    """Where the maps of a subject lie.

    Attributes
    ----------
    layout : Layout
    subject : str
    """

    layout: Layout
    subject: str

    def path(self, name: str) -> Path:
        """Return a file by the end of its name."""
        return self.layout.subject(self.subject, name)

    @cached_property
    def paths(self) -> tuple[Path, ...]:
        """Every file that `write` makes.

        Layer maps (raw and thresholded), losses, standardised losses, corrected p, noise ceiling; tables of layers, of
        regions and of single areas.
        """
        names = (
            "desc-layers_dseg.nii.gz",
            "desc-layersthresholded_dseg.nii.gz",
            "desc-layers_dseg.tsv",
            "desc-occlusion_loss.nii.gz",
            "desc-occlusion_z.nii.gz",
            "desc-occlusion_p.nii.gz",
            "desc-occlusion_layers.tsv",
            "desc-occlusion_faces.tsv",
            "desc-noiseceiling_map.nii.gz",
            "desc-layers_regions.tsv",
            "desc-layers_areas.tsv",
        )
        return tuple(self.path(name) for name in names)

    def write(self, maps: SubjectMaps) -> None:
        """Write all of them, each whole or not at all."""
        space = image_space(maps.mask)

        def image(name: str, values: NDArray[Any], voxels: NDArray[Any], kind: type, outside: float = 0) -> None:
            volume = np.full((int(np.prod(maps.mask.shape)), *values.shape[1:]), outside, kind)
            volume[voxels] = values
            volume = volume.reshape(*maps.mask.shape, *values.shape[1:])
            write_image(self.path(name), volume, maps.mask.affine, space=space)

        found = maps.inference
        image("desc-layers_dseg.nii.gz", maps.raw.layers + 1, maps.voxels, np.int16)
        image("desc-layersthresholded_dseg.nii.gz", maps.thresholded.layers + 1, maps.voxels, np.int16)
        image("desc-occlusion_loss.nii.gz", found.losses.T, maps.voxels, np.float32, np.nan)
        image("desc-occlusion_z.nii.gz", found.standardised.T, maps.voxels, np.float32, np.nan)
        # 1 where nothing was tested, so that a threshold on p shows nothing there.
        image("desc-occlusion_p.nii.gz", found.p_corrected.T, maps.voxels, np.float32, 1)
        ceiling = np.full(len(maps.ceiling_voxels), np.nan) if maps.ceiling is None else maps.ceiling
        image("desc-noiseceiling_map.nii.gz", ceiling, maps.ceiling_voxels, np.float32, np.nan)
        labels = pd.DataFrame({"index": range(1, len(maps.layers) + 1), "name": [layer.title for layer in maps.layers]})
        write_table(self.path("desc-layers_dseg.tsv"), labels)
        write_table(self.path("desc-occlusion_layers.tsv"), _layer_table(maps))
        faces = {f"depth_{layer.depth}": layer.similarity for layer in maps.layers}
        write_table(self.path("desc-occlusion_faces.tsv"), pd.DataFrame({"stim_file": list(maps.faces), **faces}))
        empty = pd.DataFrame(columns=["region", "layer"])
        tables = (empty, empty) if maps.regions is None else (maps.regions.groups, maps.regions.areas)
        write_table(self.path("desc-layers_regions.tsv"), tables[0])
        write_table(self.path("desc-layers_areas.tsv"), tables[1])
        if space == "mni":
            self._write_surfaces(maps)

    def _write_surfaces(self, maps: SubjectMaps) -> None:
        """Write layers and standardised losses on fsaverage5 too, for viewers of surfaces."""
        folder, titles = self.path("").parent, [layer.title for layer in maps.layers]
        for name in ("layers", "layersthresholded"):
            image = read_image(self.path(f"desc-{name}_dseg.nii.gz"), n_dimensions=3, blank=True)
            found = label_surface_maps(image, name, titles, layer_colours(len(titles)), "no layer")
            write_surface_maps(found, folder, f"sub-{self.subject}", f"desc-{name}_dseg")
        z = read_image(self.path("desc-occlusion_z.nii.gz"), n_dimensions=4)
        for k, layer in enumerate(maps.layers):
            name = f"occlusion{layer.depth}z"
            one = surface_maps(nib.Nifti1Image(np.asarray(z.dataobj[..., k]), z.affine), name)
            write_surface_maps(one, folder, f"sub-{self.subject}", f"desc-{name}_stat")


def _layer_table(maps: SubjectMaps) -> pd.DataFrame:
    """One row a layer: how well it is predicted, and how many centres have it."""
    significant = maps.inference.significant.sum(axis=1)
    rows = []
    for k, layer in enumerate(maps.layers):
        n = len(layer.similarity)
        rows.append(
            {
                "depth": layer.depth,
                "layer": layer.name,
                "similarity": layer.similarity.mean(),
                "standard_error": layer.similarity.std(ddof=1) / np.sqrt(n),
                "blind_similarity": layer.blind.mean(),
                "n_faces": n,
                "alpha": layer.alpha,
                "n_voxels": maps.raw.counts[k],
                "n_beyond_chance": significant[k],
                "n_voxels_thresholded": maps.thresholded.counts[k],
                "threshold_z": maps.inference.threshold[k],
            }
        )
    return pd.DataFrame(rows)
