"""Makes a report on runs or on a study: a page of HTML that needs no network, and one of Markdown.

It is made only of what the runs left (manifest, history, predictions), so that the same runs give
the same bytes.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np

from repro.basics import files
from repro.basics.errors import BadInput
from repro.basics.text import file_name, markdown, result
from repro.compare import comparison, review
from repro.compare.gate_verdict import Failure, GateVerdict
from repro.compare.review import Outcome
from repro.recipe.project import Project
from repro.report import pictures
from repro.run import manifest
from repro.run.manifest import Finished
from repro.study import table
from repro.study.table import Table

DRAWN = 8
"""The curves of so many runs are drawn at most: more curves cannot be told apart."""
MADE = 24
"""How many texts, images or series that a model has made are shown at most."""


@dataclass(frozen=True)
class Section:
    """One section of a report. It shows the text first, then the table, then the pictures."""

    title: str
    text: Sequence[str] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    pictures: Sequence[tuple[str, str]] = ()
    """For each picture its name, as people see it, and its SVG."""
    folded: bool = False


def write(folder: Path, title: str, sections: Sequence[Section]) -> Path:
    """Writes `report.html`, and `report.md` with its pictures; returns the path of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("html", "md"):
        with files.replacing(folder / f"report.{kind}") as file:
            file.write(render(kind, title, sections).encode())
    for found in _drawn(sections):
        for _, name, svg in found:
            (folder / f"{name}.svg").write_text(standing_alone(svg), encoding="utf-8")
    return folder / "report.html"


def render(kind: Literal["html", "md"], title: str, sections: Sequence[Section]) -> str:
    """Returns a report as the text of one page."""
    kinds = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=jinja2.select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    kinds.filters["markdown"] = markdown
    kinds.filters["paragraph"] = _paragraph
    page = kinds.get_template(f"report.{kind}")
    return page.render(title=title, parts=zip(sections, _drawn(sections), strict=True))


def _paragraph(text: str) -> str:
    """Returns text of several lines in Markdown, where no line begins a heading, a list or code."""
    return "\n".join(markdown(line.strip()) for line in text.splitlines() if line.strip())


def _drawn(sections: Sequence[Section]) -> list[list[tuple[str, str, str]]]:
    """Returns, by section and picture, the name, the name of the file without `.svg`, the SVG."""
    taken: set[str] = set()
    return [
        [(name, file_name(name, taken), svg) for name, svg in section.pictures]
        for section in sections
    ]


def standing_alone(svg: str) -> str:
    """Returns a picture for a file of its own, with colours of its own: no page gives it any."""
    style = "<style>svg{color:#1b1b1b;background:#fff}</style>"
    return svg.replace("<defs>", f"{style}<defs>", 1)


def of_runs(runs: Sequence[Path]) -> tuple[str, list[Section]]:
    """Returns title and sections of a report on finished runs.

    Raises:
        BadInput: one of them is not a run, or has not finished.
    """
    runs = list({run.resolve(): run for run in runs}.values())
    names_of = _names(runs)
    contents = {names_of[run]: manifest.finished(run) for run in runs}
    sections = []
    if len(runs) > 1:
        sections.append(_comparison(runs, names_of))
    names = list(dict.fromkeys(n for content in contents.values() for n in content.metrics))
    sections.append(
        Section(
            "Results",
            head=["run", *names, "digest"],
            rows=[
                [
                    run,
                    *(result(content.metrics.get(name)) for name in names),
                    content.digest[:16],
                ]
                for run, content in contents.items()
            ],
        )
    )
    sections.append(_curves(runs, names_of))
    distinct: dict[str, Path] = {}
    for run, content in zip(runs, contents.values(), strict=True):
        distinct.setdefault(content.digest, run)
    for run in list(distinct.values())[:2]:
        name = names_of[run]
        sections += _judgement(run, contents[name], name if len(distinct) > 1 else None)
    sections.append(_split(contents[names_of[runs[0]]]))
    sections += _provenance(contents)
    more = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
    return runs[0].name + more, sections


def _names(runs: Sequence[Path]) -> dict[Path, str]:
    """Returns a name for each run: its directory's, with more of the path if two are alike."""
    found = {}
    for run in runs:
        parts = run.resolve().parts
        alike = [other.resolve().parts for other in runs if other != run]
        depth = next(
            (n for n in range(1, len(parts)) if all(p[-n:] != parts[-n:] for p in alike)),
            len(parts),
        )
        found[run] = "/".join(parts[-depth:])
    return found


def of_study(project: Project, directory: Path) -> tuple[str, list[Section]]:
    """Returns title and sections of a report on a study, which need not be finished.

    Raises:
        BadInput: it is not a study, or no trial has a result.
    """
    answer = table.read(directory)
    found, compared = answer.table, answer.compared
    done = [(trial, trial.done) for trial in found.trials if trial.done]
    if not done:
        raise BadInput(f"{directory.name}: no trial of this study has a result yet")
    head, rows = table.columns(found)
    text = [f"{len(done)} of {len(found.trials)} trials have a result."]
    text += table.lines(found)
    again = found.again
    if compared is not None and again is not None:
        told = f"{again.what}, {again.run}, trained once more in changed surroundings"
        text.append(f"{told[0].upper()}{told[1:]}: {compared.verdict}.")
    text += [
        f"Trial {trial.number} has no result: {trial.failed}"
        for trial in found.trials
        if trial.failed
    ]
    sections = [Section("Table", text, head, rows, _against(found))]
    if found.nested is not None and len(found.rows) > 1:
        sections.append(Section("Chosen", (), *table.nested_columns(found.nested, found.monitor)))
    first: dict[int, str] = {}
    for trial, one in done:
        first.setdefault(trial.configuration, one.run)
    # One trial of each configuration is drawn; if there is only one configuration, all its trials.
    drawn = [one.run for _, one in done] if len(found.rows) == 1 else first.values()
    configurations = [row.values for row in found.rows]
    labels = {
        one.run: table.describe(configurations[trial.configuration] | trial.planned.repetition)
        for trial, one in done
    }
    named = {project.runs / run: labels[run] for run in drawn}
    sections.append(_curves(list(named), named))
    if again is not None and (project.runs / again.run).is_dir():
        run = project.runs / again.run
        content = manifest.finished(run)
        sections += [
            *_judgement(run, content, run.name),
            _split(content),
            *_provenance({run.name: content}),
        ]
    return directory.name, sections


def write_gate(folder: Path, outcomes: Sequence[Outcome]) -> Path:
    """Writes a report on what the gate found for recipes, and its first part as `summary.md`."""
    title = review.headline(outcomes)
    verdicts = [_outcome(outcome) for outcome in outcomes]
    more = []
    trained = [(o.name, o.answer) for o in outcomes if isinstance(o.answer, GateVerdict)]
    for number, (name, answer) in enumerate(trained, 1):
        for section in of_runs(answer.runs)[1]:
            drawn = [(f"{number}-{picture}", svg) for picture, svg in section.pictures]
            told = f"{name}: {section.title}"
            more.append(dataclasses.replace(section, title=told, pictures=drawn))
    page = write(folder, title, [*verdicts, *more])
    with files.replacing(folder / "summary.md") as file:
        file.write(render("md", title, verdicts).encode())
    return page


def _outcome(outcome: Outcome) -> Section:
    """Returns what a reviewer has to know about one recipe, the worst first."""
    answer, before, now = outcome.answer, outcome.before, outcome.now
    title = f"{outcome.name}: {answer.verdict}, {outcome.recorded}"
    if not isinstance(answer, GateVerdict):
        return Section(title, [answer.message, *outcome.lines()])
    assert now is not None, "what the gate has trained was read"
    text = outcome.lines()
    if isinstance(answer.between, Failure):
        text.append(answer.between.message)
    elif answer.first_divergence is not None:
        text.append(comparison.describe(answer.first_divergence))
    text += [line.strip() for line in answer.why.lines()] if answer.why else []
    told = answer.guarantee
    text += [line.strip() for line in answer.lines()]
    text.append(f"guarantee: {'; '.join([told.holds, *told.broken])}")
    if told.broken:
        text.append(f"{told.asked} was asked for and does NOT hold, which is red")
    metrics = before.metrics if before else {}
    rows = [
        [name, result(metrics.get(name)), result(now.metrics.get(name))]
        for name in {**metrics, **now.metrics}
    ]
    rows.append(["digest", before.digest[:16] if before else "", now.digest[:16]])
    return Section(title, text, ["result", "recorded", "now"], rows)


def _comparison(runs: Sequence[Path], names: dict[Path, str]) -> Section:
    rows: list[list[str]] = []
    text: list[str] = []
    for other in runs[1:]:
        found = comparison.compare(runs[0], other)
        first, second = names[runs[0]], names[other]
        rows.append([first, second, found.verdict])
        if found.first_divergence is not None:
            text.append(f"{second}: {comparison.describe(found.first_divergence).strip()}")
        for name, (one, two) in (found.not_comparable or {}).items():
            text.append(f"{second}: {name} is {two}, and {one} in {first}")
    return Section("Comparison", text, ["run", "with", "verdict"], rows)


def _curves(runs: Sequence[Path], names_of: dict[Path, str]) -> Section:
    """Draws loss and metrics over the epochs, for the first runs whose directories are there."""
    histories, first = {}, 1
    for run in [run for run in runs if run.is_dir()][:DRAWN]:
        history = files.numbers(json.loads((run / "history.json").read_text(encoding="utf-8")))
        histories[names_of[run] or run.name] = history
        first = manifest.read(run).recipe.parameters.training.initial_epoch + 1
    names = dict.fromkeys(
        name.removeprefix("val_")
        for history in histories.values()
        for row in history
        for name in row
        if name != "learning_rate"
    )
    text = "Dashed: training. Solid: validation. Equal curves lie on each other, thick under thin."
    if len(histories) < len(runs):
        text += f" The first {len(histories)} of {len(runs)}."
    drawn = [(f"curve-{name}", pictures.curves(histories, name, first)) for name in names]
    return Section("Curves", [text], pictures=drawn)


def _judgement(run: Path, content: Finished, name: str | None) -> list[Section]:
    """Shows the test of one run: confused classes, and samples to look at.

    Args:
        name: the name of the run; None if it is the only one.
    """
    try:
        found = files.arrays(run / "predictions.npz")
    except FileNotFoundError:
        return []
    # Targets that are true or false become numbers.
    found = {key: one.astype(np.int64) if one.dtype == bool else one for key, one in found.items()}
    suffix, tail = (f" of {name}", f"-{name}") if name else ("", "")
    produced = _produced(run, suffix, tail)
    if "targets" not in found:
        return produced
    targets, predicted = found["targets"], found["predicted"]
    sections = []
    if "confidence" in found:
        from sklearn import metrics

        labels = np.arange(max(int(targets.max()), int(predicted.max())) + 1)
        counts = metrics.confusion_matrix(targets, predicted, labels=labels)
        told = metrics.classification_report(
            targets, predicted, labels=labels, output_dict=True, zero_division=0.0
        )
        columns = ("precision", "recall", "f1-score")
        names = [_called(content, int(label)) for label in labels]
        rows = [
            [one, *(f"{row[column]:.3f}" for column in columns), f"{row['support']:.0f}"]
            for one, row in zip([*names, *list(told)[len(names) :]], told.values(), strict=True)
            if isinstance(row, dict)
        ]
        picture = ("confusion" + tail, pictures.confusion(counts, names))
        text = [f"{int((targets != predicted).sum())} of {len(targets)} samples are wrong."]
        head = ["class", *columns, "samples"]
        sections.append(Section(f"Test{suffix}", text, head, rows, [picture]))
    else:
        picture = ("predicted" + tail, pictures.scatter(targets, predicted))
        sections.append(Section(f"Test{suffix}", pictures=[picture]))
    if "x" in found:
        titles = [_title(content, found, place) for place in found["shown"]]
        drawn = pictures.samples(found["x"], titles)
        if drawn is not None:
            text = [
                "First those that it judges worst, then the first ones of the test. Each with what "
                "it is, and what it was taken for where that differs."
            ]
            sections.append(Section(f"Samples{suffix}", text, pictures=[("samples" + tail, drawn)]))
    return sections + produced


def _produced(run: Path, suffix: str, tail: str) -> list[Section]:
    """Shows what the trained model has made: texts, images or series."""
    try:
        found = files.arrays(run / "produced.npz")
    except FileNotFoundError:
        return []
    sections = []
    for name, array in found.items():
        if array.dtype.kind == "U":
            text, drawn = [str(one) for one in array.reshape(-1)[:MADE]], None
        else:
            text, drawn = [], pictures.samples(array[:MADE], [""] * len(array[:MADE]))
        picture = [(f"produced-{name}{tail}", drawn)] if drawn else []
        if text or picture:
            sections.append(Section(f"Produced: {name}{suffix}", text, pictures=picture))
    return sections


def _called(content: Finished, label: int) -> str:
    """What a class is called: its name, where the data say one, else its number."""
    names = content.split.get("class_names", ())
    return str(names[label]) if label < len(names) else str(label)


def _title(content: Finished, found: dict[str, np.ndarray], place: int) -> str:
    is_, taken = found["targets"][place], found["predicted"][place]
    if "confidence" not in found:
        return f"{is_:.4g} → {taken:.4g}"
    told = [_called(content, int(one)) for one in (is_, taken)]
    return told[0] if is_ == taken else " → ".join(told)


def _split(content: Finished) -> Section:
    found = content.split
    rows = [
        [part, str(size), str(found["repeated"].get(part, ""))]
        for part, size in found["sizes"].items()
    ]
    drawn = [("classes", pictures.proportions(found["classes"]))] if "classes" in found else []
    text = [f"Digest {found['digest']}."]
    head = ["part", "samples", "of these also in the training"]
    return Section("Split", text, head, rows, drawn)


def _against(found: Table) -> list[tuple[str, str]]:
    """Draws each result against each parameter that is a number and has several values."""
    drawn = []
    rows = [row for row in found.rows if row.metrics]
    for key in found.rows[0].values:
        values = [row.values[key] for row in rows]
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        if not numbers or len(set(values)) < 2:
            continue
        short = table.short(key)
        for name in [n.removeprefix("val_") for n in rows[0].metrics if n.startswith("val_")]:
            measured: dict[str, tuple[Sequence[float], Sequence[float]]] = {}
            for part, prefix in (("validation", "val_"), ("test", "test_")):
                if prefix + name not in rows[0].metrics:
                    continue  # A nested study has a test only for what each fold has chosen.
                spreads = [row.metrics[prefix + name] for row in rows]
                means = [one.mean for one in spreads]
                measured[part] = (means, [one.deviation or 0 for one in spreads])
            picture = pictures.against(values, measured, short, name)
            drawn.append((f"{name}-against-{short}", picture))
    return drawn


def _provenance(contents: dict[str, Finished]) -> list[Section]:
    guarantees = []
    for name, content in contents.items():
        guarantee, around = content.guarantee, content.surroundings.varied
        guarantees.append(
            [
                name,
                guarantee.asked,
                guarantee.holds,
                "; ".join(guarantee.broken) or "–",
                ", ".join(around) or "–",
            ]
        )
    labels = ["run", "asked", "holds", "why not", "varied around it"]
    run, first = next(iter(contents.items()))
    kept = ("recipe", "seed", "code", "versions", "machine", "in_effect", "interpreter", "seconds")
    said = first.as_json()
    told = _flat({name: said[name] for name in kept})
    rows = [[name, value] for name, value in told.items()]
    return [
        Section("Guarantee", head=labels, rows=guarantees),
        Section(f"Manifest of {run}", head=["field", "value"], rows=rows, folded=True),
    ]


def _flat(content: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(content, dict) and content:
        found: dict[str, str] = {}
        for key, value in content.items():
            found |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
        return found
    return {prefix: content if isinstance(content, str) else files.dumps(content)}
