"""The machinery: runs recipes in fresh processes and compares the runs.

Nothing here is yours to change for an experiment; see `params.yaml`, `data.py` and `models/`.
Importing this package costs nothing: numerical libraries are imported only inside the process
that trains, whose environment was fixed before it started.
"""

IDENTICAL, DIFFERS, BAD_INPUT, NOT_COMPARABLE, FAILED = range(5)
"""Exit statuses of `repro`. FAILED: the training itself raised; its traceback is in the log."""


class BadInput(Exception):
    """A value somebody gave is wrong. The message is one line: what is wrong, what would do."""
