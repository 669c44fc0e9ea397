"""Feature networks by name."""

from __future__ import annotations

import torch

from hyperdecode.errors import UserError
from hyperdecode.features.base import FeatureNetwork
from hyperdecode.features.dlib_network import DlibNetwork
from hyperdecode.features.resnet50 import ResNet50
from hyperdecode.weights.contents import Weights
from hyperdecode.weights.imported import imported_family, imported_names, load_imported

__all__ = ["feature_network_names", "load_feature_network"]

NAMES = (DlibNetwork.name, ResNet50.name)


def feature_network_names() -> tuple[str, ...]:
    """Names that `load_feature_network` knows."""
    return NAMES


def load_feature_network(
    name: str = "dlib", weights: Weights | None = None, device: str | torch.device = "cpu"
) -> FeatureNetwork:
    """Build a feature network.

    Parameters
    ----------
    name : {"dlib", "resnet50-vggface2"}
        ``"dlib"`` fetches its weights itself when they are not in the cache.
    weights : Weights, optional
        Of ``"resnet50-vggface2"``. Default: those that the user imported.
    device : str or torch.device
        Where it shall live.

    Returns
    -------
    FeatureNetwork

    Raises
    ------
    UserError
        For an unknown name, or weights that are absent or of another network.
    """
    if name not in NAMES:
        raise UserError(f"no feature network {name!r}: choose among {', '.join(NAMES)}")
    if name == DlibNetwork.name:
        return DlibNetwork.load().to(device)
    weights = weights or load_imported(_imported(name))
    if weights.family != name:
        raise UserError(f"these are weights of {weights.family}, not of {name}: import the file of that network")
    return ResNet50({key: torch.from_numpy(value) for key, value in weights.tensors.items()}).to(device)


def _imported(family: str) -> str:
    """Name of the imported weights of a family: the only ones, or those that bear its name."""
    names = [name for name in imported_names() if imported_family(name) == family]
    if family in names or len(names) == 1:
        return family if family in names else names[0]
    if names:
        raise UserError(
            f"{len(names)} imported files hold {family} ({', '.join(names)}): import one with --name {family}"
        )
    raise UserError(
        f"{family} needs weights that cannot be fetched: get rcmalli_vggface_tf_notop_resnet50.h5 of keras-vggface and "
        "run `hyperdecode weights import FILE`, or take the feature network dlib"
    )
