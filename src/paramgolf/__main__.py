"""`python -m paramgolf VERB ...` is the command `paramgolf VERB ...`."""

import sys

from paramgolf.cli import main

if __name__ == "__main__":
    sys.exit(main())
