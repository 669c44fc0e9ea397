"""The command line: ``python -m training.pggan train | export``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import torch

import training.pggan
from hyperdecode.errors import UserError
from training.pggan.data import Pictures, from_folder, from_pool
from training.pggan.export import export
from training.pggan.loop import PRECISIONS, Machine
from training.pggan.run import Pace, train
from training.pggan.settings import Settings


def main(arguments: list[str] | None = None) -> int:
    """Run one command; a user's mistake is one line and exit code 2."""
    args = _parser().parse_args(arguments)
    try:
        _train(args) if args.command == "train" else _export(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _train(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads)
    settings = Settings(**{entry.name: getattr(args, entry.name) for entry in fields(Settings)})
    machine = Machine(args.device, args.precision, args.channels_last)
    pace = Pace(args.images, args.minutes, args.log_every, args.save_every)
    train(args.out, settings, _pictures(args.data, settings.side, args.pictures), pace, machine)


def _pictures(data: str, side: int, limit: int | None) -> Pictures:
    return from_pool(side, limit) if data == "pool" else from_folder(Path(data), side, limit)


def _export(args: argparse.Namespace) -> None:
    path = export(args.run, args.to, half=not args.float32, licence=args.licence)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.pggan",
        description=training.pggan.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("train", help="begin a run, or go on with the one in --out")
    run.add_argument("--data", required=True, help="`pool`, or a folder of PNG or JPEG files")
    run.add_argument("--pictures", type=int, help="only the first N pictures")
    run.add_argument("--out", type=Path, required=True, help="folder of the run")
    _add_settings(run.add_argument_group("settings of the run, which must stay the same when it is resumed"))
    _add_pace(run.add_argument_group("how long, how often and where; may change at any time"))
    write = commands.add_parser("export", help="write the averaged generator as a weight file")
    write.add_argument("--run", type=Path, required=True, help="folder of the run")
    write.add_argument("--to", type=Path, required=True, help="the safetensors file")
    write.add_argument("--float32", action="store_true", help="instead of float16")
    write.add_argument("--licence", help="of the weights; default: that of the pictures, where it is known")
    return parser


def _add_settings(group: argparse._ArgumentGroup) -> None:
    for entry in fields(Settings):
        flag = f"--{entry.name.replace('_', '-')}"
        default = entry.default if entry.default is not MISSING else getattr(Settings(), entry.name)
        if isinstance(default, bool):
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=default)
        elif isinstance(default, dict):
            kind = _batches if entry.name == "batches" else _rates
            shown = ",".join(f"{side}:{value}" for side, value in default.items())
            group.add_argument(flag, type=kind, default=default, metavar="SIDE:VALUE,...", help=f"default {shown}")
        else:
            group.add_argument(flag, type=type(default), default=default, help="default %(default)s")


def _add_pace(group: argparse._ArgumentGroup) -> None:
    pace, machine = Pace(), Machine()
    group.add_argument("--images", type=int, help="real images to show in all; default: the whole schedule")
    group.add_argument("--minutes", type=float, help="stop after so many; the same command goes on")
    group.add_argument("--log-every", type=int, default=pace.log_every, help="images; default %(default)s")
    group.add_argument("--save-every", type=int, default=pace.save_every, help="images; default %(default)s")
    group.add_argument("--device", default=machine.device, help="cpu, cuda, cuda:1; default %(default)s")
    group.add_argument("--precision", choices=PRECISIONS, default=machine.precision, help="default %(default)s")
    group.add_argument("--channels-last", action=argparse.BooleanOptionalAction, help="default: on a GPU")
    group.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default %(default)s")


def _batches(text: str) -> dict[int, int]:
    return {int(side): int(value) for side, value in (entry.split(":") for entry in text.split(","))}


def _rates(text: str) -> dict[int, float]:
    return {int(side): float(value) for side, value in (entry.split(":") for entry in text.split(","))}


if __name__ == "__main__":
    sys.exit(main())
