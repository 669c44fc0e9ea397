"""MobileStyleGAN (Belousov 2021, arXiv:2104.04767): z -> w -> styled separable convolutions -> wavelet -> picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperdecode.errors import UserError, WeightFileError
from hyperdecode.files import sha256_bytes
from hyperdecode.generators.base import sample_z, taken
from hyperdecode.generators.cropped import CroppedSynthesis
from hyperdecode.generators.heads import EarlyExitHead
from hyperdecode.generators.layers import SLOPE, Block, Style, StyledConvolution, below, frozen, haar_upsample
from hyperdecode.generators.tiled import TiledSynthesis
from hyperdecode.generators.windows import Window, require_crop
from hyperdecode.threads import side_by_side
from hyperdecode.weights.store import tensors_digest

__all__ = ["MobileStyleGAN"]

MEAN_W_SAMPLES = 16_384
MEAN_W_SEED = 0
PRECISIONS = ("float32", "bfloat16")
BATCHED_SIDE = 32
"""Crops that are whole maps are made for many faces at once up to this side, face by face in strips above it."""


class MobileStyleGAN(nn.Module):
    """A light StyleGAN2 student for faces, with early exits.

    ``w = f(z / rms(z))`` by eight linear layers with leaky ReLU; each convolution scales its input channels by
    an affine function of w; features double their side by the inverse Haar transform; the last features give
    the four wavelet bands of the picture. Noise inputs and demodulation are constants of the exported network.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        Weights by the names of `hyperdecode.weights.mobilestylegan.tensors_from_ir`.
    heads : mapping of int to EarlyExitHead, optional
        Early exits by the side of their picture in pixels.
    name : str
        Name in manifests.

    Attributes
    ----------
    fingerprint : str
        SHA-256 over names and values of `tensors` (the early exits, which approximate the same faces, left out).

    Raises
    ------
    WeightFileError
        When a tensor is absent or has a shape that does not fit the others.
    """

    spaces: tuple[str, ...] = ("z", "w")
    picture_space = "w"

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        heads: Mapping[int, EarlyExitHead] | None = None,
        name: str = "mobilestylegan-ffhq",
    ) -> None:
        super().__init__()
        self.name = name
        self.fingerprint = tensors_digest({key: value.numpy() for key, value in tensors.items()})
        try:
            self._build(tensors)
        except KeyError as error:
            raise WeightFileError(f"MobileStyleGAN weights lack the tensor {error}: fetch them anew") from None
        self._require_shapes(tensors)
        heads = dict(sorted((heads or {}).items()))
        self._require_places(heads)
        self.heads = nn.ModuleDict({str(side): head for side, head in heads.items()})
        self.resolution = 2 * int(self.blocks[-1].conv2.noise.shape[-1])
        self.resolutions = (*heads, self.resolution)
        self.layer_names = (
            "b4.conv",
            *(f"b{2 ** (3 + i)}.conv{k}" for i in range(len(self.blocks)) for k in (1, 2)),
            "image",
        )
        self._kept_crops: tuple[tuple[int | str, ...], CroppedSynthesis] | None = None
        self.requires_grad_(False)
        self.train(False)

    def _build(self, tensors: Mapping[str, Tensor]) -> None:
        depth = len({key.split(".")[1] for key in tensors if key.startswith("mapping.")})
        n_blocks = len({key.split(".")[2] for key in tensors if key.startswith("synthesis.blocks.")})
        if not depth or not n_blocks:
            raise WeightFileError("these tensors hold no MobileStyleGAN (no mapping layers or no synthesis blocks)")
        self.mapping_weights = nn.ParameterList(frozen(tensors[f"mapping.{k}.weight"]) for k in range(depth))
        self.mapping_biases = nn.ParameterList(frozen(tensors[f"mapping.{k}.bias"]) for k in range(depth))
        self.latent_dim = int(self.mapping_weights[0].shape[1])
        synthesis = below(tensors, "synthesis")
        self.input = frozen(synthesis["input"])
        self.conv0 = StyledConvolution(below(synthesis, "conv0"))
        self.block_modules = nn.ModuleList(Block(below(synthesis, f"blocks.{i}")) for i in range(n_blocks))
        self.to_rgb_style = Style(below(synthesis, "to_rgb"))
        self.to_rgb_weight = frozen(synthesis["to_rgb.weight"])
        self.to_rgb_bias = frozen(synthesis["to_rgb.bias"])

    def _require_shapes(self, tensors: Mapping[str, Tensor]) -> None:
        """Refuse tensors that do not fit together before one of them is broadcast, or fails, far from its cause."""
        expected: dict[str, tuple[int, ...]] = {}
        z = self.latent_dim
        for k in range(len(self.mapping_weights)):
            expected |= {f"mapping.{k}.weight": (z, z), f"mapping.{k}.bias": (z,)}

        def style(name: str, channels: int) -> None:
            expected.update({f"{name}.style.weight": (channels, z), f"{name}.style.bias": (channels,)})

        def convolution(name: str, inward: int, side: int) -> int:
            style(name, inward)
            separable = f"{name}.depthwise" in tensors
            outward, kernel = len(tensors[f"{name}.weight"]), 1 if separable else 3
            if separable:
                expected[f"{name}.depthwise"] = (inward, 1, 3, 3)
            expected[f"{name}.weight"] = (outward, inward, kernel, kernel)
            expected.update({f"{name}.noise": (side, side), f"{name}.bias": (outward,)})
            return outward

        side, channels = 4, len(tensors["synthesis.input"])
        expected["synthesis.input"] = (channels, side, side)
        channels = convolution("synthesis.conv0", channels, side)
        for i in range(len(self.blocks)):
            side *= 2
            style(f"synthesis.blocks.{i}.up", channels)
            channels = convolution(f"synthesis.blocks.{i}.conv1", channels // 4, side)
            channels = convolution(f"synthesis.blocks.{i}.conv2", channels, side)
        style("synthesis.to_rgb", channels)
        expected |= {"synthesis.to_rgb.weight": (12, channels, 1, 1), "synthesis.to_rgb.bias": (12,)}
        for name, shape in expected.items():
            if tuple(tensors[name].shape) != shape:
                raise WeightFileError(
                    f"MobileStyleGAN weights do not fit together: {name} has shape {tuple(tensors[name].shape)}, "
                    f"expected {shape}: fetch them anew"
                )

    def _require_places(self, heads: Mapping[int, EarlyExitHead]) -> None:
        """Refuse early exits that read a layer of another side, or one where the strips cannot stop."""
        for side, head in heads.items():
            places = [f"b{side}.conv{k}" for k in (1, 2)] if 8 <= side < 4 * 2 ** len(self.blocks) else []
            if head.layer not in places:
                raise WeightFileError(f"an early exit of {side} px cannot read layer {head.layer}")

    @property
    def blocks(self) -> list[Block]:
        """Blocks of the synthesis network, from 8 px on."""
        return [cast(Block, block) for block in self.block_modules]

    def head(self, side: int) -> EarlyExitHead:
        """Early exit that makes pictures of `side` px."""
        return cast(EarlyExitHead, self.heads[str(side)])

    def w_statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each dimension of w, (latent_dim,) each, over 16,384 seeded z."""
        return self._w_statistics

    @cached_property
    def _w_statistics(self) -> tuple[Tensor, Tensor]:
        # Kept for good, so they must not be inference tensors, which no gradient may pass, whoever asks first.
        with torch.inference_mode(False), torch.no_grad():
            w = self.to_w(sample_z_block(MEAN_W_SAMPLES, self.latent_dim, MEAN_W_SEED).to(self.input))
            return w.mean(0), w.std(0)

    def sample(self, n: int, seed: int) -> Tensor:
        """Draw `n` latents z from N(0, I), (n, latent_dim) float32 (see `sample_z`)."""
        return sample_z(n, self.latent_dim, seed)

    def to_w(self, z: Tensor, truncation: float = 1.0) -> Tensor:
        """Map latents z to w, optionally pulled towards the mean w.

        ``w = mean + truncation (f(z / rms(z)) - mean)``

        Parameters
        ----------
        z : Tensor, (n, latent_dim)
        truncation : float
            1 leaves w as it is, 0 gives the average face.

        Returns
        -------
        Tensor, (n, latent_dim)

        Raises
        ------
        UserError
            When z does not have `latent_dim` columns.
        """
        self._check(z)
        x = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        for weight, bias in zip(self.mapping_weights, self.mapping_biases, strict=True):
            x = F.leaky_relu(F.linear(x, weight, bias), SLOPE) * 2**0.5
        if truncation == 1.0:
            return x
        mean, _ = self.w_statistics()
        return mean + truncation * (x - mean)

    def picture_fingerprint(self, resolution: int) -> str:
        """SHA-256 over all weights behind a picture of that side: the network, and the early exit if it is one."""
        if str(resolution) not in self.heads:
            return self.fingerprint
        head = {key: value.numpy(force=True) for key, value in self.head(resolution).state_dict().items()}
        return sha256_bytes(f"{self.fingerprint}{tensors_digest(head)}".encode())

    def images(
        self, latents: Tensor, *, space: str | None = None, resolution: int | None = None, precision: str = "float32"
    ) -> Tensor:
        """Make pictures.

        Without gradients on a CPU the pictures are made in strips that stay in the cache, each picture on one thread
        and several side by side: several times faster than a batch, and the same bits by any number of threads. With
        gradients, or on a GPU, they are made as one batch. Both give the same numbers up to the rounding of float32.

        Parameters
        ----------
        latents : Tensor, (n, latent_dim)
        space : {"w", "z"}, optional
            The space of `latents`. Default: w.
        resolution : int, optional
            One of `resolutions`; a side below the full one is made by its early exit. Default: the full side.
        precision : {"float32", "bfloat16"}
            Of the pass strip by strip. Some CPUs make early exits in half the time in bfloat16, others are slower
            (``benchmarks/generators.py`` tells), at an error far below that of the exit itself; the full picture should
            stay in float32.

        Returns
        -------
        Tensor, (n, 3, resolution, resolution)
            Nominally in -1..1, not clipped.

        Raises
        ------
        UserError
            For a space, resolution or precision that the generator does not have.
        """
        w = self._as_w(latents, space)
        side = self.resolution if resolution is None else resolution
        if side not in self.resolutions:
            raise UserError(f"{self.name} makes pictures of {self.resolutions} px, not {side}: choose one of these")
        if precision not in PRECISIONS:
            raise UserError(
                f"{self.name} computes in {' or '.join(PRECISIONS)}, not {precision!r}: choose one of these"
            )
        if self._on_cpu_without_gradients(w):
            tiled = self._tiled if precision == "float32" else self._tiled_bfloat16

            @torch.inference_mode()
            def picture_of(row: Tensor) -> Tensor:
                return tiled.image(row[None], side).float()

            pictures = side_by_side(picture_of, list(w))
            return torch.cat(pictures).clone() if pictures else w.new_empty(0, 3, side, side)
        if side == self.resolution:
            return taken(self._layers(w), ("image",))["image"]
        head = self.head(side)
        picture: Tensor = head(taken(self._layers(w), (head.layer,))[head.layer], w)
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
        space : {"w", "z"}, optional
            Default: w.
        crop : int, optional
            Side in pixels of the centre crop of each map, from row and column ``(side - crop) // 2`` on; smaller maps
            are given whole. Only what the crops depend on is computed, as one batch.

        Returns
        -------
        dict of str to Tensor, (n, channels, height, width)

        Raises
        ------
        UserError
            For a layer, space or crop that the generator does not have.
        """
        unknown = [name for name in layers if name not in self.layer_names]
        if unknown:
            raise UserError(f"{self.name} has no layer {unknown[0]!r}: choose among {', '.join(self.layer_names)}")
        require_crop(crop)
        w = self._as_w(latents, space)
        sides = [self._sides[name] for name in layers]
        if crop is not None and sides and (any(crop < side for side in sides) or max(sides) <= BATCHED_SIDE):
            return self._crops(w, layers, crop)
        if not (self._on_cpu_without_gradients(w) and len(w)):
            return taken(self._layers(w), layers)
        tiled = self._tiled

        @torch.inference_mode()
        def activations_of(row: Tensor) -> dict[str, Tensor]:
            return tiled.activations(row[None], set(layers))

        faces = side_by_side(activations_of, list(w))
        return {name: torch.cat([face[name] for face in faces]).clone() for name in layers}

    def _crops(self, w: Tensor, layers: Sequence[str], crop: int) -> dict[str, Tensor]:
        """Centre crops of the named layers, from a pass no wider than they need."""
        sides = self._sides
        wanted = {name: Window.centre(sides[name], crop) for name in layers}
        windows = _reach(self.layer_names, sides, wanted)
        if self._on_cpu_without_gradients(w) and len(w):
            with torch.no_grad():
                crops = self._cropped(crop, windows, wanted).activations(w)
            return {name: crops[name].contiguous() for name in layers}
        found = taken(self._layers(w, windows), layers)
        return {name: windows[name].cut(found[name], wanted[name]) for name in layers}

    def _cropped(self, crop: int, windows: Mapping[str, Window], wanted: Mapping[str, Window]) -> CroppedSynthesis:
        """Return what makes these crops; its rearranged weights are kept until others are asked for."""
        asked: tuple[int | str, ...] = (crop, *sorted(wanted))
        if self._kept_crops is None or self._kept_crops[0] != asked:
            self._kept_crops = asked, CroppedSynthesis(self, windows, wanted)
        return self._kept_crops[1]

    @property
    def _sides(self) -> dict[str, int]:
        """Side of the map of each layer."""
        sides = (4, *(8 * 2**i for i in range(len(self.blocks)) for _ in (1, 2)), self.resolution)
        return dict(zip(self.layer_names, sides, strict=True))

    def _layers(self, w: Tensor, windows: Mapping[str, Window] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Run the synthesis network layer by layer, as one batch, each layer on its window (default: all of it)."""
        windows = windows or {name: Window(0, side) for name, side in self._sides.items()}
        names = iter(self.layer_names)
        name = next(names)
        held = windows[name]
        x = self.conv0(self.input.expand(len(w), -1, -1, -1), w, wanted=held)
        yield name, x
        for block in self.blocks:
            x, held = haar_upsample(x * block.up(w)), held.doubled()
            for convolution in (block.conv1, block.conv2):
                name = next(names)
                x, held = convolution(x, w, held, windows[name]), windows[name]
                yield name, x
        name = next(names)
        bands = F.conv2d(x * self.to_rgb_style(w), self.to_rgb_weight, self.to_rgb_bias)
        yield name, held.doubled().cut(haar_upsample(bands), windows[name])

    def _on_cpu_without_gradients(self, w: Tensor) -> bool:
        gradients = torch.is_grad_enabled() and (w.requires_grad or self.input.requires_grad)
        return w.device.type == "cpu" and w.dtype == torch.float32 and not gradients

    @cached_property
    def _tiled(self) -> TiledSynthesis:
        return TiledSynthesis(self)

    @cached_property
    def _tiled_bfloat16(self) -> TiledSynthesis:
        return TiledSynthesis(self, torch.bfloat16)

    def _as_w(self, latents: Tensor, space: str | None) -> Tensor:
        space = space or self.picture_space
        if space not in self.spaces:
            raise UserError(f"{self.name} has no latent space {space!r}: choose 'z' or 'w'")
        self._check(latents)
        return self.to_w(latents) if space == "z" else latents

    def _check(self, latents: Tensor) -> None:
        if latents.ndim != 2 or latents.shape[1] != self.latent_dim:
            raise UserError(f"{self.name} takes latents of shape (n, {self.latent_dim}), got {tuple(latents.shape)}")


def _reach(names: Sequence[str], sides: Mapping[str, int], wanted: Mapping[str, Window]) -> dict[str, Window]:
    """Window of each layer that the windows `wanted` of some layers depend on; none behind the last of these."""
    windows: dict[str, Window] = {}
    reached: Window | None = None
    for behind, name in zip((None, *names[:0:-1]), names[::-1], strict=True):
        if reached is not None and behind is not None:
            # A convolution reads one pixel around; a map of twice the side is made of this one by the wavelet.
            reached = reached if behind == names[-1] else reached.grown(sides[behind])
            reached = reached.shrunk(sides[behind] // sides[name])
        window = wanted[name].hull(reached) if name in wanted else reached
        if window is not None:
            windows[name] = reached = window
    return windows


def sample_z_block(n: int, latent_dim: int, seed: int) -> Tensor:
    """Draw many latents at once (for statistics, where their order does not matter)."""
    return torch.randn(n, latent_dim, generator=torch.Generator().manual_seed(seed))
