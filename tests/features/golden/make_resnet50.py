"""Golden features of rcmalli/keras-vggface's own ResNet50 on seeded random weights (see README.md)."""

import sys
import types
import zlib
from pathlib import Path

import numpy as np


def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random weight that depends on its Keras name and shape alone; tests/features/test_resnet50.py has it too."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    kind = name.rsplit("/", 1)[-1]
    if kind == "kernel":
        return (rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))).astype(np.float32)
    if kind in ("gamma", "moving_variance"):
        return rng.uniform(0.3, 1.2, shape).astype(np.float32)
    return (0.1 * rng.standard_normal(shape)).astype(np.float32)


def pictures() -> np.ndarray:
    """Two pictures (2, 224, 224, 3) in bytes, not rounded."""
    rng = np.random.default_rng(20)
    coarse = rng.uniform(0, 255, (2, 7, 7, 3)).repeat(32, 1).repeat(32, 2)
    return np.clip(coarse + rng.normal(0, 20, coarse.shape), 0, 255).astype(np.float32)


def main(checkout: str) -> None:
    """Build the network from a checkout of keras-vggface, set its weights, save its features and their names."""
    import tf_keras
    from tf_keras.utils import get_source_inputs

    # keras-vggface asks for modules of Keras 2.2 that have moved since.
    def module(name: str, **members: object) -> None:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__dict__.update(members)

    sys.modules |= {"keras": tf_keras, "keras.layers": tf_keras.layers, "keras.backend": tf_keras.backend}
    sys.modules["keras.models"] = tf_keras.models
    module("keras.utils", layer_utils=None)
    module("keras.utils.data_utils", get_file=None)
    module("keras.utils.layer_utils", get_source_inputs=get_source_inputs)
    module("keras_applications")
    module("keras_applications.imagenet_utils", _obtain_input_shape=lambda shape, **_: shape)
    sys.path.insert(0, checkout)
    from keras_vggface.models import RESNET50
    from keras_vggface.utils import preprocess_input

    model = RESNET50(include_top=False, weights=None, input_shape=(224, 224, 3))
    for weight in model.weights:
        weight.assign(value(weight.name.removesuffix(":0"), tuple(weight.shape)))
    features = model.predict(preprocess_input(pictures(), version=2), verbose=0).reshape(2, -1)
    here = Path(__file__).parent
    np.save(here / "resnet50_features.npy", features.astype(np.float32))
    shapes = [f"{weight.name} {'x'.join(map(str, weight.shape))}" for weight in model.weights]
    (here / "resnet50_weights.txt").write_text("\n".join(shapes) + "\n", encoding="utf-8")
    if len(sys.argv) > 2:
        model.save_weights(sys.argv[2])


if __name__ == "__main__":
    main(sys.argv[1])
