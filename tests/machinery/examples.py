"""Records that tests start from: parameters, a recipe, and manifests as runs write them."""

from __future__ import annotations

from typing import Any

from repro.environment.determinism import Promise
from repro.environment.machine import Machine
from repro.environment.provenance import Code
from repro.recipe.parameters import Adam, Own, Parameters
from repro.recipe.recipe import Lock, Recipe
from repro.run.manifest import Finished, Manifest

DIGEST = "0" * 64


def parameters(**changed: Any) -> Parameters:
    """Every default, with the data `digits` and the model `dense`; and these values."""
    given = {"data": Own(name="digits"), "model": Own(name="dense"), "optimizer": Adam()}
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
