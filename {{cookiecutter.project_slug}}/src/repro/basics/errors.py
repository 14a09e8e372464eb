"""What a command can end with: exit statuses, and the exceptions that lead to them."""

from __future__ import annotations

IDENTICAL, DIFFERS, BAD_INPUT, NOT_COMPARABLE, FAILED = range(5)
"""Exit statuses of `repro`. FAILED: the training itself raised; its traceback is in the log."""
INTERNAL = 70
"""The machinery is at fault, neither an input nor the project (`EX_SOFTWARE` of sysexits.h)."""
ISSUES = "https://github.com/org/repro-dl/issues"
"""Where such a fault is to be reported."""


class BadInput(Exception):
    """A value somebody gave is wrong. The message is one line: what is wrong, what would do."""


class RunFailed(Exception):
    """The training raised, or its process was ended. The message names the log."""


class MachineryFailed(RunFailed):
    """The machinery itself raised in the process that trains, not the project's code."""


class RunEnded(RunFailed):
    """The process of a training was ended by a signal, which says nothing of the training itself.

    The message has three parts: `what` happened, what is to be done `then`, and the end of the
    log. The middle one differs by command.
    """

    def __init__(self, what: str, then: str, log: str) -> None:
        super().__init__(f"{what}; {then}{log}")
        self.what, self.log = what, log

    def advised(self, then: str) -> RunEnded:
        """The same failure, with something else to be done."""
        return RunEnded(self.what, then, self.log)


class Probed(Exception):
    """A run made only to look at one place has written what it found there, and is over."""
