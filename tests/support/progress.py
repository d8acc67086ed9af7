"""What listens to a run in tests."""

from collections.abc import Callable

from bnn.training import Progress, Row


class Epochs(Progress):
    """Calls a function with each epoch's row."""

    def __init__(self, on_epoch: Callable[[Row], None]) -> None:
        self.on_epoch = on_epoch

    def epoch(self, row: Row) -> None:
        self.on_epoch(row)
