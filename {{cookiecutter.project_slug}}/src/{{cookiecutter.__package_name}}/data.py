"""Where the samples come from: one function a data set; `data.name` in params.yaml chooses it.
A model's own data may stand beside the model instead.

The keyword-only arguments of a function are its parameters in `params.yaml`, checked by their
types. A function returns a `Dataset`: all samples, and the SHA-256 of what it read. The machinery
splits them, as `split` in params.yaml says. To add a data set, add a function; it gets a file by
`fetch`, which data.lock tells what the file must be (README.md, Data).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from sklearn.datasets import load_diabetes, load_digits
from sklearn.preprocessing import StandardScaler

from repro import BadInput, Dataset, arrays, fetch, sha256


def digits(*, scaling: Literal["range", "standard"] = "range") -> Dataset:
    """1,797 handwritten digits of 8x8 pixels in 10 classes, shipped with scikit-learn.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine
    Learning Repository, 1998.
    """
    images, labels = load_digits(return_X_y=True)
    sources = {"digits images": sha256(images), "digits labels": sha256(labels)}
    x = (images.reshape(-1, 8, 8, 1) / 16).astype(np.float32)
    y = labels.astype(np.int32)
    return Dataset(
        x,
        y,
        classes=10,
        sources=sources,
        preprocessing=StandardScaler() if scaling == "standard" else None,
    )


def diabetes() -> Dataset:
    """442 patients, 10 measurements each, and the progression of their disease a year later.

    Shapes: x (442, 10), standardised over the training part; y (442, 1), in hundreds of the
    published measure (25 to 346). Shipped with scikit-learn. Source: B. Efron, T. Hastie,
    I. Johnstone, R. Tibshirani, "Least Angle Regression", 2004.
    """
    x, y = load_diabetes(return_X_y=True, scaled=False)
    return Dataset(
        x.astype(np.float32),
        (y[:, None] / 100).astype(np.float32),
        classes=1,
        sources={"diabetes": sha256(x), "diabetes progression": sha256(y)},
        preprocessing=StandardScaler(),
    )


MNIST = {
    "x_train": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "y_train": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "x_test": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "y_test": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""SHA-256 of the four original files, unpacked, which are rebuilt here from the arrays: archives
of the same arrays differ in their bytes."""


def mnist() -> Dataset:
    """70,000 handwritten digits of 28x28 pixels in 10 classes, the last 10,000 set aside.

    Read from `data/mnist.npz`, downloaded when it is not there. Source: Y. LeCun, C. Cortes,
    C. J. C. Burges, "The MNIST database of handwritten digits" (CC BY-SA 3.0).
    """
    path = fetch(
        "mnist.npz",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz",
        sha256="731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
    )
    found = arrays(path, *MNIST, what="the archive of MNIST")
    for name, array in found.items():
        digest = sha256(_idx(array))
        if digest != MNIST[name]:
            raise BadInput(f"{path}: {name} has SHA-256 {digest}, expected {MNIST[name]}")
    x = np.concatenate([found["x_train"], found["x_test"]])[..., None] / np.float32(255)
    y = np.concatenate([found["y_train"], found["y_test"]]).astype(np.int32)
    return Dataset(x, y, classes=10, sources=MNIST, held_out=len(found["y_test"]))


def _idx(array: np.ndarray) -> bytes:
    """The file of bytes in the IDX format: a header of type and shape, then the content."""
    shape = np.array(array.shape, dtype=">u4").tobytes()
    return bytes((0, 0, 8, array.ndim)) + shape + array.astype(np.uint8).tobytes()
