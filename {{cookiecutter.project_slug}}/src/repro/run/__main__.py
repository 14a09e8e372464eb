"""`python -m repro.run RUN_DIRECTORY` is the fresh process that trains; see `process`."""

import sys
from pathlib import Path

from repro.run.process import main

if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *map(int, sys.argv[2:])))
