"""Write small parameter files with MXNet itself: `pip install mxnet==1.9.1 numpy==1.23.5`, then run this in its folder.

The k-th parameter, in the order of `PARAMETERS`, holds 0, 1, 2, ... divided by 8, plus k.
"""

import mxnet as mx
import numpy as np
from mxnet.gluon.nn import Conv2D, Dense, HybridSequential

PARAMETERS = ("0.weight", "1.0.weight", "1.0.bias")


def network():
    """A dense layer without a bias and a convolution within a block, as in the HYPER authors' generator."""
    outer, inner = HybridSequential(prefix="generator0_"), HybridSequential(prefix="block0_")
    with inner.name_scope():
        inner.add(Conv2D(2, 3, padding=1, in_channels=1))
    with outer.name_scope():
        outer.add(Dense(4, use_bias=False, in_units=3))
    outer.add(inner)
    return outer


def main():
    net = network()
    net.initialize()
    parameters = net._collect_params_with_prefix()
    assert tuple(parameters) == PARAMETERS
    for k, parameter in enumerate(parameters.values()):
        values = np.arange(np.prod(parameter.shape)).reshape(parameter.shape) / 8 + k
        parameter.set_data(mx.nd.array(values))
    net.save_parameters("gluon.params")  # arrays of version 2
    net.collect_params().save("gluon_older_names.params")
    mx.npx.set_np()
    mx.npx.save("numpy_semantics.params", {"scalar": mx.np.array(2.5), "matrix": mx.np.ones((2, 3))})  # version 3


if __name__ == "__main__":
    main()
