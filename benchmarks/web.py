"""What an exported page is and does in headless Chromium, beside the runtime on the same images.

    python benchmarks/web.py runs/mnist [--data mnist] [--data-dir DIR] [--n 10000] [--screenshot FILE]

It needs what tests/export/test_export_web_browser.py needs. Times are the page's own, the least of
fifteen medians.
"""

import argparse
import math
import sys
import tempfile
from pathlib import Path

import numpy as np

from bnn.bench.machine import describe
from bnn.data import load_dataset
from bnn.export import export
from bnn.packed.model import PackedModel
from bnn.runtime import Runner
from bnn.tables import table

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from support.browser import Page, start

BUILDS = ("simd", "scalar")
HEAD = ["build", "predictions equal", "difference of scores", "µs an inference"]
CHUNK = 250  # images that are sent to the browser at once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="a .bnn file or a run's folder")
    parser.add_argument("--data", default="mnist", help="whose test images are shown to it")
    parser.add_argument("--data-dir", metavar="DIR")
    parser.add_argument("--n", type=int, default=10_000, help="how many of them")
    parser.add_argument(
        "--screenshot", metavar="FILE", help="a PNG to write, of a 5 that is drawn on the page"
    )
    options = parser.parse_args()
    model = PackedModel.load(options.model)
    images = load_dataset(options.data, options.data_dir).test_inputs[: options.n]
    net = Runner(model)
    truth, expected = net(images), net.predict(images)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "index.html")
        print("\n".join(export(model, "web", path)))
        driver = start(Path(folder, "profile"))
        try:
            page = Page(driver).open(path).wait_for_time()
            parts = [page.predictions(images[k : k + CHUNK], *BUILDS) for k in range(0, len(images), CHUNK)]
            rows = []
            for build, found in zip(BUILDS, zip(*parts, strict=True), strict=True):
                labels, scores = (np.concatenate(list(what)) for what in zip(*found, strict=True))
                difference = np.abs(scores - truth).max() / np.abs(truth).max()
                equal = f"{(labels == expected).sum():,} of {len(images):,}"
                rows.append([build, equal, f"{difference:.1e}", time_of(page, build)])
            print(f"\n{table(HEAD, rows)}\n\n{driver.capabilities['browserVersion']}, {describe()}")
            if options.screenshot:
                Path(options.screenshot).write_bytes(screenshot(page, path))
        finally:
            driver.quit()


def time_of(page: Page, build: str) -> str:
    """The least of fifteen medians: other programs may run beside it."""
    measure = "network.networkOf(args[0]).then((net) => net.measure())"
    times = [page.result_of(measure, build)["microseconds"] for _ in range(15)]
    return f"{min(times):.0f}"


def screenshot(page: Page, path: Path) -> bytes:
    """The page with a drawing on it, as a PNG."""
    metrics = {"width": 980, "height": 980, "deviceScaleFactor": 1.5, "mobile": False}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page.open(path).wait_for_time()
    bowl = [(0.47 + 0.2 * math.sin(t / 20), 0.63 - 0.17 * math.cos(t / 20)) for t in range(-14, 52, 2)]
    page.draw((0.4, 0.2), (0.38, 0.34), (0.36, 0.47), *bowl)
    page.draw((0.4, 0.2), (0.52, 0.2), (0.66, 0.19))
    page.wait("document.getElementById('said').textContent !== ''")
    page.run("document.getElementById('measure').click()")
    page.wait_for_time()
    return page.driver.get_screenshot_as_png()


if __name__ == "__main__":
    main()
