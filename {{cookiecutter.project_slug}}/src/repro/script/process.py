"""The fresh process of a script: it is started as `python process.py RUN`, with its path.

So the variable PYTHONPATH stays the person's own. The machinery is found by the place of this file,
and is taken off the path again before the script begins.
"""

from __future__ import annotations

import builtins
import sys
from io import TextIOWrapper
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

SOURCE = str(Path(__file__).resolve().parents[2])

if TYPE_CHECKING:
    from collections.abc import Sequence

    from repro.script.importing import Act
    from repro.script.start import Seen, Start
    from repro.script.watching import Recorder


def main(run: Path) -> None:
    """Runs the script as Python itself does, under watch."""
    sys.path.insert(0, SOURCE)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    from repro.environment import changes, surroundings
    from repro.script.start import Seen, Start

    start = Start.read(run)
    # NumPy asks for the number of cores when it is imported.
    surroundings.enter(start.varied, start.index)
    if start.clock is not None:
        changes.hold_clock(start.clock)
    from repro.script import guarding, importing, settings, watching

    recorder = None
    if start.watched:
        recorder = watching.Recorder(run, start.every, generators=start.seed is not None)
    importing.After(_acts(start, recorder)).install()
    sys.path.remove(SOURCE)
    sys.dont_write_bytecode = before
    if start.seed is not None:
        settings.seed(start.seed)
    guarding.guard(start.guarded, [*start.allowed, str(run)])
    try:
        _execute(Path(start.script), start.arguments)
    except SystemExit as error:
        if error.code not in (None, 0):
            raise
    seen = recorder.seen if recorder else Seen()
    if recorder:
        recorder.close()
    _finish(seen, run)


def _acts(start: Start, recorder: Recorder | None) -> dict[str, Act]:
    """What to do once a library has been imported, by its name."""
    from repro import backends
    from repro.script import settings, watch_keras, watch_torch

    for name in backends.BACKENDS:
        backends.of(name)  # Later, byte code would be written beside the machinery.

    def act(name: str) -> Act:
        def imported(module: ModuleType) -> None:
            if start.seed is not None and name != "keras":
                settings.fix(name, module, start.threads, start.seed)
            if recorder is not None and name == "keras":
                with recorder.safely("Keras"):
                    watch_keras.watch(module, recorder)
            if recorder is not None and name == "torch":
                with recorder.safely("PyTorch"):
                    watch_torch.watch(module, recorder)

        return imported

    return {name: act(name) for name in ("keras", "tensorflow", "torch", "jax")}


def _execute(script: Path, arguments: Sequence[str]) -> None:
    """Executes a file as the module `__main__`."""
    main = ModuleType("__main__")
    main.__dict__.update(__file__=str(script), __builtins__=builtins, __spec__=None)
    sys.modules["__main__"] = main
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.parent))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    code = compile(script.read_bytes(), str(script), "exec", dont_inherit=True)
    exec(code, main.__dict__)


def _finish(seen: Seen, run: Path) -> None:
    """Says what was watched."""
    for name in ("keras", "tensorflow", "torch", "jax", "numpy"):
        version = getattr(sys.modules.get(name), "__version__", None)
        if version is not None:
            seen.versions[name] = str(version)
    seen.ended = True
    seen.write(run)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
