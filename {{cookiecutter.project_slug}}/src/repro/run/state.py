"""The state of a training: named tensors, their digests, and how they are kept.

`.keras` archives hold a date and leave out the random generators of layers such as Dropout; the
state here holds all that the next step depends on, and equal states have equal digests.

A checkpoint is two files. `<epoch>-<step>.npz` holds the tensors; `<epoch>-<step>.json`, written
after it, holds the rest, the other's SHA-256 and its own. Each name stands for a whole file or for
none, so a kill at any moment loses at most what came after the checkpoint before.
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
from repro.basics import files
from repro.basics.digests import sha256
from repro.basics.errors import BadInput
from repro.basics.files import replacing, unreadable
from repro.run import outside
from repro.run.ledger import Divergence, Parted

KEPT = ("generators", "weights", "optimizer", "outside")
"""What a training goes on from. `outside` is what neither the model nor its optimizer holds, and
is empty for most; see `outside.py`."""
KINDS = (*KEPT, "metrics")
"""With the metrics, which begin anew in each epoch."""


def variables(model: Any) -> dict[str, dict[str, Any]]:
    """Returns the Keras variables of a compiled, built model: kind, then path.

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
    named: dict[str, Any] = {}
    for variable in members:
        # TensorFlow's own variables, which are outside the model, have a name alone.
        first = path = getattr(variable, "path", None) or variable.name
        copy = 1
        while path in named:  # Layers that share a name, in models nested in each other.
            copy += 1
            path = f"{first}#{copy}"
        named[path] = variable
    return named


def digests(model: Any, *kinds: str) -> dict[str, dict[str, str]]:
    """The SHA-256 of type, shape and content of each variable of these kinds.

    What is outside the model has a place only where there is something.
    """
    named = variables(model)
    return {
        kind: {path: sha256(np.asarray(variable)) for path, variable in named[kind].items()}
        for kind in kinds
        if named[kind] or kind != "outside"
    }


def digest(kinds: dict[str, dict[str, str]]) -> str:
    """One SHA-256 over the digests of a whole state."""
    lines = [f"{kind}/{path} {value}\n" for kind in kinds for path, value in kinds[kind].items()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def arrays(model: Any, kinds: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns the content of the variables of these kinds, by `kind/path`."""
    named = variables(model)
    return {f"{kind}/{p}": np.asarray(v) for kind in kinds for p, v in named[kind].items()}


def save(path: Path, content: dict[str, np.ndarray]) -> None:
    """Writes an `.npz` of plain arrays, which has its name only when it is whole on the disk."""
    with replacing(path) as file:
        np.savez(file, allow_pickle=False, **content)


def read(path: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of an `.npz`.

    Raises:
        BadInput: it is none, or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except Exception as error:  # zipfile, zlib and NumPy each raise their own for a torn file.
        raise BadInput(f"{path}: not a readable state: {unreadable(error)}") from None


def digest_of(found: dict[str, np.ndarray]) -> str:
    """The digest of a state from what `arrays` returned of it, or `read`."""
    kinds = {
        kind: {k.partition("/")[2]: sha256(a) for k, a in found.items() if k.startswith(f"{kind}/")}
        for kind in KEPT
    }
    return digest(kinds)


def checked(path: Path, expected_digest: str) -> dict[str, np.ndarray]:
    """Returns the arrays of a saved state.

    Raises:
        BadInput: the file holds another state than `expected_digest`, or is damaged.
    """
    found = read(path)
    if digest_of(found) != expected_digest:
        raise BadInput(f"{path}: its content is not the state {expected_digest}")
    return found


def assign(path: Path, model: Any, found: dict[str, np.ndarray], kinds: Sequence[str]) -> None:
    """Gives the variables of these kinds the values found in `path`, all of them or none.

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
                f"{path}: {key} has the shape {found[key].shape}, expected {tuple(variable.shape)}"
            )
    for key, variable in wanted.items():
        variable.assign(found[key])


def transfer(path: Path, model: Any, expected_digest: str) -> list[str]:
    """Gives those weights of a model that have path and shape in common with a saved state its
    values, and returns their paths.

    Raises:
        BadInput: the file holds another state than `expected_digest` or is damaged, or has no
            weight in common with the model.
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
"""How many stay: the newest and, should it be damaged, the one before."""
SHARE = 0.03
"""Of the run's time, at most, goes into checkpoints."""
SPEED = 100e6
"""Bytes a second, assumed of a checkpoint until the first one shows it: a slow disk's."""


@dataclass
class Position:
    """Where a run stands at a boundary, and what it has seen so far.

    `step` counts the steps made in `epoch`; `entries` and `head` are the ledger's at that place.
    """

    epoch: int
    step: int = 0
    stopped: bool = False
    history: list[dict[str, float]] = field(default_factory=list)
    callbacks: dict[str, dict[str, Any]] = field(default_factory=dict)
    entries: int = 0
    head: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back; `refused` says which newer ones were not whole."""

    position: Position
    tensors: Path
    host: dict[str, Any]
    refused: list[str]

    def restore(self, model: Any) -> list[np.ndarray]:
        """Gives a compiled, built model this state, and Python, NumPy and the backend their own.

        Returns the weights a callback remembers, in the order it keeps them.

        Raises:
            BadInput: the model's code has changed, it has other variables.
        """
        found = read(self.tensors)
        best = take_best(found)
        own = {k.partition("/")[2]: found.pop(k) for k in [*found] if k.startswith("backend/")}
        assign(self.tensors, model, found, KINDS)
        backends.current().restore(own)
        restore_host(self.host)
        return best


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(
        self, directory: Path, interval: float, recipe_digest: str, size: int, enough: bool = True
    ) -> None:
        """`interval` seconds between two at most; more where that would cost more than `SHARE`.

        `size` is the state's, in bytes. Where the state is not `enough` to go on from, none is
        written.
        """
        self._enough = enough
        self._directory = directory
        self._interval = interval
        self._recipe_digest = recipe_digest
        self._last = time.monotonic()
        self._cost = size / SPEED
        self.seconds = 0.0
        self.refused: list[str] = []
        """What `newest` says of those that are not whole."""

    def due(self, epoch_ended: bool, wanted: bool = False) -> bool:
        """Whether one is to be written: the time has come, or an epoch ended and it is cheap; or
        it is `wanted` in any case."""
        if wanted or not self._enough:
            return self._enough
        since = time.monotonic() - self._last
        affordable = since >= self._cost / SHARE
        return self._interval == 0 or (affordable and (epoch_ended or since >= self._interval))

    def write(self, model: Any, position: Position, best: list[np.ndarray]) -> None:
        """Writes the state of a model at rest; `best` are the weights a callback remembers."""
        start = time.monotonic()
        self._directory.mkdir(exist_ok=True)
        for torn in self._directory.glob("*.new"):  # What a kill during a write left.
            torn.unlink()
        name = f"{position.epoch:06}-{position.step:09}"
        content = with_best(arrays(model, KINDS), best)
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
        """Returns the newest whole checkpoint; None where there is none.

        Raises:
            Parted: it belongs to another recipe.
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
                    f"{path}: the checkpoint of another recipe; the data are read from other "
                    "sources than when this run began: repro train --fresh",
                    Divergence("data", 0, 0, "sources", "recipe", *recipes, ["recipe"]),
                )
            kept = content["position"]
            position = Position(**kept | {"history": files.numbers(kept["history"])})
            return Checkpoint(position, tensors, content["host"], refused)
        if refused:
            refused.append("no checkpoint is whole, so this run begins again at its beginning")
        return None


def with_best(content: dict[str, np.ndarray], best: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Adds the weights that a callback remembers; see `take_best`."""
    return content | {f"best/{number}": array for number, array in enumerate(best)}


def take_best(found: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Takes the weights that a callback remembers out of what was read."""
    return [found.pop(f"best/{n}") for n in range(sum(k.startswith("best/") for k in found))]


def host() -> dict[str, Any]:
    """The generators of Python and NumPy, and those of the project's own, as plain numbers."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [kind, np.asarray(keys).tolist(), *rest],
        "project": outside.states(),
    }


def restore_host(found: dict[str, Any]) -> None:
    """Gives these generators what `host` returned."""
    python, numpy = found["python"], found["numpy"]
    random.setstate((python[0], tuple(python[1]), python[2]))
    np.random.set_state((numpy[0], np.array(numpy[1], dtype=np.uint32), *numpy[2:]))
    outside.restore(found["project"])


def generators() -> dict[str, str]:
    """Digests of the generators outside the model: Python's, NumPy's, the backend's and those
    that the project's own code made."""
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
    """Adds the generators outside the model to those inside it, in an entry of the ledger."""
    return entry | {"generators": generators() | entry["generators"]}
