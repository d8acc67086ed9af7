"""`python -m bnn.cli`."""

import sys

from bnn.cli import main

sys.exit(main())
