"""The keys of a Dask cluster. They are made once and copied to each machine.

Whoever can talk to a Dask scheduler can run code on its workers. So scheduler, workers and studies
use TLS. Each of them shows the others one certificate, and only the owner of the key can show it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from repro.basics.errors import BadInput

FOLDER = "keys"
"""The folder of a project's keys, which git ignores."""
VARIABLE = "REPRO_CLUSTER_KEYS"
"""The variable that names another folder with keys."""
DAYS = 3650
"""How many days a certificate is valid."""

_REQUEST = """\
[req]
prompt = no
distinguished_name = name
x509_extensions = extensions
[name]
CN = repro cluster
[extensions]
basicConstraints = critical, CA:TRUE
keyUsage = critical, digitalSignature, keyCertSign
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


@dataclass(frozen=True)
class Keys:
    """The two files: a key, and its certificate, which the key has signed itself."""

    folder: Path

    @property
    def certificate(self) -> Path:
        return self.folder / "cluster.crt"

    @property
    def key(self) -> Path:
        return self.folder / "cluster.key"

    def lines(self) -> list[str]:
        """Returns what was made and what to do with it, as lines for a person."""
        files = {"ca-file": self.certificate, "cert": self.certificate, "key": self.key}
        options = " ".join(f"--tls-{name} {path}" for name, path in files.items())
        return [
            f"key        {self.key}",
            f"made       for {DAYS // 365} years; copy the folder to each machine of the cluster",
            f"scheduler  dask scheduler --protocol tls {options}",
            f"workers    dask worker tls://ADDRESS:8786 {options}",
        ]


@dataclass(frozen=True)
class Cluster:
    """The address of a Dask scheduler, and the keys to it."""

    address: str
    keys: Keys | None
    """None: the scheduler is used without TLS."""


def make(folder: Path) -> Keys:
    """Makes a key and its certificate in a folder; only this user can read them.

    Raises:
        BadInput: one of the files is there already, the program `openssl` is missing or fails, or
            the folder cannot be written.
    """
    keys = Keys(folder)
    for path in (keys.certificate, keys.key):
        if path.exists() or path.is_symlink():
            raise BadInput(f"{path}: is there already, and is not overwritten")
    program = shutil.which("openssl")
    if program is None:
        raise BadInput("openssl: the program was not found; install it, since it makes the keys")
    with tempfile.TemporaryDirectory(prefix="repro-") as made:  # Nobody else can enter it.
        new = Keys(Path(made))
        request = new.folder / "request.cnf"
        request.write_text(_REQUEST, encoding="ascii")
        done = subprocess.run(
            (
                *(program, "req", "-x509", "-config", str(request), "-days", str(DAYS)),
                *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-sha256"),
                *("-keyout", str(new.key), "-out", str(new.certificate)),
            ),
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise BadInput(f"openssl: cannot make the keys: {' '.join(done.stderr.split())}")
        written: list[Path] = []
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in (keys.key, keys.certificate):
                _write(path, (new.folder / path.name).read_bytes())
                written.append(path)
        except OSError as error:
            for path in written:
                path.unlink(missing_ok=True)
            raise BadInput(f"{folder}: cannot hold the keys: {error.strerror}") from None
    return keys


def _write(path: Path, content: bytes) -> None:
    """Writes a new file that only this user can read; it does not follow a link."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def cluster(address: str | None, folder: Path | None, insecure: bool, root: Path) -> Cluster | None:
    """Returns the cluster that options name; None: this machine is used.

    Args:
        address: the address of the scheduler.
        folder: the folder of its keys; None: the one of REPRO_CLUSTER_KEYS, or the project's
            `keys/`.
        insecure: whether to accept a scheduler without TLS.
        root: the root of the project.

    Raises:
        BadInput: the address has no TLS and this is not accepted, or the keys are missing.
    """
    if address is None:
        for option, given in (("--keys", folder), ("--insecure", insecure)):
            if given:
                raise BadInput(f"{option}: expected with --scheduler")
        return None
    if insecure:
        if address.startswith("tls://") or folder is not None:
            raise BadInput("--insecure: expected with an address without tls:// and without --keys")
        return Cluster(address, None)
    if not address.startswith("tls://"):
        raise BadInput(
            f"--scheduler: expected tls://…, with keys of `repro cluster-keys`, got {address}; "
            "whoever reaches a scheduler without TLS can run code as you; --insecure accepts this"
        )
    keys = Keys(folder or Path(os.environ.get(VARIABLE) or root / FOLDER))
    for path in (keys.certificate, keys.key):
        if not path.is_file():
            raise BadInput(
                f"{path}: no such file; make the keys with `repro cluster-keys`, or name their "
                f"folder with --keys or {VARIABLE}"
            )
    return Cluster(address, keys)
