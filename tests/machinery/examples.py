"""Records that tests start from: parameters, a recipe, and manifests as runs write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from repro.compare.comparison import Verdict
from repro.compare.gate_verdict import GateVerdict
from repro.environment.determinism import Promise
from repro.environment.machine import Machine
from repro.environment.provenance import Code
from repro.recipe import objects, registry
from repro.recipe.parameters import Named, Optimizer, Own, Parameters
from repro.recipe.project import Project
from repro.recipe.recipe import Lock, Recipe
from repro.run.ledger import Divergence
from repro.run.manifest import Finished, Manifest
from repro.study.planning import Plan, PlannedTrial, maximised
from repro.study.results import Done

DIGEST = "0" * 64
KNOWN = registry.read(Project.find().source)


def named(kind: str, name: str, **arguments: Any) -> Named:
    """An object of Keras with all its arguments, as a recipe has it; `called` is one of them."""
    return of(KNOWN, kind, name, **arguments)


def of(known: registry.Registry, kind: str, name: str, **arguments: Any) -> Named:
    """The same of what another project may name."""
    return Named(**objects.named(known, kind, kind, {"name": name, **arguments}))


def optimizer(name: str = "Adam", **arguments: Any) -> Optimizer:
    """An optimizer with all its arguments, as a recipe has it."""
    given: dict[str, Any] = {"optimizer": {"name": name, **arguments}}
    objects.spelled_out(KNOWN, given)
    return Optimizer(**given["optimizer"])


def parameters(**changed: Any) -> Parameters:
    """Every default, with the data `digits` and the model `dense`; and these values."""
    given = {"data": Own(name="digits"), "model": Own(name="dense"), "optimizer": optimizer()}
    return Parameters(**given | changed)


def recipe(**changed: Any) -> Recipe:
    """A recipe with these parameters changed."""
    lock = Lock(file="requirements/cpu.txt", sha256=DIGEST, departures={})
    return Recipe(parameters=parameters(**changed), lock=lock)


def begun(run: str = "20260101-000000-digits-dense-0123ab", **changed: Any) -> Manifest:
    """The manifest of a run that has begun."""
    return Manifest(
        run=run,
        recipe=recipe(),
        project={"package": "any"},
        seed=1234,
        started="2026-01-01T00:00:00+00:00",
        code=Code(None, None),
        interpreter="python",
        environment={},
    ).but(**changed)


def machine(cpu: str = "Zen") -> Machine:
    return Machine(cpu, [], 2, 2, "x86_64", "Linux", None)


def finished(run: str = "20260101-000000-digits-dense-0123ab", **changed: Any) -> Finished:
    """The manifest of a run that has finished."""
    before = dict(begun(run, status="finished", recipe=recipe().reading({})))
    return Finished(
        **before,
        recipe_digest=DIGEST,
        split={"digest": DIGEST, "sizes": {}, "repeated": {}},
        guarantee=Promise("machine", "machine", []),
        in_effect={},
        digest=DIGEST,
        ending=DIGEST,
        transferred=[],
        predictions={},
        produced={},
        metrics={},
        ledger_head=DIGEST,
        notes=[],
        seconds={},
        versions={},
        machine=machine(),
        files={},
        duration_seconds=1.0,
        peak_memory_bytes=None,
    ).but(**changed)


def gated(verdict: str = "identical", broken: tuple[str, ...] = ()) -> GateVerdict:
    """What a gate of two runs says."""
    runs, digests = (Path("one"), Path("a\nb")), (DIGEST, DIGEST)
    found = Verdict(runs, digests, "identical")
    if verdict == "diverged":
        place = Divergence("step", 1, 1, "order", "indices", "1", "2", ["indices"], "another order")
        found = Verdict(runs, digests, "diverged", place)
    holds = Promise("portable", "machine" if broken else "portable", list(broken))
    return GateVerdict(found, runs, digests, finished(guarantee=holds), [], {}, 0, 1)


def plan(rows: int, repetitions: int, monitor: str = "val_loss", **changed: Any) -> Plan:
    """A sweep over batch sizes, each configuration repeated with several seeds."""
    given: dict[str, Any] = {
        "kind": "sweep",
        "digest": "abcdef",
        "monitor": monitor,
        "larger_is_better": maximised(monitor),
        "fixed": [],
        "configurations": [{"training.batch_size": 2**n} for n in range(rows)],
        "code": Code(None, None, "code"),
        "trials": [
            PlannedTrial(
                trial=c * repetitions + r,
                configuration=c,
                repetition={"seed": r},
                overrides=[],
                recipe_digest=f"{c}-{r}",
            )
            for c in range(rows)
            for r in range(repetitions)
        ],
    }
    return Plan(**given | changed)


def done(trial: int, value: float, **changed: Any) -> Done:
    """A trial that is done, with this loss."""
    given: dict[str, Any] = {
        "trial": trial,
        "worker": "here",
        "run": f"run-{trial}",
        "digest": f"{trial}",
        "metrics": {"loss": 0.0, "val_loss": value, "val_accuracy": 1 - value},
        "guarantee": Promise("machine", "machine", []),
        "notes": [],
        "recipe_digest": DIGEST,
        "duration_seconds": 1.0,
    }
    return Done(**given | changed)
