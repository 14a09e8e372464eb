"""Lists the presets of a project, and says in a line what each one is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml.error import YAMLError

from repro.basics import files
from repro.basics.text import said_by
from repro.recipe import literals
from repro.recipe.project import Project


@dataclass(frozen=True)
class Preset:
    """A file in `presets/`, which `preset=name` puts over `params.yaml`."""

    name: str
    about: str
    """Its first comment; without one, the parameters that it sets."""
    values: dict[str, Any]
    """The values that it sets, by the dotted name of the parameter."""
    problem: str = ""
    """Why it cannot be used; empty if it can."""

    def as_json(self) -> dict[str, Any]:
        """Returns the preset as `--json` prints it."""
        content = asdict(self)
        if not self.problem:
            del content["problem"]
        return content


def read(project: Project) -> list[Preset]:
    """Returns the presets of a project, by their names in order."""
    return [_preset(path) for path in sorted((project.root / "presets").glob("*.yaml"))]


def _preset(path: Path) -> Preset:
    try:
        text = path.read_text(encoding="utf-8")
        content = literals.read(text)
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        said = said_by(error) if isinstance(error, OSError) else "not valid YAML in UTF-8"
        return Preset(path.stem, said, {}, said)
    if not isinstance(content, dict | None):
        problem = "expected groups such as `training:`"
        return Preset(path.stem, problem, {}, problem)
    values = {name: value for name, value in files.flat(content or {}).items() if value != {}}
    return Preset(path.stem, _comment(text) or f"sets {', '.join(values) or 'nothing'}", values)


def _comment(text: str) -> str:
    """The first comment of a file up to its first empty line, as one line."""
    words: list[str] = []
    for line in text.splitlines():
        said = line.strip()
        if not said.startswith("#") or not said.strip("# "):
            if words or (said and not said.startswith("#")):
                break
            continue
        words.append(said.strip("# "))
    return " ".join(words)
