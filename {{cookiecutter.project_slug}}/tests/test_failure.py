"""What is said of a training whose process failed. Takes no training."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro import RunEnded, failure

CHATTER = """\
2026-11-26 18:37:30.360305: I tensorflow/core/util/port.cc:153] oneDNN custom operations are on. \
You may see slightly different numerical results due to floating-point round-off errors
2026-11-26 18:37:30.360305: I tensorflow/core/platform/cpu_feature_guard.cc:210] This TensorFlow \
binary is optimized to use available CPU instructions in performance-critical operations.
To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow with the \
appropriate compiler flags.
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795718250.360305    5428 port.cc:153] oneDNN custom operations are on.
E0000 00:00:1795718264.820854    5428 node_def_util.cc:682] NodeDef mentions attribute \
use_unbounded_threadpool which is not in the op definition: Op<name=MapDataset>
INFO:absl:something

"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "log.txt").write_text(CHATTER, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("status", [-9, 137], ids=["signal", "as-a-shell-has-it"])
def test_a_process_that_was_ended_is_told_as_such(status: int, run: Path) -> None:
    error = failure.of(run, status)
    assert isinstance(error, RunEnded)
    what = "the training was ended by signal 9 (SIGKILL): the memory may be full, or somebody "
    what += "ended it"
    nothing = f"; its log, {run / 'log.txt'}, says nothing of it"
    assert str(error) == (
        f"{what}; the same command started again begins anew, there is no checkpoint yet{nothing}"
    )
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "1-0.json").touch()
    error = failure.of(run, status)
    assert isinstance(error, RunEnded)
    assert str(error) == (
        f"{what}; the same command started again goes on from the last checkpoint{nothing}"
    )
    assert str(error.advised("nothing was compared")) == f"{what}; nothing was compared{nothing}"


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (-15, "signal 15 (SIGTERM): somebody or something else ended it"),
        (-11, "signal 11 (SIGSEGV): code outside Python crashed"),
        (134, "signal 6 (SIGABRT): a library found something wrong and stopped"),
    ],
)
def test_each_signal_has_its_reason(status: int, told: str, run: Path) -> None:
    assert told in str(failure.of(run, status))


def test_a_log_is_shown_where_it_says_something(run: Path) -> None:
    lines = [f"line {number}" for number in range(30)]
    text = CHATTER + "\n".join([*lines, "I am no chatter", "ValueError: wrong"]) + "\n" + CHATTER
    (run / "log.txt").write_text(text, encoding="utf-8")
    error = failure.of(run, 1)
    assert not isinstance(error, RunEnded)
    first, *rest = str(error).splitlines()
    assert first == f"the training failed with status 1; its log, {run / 'log.txt'}, ends so:"
    assert rest == [*lines[-13:], "I am no chatter", "ValueError: wrong"]
    for status in (1, 70, 128, 255):
        assert f"failed with status {status};" in str(failure.of(run, status))
