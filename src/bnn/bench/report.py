"""What a benchmark says: as text, as JSON and as a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from bnn.bench.compare import ONE_THREAD, RIVALS, Agreement, Result
from bnn.bench.timing import STRETCH
from bnn.errors import printable
from bnn.files import replacing
from bnn.tables import CELL, table

__all__ = ["Report"]

ENOUGH = 30  # repeats, for a median and quartiles to be quoted


@dataclass(frozen=True)
class Report:
    """Everything that was measured.

    Attributes:
        machine, versions: see bnn.bench.machine.
        isa, threads: unless a case says otherwise.
        repeats: of each timing.
        peaks: multiply-accumulates a second of a core at best, by kernels and loop.
        reads: bytes a second that a core reads at best.
        results: one for each case.
        skipped: lines on what the machine cannot run.
    """

    machine: Mapping[str, Any]
    versions: Mapping[str, str | None]
    isa: str
    threads: int
    repeats: int
    peaks: Mapping[str, Mapping[str, float]]
    reads: Mapping[str, float]
    results: Sequence[Result]
    skipped: Sequence[str]

    def wrong(self) -> list[str]:
        """A line for each disagreement."""
        return [line for result in self.results for line in result.wrong()]

    @property
    def protocol(self) -> list[str]:
        few = f" (fewer than {ENOUGH}: do not quote them)" if self.repeats < ENOUGH else ""
        return [
            "both sides take and return the same contiguous float32 arrays; packing or quantizing "
            "them counts, preparing weights does not",
            "PyTorch: eager, inference_mode, its faster memory layout, bfloat16 from and to float32; "
            "ONNX Runtime int8: quantize_dynamic",
            "as many threads on both sides; several are woken by untimed calls first; calls alternate; "
            f"median (quartiles) of {self.repeats} repeats{few}, each about {STRETCH * 1e3:g} ms or longer; "
            "2x: takes twice our time",
        ]

    # --- text ---------------------------------------------------------------------------------------------

    def __str__(self) -> str:
        notes = [*(f"protocol: {line}" for line in self.protocol), *(f"skipped: {s}" for s in self.skipped)]
        ends = [*notes, *self._equal(), *self._memory(), *self._slower()]
        lines = [*self._header(), "", *self._table().split("\n"), "", *ends]
        return "\n".join(map(printable, lines))  # cases have names of layers, which may be anything

    def _header(self) -> list[str]:
        versions = (f"{name} {version or 'not installed'}" for name, version in self.versions.items())
        rates = {"±1 x ±1": "bits", "float32 x ±1": "f32", "int8 x ±1": "i16"}
        lines = [
            f"{self.machine['cpu']}, {self.machine['cores']} cores; {self._kernels} "
            f"(there are {', '.join(self.machine['instruction_sets'])})",
            ", ".join(versions),
        ]
        for isa, peaks in self.peaks.items():
            found = [f"{peaks[loop] / 1e9:,.0f} of {name}" for name, loop in rates.items() if peaks[loop]]
            if found:
                lines.append(
                    f"peak of a core, {isa}, in 10^9 multiply-accumulates a second: {', '.join(found)}"
                )
        reads = (f"{rate / 1e9:.1f} GB/s from {name}" for name, rate in self.reads.items())
        return [*lines, f"a core reads {', '.join(reads)}"]

    @property
    def _kernels(self) -> str:
        return f"{self.isa} kernels, {self.threads} thread{'s' * (self.threads > 1)}"

    def _table(self) -> str:
        present = {name for result in self.results for name in result.rivals}
        names = [name for name in (*RIVALS, ONE_THREAD) if name in present]
        head = ["case", "ours", "(quartiles)", "GMAC/s", "of peak"]
        rows = []
        for result in self.results:
            q1, median, q3 = result.ours.quartiles
            time, *around = _times(median, q1, q3)
            low, high = (text.partition(" ")[0] for text in around)
            rate = sum(result.case.macs().values()) / median / 1e9
            peak = "-" if result.of_peak is None else f"{100 * result.of_peak:.0f} %"
            rows.append([result.case.name, time, f"({low}-{high})", f"{rate:.1f}", peak])
            for name in names:
                rows[-1] += _cells(result, name)
        return table([*head, *(cell for name in names for cell in (name, ""))], rows)

    def _equal(self) -> list[str]:
        """How far the outputs lie apart where that is judged; disagreements are shouted elsewhere."""
        judged = [
            a
            for r in self.results
            for a in (r.agreement, *(rival.agreement for rival in r.rivals.values() if rival))
            if a.allowed is not None and a.holds
        ]
        exact = sum(a.difference == 0 for a in judged)
        largest = max((a.difference for a in judged), default=0.0)
        return [
            f"equal: {len(judged)} outputs agree, {exact} of them exactly, the others to {largest:.1g} of "
            "the largest magnitude; PyTorch bfloat16 and ONNX Runtime int8 round, and are not judged"
        ]

    def _memory(self) -> list[str]:
        """The cases of whole networks on one input."""
        return [
            f"memory: {r.case.name}: {r.memory:,} bytes of prepared weights, arena; the file has {r.file:,}"
            for r in self.results
            if r.case.batch == 1 and len(r.case.model.nodes) > 2
        ]

    def _slower(self) -> list[str]:
        compared = [(r.case.name, name, ratio) for r in self.results for name, ratio in r.ratios.items()]
        slower = [
            f"slower: {case}: {1 / ratio:.2f} times {name}'s time"
            for case, name, ratio in compared
            if ratio < 1
        ]
        if not any(name in RIVALS for _, name, _ in compared):
            return [*slower, "nothing to compare with: neither PyTorch nor ONNX Runtime is installed"]
        return slower or ["one bit was nowhere slower"]

    # --- JSON ---------------------------------------------------------------------------------------------

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON; times in seconds."""
        return {
            "machine": dict(self.machine),
            "versions": dict(self.versions),
            "isa": self.isa,
            "threads": self.threads,
            "repeats": self.repeats,
            "protocol": self.protocol,
            "peaks": {isa: dict(peaks) for isa, peaks in self.peaks.items()},
            "reads": dict(self.reads),
            "skipped": list(self.skipped),
            "cases": [_case(result) for result in self.results],
        }

    # --- a picture ----------------------------------------------------------------------------------------

    def draw(self, path: Path) -> None:
        """How many times our time the others take, as bars; a PNG."""
        from matplotlib.figure import Figure  # not pyplot: no window system, no global state
        from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

        names = [name for name in RIVALS if any(name in result.ratios for result in self.results)]
        ratios = [ratio for result in self.results for ratio in result.ratios.values()]
        thick = 0.8 / max(len(names), 1)
        figure = Figure(
            figsize=(10, 1.6 + len(self.results) * (0.15 + 0.17 * len(names))), layout="constrained"
        )
        axes = figure.subplots()
        for i, name in enumerate(names):
            bars = {y: r.ratios[name] for y, r in enumerate(self.results) if name in r.ratios}
            places = [y + (i - (len(names) - 1) / 2) * thick for y in bars]
            lengths = [ratio - 1 for ratio in bars.values()]
            drawn = axes.barh(places, lengths, 0.88 * thick, left=1, label=name, color=COLORS[name])
            axes.bar_label(drawn, [_ratio(ratio) for ratio in bars.values()], padding=3, fontsize=7.5)
        axes.axvline(1, color="black", linewidth=1)
        axes.set_xscale("log")
        axes.set_xlim(min([0.7, *ratios]) / 1.4, max([2, *ratios]) * 1.4)
        axes.xaxis.set_major_locator(FixedLocator([0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.set_xlabel("times the time of one bit (left of 1, one bit is slower)")
        names_of_cases = [printable(result.case.name, CELL) for result in self.results]
        axes.set_yticks(range(len(self.results)), names_of_cases, parse_math=False)
        axes.set_ylim(len(self.results) - 0.4, -0.6)  # the first on top
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        if names:
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(names), frameon=False)
        figure.suptitle(f"{self.machine['cpu']}, {self._kernels}", parse_math=False)
        with replacing(path, stream=True) as file:
            figure.savefig(file, format="png", dpi=110, metadata={"Software": None})


COLORS = dict(zip(RIVALS, ("#4477aa", "#88bbdd", "#cc6644", "#eeaa77"), strict=True))


def _case(result: Result) -> dict[str, Any]:
    case, macs = result.case, result.case.macs()
    rivals: dict[str, dict[str, Any] | None] = {}
    for name, rival in result.rivals.items():
        rivals[name] = None
        if rival is not None:
            rivals[name] = {
                **rival.timing.as_dict(),
                "ratio": result.ratios[name],
                "layout": rival.layout,
                "layouts": {layout: timing.as_dict() for layout, timing in rival.timings.items()},
                "agreement": _agreement(rival.agreement),
            }
    return {
        "name": case.name,
        "isa": case.isa,
        "threads": case.threads,
        "activations": case.activations,
        "batch": case.batch,
        "input": list(case.model.input.shape),
        "macs": macs,
        "macs_per_second": sum(macs.values()) / result.ours.median,
        "of_peak": result.of_peak,
        "memory": result.memory,
        "file": result.file,
        "ours": result.ours.as_dict(),
        "agreement": _agreement(result.agreement),
        "rivals": rivals,
    }


def _agreement(agreement: Agreement) -> dict[str, Any]:
    difference = agreement.difference
    return {
        "difference": difference if isfinite(difference) else None,  # JSON has no NaN
        "allowed": agreement.allowed,
        "holds": agreement.holds,
    }


def _cells(result: Result, name: str) -> list[str]:
    """The time and the ratio, of a rival that may not be installed, or have no such case."""
    if name not in result.rivals:
        return ["", ""]
    rival = result.rivals[name]
    if rival is None:
        return ["not installed", ""]
    (time,) = _times(rival.timing.median)
    return [time, _ratio(result.ratios[name])]


def _times(*seconds: float) -> list[str]:
    """About three digits, in the unit that suits the first."""
    units = ((1.0, "s"), (1e3, "ms"), (1e6, "µs"))
    factor, unit = next((entry for entry in units if seconds[0] * entry[0] >= 1), units[-1])
    values = (s * factor for s in seconds)
    return [f"{v:.{2 if v < 10 else 1 if v < 100 else 0}f} {unit}" for v in values]


def _ratio(ratio: float) -> str:
    return f"{ratio:.2f}x" if ratio < 10 else f"{ratio:.1f}x"
