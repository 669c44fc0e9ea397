"""What every StyleGAN can do: z, w and w+, truncation, pictures and activations, one picture at a time on a CPU."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn

from hyperdecode.errors import UserError
from hyperdecode.files import sha256_bytes
from hyperdecode.generators.base import sample_z, taken
from hyperdecode.generators.stylegan_layers import MappingNetwork, below
from hyperdecode.generators.windows import Window, require_crop
from hyperdecode.weights.store import tensors_digest

__all__ = ["StyleGAN", "fingerprint_of"]

W_SAMPLES = 8192
W_SEED = 0


class StyleGAN(nn.Module):
    """Base of the StyleGAN families: everything but the synthesis network.

    Subclasses set `layer_names`, `num_ws` and `resolution` and run their layers in `_layers`.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        ``mapping.k.weight``, ``mapping.k.bias`` and, if the file has it, ``w_avg``; others are ignored here.
    name : str
        Name in manifests.
    fingerprint : str

    Attributes
    ----------
    num_ws : int
        Layers of a latent of w+, whose shape is (n, num_ws, latent_dim).
    """

    spaces: tuple[str, ...] = ("z", "w", "w+")
    picture_space = "w"
    layer_names: tuple[str, ...]
    num_ws: int
    resolution: int

    def __init__(self, tensors: Mapping[str, Tensor], name: str, fingerprint: str) -> None:
        super().__init__()
        self.name, self.fingerprint = name, fingerprint
        self.mapping = MappingNetwork(below(tensors, "mapping"), tensors.get("w_avg"))
        self.latent_dim = int(self.mapping.weights[0].shape[1])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.__dict__.pop("_w_statistics", None)  # of the device and number format before
        return super()._apply(fn, recurse)  # type: ignore[no-any-return,no-untyped-call]

    def _layers(self, ws: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Run the synthesis network on latents (n, num_ws, latent_dim), layer by layer, as one batch."""
        raise NotImplementedError

    @property
    def resolutions(self) -> tuple[int, ...]:
        """The full side alone.

        The sums of colours at lower sides are no small pictures: later blocks change their brightness and contrast.
        """
        return (self.resolution,)

    def w_statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each dimension of w, (latent_dim,) each.

        Over 8,192 seeded z; the mean is the file's own where it has one.
        """
        return self._w_statistics

    @cached_property
    def _w_statistics(self) -> tuple[Tensor, Tensor]:
        z = torch.randn(W_SAMPLES, self.latent_dim, generator=torch.Generator().manual_seed(W_SEED))
        # Kept for good, so they must not be inference tensors, which no gradient may pass, whoever asks first.
        with torch.inference_mode(False), torch.no_grad():
            w = self.mapping(z.to(self.mapping.weights[0].device))
            mean = w.mean(0) if self.mapping.mean is None else self.mapping.mean.detach()
            return mean, w.std(0)

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
            1 leaves w as it is, 0 gives the average picture.

        Returns
        -------
        Tensor, (n, latent_dim)

        Raises
        ------
        UserError
            When z does not have `latent_dim` columns.
        """
        self._check(z, "z")
        w: Tensor = self.mapping(z)
        if truncation == 1.0:
            return w
        mean = self.w_statistics()[0] if self.mapping.mean is None else self.mapping.mean
        return mean + truncation * (w - mean)

    def picture_fingerprint(self, resolution: int) -> str:
        """SHA-256 over all that a picture depends on; the same for every side, as there is but one."""
        return self.fingerprint

    def images(self, latents: Tensor, *, space: str | None = None, resolution: int | None = None) -> Tensor:
        """Make pictures.

        Without gradients on a CPU they are made one by one, which bounds the memory; else as one batch. A picture
        depends on its own latent alone.

        Parameters
        ----------
        latents : Tensor, (n, latent_dim), or (n, num_ws, latent_dim) in w+
        space : {"w", "z", "w+"}, optional
            The space of `latents`. Default: w.
        resolution : int, optional
            None or the full side.

        Returns
        -------
        Tensor, (n, 3, resolution, resolution)
            Nominally in -1..1, not clipped; float32 also where the network computes in half precision.

        Raises
        ------
        UserError
            For a space or resolution that the generator does not have, or latents of another shape.
        """
        if resolution is not None and resolution != self.resolution:
            raise UserError(f"{self.name} makes pictures of {self.resolution} px, not {resolution}: ask for this side")
        return self.activations(latents, ("image",), space=space)["image"]

    def activations(
        self, latents: Tensor, layers: Sequence[str], *, space: str | None = None, crop: int | None = None
    ) -> dict[str, Tensor]:
        """Return the activations of the named layers; no layer behind the last one named is computed.

        Parameters
        ----------
        latents : Tensor, (n, latent_dim), or (n, num_ws, latent_dim) in w+
        layers : sequence of str
            Among `layer_names`: what the next layer reads, and the picture.
        space : {"w", "z", "w+"}, optional
            Default: w.
        crop : int, optional
            Side in pixels of the centre crop of each map, from row and column ``(side - crop) // 2`` on; smaller maps
            are given whole. Whole maps are computed and then cut: the crop saves memory behind this call, no time.

        Returns
        -------
        dict of str to Tensor, (n, channels, height, width)

        Raises
        ------
        UserError
            For a layer, space or crop that the generator does not have, or latents of another shape.
        """
        unknown = [name for name in layers if name not in self.layer_names]
        if unknown:
            raise UserError(f"{self.name} has no layer {unknown[0]!r}: choose among {', '.join(self.layer_names)}")
        require_crop(crop)
        ws = self._as_ws(latents, space)
        gradients = torch.is_grad_enabled() and (ws.requires_grad or any(p.requires_grad for p in self.parameters()))
        if ws.device.type != "cpu" or gradients or len(ws) < 2:
            return _centres(taken(self._layers(ws), layers), crop)
        with torch.inference_mode():
            rows = [_centres(taken(self._layers(row[None]), layers), crop) for row in ws]
        return {name: torch.cat([row[name] for row in rows]).clone() for name in layers}

    def _as_ws(self, latents: Tensor, space: str | None) -> Tensor:
        space = space or self.picture_space
        self._check(latents, space)
        w = self.mapping(latents) if space == "z" else latents.to(self.mapping.dtype)
        return w if space == "w+" else w[:, None].expand(-1, self.num_ws, -1)

    def _check(self, latents: Tensor, space: str) -> None:
        if space not in self.spaces:
            raise UserError(f"{self.name} has no latent space {space!r}: choose 'z', 'w' or 'w+'")
        fits = (self.num_ws, self.latent_dim) if space == "w+" else (self.latent_dim,)
        if latents.ndim != 1 + len(fits) or tuple(latents.shape[1:]) != fits:
            expected = ", ".join(map(str, ("n", *fits)))
            raise UserError(f"{self.name} takes {space} of shape ({expected}), got {tuple(latents.shape)}")


def _centres(maps: Mapping[str, Tensor], crop: int | None) -> dict[str, Tensor]:
    """Centre crops of maps."""
    whole = {name: Window(0, int(x.shape[-1])) for name, x in maps.items()}
    return {name: whole[name].cut(x, Window.centre(whole[name].stop, crop)) for name, x in maps.items()}


def fingerprint_of(tensors: Mapping[str, Tensor], settings: Mapping[str, Any]) -> str:
    """SHA-256 over names and values of tensors and over the settings that a picture depends on."""
    digest = tensors_digest({key: value.numpy(force=True) for key, value in tensors.items()})
    return sha256_bytes(f"{digest}{json.dumps(dict(settings), sort_keys=True)}".encode())
