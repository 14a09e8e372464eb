"""Watches Keras: `fit`, `train_on_batch`, and the optimizer in loops of one's own."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

from repro.script.watching import END, Fields, Recorder, arrays, numbers

FIT, BATCH, LOOP = "steps of fit", "steps of train_on_batch", "steps of a Keras optimizer"
FROZEN = (
    "the script has set Keras's seed, and then fit may show the samples in one and the same order "
    "in each epoch: that is repeated exactly, but it is no shuffle"
)


def watch(keras: ModuleType, recorder: Recorder) -> None:
    """Sets the hooks, once Keras has been imported."""
    version = str(getattr(keras, "__version__", "?"))
    if not version.startswith("3."):
        recorder.unwatched(f"Keras {version}: only Keras 3 is watched")
        return
    _watch_generators(keras, recorder)
    _watch_fit(keras, recorder)
    _watch_batches(keras, recorder)
    _watch_optimizers(keras, recorder)


def _watch_generators(keras: Any, recorder: Recorder) -> None:
    original = keras.random.SeedGenerator.__init__

    def made(self: Any, *given: Any, **named: Any) -> None:
        original(self, *given, **named)
        recorder.generator(self)

    keras.random.SeedGenerator.__init__ = made


def _slots(optimizer: Any) -> dict[str, str]:
    return arrays([(one.path, one) for one in getattr(optimizer, "variables", ())])


def _of_model(model: Any) -> Fields:
    weights = arrays([(one.path, one) for one in model.weights]) if model.built else {}
    return {"weights": weights, "optimizer": _slots(getattr(model, "optimizer", None))}


def _of_optimizer(optimizer: Any) -> Fields:
    known = getattr(optimizer, "_trainable_variables", ())
    return {
        "weights": arrays([(one.path, one) for one in known]),
        "optimizer": _slots(optimizer),
    }


def _seeded() -> bool:
    """Whether the script has set Keras's global seed."""
    utils = sys.modules.get("keras.src.utils.rng_utils")
    return utils is not None and utils.get_random_seed() is not None


def _watch_fit(keras: Any, recorder: Recorder) -> None:
    """Puts a callback of ours behind the script's own, and counts no steps within `fit`."""

    class Watch(keras.callbacks.Callback):
        """Looks at the model after steps and epochs."""

        def on_train_begin(self, logs: Any = None) -> None:
            with recorder.safely("fit"):
                model = self._whole()
                recorder.begin(FIT, model, lambda: _of_model(model))
                if _seeded():
                    recorder.note(FROZEN)
            self._epoch = 1

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self._epoch = epoch + 1

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            with recorder.safely("fit"):
                if recorder.due(recorder.count(FIT, self.model)):
                    self._look("step", batch + 1, logs)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            with recorder.safely("fit"):
                self._look("epoch", 0, logs, "epochs of fit")

        def on_train_end(self, logs: Any = None) -> None:
            with recorder.safely("fit"):
                self._look("trained", 0, None, END)

        def _look(self, stage: str, step: int, logs: Any, kind: str = FIT) -> None:
            fields = {**_of_model(self._whole()), "metrics": numbers(logs)}
            recorder.enter(kind, stage, fields, self._epoch, step)

        def _whole(self) -> Any:
            """The model, whose variables have by now the values that JAX holds elsewhere."""
            if keras.backend.backend() == "jax" and hasattr(self.model, "jax_state_sync"):
                self.model.jax_state_sync()
            return self.model

    lists = sys.modules["keras.src.callbacks.callback_list"].CallbackList
    begin = lists.__init__

    def made(self: Any, callbacks: Any = None, *given: Any, **named: Any) -> None:
        own = keras.tree.flatten(callbacks) if callbacks else []
        begin(self, [*own, Watch()], *given, **named)

    lists.__init__ = made
    keras.Model.fit = _inside(keras.Model.fit, recorder)


def _inside(method: Callable[..., Any], recorder: Recorder) -> Callable[..., Any]:
    """The same method, within which no steps of optimizers are counted."""

    def called(*given: Any, **named: Any) -> Any:
        with recorder.inside():
            return method(*given, **named)

    called.__wrapped__ = method  # type: ignore[attr-defined]
    return called


def _watch_batches(keras: Any, recorder: Recorder) -> None:
    original = keras.Model.train_on_batch

    def train_on_batch(self: Any, *given: Any, **named: Any) -> Any:
        if recorder.busy:
            return original(self, *given, **named)
        with recorder.safely("train_on_batch"):
            if not recorder.begun(BATCH, self):
                recorder.begin(BATCH, self, lambda: _of_model(self))
        with recorder.inside():
            result = original(self, *given, **named)
        with recorder.safely("train_on_batch"):
            step = recorder.count(BATCH, self)
            if recorder.due(step):
                fields = {**_of_model(self), "metrics": numbers(_by_name(result))}
                recorder.enter(BATCH, "step", fields, 0, step)
        return result

    keras.Model.train_on_batch = train_on_batch


def _by_name(result: Any) -> dict[str, Any]:
    if isinstance(result, dict):
        return result
    several: Sequence[Any] = result if isinstance(result, list | tuple) else [result]
    return {f"result {number}": value for number, value in enumerate(several)}


def _watch_optimizers(keras: Any, recorder: Recorder) -> None:
    base = sys.modules["keras.src.optimizers.base_optimizer"].BaseOptimizer
    original = base.apply
    graphs = _Graphs(keras, recorder)

    def begin(optimizer: Any, variables: Any) -> None:
        if recorder.begun(LOOP, optimizer):
            return
        given = [] if variables is None else [*variables]

        def state() -> Fields:
            if optimizer.built or not given:
                return _of_optimizer(optimizer)
            return {"weights": arrays([(one.path, one) for one in given])}

        recorder.begin(LOOP, optimizer, state)

    def apply(self: Any, grads: Any, trainable_variables: Any = None) -> Any:
        if recorder.busy:
            return original(self, grads, trainable_variables)
        if trainable_variables is not None:
            trainable_variables = [*trainable_variables]  # It may be a `zip`, read once.
        if not _eager(keras, grads):
            with recorder.safely("a compiled step"):
                graphs.traced(self, lambda: begin(self, trainable_variables))
            return original(self, grads, trainable_variables)
        with recorder.safely("a Keras optimizer"):
            begin(self, trainable_variables)
        with recorder.inside():
            result = original(self, grads, trainable_variables)
        _step(self, recorder)
        return result

    base.apply = apply


def _step(optimizer: Any, recorder: Recorder) -> None:
    """Counts a step of an optimizer, and looks at it where that is due."""
    with recorder.safely("a Keras optimizer"):
        step = recorder.count(LOOP, optimizer)
        if recorder.due(step):
            recorder.enter(LOOP, "step", _of_optimizer(optimizer), 0, step)


def _eager(keras: Any, grads: Any) -> bool:
    """Whether a step is made now, and is not only written down to be compiled."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return bool(sys.modules["tensorflow"].executing_eagerly())
    if backend == "jax":
        jax = sys.modules["jax"]
        return not any(isinstance(one, jax.core.Tracer) for one in grads)
    return not sys.modules["torch"].compiler.is_compiling()


class _Graphs:
    """Steps inside `tf.function`: seen from outside, after each call of the function."""

    def __init__(self, keras: Any, recorder: Recorder) -> None:
        self._recorder = recorder
        self._calls: list[Any] = []
        self._steps: weakref.WeakKeyDictionary[Any, list[Any]] = weakref.WeakKeyDictionary()
        self._tensorflow = keras.backend.backend() == "tensorflow"
        if self._tensorflow:
            with recorder.safely("tf.function"):
                self._hook()

    def _hook(self) -> None:
        from tensorflow.python.eager.polymorphic_function import polymorphic_function

        function: Any = polymorphic_function.Function
        original, tf = function.__call__, sys.modules["tensorflow"]

        def call(one: Any, *given: Any, **named: Any) -> Any:
            if self._recorder.busy or self._calls or not tf.executing_eagerly():
                return original(one, *given, **named)
            self._calls.append(one)
            try:
                result = original(one, *given, **named)
            finally:
                self._calls.pop()
            for optimizer in self._steps.get(one, ()):
                _step(optimizer, self._recorder)
            return result

        function.__call__ = call

    def traced(self, optimizer: Any, begin: Callable[[], None]) -> None:
        """Is told that a step of an optimizer is written down in what is called at present."""
        if not self._tensorflow or not self._calls:
            self._recorder.unwatched(
                "a compiled step with a Keras optimizer: it is seen from outside alone"
            )
            return
        known = self._steps.setdefault(self._calls[0], [])
        if all(one is not optimizer for one in known):
            known.append(optimizer)
            with sys.modules["tensorflow"].init_scope():
                begin()
