"""The variables that decide results or choose kernels."""

from __future__ import annotations

CLEARED = (
    "PYTHON",
    "KERAS_",
    "TF_",
    "TENSORFLOW_",
    "XLA_",
    "JAX_",
    "NPROC",
    "TORCH",
    "PYTORCH_",
    "ATEN_",
    "ONEDNN_",
    "DNNL_",
    "OMP_",
    "KMP_",
    "GOMP_",
    "MKL_",
    "OPENBLAS_",
    "GOTO_",
    "BLIS_",
    "NPY_",
    "NUMEXPR_",
    "VECLIB_",
    "CUBLAS_",
    "CUDNN_",
    "NVIDIA_TF32_",
    "SKLEARN_",
    "SCIPY_",
    "GLIBC_TUNABLES",
)
"""The beginnings of their names. No such variable of the user's shell reaches a run."""


def of_all_libraries(threads: int) -> dict[str, str]:
    """Returns the variables that fix what every process has, whatever its backend is."""
    return {
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": str(threads),
        "OMP_DYNAMIC": "FALSE",
        "OPENBLAS_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
