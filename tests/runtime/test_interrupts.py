"""A long run of the engine is left at Ctrl-C, and the plan is of use after that."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys, threading, time
import numpy as np
import bnn
from bnn.packed.model import PackedModel
from bnn.packed.nodes import InputContract, MaxPool2d

def net_of(side, threads):
    pool = MaxPool2d(name="p", inputs=("input",), kernel=(side // 2,) * 2, stride=(1, 1))
    return bnn.Runner(PackedModel(InputContract((4, side, side)), (pool,)), threads=threads, max_work=None)

def interrupted(call):
    timer = threading.Timer(0.5, signal.raise_signal, [signal.SIGINT])
    started = time.monotonic()
    timer.start()
    try:
        call()
    except KeyboardInterrupt:
        assert time.monotonic() - started < 60  # of hours
        return True
    finally:
        timer.join()
    return False

threads = int(sys.argv[1])
net = net_of(1500, threads)
x = np.zeros((2, 4, 1500, 1500), np.float32)
"""


def run(threads: int, program: str) -> str:
    """What a program prints that begins as above."""
    command = [sys.executable, "-c", PROGRAM + program, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


THREADS = pytest.mark.parametrize("threads", [1, 3])


@THREADS
def test_a_plan_is_of_use_after_ctrl_c(threads: int) -> None:
    """Left two times in the middle, a network gives after that what it gave before, and so do others."""
    program = """
few = np.random.default_rng(0).standard_normal((3, 4, 100, 100)).astype(np.float32)
small, largest = net_of(100, threads), []
before = small(few)
for _ in range(2):
    assert interrupted(lambda: net(x))
    assert np.array_equal(small(few), before)
mine = net_of(120, threads)
assert np.array_equal(mine(np.ones((20, 4, 120, 120), np.float32)), np.ones((20, 4, 61, 61)))
print("sound")
"""
    assert run(threads, program) == "sound\n"


@THREADS
def test_a_handler_may_go_on(threads: int) -> None:
    """A signal whose handler raises nothing leaves the run alone, and one that raises is seen as it is."""
    program = """
seen = []
signal.signal(signal.SIGINT, lambda *_: seen.append(1))
middle = net_of(200, threads)
timer = threading.Timer(0.05, signal.raise_signal, [signal.SIGINT])
timer.start()
y = middle(np.ones((4, 4, 200, 200), np.float32))
timer.join()
assert (y == 1).all()
signal.signal(signal.SIGINT, lambda *_: 1 / 0)
threading.Timer(0.5, signal.raise_signal, [signal.SIGINT]).start()
try:
    net(x)
except ZeroDivisionError:
    print("raised", len(seen))
"""
    assert run(threads, program) == "raised 1\n"


@THREADS
def test_runs_of_other_threads(threads: int) -> None:
    """A run in another thread does not disturb one in the main thread, whose Ctrl-C is its own."""
    program = """
other, result = net_of(160, threads), []
def serve():
    result.append(other(np.ones((12, 4, 160, 160), np.float32)))
thread = threading.Thread(target=serve)
thread.start()
assert interrupted(lambda: net(x))
thread.join()
assert (result[0] == 1).all()
print("sound")
"""
    assert run(threads, program) == "sound\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@THREADS
def test_after_fork(threads: int) -> None:
    """The child of an interrupted process can be interrupted as well, and runs after that."""
    program = """
assert interrupted(lambda: net(x))
child = os.fork()
if child == 0:
    fine = interrupted(lambda: net(x))
    y = net_of(100, threads)(np.ones((20, 4, 100, 100), np.float32))
    os._exit(0 if fine and (y == 1).all() else 1)
assert os.waitpid(child, 0)[1] == 0
print("sound")
"""
    assert run(threads, program) == "sound\n"


@pytest.mark.parametrize("side", [20, 1500])
@THREADS
def test_the_process_ends_while_a_daemon_runs(threads: int, side: int) -> None:
    """Short runs, of which one always ends just then, and one that would take hours: the exit status is 0."""
    program = f"""
net, x = net_of({side}, threads), np.zeros((2, 4, {side}, {side}), np.float32)
def serve():
    while True:
        net(x)
for _ in range(3):
    threading.Thread(target=serve, daemon=True).start()
time.sleep(0.5)
print("ended")
"""
    assert run(threads, program) == "ended\n"
