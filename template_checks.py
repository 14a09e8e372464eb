"""Checks the answers, and ends the generation with one line where one will not do.

`cookiecutter.json` gives each question a private variable, `__name`: the checked answer, or what
follows from it. Those are derived as the questions are asked and, since a replay file or an older
`.cruft.json` can bring any value, once more before the folder is made.
"""

from __future__ import annotations

import functools
import hashlib
import json
import keyword
import re
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

from jinja2 import Environment
from jinja2.ext import Extension
from slugify import slugify

TEMPLATE = Path(__file__).resolve().parent
FOLDER = "{{cookiecutter.project_slug}}"
QUESTIONS: dict[str, Any] = json.loads((TEMPLATE / "cookiecutter.json").read_text("utf-8"))

NAME_LENGTH, SLUG_LENGTH = 80, 50
PUNCTUATION = " -_.,+()"
STARTERS = (
    "dense",
    "lenet5",
    "residual",
    "lstm",
    "autoencoder",
    "vae",
    "gan",
    "transformer",
    "gpt",
    "simclr",
    "dqn",
)
"""The models that a project can start with; `dense`, which params.yaml names, always does."""
JOINERS = "\u200c\u200d"  # Invisible, but Persian, Indic scripts and emoji are written with them.

TAKEN = {
    "a word of Python": {word.lower() for word in (*keyword.kwlist, *keyword.softkwlist)},
    "a module of Python": {name.lower() for name in sys.stdlib_module_names},
    "a package that the project uses": {
        re.sub("[-.]", "_", name.lower())
        for lock in (TEMPLATE / FOLDER / "requirements").glob("*.txt*")  # also in a condition
        for name in re.findall(r"^([\w.-]+)==", lock.read_text("utf-8"), re.MULTILINE)
    }
    # Their modules under other names, and what Keras imports where it is there.
    | {"absl", "clang", "google", "grain", "grpc", "jax", "jaxlib", "markdown_it", "nvidia"}
    | {"orbax", "pandas", "pasta", "pil", "pkg_resources", "py", "ruamel", "sklearn", "torch"}
    | {"torchvision", "yaml"},
    "a name that the project has already": {"conftest", "repro", "src", "test", "tests"},
    "no name for a folder on Windows": {"con", "prn", "aux", "nul"}
    | {f"{port}{number}" for port in ("com", "lpt") for number in range(10)},
}


class BadAnswer(SystemExit):
    """Prints one line and ends with status 1, under every program that generates projects.

    `click.ClickException` would not: current versions of cruft print a traceback for it.
    """

    def __init__(self, question: str, answer: object, wrong: str, usable: str) -> None:
        given = str(answer)[:NAME_LENGTH]
        super().__init__(f"Error: {question} {given!r} {wrong}; {usable} would do")


def checked_name(answer: object, question: str, also: str = "") -> str:
    """Returns the name of a project or a person: any script, but the syntax of no language."""
    text = str(answer or "")
    kept = "".join(c if _fits(c, PUNCTUATION + also) else " " for c in text)
    usable = re.sub(" +", " ", kept).strip()[:NAME_LENGTH].strip()
    if not any(c.isalnum() for c in usable):
        usable = QUESTIONS[question]
    if text == usable:
        return text
    if not text.strip():
        wrong = "is empty"
    elif kept != text:
        wrong = "contains " + repr(next(c for c, k in zip(text, kept, strict=True) if c != k))
    elif len(text) > NAME_LENGTH:
        wrong = f"has more than {NAME_LENGTH} characters"
    else:
        wrong = "has no letter, or more spaces than it needs"
    raise BadAnswer(question, text, wrong, repr(usable))


def checked_package(answer: object) -> str:
    """Returns the name of the package, for a slug that suits the folder and the project too."""
    slug = str(answer or "")
    if len(slug) > SLUG_LENGTH or not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", slug):
        wrong = f"is not a letter of a-z, then a-z, 0-9, single hyphens, {SLUG_LENGTH} at most"
    elif taken := _taken(slug):
        wrong = f"is {taken}"
    else:
        return slug.replace("-", "_")
    raise BadAnswer("project_slug", slug, wrong, repr(usable_slug(slug)))


def usable_slug(text: str) -> str:
    """Returns the text as a slug that is not refused."""
    slug = slugify(text, max_length=SLUG_LENGTH - len("-project"), word_boundary=True)
    if not slug[:1].isalpha():
        slug = f"project-{slug}".strip("-")
    return f"{slug}-project" if _taken(slug) else slug


def one_of(answer: object, question: str, choices: list[str]) -> str:
    """Returns the choice that the answer is, or is the beginning of."""
    # Not a list in cookiecutter.json: a wrong `key=value` for one of those ends in a traceback.
    text = {"true": "yes", "false": "no"}.get(str(answer).lower(), str(answer).lower())
    found = [choice for choice in choices if text and choice.lower().startswith(text)]
    if len(found) == 1:
        return found[0]
    raise BadAnswer(question, answer, "is not a choice", ", ".join(choices))


def checked_starter(answer: object) -> list[str]:
    """Returns the names of the models that the answer lists, in the order of `STARTERS`."""
    names = re.findall(r"[^\s,]+", str(answer or "").lower())
    if "all" in names:
        return list(STARTERS)
    for name in names:
        if name not in STARTERS:
            raise BadAnswer("starter", name, "is not a model", f"{', '.join(STARTERS)}, or all")
    return [name for name in STARTERS if name in names or name == "dense"]


def escaped(text: str) -> str:
    """Returns the text as it stands between the quotes of a string in TOML or JSON."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


@functools.cache
def template_commit(_: str) -> str:
    """Returns the commit of this template, with `-dirty` where files differ from it; or nothing."""
    git = ("git", "-C", str(TEMPLATE), "describe", "--always", "--abbrev=40", "--exclude=*")
    try:
        done = subprocess.run((*git, "--dirty"), capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@functools.cache
def template_machinery(_: str) -> str:
    """Returns one SHA-256 over all files of the machinery, as `repro doctor` computes it."""
    source = TEMPLATE / FOLDER / "src"
    lines = []
    for path in sorted((source / "repro").rglob("*")):
        name = path.relative_to(source).as_posix()
        if path.is_file() and "__pycache__" not in name and "/." not in name:
            content = path.read_bytes().replace(b"\r\n", b"\n")
            lines.append(f"{name} {hashlib.sha256(content).hexdigest()}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


class AnswerChecks(Extension):
    """The functions above as filters; and answers stay text where they look like templates."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        # `cruft update` generates by two versions of the template in one process.
        sys.modules.pop(__name__, None)
        self.asking = False
        filters = (checked_name, checked_package, checked_starter, usable_slug, one_of, escaped)
        for function in (*filters, template_commit, template_machinery, self.folder):
            environment.filters[function.__name__] = function

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        """Called with each text before it is rendered: questions, answers, files, their names.

        A file in a folder whose name is a condition is copied as it is. `_copy_without_render`
        cannot say so: cookiecutter fails there where the condition does not hold.
        """
        if source == QUESTIONS["__answers"]:
            self.asking = True
        elif name and "/" in name and name.endswith("{% endif %}"):
            return "{% raw %}" + source + "{% endraw %}"
        elif self.asking and source not in QUESTIONS.values():
            return "{{ " + json.dumps(source, ensure_ascii=False) + " }}"
        return "{{ cookiecutter | folder }}" if source == FOLDER else source

    def folder(self, answers: dict[str, Any]) -> str:
        """Derives the private variables from the answers, and returns the name of the folder."""
        for key, text in QUESTIONS.items():
            if key.startswith("__") and "{{" in text:
                answers[key] = self.environment.from_string(text).render(cookiecutter=answers)
        return str(answers["project_slug"])


def _fits(c: str, punctuation: str) -> bool:
    if c.isascii():
        return c.isalnum() or c in punctuation
    return c.isprintable() or c in JOINERS or unicodedata.category(c) == "Zs"


def _taken(slug: str) -> str | None:
    package = slug.replace("-", "_")
    return next((what for what, names in TAKEN.items() if package in names), None)
