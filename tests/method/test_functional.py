"""The mathematics: signs, their probabilities, straight-through estimators."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from bnn import functional
from bnn.functional import clipped_ste, hard_sigmoid, identity_ste, sign, stochastic_sign, tanh_ste

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
ESTIMATORS = [identity_ste, clipped_ste]

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
tensors = st.lists(floats, max_size=20).map(torch.tensor)


def awkward(dtype: torch.dtype) -> Tensor:
    """Zeros, subnormals, neighbours of 0 and ±1, extremes, infinities."""
    tiny, eps = torch.finfo(dtype).smallest_normal, torch.finfo(dtype).eps
    positive = torch.tensor([0.0, tiny / 2, tiny, 0.5, 1 - eps, 1.0, 1 + eps, 3.3, math.inf], dtype=dtype)
    return torch.cat([positive, -positive])


# --- hard sigmoid, sign -----------------------------------------------------------------------------------


@settings(deadline=None)
@given(floats)
def test_hard_sigmoid_is_its_formula(x: float) -> None:
    """hard_sigmoid(x) = clip((x + 1) / 2, 0, 1)."""
    expected = min(max((x + 1) / 2, 0.0), 1.0)
    assert hard_sigmoid(torch.tensor(x, dtype=torch.float64)).item() == expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_sign_is_never_0(dtype: torch.dtype) -> None:
    """sign is +1 from 0 and -0.0 upwards, else -1: for subnormals and infinities too."""
    x = awkward(dtype)
    expected = [1.0 if v >= 0 else -1.0 for v in x.tolist()]
    assert sign(x).tolist() == expected
    assert expected[9] == 1.0  # -0.0
    assert x[10] != 0  # the subnormal did not become 0


def test_sign_of_nan_is_minus_1() -> None:
    """A NaN comes out as -1, whatever its own sign bit."""
    assert sign(torch.tensor([math.nan, -math.nan])).tolist() == [-1.0, -1.0]


@settings(deadline=None)
@given(tensors)
def test_sign_agrees_with_comparison(x: Tensor) -> None:
    """sign(x) is +1 exactly where x >= 0."""
    assert torch.equal(sign(x) == 1, x >= 0)
    assert torch.equal(sign(x).abs(), torch.ones_like(x))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("dtype", DTYPES)
def test_sign_is_the_same_compiled(dtype: torch.dtype) -> None:
    """Under torch.compile sign takes another form, with equal results and dtype, NaN included."""
    x = torch.cat([awkward(dtype), torch.tensor([math.nan], dtype=dtype)])
    torch._dynamo.reset()
    compiled = torch.compile(sign, backend="eager", fullgraph=True)(x)
    assert compiled.dtype == dtype
    assert torch.equal(compiled, sign(x))


@pytest.mark.parametrize("function", [hard_sigmoid, sign, stochastic_sign])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (2, 3, 4)])
def test_shape_and_dtype_are_kept(function, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Each function keeps shape and dtype, of scalars and empty tensors as well."""
    y = function(torch.full(shape, 0.25, dtype=dtype))
    assert (y.shape, y.dtype) == (torch.Size(shape), dtype)


@pytest.mark.parametrize("function", [hard_sigmoid, sign, stochastic_sign])
def test_input_is_never_changed(function) -> None:
    """No function writes to its input."""
    x = torch.tensor([-2.0, -0.0, 0.0, 0.3])
    before, version = x.clone(), x._version
    function(x)
    assert torch.equal(x, before)
    assert x._version == version


def test_sign_of_non_contiguous_tensors() -> None:
    """A transposed, a strided and an expanded view have the signs of their entries, and stay as they are."""
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    views = [x.t(), x[:, ::2], x[0, :1].expand(5), x.flip(0)]
    for view in views:
        before = view.clone()
        assert torch.equal(sign(view), torch.where(before >= 0, 1.0, -1.0))
        assert torch.equal(stochastic_sign(view.sign()), view.sign())  # latent weights of ±1 are certain
        assert torch.equal(view, before)


# --- stochastic sign --------------------------------------------------------------------------------------


def test_stochastic_sign_is_reproducible() -> None:
    """The same seed gives the same sample, from a generator and from PyTorch's global one."""
    x = torch.zeros(1000)
    own = [stochastic_sign(x, torch.Generator().manual_seed(s)) for s in (3, 3, 4)]
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first, second = stochastic_sign(x), stochastic_sign(x)
        torch.manual_seed(3)
        again = stochastic_sign(x)
    assert torch.equal(own[0], own[1])
    assert not torch.equal(own[0], own[2])
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_own_generator_leaves_the_global_one_alone() -> None:
    """With a generator, PyTorch's global one is not advanced."""
    before = torch.get_rng_state()
    stochastic_sign(torch.zeros(100), torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_latent_weights_beyond_1_are_certain(dtype: torch.dtype) -> None:
    """A latent weight <= -1 always gives -1, one >= 1 always +1."""
    generator = torch.Generator().manual_seed(0)
    for x in (1.0, 1.5, 60_000.0, math.inf):
        high = torch.full((100_000,), x, dtype=dtype)
        assert stochastic_sign(high, generator).eq(1).all()
        assert stochastic_sign(-high, generator).eq(-1).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_random_byte(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many of the 256 bytes give +1 as the hard sigmoid says, rounded; lower ones before higher."""
    x = torch.linspace(-1.01, 1.01, 1001).to(dtype)
    every_byte = torch.arange(256, dtype=torch.uint8).repeat(len(x), 1)
    monkeypatch.setattr("bnn.functional._random_bytes", lambda seed, shape: every_byte)
    signs = stochastic_sign(x[:, None].expand(-1, 256))
    count = signs.eq(1).sum(1)
    assert torch.equal(count, (256 * hard_sigmoid(x.double()) + 0.5).floor().long())
    assert signs.sort(dim=1, descending=True).values.equal(signs)


def test_each_byte_of_a_word_is_fair() -> None:
    """At every position in the words drawn, +1 comes with its probability: no bit of a word is always 0."""
    # Binomial counts as below, of 2 million each: 5 deviations are at most 0.18 %, less than 2^-8.
    n = 2_000_000
    for x in (-0.75, 0.0, 0.5):
        sample = stochastic_sign(torch.full((n, 8), x), torch.Generator().manual_seed(3))
        share = sample.eq(1).double().mean(0)
        assert (share - (x + 1) / 2).abs().max() <= 5 * math.sqrt(0.25 / n)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", [sign, stochastic_sign])
def test_another_dtype(function, dtype: torch.dtype) -> None:
    """With `dtype` the same signs come in it, straight from float32, whatever is not a number included."""
    x = torch.cat([awkward(torch.float32), torch.linspace(-1, 1, 1000)])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = function(x)
        torch.manual_seed(0)
        other = function(x, dtype=dtype)
    assert other.dtype == dtype
    assert torch.equal(other.float(), plain)


SIZES = [0, 1, 7, 8, 255, 256, 257, 65_535, 65_536, 65_537, 200_003]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("n", SIZES)
def test_compiled_passes_are_the_plain_ones(
    n: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compiled or by PyTorch's operations, a seed gives the same signs; so does any number of threads."""
    x = torch.linspace(-1.1, 1.1, n) if n > 1 else torch.full((n,), -0.0)
    if n > 100:
        x[:6] = torch.tensor([math.nan, -math.nan, math.inf, -math.inf, 1e-45, -1e-45])

    def both(threads: int) -> list[Tensor]:
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        drawn = stochastic_sign(x, torch.Generator().manual_seed(n), dtype)
        return [sign(x, dtype), drawn]

    compiled = [both(threads) for threads in (1, 2, 5)]
    monkeypatch.setattr("bnn.functional._compiled", lambda *args: None)
    for found in compiled:
        assert all(torch.equal(*pair) for pair in zip(found, both(1), strict=True))


def test_compiled_passes_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """For float32 in a CPU's memory; not for what has none of its own there, or lies in another order."""
    used: list[bool] = []
    plain = functional._compiled

    def watched(*args):
        result = plain(*args)
        used.append(result is not None)
        return result

    monkeypatch.setattr(functional, "_compiled", watched)
    x = torch.randn(4, 6)
    sign(x), sign(nn.Parameter(x)), stochastic_sign(x), sign(x, torch.bfloat16)
    assert used == [True] * 4
    sign(x.t()), sign(x.double()), sign(x, torch.float16), sign(x.to("meta"))
    torch.func.vmap(sign)(x)
    torch.func.vmap(stochastic_sign, randomness="different")(x)
    assert used[4:] == [False] * 6


WITHOUT_COMPILED = """
import sys, warnings
sys.modules["bnn.runtime._native"] = None
import torch
from torch import nn
import bnn
from bnn.functional import sign, stochastic_sign
warnings.simplefilter("always")
with warnings.catch_warnings(record=True) as caught:
    x = torch.linspace(-1, 1, 1001)
    torch.save([sign(x), stochastic_sign(x, torch.Generator().manual_seed(3))], sys.argv[1])
    model = bnn.binarize(nn.Sequential(nn.Linear(8, 4), bnn.StochasticSign()))
    model(torch.randn(5, 8)).sum().backward()
    assert model[0].parametrizations.weight.original.grad.abs().sum() > 0
print(len(caught), caught[0].category.__name__, caught[0].filename)
print(caught[0].message)
"""


def test_without_the_compiled_module_training_goes_on(tmp_path: Path) -> None:
    """PyTorch's operations give the same signs; one RuntimeWarning, at the caller's line, says why."""
    command = [sys.executable, "-c", WITHOUT_COMPILED, str(tmp_path / "signs.pt")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kind, message = done.stdout.splitlines()
    assert kind == "1 RuntimeWarning <string>"
    assert message.startswith("the compiled engine cannot be loaded (")
    assert "bnn.runtime._native" in message
    x = torch.linspace(-1, 1, 1001)
    expected = [sign(x), stochastic_sign(x, torch.Generator().manual_seed(3))]
    found = torch.load(tmp_path / "signs.pt")
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_whoever_traces_sees_every_operation() -> None:
    """A graph that `make_fx` makes of signs computes those of other inputs too."""
    graph = make_fx(lambda x: 2 * sign(x))(torch.randn(6))
    assert graph(torch.tensor([1.0, -1.0, 0.0, -2.0, 3.0, -0.5])).tolist() == [2, -2, 2, -2, 2, -2]


def test_vmap_draws_as_it_is_told() -> None:
    """Under `torch.func.vmap` samples differ from row to row, or are the same, by its `randomness`."""
    x = torch.zeros(3, 64)
    rows = torch.func.vmap(stochastic_sign, randomness="different")(x)
    assert len(rows.unique(dim=0)) == 3
    assert len(torch.func.vmap(stochastic_sign, randomness="same")(x).unique(dim=0)) == 1


def test_sign_of_nan_in_another_dtype() -> None:
    """-1, as in its own."""
    assert sign(torch.tensor([math.nan, -math.nan]), dtype=torch.bfloat16).tolist() == [-1.0, -1.0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("x", [-0.9921875, -0.5, 0.0, 0.25, 0.9921875])
def test_frequency_is_the_hard_sigmoid(dtype: torch.dtype, x: float) -> None:
    """+1 comes with probability (x + 1) / 2, and every sample is ±1."""
    # The number of +1 among n is binomial with deviation s = sqrt(n p (1 - p)) <= sqrt(n) / 2. By Bernstein's
    # inequality P(|count - n p| > 5 s + 9) < 2 exp(-12.5) < 1e-5 for every p; the seed is fixed, so the test
    # does not flicker. For n = 4 million 5 s + 9 is at most 0.13 % of n. Numbers drawn in bfloat16 would
    # shift p by 0.18 % at x = 0.
    n = 4_000_000
    p = (x + 1) / 2  # every x has at most 8 significant bits, and is exact in each dtype
    sample = stochastic_sign(torch.full((n,), x, dtype=dtype), torch.Generator().manual_seed(20))
    count = int(sample.eq(1).sum())
    assert int(sample.eq(-1).sum()) == n - count
    assert abs(count - n * p) <= 5 * math.sqrt(n * p * (1 - p)) + 9


def test_entries_are_drawn_on_their_own() -> None:
    """Entries at any distance are uncorrelated: each has its own random number."""
    # A product of two independent fair signs is a fair sign; the sum of n has deviation sqrt(n): 5 of them.
    n = 1 << 18
    sample = stochastic_sign(torch.zeros(n), torch.Generator().manual_seed(1))
    for distance in (1, 2, 8, 1024, n // 2):
        assert abs(float((sample * sample.roll(distance)).sum())) <= 5 * math.sqrt(n)


# --- straight-through estimators --------------------------------------------------------------------------


def gradient(ste, x: Tensor, value: Tensor, upstream: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    ste(x, value).backward(upstream)
    assert x.grad is not None
    return x.grad


@settings(deadline=None)
@given(st.lists(st.tuples(floats, floats), max_size=20))
def test_gradients_are_their_formulas(pairs: list[tuple[float, float]]) -> None:
    """Backward, identity_ste passes g on as it is, clipped_ste g where |x| <= 1, else 0, tanh_ste tanh's."""
    x, g = torch.tensor(pairs).reshape(-1, 2).unbind(1)
    assert torch.equal(gradient(identity_ste, x, sign(x), g), g)
    assert torch.equal(gradient(clipped_ste, x, sign(x), g), torch.where(x.abs() <= 1, g, torch.zeros(())))
    of_tanh = torch.autograd.functional.vjp(torch.tanh, x, g)[1]
    assert torch.allclose(gradient(tanh_ste, x, sign(x), g), of_tanh, rtol=1e-4, atol=1e-30, equal_nan=True)


def test_tanh_ste_is_a_sign_forward_and_tanh_backward() -> None:
    """Its value is exact, its gradient 1 - tanh(x)^2 of each entry's."""
    x = torch.tensor([-3.0, -0.5, 0.0, 0.5, 3.0], dtype=torch.float64, requires_grad=True)
    y = tanh_ste(x, sign(x))
    assert y.tolist() == [-1, -1, 1, 1, 1]
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx([1 - math.tanh(v) ** 2 for v in x.tolist()])


@pytest.mark.parametrize("dtype", DTYPES)
def test_clipped_gradient_at_the_boundary(dtype: torch.dtype) -> None:
    """|x| = 1 lets the gradient pass; the next number beyond does not."""
    eps = torch.finfo(dtype).eps
    x = torch.tensor([1.0, -1.0, 1 + eps, -1 - eps], dtype=dtype)
    passed = gradient(clipped_ste, x, sign(x), torch.full_like(x, 3.0))
    assert passed.tolist() == [3.0, 3.0, 0.0, 0.0]


@pytest.mark.parametrize("ste", ESTIMATORS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_value_is_exact(ste, dtype: torch.dtype) -> None:
    """The forward value is `value` to the bit; `x + (value - x).detach()` would round it."""
    x = torch.tensor([1e-8, 3.3, *(i / 101 for i in range(-101, 102))], dtype=dtype, requires_grad=True)
    assert torch.equal(ste(x, sign(x)), sign(x))
    sample = -sign(x.detach())  # the opposite signs, as a stochastic sample may have them
    y = ste(x, sample)
    assert torch.equal(y, sample)
    assert y.dtype == dtype
    assert not torch.equal(x + (sample - x).detach(), sample)  # these inputs would show the rounding


@pytest.mark.parametrize("ste", ESTIMATORS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 3)])
def test_gradient_keeps_shape_and_dtype(ste, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """A gradient has its input's shape and dtype, for empty tensors as well."""
    x = torch.full(shape, 0.5, dtype=dtype)
    passed = gradient(ste, x, sign(x), torch.full(shape, 2.0, dtype=dtype))
    assert (passed.shape, passed.dtype) == (x.shape, dtype)
    assert torch.equal(passed, torch.full(shape, 2.0, dtype=dtype))


@pytest.mark.parametrize("ste", ESTIMATORS)
def test_value_is_not_handed_on_as_the_same_tensor(ste) -> None:
    """Changing the result in place leaves `value` as it was."""
    value = torch.ones(3)
    with torch.no_grad():
        ste(torch.ones(3), value).zero_()
    assert value.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("ste", ESTIMATORS)
def test_no_gradient_reaches_the_value(ste) -> None:
    """The gradient goes to x alone: what `value` was computed from gets none."""
    x, source = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    ste(x, 2 * source).sum().backward()
    assert source.grad is None
    assert x.grad is not None


@pytest.mark.parametrize("ste", ESTIMATORS)
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_vmap_and_grad(ste) -> None:
    """torch.func's vmap, grad, and vmap of grad give what plain autograd gives row by row."""

    def loss(x: Tensor) -> Tensor:
        return (ste(x, sign(x)) * torch.arange(1.0, 5.0)).sum()

    x = torch.tensor([[0.5, -0.5, 2.0, -2.0], [1.0, -1.0, 0.0, 9.0], [3.0, 0.1, -0.1, -3.0]])
    rows = torch.stack([gradient(ste, row, sign(row), torch.arange(1.0, 5.0)) for row in x])
    assert torch.equal(torch.func.vmap(lambda row: ste(row, sign(row)))(x), sign(x))
    assert torch.equal(torch.func.grad(loss)(x[0]), rows[0])
    assert torch.equal(torch.func.vmap(torch.func.grad(loss))(x), rows)


def test_double_backward() -> None:
    """The estimators can be differentiated twice, as in a gradient penalty."""
    # The first gradient, of y², is g = 2 y ste'(x). Then g² = 4 y² ste'(x)², and its gradient, again by the
    # straight-through rule, is 8 y ste'(x)³: 8 y where the gradient passes, and 0 elsewhere.
    x = torch.tensor([0.5, -0.5, 2.0], dtype=torch.float64, requires_grad=True)
    for ste, passes in ((identity_ste, [1.0, 1.0, 1.0]), (clipped_ste, [1.0, 1.0, 0.0])):
        (first,) = torch.autograd.grad(ste(x, sign(x)).square().sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), x)
        assert second.tolist() == [8 * s * p for s, p in zip([1.0, -1.0, 1.0], passes, strict=True)]


@pytest.mark.parametrize("ste", ESTIMATORS)
def test_gradgradcheck(ste) -> None:
    """Where value = x and |x| < 1 the gradient is the true one, so finite differences confirm both orders."""
    x = torch.tensor([0.5, -0.25, 0.75], dtype=torch.float64, requires_grad=True)

    def function(x: Tensor) -> Tensor:
        return ste(x, x).pow(3)

    assert torch.autograd.gradcheck(function, (x,))
    assert torch.autograd.gradgradcheck(function, (x,))
