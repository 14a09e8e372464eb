"""Answers are accepted, or refused in one line; what is accepted can do no harm."""

from __future__ import annotations

import keyword
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cookiecutter.environment import StrictEnvironment
from hypothesis import example, given
from hypothesis import strategies as st

import template_checks as checks

from .conftest import TEMPLATE, TREE, Bake, Generate

NAMES = {
    "French": ("Étude de cas n° 3", "etude-de-cas-ndeg-3"),
    "Japanese": ("手書き数字", "shou-shu-kishu-zi"),
    "German": ("Überprüfung", "uberprufung"),
    "Russian": ("Мой проект", "moi-proekt"),
    "Persian, with a joiner": ("می\u200cخواهم", "mykhwhm"),
    "beyond 16 bits": ("𠮷野家 🙂", "ye-jia"),
    "no-break space": ("n°\u00a03", "ndeg-3"),
    "a module of Python": ("Random", "random-project"),
    "a locked package": ("Keras", "keras-project"),
    "a keyword": ("Class", "class-project"),
    "a digit first": ("3 networks", "project-3-networks"),
    "long": ("very " * 15 + "long", "very-very-very-very-very-very-very-very"),
}
BAD_NAMES = {
    "empty": "",
    "blank": "   ",
    "tab": "a\tb",
    "newline": "a\nb",
    "line separator": "a\u2028b",
    "control character": "a\x1b[31mb",
    "writes backwards": "a\u202eb",
    "not a character": "a\udc80b",
    "double quote": 'a"b',
    "backslash": "a\\b",
    "folder": "../a",
    "print statement": "{{ 7 * 7 }}",
    "template that fails": "{{ 1 / 0 }}",
    "template with an unknown name": "{{ nothing }}",
    "template cut off": "{{",
    "block": "{% for %}",
    "comment": "{# a",
    "shell variable": "$HOME",
    "shell command": "`id`",
    "two commands": "a; b",
    "pipe": "a | b",
    "redirection": "a > b",
    "mark-up": "<b>a</b>",
    "long": "a" * 81,
    "signs alone": "...",
    "spaces around": " a ",
}
BAD_SLUGS = {
    "empty": "",
    "upper case": "Digits",
    "digit first": "3-networks",
    "hyphen last": "digits-",
    "hyphen first": "-digits",
    "two hyphens": "a--b",
    "dot": "a.b",
    "space": "a b",
    "newline": "a\n",
    "accent": "étude",
    "folder": "../a",
    "absolute": "/tmp/a",
    "long": "a" * 51,
    "template": "{{ nothing }}",
    "keyword": "class",
    "soft keyword": "match",
    "module of Python": "random",
    "package with a hyphen": "typing-extensions",
    "locked package": "scikit-learn",
    "its module": "sklearn",
    "a name of several packages": "google",
    "the machinery": "repro",
    "the tests": "tests",
    "device": "com1",
}


def assert_refused_in_one_line(error: BaseException) -> None:
    assert isinstance(error, SystemExit)
    line = str(error.code)
    assert line.startswith("Error: ")
    assert line.endswith(" would do")
    assert line.isprintable()
    assert len(line) < 300


@pytest.mark.parametrize(("name", "slug"), NAMES.values(), ids=NAMES)
def test_a_name_in_any_script_gives_a_usable_slug(name: str, slug: str) -> None:
    assert checks.checked_name(name, "project_name") == name
    assert checks.usable_slug(name) == slug
    assert checks.checked_package(slug) == slug.replace("-", "_")


@pytest.mark.parametrize("name", ["O'Brien", "Zoë d’Été", "山田 太郎", "J.-L. Martin, Jr."])
def test_people_have_names_in_any_script(name: str) -> None:
    assert checks.checked_name(name, "author_name", "'") == name


@pytest.mark.parametrize("question", ["project_name", "author_name"])
@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
def test_a_bad_name_is_refused(name: str, question: str) -> None:
    with pytest.raises(SystemExit) as refusal:
        checks.checked_name(name, question)
    assert_refused_in_one_line(refusal.value)


@pytest.mark.parametrize("slug", BAD_SLUGS.values(), ids=BAD_SLUGS)
def test_a_bad_slug_is_refused_and_the_proposed_one_accepted(slug: str) -> None:
    with pytest.raises(SystemExit) as refusal:
        checks.checked_package(slug)
    assert_refused_in_one_line(refusal.value)
    (proposed,) = re.findall(r"'([^']+)' would do$", str(refusal.value.code))
    assert checks.checked_package(proposed)


@pytest.mark.parametrize("answer", ["yes", "Yes", "y", "true", True])
def test_yes_has_several_spellings(answer: object) -> None:
    assert checks.one_of(answer, "git_init", ["yes", "no"]) == "yes"


@pytest.mark.parametrize("answer", ["", "maybe", "yess", None, "nope"])
def test_what_is_no_choice_is_refused(answer: object) -> None:
    with pytest.raises(SystemExit) as refusal:
        checks.one_of(answer, "git_init", ["yes", "no"])
    assert_refused_in_one_line(refusal.value)


@pytest.mark.parametrize(
    ("answer", "names"),
    {
        "dense, lenet5": ["dense", "lenet5"],
        "lstm": ["dense", "lstm"],
        " GPT vae,,VAE ": ["dense", "vae", "gpt"],
        "": ["dense"],
        "all": [*checks.STARTERS],
    }.items(),
)
def test_models_to_start_with_come_in_one_order(answer: str, names: list[str]) -> None:
    assert checks.checked_starter(answer) == names


@pytest.mark.parametrize("answer", ["lenet", "dense; gpt", "dense.py", "['gpt']", True])
def test_an_unknown_model_is_refused(answer: object) -> None:
    with pytest.raises(SystemExit) as refusal:
        checks.checked_starter(answer)
    assert_refused_in_one_line(refusal.value)


def render(**answers: str) -> dict[str, Any]:
    """The generated pyproject.toml, as data."""
    context = {"cookiecutter": {**checks.QUESTIONS, **answers}}
    environment = StrictEnvironment(context=context)
    environment.from_string(checks.FOLDER).render(context)
    text = (TEMPLATE / TREE / "pyproject.toml").read_text(encoding="utf-8")
    return tomllib.loads(environment.from_string(text).render(context))


@given(st.text(max_size=90), st.text(max_size=90))
@example("𠮷 🙂", "O'Brien")
@example("a\x7fb", "a\x85b")
def test_every_name_is_data_in_toml_or_refused(name: str, author: str) -> None:
    try:
        project = render(
            project_name=name,
            project_slug=checks.usable_slug(name),
            author_name=author,
        )
    except SystemExit as refusal:
        assert_refused_in_one_line(refusal)
        return
    assert project["project"]["description"] == name
    assert project["project"]["authors"] == [{"name": author}]


@given(st.text(alphabet=st.characters(codec="ascii"), max_size=55) | st.text(max_size=55))
@example("a-b_c")
@example("class")
def test_every_slug_is_a_package_or_refused(slug: str) -> None:
    try:
        package = checks.checked_package(slug)
    except SystemExit as refusal:
        assert_refused_in_one_line(refusal)
        return
    assert package.isidentifier()
    assert not keyword.iskeyword(package)
    assert render(project_slug=slug)["tool"]["repro"]["package"] == package


@given(st.text(max_size=120))
def test_the_default_slug_is_accepted_for_every_name(name: str) -> None:
    assert checks.checked_package(checks.usable_slug(name))


# One refusal of each kind, through the program: the line, the status, no folder.
BAD_BAKES = {
    "name": {"project_name": 'a"b'},
    "slug": {"project_slug": "numpy"},
    "author": {"author_name": "a\nb"},
    "license": {"license": "GPL"},
    "backend": {"backend": "mxnet"},
    "starter": {"starter": "dense, lenet"},
    "git": {"git_init": "maybe"},
    "template that fails": {"project_name": "{{ 1 / 0 }}"},
    "template cut off": {"author_name": "{{"},
    "template with an unknown name": {"project_slug": "{{ nothing }}"},
}


@pytest.mark.parametrize("answers", BAD_BAKES.values(), ids=BAD_BAKES)
def test_a_refusal_is_one_line_and_leaves_nothing(bake: Bake, answers: dict[str, str]) -> None:
    outcome = bake(**answers)
    assert (outcome.status, outcome.projects) == (1, [])
    assert re.fullmatch(r"Error: [^\n]+ would do\n", outcome.output), outcome.output


@pytest.mark.parametrize(
    ("typed", "question"),
    [('a"b\n', "project_name"), ("\nnumpy\n", "project_slug"), ("\n\n<a>\n", "author_name")],
)
def test_a_typed_answer_is_refused_before_the_next_question(
    template: Path, generate: Generate, typed: str, question: str
) -> None:
    outcome = generate("cookiecutter", str(template), stdin=typed)
    assert (outcome.status, outcome.projects) == (1, [])
    prompts, error, refusal = outcome.output.partition("Error: ")
    assert error
    assert refusal.startswith(question)
    assert refusal.count("\n") == 1
    assert prompts.count("/8]") == typed.count("\n")
