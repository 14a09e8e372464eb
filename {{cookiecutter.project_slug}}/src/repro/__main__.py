"""`python -m repro`, for where the command `repro` is not on the path."""

import sys

from .cli import main

sys.exit(main())
