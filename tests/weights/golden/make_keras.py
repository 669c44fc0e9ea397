"""Write the weights of a small network with Keras itself, in the HDF5 layout of its version 2.

`pip install keras==3.10.0 h5py==3.16.0` and one of its backends, then run this in its folder.
The k-th weight, in the order of the file, holds 0, 1, 2, ... divided by 8, plus k.
"""

import h5py
import keras
import numpy as np
from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group


def main():
    given = keras.Input((8, 8, 1))
    features = keras.layers.Conv2D(2, 3, use_bias=False, name="conv1_3x3")(given)
    features = keras.layers.BatchNormalization(name="conv1_3x3_bn")(features)
    features = keras.layers.ReLU(name="relu1")(features)
    model = keras.Model(given, keras.layers.Dense(3, name="dense")(features))
    k = 0
    for layer in model.layers:
        for weight in [*layer.trainable_weights, *layer.non_trainable_weights]:
            weight.assign(np.arange(np.prod(weight.shape)).reshape(weight.shape).astype("float32") / 8 + k)
            k += 1
    with h5py.File("keras.h5", "w") as file:
        save_weights_to_hdf5_group(file, model)


if __name__ == "__main__":
    main()
