"""``python -m acestep``."""

import sys

from acestep.cli import main

if __name__ == "__main__":
    sys.exit(main())
