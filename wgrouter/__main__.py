"""`python -m wgrouter`: the same as the `wgrouter` command."""

import sys

from wgrouter.cli import main

if __name__ == "__main__":
    sys.exit(main())
