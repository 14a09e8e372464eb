"""The gate for a script, on scripts that need NumPy alone: what is run, kept, compared and told."""

from __future__ import annotations

import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import time
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repro.basics.files import MACHINERY
from repro.cli.commands import main
from repro.run import ledger
from repro.script import asked, folder, outputs, printed, settings
from repro.script.importing import After
from repro.script.start import Seen
from repro.script.verdict import Depends
from repro.script.watching import FIRST, Recorder, numbers

WEIGHTS = """
import numpy as np
np.savez("weights.npz", w=np.random.normal(size=4))
print("loss", np.random.rand())
"""
TIMED = """
import time
import numpy as np
np.random.seed(int(time.time()) // 100_000)
print("loss", np.random.rand())
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of somebody's that is in no project."""
    made = tmp_path / "somebody"
    made.mkdir()
    monkeypatch.chdir(made)
    monkeypatch.delenv("REPRO_PYTHON", raising=False)
    return made


def verify(*options: str, code: str | None = None, status: int = 0) -> str:
    """Runs the command on `train.py`, and returns nothing but checks the status."""
    if code is not None:
        Path("train.py").write_text(code, encoding="utf-8")
    found = main(["verify", "--script", "train.py", *options])
    assert found == status
    return ""


def answer(capsys: pytest.CaptureFixture[str], *options: str, **given: Any) -> dict[str, Any]:
    """The answer of the command, as JSON."""
    capsys.readouterr()
    verify("--json", *options, **given)
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def test_a_script_is_verified_in_any_folder(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    found = answer(capsys, "--output", "weights.npz", code=WEIGHTS)
    assert found["verdict"] == "identical"
    assert found["compared"] == {"entries": 0, "files": ["weights.npz"], "lines": 1}
    assert found["fixed"]["seed"] == asked.SEED
    assert "killed" in found["not_varied"] and "clock" in found["varied"]
    # What was there is there, and nothing else but one folder that git does not see.
    assert sorted(path.name for path in here.iterdir()) == [".repro", "train.py"]
    assert (here / ".repro" / ".gitignore").read_text(encoding="utf-8") == "*\n"
    first, second = map(Path, found["runs"])
    assert (first / "files" / "weights.npz").is_file() and (second / "printed.txt").is_file()
    assert not (first.parent / "work").exists()


def test_another_seed_gives_another_result(capsys: pytest.CaptureFixture[str]) -> None:
    one = answer(capsys, "--vary", "none", code=WEIGHTS)
    same = answer(capsys, "--vary", "none")
    other = answer(capsys, "--vary", "none", "--seed", "5")
    assert one["digest"] == same["digest"] != other["digest"]


def test_the_seed_of_the_script_counts(capsys: pytest.CaptureFixture[str]) -> None:
    """The process is seeded before the script begins, so the script's own seed comes later."""
    code = WEIGHTS.replace("np.savez", "np.random.seed(3)\nnp.savez")
    verify("--vary", "none", code=code)
    (first,) = Path(".repro").glob("*/1/printed.txt")
    generator = np.random.RandomState(3)
    generator.normal(size=4)
    assert first.read_text(encoding="utf-8") == f"loss {generator.rand()}\n"


def test_what_is_not_seeded_is_red_and_no_variation_is_blamed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = "import numpy as np\nprint(np.random.default_rng().normal())\n"
    found = answer(capsys, code=code, status=1)
    assert found["printed"]["number"] == 1
    assert found["cause"]["variation"] == [] and "random" in found["cause"]["means"]


def test_a_script_that_asks_the_clock_is_red_and_the_clock_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = answer(capsys, "--vary", "clock,hash-seed,umask", code=TIMED, status=1)
    assert found["cause"]["variation"] == ["clock"]
    verify("--vary", "hash-seed,umask", status=0)


def test_as_it_is_each_variation_is_tried_alone(capsys: pytest.CaptureFixture[str]) -> None:
    code = TIMED + "import os\nprint(os.environ.get('USER'))\n"
    found = answer(capsys, "--as-is", "--vary", "user,clock,umask", code=code, status=1)
    assert found["fixed"] == {}
    assert found["repeats_by_itself"] is True
    assert sorted(found["depends_on"]) == ["clock", "user"]
    assert found["does_not_depend_on"] == ["umask"]


def test_as_it_is_a_script_may_not_even_repeat(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "--as-is", code=WEIGHTS, status=1)
    assert found["repeats_by_itself"] is False and found["depends_on"] == []
    assert found["varied"] == [] and found["further"] == 1


def test_as_it_is_a_seeded_script_depends_on_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    code = "import numpy as np\nprint(np.random.RandomState(1).rand())\n"
    found = answer(capsys, "--as-is", "--vary", "clock,umask", code=code)
    assert found["verdict"] == "identical" and found["further"] == 2
    assert sorted(found["does_not_depend_on"]) == ["clock", "umask"]


def test_no_run_sees_what_another_one_or_an_earlier_day_has_written(
    capsys: pytest.CaptureFixture[str], here: Path
) -> None:
    code = """
from pathlib import Path
print(sorted(str(p) for p in Path(".").rglob("*.txt")))
Path("results").mkdir(exist_ok=True)
Path("results/new.txt").write_text("new")
Path("notes.txt").write_text("changed")
"""
    (here / "results").mkdir()
    (here / "results" / "new.txt").write_text("of yesterday", encoding="utf-8")
    (here / "notes.txt").write_text("mine", encoding="utf-8")
    found = answer(capsys, "--output", "results/*.txt", "--vary", "path", code=code)
    # `notes.txt` is the script's input too, and is told as not compared.
    assert found["compared"]["files"] == ["results/new.txt"]
    assert found["not_compared"] == ["notes.txt"]
    first = Path(found["runs"][0])
    assert (first / "printed.txt").read_text(encoding="utf-8") == "['notes.txt']\n"
    assert (here / "results" / "new.txt").read_text(encoding="utf-8") == "of yesterday"
    assert (here / "notes.txt").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    "write",
    [
        "open('data/large.dat', 'ab').write(b'x')",
        "open('data/many/0', 'w').write('x')",
        "os.remove(os.path.realpath('data/many/0'))",
        "os.rename(os.path.realpath('data/large.dat'), 'mine.bin')",
        "open(OWN + '/train.py', 'w').write('')",
    ],
)
def test_a_script_cannot_write_to_ones_own_files(
    write: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(folder, "SMALL", 100)
    monkeypatch.setattr(folder, "MANY", 3)
    (here / "data" / "many").mkdir(parents=True)
    for number in range(5):
        (here / "data" / "many" / str(number)).write_text("mine", encoding="utf-8")
    (here / "data" / "large.dat").write_bytes(b"m" * 1000)
    code = f"import os\nOWN = {str(here)!r}\nassert os.path.islink('data/large.dat')\n{write}\n"
    verify(code=code, status=4)
    assert "may not write to your own files" in capsys.readouterr().err
    assert (here / "data" / "large.dat").read_bytes() == b"m" * 1000
    assert (here / "data" / "many" / "0").read_text(encoding="utf-8") == "mine"
    assert (here / "train.py").read_text(encoding="utf-8") == code


def test_weights_are_copied_although_they_are_large(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library in C writes through a link, and no guard in Python sees it."""
    monkeypatch.setattr(folder, "SMALL", 100)
    for name in ("model.h5", "net.pt", "checkpoint.data-00000-of-00001", "images.bmp"):
        (here / name).write_bytes(b"m" * 1000)
    (here / "train.py").write_text("", encoding="utf-8")
    made = folder.copy(asked.script("train.py"), here.parent / "copy")
    assert [path.name for path in made.linked] == ["images.bmp"]
    assert not (made.root / "net.pt").is_symlink()
    assert made.written() == []


def test_the_folder_that_git_keeps_is_seen(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / ".git").mkdir()
    (here / "data.txt").write_text("7", encoding="utf-8")
    (here / "scripts").mkdir()
    monkeypatch.chdir(here / "scripts")
    code = "print(open('../data.txt').read())\nopen('out.csv', 'w').write('1')\n"
    found = answer(capsys, "--output", "out.csv", "--vary", "none", code=code)
    assert found["compared"]["files"] == ["scripts/out.csv"]


def test_a_script_that_fails_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    verify(code="print('before')\nraise ValueError('no such layer')\n", status=4)
    told = capsys.readouterr().err
    assert "the script failed with status 1" in told and "ValueError: no such layer" in told


def test_a_script_that_fails_in_other_surroundings_says_in_which(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = "import os\nassert os.environ.get('USER', '').partition('-')[0] != 'somebody'\n"
    found = answer(capsys, "--vary", "user,umask", code=code, status=4)
    assert found["verdict"] == "failed" and "AssertionError" in found["message"]
    assert found["cause"]["variation"] == ["user"]


def test_where_nothing_was_seen_nothing_is_called_identical(
    capsys: pytest.CaptureFixture[str],
) -> None:
    verify("--vary", "none", code="x = 1\n", status=3)
    told = capsys.readouterr().out
    assert told.startswith("NOTHING TO COMPARE") and "--output" in told
    assert "IDENTICAL" not in told
    verify("--vary", "none", "--no-printed", code="print(1)\n", status=3)
    found = answer(capsys, "--output", "model.keras", code="print(1)\n", status=3)
    assert found["verdict"] == "not comparable" and found["missing"] == ["model.keras"]


def test_only_the_printed_text_differs_and_that_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = "import time, numpy as np\nnp.save('w.npy', [1.0])\nprint('a')\nprint(time.time_ns())\n"
    verify("--output", "w.npy", "--vary", "clock", "--no-explain", code=code, status=1)
    assert "all that was watched is equal; the printed text differs in line 2" in (
        capsys.readouterr().out
    )
    verify("--output", "w.npy", "--vary", "clock", "--no-printed")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--output", "/tmp/model.keras"), "--output: /tmp/model.keras: expected a path"),
        (("--output", "../model.keras"), "--output: ../model.keras: expected a path"),
        (("--as-is", "--seed", "3"), "--as-is: fixes nothing"),
        (("--seed", "-1"), "--seed: expected a number"),
        (("--threads", "0"), "--threads: expected 1 or more"),
        (("--every", "0"), "--every: expected 1 or more"),
        (("--runs", "1"), "--runs: expected 2 or more"),
        (("--vary", "killed"), "--vary: killed: not possible here"),
        (("--vary", "moon"), "--vary: moon: no such variation"),
        (("--python", "no-such-python"), "--python: no-such-python: expected a Python"),
        (("--locked",), "--locked: expected without --script"),
        (("training.epochs=3",), "training.epochs=3: arguments of the script"),
    ],
)
def test_bad_input_is_one_line(
    options: tuple[str, ...], told: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verify(*options, code="print(1)\n", status=2)
    said = capsys.readouterr().err
    assert said.startswith(f"repro: {told}") and said.count("\n") == 1
    assert [path.name for path in here.iterdir()] == ["train.py"]


def test_a_script_that_is_not_there(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    verify(status=2)
    assert "train.py: no such file" in capsys.readouterr().err
    assert main(["verify", "--as-is"]) == 2
    assert "--as-is: expected with --script" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["verify", "--", "--epochs"])


def test_arguments_reach_the_script_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    code = "import sys\nprint(sys.argv[1:], __name__, sys.modules['__main__'].__file__[-8:])\n"
    verify("--vary", "none", "--", "--epochs", "2; rm -rf *", code=code)
    (first,) = Path(".repro").glob("*/1/printed.txt")
    assert first.read_text(encoding="utf-8") == ("['--epochs', '2; rm -rf *'] __main__ train.py\n")


def test_exit_with_zero_is_an_end_like_any_other(capsys: pytest.CaptureFixture[str]) -> None:
    found = answer(capsys, "--vary", "none", code="import sys\nprint(1)\nsys.exit(0)\n")
    assert found["verdict"] == "identical"
    verify("--vary", "none", code="import os\nprint(1, flush=True)\nos._exit(0)\n")
    assert "the script ended its process by itself" in capsys.readouterr().out


def test_variables_that_choose_kernels_are_fixed_and_places_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setenv("PYTHONPATH", "/mine")
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    found = settings.variables(3)
    assert (found["KERAS_BACKEND"], found["PYTHONPATH"]) == ("jax", "/mine")
    assert (found["OMP_NUM_THREADS"], found["TF_ENABLE_ONEDNN_OPTS"]) == ("3", "1")
    assert settings.variables(None)["OMP_NUM_THREADS"] == "64"


# What is compared.


def written(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def zipped(day: int, **members: bytes) -> bytes:
    held = BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name, content in members.items():
            date = (2020, 1, day, 0, 0, 0)
            archive.writestr(zipfile.ZipInfo(name.replace("__", "/"), date), content)
    return held.getvalue()


def both(here: Path, name: str, a: bytes | str, b: bytes | str) -> outputs.Differs | None:
    return outputs.compare(name, written(here / "a" / name, a), written(here / "b" / name, b))


def test_archives_are_compared_by_what_they_hold(here: Path) -> None:
    one, later, other = (zipped(d, w=b"1", v=v) for d, v in ((1, b"2"), (2, b"2"), (1, b"3")))
    assert one != later
    assert both(here, "x.npz", one, later) is None
    found = both(here, "x.npz", one, other)
    assert found is not None and (found.what, found.name, found.others) == ("content", "v", 0)


def test_a_saved_model_is_compared_without_its_date_and_its_places_in_memory(here: Path) -> None:
    def model(date: str, places: tuple[int, int], units: int = 3) -> bytes:
        meta = json.dumps({"keras_version": "3", "date_saved": date}).encode()
        layers = [{"units": units, "shared_object_id": place} for place in (*places, places[0])]
        members = {"metadata.json": meta, "config.json": json.dumps(layers).encode()}
        return zipped(1, **members)

    assert both(here, "m.keras", model("1", (4, 5)), model("2", (70, 9))) is None
    assert both(here, "m.keras", model("1", (4, 5)), model("1", (4, 4))) is not None
    found = both(here, "m.keras", model("1", (4, 5)), model("1", (4, 5), units=4))
    assert found is not None and found.name == "config.json"


def test_hdf5_is_compared_by_its_data_sets(here: Path) -> None:
    h5py = pytest.importorskip("h5py")

    def saved(value: float, compression: str | None) -> bytes:
        held = BytesIO()
        with h5py.File(held, "w") as file:
            file.create_dataset("a/b", data=np.full(50, value), compression=compression)
        return held.getvalue()

    assert both(here, "m.weights.h5", saved(1, None), saved(1, "gzip")) is None
    found = both(here, "m.weights.h5", saved(1, None), saved(2, None))
    assert found is not None and found.name == "tensor a/b"


def test_safetensors_are_compared_by_tensor(here: Path) -> None:
    def saved(order: list[str], **values: float) -> bytes:
        header, data = {}, b""
        for name in order:
            raw = np.float32(values[name]).tobytes()
            place = [len(data), len(data) + 4]
            header[name] = {"dtype": "F32", "shape": [], "data_offsets": place}
            data += raw
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data

    one = saved(["a", "b"], a=1, b=2)
    assert both(here, "m.safetensors", one, saved(["b", "a"], a=1, b=2)) is None
    found = both(here, "m.safetensors", one, saved(["a", "b"], a=1, b=3))
    assert found is not None and found.name == "tensor b"


def test_a_file_of_pytorch_is_compared_by_storage_and_never_unpickled(here: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (here / "exploded",)

    class Storage:
        def __init__(self, number: str) -> None:
            self.number = number

    class Pickler(pickle.Pickler):
        def persistent_id(self, one: Any) -> Any:
            return ("storage", "Float", one.number, "cpu", 4) if type(one) is Storage else None

    def saved(root: str, last: bytes) -> bytes:
        held = BytesIO()
        state = {"fc.weight": (Storage("0"), 1), "fc.bias": (Storage("1"), 2), "bomb": Bomb()}
        Pickler(held, protocol=2).dump(state)
        members = {"data.pkl": held.getvalue(), "data__0": b"0000", "data__1": last}
        return zipped(1, **{f"{root}__{name}": content for name, content in members.items()})

    assert both(here, "net.pt", saved("one", b"1111"), saved("two", b"1111")) is None
    found = both(here, "net.pt", saved("one", b"1111"), saved("one", b"1112"))
    assert found is not None and found.name == "tensor fc.bias"
    assert not (here / "exploded").exists()


@pytest.mark.parametrize(
    ("name", "a", "b", "what", "place"),
    [
        ("h.csv", "a,b\n1,2\n", "a,b\n1,3\n", "line", "2"),
        ("h.csv", "a\n", "a\nb\n", "line", "2"),
        ("h.csv", "a\n", "a", "byte", "1"),
        ("h.json", '{"a": 1}', '{"a":1}', "line", "1"),
        ("h.bin", b"\xff\x00\x01", b"\xff\x00\x02", "byte", "2"),
        ("cut.npz", b"PK\x03\x04x", b"PK\x03\x04y", "line", "1"),
    ],
)
def test_other_files_are_compared_byte_by_byte(
    here: Path, name: str, a: Any, b: Any, what: str, place: str
) -> None:
    found = both(here, name, a, b)
    assert found is not None and (found.what, found.name) == (what, place)
    assert both(here, name, a, a) is None


def test_an_output_that_one_run_alone_has_written(here: Path) -> None:
    one = written(here / "a" / "x", "1")
    found = outputs.compare("x", one, here / "b" / "x")
    assert found is not None and found.what == "written"
    assert found.lines() == ["output     x: only the first run has written it"]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("6/6 - 0s 12ms/step - loss: 0.5", "6/6 - 1s 130ms/step - loss: 0.5"),
        ("took 3.2 seconds", "took 13 seconds"),
        ("100%|##| 5/5 [00:03<00:00, 31.2it/s]", "100%|##| 5/5 [00:11<00:00, 4.1it/s]"),
        ("\x1b[1m1/6\x1b[0m\x08\x08\x08\x1b[1m6/6\x1b[0m", "2/6\x08\x08\x086/6"),
        ("1%\r50%\r100%", "3%\r100%"),
        ("saved to /x/work/model", "saved to /y/elsewhere-1/model"),
    ],
)
def test_what_only_tells_times_and_places_is_no_difference(here: Path, a: str, b: str) -> None:
    one = printed.lines(written(here / "a" / "p", a), Path("/x/work"))
    other = printed.lines(written(here / "b" / "p", b), Path("/y/elsewhere-1"))
    assert printed.first_difference(one, other) is None


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("loss: 0.5", "loss: 0.6"),
        ("3 samples", "4 samples"),
        ("layer2s 5", "layer3s 5"),
        ("2026-01-01 10:00:00", "2027-01-01 10:00:00"),
        ("step 12", "step 13"),
        ("a\nb", "a"),
    ],
)
def test_all_else_that_is_printed_counts(here: Path, a: str, b: str) -> None:
    one, other = (printed.lines(written(here / "p", text), Path("/x")) for text in (a, b))
    found = printed.first_difference(one, other)
    assert found is not None and found.number == 1 + ("\n" in a)


# What is watched.


def test_the_first_steps_and_each_nth_are_looked_at(here: Path) -> None:
    recorder = Recorder(here, every=10)
    due = [step for step in range(1, 31) if recorder.due(step)]
    assert due == [*range(1, FIRST + 1), 10, 20, 30]


def test_what_is_watched_is_looked_at_before_and_at_the_end(here: Path) -> None:
    class Model:
        weight = 1

    model, recorder = Model(), Recorder(here, every=10)
    recorder.begin("loop", model, lambda: {"weights": {"w": model.weight}})
    assert recorder.begun("loop", model) and not recorder.begun("loop", Model())
    model.weight = 2
    assert [recorder.count("loop", model) for _ in range(2)] == [1, 2]
    recorder.close()
    entries = [*ledger.read(here / "ledger.jsonl")]
    assert [(entry.stage, entry.field("weights")) for entry in entries] == [
        ("initial", {"w": 1}),
        ("final", {"w": 2}),
    ]
    assert {"python", "numpy"} <= entries[0].field("generators").keys()


def test_as_it_is_generators_that_nobody_seeds_do_not_count(here: Path) -> None:
    recorder = Recorder(here, every=10, generators=False)
    recorder.enter("loop", "step", {"weights": {"w": 1}}, 0, 1)
    (entry,) = ledger.read(here / "ledger.jsonl")
    assert entry.field("generators") == {}


def test_generators_are_read_and_do_not_draw(here: Path) -> None:
    recorder = Recorder(here, every=1)
    before = np.random.get_state()[1].copy()  # type: ignore[index]
    assert recorder.generators() == recorder.generators()
    assert (np.random.get_state()[1] == before).all()  # type: ignore[index]
    was = recorder.generators()["numpy"]
    np.random.rand()
    assert recorder.generators()["numpy"] != was


def test_what_cannot_be_watched_is_told_and_disturbs_nothing(here: Path) -> None:
    recorder = Recorder(here, every=1)
    with recorder.safely("a layer"):
        raise ValueError("no\nvalue")
    assert recorder.seen.unwatched == ["a layer: no value"]


def test_metrics_become_numbers() -> None:
    found = numbers({"loss": np.float32(0.5), "curve": np.arange(3.0), "text": "x"})
    assert found["loss"] == 0.5 and len(str(found["curve"])) == 64 and "text" not in found


def test_a_library_is_acted_on_once_it_is_imported(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "some_library.py").write_text("value = 1\n", encoding="utf-8")
    monkeypatch.syspath_prepend(here)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    seen: list[int] = []
    After({"some_library": lambda module: seen.append(module.value)}).install()
    __import__("some_library")
    __import__("some_library")
    assert seen == [1]
    sys.modules.pop("some_library")


def test_a_process_that_was_ended_has_said_nothing(here: Path) -> None:
    assert Seen.read(here) == Seen() and not Seen.read(here).ended


def test_dependence_in_words() -> None:
    told = Depends(["clock"], ["umask"], by_itself=False).lines()
    assert told[0].startswith("depends on clock: date and time of day")
    assert told[-1] == "not on     umask"
    assert "params.yaml" not in "".join(Depends(["user"], [], by_itself=False).lines())


SECONDS = """
import time
import numpy as np
time.sleep(1.1)
np.random.seed(int(time.time()))
print("loss", np.random.rand())
"""


def test_a_seed_from_the_second_is_named_although_it_differs_in_each_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing has to be varied for it to differ, so the clock is held still instead."""
    found = answer(capsys, "--vary", "umask", code=SECONDS, status=1)
    assert found["cause"]["variation"] == ["clock"] and found["cause"]["sure"] is True
    found = answer(capsys, "--as-is", "--vary", "umask", status=1)
    assert found["depends_on"] == ["clock"] and found["repeats_by_itself"] is False


def test_a_fault_by_chance_is_not_blamed_on_what_is_held_still(
    capsys: pytest.CaptureFixture[str], here: Path
) -> None:
    """It stays away while the clock is held still, and once more where it is not."""
    count = here.parent / "count"
    count.write_text("", encoding="utf-8")
    code = f"""
number = open({str(count)!r}, "a+")
number.seek(0)
made = len(number.read())
number.write("x")
print(made in (1, 2))
"""
    found = answer(capsys, "--vary", "umask", code=code, status=1)
    assert found["cause"]["variation"] == [] and found["cause"]["sure"] is False


def test_as_it_is_the_order_of_a_set_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    code = "print(list({str(n) for n in range(50)}))\n"
    found = answer(capsys, "--as-is", "--vary", "umask", code=code, status=1)
    assert found["depends_on"] == ["hash-seed"]
    verify("--vary", "umask")
    found = answer(capsys, "--vary", "hash-seed,umask", status=1)
    assert found["cause"]["variation"] == ["hash-seed"]


def test_ctrl_c_ends_the_script_and_leaves_no_copy(here: Path) -> None:
    code = "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)\n"
    (here / "train.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "repro", "verify", "--script", "train.py"]
    env = {**os.environ, "PYTHONPATH": str(MACHINERY.parent)}
    process = subprocess.Popen(
        command,
        env=env,
        stderr=subprocess.PIPE,
        text=True,
        # These tests may run where the signal is ignored, as in the background of a shell.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    limit = time.monotonic() + 60
    while not (said := "".join(p.read_text() for p in here.glob(".repro/*/1/printed.txt"))):
        assert time.monotonic() < limit and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    assert process.stderr is not None and "repro: interrupted" in process.stderr.read()
    with pytest.raises(ProcessLookupError):
        os.kill(int(said), 0)
    assert not [*here.glob(".repro/*/work")]
