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
