"""The guarantee `portable`: the same bits on any x86-64 processor.

Some libraries choose their kernels by the processor: oneDNN, TensorFlow's contraction kernels,
NumPy and OpenBLAS. Even with these switched off and the threads fixed, five things make a float32
result depend on the processor's model. Each was found by running Keras's layers and functions on
emulated processors:

1. **Approximate reciprocals.** Eigen, in which TensorFlow's kernels are written, computes `rsqrt`,
   `reciprocal` and the division in `softmax` from the instructions `rsqrtps` and `rcpps`, and
   refines their results. Each vendor rounds these instructions in its own way (Eigen,
   `generic_rsqrt_newton_step` and `generic_reciprocal_newton_step` in
   `GenericPacketMathFunctions.h`). IEEE 754 fixes the results of `sqrt` and of division, so `apply`
   uses these instead.
2. **Graph rewrites.** TensorFlow's graph optimizer turns `x / sqrt(y)` into `x * rsqrt(y)`,
   `pow(x, -1)` into `reciprocal(x)` and a division by a constant into a product with a reciprocal
   (`arithmetic_optimizer.cc`, `constant_folding.cc`). `apply` switches them off.
3. **The C library's mathematics.** glibc holds two versions of `exp`, `log`, `pow`, `sin` and
   others: one uses fused multiply-add, and one does not. It chooses between them by the processor,
   and their last bits differ. TensorFlow's vector code computes the last few elements of an array
   with them, and Python's `math` computes everything with them. `environment` makes glibc choose
   the versions without fused multiply-add everywhere, by a setting of its own
   (`glibc.cpu.hwcaps`).
4. **The sizes of the caches.** Eigen asks the processor for the sizes of its caches, and cuts
   matrix products into blocks of a suitable size. It adds up each block by itself, so other sizes
   give other sums (`computeProductBlockingSizes` in `GeneralBlockPanelKernel.h`). `apply` gives
   Eigen fixed sizes, as its own `Eigen::setCpuCacheSizes` does.
5. **One kernel of oneDNN that no setting of TensorFlow switches off.** The gradient of a
   convolution's input calls `dnnl_sgemm` (`conv_grad_input_ops.h`), which chooses its code by the
   processor. `environment` limits it to AVX, without which TensorFlow does not start.

Only operations that were shown to agree (`PROVED`) are promised. If a training uses another one,
`unproved` names it and its layer before the training starts, and the guarantee is then `machine`.
What is computed outside the training's graphs (in `judge`, in `produce`, for the predictions) is
known only after it has run: `watching` notes it, and `watched` names it for the manifest.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from repro.backends import convolutions

CACHES = (32 * 1024, 512 * 1024, 8 * 1024 * 1024)
"""The sizes in bytes of the first, second and third cache that Eigen is told on any processor."""

_sizes: Any = None  # The place in memory where Eigen keeps the sizes; None: not found.
_seen: dict[str, set[tuple[str, str]]] | None = None  # By place; None: `apply` was not called.

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
_NUMBERLESS = """
    AnonymousIteratorV3 Assert BatchDatasetV2 ConcatenateDataset DatasetCardinality FlatMapDataset
    IteratorGetNext MakeIterator MapDataset OptionsDataset ParallelMapDatasetV2 PartitionedCall
    PrefetchDataset RangeDataset RepeatDataset SkipDataset StatefulPartitionedCall TakeDataset
    TensorDataset TensorSliceDataset VarHandleOp VarIsInitializedOp ZipDataset
"""
NUMBERLESS = frozenset(_NUMBERLESS.split())
"""Operations that compute no numbers themselves. They check something, hand over data or variables,
or call operations that are looked at as well."""


def environment() -> dict[str, str]:
    """Returns the variables that the process has to start with.

    The names of features changed in glibc 2.33. glibc ignores names that it does not know, so the
    old and the new ones are both given (glibc manual, "Hardware Capability Tunables").
    """
    return {
        "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-FMA,-FMA4,-FMA_Usable,-FMA4_Usable",
        "ONEDNN_MAX_CPU_ISA": "AVX",
    }


def mathematics() -> str:
    """Says how the C library computes: `plain`, `fma` (with fused multiply-add), or otherwise.

    The answer follows from the bits that its functions give, and not from its version: versions
    after 2.40 round some functions in another way.
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
    """Returns the sizes of the caches that Eigen was told; None: it asks the processor."""
    return None if _sizes is None else list(_sizes)


def _fix_cache_sizes() -> None:
    """Sets the sizes of the caches, as `Eigen::setCpuCacheSizes` does.

    TensorFlow does not export that function. Eigen keeps the sizes in a static variable
    (`manage_caching_sizes`): three integers, and the flag that says they are set. So the library's
    own data are searched for such a place. It is used only if it is the only one, and if a matrix
    product changes with what is written there.
    """
    global _sizes
    import tensorflow as tf

    left, right = (tf.reshape(tf.sin(tf.range(4.0 * 5000)), shape) for shape in ((4, -1), (-1, 4)))

    def product() -> bytes:
        return bytes(tf.matmul(left, right).numpy().tobytes())

    product()  # At the first product Eigen asks the processor and fills the variable.
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
    """Yields the spans of memory with the writable data of TensorFlow's kernels; on Linux only."""
    try:
        with open("/proc/self/maps", encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    before, name = 0, ""
    for line in lines:
        span, mode, _, _, _, *path = line.split(maxsplit=5)
        start, end = (int(number, 16) for number in span.split("-"))
        # Data that start as zero have no file behind them. They follow directly after data that do.
        name = path[0] if path else name if start == before else ""
        before = end
        if mode.startswith("rw") and "libtensorflow_cc" in name:
            yield start, end


def _triples(start: int, end: int) -> list[int]:
    """Returns the addresses of what looks like three sizes of caches with a 1 after them."""
    import numpy as np

    data = memoryview((ctypes.c_char * (end - start)).from_address(start))
    words = np.frombuffer(data, np.int64)
    first, second, third, flag = words[:-3], words[1:-2], words[2:-1], words[3:]
    size = (first >= 2**13) & (first <= 2**18) & (first % 1024 == 0)
    size &= (second > first) & (second <= 2**28) & (second % 1024 == 0)
    size &= (third >= 0) & (third <= 2**33) & (third % 1024 == 0) & (flag & 255 == 1)
    return [start + 8 * int(place) for place in np.flatnonzero(size)]


def apply() -> None:
    """Replaces what depends on the processor. From then on `watching` takes notes.

    Call it after the threads are set, and before a model is built.
    """
    global _seen
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
        # The largest value only prevents overflow. It cancels out, so it needs no gradient.
        largest = tf.stop_gradient(tf.reduce_max(logits, axis=-1, keepdims=True))
        powers = tf.exp(logits - largest)
        return tf.math.divide(powers, tf.reduce_sum(powers, axis=-1, keepdims=True), name=name)

    def gelu(features: Any, approximate: bool = False, name: str | None = None) -> Any:
        if approximate:
            return original_gelu(features, True, name)
        # TensorFlow uses `erfc`, for which Eigen uses an approximate reciprocal. `erf` agrees on
        # every processor.
        features = tf.convert_to_tensor(features)
        half = tf.cast(0.5, features.dtype)
        inner = features * tf.cast(math.sqrt(0.5), features.dtype)
        return tf.multiply(half * features, 1 + tf.math.erf(inner), name=name)

    # TensorFlow's own functions and gradients, and so Keras, look these up in their module. So one
    # replacement there serves all. `tf.math.reciprocal` is a second name of the same function.
    gen_math_ops.rsqrt = rsqrt
    gen_math_ops.reciprocal = math_ops.reciprocal = tf.math.reciprocal = reciprocal
    gen_nn_ops.softmax = softmax
    gen_nn_ops.conv2d = convolutions.of_grey_images(gen_nn_ops.conv2d)
    tf.nn.gelu = gelu
    _fix_cache_sizes()
    _seen = {}


def unproved(graphs: Iterable[Any], layers: Iterable[str] = ()) -> list[str]:
    """Returns the operations in graphs that are not known to be portable, as `layer: operation`.

    Args:
        graphs: the graphs of concrete functions, such as the compiled training step. None stands
            for steps that a model makes on the host.
        layers: the names of the model's layers. An operation outside all of them is named with its
            scope.
    """
    names, graphs = set(layers), list(graphs)
    found = {"learn: what it computes with"} if None in graphs else set()
    found |= {
        f"{_layer(node.name, names)}: {kind}"
        for graph in graphs
        if graph is not None
        for node in _nodes(graph)
        if not _agrees(kind := _kind(node))
    }
    return sorted(found)


@contextlib.contextmanager
def watching(place: str) -> Iterator[None]:
    """Notes the operations that TensorFlow runs in the block.

    It is for what is computed outside the graphs that `unproved` looks through. It notes each
    operation that runs by itself, and each one in the functions that are called. If `portable` was
    not asked for, it does nothing. No result changes: TensorFlow calls `note` after each operation,
    in this thread only (`tensorflow.python.framework.op_callbacks`).

    Args:
        place: what runs in the block, such as `judge`; `watched` names operations with it.
    """
    if _seen is None:
        yield
        return
    from tensorflow.python.framework import op_callbacks

    noted = _seen.setdefault(place, set())

    def note(
        operation: str | bytes,
        inputs: Sequence[Any],
        attributes: Sequence[Any],
        outputs: Sequence[Any],
        op_name: str | None = None,
        graph: Any = None,
    ) -> None:
        if graph is None:  # Else it is only put into a graph now, and counts when that runs.
            noted.update(_run(_text(operation), (*inputs, *outputs), attributes))

    op_callbacks.add_op_callback(note)
    try:
        yield
    finally:
        op_callbacks.remove_op_callback(note)


def watched(layers: Iterable[str] = ()) -> list[str]:
    """Returns the operations noted by `watching` that are not known to be portable.

    Each is `layer: operation`, or `place: operation` if it is outside the layers.
    """
    names = set(layers)
    return sorted(
        {
            f"{_layer(name, names, place)}: {kind}"
            for place, noted in (_seen or {}).items()
            for name, kind in noted
            if not _agrees(kind)
        }
    )


def _agrees(kind: str) -> bool:
    return kind in PROVED or kind.partition(":")[0] in NUMBERLESS


def _run(operation: str, tensors: Iterable[Any], attributes: Sequence[Any]) -> set[tuple[str, str]]:
    """Returns name and kind of an operation that ran, and of each one in the functions it calls.

    Args:
        operation: the type of the operation, or the name of a function.
        tensors: its inputs and outputs.
        attributes: its attributes: name, value, name, value and so on. Some values are functions.
    """
    from tensorflow.python.eager import context

    if context.context().has_function(operation):
        return set(_within(operation))
    found = {("", _with_types(operation, (tensor.dtype for tensor in tensors)))}
    for value in attributes[1::2]:
        for part in value if isinstance(value, list | tuple) else (value,):
            if hasattr(part, "function_def"):
                found |= _within(_text(part.name))
    return found


@functools.cache
def _within(function: str) -> frozenset[tuple[str, str]]:
    """Returns name and kind of each operation in a TensorFlow function and in those it calls."""
    from tensorflow.python.eager import context

    found: set[tuple[str, str]] = set()
    todo, met = [function], set()
    while todo:
        name = todo.pop()
        if name in met:
            continue
        met.add(name)
        definition = context.context().get_function_def(name)
        if "_XlaMustCompile" in definition.attr and definition.attr["_XlaMustCompile"].b:
            found.add(("", "XLA"))
        for node in definition.node_def:
            if context.context().has_function(node.op):
                todo.append(node.op)
            else:
                found.add((node.name, _kind(node)))
            for value in node.attr.values():
                todo += [one.name for one in (value.func, *value.list.func) if one.name]
    return frozenset(found)


def _text(name: str | bytes) -> str:
    return name if isinstance(name, str) else name.decode()


def kinds(graph: Any) -> set[str]:
    """Returns the kinds of operations in a graph and in the functions that it calls."""
    return {_kind(node) for node in _nodes(graph)}


def _nodes(graph: Any) -> Iterator[Any]:
    definition = graph.as_graph_def()
    functions = {function.signature.name for function in definition.library.function}
    bodies = [function.node_def for function in definition.library.function]
    for nodes in (definition.node, *bodies):
        yield from (node for node in nodes if node.op not in functions)


def _kind(node: Any) -> str:
    """Returns an operation's type, and the floating-point types beside float32 that it works on.

    Other precisions have other kernels: what was shown for float32 does not hold for them.
    """
    import tensorflow as tf

    if any(name in node.attr and node.attr[name].b for name in ("_XlaMustCompile", "_XlaCompile")):
        return "XLA"
    numbers = [value.type for value in node.attr.values() if value.WhichOneof("value") == "type"]
    return _with_types(node.op, (tf.dtypes.as_dtype(number % 100) for number in numbers if number))


def _with_types(operation: str, types: Iterable[Any]) -> str:
    others = {x.name for x in types if (x.is_floating or x.is_complex) and x.name != "float32"}
    return ":".join([operation, *sorted(others)])


def _layer(name: str, layers: set[str], place: str | None = None) -> str:
    """Returns the layer of an operation, from the scopes in its name; if there is none, the place.

    For example `gradient_tape/while/lenet5_1/c1_1/convolution/Conv2DBackpropFilter` belongs to the
    layer `c1`.
    """
    scopes = [part for part in name.split("/")[:-1] if part not in ("gradient_tape", "while")]
    for scope in scopes:
        for candidate in (scope, re.sub(r"_\d+$", "", scope)):
            if candidate in layers:
                return candidate
    return place or "/".join(scopes) or "training step"
