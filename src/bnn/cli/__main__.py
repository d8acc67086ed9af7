"""`python -m bnn.cli`."""

from bnn.cli import entry

entry()
