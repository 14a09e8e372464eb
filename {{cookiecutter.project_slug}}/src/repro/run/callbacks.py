"""Callbacks of Keras and of the project: what they see, what they may change, what they keep.

A callback *acts* if it changes the course of the training, as early stopping does. Keras's own that
act are known here. One of the project acts if it has the methods `get_state` and `set_state`, which
say what it keeps: numbers, text, arrays, and lists or dicts of them. This is in the ledger and in
each checkpoint, so that a training goes on with it.

All other callbacks only *look on*: TensorBoard, CSVLogger, one of the project that draws a picture.
The state of the training is compared before and after each of their methods. If one of them has
changed it, the training ends with its name.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from repro.basics.digests import of_json, sha256
from repro.basics.errors import BadInput
from repro.recipe.parameters import Named
from repro.recipe.project import Project
from repro.run import compiling, faults, state

ACTS = (
    keras.callbacks.EarlyStopping,
    keras.callbacks.ReduceLROnPlateau,
    keras.callbacks.SwapEMAWeights,
    keras.callbacks.TerminateOnNaN,
)
"""Keras's callbacks that change the course of a training."""
KEEPS: dict[type, tuple[str, ...]] = {
    keras.callbacks.EarlyStopping: ("best", "wait", "best_epoch", "stopped_epoch", "best_weights"),
    keras.callbacks.ReduceLROnPlateau: ("best", "wait", "cooldown_counter"),
    keras.callbacks.ModelCheckpoint: (
        *("best", "_current_epoch", "_last_batch_seen", "_batches_seen_since_last_saving"),
    ),
    keras.callbacks.TensorBoard: ("_global_train_batch", "_global_test_batch", "_train_step"),
}
"""What changes in Keras's callbacks while they watch; the rest follows from their arguments."""
PLACES = ("filepath", "filename", "log_dir", "directory")
"""Arguments that say where a callback writes. If one is relative, it is in the run's directory."""
FOLDER = "callbacks"
"""The folder of the run's directory in which callbacks write."""
EACH_STEP = (*("on_batch_begin", "on_batch_end", "on_train_batch_begin", "on_train_batch_end"),)
NOT_CALLED = (
    *("on_test_batch_begin", "on_test_batch_end", "on_predict_begin", "on_predict_end"),
    *("on_predict_batch_begin", "on_predict_batch_end"),
)
"""Methods that are never called here, since an evaluation is made in chunks of batches."""

Kept = dict[str, np.ndarray]
"""The arrays that callbacks keep, by `callbacks/NAME/PLACE`."""


@dataclass(frozen=True)
class Watcher:
    """One callback that watches a training."""

    name: str
    callback: Any

    @property
    def acts(self) -> bool:
        """Whether it may change the state of the training."""
        return isinstance(self.callback, ACTS) or self._says

    @property
    def _says(self) -> bool:
        return all(hasattr(self.callback, method) for method in ("get_state", "set_state"))

    @property
    def keeps(self) -> bool:
        """Whether it has a state of its own that is known."""
        return self._says or isinstance(self.callback, tuple(KEEPS))

    def state(self) -> Any:
        """Returns what it keeps: plain values and arrays; see the module's docstring."""
        if self._says:
            with faults.calling("get_state"):
                return self.callback.get_state()
        return {k: getattr(self.callback, k) for k in self._attributes if hasattr(self.callback, k)}

    def split(self) -> tuple[Any, Kept]:
        """Returns what it keeps: plain values, and the arrays by their places in them."""
        arrays: Kept = {}
        return _plain(self.name, "", self.state(), arrays), arrays

    def restore(self, kept: Any) -> None:
        """Gives it back what `state` returned."""
        if self._says:
            with faults.calling("set_state"):
                self.callback.set_state(kept)
        else:
            vars(self.callback).update(kept)

    @property
    def _attributes(self) -> tuple[str, ...]:
        return next(names for kind, names in KEEPS.items() if isinstance(self.callback, kind))

    def has(self, hook: str) -> bool:
        """Whether it has a method of its own of this name that has something to do here."""
        if hook in EACH_STEP and isinstance(self.callback, keras.callbacks.ModelCheckpoint):
            return bool(self.callback.save_freq != "epoch")
        if hook in EACH_STEP and isinstance(self.callback, keras.callbacks.TensorBoard):
            one = self.callback
            return one.update_freq != "epoch" or bool(one._should_trace)
        return _own_method(self.callback, hook)


@dataclass(frozen=True)
class Ended:
    """What callbacks have done at the end of a training."""

    best: int | None
    """The epoch, counted from 0, whose weights were brought back; None: of none."""
    changed: bool
    """Whether one has changed the weights otherwise."""


class Watchers:
    """All callbacks of a training, in the order of the recipe."""

    def __init__(self, members: Sequence[Watcher] = ()) -> None:
        self.members = tuple(members)
        self._model: Any = None
        self._before: dict[str, dict[str, str]] | None = None

    def begin(self, model: Any, steps: int, epochs: int) -> None:
        """Tells the callbacks that the training of a model begins, or goes on."""
        self._model = model
        model.stop_training = False
        for one in self.members:
            one.callback.set_params({"epochs": epochs, "steps": steps, "verbose": 0})
            one.callback.set_model(model)
        self._tell("on_train_begin")

    @property
    def each_step(self) -> bool:
        """Whether one of them has to see each step, so that steps are made one by one."""
        return any(one.has(hook) for one in self.members for hook in EACH_STEP)

    @property
    def stopped(self) -> bool:
        """Whether one of them has stopped the training."""
        return bool(self.members) and bool(self._model.stop_training)

    def epoch_begins(self, epoch: int) -> None:
        """Is called before the first step of an epoch, which is counted from 1."""
        self._tell("on_epoch_begin", epoch - 1)

    def step_begins(self, step: int) -> None:
        """Is called before a step of an epoch, which is counted from 1."""
        for hook in EACH_STEP[::2]:
            self._tell(hook, step - 1)

    def step_made(self, step: int, found: dict[str, float]) -> None:
        """Is called after a step, with the results of the epoch so far."""
        for hook in EACH_STEP[1::2]:
            self._tell(hook, step - 1, found=found)

    def test_begins(self) -> None:
        """Is called before a validation."""
        self._tell("on_test_begin")

    def test_made(self, found: dict[str, float]) -> None:
        """Is called after a validation, with its results."""
        self._tell("on_test_end", found=found)

    def epoch_made(self, epoch: int, found: dict[str, float]) -> None:
        """Shows the results of an epoch to the callbacks.

        A callback that changes the learning rate adds it to the results, as in `fit`.

        Raises:
            BadInput: one watches a value that is not measured (Keras would only warn), or a value
                of which Keras does not know whether more is better.
        """
        for one in self.members:
            monitor = getattr(one.callback, "monitor", None)
            if isinstance(one.callback, keras.callbacks.ModelCheckpoint):
                monitor = monitor if one.callback.save_best_only else None
            if isinstance(monitor, str) and monitor not in found:
                if not monitor.startswith("val_") or any(k.startswith("val_") for k in found):
                    raise BadInput(
                        f"callbacks.{one.name}.monitor: expected one of {', '.join(found)}; "
                        f"got {monitor!r}"
                    )
                if isinstance(one.callback, ACTS):
                    continue  # Nothing was validated in this epoch.
            try:
                self._call(one, "on_epoch_end", epoch - 1, found=found)
            except ValueError as error:
                if "maximized or minimized" not in str(error):
                    raise
                raise BadInput(
                    f"callbacks.{one.name}.mode: expected min or max, got auto: Keras does not "
                    f"know whether more of {monitor} is better"
                ) from None
        self._before = None

    def end(self) -> Ended:
        """Tells the callbacks that the training is over."""
        weights = self._weights()
        self._tell("on_train_end")
        stopping = (one.callback for one in self.members)
        best = next((c.best_epoch for c in stopping if getattr(c, "best_weights", None)), None)
        return Ended(best, best is None and weights != self._weights())

    def _weights(self) -> Any:
        others = [one for one in self.members if one.acts and one.has("on_train_end")]
        return state.digests(self._model, "weights") if others else None

    def _tell(self, hook: str, *place: int, found: dict[str, float] | None = None) -> None:
        for one in self.members:
            self._call(one, hook, *place, found=found)
        self._before = None

    def _call(
        self, one: Watcher, hook: str, *place: int, found: dict[str, float] | None = None
    ) -> None:
        """Calls a method of a callback. If it only looks on, compares the state before and after.

        Raises:
            BadInput: a callback that only looks on has changed the state.
        """
        if not one.has(hook):
            return
        if one.acts:
            self._before = None
            with faults.calling(one.name):
                getattr(one.callback, hook)(*place, found)
            return
        before = self._before or self._state(hook)
        with faults.calling(one.name):
            # What it does to the results is seen by nobody else.
            getattr(one.callback, hook)(*place, None if found is None else dict(found))
        self._before = after = self._state(hook)
        if before != after:
            changed = next(
                f"{kind}/{path}"
                for kind in {**before, **after}
                for path in {**before.get(kind, {}), **after.get(kind, {})}
                if before.get(kind, {}).get(path) != after.get(kind, {}).get(path)
            )
            raise BadInput(
                f"callbacks.{one.name}: expected a callback that only looks on, and its {hook} "
                f"changed {changed}; give it get_state() and set_state(kept) if it has to act"
            )

    def _state(self, hook: str) -> dict[str, dict[str, str]]:
        # The metrics are read before the end of an epoch, and are reset after it.
        kinds = state.KINDS if hook in EACH_STEP else state.KEPT
        found = state.with_host(state.digests(self._model, *kinds))
        return found | {"course": {"stop_training": str(self._model.stop_training)}}

    def states(self) -> dict[str, Any]:
        """Returns what each callback keeps, by its name, as plain values; see `kept`."""
        return {one.name: one.split()[0] for one in self.members if one.keeps}

    def kept(self) -> Kept:
        """Returns the arrays that callbacks keep; `states` names each where it belongs."""
        return {
            f"callbacks/{one.name}{place}": array
            for one in self.members
            if one.keeps
            for place, array in one.split()[1].items()
        }

    def digests(self) -> dict[str, str]:
        """Returns the digest of what each callback keeps, by its name."""
        parted = {one.name: one.split() for one in self.members if one.keeps}
        return {
            name: of_json([plain, {place: sha256(array) for place, array in arrays.items()}])
            for name, (plain, arrays) in parted.items()
        }

    def restore(self, saved: Mapping[str, Any], kept: Kept) -> None:
        """Gives callbacks what they kept; one without a saved state begins from nothing."""
        for one in self.members:
            if one.name in saved and one.keeps:
                one.restore(_joined(saved[one.name], f"callbacks/{one.name}", kept))

    def exhausted(self) -> bool:
        """Whether early stopping has waited as long as it may, and would stop at once."""
        return any(
            isinstance(one.callback, keras.callbacks.EarlyStopping)
            and one.callback.stopped_epoch > 0
            and one.callback.wait >= one.callback.patience
            for one in self.members
        )


def watch(project: Project, asked: Sequence[Named], directory: Path, goes_on: bool) -> Watchers:
    """Returns the callbacks that a recipe asks for.

    Args:
        directory: of the run; callbacks write into a folder of it.
        goes_on: whether the run was interrupted; a file that a callback writes is then added to.

    Raises:
        BadInput: one cannot be made, or has a method that is never called here.
    """
    members = []
    for one in asked:
        name = one.called or one.name
        key = f"callbacks.{name}"
        callback = compiling.make(
            project, "callbacks", key, one, **_places(one.arguments, directory)
        )
        if isinstance(callback, keras.callbacks.TensorBoard):
            for package in ("tensorboard", "tensorflow"):  # On every backend: it writes the files.
                if importlib.util.find_spec(package) is None:
                    raise BadInput(
                        f"{key}: it needs the package {package}, which is not installed; add it to "
                        "requirements/cpu.in, then make lock sync"
                    )
        if not isinstance(callback, keras.callbacks.Callback):
            raise BadInput(f"{key}: expected a callback of Keras, got {type(callback).__name__}")
        if isinstance(callback, keras.callbacks.CSVLogger):
            callback.append = callback.append or goes_on
        own = type(callback).__module__.partition(".")[0] == project.package
        unseen = [hook for hook in NOT_CALLED if _own_method(callback, hook)]
        if own and unseen:
            raise BadInput(
                f"{key}: {unseen[0]} is never called, since samples are evaluated in chunks of "
                "batches; on_test_end and on_epoch_end see the results"
            )
        members.append(Watcher(name, callback))
    return Watchers(members)


def _places(arguments: Mapping[str, Any], directory: Path) -> dict[str, str]:
    """The arguments that say where a callback writes, within the directory of the run."""
    found = {}
    for name in PLACES:
        if isinstance(arguments.get(name), str):
            path = directory / FOLDER / arguments[name]
            path.parent.mkdir(parents=True, exist_ok=True)
            found[name] = str(path)
    return found


def _own_method(callback: Any, hook: str) -> bool:
    """Whether a callback has this method itself; Keras marks those that do nothing."""
    return not hasattr(getattr(callback, hook), "_is_default")


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | keras.Variable)


def _plain(name: str, place: str, value: Any, arrays: Kept) -> Any:
    """What a callback keeps as JSON has it; an array is its place, and goes into `arrays`.

    Raises:
        BadInput: it keeps something else than plain values and arrays.
    """
    if _is_array(value):
        arrays[place] = np.array(value)
        return {ARRAY: place}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {k: _plain(name, f"{place}/{k}", inner, arrays) for k, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(name, f"{place}/{n}", inner, arrays) for n, inner in enumerate(value)]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float | np.generic):
        return value.item() if isinstance(value, np.generic) else float(value)
    raise BadInput(
        f"callbacks.{name}: get_state returned {type(value).__name__}; expected numbers, text, "
        "arrays, and lists or dicts of them"
    )


ARRAY = "array in the checkpoint"
"""The key of what stands for an array."""


def _joined(plain: Any, prefix: str, kept: Kept) -> Any:
    """What a callback kept, from what `_plain` returned and the arrays."""
    if isinstance(plain, dict):
        if plain.keys() == {ARRAY}:
            return kept[prefix + plain[ARRAY]]
        return {key: _joined(value, prefix, kept) for key, value in plain.items()}
    return [_joined(value, prefix, kept) for value in plain] if isinstance(plain, list) else plain
