"""Callbacks: those that look on may change nothing; those that act go on with what they keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import examples
import keras
import numpy as np
import pytest
from test_loop import bench
from trainings import CHUNK, PROJECT, Bench, Killed, entries

from repro.basics.errors import BadInput
from repro.data import feed
from repro.run import callbacks, compiling
from repro.run.callbacks import Watcher, Watchers
from repro.run.events import Event, Step


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "CHUNK", CHUNK)


@pytest.fixture(scope="module")
def linear() -> Bench:
    layer = keras.layers.Dense(1, kernel_initializer="zeros")
    model = keras.Sequential([keras.Input((2,)), layer])
    return bench(model, examples.optimizer("SGD", learning_rate=0.125))


def watching(callback: Any) -> Watchers:
    return Watchers([Watcher("mine", callback)])


def trained(linear: Bench, folder: Path, callback: Any | None = None, **given: Any) -> Any:
    linear.fresh()
    watchers = None if callback is None else watching(callback)
    return linear.train(folder, linear.parameters(epochs=3), watchers=watchers, **given)


class Looking(keras.callbacks.Callback):
    """Writes down each call."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self.seen.append(("begin", self.params["epochs"], self.params["steps"]))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.seen.append(("epoch", epoch))

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.seen.append(("step", batch))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.seen.append((batch, sorted(logs)))

    def on_test_begin(self, logs: Any = None) -> None:
        self.seen.append("test")

    def on_test_end(self, logs: Any = None) -> None:
        self.seen.append(("test", sorted(logs)))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seen.append((epoch, sorted(logs)))
        logs.clear()  # Nobody else sees this.

    def on_train_end(self, logs: Any = None) -> None:
        self.seen.append("end")


def test_who_looks_on_sees_what_fit_shows_and_changes_no_bit(linear: Bench, tmp_path: Path) -> None:
    plain = trained(linear, tmp_path / "plain")
    looking = Looking()
    seen = trained(linear, tmp_path / "seen", looking)
    assert seen.history == plain.history and seen.results == plain.results
    assert seen.ending.digest() == plain.ending.digest()
    # The steps are made one by one, so that the callback can see each of them.
    assert len(entries(tmp_path / "seen")) > len(entries(tmp_path / "plain"))
    fitted = Looking()
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(loss="mean_squared_error")
    part, judged = linear.steps_of["train"].part, linear.steps_of["validation"].part
    validation = (judged.x, judged.y)
    model.fit(part.x, part.y, 2, 3, validation_data=validation, callbacks=[fitted], verbose=0)
    assert looking.seen == fitted.seen


class Odd(keras.callbacks.Callback):
    """Changes something at the end of an epoch."""

    def __init__(self, change: str) -> None:
        super().__init__()
        self.change = change

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch != 1:
            return
        if self.change == "weight":
            self.model.layers[0].bias.assign([9.0])
        elif self.change == "rate":
            self.model.optimizer.learning_rate = 0.5
        elif self.change == "generator":
            np.random.random()
        elif self.change == "course":
            self.model.stop_training = True
        else:
            self.model.predict(np.zeros((1, 2), np.float32), verbose=0)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("weight", "weights/.*bias"),
        ("rate", "optimizer/.*learning_rate"),
        ("generator", "generators/numpy"),
        ("course", "course/stop_training"),
        ("nothing", None),
    ],
)
def test_who_looks_on_and_changes_something_is_named(
    change: str, told: str | None, linear: Bench, tmp_path: Path
) -> None:
    if told is None:
        assert len(trained(linear, tmp_path, Odd(change)).history) == 3
        return
    match = (
        rf"callbacks\.mine: expected a callback that only looks on, and its on_epoch_end .*{told};"
    )
    with pytest.raises(BadInput, match=match):
        trained(linear, tmp_path, Odd(change))
    # What was changed is told in the epoch in which it was.
    assert [e["epoch"] for e in entries(tmp_path) if e["stage"] == "epoch"] == [1]


class Averaging(keras.callbacks.Callback):
    """Averages the weights of all epochs, and shrinks the rate: it acts, and says what it keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.sums: list[np.ndarray] | None = None
        self.best: dict[str, float] = {}
        self.count = 0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        weights = self.model.get_weights()
        before = self.sums or [np.zeros_like(one) for one in weights]
        self.sums = [a + b for a, b in zip(before, weights, strict=True)]
        self.count += 1
        self.best = {"loss": min(logs["loss"], self.best.get("loss", np.inf)), "nan": np.nan}
        self.model.optimizer.learning_rate = 0.125 / (1 + self.count)

    def on_train_end(self, logs: Any = None) -> None:
        assert self.sums is not None
        self.model.set_weights([one / self.count for one in self.sums])

    def get_state(self) -> Any:
        return {"sums": self.sums, "best": self.best, "count": self.count}

    def set_state(self, kept: Any) -> None:
        self.sums, self.best, self.count = kept["sums"], kept["best"], kept["count"]


def test_who_acts_goes_on_with_what_it_keeps(linear: Bench, tmp_path: Path) -> None:
    whole = trained(linear, tmp_path / "whole", Averaging(), seconds=0)
    found = entries(tmp_path / "whole")
    kept = [e["callbacks"]["mine"] for e in found if e["stage"] == "epoch"]
    assert len({*kept}) == 3, "the ledger has what it keeps"
    final = linear.content()
    # The weights were set at the very end, so that they are validated once more.
    assert whole.results["val_loss"] != whole.history[-1]["val_loss"]
    last = [e for e in found if e["stage"] == "step"][-1]

    def send(event: Event) -> None:
        if isinstance(event, Step) and (event.epoch, event.step) == (last["epoch"], last["step"]):
            raise Killed

    with pytest.raises(Killed):
        trained(linear, tmp_path / "run", Averaging(), send=send, seconds=0)
    linear.other()
    made = linear.train(
        tmp_path / "run", linear.parameters(epochs=3), watchers=watching(Averaging()), seconds=0
    )
    assert made.results == whole.results and made.ending.digest() == whole.ending.digest()
    assert entries(tmp_path / "run") == found
    for one, other in zip(linear.content(), final, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_kept_is_plain() -> None:
    class Bad(Averaging):
        def get_state(self) -> Any:
            return {"path": Path("x")}

    with pytest.raises(BadInput, match=r"callbacks\.mine: get_state returned PosixPath; expected"):
        watching(Bad()).states()


def test_a_step_that_ends_the_training_is_the_last_one(linear: Bench, tmp_path: Path) -> None:
    class Third(Averaging):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.model.stop_training = batch == 2

    made = trained(linear, tmp_path, Third(), seconds=0)
    assert len(made.history) == 1
    assert [e["step"] for e in entries(tmp_path) if e["stage"] == "step"] == [1, 2, 3]


def test_callbacks_of_keras_write_into_the_folder_of_the_run(linear: Bench, tmp_path: Path) -> None:
    linear.fresh()
    asked = (
        examples.named("callbacks", "CSVLogger", filename="a/log.csv"),
        examples.named("callbacks", "ModelCheckpoint", filepath="best.keras", save_best_only=True),
    )
    linear.train(tmp_path, linear.parameters(asked, epochs=2))
    lines = (tmp_path / "callbacks" / "a" / "log.csv").read_text().splitlines()
    assert lines[0] == "epoch,loss,val_loss" and len(lines) == 3
    assert (tmp_path / "callbacks" / "best.keras").stat().st_size


def test_a_method_that_is_never_called_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(keras.callbacks.Callback):
        def on_test_batch_end(self, batch: int, logs: Any = None) -> None: ...

    Late.__module__ = f"{PROJECT.package}.callbacks"
    monkeypatch.setattr(compiling, "make", lambda *given, **more: Late())
    asked = (examples.named("callbacks", "TerminateOnNaN"),)
    with pytest.raises(BadInput, match="on_test_batch_end is never called"):
        callbacks.watch(PROJECT, asked, tmp_path, goes_on=False)
