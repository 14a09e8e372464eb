"""Environment variables that a training may have, and those that the gate takes away from it.

A variable of the user's own that a result depends on is in no recipe, and so in no comparison: the
varied run of a gate does without it. What locates software and data stays, for without these the
run would be another program.
"""

from __future__ import annotations

import os
import re

from .determinism import CLEARED

KEPT = re.compile(
    "|".join(
        (
            # Set by the machinery itself: what decides results is fixed there (`determinism`).
            *(re.escape(prefix) + ".*" for prefix in CLEARED),
            "REPRO_.*",
            # Changed, or left as they are, by the variations `user`, `host`, `home`, `time-zone`,
            # `locale`, `temporary-folder` and `caches`.
            "HOME|USERPROFILE|USER|LOGNAME|USERNAME|LNAME|HOSTNAME|TZ|XDG_.*",
            "LANG|LANGUAGE|LC_.*|LOCPATH|LOCALE_ARCHIVE.*|TMP.*|TEMP",
            # Where programs, libraries, packages and devices are.
            "PATH|.*_(PATH|DIR|DIRS|HOME|ROOT|PREFIX|CACHE|FOLDER)",
            "LD_.*|DYLD_.*|VIRTUAL_ENV.*|CONDA_.*|MAMBA_.*|PYENV_.*|NIX_.*|GUIX_.*",
            "CUDA_.*|NVIDIA_.*|HIP_.*|ROCM_.*|ROCR_.*|HSA_.*|ONEAPI_.*",
            # Where data are, how they are reached, and the right to do so.
            ".*_PROXY|SSL_CERT.*|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|NETRC|KRB5.*|SSH_AUTH_SOCK",
            "AWS_.*|AZURE_.*|GOOGLE_.*|HF_.*|KAGGLE_.*|DASK_.*",
            # Without these Windows starts nothing, and macOS decodes no name of a file.
            "SYSTEM(ROOT|DRIVE)|WINDIR|COMSPEC|PATHEXT|OS|HOME(DRIVE|PATH)|(LOCAL)?APPDATA",
            "(ALLUSERSPROFILE|PUBLIC|PROGRAMDATA|(COMMON)?PROGRAM(FILES|W6432).*)",
            "NUMBER_OF_PROCESSORS|PROCESSOR_.*|__CF.*",
        )
    ),
    re.IGNORECASE,
)
"""Names of variables that the variation `environment` leaves where they are."""


def dropped(name: str) -> bool:
    """Whether a varied run is to do without this variable."""
    return KEPT.fullmatch(name) is None


def noise(index: int) -> dict[str, str]:
    """What shells, terminals and continuous integration leave in the environment."""
    unknown = {f"REPRO_NOISE_{number}": "x" * 97 * number for number in range(index, index + 20)}
    known = {"COLUMNS": str(60 + index), "LINES": "7", "EDITOR": "noise", "PAGER": "noise"}
    known |= {"TERM": "dumb", "SHLVL": str(20 + index), "NO_COLOR": "1", "CI": "noise"}
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), f"{os.sep}noise-{index}"))
    return unknown | known | {"PATH": path}
