"""The state of a run on the disk: one JSON, and the safetensors file that it names.

The tensors are written first, under a name of their own, then the JSON that points at them; only then the older
tensors go. So a run that is killed at any time can be resumed from what was whole last.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hyperdecode.errors import UserError
from hyperdecode.files import atomic_path, sha256_file, write_text
from training.pggan.loop import Trainer
from training.pggan.networks import Generator
from training.pggan.settings import Phase, Settings

__all__ = ["STATE", "Trained", "exists", "load_average", "resume", "save"]

STATE = "state.json"
MAX_STATE_BYTES = 2**20
MAX_TENSOR_BYTES = 8 * 2**30
NETWORKS = ("generator", "average", "discriminator")
OPTIMIZERS = ("generator", "discriminator")
Adam = torch.optim.Optimizer


@dataclass(frozen=True)
class Trained:
    """The averaged generator of a run, on the CPU.

    Attributes
    ----------
    generator : Generator
    settings : Settings
    phase : Phase
        How far it has grown.
    shown : int
        Real images shown.
    source, licence : str
        Of the pictures that it was trained on.
    """

    generator: Generator
    settings: Settings
    phase: Phase
    shown: int
    source: str
    licence: str


def exists(run: Path) -> bool:
    """Whether the folder holds a run that can be resumed."""
    return (run / STATE).exists()


def save(trainer: Trainer, run: Path) -> None:
    """Write the state of a run, whole or not at all."""
    target = run / f"tensors-{trainer.shown:010d}.safetensors"
    tensors = {
        f"{name}.{key}": value for name in NETWORKS for key, value in getattr(trainer, name).state_dict().items()
    }
    for name in OPTIMIZERS:
        tensors |= _moments(name, getattr(trainer, name), getattr(trainer, f"{name}_optimizer"))
    with atomic_path(target) as temporary:
        save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, temporary)
    state = {
        "shown": trainer.shown,
        "before": trainer.before,
        "steps": trainer.steps,
        "phase": vars(trainer.trained),
        "random": base64.b64encode(trainer.random.get_state().numpy().tobytes()).decode(),
        "settings": trainer.settings.to_json(),
        "settings_sha256": trainer.settings.digest,
        "pictures": len(trainer.pictures),
        "pictures_sha256": trainer.pictures.digest,
        "source": trainer.pictures.source,
        "licence": trainer.pictures.licence,
        "tensors": target.name,
        "tensors_sha256": sha256_file(target),
    }
    write_text(run / STATE, json.dumps(state, indent=1) + "\n")
    for old in run.glob("tensors-*.safetensors"):
        if old != target:
            old.unlink()


def resume(trainer: Trainer, run: Path) -> None:
    """Put a new trainer where the run in a folder was left.

    Raises
    ------
    UserError
        When the run has other settings or pictures, or its files are damaged.
    """
    state = _read_state(run)
    _require_equal(state, trainer, run)
    tensors = _read_tensors(run, state)
    for name in NETWORKS:
        _load(getattr(trainer, name), _below(tensors, name), run)
    trainer.reset_optimizers()
    for name in OPTIMIZERS:
        _load_moments(name, getattr(trainer, name), getattr(trainer, f"{name}_optimizer"), tensors)
    try:
        trainer.shown, trainer.before, trainer.steps = (int(state[key]) for key in ("shown", "before", "steps"))
        random = bytearray(base64.b64decode(state["random"]))
        trainer.random.set_state(torch.frombuffer(random, dtype=torch.uint8))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{run / STATE} is damaged ({error}): restore it, or start anew in another folder") from None


def load_average(run: Path) -> Trained:
    """Read the averaged generator of a run.

    Raises
    ------
    UserError
        When there is no run, or its files are damaged.
    """
    state = _read_state(run)
    try:
        settings, shown, before = Settings.from_json(state["settings"]), int(state["shown"]), int(state["before"])
        source, licence = str(state["source"]), str(state["licence"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run / STATE} is damaged ({error}): restore it, or start anew in another folder") from None
    generator = Generator(settings.latent_dim, settings.widths)
    _load(generator, _below(_read_tensors(run, state), "average"), run)
    generator.requires_grad_(False)
    return Trained(generator, settings, settings.phase(before), shown, source, licence)


def _read_state(run: Path) -> dict[str, Any]:
    path = run / STATE
    if not path.is_file() or path.stat().st_size > MAX_STATE_BYTES:
        raise UserError(f"{run} holds no run (no {STATE} of a usual size): give the folder that `train --out` wrote")
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): restore it, or start anew in another folder") from None
    if not isinstance(state, dict):
        raise UserError(f"{path} is damaged (no JSON object): restore it, or start anew in another folder")
    return state


def _require_equal(state: dict[str, Any], trainer: Trainer, run: Path) -> None:
    mine, theirs = trainer.settings.to_json(), state.get("settings")
    theirs = theirs if isinstance(theirs, dict) else {}
    if state.get("settings_sha256") != trainer.settings.digest or theirs != mine:
        names = [name for name in sorted(set(mine) | set(theirs)) if theirs.get(name) != mine.get(name)]
        told = ", ".join(f"{name} {theirs.get(name)} (now {mine.get(name)})" for name in names) or "another SHA-256"
        raise UserError(f"{run} holds a run of other settings, {told}: give the same, or another folder")
    if state.get("pictures_sha256") != trainer.pictures.digest:
        raise UserError(
            f"{run} holds a run on {state.get('pictures')} other pictures ({len(trainer.pictures)} now): give the same "
            "(--pictures N takes the first N), or another folder"
        )


def _read_tensors(run: Path, state: dict[str, Any]) -> dict[str, Tensor]:
    path = run / Path(str(state.get("tensors"))).name
    if not path.is_file() or path.stat().st_size > MAX_TENSOR_BYTES:
        raise UserError(f"{run} lacks {path.name}, which its {STATE} names: restore it, or start in another folder")
    if sha256_file(path) != state.get("tensors_sha256"):
        raise UserError(f"{path} is not the file that {STATE} names: restore it, or start anew in another folder")
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): restore it, or start anew in another folder") from None
    return tensors


def _below(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}


def _load(network: nn.Module, tensors: dict[str, Tensor], run: Path) -> None:
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the tensors in {run} do not fit ({reason[:200]}): start anew in another folder") from None


def _moments(name: str, network: nn.Module, optimizer: Adam) -> dict[str, Tensor]:
    return {
        f"adam.{name}.{key}.{parameter}": entry
        for parameter, value in network.named_parameters()
        for key, entry in optimizer.state.get(value, {}).items()
    }


def _load_moments(name: str, network: nn.Module, optimizer: Adam, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for k, (parameter, value) in enumerate(network.named_parameters()):
        for key in ("step", "exp_avg", "exp_avg_sq"):
            moment = tensors.get(f"adam.{name}.{key}.{parameter}")
            if moment is not None:
                # In the parameter's own memory layout, channels last or not, as Adam makes them.
                like = value.detach() if moment.ndim else moment
                state.setdefault(k, {})[key] = torch.empty_like(like).copy_(moment)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
