"""`python -m meshos` is the `meshos` command."""

import sys

from meshos.cli import main

if __name__ == "__main__":
    sys.exit(main())
