"""Our engine and others on the same inputs: whether they agree, and how long each takes."""

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn.bench.cases import Case
from bnn.bench.machine import installed, native
from bnn.bench.timing import Timing, measure, rouse
from bnn.bench.twins import onnx_twin, torch_twin
from bnn.errors import require
from bnn.packed.model import PackedModel
from bnn.packed.nodes import Conv2d, Node, Sign
from bnn.runtime import reference

__all__ = ["ONE_THREAD", "RIVALS", "Agreement", "Result", "Rival", "run_case"]

Array = NDArray[Any]

RIVALS = ("torch float32", "torch bfloat16", "onnxruntime float32", "onnxruntime int8")
ONE_THREAD = "ours, 1 thread"

FLOAT32 = 1e-4  # relative to the largest magnitude: the same sums in another order
INT8 = 1e-5  # the sums are exact, what follows is rounded
REFERENCE_ROWS = 4  # it is slow


@dataclass(frozen=True)
class Agreement:
    """How far two outputs lie apart, relative to the largest magnitude, and may; None: that is not judged."""

    difference: float
    allowed: float | None

    @property
    def holds(self) -> bool:
        return self.allowed is None or self.difference <= self.allowed  # NaN does not


@dataclass(frozen=True)
class Rival:
    """Another runtime on a case, in one memory layout or in several, of which the fastest counts."""

    timings: Mapping[str, Timing]
    agreement: Agreement

    @property
    def layout(self) -> str:
        return min(self.timings, key=lambda layout: self.timings[layout].median)

    @property
    def timing(self) -> Timing:
        return self.timings[self.layout]


@dataclass(frozen=True)
class Result:
    """A case's figures. `agreement` is with our reference; a rival that is None is not installed.

    memory: bytes of prepared weights and arena, for this batch; file: bytes of the model's .bnn file.
    """

    case: Case
    ours: Timing
    memory: int
    file: int
    of_peak: float | None
    agreement: Agreement
    rivals: Mapping[str, Rival | None]

    @property
    def ratios(self) -> dict[str, float]:
        """Each rival's time over ours: above 1, one bit is faster."""
        return {name: r.timing.median / self.ours.median for name, r in self.rivals.items() if r}

    def wrong(self) -> list[str]:
        """A line for each disagreement."""
        others = {name: rival.agreement for name, rival in self.rivals.items() if rival}
        return [
            f"{self.case.name}: differs from {name} by {a.difference:.2g} of the largest magnitude; "
            f"{a.allowed:g} is allowed"
            for name, a in {"our reference": self.agreement, **others}.items()
            if not a.holds
        ]


def run_case(case: Case, repeats: int, peaks: Mapping[str, float]) -> Result:
    """Compares and measures.

    Args:
        case: what to run.
        repeats: of the timing.
        peaks: multiply-accumulates a second that a core does at best with the case's kernels, by loop.
    """
    x = case.input()
    engine = partial(native().Engine, case.model, case.activations, isa=case.isa)
    our_engine = engine(threads=case.threads)
    ours = partial(our_engine, x)
    y = ours()
    with _torch(case, x) as torch_runs:
        runs = {**torch_runs, **_onnxruntime(case, x)}
        if case.beside_one_thread:
            runs[ONE_THREAD] = _Run({"contiguous": partial(engine(threads=1), x)}, 0.0)
        functions: dict[tuple[str, str], Callable[[], Any]] = {("ours", ""): ours}
        for name, run in runs.items():
            functions |= {(name, layout): call for layout, call in run.calls.items()} if run else {}
        agreements = {name: run.agreement(y) for name, run in runs.items() if run}
        timings = measure(functions, repeats, rouse if case.threads > 1 else None)
    rivals: dict[str, Rival | None] = dict.fromkeys(runs)
    for name, agreement in agreements.items():
        rivals[name] = Rival({k[1]: timing for k, timing in timings.items() if k[0] == name}, agreement)
    ours_took = timings["ours", ""]
    memory = our_engine.plan(x.dtype).bytes(case.batch, case.threads)
    of_peak = _of_peak(case, ours_took, peaks)
    return Result(
        case, ours_took, memory, _file_bytes(case.model), of_peak, _with_reference(case, x, y), rivals
    )


def _file_bytes(model: PackedModel) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.bnn"
        model.save(path)
        return path.stat().st_size


def _of_peak(case: Case, ours: Timing, peaks: Mapping[str, float]) -> float | None:
    """The time that the multiply-accumulates take at best over the time they took; None: no such loop."""
    best = 0.0
    for loop, macs in case.macs().items():
        if not peaks.get(loop):
            return None
        best += macs / peaks[loop]
    return best / (ours.median * case.threads) if best else None


# --- agreement --------------------------------------------------------------------------------------------


def _difference(ours: Array, theirs: Array) -> float:
    largest = float(np.abs(theirs).max()) or 1.0
    return float(np.abs(ours - theirs).max()) / largest


def _with_reference(case: Case, x: Array, y: Array) -> Agreement:
    want = reference.run(case.model, x[:REFERENCE_ROWS], case.activations)
    # Where a sign is taken of a float32 about 0, it is a matter of luck.
    scales = [getattr(node, "scale", None) for node in _signed(case.model)]
    rough = any(scale is None or scale.dtype != np.float64 for scale in scales)
    allowed = None if rough else _tolerance(case)
    return Agreement(_difference(y[:REFERENCE_ROWS], want), allowed)


def _tolerance(case: Case) -> float:
    if case.model.kinds[case.model.output.name] in ("int", "sign"):
        return 0.0
    return INT8 if case.activations == "int8" else FLOAT32


def _others_tolerance(case: Case) -> float | None:
    """The tolerance of runtimes in float32; all signs of floats are a matter of luck with them."""
    return None if case.activations == "int8" or _signed(case.model) else _tolerance(case)


def _signed(model: PackedModel) -> list[Node]:
    """The nodes that give floats of which a sign is taken."""
    nodes = {node.name: node for node in model.nodes}
    sources = [node.inputs[0] for node in model.nodes if isinstance(node, Sign)]
    return [nodes[source] for source in sources if model.kinds[source] == "float"]


# --- others -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    """Calls that give the output, by memory layout, and how far it may be from ours."""

    calls: Mapping[str, Callable[[], Any]]
    allowed: float | None

    def agreement(self, ours: Array) -> Agreement:
        differences = [_difference(ours, np.asarray(call())) for call in self.calls.values()]
        return Agreement(float(np.max(differences)), self.allowed)


@contextmanager
def _torch(case: Case, x: Array) -> Iterator[dict[str, _Run | None]]:
    """PyTorch's calls, for use inside the context, which sets its threads and its mode."""
    torch: Any = installed("torch")
    if torch is None:
        yield dict.fromkeys(RIVALS[:2])
        return
    model = case.twin or case.model
    convolves = x.ndim == 4 and any(isinstance(node, Conv2d) for node in model.nodes)
    plain: dict[str, Callable[[], Any]] = {}
    half: dict[str, Callable[[], Any]] = {}
    for layout in ("contiguous", "channels_last") if convolves else ("contiguous",):
        tensor = torch.from_numpy(x)
        if layout == "channels_last":
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        plain[layout] = partial(torch_twin(model, "float32", layout == "channels_last"), tensor)
        half[layout] = _converting(torch_twin(model, "bfloat16", layout == "channels_last"), tensor)
    threads = torch.get_num_threads()
    torch.set_num_threads(case.threads)
    try:
        with torch.inference_mode():
            yield {RIVALS[0]: _Run(plain, _others_tolerance(case)), RIVALS[1]: _Run(half, None)}
    finally:
        torch.set_num_threads(threads)


def _converting(twin: Callable[[Any], Any], tensor: Any) -> Callable[[], Any]:
    """From float32 to bfloat16 and back, as our engine packs its inputs."""
    return lambda: twin(tensor.bfloat16()).float()


def _onnxruntime(case: Case, x: Array) -> dict[str, _Run | None]:
    if not (installed("onnxruntime") and installed("onnx")):
        return dict.fromkeys(RIVALS[2:])
    model = case.twin or case.model
    proto = onnx_twin(model)
    plain = _session(proto, case.threads, x)
    runs: dict[str, _Run | None] = {RIVALS[2]: _Run({"contiguous": plain}, _others_tolerance(case))}
    # It has integer convolutions only for models calibrated with data.
    if not any(isinstance(node, Conv2d) for node in model.nodes):
        runs[RIVALS[3]] = _Run({"contiguous": _session(_quantized(proto), case.threads, x)}, None)
    return runs


def _session(proto: bytes, threads: int, x: Array) -> Callable[[], Array]:
    ort: Any = require("onnxruntime", "bench")
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = ort.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"input": x})[0]


def _quantized(proto: bytes) -> bytes:
    """Weights of 8 bits; activations are quantized at each call."""
    onnx: Any = require("onnx", "bench")
    quantization: Any = require("onnxruntime.quantization", "bench")
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it advises a step for shapes, which the twin has
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "int8.onnx"
            weights = quantization.QuantType.QInt8
            quantization.quantize_dynamic(onnx.load_model_from_string(proto), path, weight_type=weights)
            return path.read_bytes()
    finally:
        logging.disable(disabled)
