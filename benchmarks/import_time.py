"""How long `import bnn` takes, and loading and running a packed model from a fresh process.

    python benchmarks/import_time.py [MODEL.bnn]

Each line is a process of its own, 15 times after one to warm up; median and quartiles in seconds. Python's
own start is measured beside it, and is in the other figures.
"""

import statistics
import subprocess
import sys
from time import perf_counter

CASES = {"python alone": "pass", "import bnn": "import bnn", "import bnn; bnn.load": "import bnn; bnn.load"}


def seconds(code: str) -> list[float]:
    """Wall seconds of 15 processes that run `code`."""
    times = []
    for _ in range(16):
        start = perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        times.append(perf_counter() - start)
    return times[1:]


def main() -> None:
    cases = dict(CASES)
    if len(sys.argv) > 1:
        cases["load and run one image"] = (
            f"import bnn, numpy; net = bnn.load({sys.argv[1]!r}); "
            "net(numpy.zeros((1, *net.model.input.shape), 'uint8'))"
        )
    for name, code in cases.items():
        low, median, high = statistics.quantiles(seconds(code), n=4)
        print(f"{name:24s} {median:.3f} s  ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
