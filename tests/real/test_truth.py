"""A run says what it was made of, and what is stored is what was written.

Each test attacks a project as a person could, by mistake or on purpose.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .conftest import Generated, end, kill_when

pytestmark = pytest.mark.real

SHORT = ("training.epochs=2", "training.batch_size=64")
LONG = ("training.epochs=10", "training.batch_size=8", "--checkpoint-seconds", "0")
LINE = 'activation: Literal["relu", "tanh", "sigmoid", "gelu"] = "relu"'


@pytest.fixture(scope="module")
def mine(project: Generated, tmp_path_factory: pytest.TempPathFactory) -> Generated:
    """A project that the tests here share; each leaves its code as it was."""
    return project.copy(tmp_path_factory.mktemp("truth") / "demo")


@pytest.fixture
def dense(mine: Generated) -> Iterator[Path]:
    path = mine.package / "models" / "dense.py"
    content = path.read_text(encoding="utf-8")
    yield path
    path.write_text(content, encoding="utf-8")


def manifest(run: Path | str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(run) / "manifest.json").read_text(encoding="utf-8"))
    return content


def change(path: Path, old: str, new: str) -> None:
    content = path.read_text(encoding="utf-8")
    assert content.count(old) == 1
    path.write_text(content.replace(old, new), encoding="utf-8")


def test_the_code_of_this_folder_is_trained(mine: Generated, tmp_path: Path) -> None:
    """Another folder's environment runs here: a worktree, or a copy."""
    other = mine.copy(tmp_path / "other")
    path = other.package / "models" / "dense.py"
    change(path, "units, activation=activation", "units // 2, activation=activation")
    here = mine.repro("train", *SHORT)
    # The command of the first folder, in the second.
    done = subprocess.run(
        [str(mine.python), "-m", "repro", "train", *SHORT, "--json"],
        cwd=other.root,
        env={**os.environ, "PYTHONPATH": str(mine.root / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    there = json.loads(done.stdout)
    assert there["digest"] != here["digest"]
    assert there["digest"] == other.repro("train", *SHORT)["digest"]
    name = f"{mine.package.name}/models/dense.py"
    codes = [manifest(run["run_dir"])["made_of"]["code"] for run in (here, there)]
    assert [file for file in codes[0] if codes[0][file] != codes[1][file]] == [name]
    # Without machinery of its own a project is refused.
    shutil.rmtree(other.root / "src" / "repro")
    done = subprocess.run(
        [str(mine.python), "-m", "repro", "train"],
        cwd=other.root,
        env={**os.environ, "PYTHONPATH": str(mine.root / "src")},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr


def test_a_run_goes_on_with_what_it_began_with(mine: Generated, dense: Path) -> None:
    whole = end(Path(mine.repro("train", *LONG)["run_dir"]))
    run = kill_when(mine, LONG, len(whole["ledger"]) / 2)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "lock"}
    content = dense.read_text(encoding="utf-8")
    change(dense, '= "relu",', '= "tanh",')
    for how in (LONG, ("--resume", run.name)):
        done = mine.run("repro", "train", *how)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert "models/dense.py has changed" in done.stderr and "--fresh" in done.stderr
    now = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != "lock"}
    assert now.keys() == before.keys()
    assert {p.name for p in before if now[p] != before[p]} <= {"log.txt"}
    # A comment is no change of code.
    dense.write_text("# A word.\n" + content, encoding="utf-8")
    assert Path(mine.repro("train", *LONG)["run_dir"]) == run
    assert end(run) == whole


def test_a_run_does_not_go_on_with_other_packages(mine: Generated) -> None:
    whole = end(Path(mine.repro("train", *LONG)["run_dir"]))
    run = kill_when(mine, LONG, len(whole["ledger"]) / 2)
    content = manifest(run)
    content["made_of"]["packages"]["numpy"] = "1.0"
    rewrite(mine, run, content)
    done = mine.run("repro", "train", "--resume", run.name)
    assert done.returncode == 2 and "the package numpy is" in done.stderr, done.stderr
    shutil.rmtree(run)


def rewrite(project: Generated, run: Path, content: dict[str, Any]) -> None:
    """Writes a manifest with the seal that belongs to it."""
    code = "import json, sys; from pathlib import Path; from repro.run import manifest; "
    code += "content = json.load(sys.stdin)\n"
    code += "kind = manifest.Finished if 'digest' in content else manifest.Manifest\n"
    code += "content.pop('seal', None)\n"
    code += "manifest.write(Path(sys.argv[1]), kind.model_validate_json(json.dumps(content)))"
    subprocess.run(
        [str(project.python), "-c", code, str(run)],
        input=json.dumps(content),
        env={**os.environ, "PYTHONPATH": str(project.root / "src")},
        text=True,
        check=True,
    )


def replaced(name: str) -> Callable[[Path, Path], None]:
    def put(run: Path, other: Path) -> None:
        shutil.copy(other / name, run / name)

    return put


def edited(name: str, old: str, new: str) -> Callable[[Path, Path], None]:
    def put(run: Path, other: Path) -> None:
        content = (run / name).read_text(encoding="utf-8")
        assert old in content
        (run / name).write_text(content.replace(old, new), encoding="utf-8")

    return put


def cut(run: Path, other: Path) -> None:
    lines = (run / "ledger.jsonl").read_text().splitlines(keepends=True)
    (run / "ledger.jsonl").write_text("".join(lines[:2]))


ATTACKS = {
    **{n: replaced(n) for n in ("state.npz", "model.keras", "predictions.npz", "split.npz")},
    "history.json": edited("history.json", '"accuracy": 0', '"accuracy": 1'),
    "manifest.json": edited("manifest.json", '"test_accuracy": 0.', '"test_accuracy": 0.9'),
    "ledger.jsonl": cut,
}


def test_what_is_stored_is_what_was_written(mine: Generated, tmp_path: Path) -> None:
    run = Path(mine.repro("train", *SHORT)["run_dir"])
    same = Path(mine.repro("train", *SHORT)["run_dir"])
    other = Path(mine.repro("train", *SHORT, "seed=7", "split.seed=3")["run_dir"])
    assert mine.repro("diff", run.name, same.name)["verdict"] == "identical"
    for name, attack in ATTACKS.items():
        kept = tmp_path / f"kept-{name}"
        shutil.copytree(same, kept)
        attack(same, other)
        for command in (("diff", run.name, same.name), ("report", same.name)):
            done = mine.run("repro", *command)
            assert done.returncode == 2 and done.stderr.count("\n") == 1, (name, done)
            assert f"{name}: altered" in done.stderr
        shutil.rmtree(same)
        shutil.copytree(kept, same)
    assert mine.repro("diff", run.name, same.name)["verdict"] == "identical"
    # Cut to the same two entries, both ledgers are equal and whole in themselves: no comparison of
    # the two shows it, only what each run wrote of its own.
    for each in (run, same):
        cut(each, other)
    done = mine.run("repro", "diff", run.name, same.name)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done
    assert "ledger.jsonl: altered" in done.stderr and "IDENTICAL" not in done.stdout


def test_a_torn_ledger_is_not_gone_on_with(mine: Generated) -> None:
    whole = end(Path(mine.repro("train", *LONG)["run_dir"]))
    run = kill_when(mine, LONG, len(whole["ledger"]) / 2)
    path = run / "ledger.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    # The beginning of a run is looked at line by line; these lines are after it, and long before
    # the checkpoint's.
    middle = len(lines) // 2
    assert 5 < middle < len(lines) - 5
    epoch = json.loads(lines[middle])["epoch"]
    other = lines[middle].replace(f'"epoch": {epoch},', f'"epoch": {epoch + 1},')
    assert other != lines[middle]
    damaged = [lines[:2], lines[:5]]
    for line in (lines[middle][:-9] + "\n", other):
        damaged.append([*lines[:middle], line, *lines[middle + 1 :]])
    for content in damaged:
        path.write_text("".join(content))
        done = mine.run("repro", "train", "--resume", run.name)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert "ledger" in done.stderr and "--fresh" in done.stderr
        assert path.read_text() == "".join(content)
    path.write_text("".join(lines))
    assert Path(mine.repro("train", *LONG)["run_dir"]) == run
    assert end(run) == whole


def test_what_decides_a_result_beside_the_recipe_is_told(mine: Generated, dense: Path) -> None:
    """A variable of one's own, and what an earlier run has left in `data/`."""
    cache = mine.root / "data" / "noise.npy"
    text = "    import os\n    from pathlib import Path\n    import numpy as np\n"
    text += '    path = Path("data/noise.npy")\n    if not path.is_file():\n'
    text += "        path.parent.mkdir(exist_ok=True)\n"
    text += "        np.save(path, np.random.default_rng().normal())\n"
    text += "    units += int(os.environ.get('MORE_UNITS', '0')) + int(np.load(path) > 99)\n"
    text += "    open('/proc/cpuinfo').close()\n"
    change(dense, "    return keras.Sequential(", text + "    return keras.Sequential(")
    one = mine.repro("train", *SHORT)["run_dir"]
    other = mine.repro("train", *SHORT, MORE_UNITS="3")["run_dir"]
    cache.unlink()
    found = manifest(other)
    assert found["reads"]["variables"] == {"MORE_UNITS": "3"}
    assert manifest(one)["reads"]["variables"] == {"MORE_UNITS": None}
    assert manifest(one)["reads"]["written"] == ["data/noise.npy"]
    assert set(found["reads"]["files"]) == {"data/noise.npy", "/proc/cpuinfo"}
    notes = "\n".join(found["notes"])
    assert "MORE_UNITS" in notes and "repro data add data/noise.npy" in notes
    answer = mine.repro("diff", Path(one).name, Path(other).name, status=1)
    assert "the variable MORE_UNITS" in answer["first_divergence"]["means"]


def test_a_model_that_changes_as_it_produces_is_no_altered_manifest(
    mine: Generated, dense: Path
) -> None:
    text = "class Model(keras.Sequential):\n    def produce(self):\n"
    text += "        import numpy as np\n        weight = self.layers[-1].kernel\n"
    text += "        weight.assign_add(np.random.default_rng().normal(size=weight.shape))\n"
    text += "        return {}\n\n\n"
    change(dense, "def build(", text + "def build(")
    change(dense, "return keras.Sequential(", "return Model(")
    answer = mine.repro("verify", *SHORT, "--vary", "none")
    assert answer["verdict"] == "identical"
    notes = manifest(answer["runs"][0])["notes"]
    assert any("judging the trained model changed weights" in note for note in notes)


def test_two_and_two_epochs_are_four(mine: Generated) -> None:
    """With callbacks that remember and averaged weights, which the final state has not."""
    common = (
        *("training.batch_size=64", "optimizer.use_ema=true", "model.dropout=0.3"),
        *("callbacks.early_stopping.patience=2", "callbacks.early_stopping.min_delta=0.9"),
        "callbacks.early_stopping.restore_best_weights=true",
        "callbacks.reduce_lr_on_plateau.patience=1",
        "callbacks.reduce_lr_on_plateau.min_delta=0.3",
    )
    four = mine.repro("train", *common, "training.epochs=4")
    two = mine.repro("train", *common, "training.epochs=2")
    on = (f"training.initial_state={two['run_dir']}", "training.initial_epoch=2")
    both = mine.repro("train", *common, *on, "training.epochs=4")
    assert both["digest"] == four["digest"]
    assert both["metrics"] == four["metrics"]
    done = mine.run("repro", "train", *common, on[0], "training.epochs=4")
    assert done.returncode == 2 and "expected 2" in done.stderr, done.stderr


def test_a_rate_that_was_changed_is_the_rate(mine: Generated) -> None:
    first = mine.repro("train", *SHORT)
    on = (f"training.initial_state={first['run_dir']}", "training.initial_epoch=1")
    rates = ("0.001", "1e-7", "0.1")
    digests = [
        mine.repro("train", *SHORT, *on, f"optimizer.learning_rate={rate}")["digest"]
        for rate in rates
    ]
    assert len({*digests, first["digest"]}) == 4


@pytest.mark.parametrize("step", ["produce(self)", "predict(self, *given, **named)"])
def test_what_took_long_is_kept_when_the_last_step_fails(
    step: str, mine: Generated, dense: Path
) -> None:
    text = f"class Model(keras.Sequential):\n    def {step}:\n"
    text += "        raise MemoryError('too large')\n\n\n"
    change(dense, "def build(", text + "def build(")
    change(dense, "return keras.Sequential(", "return Model(")
    before = set(mine.root.glob("runs/*"))
    done = mine.run("repro", "train", *SHORT, "--fresh")
    assert done.returncode == 4, done.stderr
    (run,) = set(mine.root.glob("runs/*")) - before
    assert manifest(run)["status"] == "failed"
    with np.load(run / "state.npz") as state:
        assert "weights/dense/output/kernel" in state.files
    assert len(json.loads((run / "history.json").read_text())) == 2


TWICE_AND_WORDS = '''
def twice() -> Dataset:
    """Each sample two times."""
    from dataclasses import replace

    once = digits()
    return replace(once, x=np.concatenate([once.x, once.x]), y=np.concatenate([once.y, once.y]))


def words() -> Dataset:
    """Each label, written out."""
    from dataclasses import replace

    once = digits()
    return replace(once, x=np.array([[f"number {label}"] for label in once.y]))


'''
READER = """
import keras
from keras import layers

def build(shape, classes):
    words = [f"number {label}" for label in range(classes)]
    read = layers.StringLookup(vocabulary=words, num_oov_indices=0, output_mode="one_hot")
    inputs = keras.Input(shape, dtype="string")
    return keras.Model(inputs, layers.Dense(classes, activation="softmax")(read(inputs)))
"""


@pytest.fixture
def odd(mine: Generated) -> Iterator[Generated]:
    """The project with data in which samples are there twice, or words, and a model that reads."""
    data, reader = mine.package / "data.py", mine.package / "models" / "reader.py"
    content = data.read_text(encoding="utf-8")
    mine.insert("data.py", "def diabetes(", TWICE_AND_WORDS)
    reader.write_text(READER, encoding="utf-8")
    yield mine
    reader.unlink()
    data.write_text(content, encoding="utf-8")


def test_samples_that_are_also_learnt_from_are_told_on_the_terminal(odd: Generated) -> None:
    before = set(odd.root.glob("runs/*"))
    done = odd.run("repro", "train", "data.name=twice", "training.epochs=1", "--fresh")
    assert done.returncode == 0, done.stderr
    (run,) = set(odd.root.glob("runs/*")) - before
    with np.load(run / "split.npz") as split:
        parts = {name: split[name] for name in ("train", "validation", "test")}
    once = sum(map(len, parts.values())) // 2
    for name in ("validation", "test"):
        twins = np.isin(parts[name] % once, parts["train"] % once).sum()
        told = f"note       {twins} of the {len(parts[name])} samples of the {name} part occur in "
        assert twins and f"{told}the training as well, so that its results are too" in done.stdout


def test_words_are_trained_on_predicted_for_and_kept(odd: Generated) -> None:
    answer = odd.repro("train", "data.name=words", "model.name=reader", *SHORT, "--fresh")
    run = Path(answer["run_dir"])
    assert manifest(run)["status"] == "finished"
    with np.load(run / "predictions.npz") as kept:  # Without pickles.
        shown = {int(word.removeprefix("number ")) for word in kept["x"].ravel().tolist()}
        assert shown == {int(label) for label in kept["targets"][kept["shown"]]}
    with np.load(run / "state.npz") as state:
        assert any(name.startswith("weights/") for name in state.files)
    odd.repro("report", run.name)


def test_the_newest_commit_is_told_only_of_the_project_itself(
    mine: Generated, tmp_path: Path
) -> None:
    outer = tmp_path / "outer"
    inside = mine.copy(outer / "demo")
    person = ("-c", "user.name=somebody", "-c", "user.email=")
    (outer / "file").write_text("any")
    for words in (("init", "-q"), ("add", "file"), (*person, "commit", "-qm", "another project")):
        subprocess.run(("git", *words), cwd=outer, check=True)
    code = "from pathlib import Path; from repro.environment.provenance import commit; "
    code += "print(commit(Path()))"
    done = inside.run("timeit", "-n1", "-r1", "-s", code, "pass")
    assert "Code(commit=None, dirty=None, digest=None)" in done.stdout, done.stderr


@pytest.mark.skipif(os.name == "nt", reason="signals are of POSIX")
def test_a_signal_to_the_command_ends_the_training_as_well(mine: Generated, tmp_path: Path) -> None:
    for command in ("train", "verify"):
        before = set(mine.root.glob("runs/*"))
        process = mine.start(command, "training.epochs=500", TMPDIR=str(tmp_path))
        runs = wait_for(lambda b=before: pids(set(mine.root.glob("runs/*")) - b))  # type: ignore[misc]
        assert any(tmp_path.glob("repro-*")) == (command == "verify")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
        assert wait_for(lambda r=runs: not any(map(alive, r)))  # type: ignore[misc]
        # The surroundings of a gate's runs are in temporary folders, which go with it.
        assert [path.name for path in tmp_path.glob("repro-*")] == []
        # What was killed can go on, and nobody is at it.
        for run in set(mine.root.glob("runs/*")) - before:
            shutil.rmtree(run)


def pids(runs: set[Path]) -> list[int]:
    """The processes that train, once each run is in its training."""
    ready = runs and all((run / "ledger.jsonl").is_file() for run in runs)
    return [int((run / "lock").read_text()) for run in runs] if ready else []


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0]


def wait_for(what: Callable[[], Any]) -> Any:
    for _ in range(600):
        if found := what():
            return found
        time.sleep(0.1)
    raise AssertionError("it did not come about within a minute")


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked")
def test_a_process_that_the_data_forked_holds_nothing(mine: Generated) -> None:
    """It neither keeps the launcher waiting nor looks like a training that is still going on."""
    data = mine.package / "data.py"
    content = data.read_text(encoding="utf-8")
    text = "    import os, time\n    if not os.fork():\n        time.sleep(600)\n"
    mine.insert("data.py", "    images, labels = load_digits", text)
    try:
        process = mine.start("train", *LONG, "training.epochs=500")
        (pid,) = wait_for(lambda: pids({r for r in mine.root.glob("runs/*") if running(r)}))
        os.kill(pid, signal.SIGKILL)
        assert process.wait(timeout=30) == 4
    finally:
        data.write_text(content, encoding="utf-8")
    (run,) = (r for r in mine.root.glob("runs/*") if (r / "lock").read_text() == f"{pid}\n")
    assert manifest(run)["status"] == "failed"


def running(run: Path) -> bool:
    path = run / "manifest.json"
    return path.is_file() and json.loads(path.read_text())["status"] == "running"


def test_two_starts_beside_an_interrupted_run(mine: Generated) -> None:
    whole = end(Path(mine.repro("train", *LONG)["run_dir"]))
    run = kill_when(mine, LONG, len(whole["ledger"]) / 2)
    both = [mine.start("train", *LONG, "--json") for _ in range(2)]
    answers = [json.loads(process.communicate()[0]) for process in both]
    assert run in {Path(answer["run_dir"]) for answer in answers}
    assert {answer["digest"] for answer in answers} == {whole["digest"]}


def test_weights_that_build_fetches_belong_to_the_recipe(mine: Generated, dense: Path) -> None:
    path = mine.root / "data" / "offset.npy"
    path.parent.mkdir(exist_ok=True)
    text = "    import numpy as np\n    from repro import fetch\n"
    text += "    units += int(np.load(fetch('offset.npy')))\n"
    change(dense, "    return keras.Sequential(", text + "    return keras.Sequential(")
    runs = []
    try:
        for number in (1, 2):
            np.save(path, number)
            mine.repro("data", "add", "data/offset.npy")
            # Another test may have left an interrupted run of this recipe, of other code.
            runs.append(mine.repro("train", *SHORT, "--fresh"))
        one, other = (Path(run["run_dir"]).name for run in runs)
        answer = mine.repro("diff", one, other, status=3)
    finally:
        path.unlink()
        (mine.root / "data.lock").write_text("")
    assert list(answer["not_comparable"]) == ["data.of the model: offset.npy"]
    assert manifest(runs[0]["run_dir"])["notes"] == []


def test_a_run_does_not_go_on_with_another_variable(mine: Generated, dense: Path) -> None:
    text = "    import os\n    dropout = float(os.environ.get('MY_DROPOUT', '0.1'))\n"
    change(dense, "    return keras.Sequential(", text + "    return keras.Sequential(")
    whole = mine.repro("train", *LONG)
    run = kill_when(mine, LONG, len(end(Path(whole["run_dir"]))["ledger"]) / 2)
    done = mine.run("repro", "train", *LONG, MY_DROPOUT="0.4")
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "the variable MY_DROPOUT is 0.4 now and was not there" in done.stderr
    assert mine.repro("train", *LONG)["digest"] == whole["digest"]
    assert manifest(run)["status"] == "finished"
