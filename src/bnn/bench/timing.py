"""Timing several functions side by side, so that what else the machine does meets all of them alike."""

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from statistics import quantiles
from typing import Any, TypeVar

__all__ = ["Timing", "measure", "rouse"]

Name = TypeVar("Name", bound=Hashable)

Function = Callable[[], object]

STRETCH = 1e-3  # seconds: long beside the clock's resolution and what reading it takes
TICKS = (
    25e-3  # seconds: some of the kernel's clock ticks, at which it counts processor time, and moves threads
)


@dataclass(frozen=True)
class Timing:
    """Seconds a call, one entry for each repeat, each the mean of some calls in a row."""

    seconds: tuple[float, ...]
    calls: int

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """First quartile, median, third quartile."""
        if len(self.seconds) == 1:
            return self.seconds * 3
        q1, median, q3 = quantiles(self.seconds, n=4, method="inclusive")
        return q1, median, q3

    @property
    def median(self) -> float:
        return self.quartiles[1]

    def as_dict(self) -> dict[str, Any]:
        q1, median, q3 = self.quartiles
        return {"median": median, "q1": q1, "q3": q3, "calls": self.calls, "seconds": list(self.seconds)}


def measure(
    functions: Mapping[Name, Function],
    repeats: int,
    before: Callable[[Function], object] | None = None,
) -> dict[Name, Timing]:
    """Times each function, all of them in turn in every repeat.

    Args:
        functions: by name.
        repeats: how often each is timed. One that takes less than a millisecond is called several times in
            a row for it, as often every time.
        before: called before each timing with what is timed next.
    """
    calls = {name: _calls(function) for name, function in functions.items()}
    seconds: dict[Name, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            if before:
                before(function)
            start = time.perf_counter_ns()
            for _ in range(calls[name]):
                function()
            seconds[name].append((time.perf_counter_ns() - start) * 1e-9 / calls[name])
    return {name: Timing(tuple(values), calls[name]) for name, values in seconds.items()}


def rouse(function: Function) -> None:
    """Waits until no thread of this process runs, a second at most; then calls the function for a while.

    Other runtimes' threads go on for tens of milliseconds after a call, waiting for the next, and take a core
    from whoever is timed then. And threads that slept may wake on one core, before they get each their own.
    """
    for _ in range(40):
        wall, worked = time.perf_counter(), time.process_time()
        time.sleep(TICKS)
        if time.process_time() - worked < 0.1 * (time.perf_counter() - wall):
            break
    start = time.perf_counter()
    while time.perf_counter() - start < TICKS:
        function()


def _calls(function: Function) -> int:
    """Warms a function up; how many calls of it fill the stretch."""
    calls = 0
    for _ in range(2):  # the first round meets cold caches, and weights that are still to be prepared
        calls, start = 0, time.perf_counter_ns()
        while (time.perf_counter_ns() - start) * 1e-9 < STRETCH:
            function()
            calls += 1
    return calls
