"""Train the VAE-GAN that ships as a baseline, on generated faces only.

    python training/face_pool.py --faces 20000                      # 20,000 untruncated faces (seeds 3,000,000 on)
    python training/vaegan.py render                                # 4,000 truncated faces and 200 held-out ones
    python training/vaegan.py train --work FOLDER --hours 3         # resumable: run it again to go on
    python training/vaegan.py evaluate --work FOLDER                # held-out figures and a contact sheet
    python training/vaegan.py export --work FOLDER                  # writes baselines/data/vaegan.safetensors

Faces of a study are rows of one stream whose seed the study names (0 by default); faces here are first rows of the
streams of seeds 2,500,000, 3,000,000 and 4,000,000 on. A study's face could be one of them only if the study's seed
lay in those ranges, and then only its first.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_tensors_file
from safetensors.torch import save_file as save_tensors
from torch import Tensor

from hyperdecode.baselines.base import best_possible
from hyperdecode.baselines.networks import Decoder, Discriminator, Encoder, VaeGanSize
from hyperdecode.baselines.vaegan import VaeGan
from hyperdecode.evaluation.metrics import correlation_scores
from hyperdecode.evaluation.pictures import ssim_pairs
from hyperdecode.files import atomic_path
from hyperdecode.generators import load_generator
from hyperdecode.pipeline.face_pool import FIRST_HELD_OUT_SEED, SIDE, pool_chunks
from hyperdecode.stimuli.pictures import resize, to_uint8
from hyperdecode.threads import set_threads
from hyperdecode.weights.store import cache_dir

NAME = "mobilestylegan-ffhq"
FIRST_TRUNCATED_SEED = 4_000_000
TRUNCATION = 0.7
CHUNK = 500
HELD_OUT = 200
POOL = 20_000
TARGET = Path(__file__).parents[1] / "src" / "hyperdecode" / "baselines" / "data" / "vaegan.safetensors"
BATCH = 32
RATE, CRITIC_RATE = 1e-3, 2e-4
AVERAGE = 0.998
LEVELS = 4
DIVERGENCE, FEATURES, ADVERSARY = 0.5, 0.2, 0.01
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def truncated_path(kind: str, chunk: int) -> Path:
    """Return the file of one chunk of faces that are truncated as most stimuli are."""
    return cache_dir() / "vaegan" / f"{kind}-{chunk:04d}.safetensors"


def render(faces: int) -> None:
    """Render held-out faces, then truncated training faces, chunk by chunk."""
    generator = load_generator(NAME)
    chunks = [("held-out", 0, FIRST_HELD_OUT_SEED, HELD_OUT)]
    chunks += [("truncated", k, FIRST_TRUNCATED_SEED + k * CHUNK, CHUNK) for k in range(math.ceil(faces / CHUNK))]
    for kind, chunk, first, n in chunks:
        path = truncated_path(kind, chunk)
        if path.exists():
            continue
        start = time.perf_counter()
        pictures = np.empty((n, SIDE, SIDE, 3), np.uint8)
        with torch.inference_mode():
            for k in range(n):
                w = generator.to_w(generator.sample(1, first + k), TRUNCATION)
                pictures[k] = to_uint8(resize(generator.images(w, resolution=SIDE), SIDE))[0]
        with atomic_path(path) as temporary:
            save_file({"pictures": pictures}, temporary, metadata={"generator": generator.fingerprint})
        print(f"{path.name}: {(time.perf_counter() - start) / n:.3f} s a face", flush=True)


class Networks(torch.nn.Module):
    """What is trained; `average` holds running means of encoder and decoder, which are what ships."""

    def __init__(self, size: VaeGanSize) -> None:
        super().__init__()
        self.encoder, self.decoder, self.critic = Encoder(size), Decoder(size), Discriminator(size)
        self.log_variance = torch.nn.Linear(16 * size.widths[-1], size.latent_dim)
        torch.nn.init.constant_(self.log_variance.bias, -2.0)
        self.average = copy.deepcopy(torch.nn.ModuleDict({"encoder": self.encoder, "decoder": self.decoder}))
        self.average.requires_grad_(False)
        self.to(memory_format=torch.channels_last)

    def update_average(self, step: int) -> None:
        """Move the running means, faster at first, when the networks change faster."""
        share = 1 - min(AVERAGE, (1 + step) / (10 + step))
        for name, module in self.average.items():
            new = getattr(self, name).state_dict()
            for key, value in module.state_dict().items():
                if value.is_floating_point():
                    value.lerp_(new[key], share)


def reconstruct(networks: Networks, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures decoded from latents that are drawn about their means, and the latents' divergence from N(0, I)."""
    hidden = networks.encoder.hidden(pictures)
    mean, log_variance = networks.encoder.mean(hidden), networks.log_variance(hidden).clamp(-12, 4)
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
    return networks.decoder(mean + torch.randn_like(mean) * (0.5 * log_variance).exp()), divergence


def pyramid_loss(difference: Tensor) -> Tensor:
    """Mean absolute value of every level of the Laplacian pyramid, summed: edges count beside large areas."""
    total = difference.new_zeros(())
    for _ in range(LEVELS):
        coarse = F.avg_pool2d(difference, 2)
        total = total + (difference - F.interpolate(coarse, scale_factor=2)).abs().mean()
        difference = coarse
    return total + difference.abs().mean()


def feature_loss(found: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """Error of the discriminator's features relative to their size, mean over layers."""
    ratios = [(f - w.detach()).abs().mean() / w.detach().abs().mean() for f, w in zip(found, wanted, strict=True)]
    return torch.stack(ratios).mean()


class Trainer:
    """Networks with their optimisers, the step reached, and a folder that keeps both."""

    def __init__(self, work: Path, size: VaeGanSize | None = None) -> None:
        torch.manual_seed(0)
        self.path, self.step, self.seconds = work / "checkpoint.safetensors", 0, 0.0
        self.networks = Networks(size or VaeGanSize())
        n = self.networks
        parameters = [*n.encoder.parameters(), *n.decoder.parameters(), *n.log_variance.parameters()]
        self.optimizer = torch.optim.Adam(parameters, betas=(0.9, 0.99), fused=True)
        self.critic_optimizer = torch.optim.Adam(n.critic.parameters(), lr=CRITIC_RATE, betas=(0.5, 0.99), fused=True)
        if self.path.exists():
            self._load()

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"adam": self.optimizer, "critic_adam": self.critic_optimizer}

    def _load(self) -> None:
        tensors = load_tensors_file(self.path)
        clock = tensors.pop("clock")
        self.step, self.seconds = int(clock[0]), float(clock[1])
        for name, optimizer in self._optimizers().items():
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            for k, parameter in enumerate(parameters):
                moments = {key: tensors.pop(f"{name}.{k}.{key}") for key in MOMENTS if f"{name}.{k}.{key}" in tensors}
                if moments:
                    # A fused step goes through memory as it lies: moments must lie there as their parameter does.
                    kept = {key: torch.empty_like(parameter).copy_(moments[key]) for key in MOMENTS[1:]}
                    optimizer.state[parameter] = kept | {"step": moments["step"].reshape(())}
        self.networks.load_state_dict(tensors)

    def save(self) -> None:
        """Write everything that training goes on from, whole or not at all."""
        tensors = dict(self.networks.state_dict())
        for name, optimizer in self._optimizers().items():
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            for k, parameter in enumerate(parameters):
                tensors |= {
                    f"{name}.{k}.{key}": v.reshape(v.shape or 1) for key, v in optimizer.state[parameter].items()
                }
        tensors["clock"] = torch.tensor([self.step, self.seconds], dtype=torch.float64)
        with atomic_path(self.path) as temporary:
            save_tensors({key: value.contiguous() for key, value in tensors.items()}, temporary)

    def learn(self, pictures: Tensor, steps: int, gan_from: int) -> dict[str, float]:
        """Take one step of `steps` on a batch (n, 3, side, side) in -1..1; the GAN's terms from `gan_from` on."""
        n = self.networks
        warm = min(1.0, (self.step + 1) / 200)
        self.optimizer.param_groups[0]["lr"] = (
            warm * RATE * (0.02 + 0.98 * math.cos(math.pi / 2 * self.step / steps) ** 2)
        )
        made, divergence = reconstruct(n, pictures)
        pyramid = pyramid_loss(made - pictures)
        loss = pyramid + DIVERGENCE * divergence / pictures[0].numel()
        figures = {"pyramid": float(pyramid.detach()), "divergence": float(divergence.detach())}
        if self.step >= gan_from:
            figures |= self._judge(pictures, made.detach())
            n.critic.requires_grad_(False)
            logits, found = n.critic(made)
            features = feature_loss(found, n.critic(pictures)[1])
            # A discriminator that has seen little judges at random: its word counts more as it learns.
            trust = min(1.0, (self.step - gan_from) / 500)
            loss = loss + trust * (FEATURES * features + ADVERSARY * F.softplus(-logits).mean())
            n.critic.requires_grad_(True)
            figures["features"] = float(features.detach())
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.optimizer.param_groups[0]["params"], 1.0)
        self.optimizer.step()
        n.update_average(self.step)
        self.step += 1
        return figures

    def _judge(self, real: Tensor, made: Tensor) -> dict[str, float]:
        """One step of the discriminator."""
        on_real, on_made = self.networks.critic(real)[0], self.networks.critic(made)[0]
        loss = (F.softplus(-on_real) + F.softplus(on_made)).mean()
        self.critic_optimizer.zero_grad()
        loss.backward()
        self.critic_optimizer.step()
        return {"critic": float(loss.detach())}


def training_pictures(pool_faces: int = POOL) -> list[NDArray[np.uint8]]:
    """Untruncated faces of the pool, and truncated ones."""
    pool = [load_file(path)["pictures"] for path in pool_chunks(load_generator(NAME), pool_faces)]
    truncated = [load_file(path)["pictures"] for path in sorted(truncated_path("truncated", 0).parent.glob("trunc*"))]
    if not truncated:
        raise SystemExit("no truncated faces: run `python training/vaegan.py render` first")
    return [np.concatenate(pool), np.concatenate(truncated)]


def batch(kinds: list[NDArray[np.uint8]], rng: np.random.Generator) -> Tensor:
    """Pictures (BATCH, 3, side, side) in -1..1, as many of one kind as of the other, mirrored at random."""
    parts = [kind[np.sort(rng.choice(len(kind), BATCH // len(kinds), replace=False))] for kind in kinds]
    pictures = np.concatenate(parts)
    mirrored = rng.random(len(pictures)) < 0.5
    pictures[mirrored] = pictures[mirrored, :, ::-1]
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    return x.contiguous(memory_format=torch.channels_last)


def train(work: Path, steps: int, gan_from: int, hours: float, pool_faces: int = POOL) -> None:
    """Train until `steps` are taken or `hours` have passed, with a checkpoint every five minutes."""
    work.mkdir(parents=True, exist_ok=True)
    trainer, kinds = Trainer(work), training_pictures(pool_faces)
    print(f"{[len(kind) for kind in kinds]} faces, from step {trainer.step}", flush=True)
    start = saved = noted = time.perf_counter()
    end = start + 3600 * hours
    while trainer.step < steps and time.perf_counter() < end:
        # The stream of a step depends on the step alone, so a resumed run sees what an unbroken one would.
        rng = np.random.default_rng([1, trainer.step])
        torch.manual_seed(trainer.step)
        figures = trainer.learn(batch(kinds, rng), steps, gan_from)
        now = time.perf_counter()
        if trainer.step % 100 == 0:
            words = "  ".join(f"{key} {value:.4f}" for key, value in figures.items())
            print(f"step {trainer.step}: {words}  {(now - noted) / 100:.3f} s a step", flush=True)
            noted = now
        if now - saved > 300 or trainer.step == steps:
            trainer.seconds, start, saved = trainer.seconds + now - start, now, now
            trainer.save()
            print(json.dumps(held_out_figures(averaged(trainer)) | {"step": trainer.step}), flush=True)
            noted = time.perf_counter()
    trainer.seconds += time.perf_counter() - start
    trainer.save()


def averaged(trainer: Trainer) -> VaeGan:
    """Return the running means as the model that ships, rounded to float16 as it will be."""
    state = trainer.networks.average.state_dict()
    return VaeGan.from_tensors({k: v.half().clone() for k, v in state.items() if v.is_floating_point()})


def held_out_figures(model: VaeGan, faces: int = HELD_OUT) -> dict[str, float]:
    """Mean over held-out faces of R^2 (against the picture's own variance), pixel correlation and SSIM at 128 px."""
    true = load_file(truncated_path("held-out", 0))["pictures"][:faces]
    made = best_possible(model, true)
    x, y = true.reshape(len(true), -1) / 127.5 - 1, made.reshape(len(true), -1) / 127.5 - 1
    r2 = 1 - ((y - x) ** 2).mean(1) / x.var(1)
    same = np.arange(len(true))
    figures = {
        "r2": r2.mean(),
        "r2_min": r2.min(),
        "pixcorr": np.diag(correlation_scores(y, x)).mean(),
        "ssim": ssim_pairs(made, true, "hyper-code", same, same).mean(),
        "latent_sd": model.encode(true).std(0).mean(),
    }
    return {key: round(float(value), 4) for key, value in figures.items()}


def sheet(model: VaeGan, path: Path) -> None:
    """Draw held-out faces over their reconstructions."""
    true = load_file(truncated_path("held-out", 0))["pictures"][:24]
    pairs = np.concatenate([true, best_possible(model, true)], axis=1)  # each face above its reconstruction
    lines = [np.concatenate(list(part), axis=1) for part in np.split(pairs, 3)]
    Image.fromarray(np.concatenate(lines)).save(path)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("render", "train", "evaluate", "export"))
    parser.add_argument("--work", type=Path, default=cache_dir() / "vaegan", help="folder of the checkpoint")
    parser.add_argument("--faces", type=int, default=4000, help="truncated faces to render")
    parser.add_argument("--pool", type=int, default=POOL, help="untruncated faces to train on")
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--gan-from", type=int, default=20_000, help="step from which the discriminator is used")
    parser.add_argument("--hours", type=float, default=24, help="stop after so long; run again to go on")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    set_threads(args.threads)
    if args.stage == "render":
        render(args.faces)
    elif args.stage == "train":
        train(args.work, args.steps, args.gan_from, args.hours, args.pool)
    elif args.stage == "evaluate":
        model = averaged(Trainer(args.work))
        sheet(model, args.work / "held-out.png")
        print(json.dumps(held_out_figures(model)))
    else:
        with atomic_path(TARGET) as temporary:
            save_tensors(averaged(Trainer(args.work)).tensors(), temporary)


if __name__ == "__main__":
    main()
