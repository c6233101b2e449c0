"""`python -m processor.cli`."""

import sys

from processor.cli import main

sys.exit(main())
