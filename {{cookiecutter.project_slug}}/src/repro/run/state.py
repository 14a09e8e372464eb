"""The state of a training: named tensors, their digests, and the checkpoints that keep them.

`.keras` archives hold a date, and leave out the random generators of layers such as Dropout. The
state here holds all that the next step depends on, and equal states have equal digests.

A checkpoint is two files. `<epoch>-<step>.npz` holds the tensors. `<epoch>-<step>.json` is written
after it, and holds the rest, the SHA-256 of the first file and its own. A file gets its name only
when it is whole. So a kill loses at most what came after the last whole checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from repro import backends
from repro.basics import files, npz
from repro.basics.digests import of_json, sha256
from repro.basics.errors import BadInput
from repro.basics.files import replacing, unreadable
from repro.run import outside
from repro.run.ledger import Divergence, Parted

KEPT = ("generators", "weights", "optimizer", "outside")
"""The kinds of variables that a training goes on from. `outside` are those that neither the model
nor its optimizer holds; most trainings have none. See `outside.py`."""
KINDS = (*KEPT, "metrics")
"""These kinds and the metrics, which are reset in each epoch."""


def variables(model: Any) -> dict[str, dict[str, Any]]:
    """Returns the Keras variables of a compiled and built model, by kind and then by path.

    `generators` are the seed generators of layers, and Keras's global one.
    """
    from keras.src.random.seed_generator import global_seed_generator

    weights = {id(v) for v in model.weights}
    metrics = {id(v) for v in model.metrics_variables}
    kinds: dict[str, list[Any]] = {
        "generators": [v for v in model.variables if id(v) not in weights | metrics],
        "weights": list(model.weights),
        "optimizer": list(model.optimizer.variables),
        "metrics": list(model.metrics_variables),
    }
    named = {kind: _named(members) for kind, members in kinds.items()}
    named["generators"]["keras"] = global_seed_generator().state
    named["outside"] = _named(outside.variables())
    return named


def _named(members: list[Any]) -> dict[str, Any]:
    """Variables or layers by their paths, each of which is there once."""
    named: dict[str, Any] = {}
    for member in members:
        # TensorFlow's own variables, which are outside the model, have a name and no path; so have
        # layers that Keras has not built.
        first = path = getattr(member, "path", None) or member.name
        copy = 1
        while path in named:  # Layers of models that are nested in each other may share a name.
            copy += 1
            path = f"{first}#{copy}"
        named[path] = member
    return named


def digests(model: Any, *kinds: str) -> dict[str, dict[str, str]]:
    """Returns the digest of each variable of these kinds, by kind and then by path.

    The kind `outside` is left out if there is no such variable.
    """
    named = variables(model)
    return {
        kind: {path: sha256(np.asarray(variable)) for path, variable in named[kind].items()}
        for kind in kinds
        if named[kind] or kind != "outside"
    }


def vocabularies(model: Any) -> dict[str, dict[str, str]]:
    """Returns the digest of each vocabulary that a layer looks words up in, by the layer's path.

    A vocabulary is adapted where the model is built, and is not a variable. The kind `vocabulary`
    is left out if there is none. The layer that looks up words within a `TextVectorization` has no
    path, so its name stands for it.
    """
    layers = [layer for layer in model._flatten_layers() if hasattr(layer, "get_vocabulary")]
    found = {
        path: of_json([str(word) for word in layer.get_vocabulary()])
        for path, layer in _named(layers).items()
    }
    return {"vocabulary": found} if found else {}


def digest(kinds: dict[str, dict[str, str]]) -> str:
    """Returns one SHA-256 over the digests of a whole state."""
    lines = [f"{kind}/{path} {value}\n" for kind in kinds for path, value in kinds[kind].items()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def arrays(model: Any, kinds: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns the content of the variables of these kinds, by `kind/path`."""
    named = variables(model)
    return {f"{kind}/{p}": np.asarray(v) for kind in kinds for p, v in named[kind].items()}


def save(path: Path, content: dict[str, np.ndarray]) -> None:
    """Writes arrays to an `.npz` file, which gets its name only when it is whole on the disk."""
    with replacing(path) as file:
        npz.write(file, content)


def read(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of an `.npz` file by name.

    Raises:
        BadInput: the file is missing, damaged or of another kind.
    """
    try:
        return npz.read(path)
    except Exception as error:  # zipfile, zlib and NumPy each raise their own for a torn file.
        raise BadInput(f"{path}: not a readable state: {unreadable(error)}") from None


def digest_of(found: dict[str, np.ndarray]) -> str:
    """Returns the digest of a state, from what `arrays` or `read` returned."""
    kinds = {
        kind: {k.partition("/")[2]: sha256(a) for k, a in found.items() if k.startswith(f"{kind}/")}
        for kind in KEPT
    }
    return digest(kinds)


def checked(path: Path, expected_digest: str) -> dict[str, np.ndarray]:
    """Returns the arrays of a saved state, and checks its digest.

    Raises:
        BadInput: the file is damaged, or holds a state with another digest.
    """
    found = read(path)
    if digest_of(found) != expected_digest:
        raise BadInput(f"{path}: expected the state with the digest {expected_digest}, got another")
    return found


def assign(path: Path, model: Any, found: dict[str, np.ndarray], kinds: Sequence[str]) -> None:
    """Assigns saved values to the variables of these kinds: to all of them or to none.

    Args:
        path: the file that the values come from, for messages.
        found: the values, as `arrays` or `read` returned them.

    Raises:
        BadInput: the values belong to another model or optimizer.
    """
    named = variables(model)
    wanted = {f"{kind}/{name}": v for kind in kinds for name, v in named[kind].items()}
    for key in sorted(wanted.keys() ^ found.keys()):
        where = "this model has no" if key in found else "the saved state has no"
        raise BadInput(f"{path}: {where} {key}; it belongs to another model or optimizer")
    for key, variable in wanted.items():
        if tuple(variable.shape) != found[key].shape:
            raise BadInput(
                f"{path}: {key}: expected the shape {tuple(variable.shape)}, got {found[key].shape}"
            )
    for key, variable in wanted.items():
        variable.assign(found[key])


def transfer(path: Path, model: Any, expected_digest: str) -> list[str]:
    """Assigns the weights of a saved state to those weights of a model with equal path and shape.

    Returns:
        The paths of the weights that were assigned.

    Raises:
        BadInput: the file is damaged, holds a state with another digest, or has no weight in common
            with the model.
    """
    found = checked(path, expected_digest)
    taken = []
    for name, variable in variables(model)["weights"].items():
        value = found.get(f"weights/{name}")
        if value is not None and value.shape == tuple(variable.shape):
            variable.assign(value)
            taken.append(name)
    if not taken:
        raise BadInput(f"{path}: no weight has path and shape in common with this model")
    return taken


CHECKPOINTS = 2
"""How many checkpoints are kept: the newest one, and the one before in case that is damaged."""
SHARE = 0.03
"""Checkpoints take at most this share of the run's time."""
SPEED = 100e6
"""The assumed speed of writing the first checkpoint, in bytes per second: that of a slow disk."""


@dataclass
class Position:
    """The place of a run at a boundary, and what the run has seen so far."""

    epoch: int
    step: int = 0
    """The steps made in this epoch."""
    stopped: bool = False
    """Whether a callback has ended the training."""
    history: list[dict[str, float]] = field(default_factory=list)
    callbacks: dict[str, Any] = field(default_factory=dict)
    """See `callbacks.Watchers.states`."""
    entries: int = 0
    """How many entries the ledger had."""
    head: str = ""
    """The head of the ledger's last entry."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read back."""

    position: Position
    tensors: Path
    """The file with the tensors."""
    host: dict[str, Any]
    """See `host`."""
    refused: list[str]
    """A line for each newer checkpoint that is torn or altered."""

    def restore(self, model: Any) -> dict[str, np.ndarray]:
        """Gives a compiled and built model this state, and Python, NumPy and the backend theirs.

        Returns:
            The arrays that callbacks keep; see `callbacks.Kept`.

        Raises:
            BadInput: the model has other variables than the checkpoint, since its code has changed.
        """
        found = read(self.tensors)
        kept = take_kept(found)
        own = {k.partition("/")[2]: found.pop(k) for k in [*found] if k.startswith("backend/")}
        assign(self.tensors, model, found, KINDS)
        backends.current().restore(own)
        restore_host(self.host)
        return kept


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(
        self, directory: Path, interval: float, recipe_digest: str, size: int, enough: bool = True
    ) -> None:
        """Sets up the checkpoints.

        Args:
            interval: the seconds between two checkpoints; more if they would cost more than
                `SHARE`. 0: one at each boundary.
            recipe_digest: a checkpoint of another recipe is refused.
            size: the size of the state in bytes.
            enough: whether the state has all that the next step depends on. If not, no checkpoint
                is written.
        """
        self._enough = enough
        self._directory = directory
        self._interval = interval
        self._recipe_digest = recipe_digest
        self._last = time.monotonic()
        self._cost = size / SPEED
        self.seconds = 0.0
        self.refused: list[str] = []
        """A line for each checkpoint that `newest` has found torn or altered."""

    def due(self, epoch_ended: bool, wanted: bool = False) -> bool:
        """Whether to write a checkpoint now.

        It is due after the interval, or earlier at the end of an epoch if it is cheap. `wanted`
        asks for one in any case.
        """
        if wanted or not self._enough:
            return self._enough
        since = time.monotonic() - self._last
        affordable = since >= self._cost / SHARE
        return self._interval == 0 or (affordable and (epoch_ended or since >= self._interval))

    def write(self, model: Any, position: Position, kept: dict[str, np.ndarray]) -> None:
        """Writes a checkpoint.

        Args:
            kept: the arrays that callbacks keep; see `callbacks.Kept`.
        """
        start = time.monotonic()
        self._directory.mkdir(exist_ok=True)
        for torn in self._directory.glob("*.new"):  # A kill during a write has left them.
            torn.unlink()
        name = f"{position.epoch:06}-{position.step:09}"
        content = arrays(model, KINDS) | kept
        own = backends.current().generators()
        content |= {f"backend/{name}": array for name, array in own.items()}
        tensors = self._directory / f"{name}.npz"
        save(tensors, content)
        rest = {
            "recipe": self._recipe_digest,
            "position": asdict(position),
            "host": host(),
            "sha256": sha256(tensors),
        }
        text = files.dumps(rest)
        with replacing(self._directory / f"{name}.json") as file:
            file.write(json.dumps([sha256(text.encode()), text]).encode())
        for path in sorted(self._directory.glob("*.json"))[:-CHECKPOINTS]:
            path.unlink()
            path.with_suffix(".npz").unlink(missing_ok=True)
        self._last = time.monotonic()
        self._cost = self._last - start
        self.seconds += self._cost

    def newest(self) -> Checkpoint | None:
        """Returns the newest whole checkpoint, or None.

        Raises:
            Parted: the checkpoint belongs to another recipe.
        """
        refused = self.refused = list[str]()
        for path in sorted(self._directory.glob("*.json"), reverse=True):
            try:
                digest, text = json.loads(path.read_bytes())
                content = json.loads(text)
                whole = digest == sha256(text.encode())
                tensors = path.with_suffix(".npz")
                whole = whole and content["sha256"] == sha256(tensors)
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                whole = False
            if not whole:
                refused.append(f"{path.with_suffix('.npz').name}: torn or altered, not used")
                continue
            if content["recipe"] != self._recipe_digest:
                recipes = content["recipe"], self._recipe_digest
                raise Parted(
                    f"{path}: this checkpoint belongs to another recipe, since the data are read "
                    "from other sources than when this run began: repro train --fresh",
                    Divergence("data", 0, 0, "sources", "recipe", *recipes, ["recipe"]),
                )
            kept = content["position"]
            position = Position(**kept | {"history": files.numbers(kept["history"])})
            return Checkpoint(position, tensors, content["host"], refused)
        if refused:
            refused.append("no checkpoint is whole, so this run begins again")
        return None


def take_kept(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Removes from `found` the arrays that callbacks keep, and returns them."""
    return {name: found.pop(name) for name in [*found] if name.startswith("callbacks/")}


def host() -> dict[str, Any]:
    """Returns the generators of Python, NumPy and the project's own code, as plain numbers."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
        "project": outside.states(),
    }


def restore_host(found: dict[str, Any]) -> None:
    """Gives these generators the state that `host` returned."""
    python, numpy = found["python"], found["numpy"]
    random.setstate((python[0], tuple(python[1]), python[2]))
    np.random.set_state((numpy[0], np.array(numpy[1], dtype=np.uint32), *numpy[2:]))
    outside.restore(found["project"])


def generators() -> dict[str, str]:
    """Returns the digest of each generator outside the model, by name.

    These are the generators of Python, NumPy, the backend and the project's own code.
    """
    import numpy as np

    from repro.run import outside

    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    numpy_state = f"{kind}{position}{has_gauss}{gauss}".encode() + np.asarray(keys).tobytes()
    own = backends.current().generators() | outside.generators()
    return {
        "python": hashlib.sha256(repr(random.getstate()).encode()).hexdigest(),
        "numpy": hashlib.sha256(numpy_state).hexdigest(),
    } | {name: sha256(state) for name, state in own.items()}


def with_host(entry: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Returns a ledger's entry with the generators outside the model added to those inside."""
    return entry | {"generators": generators() | entry["generators"]}
