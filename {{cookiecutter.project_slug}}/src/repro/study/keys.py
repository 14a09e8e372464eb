"""The keys of a Dask cluster: made once, copied to each machine, and asked for by all of them.

Whoever can talk to a Dask scheduler can run code on its workers. So scheduler, workers and studies
speak TLS, and each shows the others one certificate that only who has the key can show.
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
"""Where a project has its keys, outside git."""
VARIABLE = "REPRO_CLUSTER_KEYS"
"""Names another folder with keys."""
DAYS = 3650
"""How long a certificate is valid."""

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
    """The two files: a key, and the certificate that it has signed itself."""

    folder: Path

    @property
    def certificate(self) -> Path:
        return self.folder / "cluster.crt"

    @property
    def key(self) -> Path:
        return self.folder / "cluster.key"

    def lines(self) -> list[str]:
        """What was made and what to do with it, for a person."""
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
    """The address of a Dask scheduler, and the keys to it; None where it has none."""

    address: str
    keys: Keys | None


def make(folder: Path) -> Keys:
    """Makes a key and its certificate in a folder, for this user's eyes alone.

    Raises:
        BadInput: one of the files is there already, the program `openssl` is missing or fails, or
            the folder cannot be written.
    """
    keys = Keys(folder)
    for path in (keys.certificate, keys.key):
        if path.exists() or path.is_symlink():
            raise BadInput(f"{path}: is there already, and is not written over")
    program = shutil.which("openssl")
    if program is None:
        raise BadInput("openssl: no such program; it makes the keys, and has to be installed")
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
            raise BadInput(f"openssl: made no keys: {' '.join(done.stderr.split())}")
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
    """Writes a file that was not there, for this user alone; of a link nothing is followed."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def cluster(address: str | None, folder: Path | None, insecure: bool, root: Path) -> Cluster | None:
    """The cluster that options name; None: this machine alone.

    Args:
        address: of the scheduler.
        folder: where its keys are; None: what REPRO_CLUSTER_KEYS says, else the project's `keys/`.
        insecure: whether a scheduler without TLS is wanted.
        root: of the project.

    Raises:
        BadInput: the address has no TLS and that is not wanted, or the keys are not there.
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
            f"--scheduler: {address}: expected tls://…, with keys of `repro cluster-keys`; whoever "
            "reaches a scheduler without TLS can run code as you, and --insecure is to want that"
        )
    keys = Keys(folder or Path(os.environ.get(VARIABLE) or root / FOLDER))
    for path in (keys.certificate, keys.key):
        if not path.is_file():
            raise BadInput(
                f"{path}: no such file; `repro cluster-keys` makes the keys of a cluster once, and "
                f"--keys or {VARIABLE} says where they are"
            )
    return Cluster(address, keys)
