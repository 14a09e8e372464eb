"""A study gives the same bits however it is run: trainings side by side, order, machines, kills."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from .conftest import Generated, some

pytestmark = pytest.mark.real

STUDY = ("sweep", "training.epochs=2", "model.dropout=0.3", "--no-verify")
VALUES = "training.batch_size=32,64,128"


def digests(answer: dict[str, Any]) -> dict[str, str]:
    """The digest of each trial, by that of its recipe."""
    assert answer["failed"] == 0, answer["trials"]
    return {trial["recipe_digest"]: trial["digest"] for trial in answer["trials"]}


@pytest.fixture(scope="module")
def project(project: Generated, tmp_path_factory: pytest.TempPathFactory) -> Generated:
    """One that is these tests' own: what a study is sent stays in its `splits/`."""
    return project.copy(tmp_path_factory.mktemp("study") / "project")


@pytest.fixture(scope="module")
def serial(project: Generated) -> dict[str, str]:
    """What all other ways of running the study have to give."""
    found = digests(project.repro(*STUDY, VALUES, "--workers", "1", "--fresh"))
    assert len(set(found.values())) == 3
    return found


ORDERS = {"2 workers": VALUES, "4 workers, another order": "training.batch_size=128,32,64"}


@pytest.mark.parametrize("way", some(ORDERS, ("4 workers, another order",)))
def test_workers_side_by_side(project: Generated, serial: dict[str, str], way: str) -> None:
    answer = project.repro(*STUDY, ORDERS[way], "--workers", way[0], "--fresh")
    assert digests(answer) == serial
    assert (list(digests(answer)) == list(serial)) is ("order" not in way)


def apart(folder: Path) -> list[str]:
    """What to put before a command for it to see that folder empty, by a mount of its own."""
    return [
        *("unshare", "--user", "--map-current-user", "--keep-caps", "--mount", "sh", "-c"),
        *('mount -t tmpfs none "$0" && exec "$@"', str(folder)),
    ]


@pytest.fixture(scope="module")
def two_machines() -> None:
    """Skips where a process cannot have mounts of its own."""
    with contextlib.suppress(OSError):
        if not subprocess.run([*apart(Path("/mnt")), "true"], capture_output=True).returncode:
            return
    pytest.skip("no mounts of one's own here")


@contextlib.contextmanager
def scheduler(
    project: Generated, folder: Path, keys: Path | None = None
) -> Iterator[tuple[str, list[Generated], int]]:
    """A Dask scheduler with two workers over TCP, as if on two machines, as the README starts them.

    Each has a copy of the project of its own, and sees an empty folder in place of the caller's.
    Yields its address, the copies, and the number of its process and group.

    Args:
        keys: the folder with the keys for TLS; None: without TLS.
    """
    copies = [project.copy(folder / f"machine-{number}") for number in (1, 2)]
    file = folder / "scheduler.json"
    with_keys: tuple[str, ...] = ()
    if keys is not None:
        certificate, key = str(keys / "cluster.crt"), str(keys / "cluster.key")
        with_keys = (*("--tls-ca-file", certificate), *("--tls-cert", certificate))
        with_keys += ("--tls-key", key)

    def start(where: Generated, *words: str) -> subprocess.Popen[bytes]:
        env = {**os.environ, "PYTHONPATH": str(where.root / "src")}
        command = [str(where.python), "-m", "distributed.cli.dask_" + words[0], *words[1:]]
        with (folder / "log.txt").open("ab") as log:
            return subprocess.Popen(
                [*apart(project.root), *command] if words[0] == "worker" else command,
                cwd=folder,
                env=env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    local = ("--host", "127.0.0.1", "--no-dashboard", *with_keys)
    tls = ("--protocol", "tls") if keys is not None else ()
    started = [
        start(project, "scheduler", "--scheduler-file", str(file), "--port", "0", *tls, *local)
    ]
    try:
        until = time.monotonic() + 60
        while not file.is_file() or not file.read_text().strip():
            assert time.monotonic() < until, (folder / "log.txt").read_text()
            time.sleep(0.1)
        address = json.loads(file.read_text())["address"]
        started += [
            start(copy, "worker", address, "--name", copy.root.name, "--nthreads", "1", *local)
            for copy in copies
        ]
        yield address, copies, started[0].pid
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


@pytest.mark.usefixtures("two_machines")
def test_two_machines_over_tls(project: Generated, serial: dict[str, str], tmp_path: Path) -> None:
    keys, others = tmp_path / "keys", tmp_path / "others"
    for folder in (keys, others):
        project.repro("cluster-keys", str(folder))
    with scheduler(project, tmp_path, keys) as (address, copies, _):
        assert address.startswith("tls://")
        study = (*STUDY, VALUES, "--scheduler", address, "--fresh")
        answer = project.repro(*study, REPRO_CLUSTER_KEYS=str(keys))
        assert digests(answer) == serial
        hosts = {trial["worker"] for trial in answer["trials"]}
        assert len(hosts) == 2, hosts
        for trial in answer["trials"]:  # All runs are here, and no copy is left behind.
            content = json.loads(
                (project.root / "runs" / trial["run"] / "manifest.json").read_text()
            )
            assert content["digest"] == trial["digest"]
        assert not [run for copy in copies for run in copy.root.glob("runs/*")]
        # Nothing is let in without the key, neither a study nor who asks in the clear.
        plain = address.replace("tls://", "tcp://")
        for refused, options in (
            (address, ("--keys", str(others))),
            (address, ()),
            (plain, ()),
            (plain, ("--insecure",)),
        ):
            done = project.run("repro", *STUDY, VALUES, "--scheduler", refused, *options, "--fresh")
            assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
            told = "--scheduler: " in done.stderr and refused in done.stderr
            assert told or "cluster.crt: no such" in done.stderr, done.stderr
        # A split that only the caller has is sent along.
        split = project.repro("train", "training.epochs=1", "split.seed=5")["run_dir"]
        sent = (f"split.file={split}", "training.epochs=1", "seed=1,2", "--no-verify")
        more = ("--scheduler", address, "--keys", str(keys))
        assert not project.repro("sweep", *sent, *more)["failed"]
        # What a worker cannot write is the failure of its trials, and not a lost scheduler.
        for copy in copies:
            shutil.rmtree(copy.root / "runs")
            (copy.root / "runs").write_text("in the way of a folder")
        failed = project.repro(*STUDY, VALUES, *more, "--fresh", status=4)
        assert all("FileExistsError" in trial["failed"] for trial in failed["trials"])
        # Another code is refused, by name.
        for copy in copies:
            (copy.package / "data.py").write_text(
                (copy.package / "data.py").read_text() + "\nx = 1\n"
            )
        done = project.run("repro", *STUDY, VALUES, *more, "--fresh")
        assert done.returncode == 2 and "has other code" in done.stderr, done.stderr


@pytest.mark.usefixtures("two_machines")
def test_a_lost_scheduler(project: Generated, serial: dict[str, str], tmp_path: Path) -> None:
    before = set(project.root.glob("studies/*"))
    with scheduler(project, tmp_path) as (address, copies, pid):
        # Without TLS only where that is asked for; with it, a scheduler without is refused.
        project.repro("cluster-keys", str(tmp_path / "keys"))
        for refused, options in (
            (address, ()),
            (address.replace("tcp://", "tls://"), ("--keys", str(tmp_path / "keys"))),
        ):
            done = project.run("repro", *STUDY, VALUES, "--scheduler", refused, *options, "--fresh")
            assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        process = project.start(*STUDY, VALUES, "--scheduler", address, "--insecure", "--fresh")
        wait_for(lambda: any(running(copy.root) for copy in copies))
        os.killpg(pid, signal.SIGKILL)
        process.communicate(timeout=120)
    assert process.returncode == 4
    (begun,) = set(project.root.glob("studies/*")) - before
    answer = project.repro(*STUDY, VALUES)
    assert digests(answer) == serial
    assert answer["study"] == begun.name


def running(folder: Path) -> list[Path]:
    return [run for run in folder.glob("runs/*-sweep-*") if (run / "ledger.jsonl").is_file()]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals are sent")
def test_a_killed_training(project: Generated, serial: dict[str, str], tmp_path: Path) -> None:
    copy = project.copy(tmp_path / "project")
    before = listening()
    process = copy.start(*STUDY, VALUES, "--workers", "2", "--json")
    wait_for(lambda: len(running(copy.root)) > 0)
    below = descendants(process.pid)
    # Beside the trainings there is no process, and nobody outside can reach the study.
    assert all("repro.run" in command for _, command in below.values()), below
    assert listening() & sockets({process.pid, *below}) == set()
    os.kill(min(below), signal.SIGKILL)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 4
    answer = json.loads(output)
    (killed,) = (trial for trial in answer["trials"] if trial["failed"])
    assert "signal 9" in killed["failed"] or "SIGKILL" in killed["failed"], killed
    again = copy.repro(*STUDY, VALUES)
    assert digests(again) == serial and again["study"] == answer["study"]
    assert listening() & sockets({os.getpid()}) <= before


def listening() -> set[str]:
    """The sockets of this machine that wait for connections, by number."""
    files = [file for file in map(Path, ("/proc/net/tcp", "/proc/net/tcp6")) if file.is_file()]
    lines = [line.split() for file in files for line in file.read_text().splitlines()[1:]]
    return {line[9] for line in lines if line[3] == "0A"}


def sockets(pids: set[int]) -> set[str]:
    """The numbers of the sockets that processes have open."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for file in Path(f"/proc/{pid}/fd").iterdir():
                found |= set(re.findall(r"socket:\[(\d+)\]", os.readlink(file)))
    return found


WAYS = {
    "all of it": signal.SIGKILL,
    "the command alone": signal.SIGKILL,
    "the command, asked to end": signal.SIGTERM,
}


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals are sent")
@pytest.mark.parametrize("killed", WAYS)
def test_a_killed_study_goes_on(
    project: Generated, serial: dict[str, str], tmp_path: Path, killed: str
) -> None:
    copy = project.copy(tmp_path / "project")
    process = copy.start(*STUDY, VALUES, "--workers", "2", "--json")
    results = "studies/*/results.jsonl"
    wait_for(lambda: any(path.read_text() for path in copy.root.glob(results)))
    below = descendants(process.pid)
    mine = [pid for pid, (_, command) in below.items() if "repro" in command]
    for pid in (process.pid, *(mine if killed == "all of it" else ())):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, WAYS[killed])
    process.wait(60)
    if killed == "the command, asked to end":  # It ends its trainings, and waits for that.
        assert process.returncode == 143
        assert not set(below) & set(everything())
    done = len(next(copy.root.glob(results)).read_text().splitlines())
    assert 1 <= done < 3
    # The trainings of a command that was killed alone are still there, and are waited for.
    answer = copy.repro(*STUDY, VALUES)
    assert digests(answer) == serial
    assert len(list(copy.root.glob("studies/*"))) == 1
    assert len(running(copy.root)) == 3
    lines = [json.loads(line) for line in next(copy.root.glob(results)).read_text().splitlines()]
    assert sum("trial" in line for line in lines) == 3  # What was done was not done again.


def test_a_failed_trial_is_told_and_tried_again(project: Generated, tmp_path: Path) -> None:
    copy = project.copy(tmp_path / "project")
    model = copy.package / "models" / "dense.py"
    content = model.read_text()
    broken = content.replace(
        "    return ", "    if units == 7:\n        raise OSError('no luck')\n    return ", 1
    )
    assert broken != content
    model.write_text(broken)
    study = ("sweep", "model.units=7,8", "training.epochs=1", "--no-verify")
    answer = copy.repro(*study, status=4)
    assert answer["failed"] == 1 and "OSError: no luck" in answer["trials"][0]["failed"]
    assert answer["best"]["values"] == {"model.units": 8}
    again = copy.repro(*study, status=4)
    assert again["study"] == answer["study"]


RATES = {"at once": "1e-3,1e-7,1e-8", "too soon": "1e-8,1e-7,1e-3"}


@pytest.mark.parametrize("found", some(RATES, ("at once",)))
def test_the_best_so_far_is_trained_again_meanwhile(
    project: Generated, tmp_path: Path, found: str
) -> None:
    copy, rates = project.copy(tmp_path / "project"), RATES[found]
    settings = ("training.epochs=2", f"optimizer.learning_rate={rates}", "--workers", "2")
    # Room of its own, whatever other tests are training.
    answer = copy.repro("sweep", *settings, TMPDIR=str(tmp_path))
    best = rates.split(",").index("1e-3")
    assert answer["verification"]["verdict"] == "identical"
    assert answer["verification"]["trial"] == answer["best"]["trial"] == best
    (again,) = copy.root.glob("runs/*-again")  # That of another, which was the best, is removed.
    assert again.name == f"{answer['trials'][best]['run']}-again"
    if best == 0:  # The last trial and the further run were side by side.
        last = copy.root / "runs" / answer["trials"][2]["run"]
        one, other = (json.loads((run / "manifest.json").read_text()) for run in (last, again))
        began = [datetime.fromisoformat(content["started"]) for content in (one, other)]
        assert began[1] < began[0] + timedelta(seconds=one["duration_seconds"])
    # A study killed after its last trial needs that further run alone.
    (results,) = copy.root.glob("studies/*/results.jsonl")
    lines = results.read_text().splitlines(keepends=True)
    results.write_text("".join(line for line in lines if "trial" in json.loads(line)))
    shutil.rmtree(again)
    once_more = copy.repro("sweep", *settings, TMPDIR=str(tmp_path))
    assert once_more["verification"]["verdict"] == "identical" and again.is_dir()
    assert once_more["trials"] == answer["trials"]


NOISE = """
def noise() -> Dataset:
    generator = np.random.default_rng(1)
    x = generator.standard_normal((120, 8)).astype(np.float32)
    return Dataset(x, generator.integers(0, 2, 120).astype(np.int32), classes=2)


"""


def test_a_nested_study_of_noise_gives_chance(project: Generated, tmp_path: Path) -> None:
    copy = project.copy(tmp_path / "project")
    copy.insert("data.py", "def digits(", NOISE.lstrip())
    answer = copy.repro(
        *("sweep", "data.name=noise", "model.units=4,8", "training.epochs=1"),
        *("--outer-folds", "2", "--folds", "2", "--monitor", "val_accuracy"),
    )
    assert answer["best"] is None and len(answer["trials"]) == 8
    nested = answer["nested"]
    assert [one["outer_fold"] for one in nested["chosen"]] == [0, 1]
    for one in nested["chosen"]:
        mine = [
            t for t in answer["trials"] if t["repetition"]["split.outer_fold"] == one["outer_fold"]
        ]
        means = [
            statistics.fmean(
                t["metrics"]["val_accuracy"] for t in mine if t["configuration"] == number
            )
            for number in (0, 1)
        ]
        assert means[one["configuration"]] == max(means)
    # 120 samples that toss a coin: within three deviations of a half.
    assert abs(nested["metrics"]["test_accuracy"]["mean"] - 0.5) < 3 * 0.5 / 120**0.5
    assert answer["verification"]["verdict"] == "identical"
    assert answer["verification"]["trial"] == nested["chosen"][0]["trial"]
    told = copy.run("repro", "report", "--study", answer["study"])
    assert told.returncode == 0, told.stderr
    page = next(copy.root.glob("reports/*/report.md")).read_text(encoding="utf-8")
    assert "Nested, over 2 outer folds, chosen by val_accuracy within each: test_" in page
    assert "Best by" not in page


def test_the_lectures_first_experiment(project: Generated, tmp_path: Path) -> None:
    copy = project.copy(tmp_path / "project")
    study = ("sweep", "guarantee=none", "seed=null", "training.epochs=1", "--seeds", "3")
    told = copy.run("repro", *study)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "3 different results of 3 trainings of one recipe." in told.stdout
    assert "Nothing is trained once more: guarantee: none" in told.stdout
    assert "best" not in told.stdout.lower() and "DIVERGED" not in told.stdout
    assert len(list(copy.root.glob("runs/*"))) == 3


def wait_for(happened: Any) -> None:
    until = time.monotonic() + 300
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.02)


def descendants(pid: int) -> dict[int, tuple[int, str]]:
    """Parent and command of each process below one."""
    all_of_them = everything()
    below: dict[int, tuple[int, str]] = {}
    grown = True
    while grown:
        more = {n: p for n, p in all_of_them.items() if p[0] in {pid, *below} and n not in below}
        below |= more
        grown = bool(more)
    return below


def everything() -> dict[int, tuple[int, str]]:
    """Parent and command of each process."""
    listed = subprocess.run(
        ["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    ).stdout
    all_of_them = {}
    for line in listed.splitlines():
        number, parent, command = line.split(None, 2)
        all_of_them[int(number)] = (int(parent), command)
    return all_of_them
