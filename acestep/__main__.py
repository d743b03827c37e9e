"""``python -m acestep``."""

import sys

import acestep.ui.jobs  # noqa: F401 - registers every job, those of the pages included
from acestep.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
