"""PGGAN (Karras, Aila, Laine, Lehtinen 2018, arXiv:1710.10196): z -> 4 x 4 maps -> doubled until they are a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NoReturn, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperdecode.errors import UserError
from hyperdecode.generators.base import sample_z
from hyperdecode.generators.layers import frozen
from hyperdecode.generators.pggan_cpu import PGGANStrips
from hyperdecode.generators.pggan_parts import SLOPE, layer_at, pixel_norm, require_shapes, side_of
from hyperdecode.generators.windows import Window
from hyperdecode.weights.store import tensors_digest

__all__ = ["PGGAN"]


class PGGAN(nn.Module):
    """The generator of "Progressive growing of GANs", exact, at any resolution from 4 to 1024 px.

    ``x_0 = PN(z)``; ``x_k = PN(leaky(W_k * U(x_{k - 1}) + b_k))``; ``picture = V x_last + c``, where
    ``PN(x) = x / sqrt(mean_channels x^2 + 1e-8)``, leaky has slope 0.2, ``W_1`` is dense (latent -> 4 x 4), the other
    ``W_k`` are 3 x 3, and U doubles the side (nearest neighbour) in front of layers 3, 5, 7, ...

    Layers are numbered as Dado et al. (2022) count them: 1-18 are the convolutions of a 1024 px network and 19 is its
    picture; smaller networks have fewer. The activation of a convolution is what the next layer reads: behind
    bias, leaky ReLU and pixel normalisation. (The authors' notebook takes the same place: the outputs of its blocks
    of two convolutions, whose last step is the pixel normalisation.)

    A picture depends on the direction of z alone.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        ``conv.1.weight`` (out, latent, 4, 4) with ``y[o, i, j] = sum_c W[o, c, i, j] z_c``; ``conv.{k}.weight``
        (out, in, 3, 3), a cross-correlation as in torch; ``conv.{k}.bias`` (out,); ``to_rgb.{side}.weight`` (3, in) and
        ``to_rgb.{side}.bias`` (3,), of the full side and of any lower ones; optionally ``lod`` (), how far the
        network is from having grown: at 0.3 the picture is 0.7 of its own colours and 0.3 of those at half the side;
        at 1 or more it is that of a lower resolution, enlarged by nearest neighbour.
    name : str
        Name in manifests.

    Attributes
    ----------
    resolutions : tuple of int
        The sides whose colours the weights hold, lowest first. A lower one shows what the network made when it had
        grown so far; its colours were not trained behind that, so they may be off.
    lod : float
        Level of detail, 0 for a grown network.
    fingerprint : str
        SHA-256 over names and values of `tensors`.

    Raises
    ------
    WeightFileError
        When a tensor is absent, unknown, or has a shape that does not fit the others.
    """

    spaces: tuple[str, ...] = ("z",)
    picture_space = "z"

    def __init__(self, tensors: Mapping[str, Tensor], name: str = "pggan") -> None:
        super().__init__()
        depth, sides, self.lod = require_shapes(tensors)
        self.name = name
        self.fingerprint = tensors_digest({key: value.numpy(force=True) for key, value in tensors.items()})
        self.latent_dim = int(tensors["conv.1.weight"].shape[1])
        self.resolution = side_of(depth)
        grown = self.resolution >> math.floor(self.lod)
        self.resolutions = (*(s for s in sides if s <= grown and s < self.resolution), self.resolution)
        self.layer_names = tuple(str(k) for k in range(1, depth + 2))
        layers = range(1, depth + 1)
        self.weights = nn.ParameterList(frozen(tensors[f"conv.{k}.weight"]) for k in layers)
        self.biases = nn.ParameterList(frozen(tensors[f"conv.{k}.bias"]) for k in layers)
        self.to_rgb_weights = nn.ParameterDict({str(s): frozen(tensors[f"to_rgb.{s}.weight"]) for s in sides})
        self.to_rgb_biases = nn.ParameterDict({str(s): frozen(tensors[f"to_rgb.{s}.bias"]) for s in sides})
        self._strips_of: tuple[list[tuple[int, int]], PGGANStrips] | None = None
        self.train(False)

    def w_statistics(self) -> tuple[Tensor, Tensor]:
        """PGGAN has no w: always a `UserError`."""
        self._refuse_w()

    def to_w(self, z: Tensor, truncation: float = 1.0) -> Tensor:
        """PGGAN has no w: always a `UserError`."""
        self._refuse_w()

    def _refuse_w(self) -> NoReturn:
        raise UserError(f"{self.name} is a PGGAN, which has no w: use latents of space 'z'")

    def sample(self, n: int, seed: int) -> Tensor:
        """Draw `n` latents z from N(0, I), (n, latent_dim) float32 (see `sample_z`)."""
        return sample_z(n, self.latent_dim, seed)

    def picture_fingerprint(self, resolution: int) -> str:
        """SHA-256 over all weights; a lower resolution is made by layers of the same network."""
        return self.fingerprint

    def images(self, latents: Tensor, *, space: str | None = None, resolution: int | None = None) -> Tensor:
        """Make pictures.

        Without gradients, on a CPU, they are made one by one in strips that stay in the cache; else as one
        batch. Both give the same numbers up to the rounding of float32.

        Parameters
        ----------
        latents : Tensor, (n, latent_dim)
            Normalised before they are cast to the type of the weights.
        space : {"z"}, optional
            The only space that there is.
        resolution : int, optional
            One of `resolutions`. Default: the full side.

        Returns
        -------
        Tensor, (n, 3, resolution, resolution)
            Nominally in -1..1, not clipped.

        Raises
        ------
        UserError
            For latents of another shape, or a space or resolution that the generator does not have.
        """
        side = self.resolution if resolution is None else resolution
        if side not in self.resolutions:
            raise UserError(f"{self.name} makes pictures of {self.resolutions} px, not {side}: choose one of these")
        _, picture = self._collect(self._normalised(latents, space), {}, side, Window(0, side))
        return picture

    def activations(
        self, latents: Tensor, layers: Sequence[str], *, space: str | None = None, crop: int | None = None
    ) -> dict[str, Tensor]:
        """Return the activations of the named layers; no layer behind the last one named is computed.

        Parameters
        ----------
        latents : Tensor, (n, latent_dim)
        layers : sequence of str
            Among `layer_names`.
        space : {"z"}, optional
            The only space that there is.
        crop : int, optional
            Side in pixels of the centre crop of each map, from row and column ``(side - crop) // 2`` on; smaller maps
            are given whole. Only what the crops depend on is computed. (The paper used centre crops and does not say of
            what size; the authors' published code crops nothing.)

        Returns
        -------
        dict of str to Tensor, (n, channels, height, width)

        Raises
        ------
        UserError
            For latents of another shape, or a layer, space or crop that the generator does not have.
        """
        unknown = [name for name in layers if name not in self.layer_names]
        if unknown:
            raise UserError(f"{self.name} has no layer {unknown[0]!r}: choose among {', '.join(self.layer_names)}")
        if crop is not None and crop < 1:
            raise UserError(f"a centre crop of {crop} px holds nothing: give a side of 1 px or more")
        x = self._normalised(latents, space)
        if not layers:
            return {}
        picture = self.layer_names[-1]
        crops = {int(name): Window.centre(side_of(int(name)), crop) for name in layers if name != picture}
        side = self.resolution if picture in layers else None
        maps, image = self._collect(x, crops, side, Window.centre(self.resolution, crop))
        return {name: image if name == picture else maps[int(name)] for name in layers}

    def _sources(self, side: int) -> tuple[tuple[int, float], ...]:
        """Sides whose colours make the picture of `side` px, each with its share: two while the network grows."""
        if side != self.resolution:
            return ((side, 1.0),)
        grown, fading = self.resolution >> math.floor(self.lod), self.lod % 1
        return ((grown, 1.0 - fading), (grown // 2, fading)) if fading else ((grown, 1.0),)

    def _collect(
        self, x: Tensor, crops: Mapping[int, Window], side: int | None, window: Window
    ) -> tuple[dict[int, Tensor], Tensor]:
        """Return the maps in `crops`, and the picture of `side` px as far as `window` goes (empty without a side)."""
        shares = () if side is None else self._sources(side)
        windows = {source: window.shrunk((side or 0) // source) for source, _ in shares}
        whole = all(seen == Window(0, side_of(k)) for k, seen in crops.items())
        if self._on_cpu_without_gradients(x) and whole and all(seen == Window(0, s) for s, seen in windows.items()):
            maps, colours = self._by_strips(x, crops, windows)
        else:
            maps, colours = self._by_batch(x, crops, windows)
        if side is None:
            return maps, x.new_empty(0)
        pictures = [windows[s].enlarged(colours[s], side // s, window) for s in windows]
        return maps, pictures[0] if len(pictures) == 1 else torch.lerp(pictures[0], pictures[1], shares[1][1])

    def _by_strips(
        self, x: Tensor, layers: Collection[int], sides: Collection[int]
    ) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Make whole maps and colours, one face after the other."""
        maps = {k: x.new_empty(len(x), len(self.biases[k - 1]), side_of(k), side_of(k)) for k in layers}
        colours = {side: x.new_empty(len(x), 3, side, side) for side in sides}
        with torch.no_grad():
            for n, z in enumerate(x):
                for made, kept in zip(self._strips.run(z, layers, sides), (maps, colours), strict=True):
                    for key, value in made.items():
                        kept[key][n] = value
        return maps, colours

    def _by_batch(
        self, x: Tensor, crops: Mapping[int, Window], windows: Mapping[int, Window]
    ) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Make the maps of the layers in `crops` and the colours of the sides in `windows` of all faces at once."""
        needed = dict(crops)
        for side, seen in windows.items():
            needed[layer_at(side)] = seen.hull(needed.get(layer_at(side)))
        held = self._maps(x, needed)
        maps = {k: needed[k].cut(held[k], crop) for k, crop in crops.items()}
        features = {side: needed[layer_at(side)].cut(held[layer_at(side)], seen) for side, seen in windows.items()}
        return maps, {side: self._colours(value, side) for side, value in features.items()}

    def _colours(self, x: Tensor, side: int) -> Tensor:
        """Colours (n, 3, h, w) of features x (n, channels, h, w) of the last layer at `side` px."""
        weight = self.to_rgb_weights[str(side)]
        return F.conv2d(x, weight[:, :, None, None], self.to_rgb_biases[str(side)])

    def _maps(self, x: Tensor, needed: Mapping[int, Window]) -> dict[int, Tensor]:
        """Run the convolutions as one batch, each only where the windows `needed` of itself and later ones reach."""
        windows = _reach(needed)
        y = torch.einsum("ocij,nc->noij", self.weights[0], x) + self.biases[0][:, None, None]
        maps = {1: pixel_norm(F.leaky_relu_(y, SLOPE))}
        for k in range(2, max(needed) + 1):
            maps[k] = self._convolution(k, maps[k - 1], windows[k - 1], windows[k])
            if k - 1 not in needed:
                del maps[k - 1]
        return {k: windows[k].cut(maps[k], window) for k, window in needed.items()}

    def _convolution(self, k: int, x: Tensor, held: Window, wanted: Window) -> Tensor:
        """Layer k on the window `wanted`, from the map of the layer before it on the window `held`."""
        if k % 2:
            x, held = F.interpolate(x, scale_factor=2.0, mode="nearest"), Window(2 * held.start, 2 * held.stop)
        reach = wanted.grown(side_of(k))
        # The map's own border is padded with zeros; at a border of the window the next pixels are there.
        before, behind = reach.start + 1 - wanted.start, wanted.stop + 1 - reach.stop
        x = held.cut(x, reach)
        if before != behind:
            x = F.pad(x, (before, behind, before, behind))
        y = F.conv2d(x, self.weights[k - 1], self.biases[k - 1], padding=before if before == behind else 0)
        return pixel_norm(F.leaky_relu_(y, SLOPE))

    @property
    def _strips(self) -> PGGANStrips:
        """The strips, which hold rearranged copies of the weights: anew when these have changed."""
        state = [(id(p), 0 if p.is_inference() else p._version) for p in self.parameters()]
        if self._strips_of is None or self._strips_of[0] != state:
            colours = {int(side): (weight, self.to_rgb_biases[side]) for side, weight in self.to_rgb_weights.items()}
            self._strips_of = state, PGGANStrips(list(self.weights), list(self.biases), colours)
        return self._strips_of[1]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._strips_of = None  # a cast or a move changes the weights without a new version
        return cast(Self, super()._apply(fn, recurse))  # type: ignore[no-untyped-call]

    def _on_cpu_without_gradients(self, x: Tensor) -> bool:
        gradients = torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in self.parameters()))
        return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and not gradients

    def _normalised(self, latents: Tensor, space: str | None) -> Tensor:
        if space not in (None, *self.spaces):
            raise UserError(f"{self.name} has no latent space {space!r}: a PGGAN has 'z' alone")
        if latents.ndim != 2 or latents.shape[1] != self.latent_dim:
            raise UserError(f"{self.name} takes latents of shape (n, {self.latent_dim}), got {tuple(latents.shape)}")
        dtype = self.weights[0].dtype
        return pixel_norm(latents.to(torch.promote_types(latents.dtype, dtype))).to(dtype)


def _reach(needed: Mapping[int, Window]) -> dict[int, Window]:
    """Window of each layer that the windows `needed` of itself and of later ones depend on."""
    windows: dict[int, Window] = {}
    reached: Window | None = None
    for k in range(max(needed), 0, -1):
        windows[k] = needed[k].hull(reached) if k in needed else reached or Window(0, side_of(k))
        reached = windows[k].grown(side_of(k))
        reached = reached.shrunk(2) if k % 2 else reached
    windows[1] = Window(0, side_of(1))
    return windows
