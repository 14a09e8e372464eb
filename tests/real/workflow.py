"""Runs a job of a GitHub or GitLab workflow as its runner would, in the runner's shell.

The actions that the workflows use are done by hand, as far as a machine without GitHub can; so is
what GitLab does with artefacts.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml


@dataclass
class Job:
    """What became of a job."""

    workspace: Path
    summary: str = ""
    log: str = ""
    failed: list[str] = field(default_factory=list)
    """The steps that failed, by name or by what they ran."""


@dataclass(frozen=True)
class Runner:
    """A place where jobs run; artefacts go from one to the next."""

    folder: Path
    repository: Path
    path: str = os.environ["PATH"]
    base: str = "0" * 40
    """The commit before the change; of zeros where the branch was not there, as forges say it."""

    def run(self, workflow: str, name: str) -> Job:
        """Runs a job of `.github/workflows/<workflow>.yml` in a fresh clone."""
        place, job = self._begin()
        file = self.repository / ".github" / "workflows" / f"{workflow}.yml"
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        files = {n: place / n.lower() for n in ("GITHUB_PATH", "GITHUB_STEP_SUMMARY")}
        outputs: dict[str, str] = {}
        temporary = place / "temporary"
        temporary.mkdir()
        for one in files.values():
            one.touch()
        for step in content["jobs"][name]["steps"]:
            if job.failed and step.get("if") != "${{ !cancelled() }}":
                continue
            if "uses" in step:
                outputs |= self._act(step, job, temporary)
                continue
            added = files["GITHUB_PATH"].read_text().splitlines()
            env = {key: self._value(text, outputs) for key, text in step.get("env", {}).items()}
            env |= {n: str(p) for n, p in files.items()} | {
                "RUNNER_TEMP": str(temporary),
                "GITHUB_SERVER_URL": self.folder.as_uri(),
                "GITHUB_REPOSITORY": "origin.git",
            }
            self._step(job, step["run"], step.get("name"), added, env)
        job.summary = files["GITHUB_STEP_SUMMARY"].read_text(encoding="utf-8")
        return job

    def run_gitlab(self, name: str) -> Job:
        """Runs a job of `.gitlab-ci.yml` in a fresh clone: one script, with what it needs."""
        _, job = self._begin()
        file = self.repository / ".gitlab-ci.yml"
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        self._clone(job)
        described, kept = content[name], self.folder / "artefacts"
        for needed in described.get("needs", ()):
            shutil.copytree(kept / needed, job.workspace, dirs_exist_ok=True)
        lines = [*content["default"]["before_script"], *described["script"]]
        variables = {"CI_PROJECT_DIR": str(job.workspace), "CI_COMMIT_BEFORE_SHA": self.base}
        for variable, text in content["variables"].items():
            variables[variable] = text.replace("$CI_PROJECT_DIR", str(job.workspace))
        self._step(job, "\n".join(["set -o pipefail", *lines]), name, (), variables)
        for path in described.get("artifacts", {}).get("paths", ()):
            shutil.copytree(job.workspace / path, kept / name / path)
        return job

    def _begin(self) -> tuple[Path, Job]:
        number = len(list(self.folder.glob("job-*")))
        place = self.folder / f"job-{number}"
        place.mkdir(parents=True)
        return place, Job(place / "workspace")

    def _clone(self, job: Job) -> None:
        command = ["git", "clone", "--quiet", str(self.repository), str(job.workspace)]
        subprocess.run(command, check=True)

    def _step(
        self, job: Job, text: str, name: str | None, added: Sequence[str], env: dict[str, str]
    ) -> None:
        """Runs one script, and notes what it said and whether it failed."""
        script = job.workspace.with_name("step.sh")
        script.write_text(text, encoding="utf-8")
        done = subprocess.run(
            ["bash", "-e", str(script)],
            cwd=job.workspace,
            env=self._environment(added) | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1800,
        )
        job.log += f"$ {text}\n{done.stdout}"
        if done.returncode:
            job.failed.append(name or text)

    def _environment(self, added: Sequence[str]) -> dict[str, str]:
        """The caller's, without its virtual environment; uv is named, for speed."""
        outer = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        uv = Path(sys.executable).with_name("uv")
        return outer | {
            "CI": "true",
            "UV": str(uv),
            "PYTHON": sys.executable,
            "PATH": os.pathsep.join([*reversed(added), self.path]),
        }

    def _act(self, step: dict[str, Any], job: Job, temporary: Path) -> dict[str, str]:
        action, given = step["uses"].partition("@")[0], step.get("with", {})
        artefact = self.folder / "artefacts" / str(given.get("name"))
        if action == "actions/checkout":
            self._clone(job)
        elif action == "actions/setup-python":
            pass  # The Python of the tests.
        elif action == "actions/upload-artifact":
            shutil.rmtree(artefact, ignore_errors=True)
            shutil.copytree(job.workspace / given["path"], artefact)
            return {f"{step.get('id')}.artifact-url": artefact.as_uri()}
        elif action == "actions/download-artifact":
            path = given["path"].replace("${{ runner.temp }}", str(temporary))
            shutil.copytree(artefact, job.workspace / path, symlinks=True)
        else:
            raise NotImplementedError(action)
        return {}

    def _value(self, text: str, outputs: dict[str, str]) -> str:
        """An expression's value, of the three kinds that the workflows have."""
        text = re.sub(
            r"\$\{\{ steps\.(\w+)\.outputs\.([\w-]+) \}\}",
            lambda found: outputs[f"{found[1]}.{found[2]}"],
            str(text),
        )
        text = re.sub(r"\$\{\{ [^}]*\|\| github\.event\.before \}\}", self.base, text)
        return text.replace("${{ github.token }}", "token")
