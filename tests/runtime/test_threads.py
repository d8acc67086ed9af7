"""How many threads there are; calls from many threads at once; processes that fork."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.engines import chain
from support.helpers import Array, model_of, one_of_each, packed_weight, random_floats, random_pixels
from support.paths import TESTS

from bnn.packed.model import PackedModel
from bnn.packed.nodes import Conv2d, Flatten, Linear, MaxPool2d, ReLU, Sign
from bnn.runtime import Runner, threads
from bnn.runtime.native import Engine
from bnn.runtime.threads import available_cores, thread_count


def images() -> PackedModel:
    """With enough to do for several threads in a few samples."""
    return model_of(
        (3, 20, 20),
        *chain(
            partial(Conv2d, weight=packed_weight(64, 3, 3, 3), padding=(1, 1, 1, 1)),
            Sign,
            partial(Conv2d, weight=packed_weight(64, 64, 3, 3)),
            ReLU,
            partial(Conv2d, weight=packed_weight(32, 64, 3, 3)),
            partial(MaxPool2d, kernel=(2, 2), stride=(2, 2)),
            Flatten,
            partial(Linear, weight=random_floats(10, 32 * 64)),
        ),
    )


# --- how many ---------------------------------------------------------------------------------------------


def test_the_argument_comes_before_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """threads=n is n; without it $BNN_NUM_THREADS; without that, or if it is empty, the available cores."""
    monkeypatch.setattr(threads, "available_cores", lambda: 7)
    monkeypatch.setenv("BNN_NUM_THREADS", "5")
    assert thread_count(3) == 3
    assert thread_count() == 5
    monkeypatch.setenv("BNN_NUM_THREADS", "")
    assert thread_count() == 7
    monkeypatch.delenv("BNN_NUM_THREADS")
    assert thread_count() == 7


@pytest.mark.parametrize("count", [0, -1, 1025, 2**31, 2.5, "2"])
def test_a_number_that_is_not_sensible(count: Any) -> None:
    """threads=0 is a ValueError, of the runner as well, whatever the engine."""
    with pytest.raises(ValueError, match=f"threads must be a number from 1 to 1024, not {count!r}"):
        thread_count(count)
    for engine in ("native", "reference"):
        with pytest.raises(ValueError, match="threads must be a number"):
            Runner(one_of_each(), engine, threads=count)


@pytest.mark.parametrize("text", ["0", "-2", "two", "1.5", " 4", "4 ", "²", "0x4", "1e1"])
def test_a_variable_that_is_no_sensible_number(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """$BNN_NUM_THREADS must be a sensible number: else a ValueError that shows it. An argument needs none."""
    monkeypatch.setenv("BNN_NUM_THREADS", text)
    with pytest.raises(ValueError, match="BNN_NUM_THREADS must be a number from 1 to 1024, not") as error:
        thread_count()
    assert repr(text) in str(error.value)
    with pytest.raises(ValueError, match="BNN_NUM_THREADS"):
        Runner(one_of_each())
    assert thread_count(2) == 2


def test_the_runner_hands_them_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runner's threads are the engine's: the argument's, or the variable's."""
    monkeypatch.setenv("BNN_NUM_THREADS", "5")
    counts = []
    for count in (None, 3):
        engine = Runner(one_of_each(), threads=count)._run
        assert isinstance(engine, Engine)
        counts.append(engine.threads)
    assert counts == [5, 3]


def group(folder: Path, **files: str) -> Path:
    """A control group's folder, "cpu__x" for cpu/x, as the kernel shows them."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_max", ".max").replace("cpu_cfs", "cpu.cfs")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + "\n")
    return folder


def v1(quota: str, period: str) -> dict[str, str]:
    return {"cpu__cpu_cfs_quota_us": quota, "cpu__cpu_cfs_period_us": period}


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"cpu_max": "max 100000"}, 8),
        ({"cpu_max": "50000 100000"}, 1),
        ({"cpu_max": "100000 100000"}, 1),
        ({"cpu_max": "100001 100000"}, 2),
        ({"cpu_max": "250000 100000"}, 3),
        ({"cpu_max": "6400000 100000"}, 8),
        ({"cpu_max": "0 100000"}, 8),
        ({"cpu_max": "100000 0"}, 8),
        ({"cpu_max": "100000"}, 8),
        ({"cpu_max": ""}, 8),
        (v1("-1", "100000"), 8),
        (v1("150000", "100000"), 2),
        (v1("20000", "100000"), 1),
        (v1("200000", "0"), 8),
        (v1("none", "100000"), 8),
        ({"cpu__cpu_cfs_quota_us": "100000"}, 8),
        ({"cpu_max": "300000 100000", **v1("100000", "100000")}, 3),
        ({"cpu_max": "what", **v1("100000", "100000")}, 1),
    ],
)
def test_control_groups(
    files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many of eight cores as the group's time makes, rounded up; all where no limit is readable."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert available_cores(group(tmp_path, **files)) == cores


def test_control_groups_within_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process's own group counts, and each that it lies in: the smallest limit holds."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    (tmp_path / "user" / "job").mkdir(parents=True)
    mine = tmp_path / "cgroup"
    mine.write_text("1:name=systemd:/elsewhere\n0::/user/job\n")
    group(tmp_path / "user" / "job", cpu_max="max 100000")
    assert available_cores(tmp_path, mine) == 8
    group(tmp_path / "user", cpu_max="300000 100000")
    assert available_cores(tmp_path, mine) == 3
    group(tmp_path / "user" / "job", cpu_max="150000 100000")
    assert available_cores(tmp_path, mine) == 2
    mine.write_text("0::/\n")
    assert available_cores(tmp_path, mine) == 8
    assert available_cores(tmp_path, tmp_path / "absent") == 8


def test_group_files_lie_where_the_kernel_has_them(tmp_path: Path) -> None:
    """The folders that these tests make are those of control groups 2 and 1."""
    group(tmp_path, cpu_max="max 100000", **v1("1", "2"))
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"cpu.max", "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"}


def test_cores_without_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no affinity all cores count, and at least one where their number is not known."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    for count, cores in ((6, 6), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        assert available_cores(tmp_path) == cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_affinity(tmp_path: Path) -> None:
    """A process that is bound to some cores counts those alone."""
    before = os.sched_getaffinity(0)
    assert available_cores(tmp_path) == len(before)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert available_cores(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, before)


# --- many callers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
def test_many_threads_call_one_model(count: int) -> None:
    """A hundred calls from eight threads, each with its own batch, give what they give one after the other;
    the first of them at once, while nothing is prepared."""
    model = images()
    batches = [random_floats(1 + i % 5, 3, 20, 20, seed=i) for i in range(100)]
    expected = [Engine(model, threads=1)(x) for x in batches[:20]] * 5
    net = Runner(model, threads=count)
    together = threading.Barrier(8)

    def first(x: Array) -> Array:
        together.wait(60)
        return net(x)

    with ThreadPoolExecutor(8) as pool:
        results = [*pool.map(first, batches[:8]), *pool.map(net, (batches[i % 20] for i in range(8, 100)))]
    assert all(np.array_equal(a, b) for a, b in zip(results, expected, strict=True))


def test_models_side_by_side() -> None:
    """Several models, each in several threads, and pixels and floats of one model at once."""
    nets = [Runner(one_of_each(seed), threads=2) for seed in range(3)]
    inputs = [random_pixels(300, 2, 6, 6), random_floats(300, 2, 6, 6)]
    jobs = [(net, x) for net in nets for x in inputs] * 10
    expected = [net(x) for net, x in jobs[:6]] * 10
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda job: job[0](job[1]), jobs))
    assert all(np.array_equal(a, b) for a, b in zip(results, expected, strict=True))


def test_other_threads_run_meanwhile() -> None:
    """A call lets other Python threads run, while no thread is made to let go: one that counts gets on."""
    counted = 0
    done = threading.Event()

    def count() -> None:
        nonlocal counted
        while not done.is_set():
            counted += 1
            time.sleep(0)  # lets go

    def got_on() -> bool:
        before = counted
        engine(x)
        return counted > before

    engine, x = Engine(images()), random_floats(100, 3, 20, 20)
    engine(x[:1])
    thread = threading.Thread(target=count)
    interval = sys.getswitchinterval()
    try:
        sys.setswitchinterval(1000)
        thread.start()
        assert any(got_on() for _ in range(50))  # on a busy machine perhaps not in the first call
    finally:
        done.set()
        sys.setswitchinterval(interval)
        thread.join()


# --- processes --------------------------------------------------------------------------------------------

START = """
import os, signal, sys, threading
from functools import partial
import numpy as np
from support.helpers import model_of, packed_weight, random_floats
from test_threads import images
from bnn.packed.nodes import Linear
from bnn.runtime.native import Engine

model, x = images(), random_floats(9, 3, 20, 20)
alone = Engine(model, threads=1)(x)

def threads_of_this_process():
    return len(os.listdir("/proc/self/task"))

def succeeds(work):
    # whether work() is true in a child of a fork; one that waits for ever is ended
    child = os.fork()
    if not child:
        signal.alarm(250)
        status = 1
        try:
            status = 0 if work() else 1
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0
"""


def run(script: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", START + script],
        env=os.environ | {"PYTHONPATH": f"{TESTS}{os.pathsep}{Path(__file__).parent}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-1:] == ["done"], done.stdout


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in /proc")
def test_threads_are_used_where_there_is_work() -> None:
    """A small call starts no thread; a large one starts all that are allowed, once."""
    run("""
before = threads_of_this_process()
small = model_of((8,), Linear(name="y", inputs=("input",), weight=packed_weight(8, 8)))
Engine(small, threads=8)(random_floats(2, 8))
assert threads_of_this_process() == before
for threads, more in ((1, 0), (3, 2), (3, 2), (8, 7), (2, 7)):
    assert np.array_equal(Engine(model, threads=threads)(x), alone)
    assert threads_of_this_process() == before + more, threads
print("done")
""")


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@needs_fork
def test_a_child_computes_in_threads_of_its_own() -> None:
    """After a fork, before or after the parent had threads, child, grandchild and parent compute on."""
    run("""
early, late = Engine(model, threads=4), Engine(model, threads=4)
assert succeeds(lambda: np.array_equal(early(x), alone))
assert np.array_equal(early(x), alone)
for engine in (early, late):
    for _ in range(3):
        assert succeeds(lambda: np.array_equal(engine(x), alone))
    assert succeeds(lambda: succeeds(lambda: np.array_equal(engine(x), alone)))
    assert succeeds(lambda: np.array_equal(engine(x), alone) and threads_of_this_process() == 4)
    assert np.array_equal(engine(x), alone)
print("done")
""")


@needs_fork
@pytest.mark.parametrize("threads", [1, 4])
def test_a_fork_while_others_compute(threads: int) -> None:
    """A process may fork while its other threads are within a call: the child computes, and nobody waits."""
    run(f"""
small = model_of((16,), Linear(name="y", inputs=("input",), weight=packed_weight(16, 16)))
inputs = [random_floats(5, 16), x]
engines = [Engine(small, threads={threads}), Engine(model, threads={threads})]
expected = [engine(x) for engine, x in zip(engines, inputs)]
stop = threading.Event()

def compute(i):
    while not stop.is_set():
        assert np.array_equal(engines[i](inputs[i]), expected[i])

others = [threading.Thread(target=compute, args=(i,)) for i in (0, 0, 0, 1)]
for thread in others:
    thread.start()
for i in range(150):
    assert succeeds(lambda: np.array_equal(engines[i % 2](inputs[i % 2]), expected[i % 2])), i
stop.set()
for thread in others:
    thread.join()
print("done")
""")
