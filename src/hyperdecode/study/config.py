"""`study.toml`: presets, and reading and writing the file with messages and comments for people."""

from __future__ import annotations

import difflib
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import tomli_w
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from hyperdecode.errors import UserError
from hyperdecode.files import write_text
from hyperdecode.study.reading import one_line, read_regular, said
from hyperdecode.study.settings import BoldSettings, Settings, StudyConfig
from hyperdecode.weights.limits import shown

__all__ = [
    "CONFIG_NAME",
    "PRESETS",
    "StudyConfig",
    "bold_settings",
    "preset",
    "read_config",
    "with_mapping",
    "with_simulation",
    "write_config",
]

CONFIG_NAME = "study.toml"
MAX_BYTES = 2**20
HEADER = """\
# A hyperdecode study. Every key stands here with its meaning and what it may be; a key that is left out keeps the value
# of the paper (Dado et al. 2022). Next steps: hyperdecode stimuli, schedule, present or simulate, run.
"""
COMMENT_WIDTH = 116
LONGEST_KEY = 100
EXPECTED = {
    "model_type": "a section of keys",
    "string_pattern_mismatch": "letters and digits, at most 50",
    "string_too_short": "at least one character",
    "too_short": "at least one",
}
"""What is wanted, where pydantic's own words would puzzle."""

COMPLETE = {"evaluation": {"baselines": ["eigenfaces", "vaegan"]}, "mapping": {"readout": "linear"}}
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "paper": (
        "the published counts and timing, 1050 + 36 x 14 trials, compared with eigenfaces and a VAE-GAN, and mapped on "
        "the brain",
        dict(COMPLETE),
    ),
    "quick": (
        "a third of the trials and pictures made at 256 px, for a first try",
        {
            "stimuli": {"n_train": 384, "n_test": 16, "test_repeats": 6, "render": 256},
            "schedule": {"n_runs": 6},
            "bold": {"n_voxels": 2048},
            "report": {"moves": [2.0]},
            **COMPLETE,
        },
    ),
    "pggan": (
        "the paper with its own generator, once imported by `hyperdecode weights import`: latents z, 1024 px",
        {"generator": "pggan-celebahq", "decoding": {"space": "z"}, "report": {"moves": []}},
    ),
    "whole-brain": (
        "simulated subjects as raw as a scanner's: 2 mm whole brain, heads of their own, motion",
        {"simulation": {"coverage": "whole", "voxel_size": 2.0, "head": "own", "motion": 0.15}},
    ),
}
"""What each preset is for, and what it changes from the paper."""


def preset(name: str, /, **changes: Any) -> StudyConfig:
    """Return the study of a preset.

    Parameters
    ----------
    name : str
        One of `PRESETS`.
    **changes
        Top-level keys, set on top of the preset.

    Raises
    ------
    UserError
        When there is no such preset.
    """
    if name not in PRESETS:
        raise UserError(f"no preset {name!r}: choose among {', '.join(PRESETS)}")
    return StudyConfig.model_validate({**PRESETS[name][1], **changes})


def read_config(study: Path) -> StudyConfig:
    """Read and validate the `study.toml` of a study folder.

    Raises
    ------
    UserError
        When the folder or file is absent, is no TOML, or a key is unknown or out of range; the message names key,
        value and what is allowed.
    """
    path = study / CONFIG_NAME
    if not study.is_dir():
        raise UserError(f"no study at {study}: make one with `hyperdecode init {study}` or `hyperdecode demo {study}`")
    if not path.is_file():
        raise UserError(f"{study} has no {CONFIG_NAME}, so it is no study: make one with `hyperdecode init {study}`")
    try:
        content = tomllib.loads(read_regular(path, MAX_BYTES).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not readable as TOML: {one_line(error)}") from None
    try:
        return StudyConfig.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {_complaint(error)}") from None


def with_simulation(config: StudyConfig, **changes: Any) -> StudyConfig:
    """Return the study with other settings of its simulated subjects; those that are None stay as they are.

    Raises
    ------
    UserError
        When a value is out of range.
    """
    wanted = {key: value for key, value in changes.items() if value is not None}
    try:
        return StudyConfig.model_validate(config.model_dump() | {"simulation": config.simulation.model_dump() | wanted})
    except ValidationError as error:
        raise UserError(_complaint(error).replace("change that line", "give another value")) from None


def with_mapping(config: StudyConfig, readout: str) -> StudyConfig:
    """Return the study with another readout of its brain maps.

    Raises
    ------
    UserError
        When there is no such readout.
    """
    try:
        return StudyConfig.model_validate(
            config.model_dump() | {"mapping": config.mapping.model_dump() | {"readout": readout}}
        )
    except ValidationError as error:
        raise UserError(_complaint(error).replace("change that line", "give another value")) from None


def bold_settings(**values: Any) -> BoldSettings:
    """Return settings of the BOLD from the command line.

    Raises
    ------
    UserError
        When a value is out of range.
    """
    try:
        return StudyConfig.model_validate({"bold": values}).bold
    except ValidationError as error:
        raise UserError(_complaint(error).replace("change that line", "give another value")) from None


def write_config(study: Path, config: StudyConfig) -> Path:
    """Write `study.toml`, each key below a comment that says what it is and what it may be."""
    return write_text(study / CONFIG_NAME, HEADER + "".join(_section(config, "")))


def _section(settings: Settings, title: str) -> Iterator[str]:
    if title:
        yield f"\n# {_sentence(type(settings).__doc__ or '')}\n[{title}]\n"
    sections = []
    for key, info in type(settings).model_fields.items():
        value = getattr(settings, key)
        if isinstance(value, Settings):
            sections.append((key, value))
            continue
        allowed = _allowed(info)
        text = f"{_sentence(info.description or '')}{f' Allowed: {allowed}.' if allowed else ''}"
        yield "\n" if not title else ""
        yield (
            textwrap.fill(text, COMMENT_WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)
            + "\n"
        )
        yield _line(key, value)
    for key, section in sections:
        yield from _section(section, key)


def _line(key: str, value: Any) -> str:
    """One line of TOML; an array stays on it."""
    if isinstance(value, tuple):
        return f"{key} = [{', '.join(_line('_', item)[4:].strip() for item in value)}]\n"
    return tomli_w.dumps({key: value})


def _sentence(text: str) -> str:
    return " ".join(text.split())


def _allowed(info: FieldInfo) -> str:
    """Say what a key may be: ``"20 to 100000"``, ``"one of lss, lsa"``; empty when anything goes."""
    if get_origin(info.annotation) is Literal:
        return "one of " + ", ".join(map(str, get_args(info.annotation)))
    if info.annotation is bool:
        return "true or false"
    bounds = {type(item).__name__: item for item in info.metadata}
    low = f"{bounds['Ge'].ge:g}" if "Ge" in bounds else f"above {bounds['Gt'].gt:g}" if "Gt" in bounds else ""
    high = bounds["Le"].le if "Le" in bounds else bounds["Lt"].lt - 1 if "Lt" in bounds else None
    if low and high is not None:
        return f"{low} to {high}"
    if any(getattr(item, "pattern", None) for item in info.metadata):
        return "letters and digits, at most 50"
    return ""


def _complaint(error: ValidationError) -> str:
    """One line on the first thing that is wrong: key, value, what is allowed."""
    first = error.errors()[0]
    where = [str(part) for part in first["loc"]]
    key, value = _brief(".".join(where)), said(first["input"])
    if first["type"] == "value_error":
        reason = str(first["ctx"]["error"])
        # A whole section that does not fit together is not repeated in full.
        what = key if isinstance(first["input"], dict) else f"{key} = {value}"
        return f"{what}: {reason}" if where else reason
    section, info = _field(where)
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(where[-1], section.model_fields, n=1)
        place = f"[{'.'.join(where[:-1])}]" if where[:-1] else "study.toml"
        hint = f"did you mean {near[0]}?" if near else f"{place} knows {', '.join(section.model_fields)}"
        return f"{key} = {value}: no such key, {hint}"
    reason = EXPECTED.get(first["type"], first["msg"].lower().removeprefix("input should be "))
    allowed = _allowed(info) if info else ""
    if allowed:
        reason = f"{reason}, {allowed}" if first["type"].endswith("_type") else allowed
    return f"{key} = {value}: expected {reason}; change that line"


def _brief(key: str) -> str:
    return key if len(key) <= LONGEST_KEY and key.isprintable() else shown(key)


def _field(where: list[str]) -> tuple[type[Settings], FieldInfo | None]:
    """Section in which a key stands, and the key's description (None where it has none)."""
    section: type[Settings] = StudyConfig
    info: FieldInfo | None = None
    for part in where:
        info = section.model_fields.get(part, info)
        if info is not None and isinstance(info.annotation, type) and issubclass(info.annotation, Settings):
            section, info = info.annotation, None
    return section, info
