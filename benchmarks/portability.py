"""Which operations give other bits on another processor: a sweep over Keras's layers and functions.

    python benchmarks/portability.py                                  all processors
    python benchmarks/portability.py --cpus native,Haswell --only softmax    some cases
    python benchmarks/portability.py --guarantee machine              without what portable mends
    python benchmarks/portability.py --json FILE    with the kinds of operations for portable.py

Runs each case natively and under each emulated processor (qemu-user's `qemu-x86_64`), a process a
processor, for TensorFlow takes most of a minute to start there. A case is a function with its
gradients, run eagerly and inside `tf.function`, on numbers made with integers only. Run it with a
Python that has the packages of a generated project.

The emulated processors have no AVX-512 and round their approximate reciprocals (`rcpps`, `rsqrtps`)
exactly; they differ in FMA, AVX2 and the sizes of their caches. The native one has what it has.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

SOURCES = Path(__file__).resolve().parents[1] / "{{cookiecutter.project_slug}}" / "src"
sys.path.insert(0, str(SOURCES))

from repro.backends import portable  # noqa: E402  (found once the line above has run)
from repro.environment import determinism  # noqa: E402
from repro.environment.variables import CLEARED  # noqa: E402
from repro.recipe.parameters import Guarantee, Own, Parameters  # noqa: E402

CPUS = ("native", "SandyBridge", "Haswell", "max", "EPYC")

# The last part of a name tells a case's variants apart.
Case = tuple[str, Callable[..., Any], tuple[Any, ...]]


def numbers(*shape: int, salt: int = 0, low: float = -4.0, high: float = 4.0) -> np.ndarray:
    """float32 numbers between two bounds: SplitMix64 (Steele et al. 2014) of their positions."""
    words = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) + np.uint64(salt << 32)
    words = words * np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    unit = ((words ^ (words >> np.uint64(31))) >> np.uint64(40)).astype(np.float64) * 2.0**-24
    return (low + (high - low) * unit).astype(np.float32).reshape(shape)


def integers(*shape: int, high: int, salt: int = 0) -> np.ndarray:
    """int32 numbers from 0 up to `high`, without it."""
    return (numbers(*shape, salt=salt, low=0, high=1) * high).astype(np.int32)


def functions() -> Iterator[Case]:
    """Functions of `keras.ops` and `keras.activations`."""
    import keras
    from keras import ops

    size = 20011  # odd, and above what one thread takes: ends are computed one by one
    free, positive = numbers(size), numbers(size, low=1e-3, high=50.0)
    inside = numbers(size, low=-0.999, high=0.999)
    small = numbers(3)  # no full vector register
    matrix = numbers(97, 211)

    names = "abs arctan arcsinh ceil cos cosh erf exp exp2 expm1 floor negative round sign sigmoid"
    names += " silu sin sinh sinc softplus softsign square tanh tan relu relu6 elu selu leaky_relu"
    names += " celu hard_sigmoid hard_silu hard_tanh hard_shrink soft_shrink tanh_shrink"
    names += " squareplus sparse_plus log_sigmoid cbrt deg2rad nan_to_num"
    for name in names.split():
        if hasattr(ops, name):
            yield f"ops.{name}", getattr(ops, name), (free,)
            yield f"ops.{name}/small", getattr(ops, name), (small,)
    names = "log log10 log1p log2 sqrt rsqrt reciprocal arccosh digamma"
    for name in names.split():
        if hasattr(ops, name):
            yield f"ops.{name}", getattr(ops, name), (positive + (name == "arccosh"),)
            yield f"ops.{name}/small", getattr(ops, name), (np.abs(small) + 1,)
    for name in ["arccos", "arcsin", "arctanh", "erfinv"]:
        yield f"ops.{name}", getattr(ops, name), (inside,)
        yield f"ops.{name}/small", getattr(ops, name), (small / 8,)
    for name in ["gelu", "mish", "exponential", "linear", "glu"]:
        yield f"activations.{name}", getattr(keras.activations, name), (numbers(999, 20),)
    yield "ops.gelu/exact", lambda x: ops.gelu(x, approximate=False), (free,)
    yield "ops.gelu/tanh", lambda x: ops.gelu(x, approximate=True), (free,)
    shapes: tuple[tuple[int, ...], ...] = ((size,), (97, 211), (13, 10), (8, 33, 33), (5, 3))
    for shape in shapes:
        tag = "x".join(map(str, shape))
        for name in ("softmax", "log_softmax", "sparsemax", "logsumexp", "normalize"):
            yield f"ops.{name}/{tag}", getattr(ops, name), (numbers(*shape),)
    yield "ops.softmax/axes", lambda x: ops.softmax(x, axis=(1, 2)), (numbers(5, 17, 9),)
    yield "ops.softmax/first", lambda x: ops.softmax(x, axis=0), (matrix,)
    yield "ops.unit_norm", lambda x: ops.normalize(x, order=3), (matrix,)

    yield "ops.one_over", lambda x: 1.0 / x, (positive,)
    yield "ops.one_over_sqrt", lambda x: 1.0 / ops.sqrt(x), (positive,)
    yield "ops.over_sqrt", lambda x, y: x / ops.sqrt(y), (free, positive)
    yield "ops.over_constant", lambda x: x / np.float32(3.7), (free,)
    yield "ops.over_constants", lambda x: x / positive, (free,)
    for power in (-2.0, -1.0, -0.5, 0.5, 2.0, 3.0, 1.7):
        yield f"ops.power/{power}", lambda x, p=power: ops.power(x, p), (positive,)
    yield "ops.power/tensors", lambda x, y: ops.power(x, y), (positive, inside)
    two = "add subtract multiply divide divide_no_nan maximum minimum arctan2 hypot logaddexp"
    two += " mod floor_divide"
    for name in two.split():
        if hasattr(ops, name):
            yield f"ops.{name}", getattr(ops, name), (positive, positive[::-1].copy())

    for name in [
        "sum",
        "mean",
        "var",
        "std",
        "prod",
        "max",
        "min",
        "logsumexp",
        "cumsum",
        "cumprod",
    ]:
        x = numbers(97, 211, low=0.9, high=1.1)
        yield f"ops.{name}/all", lambda x, f=name: getattr(ops, f)(ops.reshape(x, -1)), (x,)
        yield f"ops.{name}/0", lambda x, f=name: getattr(ops, f)(x, axis=0), (x,)
        yield f"ops.{name}/1", lambda x, f=name: getattr(ops, f)(x, axis=1), (x,)
    yield "ops.mean/large", lambda x: ops.mean(x, axis=(0, 1, 2)), (numbers(16, 24, 24, 7),)
    yield "ops.moments", lambda x: ops.moments(x, axes=(0, 1, 2)), (numbers(16, 12, 12, 7),)
    yield "ops.norm", lambda x: ops.norm(x, axis=1), (matrix,)
    yield "ops.median", lambda x: ops.median(x, axis=1), (matrix,)
    yield "ops.quantile", lambda x: ops.quantile(x, 0.3, axis=1), (matrix,)
    for name in ["sort", "argsort", "argmax", "argmin", "any", "all", "count_nonzero"]:
        yield f"ops.{name}", lambda x, f=name: getattr(ops, f)(x, axis=-1), (matrix,)
    yield "ops.top_k", lambda x: ops.top_k(x, 5), (matrix,)
    yield (
        "ops.segment_sum",
        lambda x, i: ops.segment_sum(x, i, 9),
        (
            matrix,
            integers(97, high=9),
        ),
    )

    for rows, inner, columns in ((16, 784, 784), (1, 300, 50), (64, 5000, 30), (700, 17, 400)):
        pair = numbers(rows, inner), numbers(inner, columns, salt=1)
        yield f"ops.matmul/{rows}x{inner}x{columns}", ops.matmul, pair
    yield "ops.matmul/vector", lambda x, y: ops.matmul(x, y), (numbers(300, 50), numbers(50))
    pair = numbers(6, 33, 400), numbers(6, 400, 29)
    yield "ops.matmul/batch", ops.matmul, pair
    pair = numbers(3, 5, 7, 9), numbers(3, 5, 9, 4)
    yield "ops.matmul/batches", ops.matmul, pair
    pair = numbers(4, 17, 3, 8), numbers(4, 23, 3, 8)
    yield "ops.einsum/attention", lambda q, k: ops.einsum("bqhd,bkhd->bhqk", q, k), pair
    pair = numbers(14, 9, 20), numbers(20, 31)
    yield "ops.einsum/dense", lambda x, y: ops.einsum("abc,cd->abd", x, y), pair
    yield "ops.tensordot", lambda x, y: ops.tensordot(x, y, axes=1), pair
    pair = numbers(50, 3), numbers(50, 3, salt=1)
    yield "ops.cross", ops.cross, pair
    yield "ops.outer", lambda x, y: ops.outer(x, y), pair

    convolutions = (((8, 28, 28, 1), 5), ((32, 14, 14, 6), 5), ((4, 9, 9, 40), 3))
    for images, kernel in convolutions:
        for strides, padding in ((1, "same"), (2, "valid")):
            tag = f"{'x'.join(map(str, images))}/{kernel}/{strides}"
            yield (
                f"ops.conv/{tag}",
                lambda x, w, s=strides, p=padding: ops.conv(x, w, strides=s, padding=p),
                (numbers(*images), numbers(kernel, kernel, images[-1], 16, salt=1)),
            )
    pair = numbers(8, 40, 12), numbers(3, 12, 17)
    yield "ops.conv/1d", lambda x, w: ops.conv(x, w, padding="same"), pair
    yield "ops.conv/1d/dilated", lambda x, w: ops.conv(x, w, dilation_rate=2), pair
    pair = numbers(2, 8, 8, 8, 3), numbers(3, 3, 3, 3, 4)
    yield "ops.conv/3d", lambda x, w: ops.conv(x, w, padding="same"), pair
    pair = numbers(4, 7, 7, 6), numbers(3, 3, 9, 6)
    yield "ops.conv_transpose", lambda x, w: ops.conv_transpose(x, w, 2, padding="same"), pair
    pair = numbers(8, 14, 14, 6), numbers(3, 3, 6, 2)
    yield "ops.depthwise_conv", lambda x, w: ops.depthwise_conv(x, w, padding="same"), pair
    trio = (*pair, numbers(1, 1, 12, 9))
    yield "ops.separable_conv", lambda x, d, p: ops.separable_conv(x, d, p), trio
    x = numbers(8, 15, 15, 6)
    yield "ops.max_pool", lambda x: ops.max_pool(x, 2), (x,)
    yield "ops.max_pool/same", lambda x: ops.max_pool(x, 3, 2, "same"), (x,)
    yield "ops.average_pool", lambda x: ops.average_pool(x, 3, 2, "same"), (x,)

    parts = numbers(9), numbers(9, low=0.1, high=3.0), numbers(9, salt=1), numbers(9, salt=2)
    yield (
        "ops.batch_normalization",
        lambda x, m, v, b, s: ops.batch_normalization(x, m, v, -1, b, s),
        (numbers(8, 7, 7, 9), *parts),
    )
    pair = numbers(211, salt=1), numbers(211, salt=2)
    yield (
        "ops.layer_normalization",
        lambda x, g, b: ops.layer_normalization(x, g, b),
        (matrix, *pair),
    )
    yield "ops.rms_normalization", lambda x, g: ops.rms_normalization(x, g), (matrix, pair[0])
    heads = tuple(numbers(3, 21, 4, 8, salt=salt) for salt in range(3))
    yield "ops.dot_product_attention", ops.dot_product_attention, heads

    square = numbers(4, 12, 12) + 9 * np.eye(12, dtype=np.float32)
    definite = square @ square.transpose(0, 2, 1)
    for name in ["cholesky", "inv", "det", "svd", "qr", "eigh"]:
        x = definite if name in ("cholesky", "eigh") else square
        yield f"linalg.{name}", getattr(ops, name), (x,)
    yield "linalg.solve", ops.solve, (square, numbers(4, 12, 3))
    pair = numbers(6, 96), numbers(6, 96, salt=1)
    for name in ["fft", "fft2"]:
        yield f"ops.{name}", lambda a, b, f=name: getattr(ops, f)((a, b)), pair
    yield "ops.rfft", ops.rfft, (pair[0],)
    yield "ops.stft", lambda x: ops.stft(x, 32, 16, 32), (pair[0],)

    image = numbers(3, 17, 19, 3, low=0.0, high=255.0)
    for method in ("nearest", "bilinear", "bicubic", "lanczos3", "lanczos5"):
        for target in ((29, 31), (8, 9)):
            yield (
                f"image.resize/{method}/{target[0]}",
                lambda x, t=target, m=method: ops.image.resize(x, t, interpolation=m),
                (image,),
            )
    yield "image.resize/antialias", lambda x: ops.image.resize(x, (8, 9), antialias=True), (image,)
    yield "image.rgb_to_grayscale", ops.image.rgb_to_grayscale, (image,)
    yield "image.rgb_to_hsv", lambda x: ops.image.rgb_to_hsv(x / 255), (image,)
    yield "image.hsv_to_rgb", lambda x: ops.image.hsv_to_rgb(x / 255), (image,)
    turn = np.tile(np.array([0.8, -0.6, 3.0, 0.6, 0.8, -2.0, 0.0, 0.0], np.float32), (3, 1))
    for method in ("nearest", "bilinear"):
        yield (
            f"image.affine_transform/{method}",
            lambda x, t, m=method: ops.image.affine_transform(x, t, m),
            (image, turn),
        )
    yield "image.gaussian_blur", lambda x: ops.image.gaussian_blur(x, (3, 3), (1.0, 1.0)), (image,)
    yield "image.extract_patches", lambda x: ops.image.extract_patches(x, (4, 4)), (image,)

    places = integers(60, high=97)
    yield "ops.take", lambda x, i: ops.take(x, i, axis=0), (matrix, places)
    yield "ops.one_hot", lambda i: ops.one_hot(i, 97), (places,)
    yield "ops.where", lambda x: ops.where(x > 0, x, -2 * x), (matrix,)
    yield "ops.clip", lambda x: ops.clip(x, -1, 1), (matrix,)
    yield "ops.pad", lambda x: ops.pad(x, ((1, 2), (3, 4))), (matrix,)
    yield "ops.concatenate", lambda x: ops.concatenate([x, x * 2], axis=1), (matrix,)
    yield "ops.stack", lambda x: ops.stack([x, x * 2], axis=1), (matrix,)
    yield "ops.split", lambda x: ops.split(x, (7, 50), axis=1), (matrix,)
    yield "ops.transpose", ops.transpose, (matrix,)
    yield "ops.roll", lambda x: ops.roll(x, 3, axis=1), (matrix,)
    yield "ops.flip", lambda x: ops.flip(x, axis=1), (matrix,)
    yield "ops.repeat", lambda x: ops.repeat(x, 3, axis=1), (matrix,)
    yield "ops.tile", lambda x: ops.tile(x, (2, 3)), (matrix,)
    yield "ops.tril", ops.tril, (matrix,)
    yield "ops.slice", lambda x: x[3:50:2, ::-1], (matrix,)
    yield "ops.squeeze", lambda x: ops.squeeze(ops.expand_dims(x, 1), 1), (matrix,)
    yield "ops.scatter", lambda x, i: ops.scatter(i[:, None], x[:60], (97, 211)), (matrix, places)
    yield "ops.cast/bfloat16", lambda x: ops.cast(ops.cast(x, "bfloat16"), "float32"), (matrix,)
    # No float16: TensorFlow converts it by F16C, which the first processors with AVX lack; they end
    # with an illegal instruction.
    yield "ops.scan", lambda x: ops.scan(lambda c, y: (c * 0.9 + y, c), x[0], x)[1], (matrix,)
    yield "ops.associative_scan", lambda x: ops.associative_scan(ops.add, x, axis=1), (matrix,)

    for name in ["normal", "uniform", "truncated_normal"]:
        yield (
            f"random.{name}",
            lambda x, f=name: x * getattr(keras.random, f)((size,), seed=7),
            (free,),
        )
    for name in ["glorot_uniform", "he_normal", "lecun_normal", "orthogonal", "random_normal"]:
        make = getattr(keras.initializers, name.title().replace("_", ""))
        yield f"initializers.{name}", lambda m=make: m(seed=7)((67, 35)), ()
    yield "random.dropout", lambda x: keras.random.dropout(x, 0.3, seed=7), (free,)
    yield "random.randint", lambda: keras.random.randint((size,), 0, 99, seed=7), ()
    yield "random.shuffle", lambda x: keras.random.shuffle(x, seed=7), (matrix,)
    yield "random.categorical", lambda x: keras.random.categorical(x, 40, seed=7), (matrix,)
    yield "random.gamma", lambda: keras.random.gamma((999,), 0.7, seed=7), ()
    yield "random.beta", lambda: keras.random.beta((999,), 0.7, 1.3, seed=7), ()
    yield "random.binomial", lambda: keras.random.binomial((999,), 20.0, 0.3, seed=7), ()


def layers() -> Iterator[Case]:
    """Keras's layers, in training, with the gradients of inputs and weights."""
    import keras

    def case(name: str, layer: Any, *inputs: np.ndarray, **arguments: Any) -> Case:
        return f"layers.{name}", _Layer(layer, arguments), inputs

    kl = keras.layers
    matrix, sequence = numbers(32, 67), numbers(6, 15, 24)
    image, volume = numbers(8, 14, 14, 6), numbers(2, 8, 8, 8, 3)
    for activation in ("relu", "tanh", "sigmoid", "gelu", "softmax", "selu", "silu", "elu"):
        yield case(f"Dense/{activation}", kl.Dense(35, activation), matrix)
    yield case("EinsumDense", kl.EinsumDense("abc,cd->abd", (None, 9), bias_axes="d"), sequence)
    yield case("Conv1D", kl.Conv1D(9, 3, padding="causal"), sequence)
    yield case("Conv2D", kl.Conv2D(9, 3), image)
    yield case("Conv2D/strides", kl.Conv2D(9, 5, 2, "same"), image)
    yield case("Conv2D/dilation", kl.Conv2D(9, 3, dilation_rate=2), image)
    yield case("Conv2D/groups", kl.Conv2D(8, 3, groups=2), image)
    yield case("Conv3D", kl.Conv3D(5, 3), volume)
    yield case("Conv1DTranspose", kl.Conv1DTranspose(5, 3, 2), sequence)
    yield case("Conv2DTranspose", kl.Conv2DTranspose(5, 3, 2), image)
    yield case("Conv3DTranspose", kl.Conv3DTranspose(5, 3, 2), volume)
    yield case("DepthwiseConv1D", kl.DepthwiseConv1D(3), sequence)
    yield case("DepthwiseConv2D", kl.DepthwiseConv2D(3), image)
    yield case("SeparableConv1D", kl.SeparableConv1D(7, 3), sequence)
    yield case("SeparableConv2D", kl.SeparableConv2D(7, 3), image)
    for rank, x in ((1, sequence), (2, image), (3, volume)):
        for name in ("MaxPooling", "AveragePooling", "GlobalMaxPooling", "GlobalAveragePooling"):
            size = () if name.startswith("Global") else (2,)
            yield case(f"{name}{rank}D", getattr(kl, f"{name}{rank}D")(*size), x)
        yield case(f"UpSampling{rank}D", getattr(kl, f"UpSampling{rank}D")(), x)
        yield case(f"ZeroPadding{rank}D", getattr(kl, f"ZeroPadding{rank}D")(), x)
        yield case(f"Cropping{rank}D", getattr(kl, f"Cropping{rank}D")(), x)
    yield case("UpSampling2D/bilinear", kl.UpSampling2D(interpolation="bilinear"), image)
    yield case("AdaptiveAveragePooling2D", kl.AdaptiveAveragePooling2D(5), image)
    for name, x in (("image", image), ("matrix", matrix), ("sequence", sequence)):
        yield case(f"BatchNormalization/{name}", kl.BatchNormalization(), x, training=True)
        yield case(f"BatchNormalization/{name}/test", kl.BatchNormalization(), x, training=False)
        yield case(f"LayerNormalization/{name}", kl.LayerNormalization(), x)
        yield case(f"RMSNormalization/{name}", kl.RMSNormalization(), x)
        yield case(f"UnitNormalization/{name}", kl.UnitNormalization(), x)
    yield case("GroupNormalization", kl.GroupNormalization(3), image)
    yield case("SpectralNormalization", kl.SpectralNormalization(kl.Dense(9)), matrix)
    yield case("WeightNormalization", kl.Dense(9, kernel_constraint="unit_norm"), matrix)
    ids = integers(6, 15, high=50)
    yield case("Embedding", kl.Embedding(50, 16), ids)
    for name in ("LSTM", "GRU", "SimpleRNN"):
        yield case(name, getattr(kl, name)(20), sequence)
        yield case(f"{name}/sequences", getattr(kl, name)(20, return_sequences=True), sequence)
        yield case(f"{name}/dropout", getattr(kl, name)(20, dropout=0.3, seed=5), sequence)
        yield case(f"{name}/unroll", getattr(kl, name)(20, unroll=True), sequence)
        yield case(
            f"{name}/recurrent_dropout",
            getattr(kl, name)(20, recurrent_dropout=0.3, seed=5),
            sequence,
        )
    yield case("GRU/reset_before", kl.GRU(20, reset_after=False), sequence)
    yield case("Bidirectional", kl.Bidirectional(kl.LSTM(9)), sequence)
    yield case("TimeDistributed", kl.TimeDistributed(kl.Dense(9)), sequence)
    yield case("ConvLSTM1D", kl.ConvLSTM1D(4, 3), numbers(3, 5, 12, 2))
    yield case("ConvLSTM2D", kl.ConvLSTM2D(4, 3), numbers(3, 5, 8, 8, 2))
    yield case("MultiHeadAttention", kl.MultiHeadAttention(3, 8), sequence, sequence)
    yield case(
        "MultiHeadAttention/causal",
        kl.MultiHeadAttention(3, 8),
        sequence,
        sequence,
        use_causal_mask=True,
    )
    yield case(
        "MultiHeadAttention/flash",
        kl.MultiHeadAttention(3, 8, flash_attention=False),
        sequence,
        sequence,
    )
    yield case(
        "MultiHeadAttention/dropout",
        kl.MultiHeadAttention(3, 8, dropout=0.2, seed=5),
        sequence,
        sequence,
    )
    yield case("GroupQueryAttention", kl.GroupQueryAttention(8, 4, 2), sequence, sequence)
    yield "layers.Attention", _Layer(kl.Attention(), {}, listed=True), (sequence, sequence)
    yield (
        "layers.AdditiveAttention",
        _Layer(kl.AdditiveAttention(), {}, listed=True),
        (
            sequence,
            sequence,
        ),
    )
    for name in [
        "Add",
        "Subtract",
        "Multiply",
        "Average",
        "Maximum",
        "Minimum",
        "Concatenate",
        "Dot",
    ]:
        layer = kl.Dot(axes=2) if name == "Dot" else getattr(kl, name)()
        pair = sequence, sequence * 0.5
        yield f"layers.{name}", _Layer(layer, {}, listed=True), pair
    yield case("Dropout", kl.Dropout(0.3, seed=5), sequence, training=True)
    yield case("SpatialDropout1D", kl.SpatialDropout1D(0.3, seed=5), sequence, training=True)
    yield case("SpatialDropout2D", kl.SpatialDropout2D(0.3, seed=5), image, training=True)
    yield case("AlphaDropout", kl.AlphaDropout(0.3, seed=5), sequence, training=True)
    yield case("GaussianDropout", kl.GaussianDropout(0.3, seed=5), sequence, training=True)
    yield case("GaussianNoise", kl.GaussianNoise(0.3, seed=5), sequence, training=True)
    for name in ["ReLU", "LeakyReLU", "PReLU", "ELU", "Softmax"]:
        yield case(name, getattr(kl, name)(), sequence)
    for name, more in (
        ("Flatten", {}),
        ("Permute", {"dims": (2, 1)}),
        ("Reshape", {"target_shape": (24, 15)}),
    ):
        yield case(name, getattr(kl, name)(**more), sequence)
    yield case("RepeatVector", kl.RepeatVector(3), matrix)
    yield case("Rescaling", kl.Rescaling(1 / 255, 0.1), image)
    yield case("Normalization", kl.Normalization(mean=0.3, variance=1.7), image)
    yield case("Resizing", kl.Resizing(9, 11), image)
    yield case("CenterCrop", kl.CenterCrop(9, 11), image)
    yield case("CategoryEncoding", kl.CategoryEncoding(50), ids)
    yield case("Discretization", kl.Discretization([-1.0, 0.0, 1.0]), matrix)
    photo = numbers(4, 14, 14, 3, low=0.0, high=255.0)
    augmentations = {
        "RandomFlip": (), "RandomRotation": (0.2,), "RandomZoom": (0.3, 0.3),
        "RandomTranslation": (0.2, 0.2), "RandomContrast": (0.3,), "RandomBrightness": (0.3,),
        "RandomCrop": (9, 9), "RandomShear": (0.3, 0.3), "RandomPerspective": (0.5,),
        "RandomHue": (0.3,), "RandomSaturation": (0.3,), "RandomSharpness": (0.3,),
        "RandomColorJitter": (), "RandomGaussianBlur": (), "RandomErasing": (),
        "RandomPosterization": (4,), "RandomGrayscale": (), "RandomColorDegeneration": (0.3,),
        "RandomElasticTransform": (), "RandomInvert": (), "Solarization": (),
        "AutoContrast": (), "Equalization": (),
    }  # fmt: skip
    for name, positional in augmentations.items():
        if hasattr(kl, name):
            random = name not in ("Solarization", "AutoContrast", "Equalization")
            layer = getattr(kl, name)(*positional, **({"seed": 5} if random else {}))
            yield case(name, layer, photo, training=True)


class _Layer:
    """A layer as a function of its inputs; its variables are set from integers."""

    def __init__(self, layer: Any, arguments: dict[str, Any], listed: bool = False) -> None:
        self.layer, self.arguments, self.listed = layer, arguments, listed

    def prepare(self, *inputs: Any) -> None:
        self(*inputs)
        for number, variable in enumerate(self.layer.weights):
            if variable.dtype == "float32":
                low = 0.5 if "variance" in variable.name else -0.3
                variable.assign(numbers(*variable.shape, salt=100 + number, low=low, high=0.9))
        self.restart()

    def restart(self) -> None:
        """Generators begin anew, so that each way of running draws the same."""
        for part in self.layer._flatten_layers():
            for generator in getattr(part, "_seed_generators", []):
                generator.state.assign([5, 0])

    @property
    def variables(self) -> list[Any]:
        return [variable.value for variable in self.layer.trainable_variables]

    def __call__(self, *inputs: Any) -> Any:
        if self.listed:
            return self.layer(list(inputs), **self.arguments)
        return self.layer(*inputs, **self.arguments)


def losses() -> Iterator[Case]:
    """Losses, and metrics as functions."""
    import keras

    classes, one_hot = integers(64, high=10), np.eye(10, dtype=np.float32)[integers(64, high=10)]
    logits = numbers(64, 10)
    share = np.exp(logits.astype(np.float64))
    share = (share / share.sum(1, keepdims=True)).astype(np.float32)
    kl = keras.losses
    for name, target, prediction in (
        ("CategoricalCrossentropy", one_hot, logits),
        ("SparseCategoricalCrossentropy", classes, logits),
        ("BinaryCrossentropy", one_hot, logits),
        ("BinaryFocalCrossentropy", one_hot, logits),
        ("CategoricalFocalCrossentropy", one_hot, logits),
    ):
        yield f"losses.{name}", _Loss(getattr(kl, name)(), target), (share,)
        yield (
            f"losses.{name}/logits",
            _Loss(getattr(kl, name)(from_logits=True), target),
            (prediction,),
        )
        through = keras.activations.sigmoid if "Binary" in name else keras.activations.softmax
        yield f"losses.{name}/softmax", _Loss(getattr(kl, name)(), target, through), (prediction,)
    names = "MeanSquaredError MeanAbsoluteError MeanSquaredLogarithmicError Huber LogCosh Hinge"
    names += " SquaredHinge CategoricalHinge KLDivergence Poisson CosineSimilarity"
    names += " MeanAbsolutePercentageError Dice Tversky"
    for name in names.split():
        yield f"losses.{name}", _Loss(getattr(kl, name)(), one_hot), (share,)
    labels = np.tile(np.array([[1, 2, 3, 2]], np.int32), (6, 1))
    yield "losses.CTC", _Loss(kl.CTC(), labels), (numbers(6, 15, 10),)


class _Loss:
    def __init__(self, loss: Any, target: Any, through: Callable[[Any], Any] | None = None) -> None:
        self.loss, self.target, self.through = loss, target, through

    def __call__(self, prediction: Any) -> Any:
        return self.loss(self.target, self.through(prediction) if self.through else prediction)


def metrics() -> Iterator[Case]:
    import keras

    classes, one_hot = integers(640, high=10), np.eye(10, dtype=np.float32)[integers(640, high=10)]
    share = numbers(640, 10, low=0.0, high=1.0)
    names = "CategoricalAccuracy TopKCategoricalAccuracy CategoricalCrossentropy AUC Precision"
    names += " Recall F1Score MeanSquaredError RootMeanSquaredError MeanAbsoluteError R2Score"
    names += " CosineSimilarity BinaryAccuracy KLDivergence MeanIoU"
    for name in names.split():
        if name == "MeanIoU":
            yield f"metrics.{name}", _Metric(lambda: keras.metrics.MeanIoU(10), classes), (classes,)
        else:
            yield f"metrics.{name}", _Metric(getattr(keras.metrics, name), one_hot), (share,)
    make = keras.metrics.SparseCategoricalAccuracy
    yield "metrics.SparseCategoricalAccuracy", _Metric(make, classes), (share,)


class _Metric:
    def __init__(self, make: Callable[[], Any], target: Any) -> None:
        self.metric, self.target = make(), target

    def prepare(self, *inputs: Any) -> None:
        self(*inputs)
        self.restart()

    def restart(self) -> None:
        self.metric.reset_state()

    def __call__(self, prediction: Any) -> Any:
        self.metric.update_state(self.target, prediction)
        return self.metric.result()


def optimizers() -> Iterator[Case]:
    import keras

    from repro.backends.tensorflow import fuse

    def fused(optimizer: Any) -> Any:
        fuse(optimizer)
        return optimizer

    ko, rate = keras.optimizers, 0.01
    makers: dict[str, Callable[[], Any]] = {
        "SGD": lambda: ko.SGD(rate),
        "SGD/nesterov": lambda: ko.SGD(rate, momentum=0.9, nesterov=True),
        "Adam": lambda: ko.Adam(rate),
        "Adam/fused": lambda: fused(ko.Adam(rate)),
        "Adam/amsgrad": lambda: ko.Adam(rate, amsgrad=True, weight_decay=0.01, use_ema=True),
        "Adam/clipnorm": lambda: ko.Adam(rate, clipnorm=1.0),
        "Adam/global_clipnorm": lambda: ko.Adam(rate, global_clipnorm=1.0),
        "Adam/clipvalue": lambda: ko.Adam(rate, clipvalue=0.5),
        "Adam/accumulation": lambda: ko.Adam(rate, gradient_accumulation_steps=2),
        "Adam/cosine": lambda: ko.Adam(ko.schedules.CosineDecay(rate, 10, warmup_steps=2)),
        "Adam/exponential": lambda: ko.Adam(ko.schedules.ExponentialDecay(rate, 2, 0.9)),
        "AdamW": lambda: ko.AdamW(rate),
        "RMSprop": lambda: ko.RMSprop(rate),
        "RMSprop/centered": lambda: ko.RMSprop(rate, momentum=0.9, centered=True),
        "Adagrad": lambda: ko.Adagrad(rate),
        "Adadelta": lambda: ko.Adadelta(rate),
        "Adamax": lambda: ko.Adamax(rate),
        "Nadam": lambda: ko.Nadam(rate),
        "Lion": lambda: ko.Lion(rate),
        "Lamb": lambda: ko.Lamb(rate),
        "Ftrl": lambda: ko.Ftrl(rate),
        "Adafactor": lambda: ko.Adafactor(rate),
        "Muon": lambda: ko.Muon(rate),
    }
    for name, make in makers.items():
        yield f"optimizers.{name}", _Optimizer(make), (numbers(211, 47), numbers(20011, salt=1))


class _Optimizer:
    """Four updates of two variables."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make

    def prepare(self, *inputs: Any) -> None:
        import keras

        self.values = [keras.Variable(x * 0.1) for x in inputs]
        self.optimizer = self.make()
        self.optimizer.build(self.values)
        self.start = [variable.numpy() for variable in self.optimizer.variables]
        self.begin = [variable.numpy() for variable in self.values]

    def restart(self) -> None:
        for variable, value in zip(self.optimizer.variables, self.start, strict=True):
            variable.assign(value)
        for variable, value in zip(self.values, self.begin, strict=True):
            variable.assign(value)

    def __call__(self, *inputs: Any) -> Any:
        for step in range(4):
            self.optimizer.apply([x * (0.3 + step) for x in inputs], self.values)
        return [variable.value + 0 for variable in self.values]


def host() -> Iterator[Case]:
    """What the project's own data code computes with."""
    import math

    free, positive = numbers(20011), numbers(20011, low=1e-3, high=50.0)
    wide = free.astype(np.float64)
    for name in [
        "exp",
        "expm1",
        "sin",
        "cos",
        "tan",
        "tanh",
        "arctan",
        "arcsinh",
        "sinh",
        "cosh",
        "exp2",
        "cbrt",
    ]:
        yield f"numpy.{name}/32", getattr(np, name), (free,)
        yield f"numpy.{name}/64", getattr(np, name), (wide,)
    for name in ["log", "log1p", "log2", "log10", "sqrt", "reciprocal"]:
        yield f"numpy.{name}/32", getattr(np, name), (positive,)
        yield f"numpy.{name}/64", getattr(np, name), (positive.astype(np.float64),)
    for name in ["sum", "mean", "std", "var", "prod", "cumsum"]:
        yield f"numpy.{name}/32", getattr(np, name), (free,)
        yield f"numpy.{name}/64", getattr(np, name), (wide,)
    yield "numpy.power", lambda x: x**1.7, (positive.astype(np.float64),)
    for dtype in (np.float32, np.float64):
        square = numbers(120, 120).astype(dtype)
        tag = np.dtype(dtype).name
        yield f"numpy.matmul/{tag}", lambda x: x @ x, (square,)
        tall = numbers(70, 3000).astype(dtype)
        yield f"numpy.matmul/{tag}/tall", lambda x: x @ x.T, (tall,)
        yield f"numpy.einsum/{tag}", lambda x: np.einsum("ij,jk->ik", x, x), (square,)
        for name in ["svd", "qr", "inv", "det"]:
            yield f"numpy.{name}/{tag}", getattr(np.linalg, name), (square,)
        yield f"numpy.eigh/{tag}", lambda x: np.linalg.eigh(x @ x.T), (square,)
    yield "numpy.fft", lambda x: np.fft.fft(x), (wide,)
    yield "numpy.normal", lambda: np.random.default_rng(3).normal(size=20011), ()
    yield "numpy.RandomState.normal", lambda: np.random.RandomState(3).normal(size=20011), ()
    yield "numpy.gamma", lambda: np.random.default_rng(3).gamma(0.7, size=20011), ()
    for name in [
        "exp",
        "sin",
        "cos",
        "tan",
        "log",
        "log1p",
        "log2",
        "atan",
        "tanh",
        "erf",
        "lgamma",
        "expm1",
        "pow",
        "sinh",
    ]:
        yield (
            f"math.{name}",
            lambda x, f=name: np.array(
                [math.pow(v, 1.7) if f == "pow" else getattr(math, f)(v) for v in x.tolist()]
            ),
            (positive.astype(np.float64),),
        )


GROUPS = (functions, layers, losses, metrics, optimizers)


def digest(values: Any) -> str:
    import keras

    total = hashlib.sha256()
    for value in keras.tree.flatten(values):
        if value is None:
            continue
        array = np.asarray(value.values if hasattr(value, "indices") else value)
        # Which NaN it is may differ, and no result depends on it.
        array = (
            np.where(np.isnan(array), np.float32("nan"), array)
            if array.dtype.kind == "f"
            else array
        )
        total.update(
            f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes()
        )
    return total.hexdigest()[:16]


def run(name: str, function: Any, inputs: tuple[Any, ...], eager: bool) -> dict[str, Any]:
    """The digests of one case: result and gradients, eager and in a graph; the graph's kinds."""
    import keras
    import tensorflow as tf

    tensors = [tf.constant(x) for x in inputs]
    if hasattr(function, "prepare"):
        function.prepare(*tensors)
    restart = getattr(function, "restart", lambda: None)

    def upstream(output: Any) -> Any:
        """Numbers from -4 to 4 for the gradient to begin with, in a shape known when it runs."""
        places = tf.reshape(tf.range(tf.size(output)) * 389 % 1024 - 512, tf.shape(output))
        return tf.cast(tf.cast(places, tf.float32) * 2.0**-7, output.dtype)

    def both(*values: Any) -> Any:
        with tf.GradientTape() as tape:
            watched = [x for x in values if x.dtype.is_floating]
            tape.watch(watched)
            result = function(*values)
        result = [tf.convert_to_tensor(x) for x in keras.tree.flatten(result)]
        outputs = [x for x in result if x.dtype.is_floating]
        sources = watched + list(getattr(function, "variables", []))
        if not outputs or not sources or name.startswith(("optimizers", "metrics")):
            return result, []
        given = [upstream(x) for x in outputs]
        return result, tape.gradient(outputs, sources, output_gradients=given)

    def traced() -> Any:
        # As in a training, where the size of a batch is not known; some functions have to know it.
        unknown = [tf.TensorSpec((None, *x.shape[1:]), x.dtype) for x in tensors]
        compiled = tf.function(both, autograph=False)
        with contextlib.suppress(Exception):
            return compiled.get_concrete_function(*unknown)
        restart()
        return compiled.get_concrete_function(*tensors)

    found: dict[str, Any] = {}
    try:
        if eager:
            result, gradients = both(*tensors)
            found["eager"], found["eager gradient"] = digest(result), digest(gradients)
    except Exception as error:
        found["eager"] = f"{type(error).__name__}: {str(error)[:120]}"
    try:
        restart()
        graph = traced()
        result, gradients = graph(*tensors)
        found["graph"], found["graph gradient"] = digest(result), digest(gradients)
        found["kinds"] = sorted(portable.kinds(graph.graph))
    except Exception as error:
        found["graph"] = f"{type(error).__name__}: {str(error)[:120]}"
    return found


def parameters(guarantee: Guarantee) -> Parameters:
    none = Own(name="none")
    return Parameters(guarantee=guarantee, threads=2, data=none, model=none, optimizer=None)


def worker(output: Path, guarantee: str, only: str) -> None:
    """Runs all cases in this process."""
    determinism.apply(parameters(guarantee), 1234)
    import keras

    # A line a case, at once: an emulator may die of one.
    with output.open("w", encoding="utf-8") as file:
        for group in (host, *GROUPS):
            for name, function, inputs in group():
                if not re.search(only, name):
                    continue
                keras.utils.set_random_seed(1)
                if group is host:
                    found = {"eager": digest(function(*inputs))}
                else:
                    found = run(name, function, inputs, eager=group in (functions, losses))
                print(json.dumps({name: found}), file=file, flush=True)


def sweep(cpu: str, guarantee: str, only: str, folder: Path) -> dict[str, Any]:
    """All cases on one processor, in a process of its own."""
    output = folder / f"{cpu}.json"
    prefix = [] if cpu == "native" else ["qemu-x86_64", "-cpu", cpu]
    command = [*prefix, sys.executable, __file__, "--worker", str(output)]
    command += ["--guarantee", guarantee, "--only", only]
    kept = {
        name: value for name, value in os.environ.items() if not name.upper().startswith(CLEARED)
    }
    start = time.monotonic()
    done = subprocess.run(
        command,
        env=kept | determinism.environment(parameters(guarantee)),
        capture_output=True,
        text=True,
    )
    print(f"{cpu}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    if done.returncode:
        print(f"{cpu}: ended with {done.returncode}: {done.stderr[-2000:]}", file=sys.stderr)
    found: dict[str, Any] = {}
    for line in output.read_text().splitlines():
        found |= json.loads(line)
    return found


def differing(swept: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """Case and way of running it -> the processors that agree with each other, a group each."""
    first = next(iter(swept.values()))
    table: dict[str, list[str]] = {}
    for name, ways in first.items():
        for way in ways:
            groups: dict[str, list[str]] = {}
            for cpu, found in swept.items():
                if name in found:
                    groups.setdefault(json.dumps(found[name].get(way)), []).append(cpu)
            if len(groups) > 1 and way != "kinds":
                table[f"{name}: {way}"] = ["=".join(cpus) for cpus in groups.values()]
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cpus", default=",".join(CPUS))
    parser.add_argument("--only", default="", help="run the cases whose names match")
    parser.add_argument("--guarantee", default="portable", choices=("portable", "machine"))
    parser.add_argument("--json", type=Path, help="write processors, cases, kinds, differences")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker, arguments.guarantee, arguments.only)
        return 0
    cpus = arguments.cpus.split(",")
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.jobs) as pool:
        results = pool.map(
            lambda cpu: sweep(cpu, arguments.guarantee, arguments.only, Path(folder)), cpus
        )
        swept = dict(zip(cpus, results, strict=True))
    first, table = swept[cpus[0]], differing(swept)
    for name, found in first.items():
        for way in ("eager", "graph"):
            if ":" in found.get(way, ""):
                print(f"not run: {name}: {way}: {found[way]}")
    for name, groups in table.items():
        print(f"differs: {name}: {' | '.join(groups)}")
    # A function that differs anywhere vouches for none of its kinds, in no variant.
    # What XLA compiles may be anything, and calls compute nothing themselves.
    bad = {re.split("[/:]", name)[0] for name in table}
    shown = {name: ways for name, ways in first.items() if name.split("/")[0] not in bad}
    summary = {
        "processors": cpus,
        "cases": len(first),
        "results": sum(len(ways.keys() - {"kinds"}) for ways in first.values()),
        "differs": table,
        "kinds": sorted(
            {kind for ways in shown.values() for kind in ways.get("kinds", ())}
            - {"XLA", *portable.NUMBERLESS}
        ),
    }
    print(f"{len(table)} of {summary['results']} results differ")
    if arguments.json:
        arguments.json.write_text(json.dumps(summary, indent=1), encoding="utf-8")
    return 1 if table else 0


if __name__ == "__main__":
    sys.exit(main())
