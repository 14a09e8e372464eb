"""The exit statuses of a command, and the exceptions that lead to them."""

from __future__ import annotations

IDENTICAL, DIFFERS, BAD_INPUT, NOT_COMPARABLE, FAILED = range(5)
"""Exit statuses of `repro`. FAILED: the training itself raised; its traceback is in the log."""
INTERNAL = 70
"""The exit status if the machinery itself is at fault (`EX_SOFTWARE` of sysexits.h)."""
ISSUES = "https://github.com/org/repro-dl/issues"
"""Where people report a fault of the machinery."""


class BadInput(Exception):
    """A value that somebody gave is wrong.

    The message is one line. It says what is wrong and what would be right.
    """


class RunFailed(Exception):
    """The training raised, or its process was ended. The message names the log."""


class MachineryFailed(RunFailed):
    """In the process that trains, the machinery raised, and not the project's code."""


class RunEnded(RunFailed):
    """A signal ended the process of a training. The training itself may be without fault.

    The message has three parts: `what` happened, what to do `then`, and the end of the `log`. What
    to do depends on the command.
    """

    def __init__(self, what: str, then: str, log: str) -> None:
        super().__init__(f"{what}; {then}{log}")
        self.what, self.log = what, log

    def advised(self, then: str) -> RunEnded:
        """Returns the same failure with other advice."""
        return RunEnded(self.what, then, self.log)


class Probed(Exception):
    """A run that was made only to look at one place has written what it found, and ends."""
