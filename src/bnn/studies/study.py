"""What studies share: cells of (variant, seed), none computed twice; a table, figures and a report.

A study's folder holds study.json (what was asked), cells/ (one JSON file a cell), table.csv, its figures and
report.md. Whoever runs it again, after Ctrl-C or with more seeds, pays for the missing cells only.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from bnn.errors import UserError
from bnn.files import LOCK, check_own_folder, make_own_folder, one_writer, read_whole, write_atomically

__all__ = [
    "Cells",
    "Difference",
    "Options",
    "Study",
    "StudyError",
    "conduct",
    "difference",
    "markdown",
    "spread",
]


MOST_BYTES = 2**26
"""That a file of figures may have."""


class StudyError(UserError):
    """The folder or an option does not fit. The message is one line."""


@dataclass(frozen=True)
class Options:
    """How a study is run.

    Attributes:
        data: "mnist", "digits" or "cifar10".
        seeds: of each variant, from 0 on.
        epochs, width: of training, and of hidden layers or channels.
        data_dir: see `bnn.data.load_dataset`; like the device, no part of what was asked.
        device: to train on.
    """

    data: str
    seeds: int
    epochs: int
    width: int
    data_dir: str | None = None
    device: str = "cpu"


Cells = Mapping[str, Sequence[dict[str, Any]]]
"""Results by variant, one for each seed. Scalars are metrics; lists are for figures."""


@dataclass(frozen=True)
class Study:
    """An experiment.

    Attributes:
        name: of the command.
        title: its question in a line.
        settings: what `bnn study NAME --data DATA` runs unless told otherwise, by data set.
        variants: what is compared, by name: a line on each.
        run: (variant, seed, options, a folder of the cell's own) to its metrics.
        draw: (cells, options, folder) writes figures; their names with captions.
        conclude: (summary table, cells) to sentences for the report.
        weights: which weights are tested.
        takes_device: whether `device` has a say: what is NumPy's, or is too small to gain, stays on the CPU.
        note: what else must be said of the data, such as where test figures appear.
        full: settings below which a report calls itself reduced, where the default one is no full run.
        long: what it took, and on what, where that was more than half an hour on two cores.
    """

    name: str
    title: str
    settings: Mapping[str, Options]
    variants: Mapping[str, str]
    run: Callable[[str, int, Options, Path], dict[str, Any]]
    draw: Callable[[Cells, Options, Path], Mapping[str, str]]
    conclude: Callable[[pd.DataFrame, Cells], Sequence[str]]
    weights: str
    takes_device: bool = True
    note: str = ""
    full: Mapping[str, Options] = field(default_factory=dict)
    long: str = ""

    def options(
        self, data: str, data_dir: str | None = None, device: str = "cpu", **changes: int | None
    ) -> Options:
        """The setting for a data set, with changes that are not None.

        Raises:
            StudyError: it has no such setting, or a number is not positive.
        """
        if data not in self.settings:
            raise StudyError(f"study {self.name} runs on {', '.join(self.settings)}, not {data!r}")
        given = {name: value for name, value in changes.items() if value is not None}
        if device != "cpu" and not self.takes_device:
            raise StudyError(f"study {self.name} runs on the CPU, not on {device!r}")
        for name, value in given.items():
            if not 1 <= value < 2**31:
                raise StudyError(f"--{name} {value}: must be at least 1 and below 2^31")
        return replace(self.settings[data], data_dir=data_dir, device=device, **given)  # type: ignore[arg-type]


def conduct(
    study: Study,
    options: Options,
    out: str | Path,
    on_cell: Callable[[str, int], None] = lambda variant, seed: None,
) -> pd.DataFrame:
    """Runs what is missing, and writes the table, the figures and the report.

    Args:
        study: the experiment.
        options: how.
        out: its folder; one that holds other options is refused.
        on_cell: called before a cell is computed.

    Returns:
        the summary: a row for each variant, mean and standard deviation of each metric.

    Raises:
        StudyError: the folder belongs to another study or other options, or a file in it is damaged.
        UserError: another process is at it.
    """
    out = Path(out)
    with one_writer(out):
        return _conduct(study, options, out, on_cell)


def _conduct(study: Study, options: Options, out: Path, on_cell: Callable[[str, int], None]) -> pd.DataFrame:
    _claim(study, options, out)
    cells: dict[str, list[dict[str, Any]]] = {variant: [] for variant in study.variants}
    for seed in range(options.seeds):
        for variant in study.variants:
            path = out / "cells" / f"{variant.replace(' ', '-').replace(',', '')}-{seed}.json"
            if not path.exists():
                on_cell(variant, seed)
                check_own_folder(path.with_suffix(""))
                result = study.run(variant, seed, options, path.with_suffix(""))
                write_atomically(path, (json.dumps(result) + "\n").encode())
            cells[variant].append(_read(path))
    rows = [
        {"variant": variant, "seed": seed} | {k: v for k, v in cell.items() if not isinstance(v, list)}
        for variant, of_seeds in cells.items()
        for seed, cell in enumerate(of_seeds)
    ]
    table = pd.DataFrame(rows)
    write_atomically(out / "table.csv", table.to_csv(index=False).encode())
    figures = study.draw(cells, options, out)
    summary = spread(table)
    write_atomically(out / "report.md", _report(study, options, summary, cells, figures).encode())
    return summary


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_whole(path, MOST_BYTES).decode())
    except (ValueError, RecursionError) as error:
        raise StudyError(f"{path} is damaged ({error}): delete it, and run the study again") from error
    if not isinstance(content, dict) or not content:
        raise StudyError(f"{path} is damaged (no object): delete it, and run the study again")
    return content


@dataclass(frozen=True)
class Difference:
    """How much larger the mean of some seeds' figures is than that of others'.

    low, high: its 95 % interval by Student's t (Welch's, for unequal variances, unless seeds are paired);
    None where a single seed has no spread.
    """

    mean: float
    low: float | None
    high: float | None

    @property
    def certain(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def __str__(self) -> str:
        if self.low is None:
            return f"{self.mean:+.2f} (one seed, so no spread)"
        return f"{self.mean:+.2f} (95 % interval {self.low:+.2f} to {self.high:+.2f})"


def difference(values: ArrayLike, others: ArrayLike, unit: float = 100, paired: bool = False) -> Difference:
    """The difference of the means, times `unit`: 100 gives percentage points of a share.

    paired: each seed's two figures belong together, as they began alike: their differences are looked at.
    """
    a, b = unit * np.asarray(values, float), unit * np.asarray(others, float)
    mean = float(a.mean() - b.mean())
    if len(a) < 2 or len(b) < 2:
        return Difference(mean, None, None)
    if a.std() == b.std() == 0:
        return Difference(mean, mean, mean)
    test = stats.ttest_rel(a, b) if paired else stats.ttest_ind(a, b, equal_var=False)
    interval = test.confidence_interval(0.95)
    return Difference(mean, float(interval.low), float(interval.high))


def spread(table: pd.DataFrame) -> pd.DataFrame:
    """Mean and sample standard deviation of each metric over the seeds, by variant, in the table's order."""
    metrics = [column for column in table.columns if column not in ("variant", "seed")]
    return table.groupby("variant", sort=False)[metrics].agg(["mean", "std"])


def markdown(summary: pd.DataFrame) -> str:
    """A summary as a table: mean ± standard deviation, four digits."""
    metrics = list(dict.fromkeys(summary.columns.get_level_values(0)))
    lines = [f"| variant | {' | '.join(metrics)} |", "| --- |" + " --- |" * len(metrics)]
    for variant, row in summary.iterrows():
        cells = [_number(row[metric, "mean"], row[metric, "std"]) for metric in metrics]
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _number(mean: float, deviation: float) -> str:
    if pd.isna(mean):
        return ""
    if mean == round(mean) and not deviation > 0:  # a count that all seeds share
        return f"{mean:,.0f}"
    return f"{mean:.4g}" if pd.isna(deviation) else f"{mean:.4f} ± {deviation:.4f}"


def _claim(study: Study, options: Options, out: Path) -> None:
    """Makes the folder this study's. The number of seeds may change: the others' cells are kept."""
    asked = {"study": study.name} | {
        name: value for name, value in asdict(options).items() if name not in ("seeds", "data_dir", "device")
    }
    marker = out / "study.json"
    if marker.exists():
        before = _read(marker)
        for name, value in asked.items():
            if before.get(name) != value:
                raise StudyError(
                    f"{out} holds a study with {name} = {before.get(name)!r}, not {value!r}: "
                    "choose another --out"
                )
    elif any(entry.name != LOCK for entry in out.iterdir()):
        raise StudyError(f"{out} holds something else: choose another --out")
    make_own_folder(out / "cells")
    write_atomically(marker, (json.dumps(asked, indent=2) + "\n").encode())


def _seeds(n: int) -> str:
    return "one seed" if n == 1 else f"{n} seeds; mean ± standard deviation"


def _report(
    study: Study, options: Options, summary: pd.DataFrame, cells: Cells, figures: Mapping[str, str]
) -> str:
    command = f"bnn study {study.name} --data {options.data} --seeds {options.seeds}"
    command += f" --epochs {options.epochs} --width {options.width}"
    full = study.full.get(options.data, study.settings[options.data])
    reduced = options.data == "digits" or options.epochs < full.epochs or options.width < full.width
    how = f" (a reduced run: {options.data}, {options.epochs} epochs, width {options.width})" * reduced
    lines = [
        f"# {study.title}{how}",
        "",
        f"{options.data}, {_seeds(options.seeds)}. Weights at test time: {study.weights}. "
        f"{study.note}".rstrip(),
        "",
        f"    {command}",
        "",
        *([f"A long study: {study.long}.", ""] if study.long and options.data != "digits" else []),
        markdown(summary),
        "",
        *(f"- **{variant}**: {text}" for variant, text in study.variants.items()),
        "",
        *study.conclude(summary, cells),
        "",
    ]
    for name, caption in figures.items():
        lines += [f"![{caption}]({name})", "", caption, ""]
    return "\n".join(lines).rstrip() + "\n"
