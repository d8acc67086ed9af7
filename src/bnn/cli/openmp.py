"""How PyTorch's threads wait."""

import os

__all__ = ["spin_briefly"]


def spin_briefly() -> None:
    """Lets GNU OpenMP's threads sleep soon where they wait, unless the user has said how long they spin.

    They spin for long otherwise, and beside another busy process they starve each other: a step took 800 ms
    instead of 50. As briefly as here, they still outlast the Python between two operations: a thread that
    sleeps takes longer to wake than many an operation to run. It counts where it is called before torch is
    imported.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "50000")
