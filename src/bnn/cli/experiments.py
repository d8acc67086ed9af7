"""`bnn bench`, `bnn study`: what is measured."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from bnn.bench import bench, instruction_sets, model_cases, select, standard_cases
from bnn.cli.models import limits, load_model
from bnn.cli.openmp import spin_briefly
from bnn.cli.text import complain, overwrite, say, show
from bnn.errors import UserError, require
from bnn.files import is_stream, write_atomically
from bnn.runtime.threads import thread_count
from bnn.studies import find

__all__ = ["run_bench", "run_study"]


def run_bench(options: argparse.Namespace) -> int:
    sets = instruction_sets()
    isa = options.isa or os.environ.get("BNN_ISA") or sets[-1]
    if isa not in sets:
        source = "--isa" if options.isa else "BNN_ISA"
        raise UserError(f"{source}: kernels must be one of {', '.join(sets)} on this processor, not {isa!r}")
    thread_count(options.threads)
    if options.repeats < 1:
        raise UserError(f"--repeats {options.repeats}: must be at least 1")
    for path in filter(None, (options.json, options.png)):  # better now than after minutes
        if path.is_dir() or not os.access(path if is_stream(path) else path.parent, os.W_OK):
            raise UserError(f"{path}: cannot be written")
    if options.png:
        require("matplotlib", "bench")
    if options.model:
        skipped: list[str] = []
        cases = model_cases(load_model(options.model, **limits(options))[0].model, isa, options.threads)
    else:
        cases, skipped = standard_cases(isa, options.threads)
    cases = select(cases, options.only)

    def on_case(index: int, case: Any) -> None:
        overwrite(f"{index + 1} of {len(cases)}: {case.name}")

    report = bench(cases, isa, options.threads, options.repeats, skipped, on_case)
    overwrite("")
    show(str(report))
    if options.json:
        text = json.dumps(report.as_dict(), indent=1) + "\n"
        write_atomically(options.json, text.encode(), stream=True)
    if options.png:
        report.draw(options.png)
    for line in report.wrong():
        complain(f"bnn bench: WRONG: {line}")
    return 1 if report.wrong() else 0


def run_study(options: argparse.Namespace) -> int:
    spin_briefly()
    for module in ("torch", "pandas"):
        require(module, "train")
    study = find(options.name)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError("a study runs in one process: start it without torchrun")
    from bnn.studies.study import conduct, markdown

    asked = {name: getattr(options, name) for name in ("seeds", "epochs", "width")}
    settings = study.options(options.data, options.data_dir, options.device, **asked)
    if study.takes_device:
        from bnn.training.distributed import check_device

        check_device(settings.device)  # before a folder is made
    out = Path(options.out or Path("studies") / f"{options.name}-{options.data}")

    def on_cell(variant: str, seed: int) -> None:
        complain(f"{variant}, seed {seed}")

    if study.long and options.data != "digits":
        complain(f"a long study: {study.long}")
    show(f"{study.title}\n\n{markdown(conduct(study, settings, out, on_cell))}\n")
    say(f"in {out}: report.md")
    return 0
