"""The guarantee `portable`: the same bits on any x86-64 processor.

Five things make a float32 result depend on the processor's model once the threads are fixed and
the kernels that pick themselves by processor (oneDNN, contraction kernels, NumPy's, OpenBLAS's) are
off. Each was found by running Keras's layers and functions on emulated processors:

1. **Approximate reciprocals.** Eigen, in which TensorFlow's kernels are written, computes `rsqrt`,
   `reciprocal` and the division in `softmax` from the instructions `rsqrtps` and `rcpps`, which
   each vendor rounds its own way, and refines them (Eigen, `generic_rsqrt_newton_step` and
   `generic_reciprocal_newton_step` in `GenericPacketMathFunctions.h`). `sqrt` and division are
   exact by IEEE 754. `apply` puts these in their place.
2. **Graph rewrites.** TensorFlow's graph optimizer turns `x / sqrt(y)` into `x * rsqrt(y)`,
   `pow(x, -1)` into `reciprocal(x)` and a division by a constant into a product with a reciprocal
   (`arithmetic_optimizer.cc`, `constant_folding.cc`). `apply` switches them off.
3. **The C library's mathematics.** glibc has `exp`, `log`, `pow`, `sin`, … twice, with fused
   multiply-add and without, and takes by processor; the last bits differ. What vector code leaves
   over at the end of an array is computed there, and so is all of Python's `math`. `environment`
   has the plain ones taken everywhere, by a setting of glibc's (`glibc.cpu.hwcaps`).
4. **The sizes of the caches.** Eigen cuts matrix products into blocks by the sizes of the caches
   that it asks the processor for, and adds up each block by itself: other sizes, other sums
   (`computeProductBlockingSizes` in `GeneralBlockPanelKernel.h`). `apply` has Eigen take one fixed
   answer, as its own `Eigen::setCpuCacheSizes` does.
5. **One kernel of oneDNN's that no setting of TensorFlow's switches off:** the gradient of a
   convolution's input calls `dnnl_sgemm` (`conv_grad_input_ops.h`), which takes its code by
   processor. `environment` holds it to AVX, without which TensorFlow does not start.

An operation that is not among those shown to agree (`PROVED`) is not promised: `unproved` names it,
and the layer it is in, before the training starts, and the guarantee is then `machine`.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

CACHES = (32 * 1024, 512 * 1024, 8 * 1024 * 1024)
"""Bytes of first, second and third level that Eigen is told, whatever the processor has."""

_sizes: Any = None  # where Eigen keeps them, once found

_FUNCTIONS = "exp log pow sin cos tan atan sinh cosh tanh erf expm1 log1p exp2 log2"
_COMPUTED = {"45ea54768ae05895": "plain", "ccec133b5f8a2196": "fma"}  # glibc 2.36

_PROVED = """
    Abs Acos Acosh AddN AddN:complex64 AddV2 AddV2:complex64 AddV2:float64 All Any ArgMax ArgMin
    Asin Asinh AssignAddVariableOp AssignSubVariableOp AssignVariableOp Atanh AvgPool AvgPool3D
    AvgPool3DGrad AvgPoolGrad BatchMatMulV2 BatchToSpaceND BiasAdd BiasAddGrad Bitcast
    BitwiseAnd BitwiseOr BroadcastArgs BroadcastGradientArgs BroadcastTo Bucketize Cast
    Cast:bfloat16 Cast:complex64 Cast:float64 Ceil Ceil:float64 CheckNumerics Cholesky
    Complex:complex64 ConcatOffset ConcatV2 Const Const:float64 Conv2D Conv2DBackpropFilter
    Conv2DBackpropInput Conv3D Conv3DBackpropFilterV2 Conv3DBackpropInputV2 Cos Cosh Cross
    Cumprod Cumsum DenseBincount DepthwiseConv2dNative DepthwiseConv2dNativeBackpropFilter
    DepthwiseConv2dNativeBackpropInput DivNoNan DynamicStitch Einsum Elu EluGrad Empty
    EmptyTensorList EnsureShape Equal Erf Exp ExpandDims Expm1 FFT2D:complex64 FFT:complex64
    Fill Floor FloorDiv FloorMod GatherNd GatherV2 GatherV2:float64 Greater GreaterEqual
    HSVToRGB IFFT2D:complex64 IFFT:complex64 IRFFT:complex64 Identity IdentityN If
    Imag:complex64 ImageProjectiveTransformV3 InTopKV2 InvertPermutation IsFinite IsInf IsNan
    LeakyRelu LeakyReluGrad LeftShift Less LessEqual ListDiff Log Log1p Log:float64 LogSoftmax
    LogicalAnd LogicalNot LogicalOr MatMul MatrixBandPart MatrixDeterminant MatrixDiagPartV3
    MatrixDiagV3 MatrixInverse MatrixSetDiagV3 MatrixSolve MatrixTriangularSolve Max MaxPool
    MaxPool3D MaxPool3DGrad MaxPoolGrad Maximum Maximum:float64 Mean Min Minimum Minimum:float64
    MirrorPad MirrorPadGrad Mul Mul:complex64 Mul:float64 Neg NoOp NotEqual OneHot OnesLike
    OptionalFromValue OptionalGetValue OptionalNone Pack Pack:float64 Pad PadV2 Placeholder Pow
    Prod Qr RFFT:complex64 RGBToHSV Range Rank ReadVariableOp Real:complex64 RealDiv
    RealDiv:float64 Relu Relu6 Relu6Grad ReluGrad Reshape Reshape:float64 ResizeBicubic
    ResizeBicubicGrad ResizeBilinear ResizeBilinearGrad ResizeNearestNeighbor
    ResizeNearestNeighborGrad ResourceApplyAdam ReverseV2 RightShift Roll Round Round:float64
    ScaleAndTranslate ScaleAndTranslateGrad ScatterNd Select SelectV2 SelectV2:float64
    SelfAdjointEigV2 Selu SeluGrad Shape Shape:complex64 Shape:float64 ShapeN Sigmoid
    SigmoidGrad Sign Sin Sinh Size Slice Softplus Softsign SoftsignGrad SpaceToBatchND Split
    SplitV Sqrt SqrtGrad Square SquaredDifference Squeeze StatelessIf StatelessMultinomial
    StatelessRandomBinomial StatelessRandomGammaV3 StatelessRandomGetKeyCounter
    StatelessRandomNormalV2 StatelessRandomUniformIntV2 StatelessRandomUniformV2
    StatelessTruncatedNormalV2 StatelessWhile StopGradient StridedSlice StridedSlice:complex64
    StridedSliceGrad Sub Sub:float64 Sum Sum:float64 Svd Tan Tanh TanhGrad
    TensorListElementShape TensorListFromTensor TensorListGetItem TensorListLength
    TensorListPopBack TensorListPushBack TensorListReserve TensorListSetItem TensorListStack
    TensorScatterAdd TensorScatterUpdate Tile TopKV2 Transpose Unpack Unpack:float64
    UnsortedSegmentSum VariableShape Where While ZerosLike
"""
PROVED = frozenset(_PROVED.split())
"""Kinds of operations (see `_kind`) whose results agreed on every processor tried."""
NUMBERLESS = ("Assert", "PartitionedCall", "StatefulPartitionedCall")
"""What gives no numbers itself: it checks, or calls operations that are looked at as well."""


def environment() -> dict[str, str]:
    """Variables that the process has to be started with.

    glibc ignores names it does not know, so those of before and since version 2.33 stand together
    (glibc manual, "Hardware Capability Tunables").
    """
    return {
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-FMA,-FMA4,-FMA_Usable,-FMA4_Usable",
        "ONEDNN_MAX_CPU_ISA": "AVX",
    }


def mathematics() -> str:
    """How the C library computes: `plain`, `fma` (with fused multiply-add), or other results.

    Told by the bits that its functions give, whatever its version says: later ones than 2.40 round
    some functions otherwise.
    """
    try:
        library = ctypes.CDLL("libm.so.6")
    except OSError:
        return "not glibc"
    total = hashlib.sha256()
    for number, suffix in ((ctypes.c_double, ""), (ctypes.c_float, "f")):
        for name in _FUNCTIONS.split():
            function = library[name + suffix]
            more = [1.7] if name == "pow" else []
            function.restype, function.argtypes = number, [number] * (1 + len(more))
            found = (bytes(number(function(0.37 * place, *more))) for place in range(1, 101))
            total.update(hashlib.sha256(b"".join(found)).digest())
    digest = total.hexdigest()[:16]
    return _COMPUTED.get(digest, f"other ({digest})")


def cache_sizes() -> list[int] | None:
    """The sizes of the caches that Eigen was told to compute with; None: it asks the processor."""
    return None if _sizes is None else list(_sizes)


def _fix_cache_sizes() -> None:
    """Does what `Eigen::setCpuCacheSizes` does, which TensorFlow does not export.

    Eigen keeps the sizes in a static variable (`manage_caching_sizes`): three integers and the flag
    of their initialisation. It is looked for in the library's own data, and taken only where there
    is one such place and a product of matrices changes with what is written there.
    """
    global _sizes
    import tensorflow as tf

    left, right = (tf.reshape(tf.sin(tf.range(4.0 * 5000)), shape) for shape in ((4, -1), (-1, 4)))

    def product() -> bytes:
        return bytes(tf.matmul(left, right).numpy().tobytes())

    product()  # Eigen asks the processor at the first one.
    places = [place for start, end in _library_data() for place in _triples(start, end)]
    if len(places) != 1:
        return
    found = (ctypes.c_int64 * 3).from_address(places[0])
    kept = list(found)
    found[:] = [4096, 4096, 4096]
    narrow = product()
    found[:] = list(CACHES)
    if narrow == product():
        found[:] = kept
    else:
        _sizes = found


def _library_data() -> Iterator[tuple[int, int]]:
    """Where the writable data of TensorFlow's kernels are in memory, on Linux."""
    try:
        with open("/proc/self/maps", encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    before, name = 0, ""
    for line in lines:
        span, mode, _, _, _, *path = line.split(maxsplit=5)
        start, end = (int(number, 16) for number in span.split("-"))
        # What is zero at the start has no file behind it, and follows on what has.
        name = path[0] if path else name if start == before else ""
        before = end
        if mode.startswith("rw") and "libtensorflow_cc" in name:
            yield start, end


def _triples(start: int, end: int) -> list[int]:
    """Addresses of three sizes, smaller to larger, and a 1 after them."""
    import numpy as np

    data = memoryview((ctypes.c_char * (end - start)).from_address(start))
    words = np.frombuffer(data, np.int64)
    first, second, third, flag = words[:-3], words[1:-2], words[2:-1], words[3:]
    size = (first >= 2**13) & (first <= 2**18) & (first % 1024 == 0)
    size &= (second > first) & (second <= 2**28) & (second % 1024 == 0)
    size &= (third >= 0) & (third <= 2**33) & (third % 1024 == 0) & (flag & 255 == 1)
    return [start + 8 * int(place) for place in np.flatnonzero(size)]


def apply() -> None:
    """Replaces what differs by processor, once the threads are set and before a model is built."""
    import tensorflow as tf
    from tensorflow.python.ops import gen_math_ops, gen_nn_ops, math_ops

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

    original_gelu = tf.nn.gelu

    def reciprocal(x: Any, name: str | None = None) -> Any:
        x = tf.convert_to_tensor(x)
        return tf.math.divide(tf.ones((), x.dtype), x, name=name)

    def rsqrt(x: Any, name: str | None = None) -> Any:
        return reciprocal(tf.sqrt(x), name)

    def softmax(logits: Any, name: str | None = None) -> Any:
        logits = tf.convert_to_tensor(logits)
        # The largest value cancels out: it is there against overflow and needs no gradient.
        largest = tf.stop_gradient(tf.reduce_max(logits, axis=-1, keepdims=True))
        powers = tf.exp(logits - largest)
        return tf.math.divide(powers, tf.reduce_sum(powers, axis=-1, keepdims=True), name=name)

    def gelu(features: Any, approximate: bool = False, name: str | None = None) -> Any:
        if approximate:
            return original_gelu(features, True, name)
        # TensorFlow takes `erfc`, in which Eigen takes an approximate reciprocal; `erf` agrees.
        features = tf.convert_to_tensor(features)
        half = tf.cast(0.5, features.dtype)
        inner = features * tf.cast(math.sqrt(0.5), features.dtype)
        return tf.multiply(half * features, 1 + tf.math.erf(inner), name=name)

    # TensorFlow's own functions and gradients, and so Keras, call these by their module; that is
    # where one replacement serves all. `tf.math.reciprocal` is a second name of the same.
    gen_math_ops.rsqrt = rsqrt
    gen_math_ops.reciprocal = math_ops.reciprocal = tf.math.reciprocal = reciprocal
    gen_nn_ops.softmax = softmax
    gen_nn_ops.conv2d = _convolution(gen_nn_ops.conv2d)
    tf.nn.gelu = gelu
    _fix_cache_sizes()


def _convolution(original: Any) -> Any:
    """TensorFlow's convolution, faster for images of one channel, with the same bits.

    Without oneDNN, Eigen gathers the pixels of such images one by one. Cut out by whole rows and
    laid side by side, they are multiplied by the kernel in a third of the time.
    """
    import tensorflow as tf
    from tensorflow.python.ops import gen_nn_ops

    def conv2d(input: Any, filter: Any, strides: Any, padding: str, **options: Any) -> Any:
        images, kernel = tf.convert_to_tensor(input), tf.convert_to_tensor(filter)
        steps = {*strides, *(options.get("dilations") or [1])}
        layout = options.get("data_format") or "NHWC"
        served = steps == {1} and layout == "NHWC" and padding in ("SAME", "VALID")
        if not served or images.dtype != tf.float32 or not _is_grey(images.shape, kernel.shape):
            return original(input, filter, strides, padding, **options)

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def product(images: Any, kernel: Any) -> Any:
            pixels, size = _pixels(images, kernel.shape, padding)
            filters = kernel.shape[-1]
            found = tf.matmul(pixels, tf.reshape(kernel, (-1, filters)), transpose_a=True)

            def gradient(upstream: Any) -> Any:
                of_images = gen_nn_ops.conv2d_backprop_input(
                    tf.shape(images), kernel, upstream, strides, padding
                )
                of_kernel = tf.matmul(pixels, tf.reshape(upstream, (-1, filters)))
                return of_images, tf.reshape(of_kernel, kernel.shape)

            return tf.reshape(found, (-1, *size, filters)), gradient

        with tf.name_scope(options.get("name") or "Conv2D"):
            found = product(images, kernel)
            found.set_shape((images.shape[0], None, None, None))
            return found

    return conv2d


def _is_grey(images: Any, kernel: Any) -> bool:
    """Whether images have one channel, and what is cut out of one takes a megabyte at most."""
    if images.rank != 4 or None in images[1:] or kernel.rank != 4 or None in kernel:
        return False
    (height, width, channels), (rows, columns) = map(int, images[1:]), map(int, kernel[:2])
    fits = height >= rows and width >= columns and 4 * height * width * rows * columns <= 2**20
    return fits and channels == 1 and rows * columns > 1


def _pixels(images: Any, kernel: Any, padding: str) -> tuple[Any, tuple[int, int]]:
    """What each place of the kernel meets, (its places, the result's), and the result's size."""
    import tensorflow as tf

    rows, columns, _, _ = kernel
    images = images[..., 0]
    if padding == "SAME":
        images = tf.pad(images, [(0, 0), *(((n - 1) // 2, n // 2) for n in (rows, columns))])
    height, width = images.shape[1] - rows + 1, images.shape[2] - columns + 1
    found = tf.stack([images[..., place : place + width] for place in range(columns)])
    found = tf.stack([found[..., place : place + height, :] for place in range(rows)])
    return tf.reshape(found, (rows * columns, -1)), (height, width)


def unproved(graphs: Iterable[Any], layers: Iterable[str] = ()) -> list[str]:
    """Names the operations in graphs that are not known to be portable: `layer: operation`.

    Args:
        graphs: of concrete functions, such as the compiled training step's.
        layers: names of the model's layers. An operation outside all of them is named by its scope.
            A graph that is None stands for steps that a model makes on the host.
    """
    names, graphs = set(layers), list(graphs)
    found = {"learn: what it computes with"} if None in graphs else set()
    found |= {
        f"{_layer(node.name, names)}: {kind}"
        for graph in graphs
        if graph is not None
        for node in _nodes(graph)
        if (kind := _kind(node)) not in PROVED and kind not in NUMBERLESS
    }
    return sorted(found)


def kinds(graph: Any) -> set[str]:
    """The kinds of operations in a graph and in the functions that it calls."""
    return {_kind(node) for node in _nodes(graph)}


def _nodes(graph: Any) -> Iterator[Any]:
    definition = graph.as_graph_def()
    functions = {function.signature.name for function in definition.library.function}
    bodies = [function.node_def for function in definition.library.function]
    for nodes in (definition.node, *bodies):
        yield from (node for node in nodes if node.op not in functions)


def _kind(node: Any) -> str:
    """The operation's type, and the floating-point types but float32 that it works on.

    What holds for float32 has not been shown for another precision, which has other kernels.
    """
    import tensorflow as tf

    if any(name in node.attr and node.attr[name].b for name in ("_XlaMustCompile", "_XlaCompile")):
        return "XLA"
    numbers = [value.type for value in node.attr.values() if value.WhichOneof("value") == "type"]
    dtypes = {tf.dtypes.as_dtype(number % 100) for number in numbers if number}
    others = {x.name for x in dtypes if (x.is_floating or x.is_complex) and x != tf.float32}
    return ":".join([node.op, *sorted(others)])


def _layer(name: str, layers: set[str]) -> str:
    """The layer that an operation belongs to, from the scopes in its name.

    `gradient_tape/while/lenet5_1/c1_1/convolution/Conv2DBackpropFilter` is of layer `c1`.
    """
    scopes = [part for part in name.split("/")[:-1] if part not in ("gradient_tape", "while")]
    for scope in scopes:
        for candidate in (scope, re.sub(r"_\d+$", "", scope)):
            if candidate in layers:
                return candidate
    return "/".join(scopes) or "training step"
