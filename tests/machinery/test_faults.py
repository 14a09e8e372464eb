"""What becomes of a command in a hostile place: one line and a status, never a traceback. Quick."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import examples
import numpy as np
import pytest

from repro.basics import files
from repro.basics.errors import ISSUES, BadInput
from repro.cli import commands
from repro.recipe.project import Project
from repro.run import faults, ledger, manifest, state

PROJECT = Project.find()
RUN = "20260101-000000-digits-dense-0123ab"
COMMANDS = {
    "help": (("sweep", "--help"), 0),
    "answer": (("diff", RUN, RUN), 0),
    "refusal": (("train", "seed=x"), 2),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the code of this one, and a run that was written by hand."""
    made = tmp_path_factory.mktemp("project")
    for name in ("src", "requirements", "params.yaml", "pyproject.toml"):
        (made / name).symlink_to(PROJECT.root / name)
    run = made / "runs" / RUN
    run.mkdir(parents=True)
    book = ledger.Ledger(run / "ledger.jsonl")
    book.append("environment", {"settings": {"seed": 1}})
    book.close()
    manifest.write(run, examples.finished(RUN, ledger_head=book.head))
    return made


@dataclass(frozen=True)
class Place:
    """A place to run a command in, and what becomes of it there where that is not as ever."""

    shell: str = '"$@"'
    env: dict[str, str | None] = field(default_factory=dict)
    status: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """The statuses that a command may have there."""
    lines: int = 1
    """How many such a command prints to standard error."""


def unwritten(shell: str, status: int, lines: int) -> dict[str, Place]:
    """A place where what is printed cannot be written, at once or when all is flushed."""
    # argparse itself passes over a help text that cannot be written at once.
    statuses = {"answer": (status,), "help": (0, status)}
    return {
        "": Place(shell, {"PYTHONUNBUFFERED": None}, statuses, lines),
        ", at once": Place(shell, {"PYTHONUNBUFFERED": "1"}, statuses, lines),
    }


NOWHERE = "/nonexistent"
PLACES = {
    "no home": Place(env={"HOME": None}),
    "a home that is not there": Place(env={"HOME": NOWHERE, "XDG_CACHE_HOME": NOWHERE}),
    "no temporary folder": Place(env={"TMPDIR": NOWHERE}),
    "an odd terminal": Place(env={"TERM": "odd", "COLUMNS": "0", "LINES": "-1"}),
    "a terminal of ASCII alone": Place(env={"PYTHONIOENCODING": "ascii"}),
    "the locale C": Place(env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    "no output": Place('"$@" >&-'),
    "no error output": Place('"$@" 2>&-'),
    "no stream at all": Place('"$@" >&- 2>&- <&-'),
    "a full error output": Place('"$@" 2>/dev/full'),
    "a folder that is gone": Place(
        'mkdir gone && cd gone && rmdir ../gone && "$@"',
        status={"answer": (2,), "refusal": (2,)},
    ),
    "no room for files": Place('ulimit -f 0; "$@"'),
}
for kind, there in unwritten('"$@" >/dev/full', 2, 1).items():
    PLACES[f"a full output{kind}"] = there
for kind, there in unwritten('"$@" | true; exit ${PIPESTATUS[0]}', 141, 0).items():
    PLACES[f"a reader that has gone{kind}"] = there


@pytest.mark.skipif(os.name == "nt", reason="a shell of POSIX")
@pytest.mark.parametrize("place", PLACES)
def test_no_place_gives_a_traceback(place: str, root: Path) -> None:
    here = PLACES[place]
    if "full" in place and not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    changed = {"PYTHONPATH": str(root / "src"), **here.env}
    env = {k: v for k, v in (os.environ | changed).items() if v is not None}
    for name, (command, usual) in COMMANDS.items():
        done = subprocess.run(
            ("bash", "-c", here.shell, "bash", sys.executable, "-m", "repro", *command),
            cwd=root,
            env=env,
            capture_output=True,
            text=True,
        )
        assert done.returncode in here.status.get(name, (usual,)), done.stderr
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
        if name in here.status and done.returncode:
            assert done.stderr.count("\n") == here.lines, done.stderr


def run(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    """The exit status of a command that raises this."""

    def fail(options: Any) -> int:
        raise error

    monkeypatch.setitem(commands.COMMANDS, "report", fail)
    return commands.main(["report", "x"])


def test_an_internal_error_has_its_own_status_and_says_where_to_report_it(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert run(monkeypatch, KeyError("planted")) == 70
    told = capsys.readouterr().err
    assert told.startswith("Traceback (most recent call last):\n")
    assert "KeyError: 'planted'\nrepro: this is a fault of the machinery, not of your " in told
    assert told.endswith(f": {ISSUES}\n")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device; make room"),
        (OSError(errno.EROFS, "Read-only file system", "runs/x"), "runs/x: Read-only file system;"),
        (PermissionError(errno.EACCES, "Permission denied", "runs"), "runs: Permission denied; "),
        (FileNotFoundError(errno.ENOENT, "No such file", "runs/x/a.npz"), "runs/x/a.npz: No such"),
        (MemoryError(), "there is not enough memory"),
        (ModuleNotFoundError("No module named 'rich'", name="rich"), "'rich'; make install "),
    ],
)
def test_what_the_machine_around_refuses_is_one_line(
    error: BaseException, told: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert run(monkeypatch, error) == 2
    said = capsys.readouterr().err
    assert said.startswith("repro: ")
    assert told in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [
        BrokenPipeError(errno.EPIPE, "Broken pipe"),  # Of a pipe that is not the output's.
        OSError(errno.EBADF, "Bad file descriptor"),
        FileNotFoundError(errno.ENOENT, "No such file", str(files.MACHINERY / "report.html")),
        ModuleNotFoundError("No module named 'repro.x'", name="repro.x"),
    ],
)
def test_what_nobody_else_can_have_done_is_the_machinerys(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(monkeypatch, error) == 70


def raised(file: Path, code: str, **names: Any) -> BaseException:
    """What code raises that stands in a file."""
    try:
        exec(compile(code, str(file), "exec"), names)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def test_in_a_training_the_innermost_code_of_ours_tells_whose_fault_it_is() -> None:
    ours, theirs = files.MACHINERY / "loop.py", PROJECT.source / "models" / "dense.py"
    library = Path(np.__file__).parent / "ma" / "core.py"

    def passed_on(file: Path, code: str) -> Callable[[], None]:
        return lambda: exec(compile(code, str(file), "exec"), {"json": json})

    assert faults.of_machinery(raised(ours, "{}['key']"))
    assert faults.of_machinery(raised(ours, "json.loads('{')", json=json))
    assert faults.of_machinery(raised(theirs, "f()", f=passed_on(ours, "{}['key']")))
    assert not faults.of_machinery(raised(theirs, "{}['key']"))
    assert not faults.of_machinery(raised(ours, "f()", f=passed_on(theirs, "json.loads('{')")))
    assert not faults.of_machinery(raised(ours, "f()", f=passed_on(library, "1 / 0")))
    assert not faults.of_machinery(raised(ours, "raise PermissionError(13, 'denied', 'runs')"))


def test_what_is_raised_where_the_project_is_called_is_the_projects() -> None:
    code = "with calling('judge'):\n    len(3)"  # Called with what it cannot take.
    error = raised(files.MACHINERY / "loop.py", code, calling=faults.calling)
    assert not faults.of_machinery(error)
    assert error.__notes__ == ["the project's own code was running: judge"]


@pytest.mark.parametrize("damage", ["emptied", "cut", "torn", "gone"])
def test_a_ledger_that_cannot_be_gone_on_with_says_how_to_begin_anew(
    damage: str, tmp_path: Path
) -> None:
    path = tmp_path / "ledger.jsonl"
    book = ledger.Ledger(path)
    for step in range(5):
        book.append("step", {"order": {"indices": str(step)}}, 1, step)
    book.close()
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if damage == "gone":
        path.unlink()
    else:
        left = {"emptied": [], "cut": lines[:2], "torn": [lines[0][:-9] + "\n", *lines[1:]]}
        path.write_text("".join(left[damage]), encoding="utf-8")
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(BadInput, match=r"a new run is needed: repro train --fresh$"):
        list(ledger.read(path, whole=False))
        ledger.Ledger(path, keep=4, head=book.head)
    assert before == (path.read_bytes() if path.exists() else None)


@pytest.mark.parametrize("line", [2, 3, 4])
@pytest.mark.parametrize("damage", ["torn", "altered", "taken from another"])
def test_no_line_before_the_checkpoint_may_be_damaged(
    damage: str, line: int, tmp_path: Path
) -> None:
    """Only the ledger itself looks at these lines: their number and the last head are right."""
    written, heads = {}, []
    for name in ("one", "other"):
        book = ledger.Ledger(tmp_path / name)
        for step in range(6):
            book.append("step", {"order": {"indices": f"{step} of {name}"}}, 1, step)
            heads.append(book.head)
        book.close()
        written[name] = (tmp_path / name).read_text(encoding="utf-8").splitlines(keepends=True)
    path, lines = tmp_path / "one", written["one"]
    ledger.Ledger(path, keep=5, head=heads[4]).close()  # As it was written it is gone on with.
    old = lines[line - 1]
    damaged = {
        "torn": old[:-9] + "\n",
        "altered": old.replace(" of one", " of two"),
        "taken from another": written["other"][line - 1],
    }
    lines[line - 1] = damaged[damage]
    path.write_text("".join(lines), encoding="utf-8")
    with pytest.raises(BadInput, match=f", line {line}: .*: repro train --fresh$"):
        ledger.Ledger(path, keep=5, head=heads[4])
    assert path.read_text(encoding="utf-8") == "".join(lines)


def test_an_emptied_ledger_is_compared_with_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.touch()
    with pytest.raises(BadInput, match="the ledger is empty") as refused:
        ledger.first_difference(path, path)
    assert "--fresh" not in str(refused.value)


def test_it_is_said_where_no_checkpoint_is_whole(tmp_path: Path) -> None:
    for name in ("000001-000000125", "000002-000000000"):
        (tmp_path / f"{name}.json").write_text('["0", "{}"]', encoding="utf-8")
    checkpoints = state.Checkpoints(tmp_path, 60, "", 0)
    assert checkpoints.newest() is None
    assert checkpoints.refused == [
        "000002-000000000.npz: torn or altered, not used",
        "000001-000000125.npz: torn or altered, not used",
        "no checkpoint is whole, so this run begins again",
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[1]", "not the manifest of a run"),
        ('{"recipe": {}}', "another version of the machinery"),
        (f'{{"recipe": {{}}, "format": {manifest.FORMAT}}}', "altered since"),
        ("{", "not valid JSON"),
    ],
)
def test_a_foreign_manifest_is_one_line(
    content: str, told: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(root)
    foreign = root / "runs" / "foreign"
    foreign.mkdir(exist_ok=True)
    (foreign / "manifest.json").write_text(content, encoding="utf-8")
    for command in (["diff", RUN, "foreign"], ["report", "foreign"], ["train", "--resume=foreign"]):
        assert commands.main(command) == 2
        said = capsys.readouterr().err
        assert told in said
        assert said.count("\n") == 1


@pytest.mark.parametrize("there", ["nothing", "folder", "run without a split", "words", "arrays"])
def test_a_split_beside_the_project_that_is_none_is_one_line(
    there: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """A path that leads out of the project is looked at like any other, and nothing is begun."""
    name = f"x-{there.replace(' ', '-')}"
    beside = root.parent / name
    if there == "folder":
        beside.mkdir()
    elif there == "run without a split":
        beside.mkdir()
        manifest.write(beside, examples.begun(name))
    elif there == "words":
        beside.write_text("no split\n", encoding="utf-8")
    elif there == "arrays":
        with beside.open("wb") as file:
            np.savez(file, train=np.arange(3))
    monkeypatch.chdir(root)
    before = {path.name for path in (root / "runs").iterdir()}
    assert commands.main(["train", f"split.file=../{name}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("repro: ") and said.count("\n") == 1
    assert name in said
    assert {path.name for path in (root / "runs").iterdir()} == before
    assert not (root / "splits").exists()
