"""Finds a generated project, its files and its machinery."""

from __future__ import annotations

import importlib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from repro.basics.errors import BadInput
from repro.basics.files import MACHINERY


@dataclass(frozen=True)
class Project:
    """A generated project: where its files are, and the name of its own package."""

    root: Path
    package: str

    @property
    def source(self) -> Path:
        return self.root / "src" / self.package

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    def module(self, name: str) -> ModuleType:
        """Imports a module of the project's own package, such as `models.dense`.

        Raises:
            BadInput: Python finds a package of the same name elsewhere.
        """
        found = importlib.import_module(f"{self.package}.{name}")
        if not Path(str(found.__file__)).resolve().is_relative_to(self.source.resolve()):
            raise BadInput(f"{found.__file__}: expected the project's own code, in {self.source}")
        return found

    def split_file(self, digest: str) -> Path:
        """Returns the file in which the split of this digest is kept, for recipes that name it."""
        return self.root / "splits" / f"{digest[:16]}.npz"

    @classmethod
    def find(cls, start: Path | None = None) -> Project:
        """Returns the project around `start` (default: the current folder).

        Raises:
            BadInput: no folder from `start` upwards holds a project.
        """
        here = (start or Path.cwd()).resolve()
        for folder in (here, *here.parents):
            file = folder / "pyproject.toml"
            if file.is_file():
                try:
                    tool = tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {})
                except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                    raise BadInput(f"{file}: not valid TOML: {error}") from None
                if "repro" in tool:
                    if not isinstance(tool["repro"].get("package"), str):
                        raise BadInput(
                            f"{file}: tool.repro.package: expected the name of the package in src/"
                        )
                    return cls(folder, tool["repro"]["package"])
        raise BadInput(f"{here}: not inside a project; go to the folder that has params.yaml")


def own_machinery(project: Project) -> str | None:
    """Returns the folder of a project's machinery if another one is running; else None.

    The environment of one project may run in the folder of another, such as a worktree or a copy.

    Raises:
        BadInput: the project has no machinery.
    """
    source = project.root / "src"
    if not (source / "repro" / "__main__.py").is_file():
        raise BadInput(f"{source / 'repro'}: the machinery of this project is not there")
    return None if (source / "repro").resolve() == MACHINERY else str(source)
