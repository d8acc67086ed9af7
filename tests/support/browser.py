"""Headless Chromium, for tests of exported pages."""

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",  # tests may run as root, in a container
    "--disable-gpu",
    "--hide-scrollbars",
    "--disable-dev-shm-usage",
    "--no-first-run",
    # It shall ask nobody for anything: a test looks at what it loads.
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SECONDS = 120  # a machine may be busy

needs_compiler = pytest.mark.skipif(
    not (shutil.which("clang") and shutil.which("wasm-ld")),
    reason="needs clang and wasm-ld, which `.ci/web` installs",
)


def start(profile: Path) -> webdriver.Chrome:
    """A browser; skips, and says so, where there is none."""
    browser = next(filter(None, map(shutil.which, CHROMIUM)), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("needs Chromium and chromedriver, which `.ci/web` installs")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(driver))  # with both paths it downloads neither


class Page:
    """An exported page in a browser."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(self, path: Path, fragment: str = "") -> "Page":
        """Loads it anew, and waits until it can be used."""
        self.driver.get("about:blank")  # else another fragment would load nothing
        self.driver.get_log("performance")
        self.driver.get_log("browser")
        self.driver.get(path.as_uri() + fragment)
        self.wait("window.network !== undefined")
        return self

    def wait_for_time(self) -> "Page":
        """Until the page has measured its network."""
        self.wait("document.getElementById('measure').disabled === false")
        return self

    def wait(self, condition: str) -> None:
        WebDriverWait(self.driver, SECONDS, poll_frequency=0.05).until(
            lambda _: self.run(f"return {condition}")
        )

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def result_of(self, expression: str, *arguments: Any) -> Any:
        """The value of an expression that may be a promise; `args` are the arguments."""
        script = (
            "const done = arguments[arguments.length - 1], args = [...arguments];"
            f"Promise.resolve().then(() => ({expression})).then(done, (e) => done({{ error: String(e) }}))"
        )
        self.driver.set_script_timeout(SECONDS)
        value = self.driver.execute_async_script(script, *arguments)
        assert not (isinstance(value, dict) and "error" in value), value
        return value

    def predictions(
        self, images: NDArray[np.uint8], *builds: str
    ) -> list[tuple[list[int], NDArray[np.float64]]]:
        """Labels and scores, of each of these builds."""
        results = self.result_of(
            """Promise.all(args[1].map(async (build) => {
                 const net = await network.networkOf(build);
                 return args[0].map((image) => net.predict(image));
               }))""",
            images.reshape(len(images), -1).tolist(),
            builds,
        )
        return [([r["label"] for r in found], np.array([r["scores"] for r in found])) for found in results]

    def text(self, name: str) -> str:
        return self.driver.find_element(By.ID, name).get_attribute("textContent") or ""

    def scores(self) -> list[str]:
        """As the bars say them to a screen reader."""
        return self.run("return [...document.querySelectorAll('.bar')].map((bar) => bar.ariaLabel)")

    def seen(self) -> NDArray[np.uint8]:
        """The pixels that the page shows as the network's input: (height, width, 3)."""
        rgba, height, width = self.run(
            "const c = document.getElementById('seen');"
            "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
            "return [Array.from(d), c.height, c.width]"
        )
        return np.array(rgba, np.uint8).reshape(height, width, 4)[:, :, :3]

    def draw(self, *places: tuple[float, float], device: str = "mouse") -> None:
        """A stroke over the paper, its places from 0 to 1; waits for the frame that shows it."""
        paper = self.driver.find_element(By.ID, "paper")
        width, height = paper.size["width"], paper.size["height"]
        offsets = [(int((x - 0.5) * width), int((y - 0.5) * height)) for x, y in places]
        actions = ActionChains(self.driver, duration=10)
        if device == "mouse":
            actions.move_to_element_with_offset(paper, *offsets[0]).click_and_hold()
            for offset in offsets[1:]:
                actions.move_to_element_with_offset(paper, *offset)
            actions.release().perform()
        else:
            self.touch(paper, offsets)
        self.frame()

    def touch(self, paper: Any, offsets: Sequence[tuple[int, int]]) -> None:
        """The same by a finger."""
        box = self.run(
            "const r = arguments[0].getBoundingClientRect(); return [r.x, r.y, r.width, r.height]", paper
        )
        points = [{"x": box[0] + box[2] / 2 + x, "y": box[1] + box[3] / 2 + y} for x, y in offsets]
        for kind, point in zip(["touchStart"] + ["touchMove"] * (len(points) - 1), points, strict=True):
            self.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
        self.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    def keys(self, *keys: str) -> None:
        """Typed into what has the focus."""
        actions = ActionChains(self.driver)
        for key in keys:
            actions.send_keys(key)
        actions.perform()
        self.frame()

    def frame(self) -> None:
        """Until the next frame has been shown."""
        self.result_of("new Promise((done) => requestAnimationFrame(() => setTimeout(() => done(0))))")

    def requests(self) -> list[str]:
        """Addresses of all that was asked for since the page was opened."""
        entries = (json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance"))
        return [e["params"]["request"]["url"] for e in entries if e["method"] == "Network.requestWillBeSent"]

    def complaints(self) -> list[str]:
        """What the browser's console has."""
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page in a browser of its own."""
    driver = start(tmp_path_factory.mktemp("chromium"))
    yield Page(driver)
    driver.quit()
