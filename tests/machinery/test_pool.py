"""How a study runs its trials on this machine, and what a cluster asks for. Nothing is trained."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import examples
import pytest

from repro.basics.errors import BadInput, RunFailed
from repro.environment import machine
from repro.recipe.project import Project
from repro.run import launcher, manifest
from repro.run.launcher import Launch, OnStart
from repro.study import keys, slots, study, trials
from repro.study.planning import Planned
from repro.study.pool import Pool
from repro.study.table import Answer
from repro.study.trials import Task

Behave = Callable[[int], None]
"""What a training does, by its number: it raises where it is to fail."""


def planned(number: int) -> Planned:
    """A plan of so many trials of one configuration."""
    plan = examples.plan(1, number, configurations=[{}])
    return Planned(plan, [examples.recipe(seed=n) for n in range(number)])


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[Behave], None]]:
    """Puts something else in the place of training."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(machine, "available_cores", lambda: 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    running: list[subprocess.Popen[str]] = []

    def put(behave: Behave) -> None:
        def train(launch: Launch, listener: object, on_start: OnStart) -> Path:
            assert launch.name is not None
            run = launch.project.runs / launch.name
            seed = launch.recipe.parameters.seed
            assert seed is not None
            process = subprocess.Popen(
                [sys.executable, "-c", "import time; time.sleep(99)"], text=True
            )
            running.append(process)
            on_start(process)
            try:
                behave(seed)
                if behave is forever and process.wait() != 0:
                    raise RunFailed("ended")
            finally:
                process.kill()
                process.wait()
            run.mkdir(parents=True)
            content = examples.finished(
                run.name,
                recipe=launch.recipe.reading({}),
                digest=f"{seed}",
                metrics={"val_loss": float(seed)},
                recipe_digest=f"{seed}",
            )
            manifest.write(run, content)
            return run

        monkeypatch.setattr(launcher, "train", train)

    yield put
    assert all(process.poll() is not None for process in running)


def forever(number: int) -> None:
    """A training that does not end by itself."""


def run(
    folder: Path, number: int, workers: int, told: list[str] | None = None, verify: bool = False
) -> Answer:
    project = Project(folder, "any")
    with study.Study(project, planned(number)) as one:
        return one.run(
            workers,
            None,
            lambda run, event: None,
            lambda name, line, done: (told if told is not None else []).append(line),
            verify,
        )


def listening() -> set[str]:
    """The sockets on which this process, or one that it has started, waits for connections."""
    waiting = {
        line.split()[9]
        for name in ("tcp", "tcp6")
        if (file := Path("/proc/net") / name).is_file()
        for line in file.read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    }
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
    mine = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in mine} - mine:
        mine |= more
    held = set()
    for pid in mine:
        try:
            for file in Path(f"/proc/{pid}/fd").iterdir():
                held |= set(re.findall(r"socket:\[(\d+)\]", os.readlink(file)))
        except OSError:
            continue
    return waiting & held


@pytest.mark.skipif(not Path("/proc/net/tcp").is_file(), reason="it lists what listens")
def test_a_local_study_opens_no_port(training: Callable[[Behave], None], tmp_path: Path) -> None:
    before, found = listening(), set[str]()
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            found.update(listening())
            time.sleep(0.01)

    watcher = threading.Thread(target=watch)
    watcher.start()
    training(lambda number: time.sleep(0.5))
    try:
        assert run(tmp_path, 4, 2).table.failed == 0
    finally:
        over.set()
        watcher.join()
    assert found <= before and listening() <= before


def test_a_local_study_imports_no_dask() -> None:
    script = (
        "import sys; from repro.cli import commands, console; from repro.study import study\n"
        "with study._trainers(1, None, print): pass\n"
        "print([name for name in ('dask', 'distributed') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("workers", [1, 3])
def test_what_fails_is_one_trial_and_stops_no_other(
    training: Callable[[Behave], None], tmp_path: Path, workers: int
) -> None:
    def behave(number: int) -> None:
        if number == 0:
            raise OSError(28, "No space left on device")
        if number == 2:
            raise RunFailed("the training failed")

    training(behave)
    told: list[str] = []
    answer = run(tmp_path, 5, workers, told)
    failed = [trial.failed for trial in answer.table.trials]
    assert failed == [
        "OSError: [Errno 28] No space left on device",
        None,
        "the training failed",
        None,
        None,
    ]
    assert len(told) == 5
    # Started again, it runs what failed, and nothing else.
    training(lambda number: None)
    told.clear()
    again = run(tmp_path, 5, workers, told)
    assert again.table.failed == 0 and len(told) == 2 and again.directory == answer.directory


def test_a_folder_without_the_right_to_write_is_a_failed_trial(
    training: Callable[[Behave], None], tmp_path: Path
) -> None:
    (tmp_path / "runs").write_text("in the way of a folder")
    training(lambda number: None)
    answer = run(tmp_path, 2, 2)
    assert answer.table.failed == 2
    assert ["FileExistsError" in (one.failed or "") for one in answer.table.trials] == [True, True]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell starts what runs in its background with this signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.name == "nt", reason="a POSIX signal is sent")
@pytest.mark.usefixtures("interruptible")
def test_a_study_that_is_ended_ends_its_trainings(
    training: Callable[[Behave], None], tmp_path: Path
) -> None:
    training(forever)
    begun: list[str] = []
    with (
        pytest.raises(KeyboardInterrupt),
        Pool(2, lambda run, event: None) as pool,
    ):
        project = Project(tmp_path, "any")
        tasks = [Task("study", f"run-{n}", examples.recipe(seed=n), (), "", "") for n in range(4)]
        running = pool.run(project, [], tasks)
        threading.Timer(0.5, lambda: begun.extend(str(p.pid) for p in pool._running)).start()
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
        next(running)
    assert len(begun) == 2
    with pytest.raises(ProcessLookupError):
        os.kill(int(begun[0]), 0)


def test_more_is_asked_for_while_there_is_room(
    training: Callable[[Behave], None], tmp_path: Path
) -> None:
    slow, asked = threading.Event(), []

    def behave(number: int) -> None:
        assert number != 0 or slow.wait(30)

    training(behave)

    def task(number: int) -> Task:
        return Task("study", f"run-{number}", examples.recipe(seed=number), (), "", "")

    def further() -> Task | None:
        asked.append(1)
        slow.set()
        return task(9) if len(asked) == 1 else None

    with Pool(2, lambda run, event: None) as pool:
        outcomes = pool.run(Project(tmp_path, "any"), [], [task(0), task(1)], further)
        names = {outcome.task.name for outcome in outcomes}
    assert names == {"run-0", "run-1", "run-9"}


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="the temporary folder is the user's own")
@pytest.mark.parametrize("trap", ["a link", "a file", "open to others", "a link in it"])
def test_a_folder_that_somebody_has_prepared_is_refused(
    trap: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(machine, "available_cores", lambda: 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    folder, elsewhere = tmp_path / f"repro-slots-{os.getuid()}", tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    if trap == "a link":
        folder.symlink_to(elsewhere)
    elif trap == "a file":
        folder.touch()
    else:
        folder.mkdir(mode=0o700)
        if trap == "open to others":
            folder.chmod(0o755)
        else:
            (folder / "core-0").symlink_to(elsewhere / "made")

    def hold() -> None:
        with slots.held(examples.parameters(), lambda: False, lambda event: None):
            raise AssertionError("it was followed")

    with pytest.raises(BadInput, match="TMPDIR") as refused:
        hold()
    assert str(folder) in str(refused.value) and "\n" not in str(refused.value)
    assert not list(elsewhere.iterdir())


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="gives a folder away")
def test_a_folder_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"repro-slots-{os.getuid()}"
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)
    with (
        pytest.raises(BadInput, match="belongs to user 65534"),
        slots.held(examples.parameters(), lambda: False, lambda event: None),
    ):
        pass


@pytest.mark.parametrize(
    ("files", "share"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_the_limit_of_a_container_counts(
    files: dict[str, str], share: float | None, tmp_path: Path
) -> None:
    (tmp_path / "own").write_text("12:cpu:/\n0::/\n")
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert machine._quota(tmp_path, tmp_path / "own") == (share or float("inf"))


needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl")


@needs_openssl
def test_keys_are_made_once_for_one_users_eyes(tmp_path: Path) -> None:
    made = keys.make(tmp_path / "new" / "keys")
    for path in (made.key, made.certificate):
        assert os.name == "nt" or path.stat().st_mode & 0o777 == 0o600
    before = made.key.read_bytes(), made.certificate.read_bytes()
    with pytest.raises(BadInput, match="not overwritten"):
        keys.make(made.folder)
    made.certificate.unlink()
    with pytest.raises(BadInput, match="not overwritten"):
        keys.make(made.folder)
    assert made.key.read_bytes() == before[0] and not made.certificate.exists()


def test_without_openssl_no_keys_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BadInput, match="openssl: the program was not found"):
        keys.make(tmp_path / "keys")
    assert not (tmp_path / "keys").exists()


@needs_openssl
@pytest.mark.parametrize("shown", ["the same key", "another key", "no key"])
def test_only_who_has_the_key_is_let_in(shown: str, tmp_path: Path) -> None:
    made, other = keys.make(tmp_path / "one"), keys.make(tmp_path / "other")
    to, fro = ssl.MemoryBIO(), ssl.MemoryBIO()

    def context(purpose: ssl.Purpose, own: keys.Keys | None) -> ssl.SSLContext:
        """As Dask makes it, and as strict as Python 3.13 is."""
        found = ssl.create_default_context(purpose, cafile=str(made.certificate))
        found.verify_mode, found.check_hostname = ssl.CERT_REQUIRED, False
        found.verify_flags |= ssl.VERIFY_X509_STRICT
        if own is not None:
            found.load_cert_chain(str(own.certificate), str(own.key))
        return found

    own = {"the same key": made, "another key": other, "no key": None}[shown]
    found = context(ssl.Purpose.SERVER_AUTH, own)
    found.check_hostname, found.verify_mode = False, ssl.CERT_REQUIRED
    client = found.wrap_bio(to, fro)
    server = context(ssl.Purpose.CLIENT_AUTH, made).wrap_bio(fro, to, server_side=True)

    def talk() -> None:
        for _ in range(5):
            for side in (client, server):
                try:
                    side.do_handshake()
                except ssl.SSLWantReadError:
                    continue

    if shown == "the same key":
        talk()
        assert client.version() == "TLSv1.3"
    else:
        with pytest.raises(ssl.SSLError):
            talk()


def test_a_workers_own_error_is_its_trials_and_a_lost_connection_the_schedulers() -> None:
    from distributed import KilledWorker
    from distributed.comm.core import CommClosedError

    from repro.study import workers

    class Future:
        def __init__(self, error: BaseException, status: str) -> None:
            self.error, self.status = error, status

        def result(self) -> None:
            raise self.error

    task = Task("study", "run", examples.recipe(), (), "", "")
    full = workers._outcome(Future(OSError(28, "No space left on device"), "error"), task)
    assert full.failed == "OSError: [Errno 28] No space left on device"
    lost = KilledWorker("run", None, 3)  # type: ignore[arg-type]
    killed = workers._outcome(Future(lost, "error"), task)
    assert killed.failed == "each worker that tried it was killed"
    for error in (CancelledError("run"), CommClosedError("lost")):
        with pytest.raises(RunFailed, match="the scheduler was lost"):
            workers._outcome(Future(error, "cancelled"), task)

    def broken() -> None:
        raise PermissionError(13, "Permission denied", "runs")

    assert trials.attempt(task, "host", broken).failed == (
        "PermissionError: [Errno 13] Permission denied: 'runs'"
    )


def test_the_command_makes_keys_where_it_is_told(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "repro", "cluster-keys", str(tmp_path / "keys"), *arguments],
            capture_output=True,
            text=True,
        )

    answer = json.loads(command("--json").stdout)
    assert Path(answer["key"]).is_file() and Path(answer["certificate"]).is_file()
    again = command()
    assert again.returncode == 2 and again.stderr.count("\n") == 1, again.stderr
