"""Why runs differ: looked for once the verdict has been told, which stands whatever comes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import RunEnded, compare, gate
from .launcher import Listener
from .recipe import Project


def add(
    project: Project,
    answer: dict[str, Any],
    listener: Listener,
    tell: Callable[[str], None],
    variation: bool = True,
    tensor: bool = True,
) -> list[str]:
    """Adds to an answer the `cause`, a variation, and the `explanation`, the first tensor.

    Args:
        answer: of `gate.verify`; or of `compare.compare`, which knows of no variations.
        tell: called with a line on what is done.
        variation: whether to look for the variation; in an answer of `gate.verify` alone.
        tensor: whether to look for the tensor; not where a run failed.

    Returns:
        The same for a person. What could not be found is in `unexplained`, a line each.
    """
    answer["unexplained"] = []

    def attempt(what: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # Whatever it is, the verdict is not lost for it.
            answer["unexplained"].append(f"{what} was not found: {_reason(error)}")

    if variation:
        attempt("the variation", lambda: gate.find_cause(project, answer, listener, tell))
    if tensor:
        attempt("the tensor", lambda: _find_tensor(project, answer, listener, tell))
    return lines(answer)


def lines(answer: dict[str, Any]) -> list[str]:
    """What `add` found, for a person."""
    text = gate.cause_lines(answer)
    if answer.get("explanation"):
        text.append(compare.describe_tensor(answer["explanation"]))
    return text + [f"           {line}" for line in answer.get("unexplained", [])]


def _find_tensor(
    project: Project, answer: dict[str, Any], listener: Listener, tell: Callable[[str], None]
) -> None:
    one, other = (Path(run) for run in answer.get("compared", answer["runs"]))
    found = answer["first_divergence"]
    if compare.can_be_explained(found):
        tell("the runs differ; running the steps again to see where")
        answer["explanation"] = compare.explain(project, one, other, found, listener)


def _reason(error: Exception) -> str:
    """One line on an error; the log of a run made to look is gone, its last line says most."""
    if isinstance(error, RunEnded):
        return error.what
    said = str(error).strip().splitlines()
    return said[-1] if said else type(error).__name__
