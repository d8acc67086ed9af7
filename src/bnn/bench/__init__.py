"""`bnn bench`: our engine on this machine, beside PyTorch and ONNX Runtime, and beside what a core can do."""

from collections.abc import Callable, Sequence

from bnn.bench.cases import Case, model_cases, select, standard_cases
from bnn.bench.compare import run_case
from bnn.bench.machine import PEAKS, READS, describe, instruction_sets, peaks, versions
from bnn.bench.report import Report

__all__ = ["Case", "Report", "bench", "instruction_sets", "model_cases", "select", "standard_cases"]


def bench(
    cases: Sequence[Case],
    isa: str,
    threads: int,
    repeats: int = 30,
    skipped: Sequence[str] = (),
    on_case: Callable[[int, Case], None] = lambda index, case: None,
) -> Report:
    """Measures the cases, one after the other.

    Args:
        cases: what to measure.
        isa, threads: what most cases use, for the report's head.
        repeats: of each timing.
        skipped: lines on cases that cannot be run here.
        on_case: called before each.
    """
    best = {name: peaks(PEAKS, name) for name in dict.fromkeys([isa, *(case.isa for case in cases)])}
    results = []
    for index, case in enumerate(cases):
        on_case(index, case)
        results.append(run_case(case, repeats, best[case.isa]))
    return Report(describe(), versions(), isa, threads, repeats, best, peaks(READS), results, skipped)
