"""Estimators and quantizers that are not BinaryConnect's: each against its paper's formula."""

import copy
import functools
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.paths import DOCS
from torch import Tensor, nn

from bnn.binarization import binarize, latent_parameters, load_float_state_dict
from bnn.freezing import freeze
from bnn.functional import (
    StraightThrough,
    approx_ste,
    clipped_ste,
    progressive_ste,
    sign,
    swish_ste,
    tanh_ste,
    without_copy,
)
from bnn.packed.nodes import Linear, PackedWeight
from bnn.packing.packing import pack
from bnn.quantizers import (
    DoReFa,
    MagnitudeAwareSign,
    ProgressiveSign,
    Sign,
    Ternary,
    set_progress,
)
from bnn.runtime import Runner

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]

numbers = st.floats(-1e4, 1e4)
rows = st.lists(st.lists(st.floats(-10, 10, width=32), min_size=5, max_size=5), min_size=1, max_size=4)


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


# --- what the papers say, number by number ----------------------------------------------------------------


def approx(x: Tensor) -> Tensor:
    """ApproxSign, of Bi-Real Net."""
    inside = torch.where(x < 0, 2 * x + x**2, 2 * x - x**2)
    return torch.where(x.abs() < 1, inside, sign(x))


def approx_slope(x: float) -> float:
    if -1 <= x < 0:
        return 2 + 2 * x
    return 2 - 2 * x if 0 <= x < 1 else 0.0


def swish(x: Tensor, beta: float) -> Tensor:
    """SignSwish, of BNN+."""
    s = (beta * x).sigmoid()
    return 2 * s * (1 + beta * x * (1 - s)) - 1


def swish_slope(x: float, beta: float) -> float:
    z = beta * x
    if abs(z) > 700:  # cosh would overflow
        return 0.0
    return beta * (2 - z * math.tanh(z / 2)) / (1 + math.cosh(z))


def softened(x: Tensor, progress: float) -> Tensor:
    """k tanh(t x), of IR-Net."""
    t = 0.1 * 100**progress
    return max(1 / t, 1) * (t * x).tanh()


def softened_slope(x: float, progress: float) -> float:
    t = 0.1 * 100**progress
    return max(1 / t, 1) * t * (1 - math.tanh(t * x) ** 2)


Case = tuple[StraightThrough, Callable[[Tensor], Tensor], Callable[[float], float]]

# An estimator, what it is the derivative of, and that derivative.
CASES: dict[str, Case] = {
    "approx": (approx_ste, approx, approx_slope),
    "swish": (
        swish_ste,
        functools.partial(swish, beta=5.0),
        functools.partial(swish_slope, beta=5.0),
    ),
    "swish, beta 2": (
        functools.partial(swish_ste, beta=2.0),
        functools.partial(swish, beta=2.0),
        functools.partial(swish_slope, beta=2.0),
    ),
    **{
        f"progressive at {progress}": (
            functools.partial(progressive_ste, progress=progress),
            functools.partial(softened, progress=progress),
            functools.partial(softened_slope, progress=progress),
        )
        for progress in (0.0, 0.3, 0.5, 0.8, 1.0)
    },
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
each_estimator = pytest.mark.parametrize("ste", [case[0] for case in CASES.values()], ids=CASES)


def gradient(function: Callable[[Tensor], Tensor], x: Tensor, upstream: Tensor | None = None) -> Tensor:
    x = x.detach().clone().requires_grad_()
    y = function(x)
    y.backward(torch.ones_like(y) if upstream is None else upstream)
    assert x.grad is not None
    return x.grad


def slopes(ste: StraightThrough, x: Tensor) -> Tensor:
    return gradient(lambda x: ste(x, sign(x)), x)


# --- estimators -------------------------------------------------------------------------------------------


@each_case
@given(xs=st.lists(numbers | st.floats(-3, 3), min_size=1, max_size=30))
def test_gradients_are_the_papers_formulas(case: Case, xs: list[float]) -> None:
    """Backward, the gradient of each entry is the paper's derivative there times what comes in."""
    ste, _, slope = case
    x, upstream = torch.tensor(xs, dtype=torch.float64), torch.arange(1.0, len(xs) + 1, dtype=torch.float64)
    expected = upstream * torch.tensor([slope(v) for v in xs], dtype=torch.float64)
    found = gradient(lambda x: ste(x, sign(x)), x, upstream)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-5)


@each_case
def test_gradients_are_differences(case: Case) -> None:
    """The derivative is that of the function which the paper names, by central differences."""
    ste, function, _ = case
    x, h = torch.linspace(-4, 4, 2001, dtype=torch.float64), 1e-5
    differences = (function(x + h) - function(x - h)) / (2 * h)
    torch.testing.assert_close(slopes(ste, x), differences, rtol=1e-6, atol=5e-5)


@each_case
def test_gradients_add_up_to_the_step(case: Case) -> None:
    """Integrated numerically, the derivative gives that function's rise, for most the sign's 2."""
    ste, function, _ = case
    for low, high in ((-40.0, 40.0), (-0.7, 0.2)):
        x = torch.linspace(low, high, 400_001, dtype=torch.float64)
        ends = function(torch.tensor([low, high], dtype=torch.float64))
        area = torch.trapezoid(slopes(ste, x), x)
        assert area.item() == pytest.approx((ends[1] - ends[0]).item(), abs=1e-5)
    if "progressive" not in str(ste):
        assert torch.allclose(function(torch.tensor([-40.0, 40.0])), torch.tensor([-1.0, 1.0]))


@each_case
def test_gradients_are_right_in_first_and_second_order(case: Case) -> None:
    """With the function itself as the value PyTorch's checks of both orders hold: they differentiate it."""
    ste, function, _ = case
    x = torch.tensor([-2.5, -0.8, -0.3, 0.1, 0.45, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: ste(x, function(x)), (x,))
    assert torch.autograd.gradgradcheck(lambda x: ste(x, function(x)), (x,))


@each_case
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(case: Case, dtype: torch.dtype) -> None:
    """In each dtype the gradients are the formula's to a few roundings of the largest."""
    ste, _, slope = case
    x = torch.linspace(-3, 3, 601).to(dtype)
    expected = torch.tensor([slope(v) for v in x.tolist()], dtype=torch.float64)
    found = slopes(ste, x)
    assert found.dtype == dtype
    # Progress and t are float32 throughout: hence the last term.
    assert (found.double() - expected).abs().max() <= 4 * torch.finfo(dtype).eps * expected.max() + 5e-7


@each_estimator
@pytest.mark.parametrize("dtype", DTYPES)
def test_extremes(ste: StraightThrough, dtype: torch.dtype) -> None:
    """However large x is the gradient is a number, and 0 at the end; a NaN gives NaN."""
    largest = torch.finfo(dtype).max
    x = torch.tensor([1e3, 1e4, 6e4, largest, math.inf], dtype=dtype)
    for far in (x, -x):
        assert slopes(ste, far).tolist() == [0.0] * 5
    tiny = torch.finfo(dtype).smallest_normal
    near = torch.tensor([0.0, -0.0, tiny, -tiny], dtype=dtype)
    assert slopes(ste, near).unique().numel() == 1  # no jump at 0
    assert slopes(ste, torch.tensor([math.nan], dtype=dtype)).isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_approx_at_its_corners(dtype: torch.dtype) -> None:
    """ApproxSign's slope is 2 at 0 and 0 at ±1 and beyond, and not yet 0 just inside."""
    eps = torch.finfo(dtype).eps
    x = torch.tensor([-1 - eps, -1, -1 + eps, -0.5, 0, 0.5, 1 - eps, 1, 1 + eps], dtype=dtype)
    assert slopes(approx_ste, x).tolist() == [0, 0, 2 * eps, 1, 2, 1, 2 * eps, 0, 0]


def test_swish_at_its_corners() -> None:
    """SignSwish's slope is beta at 0, and changes sign where |z| = 2.3994, the root of z tanh(z / 2) = 2."""
    for beta in (1.0, 5.0, 20.0):
        x = torch.tensor([0.0, 2.399, 2.400, -2.399, -2.400], dtype=torch.float64) / beta
        found = slopes(functools.partial(swish_ste, beta=beta), x)
        assert found[0] == beta
        assert found.sign().tolist() == [1, 1, -1, 1, -1]


def test_progress_goes_from_the_identity_by_way_of_tanh() -> None:
    """On [-1, 1] the slope is 1 to 1 % at progress 0, tanh's to the bit at 1/2, a peak of 10 at 1."""
    x = torch.linspace(-1, 1, 201)
    start, middle, end = (slopes(functools.partial(progressive_ste, progress=p), x) for p in (0.0, 0.5, 1.0))
    assert ((start - 1).abs() < 0.01).all()
    assert torch.equal(middle, slopes(tanh_ste, x))
    assert end[100] == 10
    assert (end[x.abs() > 0.5] < 0.002).all()


def test_progress_as_a_tensor() -> None:
    """A tensor of one entry, of any float dtype, says the same as a number, and gets no gradient."""
    x = torch.linspace(-1, 1, 21)
    expected = slopes(functools.partial(progressive_ste, progress=0.75), x)
    for dtype in DTYPES:
        progress = torch.tensor(0.75, dtype=dtype, requires_grad=True)
        assert torch.equal(slopes(functools.partial(progressive_ste, progress=progress), x), expected)
        assert progress.grad is None


@each_estimator
@pytest.mark.parametrize("dtype", DTYPES)
def test_value_is_exact_and_ones_own(ste: StraightThrough, dtype: torch.dtype) -> None:
    """Forward is `value` to the bit, in memory of its own, and no gradient reaches it."""
    x = torch.tensor([1e-3, 3.3, -0.7, 0.0], dtype=dtype, requires_grad=True)
    value = torch.tensor([-1.0, 1.0, 0.3, -1.0], dtype=dtype, requires_grad=True)
    y = ste(x, value)
    assert y.dtype == dtype
    assert torch.equal(y, value)
    assert y.data_ptr() != value.data_ptr()
    y.sum().backward()
    assert value.grad is None


@pytest.mark.parametrize("ste", [approx_ste, swish_ste])
def test_quantizers_hand_signs_on_without_a_copy(ste: StraightThrough) -> None:
    """For a value that nobody else holds the result takes its memory; gradients are the same."""
    x = torch.linspace(-1, 1, 21)
    value = sign(x)
    assert without_copy(ste)(x, value).data_ptr() == value.data_ptr()
    assert without_copy(progressive_ste)(x, value, 0.5).data_ptr() == value.data_ptr()
    assert torch.equal(slopes(without_copy(ste), x), slopes(ste, x))


@each_estimator
def test_shapes(ste: StraightThrough) -> None:
    """Scalars and empty tensors as well."""
    for shape in ((), (0,), (3, 0, 2), (2, 3)):
        assert slopes(ste, torch.full(shape, 0.25)).shape == shape


@each_estimator
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_vmap_and_grad(ste: StraightThrough) -> None:
    """torch.func's vmap, grad, and vmap of grad give what plain autograd gives row by row."""
    weights = torch.arange(1.0, 5.0)

    def loss(x: Tensor) -> Tensor:
        return (ste(x, sign(x)) * weights).sum()

    x = torch.tensor([[0.5, -0.5, 2.0, -2.0], [1.0, -1.0, 0.0, 9.0], [3.0, 0.1, -0.1, -3.0]])
    by_row = torch.stack([gradient(lambda x: ste(x, sign(x)), row, weights) for row in x])
    assert torch.equal(torch.func.vmap(lambda row: ste(row, sign(row)))(x), sign(x))
    assert torch.equal(torch.func.grad(loss)(x[0]), by_row[0])
    assert torch.allclose(torch.func.vmap(torch.func.grad(loss))(x), by_row, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("quantizer", [Sign(approx_ste), Sign(swish_ste), ProgressiveSign(0.7)])
def test_compiled_is_eager(quantizer: nn.Module) -> None:
    """torch.compile takes each as one graph, with equal signs and gradients."""
    torch._dynamo.reset()
    x = torch.linspace(-2, 2, 101)
    compiled = torch.compile(quantizer, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), quantizer(x))
    assert torch.allclose(gradient(compiled, x), gradient(quantizer, x), rtol=1e-6)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_progress_needs_no_new_compilation() -> None:
    """Compiled once, a ProgressiveSign follows its progress."""
    torch._dynamo.reset()
    quantizer, x = ProgressiveSign(), torch.linspace(-2, 2, 101)
    compiled = torch.compile(quantizer, backend="aot_eager", fullgraph=True)
    before = gradient(compiled, x)
    with torch.compiler.set_stance("fail_on_recompile"):
        set_progress(quantizer, 0.9)
        after = gradient(compiled, x)
    assert not torch.equal(after, before)
    assert torch.allclose(after, gradient(quantizer, x), rtol=1e-6)


# --- ProgressiveSign --------------------------------------------------------------------------------------


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("training", [True, False])
def test_progressive_sign_is_a_sign_forward(progress: float, training: bool) -> None:
    """At any progress, in train() and eval(), the value is the sign, the gradient progressive_ste's."""
    quantizer = ProgressiveSign(progress).train(training)
    x = torch.tensor([-3.0, -0.5, -0.0, 0.0, 0.5, 3.0])
    assert torch.equal(quantizer(x), sign(x))
    expected = slopes(functools.partial(progressive_ste, progress=progress), x)
    assert torch.equal(gradient(quantizer, x), expected)


def progressive_network() -> nn.Sequential:
    net = nn.Sequential(
        nn.Linear(8, 6), ProgressiveSign(), nn.Linear(6, 4), ProgressiveSign(), nn.Linear(4, 2)
    )
    return binarize(net, ProgressiveSign)


def test_set_progress_reaches_all() -> None:
    """It sets that of activations and weights, shared or each its own, in a network or a quantizer."""
    net = progressive_network()
    set_progress(net, 0.4)
    found = [m.progress.item() for m in net.modules() if isinstance(m, ProgressiveSign)]
    assert found == [pytest.approx(0.4)] * 5
    shared = ProgressiveSign(0.1)
    net = binarize(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), shared)
    set_progress(net, 1)
    assert shared.progress == 1
    set_progress(shared, 0.0)
    assert shared.progress == 0


@pytest.mark.parametrize("progress", [-0.1, 1.01, math.nan, math.inf])
def test_progress_out_of_range(progress: float) -> None:
    """Progress is from 0 to 1; anything else is an error and changes nothing."""
    quantizer = ProgressiveSign(0.5)
    with pytest.raises(ValueError, match=f"progress must be from 0 to 1, not {progress}"):
        set_progress(quantizer, progress)
    with pytest.raises(ValueError, match="progress must be from 0 to 1"):
        ProgressiveSign(progress)
    assert quantizer.progress == 0.5


def test_progress_of_nothing() -> None:
    """A model without a ProgressiveSign has no progress to set: most likely a mistake."""
    with pytest.raises(ValueError, match="the model has no ProgressiveSign"):
        set_progress(binarize(nn.Linear(2, 2)), 0.5)


def test_checkpoints_keep_progress(tmp_path: Path) -> None:
    """A state dict holds it, by file as well; a copy has its own; a float model's weights leave it alone."""
    net = progressive_network()
    set_progress(net, 0.75)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    other, twin = progressive_network(), copy.deepcopy(net)
    set_progress(net, 1.0)
    other.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True))
    for loaded in (other, twin):
        assert loaded[1].progress == loaded[0].parametrizations.weight[0].quantizer.progress == 0.75
    float_net = nn.Sequential(nn.Linear(8, 6))
    weights = binarize(nn.Sequential(nn.Linear(8, 6)), lambda: ProgressiveSign(0.75))
    load_float_state_dict(weights, float_net.state_dict())
    assert weights[0].parametrizations.weight[0].quantizer.progress == 0.75


def test_progress_in_a_model_of_low_precision() -> None:
    """A model turned into bfloat16 takes its progress with it, rounded, and gives gradients of that dtype."""
    quantizer = ProgressiveSign(0.3).bfloat16()
    x = torch.linspace(-1, 1, 21, dtype=torch.bfloat16)
    found = gradient(quantizer, x)
    assert found.dtype == torch.bfloat16
    assert (found - slopes(functools.partial(progressive_ste, progress=0.3), x)).abs().max() < 0.02


def test_repr() -> None:
    """A printed quantizer says how it is set."""
    assert repr(ProgressiveSign(0.25)) == "ProgressiveSign(progress=0.25)"
    assert repr(MagnitudeAwareSign(clipped_ste)) == "MagnitudeAwareSign(ste=clipped_ste)"
    assert repr(Ternary()) == "Ternary(ste=identity_ste)"
    assert repr(DoReFa(3)) == "DoReFa(bits=3)"


# --- all quantizers ---------------------------------------------------------------------------------------

QUANTIZERS = [
    ProgressiveSign,
    MagnitudeAwareSign,
    Ternary,
    functools.partial(DoReFa, 1),
    functools.partial(DoReFa, 3),
]


@pytest.mark.parametrize("make", QUANTIZERS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 2, 2), (0, 3)])
def test_shape_dtype_and_input_are_kept(make: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """A quantizer keeps dtype and shape, of its gradient too, and does not write to its input."""
    x = torch.randn(shape).to(dtype)
    before, version = x.clone(), x._version
    y = make()(x)
    assert (y.dtype, y.shape) == (dtype, x.shape)
    assert torch.equal(x, before)
    assert x._version == version
    passed = gradient(make(), x)
    assert (passed.dtype, passed.shape) == (dtype, x.shape)


@pytest.mark.parametrize("make", QUANTIZERS)
def test_autocast_gets_what_it_can_hold(make: Any) -> None:
    """Values of -1, 0 and 1 come in autocast's dtype; others keep theirs, to the bit. Nothing leaks out."""
    x, quantizer = torch.randn(4, 6), make()
    plain = quantizer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = quantizer(x)
    exact = set(plain.unique().tolist()) <= {-1.0, 0.0, 1.0}
    assert y.dtype == (torch.bfloat16 if exact else torch.float32)
    assert torch.equal(y.float(), plain)
    assert quantizer(x).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert gradient(quantizer, x).dtype == torch.float32


@pytest.mark.parametrize("make", [ProgressiveSign, MagnitudeAwareSign, Ternary])
def test_weights_train_under_autocast_and_freeze(make: Any) -> None:
    """As a weight's quantizer each trains under autocast, and freezes to what it gives in eval()."""
    net = binarize(nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)), make)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = [p.detach().clone() for p in latent_parameters(net)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = net(torch.randn(16, 8))
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    optimizer.step()
    frozen = freeze(net)
    for parameter, start, layer in zip(latent_parameters(net), before, (frozen[0], frozen[2]), strict=True):
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        assert not torch.equal(parameter, start)
        torch.testing.assert_close(layer.weight, make()(parameter.detach()), rtol=1e-6, atol=0)
    assert type(frozen[0]) is nn.Linear


@pytest.mark.parametrize("make", [MagnitudeAwareSign, Ternary])
def test_a_magnitude_needs_rows(make: Any) -> None:
    """A vector has no rows to take a magnitude of: an error, and binarize leaves the module as it was."""
    layer = nn.Linear(3, 3)
    for shape in ((), (3,)):
        with pytest.raises(ValueError, match=f"{make.__name__} takes one magnitude for each output row"):
            make()(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"2 axes or more, not shape \(3,\)"):
        binarize(layer, make, "bias")
    assert type(layer) is nn.Linear


# --- magnitude-aware sign ---------------------------------------------------------------------------------


@given(rows)
def test_magnitude_aware_sign_is_its_formula(values: list[list[float]]) -> None:
    """Each row is its signs times its mean |w|, exactly one magnitude."""
    w = torch.tensor(values)
    found = MagnitudeAwareSign()(w)
    for row, latent in zip(found, w.double(), strict=True):
        mean = latent.abs().mean()
        assert row.abs().unique().numel() == 1
        torch.testing.assert_close(row.double(), mean * sign(latent), rtol=1e-6, atol=1e-40)


def test_the_mean_is_the_best_magnitude() -> None:
    """Among all a s with s = ±1 in each entry, mean|w| sign(w) is nearest to w (XNOR-Net, eq. 2 to 6)."""
    w = torch.randn(1, 6)
    error = (w - MagnitudeAwareSign()(w)).square().sum()
    every_sign = sign(torch.arange(64)[:, None].bitwise_and(2 ** torch.arange(6)).float() - 0.5)
    for a in torch.linspace(0, 3, 301):
        assert ((w - a * every_sign).square().sum(1) >= error - 1e-6).all()


def test_magnitudes_are_of_rows_of_any_shape() -> None:
    """For a convolution the mean is over all axes but the first."""
    w = torch.randn(4, 3, 2, 5)
    assert torch.allclose(MagnitudeAwareSign()(w).abs()[:, 0, 0, 0], w.abs().flatten(1).mean(1))


def test_gradient_of_a_fixed_magnitude() -> None:
    """Backward it is mean|w| of the row times the gradient, and times the estimator's if there is one."""
    w, g = (
        torch.tensor([[0.5, -1.5, 1.0], [2.0, 0.25, -0.75]]),
        torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
    )
    assert gradient(MagnitudeAwareSign(), w, g).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert gradient(MagnitudeAwareSign(clipped_ste), w, g).tolist() == [[1, 0, 3], [0, 5, 6]]
    assert gradient(MagnitudeAwareSign(), 2 * w, g).tolist() == [[2, 4, 6], [8, 10, 12]]


def test_in_front_of_a_batch_norm_nothing_is_left_out() -> None:
    """There the gradient through the mean is 0: with it or without, latent weights get the same."""

    class Whole(nn.Module):
        def forward(self, w: Tensor) -> Tensor:
            return w.abs().mean(1, keepdim=True) * without_copy(approx_ste)(w, sign(w))

    x, target = torch.randn(32, 8).double(), torch.randn(32, 4).double()
    layer = nn.Linear(8, 4).double()
    for norm, equal in ((nn.BatchNorm1d(4, eps=1e-12).double(), True), (nn.Identity(), False)):
        found = []
        for quantizer in (MagnitudeAwareSign(approx_ste), Whole()):
            model = nn.Sequential(binarize(copy.deepcopy(layer), quantizer), norm)
            (model(x) - target).square().sum().backward()
            found += [p.grad for p in latent_parameters(model)]
        assert torch.allclose(*found, rtol=1e-6, atol=1e-9) == equal  # type: ignore[arg-type]


def test_a_row_of_zeros_stays_0() -> None:
    """Neither magnitude-aware nor ternary rows of zeros become NaN."""
    w = torch.zeros(2, 3)
    w[1] = torch.tensor([1.0, -1.0, 1.0])
    for quantizer in (MagnitudeAwareSign(), Ternary()):
        assert torch.equal(quantizer(w), w)


# --- ternary ----------------------------------------------------------------------------------------------


@given(rows)
def test_ternary_is_its_formula(values: list[list[float]]) -> None:
    """In each row 0 up to 0.7 mean|w|, beyond it ± the mean |w| of what is beyond."""
    w = torch.tensor(values, dtype=torch.float64)
    for row, found in zip(w.numpy(), Ternary()(w).numpy(), strict=True):
        beyond = np.abs(row) > 0.7 * np.abs(row).mean()
        magnitude = np.abs(row[beyond]).mean() if beyond.any() else 0.0
        np.testing.assert_allclose(
            found, np.where(beyond, magnitude * np.where(row < 0, -1, 1), 0), rtol=1e-12
        )


def test_ternary_threshold_is_nearly_the_best() -> None:
    """For normal weights the squared error is within 2 % of the best threshold's, and below the sign's."""
    w = torch.randn(1, 4000, dtype=torch.float64)

    def error(value: Tensor) -> float:
        return (w - value).square().sum().item()

    best = math.inf
    for threshold in torch.linspace(0, 2, 101):
        beyond = w.abs() > threshold
        best = min(best, error(w.abs()[beyond].mean() * w.sign() * beyond))
    assert error(Ternary()(w)) < 1.02 * best
    assert error(Ternary()(w)) < 0.7 * error(MagnitudeAwareSign()(w))


def test_ternary_passes_gradients_on() -> None:
    """Backward is the estimator's on the value as a whole: by default the gradient as it is, at 0 too."""
    w, g = torch.tensor([[0.1, -3.0, 0.5]]), torch.tensor([[1.0, 2.0, 3.0]])
    assert gradient(Ternary(), w, g).tolist() == [[1, 2, 3]]
    assert gradient(Ternary(clipped_ste), w, g).tolist() == [[1, 0, 3]]


def test_ternary_rows_too_long_for_float16() -> None:
    """A sum that float16 cannot hold is taken in float32."""
    w = torch.ones(1, 70_000, dtype=torch.float16)
    assert torch.equal(Ternary()(w), w)


# --- DoReFa -----------------------------------------------------------------------------------------------


@given(xs=st.lists(st.floats(-0.5, 1.5), min_size=1, max_size=20), bits=st.integers(1, 16))
def test_dorefa_is_the_nearest_level(xs: list[float], bits: int) -> None:
    """Each entry becomes one of 0, 1/n, ..., 1 with n = 2^k - 1, at most half a step from clip(x, 0, 1)."""
    n = 2**bits - 1
    x = torch.tensor(xs, dtype=torch.float64)
    found = DoReFa(bits)(x)
    level = (found * n).round()
    assert torch.equal(level / n, found)
    assert ((found - x.clamp(0, 1)).abs() <= 0.5 / n * (1 + 1e-9)).all()
    assert torch.equal(DoReFa(bits)(found), found)


@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_dorefa_has_every_level(bits: int) -> None:
    """2^k values, from 0 to 1, in equal steps."""
    levels = DoReFa(bits)(torch.linspace(-1, 2, 10_001)).unique()
    assert torch.allclose(levels, torch.linspace(0, 1, 2**bits), atol=1e-6)
    assert levels.numel() == 2**bits


def test_dorefa_rounds_once_in_low_precision() -> None:
    """In bfloat16 each entry gets the level that its value has in float64."""
    x = torch.linspace(0, 1, 5000).bfloat16()
    for bits in (2, 8, 12):
        assert torch.equal(DoReFa(bits)(x), DoReFa(bits)(x.double()).bfloat16())
    n = 255  # these inputs would show it
    assert not torch.equal((x * n).round() / n, DoReFa(8)(x))


def test_dorefa_gradient() -> None:
    """The gradient passes from 0 to 1, the ends included, and is 0 elsewhere."""
    x = torch.tensor([-0.1, 0.0, 0.3, 1.0, 1.1, math.inf, -math.inf])
    assert gradient(DoReFa(2), x, torch.arange(1.0, 8.0)).tolist() == [0, 2, 3, 4, 0, 0, 0]


def test_dorefa_of_nan() -> None:
    """A NaN stays one."""
    assert DoReFa(2)(torch.tensor([math.nan])).isnan().all()


@pytest.mark.parametrize("bits", [0, 17, -1, 2.0, "2", None])
def test_dorefa_of_no_such_bits(bits: Any) -> None:
    """Bits are a whole number from 1 to 16."""
    with pytest.raises(ValueError, match=re.escape(f"bits must be an integer from 1 to 16, not {bits!r}")):
        DoReFa(bits)


# --- packing ----------------------------------------------------------------------------------------------


def network(activation: nn.Module, quantizer: Any) -> nn.Module:
    """Frozen, with batch norms that have seen data."""
    net = nn.Sequential(
        nn.Linear(72, 40), nn.BatchNorm1d(40), activation, nn.Linear(40, 70), nn.BatchNorm1d(70), activation
    )
    net = binarize(net.append(nn.Linear(70, 5)), quantizer)
    for _ in range(5):
        net(torch.randn(50, 72))
    return freeze(net)


@pytest.mark.parametrize("activation", [Sign(approx_ste), Sign(swish_ste), ProgressiveSign(0.5)])
def test_signs_pack_as_sign_does(activation: nn.Module) -> None:
    """A network with these activations packs to the very nodes of one with `Sign`."""
    frozen = network(activation, ProgressiveSign)
    twin = copy.deepcopy(frozen)
    twin[2] = twin[5] = Sign()
    x = torch.randn(64, 72)
    one, other = pack(frozen, x), pack(twin, x)
    assert [type(node) for node in one.nodes] == [type(node) for node in other.nodes]
    assert all(node.is_packed for node in one.nodes if isinstance(node, Linear))
    assert "Threshold" in [type(node).__name__ for node in one.nodes]
    assert np.array_equal(Runner(one)(x.numpy()), Runner(other)(x.numpy()))
    assert np.abs(Runner(one)(x.numpy()) - frozen(x).detach().numpy()).max() < 1e-3


def test_magnitude_aware_weights_pack_to_bits() -> None:
    """One bit a weight, the magnitudes as a scale; the packed network's outputs are the frozen one's."""
    frozen = network(nn.ReLU(), MagnitudeAwareSign)
    x = torch.randn(64, 72)
    packed = pack(frozen, x)
    layers = [node for node in packed.nodes if isinstance(node, Linear)]
    assert [type(layer.weight) for layer in layers] == [PackedWeight] * 3
    assert layers[2].scale == pytest.approx(frozen[6].weight.abs()[:, 0].numpy())
    expected = frozen(x).detach().numpy()
    assert np.abs(Runner(packed)(x.numpy()) - expected).max() < 1e-4 * np.abs(expected).max()


def test_ternary_weights_stay_float() -> None:
    """A 0 has no bit: the weights are packed as float32, with the frozen network's outputs."""
    frozen = network(nn.ReLU(), Ternary)
    assert frozen[0].weight.eq(0).any()
    x = torch.randn(64, 72)
    packed = pack(frozen, x)
    for node, layer in zip(
        [node for node in packed.nodes if isinstance(node, Linear)],
        (frozen[0], frozen[3], frozen[6]),
        strict=True,
    ):
        assert np.array_equal(node.weight, layer.weight.numpy())  # type: ignore[arg-type]
    expected = frozen(x).detach().numpy()
    assert np.abs(Runner(packed)(x.numpy()) - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("bits", [1, 4])
def test_dorefa_activations_are_refused(bits: int) -> None:
    """pack names the module, and the operation that the runtime does not know."""
    with pytest.raises(ValueError, match=r"^module '2': aten\.round\.default: the runtime does not know"):
        pack(network(DoReFa(bits), Sign), torch.randn(1, 72))


# --- the page ---------------------------------------------------------------------------------------------


def test_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    """docs/estimators.md: its claims hold, and its two networks learn the digits as well as it says."""
    text = (DOCS / "estimators.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    for code in blocks:
        exec(code, names)
    assert len(blocks) == 4
    accuracies = [float(found) for found in re.findall(r"test accuracy ([\d.]+) %", capsys.readouterr().out)]
    assert len(accuracies) == 2
    assert min(accuracies) > 88
