"""MobileStyleGAN (Belousov 2021, arXiv:2104.04767): z -> w -> styled separable convolutions -> wavelet -> picture."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperdecode.errors import UserError, WeightFileError
from hyperdecode.generators.base import sample_z
from hyperdecode.generators.heads import EarlyExitHead
from hyperdecode.generators.tiled import TiledSynthesis

__all__ = ["MobileStyleGAN", "haar_upsample"]

MEAN_W_SAMPLES = 16_384
MEAN_W_SEED = 0
SLOPE = 0.2


def haar_upsample(x: Tensor) -> Tensor:
    """Double the resolution by the inverse Haar wavelet transform.

    ``y[2i + a, 2j + b] = (low + (-1)^a lh + (-1)^b hl + (-1)^(a + b) hh) / 2``

    Parameters
    ----------
    x : Tensor, (n, 4 c, h, w)
        `c` low-pass maps, then the three bands of each of the `c` channels in turn.

    Returns
    -------
    Tensor, (n, c, 2 h, 2 w)
    """
    n, channels, h, w = x.shape
    low = x[:, : channels // 4]
    lh, hl, hh = x[:, channels // 4 :].reshape(n, channels // 4, 3, h, w).unbind(2)
    top_sum, top_difference = low + lh, low - lh
    side_sum, side_difference = hl + hh, hl - hh
    rows = [
        torch.stack([top_sum + side_sum, top_sum - side_sum], dim=-1),
        torch.stack([top_difference + side_difference, top_difference - side_difference], dim=-1),
    ]
    return torch.stack(rows, dim=3).reshape(n, channels // 4, 2 * h, 2 * w) * 0.5


class _Style(nn.Module):
    """Affine map from w to the scale of each channel."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.weight = _frozen(tensors["style.weight"])
        self.bias = _frozen(tensors["style.bias"])

    def forward(self, w: Tensor) -> Tensor:
        return F.linear(w, self.weight, self.bias)[:, :, None, None]


class _StyledConvolution(nn.Module):
    """Style, (depthwise 3 x 3 then pointwise | full 3 x 3), constant noise, bias, leaky ReLU."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.style = _Style(tensors)
        self.depthwise = _frozen(tensors["depthwise"]) if "depthwise" in tensors else None
        self.weight = _frozen(tensors["weight"])
        self.noise = _frozen(tensors["noise"])
        self.bias = _frozen(tensors["bias"])

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = x * self.style(w)
        if self.depthwise is not None:
            x = F.conv2d(x, self.depthwise, padding=1, groups=x.shape[1])
            x = F.conv2d(x, self.weight, self.bias)
        else:
            x = F.conv2d(x, self.weight, self.bias, padding=1)
        return F.leaky_relu(x + self.noise, SLOPE)


class _Block(nn.Module):
    """Wavelet upsampling and two styled convolutions."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.up = _Style(_below(tensors, "up"))
        self.conv1 = _StyledConvolution(_below(tensors, "conv1"))
        self.conv2 = _StyledConvolution(_below(tensors, "conv2"))


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

    Raises
    ------
    WeightFileError
        When a tensor is absent or has a shape that does not fit the others.
    """

    spaces = ("z", "w")

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        heads: Mapping[int, EarlyExitHead] | None = None,
        name: str = "mobilestylegan-ffhq",
    ) -> None:
        super().__init__()
        self.name = name
        try:
            self._build(tensors)
        except KeyError as error:
            raise WeightFileError(f"MobileStyleGAN weights lack the tensor {error}: fetch them anew") from None
        heads = dict(sorted((heads or {}).items()))
        self.heads = nn.ModuleDict({str(side): head for side, head in heads.items()})
        self.resolution = 2 * self.blocks[-1].conv2.noise.shape[-1]  # type: ignore[union-attr, operator]
        self.resolutions = (*heads, self.resolution)
        self.layer_names = (
            "b4.conv",
            *(f"b{2 ** (3 + i)}.conv{k}" for i in range(len(self.blocks)) for k in (1, 2)),
            "image",
        )
        self.requires_grad_(False)
        self.eval()

    def _build(self, tensors: Mapping[str, Tensor]) -> None:
        depth = len({key.split(".")[1] for key in tensors if key.startswith("mapping.")})
        n_blocks = len({key.split(".")[2] for key in tensors if key.startswith("synthesis.blocks.")})
        if not depth or not n_blocks:
            raise WeightFileError("these tensors hold no MobileStyleGAN (no mapping layers or no synthesis blocks)")
        self.mapping_weights = nn.ParameterList(_frozen(tensors[f"mapping.{k}.weight"]) for k in range(depth))
        self.mapping_biases = nn.ParameterList(_frozen(tensors[f"mapping.{k}.bias"]) for k in range(depth))
        self.latent_dim = self.mapping_weights[0].shape[1]
        synthesis = _below(tensors, "synthesis")
        self.input = _frozen(synthesis["input"])
        self.conv0 = _StyledConvolution(_below(synthesis, "conv0"))
        self.blocks = nn.ModuleList(_Block(_below(synthesis, f"blocks.{i}")) for i in range(n_blocks))
        self.to_rgb_style = _Style(_below(synthesis, "to_rgb"))
        self.to_rgb_weight = _frozen(synthesis["to_rgb.weight"])
        self.to_rgb_bias = _frozen(synthesis["to_rgb.bias"])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names and values of all weights, early exits included."""
        digest = hashlib.sha256()
        for key, value in sorted(self.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def w_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each dimension of w, (latent_dim,) each, over 16,384 seeded z."""
        w = self.to_w(sample_z_block(MEAN_W_SAMPLES, self.latent_dim, MEAN_W_SEED).to(self.input.device))
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
        mean, _ = self.w_statistics
        return mean + truncation * (x - mean)

    def images(self, latents: Tensor, *, space: str = "w", resolution: int | None = None) -> Tensor:
        """Make pictures.

        Without gradients on a CPU the pictures are made one by one in strips that stay in the cache, several
        times faster than a batch; with gradients, or on a GPU, as one batch. Both give the same numbers up to
        the rounding of float32.

        Parameters
        ----------
        latents : Tensor, (n, latent_dim)
        space : {"w", "z"}
            The space of `latents`.
        resolution : int, optional
            One of `resolutions`; a side below the full one is made by its early exit. Default: the full side.

        Returns
        -------
        Tensor, (n, 3, resolution, resolution)
            Nominally in -1..1, not clipped.

        Raises
        ------
        UserError
            For a space or resolution that the generator does not have.
        """
        w = self._as_w(latents, space)
        side = self.resolution if resolution is None else resolution
        if side not in self.resolutions:
            raise UserError(f"{self.name} makes pictures of {self.resolutions} px, not {side}: choose one of these")
        gradients = torch.is_grad_enabled() and (w.requires_grad or self.input.requires_grad)
        if w.device.type == "cpu" and w.dtype == torch.float32 and not gradients:
            with torch.inference_mode():
                pictures = [self._tiled.image(row[None], side) for row in w]
            return torch.cat(pictures).clone() if pictures else w.new_empty(0, 3, side, side)
        if side == self.resolution:
            return self._collect(w, ("image",))["image"]
        head = self.heads[str(side)]
        layer = str(head.layer)
        return head(self._collect(w, (layer,))[layer], w)

    def activations(self, latents: Tensor, layers: Sequence[str], *, space: str = "w") -> dict[str, Tensor]:
        """Return the activations of the named layers; no layer behind the last one named is computed.

        Parameters
        ----------
        latents : Tensor, (n, latent_dim)
        layers : sequence of str
            Among `layer_names`.
        space : {"w", "z"}

        Returns
        -------
        dict of str to Tensor, (n, channels, height, width)

        Raises
        ------
        UserError
            For a layer or space that the generator does not have.
        """
        unknown = [name for name in layers if name not in self.layer_names]
        if unknown:
            raise UserError(f"{self.name} has no layer {unknown[0]!r}: choose among {', '.join(self.layer_names)}")
        return self._collect(self._as_w(latents, space), layers)

    def tiled_features(self, w: Tensor, layers: list[str]) -> dict[str, Tensor]:
        """Activations of the named layers, and ``"image"``, of one face by the fast pass (to train early exits)."""
        with torch.inference_mode():
            return self._tiled.features(w, layers)

    def _collect(self, w: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        wanted, found = set(layers), {}
        if not wanted:
            return {}
        for name, value in self._layers(w):
            if name in wanted:
                found[name] = value
                wanted.discard(name)
            if not wanted:
                break
        return {name: found[name] for name in layers}

    def _layers(self, w: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Run the synthesis network layer by layer, as one batch."""
        names = iter(self.layer_names)
        x = self.conv0(self.input.expand(len(w), -1, -1, -1), w)
        yield next(names), x
        for block in self.blocks:
            x = haar_upsample(x * block.up(w))  # type: ignore[operator]
            for convolution in (block.conv1, block.conv2):
                x = convolution(x, w)  # type: ignore[operator]
                yield next(names), x
        bands = F.conv2d(x * self.to_rgb_style(w), self.to_rgb_weight, self.to_rgb_bias)
        yield next(names), haar_upsample(bands)

    @cached_property
    def _tiled(self) -> TiledSynthesis:
        return TiledSynthesis(self)

    def _as_w(self, latents: Tensor, space: str) -> Tensor:
        if space not in self.spaces:
            raise UserError(f"{self.name} has no latent space {space!r}: choose 'z' or 'w'")
        self._check(latents)
        return self.to_w(latents) if space == "z" else latents

    def _check(self, latents: Tensor) -> None:
        if latents.ndim != 2 or latents.shape[1] != self.latent_dim:
            raise UserError(f"{self.name} takes latents of shape (n, {self.latent_dim}), got {tuple(latents.shape)}")


def sample_z_block(n: int, latent_dim: int, seed: int) -> Tensor:
    """Draw many latents at once (for statistics, where their order does not matter)."""
    return torch.randn(n, latent_dim, generator=torch.Generator().manual_seed(seed))


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.clone(), requires_grad=False)


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) + 1 :]: value for key, value in tensors.items() if key.startswith(prefix + ".")}
