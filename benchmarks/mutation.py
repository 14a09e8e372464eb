"""Mutation testing: is a fault in the core of the machinery seen by the machinery's tests?

Each mutant is the core with one small fault put in. A mutant that the tests pass has survived. It
is a fault that nobody would see, or it changes nothing that counts; which of them, docs/mutation.md
says for each.

    make mutation                               # all modules, and writes docs/mutation.md
    make mutation ARGS="run/loop basics/seeds"  # these alone
    make mutation ARGS=--survivors              # tries what was not killed the last time
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cosmic_ray import plugins
from cosmic_ray.mutating import mutate_code

from . import figures, forking

TEMPLATE = Path(__file__).resolve().parents[1]
TESTS = TEMPLATE / "tests" / "machinery"
RESULTS = TEMPLATE / "build" / "mutation"
PAGE = figures.DOCS / "mutation.md"

MODULES = {
    "environment/determinism": ("test_settings", "test_machinery"),
    "run/ledger": ("test_ledger", "test_machinery"),
    "run/state": ("test_state", "test_boundaries", "test_loop"),
    "run/loop": ("test_boundaries", "test_loop", "test_callbacks"),
    "run/boundary": ("test_boundaries", "test_loop", "test_callbacks"),
    "run/steps": ("test_boundaries", "test_loop"),
    "compare/comparison": ("test_ledger", "test_machinery"),
    "basics/npz": ("test_state", "test_files"),
    "basics/digests": ("test_ledger", "test_files", "test_sources"),
    "basics/seeds": ("test_ledger",),
    "run/manifest": ("test_ledger", "test_machinery", "test_after"),
}
"""The modules of the core, the most trusted first, and the files of tests that look at each."""

# What stands in the place of an operator: those next to it, since what is caught there is caught
# elsewhere. Keras or NumPy raise an error at most other pairs, which would only raise the score.
BINARY = {
    "Add": ("Sub",),
    "Sub": ("Add",),
    "Mul": ("FloorDiv",),
    "Div": ("Mul",),
    "FloorDiv": ("Mul",),
    "Mod": ("FloorDiv",),
    "BitOr": ("BitAnd",),
    "BitAnd": ("BitOr",),
    "BitXor": ("BitAnd",),
}
COMPARISON = {
    "Eq": ("NotEq", "LtE", "GtE"),
    "NotEq": ("Eq", "Lt", "Gt"),
    "Lt": ("LtE", "NotEq", "GtE"),
    "LtE": ("Lt", "Eq", "Gt"),
    "Gt": ("GtE", "NotEq", "LtE"),
    "GtE": ("Gt", "Eq", "Lt"),
    "Is": ("IsNot",),
    "IsNot": ("Is",),
}
OTHER = (
    "AddNot",
    "ReplaceTrueWithFalse",
    "ReplaceFalseWithTrue",
    "ReplaceAndWithOr",
    "ReplaceOrWithAnd",
    "ReplaceBreakWithContinue",
    "ReplaceContinueWithBreak",
    "ExceptionReplacer",
    "NumberReplacer",
    "ReplaceUnaryOperator_USub_UAdd",
    "ReplaceUnaryOperator_Delete_USub",
    "ReplaceUnaryOperator_Delete_Not",
    "ZeroIterationForLoop",
)
SIMPLE = (ast.Expr, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Return, ast.Raise, ast.Break)
"""Statements of a function that may be left out."""
OPPOSITE: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
WORDS = {ast.And: "and", ast.Or: "or"}
Placed = ast.expr | ast.stmt | ast.keyword

MEMORY = Path("/dev/shm")
ENVIRONMENT = {
    "PYTHONPYCACHEPREFIX": str(RESULTS / "cache"),
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    **dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1"),
    # A disk would be waited for at each boundary.
    **({"TMPDIR": str(MEMORY)} if MEMORY.is_dir() else {}),
}
"""What the tests are run with: on one core, and so quickly."""

HEAD = ["module", "mutants", "killed", "explained", "open", "score"]
LONGEST = 90
"""Characters of a changed line that the name of a mutant has."""


@dataclass(frozen=True)
class Mutant:
    """A module with one fault, and what became of it."""

    module: str
    where: str
    """The function that has it."""
    change: str
    """What stood there, and what stands there now."""
    status: str = ""
    """1: a test failed; 0: it survived; else another end of the process, such as a signal."""

    @property
    def name(self) -> str:
        """As docs/mutation.md names those that it explains."""
        return f"`{self.module}.py:{self.where}`: {self.change}"


class Core(ast.NodeTransformer):
    """Leaves of a module what decides how it behaves.

    Away go annotations, decorators, what is imported for the types alone, and the texts of
    exceptions.
    """

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return ast.arg(node.arg)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        return self.generic_visit(ast.AnnAssign(node.target, ast.Constant(""), node.value, 1))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.decorator_list, node.returns = [], None
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        node.decorator_list = []
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST:
        names = {one.id for one in ast.walk(node.test) if isinstance(one, ast.Name)}
        if names == {"TYPE_CHECKING"}:
            return ast.Pass()
        return self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        """`not a == b` is `a != b`, and counts once with it."""
        inner = node.operand
        if isinstance(node.op, ast.Not) and isinstance(inner, ast.Compare) and len(inner.ops) == 1:
            inner.ops = [OPPOSITE[type(one)]() for one in inner.ops]
            return self.generic_visit(inner)
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        for call in ast.walk(node):
            if isinstance(call, ast.Call):
                call.args = [ast.Constant("") if text(one) else one for one in call.args]
        return self.generic_visit(node)


def text(node: ast.expr) -> bool:
    """Whether an expression puts a text together."""
    sides = (node.left, node.right) if isinstance(node, ast.BinOp) else ()
    return isinstance(node, ast.JoinedStr) or any(text(side) for side in sides)


def core(source: str) -> str:
    """How a module behaves, in a form in which two of them can be compared."""
    return ast.dump(Core().visit(ast.parse(source)))


def mutated(source: str) -> Iterator[str]:
    """Yields the module with one fault, for each fault; some are no Python, or change nothing."""
    names = [
        *(f"ReplaceBinaryOperator_{one}_{other}" for one in BINARY for other in BINARY[one]),
        *(f"ReplaceComparisonOperator_{a}_{b}" for a in COMPARISON for b in COMPARISON[a]),
        *OTHER,
    ]
    for name in names:
        number, operator = 0, plugins.get_operator(f"core/{name}")()
        while (found := mutate_code(source, operator, number)) is not None:
            yield found
            number += 1
    yield from left_out(source)


def left_out(source: str) -> Iterator[str]:
    """Yields the module with a statement, an operand, a named argument or an entry left out."""
    tree, lines = ast.parse(source), source.encode().splitlines(keepends=True)

    def cut(start: Placed, end: Placed, new: str) -> str:
        before = sum(map(len, lines[: start.lineno - 1])) + start.col_offset
        after = sum(map(len, lines[: (end.end_lineno or 0) - 1])) + (end.end_col_offset or 0)
        whole = b"".join(lines)
        return (whole[:before] + new.encode() + whole[after:]).decode()

    def operands(node: Placed, sides: list[ast.expr], joined: str) -> Iterator[str]:
        for gone in sides:
            kept = [str(ast.get_source_segment(source, one)) for one in sides if one is not gone]
            yield cut(node, node, f"({joined.join(kept)})")

    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    inside = {node: None for function in functions for node in ast.walk(function)}
    for node in inside:
        if isinstance(node, SIMPLE) and not isinstance(getattr(node, "value", None), ast.Constant):
            yield cut(node, node, "pass")
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            yield from operands(node, [node.left, node.right], " | ")
        elif isinstance(node, ast.BoolOp):
            yield from operands(node, node.values, f" {WORDS[type(node.op)]} ")
        elif isinstance(node, ast.Call):
            yield from (cut(one, one.value, "**{}") for one in node.keywords if one.arg)
        elif isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            yield from (cut(key, value, "**{}") for key, value in pairs if key)


def mutants(module: str, source: str) -> dict[str, Mutant]:
    """The mutants of a module by their source, but for those that differ in nothing that counts."""
    found: dict[str, Mutant] = {}
    seen = {core(source)}
    for other in mutated(source):
        try:
            behaviour = core(other)
        except SyntaxError:
            continue
        if behaviour not in seen:
            seen.add(behaviour)
            found[other] = described(module, source, other)
    return found


def described(module: str, source: str, other: str) -> Mutant:
    """A mutant in the words of the two sources."""
    before, after = source.splitlines(), other.splitlines()
    start = next(n for n, pair in enumerate(zip(before, after, strict=False)) if len({*pair}) > 1)
    same = 0
    while before[-1 - same] == after[-1 - same] and same < min(len(before), len(after)) - start - 1:
        same += 1
    old, new = (" ".join(" ".join(a[start : len(a) - same]).split()) for a in (before, after))
    named = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and node.lineno <= start + 1 <= (node.end_lineno or 0)
    ]
    where = ".".join(node.name for node in sorted(named, key=lambda node: node.lineno))
    return Mutant(module, where, f"`{shortened(old)}` becomes `{shortened(new)}`")


def shortened(text: str) -> str:
    return text if len(text) <= LONGEST else text[:LONGEST] + "…"


class Project:
    """A generated project whose core is changed, and a process that runs tests in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        env = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(root / "src")}
        command = [str(root / ".venv" / "bin" / "python"), "-P", forking.__file__]
        self._server = subprocess.Popen(
            command, cwd=root, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._read()

    def _read(self) -> str:
        assert self._server.stdout is not None
        return self._server.stdout.readline().strip()

    def status(self, module: str, seconds: float) -> tuple[str, float]:
        """Runs the tests of a module; returns their status and the seconds that they took."""
        assert self._server.stdin is not None
        files = [str(TESTS / f"{name}.py") for name in MODULES[module]]
        print(json.dumps([seconds, files]), file=self._server.stdin, flush=True)
        status, took = self._read().split()
        return status, float(took)

    def tried(self, module: str, killed: Collection[str]) -> list[Mutant]:
        """Puts each mutant of a module into the project, and says what became of it.

        Args:
            killed: the names of those that need not be tried, as the last time has killed them.
        """
        path = self.root / "src" / "repro" / f"{module}.py"
        source = path.read_text(encoding="utf-8")
        status, took = self.status(module, 600)
        if status != "0":
            raise SystemExit(f"{module}: the tests fail without a mutant")
        done = []
        file_of(module).write_text("")
        try:
            for number, (text, mutant) in enumerate(mutants(module, source).items()):
                status = "1"
                if mutant.name not in killed:
                    path.write_text(text, encoding="utf-8")
                    # Python tells by this time, in seconds, whether its byte code is still right.
                    os.utime(path, (number, number))
                    status, _ = self.status(module, 5 + 3 * took)
                done.append(replace(mutant, status=status))
                with file_of(module).open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(done[-1])) + "\n")
                if status == "0":
                    print(f"survived: {mutant.name}", flush=True)
        finally:
            path.write_text(source, encoding="utf-8")  # It has a time of its own again.
        return done


def row(module: str, done: list[Mutant], explained: set[str]) -> list[str]:
    """The line of a module in the table of docs/mutation.md."""
    survived = [mutant.name for mutant in done if mutant.status == "0"]
    known = sum(name in explained for name in survived)
    killed = len(done) - len(survived)
    counts = (len(done), killed, known, len(survived) - known)
    return [f"`{module}.py`", *map(str, counts), f"{killed / len(done):.1%}"]


def main(project: Path, modules: list[str], survivors: bool) -> str | None:
    """Tries the mutants of these modules, and writes what came of all that were tried so far.

    Returns what is wrong: a survivor that is not explained, or one that is and does not survive.
    """
    process = Project(project)
    for module in modules:
        start = time.monotonic()
        before = kept(module) if survivors else []
        alive = {mutant.name for mutant in before if mutant.status == "0"}
        done = process.tried(module, {mutant.name for mutant in before} - alive)
        print(f"{module}: {len(done)} in {time.monotonic() - start:.0f} s", flush=True)
    explained = set(re.findall(r"^- (`.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    found = {module: done for module in MODULES if (done := kept(module))}
    rows = [row(module, done, explained) for module, done in found.items()]
    figures.write("mutation", figures.table(HEAD, rows), file=PAGE.name)
    survived = {mutant.name for done in found.values() for mutant in done if mutant.status == "0"}
    tried = tuple(f"`{module}.py:" for module in found)
    stale = {name for name in explained - survived if name.startswith(tried)}
    wrong = [f"open: {name}" for name in sorted(survived - explained)]
    wrong += [f"explained, and does not survive: {name}" for name in sorted(stale)]
    return "\n".join(wrong) or None


def file_of(module: str) -> Path:
    """Where it stands what came of the mutants of a module."""
    return RESULTS / f"{module.replace('/', '-')}.jsonl"


def kept(module: str) -> list[Mutant]:
    """What the last run that tried it found of a module."""
    if not file_of(module).exists():
        return []
    lines = file_of(module).read_text(encoding="utf-8").splitlines()
    return [Mutant(**json.loads(line)) for line in lines]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutation")
    parser.add_argument("project", type=Path, help="a generated project with its lock installed")
    parser.add_argument("modules", nargs="*", default=list(MODULES))
    parser.add_argument("--survivors", action="store_true", help="those not killed the last time")
    options = parser.parse_intermixed_args()
    sys.exit(main(options.project.resolve(), options.modules, options.survivors))
