"""The C export: what it computes, how it compiles, what it leaves out, and what it refuses."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.c_export import AS_CPP, PREDICT, STRICT, compile_export, in_c, needs, run_export
from support.drawn_models import Generator, draw
from support.graphs import affine, pool, sign
from support.helpers import model_of, one_of_each, packed_weight, random_floats, random_pixels
from support.paths import ROOT

from bnn.data import load_dataset
from bnn.export import ExportError, export
from bnn.export.c import make
from bnn.export.c.scores import exact_scores
from bnn.export.c.text import Names, comment, literal, string
from bnn.packed.model import PackedModel
from bnn.packed.nodes import Conv2d, Flatten, InputContract, Linear, Node, PackedWeight, ReLU, Sign
from bnn.packing.folding import fold
from bnn.runtime import Runner, _native, reference

NATIVE = ROOT / "native"
IMAGE = InputContract((2, 9, 8), mean=(0.4, 0.5), std=(0.25, 0.25))


def linear(name: str, source: str, out: int, n: int, **fields: Any) -> Linear:
    return Linear(name=name, inputs=(source,), weight=packed_weight(out, n, seed=n), **fields)


def batch_norm(name: str, source: str, channels: int, seed: int = 0) -> Node:
    """As trained ones are; some factors are negative, one is 0."""
    rng = np.random.default_rng(seed)
    scale = rng.choice([-1, 1], channels, p=[0.2, 0.8]) * rng.uniform(0.01, 0.2, channels)
    scale[channels // 2] = 0
    return affine(name, source, scale, rng.normal(0, 0.5, channels))


def folded(contract: InputContract, *nodes: Node) -> PackedModel:
    return PackedModel(contract, tuple(fold(nodes, nodes[-1].name)))


def network_of_signs() -> PackedModel:
    """±1 activations: a padded convolution on pixels, one on signs, pooling, and two layers on vectors."""

    def conv(name: str, source: str, channels: int, out: int) -> Conv2d:
        weight = packed_weight(out, channels, 3, 3, seed=out)
        return Conv2d(name=name, inputs=(source,), weight=weight, padding=(1, 1, 1, 1))

    return folded(
        IMAGE,
        conv("conv1", "input", 2, 12),
        batch_norm("bn1", "conv1", 12, 1),
        sign("sign1", "bn1"),
        conv("conv2", "sign1", 12, 70),
        pool("pool", "conv2"),
        batch_norm("bn2", "pool", 70, 2),
        sign("sign2", "bn2"),
        Flatten(name="flatten", inputs=("sign2",)),
        linear("fc1", "flatten", 65, 70 * 16),
        batch_norm("bn3", "fc1", 65, 3),
        sign("sign3", "bn3"),
        linear("fc2", "sign3", 10, 65),
        batch_norm("bn4", "fc2", 10, 4),
    )


def network_of_floats(*, raw: bool = True) -> PackedModel:
    contract = InputContract((100,), mean=(0.1,), std=(0.3,)) if raw else InputContract((100,))
    return folded(
        contract,
        linear("fc1", "input", 70, 100),
        batch_norm("bn1", "fc1", 70, 1),
        ReLU(name="relu", inputs=("bn1",)),
        linear("fc2", "relu", 10, 70),
        batch_norm("bn2", "fc2", 10, 2),
    )


MODELS = {
    "signs": network_of_signs,
    "floats": network_of_floats,
    "normalised": lambda: network_of_floats(raw=False),
    "one of each": one_of_each,
}
every_model = pytest.mark.parametrize("name", MODELS)


def inputs_of(model: PackedModel, batch: int, seed: int = 0) -> Any:
    shape = (batch, *model.input.shape)
    return random_pixels(*shape, seed=seed) if model.input.mean else random_floats(*shape, seed=seed)


@dataclass
class Exported:
    folder: Path
    model: PackedModel

    @property
    def sources(self) -> list[Path]:
        return [self.folder / "model.c", *sorted((self.folder / "bnn").glob("*.c"))]


def exported(name: str, tmp_path: Path) -> Exported:
    model = MODELS[name]()
    export(model, "c", tmp_path / "out")
    return Exported(tmp_path / "out", model)


# --- what it computes -------------------------------------------------------------------------------------


@needs("gcc")
@every_model
def test_predictions_are_the_references(name: str, tmp_path: Path) -> None:
    """On 500 inputs: every prediction, and scores to 1e-4 of the largest; without undefined behaviour."""
    model = MODELS[name]()
    x = inputs_of(model, 500)
    truth = reference.run(model, x).reshape(500, -1)
    sanitize = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    winners, scores = in_c(model, x, tmp_path, *STRICT, "-O1", *sanitize)
    assert (winners == truth.argmax(axis=1)).all()
    assert len(set(winners)) > 1
    assert np.abs(scores - truth).max() <= 1e-4 * np.abs(truth).max()


@needs("gcc")
@pytest.mark.parametrize("pixels", ["", "any", "black and white"])
def test_random_networks(pixels: str, tmp_path: Path) -> None:
    """Networks of every operation, also where signs are taken of floats that lie on the border."""
    for seed in range(100, 104):
        model = Generator(seed, pixels).model
        x = draw(pixels, model, seed)
        upto = [PackedModel(model.input, model.nodes[: i + 1]) for i in range(len(model.nodes))]
        largest = max(np.abs(reference.run(part, x)).max() for part in upto)
        _, scores = in_c(model, x, tmp_path)
        truth = reference.run(model, x).reshape(len(x), -1)
        assert np.abs(scores - truth).max() <= 1e-4 * largest, seed


def network_for_mnist(activation: type[Node], layers: int) -> PackedModel:
    """A network with 256 units in each hidden layer."""
    nodes: list[Node] = [Flatten(name="flatten", inputs=("input",))]
    source, n = "flatten", 784
    for k in range(layers):
        nodes += [
            linear(f"fc{k}", source, 256, n),
            affine(f"bn{k}", f"fc{k}", np.full(256, n**-0.5), random_floats(256, seed=k) / 4),
            activation(name=f"active{k}", inputs=(f"bn{k}",)),
        ]
        source, n = f"active{k}", 256
    nodes += [linear("fc", source, 10, 256), affine("bn", "fc", np.full(10, 0.07), random_floats(10))]
    return folded(InputContract((1, 28, 28), mean=(0.1307,), std=(0.3081,)), *nodes)


@needs("gcc")
@pytest.mark.skipif(not os.environ.get("BNN_DATA_DIR"), reason="needs MNIST in $BNN_DATA_DIR")
@pytest.mark.parametrize("activation", [ReLU, Sign])
def test_mnist(activation: type[Node], tmp_path: Path) -> None:
    """All 10,000 test images of MNIST get the runtime's prediction, from a network of random ±1 weights."""
    model = network_for_mnist(activation, 3)
    images = load_dataset("mnist").test_inputs
    winners, _ = in_c(model, images, tmp_path, *STRICT, "-O2")
    assert (winners == Runner(model).predict(images)).sum() == 10_000


# --- integers ---------------------------------------------------------------------------------------------


@needs("gcc")
def test_a_network_of_signs_has_no_floating_point(tmp_path: Path) -> None:
    """From pixels to scores not one instruction on floats, nor a call of a library that has them."""
    assert any("no floating point" in note for note in make(network_of_signs()).notes)
    out = exported("signs", tmp_path)
    assert instructions_on_floats(out, tmp_path) == []
    (tmp_path / "floats").mkdir()
    mixed = exported("floats", tmp_path / "floats")
    assert instructions_on_floats(mixed, tmp_path) != []  # so they would be found
    assert any("single precision" in note for note in make(network_of_floats()).notes)


def instructions_on_floats(out: Exported, tmp_path: Path) -> list[str]:
    found = []
    for source in out.sources:
        compiled = tmp_path / "one.s"
        flags = ("-std=c11", "-O1", "-fno-tree-vectorize", "-S")
        subprocess.run(["gcc", *flags, source, "-o", compiled], check=True)
        found += re.findall(r"^\s(?:\w*[sp][sd]\b.*xmm|cvt|f(?:ld|st|add|mul|div)|fmul|fadd|scvtf|ucvtf).*",
                            compiled.read_text(), re.MULTILINE)  # fmt: skip
    return [line for line in found if not re.match(r"\s(mov|xorp|pxor)", line)]


@needs("arm-none-eabi-gcc")
def test_a_network_of_signs_calls_nothing_but_memcpy_and_memset(tmp_path: Path) -> None:
    """On a processor without a floating-point unit as well, where arithmetic on floats is calls."""
    out = exported("signs", tmp_path)
    cpu = ("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=soft", "-std=c11", "-Os", "-r", "-nostdlib")
    subprocess.run(["arm-none-eabi-gcc", *cpu, *out.sources, "-o", tmp_path / "all.o"], check=True)
    listed = ["arm-none-eabi-nm", "--undefined-only", "--format=just-symbols", tmp_path / "all.o"]
    needed = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()
    assert set(needed) <= {"memcpy", "memset", "memmove"}


def last_layer(scale: Sequence[float], shift: Sequence[float], n: int = 64) -> PackedModel:
    head = linear("head", "sign", len(scale), n, scale=np.array(scale), shift=np.array(shift))
    return model_of((n,), Sign(name="sign", inputs=("input",)), head)


def test_scores_keep_the_order_of_floats() -> None:
    """The same class wins for all sums that two can have; also where only rounding makes a draw."""
    rng = np.random.default_rng(0)
    rounded = 0
    for n in (10, 300, 3000) * 4:
        scale = rng.choice([-1, 1], 10) * rng.uniform(0.001, 1, 10)
        model = last_layer(scale, rng.normal(0, 1, 10), n)
        scores, head = exact_scores(model), model.output
        assert scores is not None
        assert isinstance(head, Linear)
        assert head.scale is not None
        assert head.shift is not None
        rounded += scores.rounded
        sums = rng.integers(-n // 2, n // 2 + 1, (4000, 10)) * 2
        floats = (sums * head.scale + head.shift).astype(np.float32)
        integers = scores.of(sums)
        assert (integers.argmax(axis=1) == floats.argmax(axis=1)).all()
        assert np.abs(integers / scores.one - floats).max() <= 1e-6 * np.abs(floats).max()
        assert np.abs(integers).max() < 2.0 ** (scores.bits - 1)
    assert 0 < rounded < 12


def test_why_scores_are_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    """A last layer that could give integers but has too many sums to try: notes say so, with both numbers."""
    model = last_layer([0.5, 2.0], [0.0, 1.0])
    assert not any("scores are floats" in note for note in make(model).notes)
    monkeypatch.setattr("bnn.export.c.scores.LIMIT", 129)
    monkeypatch.setattr("bnn.export.c.LIMIT", 129)
    assert make(model).notes[-1] == (
        "scores are floats: the last layer can have 130 sums, and no more than 129 are tried"
    )
    assert not any("scores are floats" in note for note in make(network_of_floats()).notes)


def test_scores_without_a_scale_are_the_sums() -> None:
    """Nothing is multiplied where there is nothing to multiply with."""
    head = linear("head", "sign", 3, 64)
    scores = exact_scores(model_of((64,), Sign(name="sign", inputs=("input",)), head))
    assert scores is not None
    assert scores.plain
    assert scores.one == 1
    assert exact_scores(network_of_floats()) is None


@needs("gcc")
def test_draws_of_floats_are_draws_of_integers(tmp_path: Path) -> None:
    """Two equal classes: the lower index wins, as argmax has it."""
    weight = packed_weight(2, 64).signs()
    weight = np.concatenate([weight, weight[:1], weight[1:]])
    head = Linear(
        name="head",
        inputs=("sign",),
        weight=PackedWeight.from_signs(weight),
        scale=np.full(4, 0.3),
        shift=np.full(4, 0.1),
    )
    model = model_of((64,), Sign(name="sign", inputs=("input",)), head)
    x = random_floats(200, 64)
    winners, _ = in_c(model, x, tmp_path)
    assert set(winners) == {0, 1}
    assert (winners == Runner(model).predict(x)).all()


# --- how it compiles --------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiler", [pytest.param(c, marks=needs(c)) for c in ("gcc", "clang")])
@every_model
def test_strict_c(compiler: str, name: str, tmp_path: Path) -> None:
    """Without a warning, optimised or not, and the self-test passes."""
    out = exported(name, tmp_path)
    for level in ("-O0", "-O2"):
        main = out.folder / "main.c"
        program = compile_export(out.folder, main, tmp_path / "test", compiler, *STRICT, level)
        assert_passes(program)


@pytest.mark.parametrize("compiler", [pytest.param(c, marks=needs(c)) for c in ("g++", "clang++")])
@every_model
def test_as_cpp(compiler: str, name: str, tmp_path: Path) -> None:
    """The same sources are C++ as well."""
    out = exported(name, tmp_path)
    assert_passes(compile_export(out.folder, out.folder / "main.c", tmp_path / "test", compiler, *AS_CPP))


def assert_passes(program: Path, *runner: str) -> None:
    done = subprocess.run([*runner, program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "of 10 inputs 10 have the right prediction, 10 the right scores" in done.stdout


@needs("gcc")
def test_the_self_test_can_fail(tmp_path: Path) -> None:
    """With one weight turned it says so, by its words and its exit status."""
    out = exported("signs", tmp_path)
    model = out.folder / "model.c"
    text = model.read_text()
    found = re.search(r"(weight_fc2\[10 \* 2\] = \{\s+0x)([0-9a-f]{16})", text)
    assert found
    turned = f"{int(found[2], 16) ^ (2**64 - 1):016x}"
    model.write_text(text.replace(found[0], found[1] + turned))
    program = compile_export(out.folder, out.folder / "main.c", tmp_path / "test")
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "10 the right scores" not in done.stdout


@needs("make")
@needs("gcc")
def test_makefile(tmp_path: Path) -> None:
    """`make test` and `make size`, as the README of the folder has them."""
    out = exported("one of each", tmp_path)
    for target, said in (("test", "10 the right scores"), ("size", "TOTALS")):
        done = subprocess.run(["make", target], cwd=out.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
        assert "warning" not in done.stderr


@needs("make")
@pytest.mark.parametrize("compiler", [pytest.param(c, marks=needs(c)) for c in ("g++", "clang")])
def test_makefile_takes_other_compilers(compiler: str, tmp_path: Path) -> None:
    """CC of the environment, also as C++; but not where CROSS names another machine's tools."""
    out = exported("signs", tmp_path)
    env, standard = {**os.environ, "CC": compiler}, ["STD=-std=c++11"] * (compiler == "g++")
    make = ["make", *standard, "test"]
    done = subprocess.run(make, cwd=out.folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"\n{compiler} " in done.stdout
    cross = ["make", "-n", "CROSS=arm-none-eabi-", "BUILD=other"]
    said = subprocess.run(cross, cwd=out.folder, env=env, capture_output=True, text=True, check=True).stdout
    assert f"\n{compiler} " not in said
    assert "\narm-none-eabi-gcc " in said
    assert "arm-none-eabi-ar rcs" in said


@needs("make")
@needs("gcc")
@needs("objcopy")
def test_two_exports_in_one_program(tmp_path: Path) -> None:
    """As the README has it: each becomes one object with one name, and both predict as they do alone."""
    expected = []
    for name, model in (("first", network_of_signs()), ("second", network_of_floats())):
        folder, x = tmp_path / name, inputs_of(model, 1)
        export(model, "c", folder)
        for command in readme_commands(folder, name):
            subprocess.run(command, cwd=folder, shell=True, capture_output=True, check=True)
        pixels = ", ".join(map(str, x.ravel()))
        (folder / "call.c").write_text(
            f'#define model_predict {name}_predict\n#include "model.h"\nint {name}(void);\n'
            f"int {name}(void)\n{{\n    static const uint8_t image[MODEL_INPUTS] = {{{pixels}}};\n"
            f"    return model_predict(image, 0);\n}}\n"
        )
        expected.append(int(reference.run(model, x).argmax()))
    main = tmp_path / "main.c"
    main.write_text(
        "#include <stdio.h>\nint first(void);\nint second(void);\n"
        'int main(void)\n{\n    printf("%d %d", first(), second());\n    return 0;\n}\n'
    )
    parts = [tmp_path / name / part for name in ("first", "second") for part in ("call.c", f"{name}.o")]
    subprocess.run(["gcc", *STRICT, main, *parts, "-o", tmp_path / "both"], check=True)
    said = subprocess.run([tmp_path / "both"], capture_output=True, text=True, check=True).stdout
    assert [int(word) for word in said.split()] == expected


def readme_commands(folder: Path, name: str) -> list[str]:
    """What the README says of two exports, for another name than its `digits`."""
    (block,) = re.findall(r"```\n(make CFLAGS.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return str(block).replace("digits", name).splitlines()


@needs("gcc")
@every_model
def test_memory_is_laid_out_as_the_engine_would(name: str, tmp_path: Path) -> None:
    """Offsets, sizes and scratch are those of plan.c and job.c, compiled beside what was exported."""
    out = exported(name, tmp_path)
    shutil.copy(NATIVE / "plan.c", out.folder / "bnn")
    text = (out.folder / "model.c").read_text()
    (out.folder / "model.c").unlink()  # memory.c has it
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.c").write_text(text)
    sources = [NATIVE.parent / "tests" / "native" / "export" / "memory.c", *(out.folder / "bnn").glob("*.c")]
    command = ["gcc", "-std=c11", f"-I{out.folder}", f"-I{tmp_path / 'model'}", *sources]
    subprocess.run([*command, "-o", tmp_path / "memory"], check=True)
    done = subprocess.run([tmp_path / "memory"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@needs("clang")
@every_model
def test_without_a_c_library(name: str, tmp_path: Path) -> None:
    """With BNN_FREESTANDING no header of a C library is read: what the web page is made of."""
    out = exported(name, tmp_path)
    flags = ("-std=c11", "-ffreestanding", "-nostdlibinc", "-DBNN_FREESTANDING", "-O1", "-Werror", "-c")
    for source in out.sources:
        target = ("--target=wasm32", *flags)
        subprocess.run(["clang", *target, source, "-o", tmp_path / "one.o"], check=True)


# --- what is in the folder --------------------------------------------------------------------------------


def test_files_are_what_the_model_needs() -> None:
    """Sources of the engine as they are in native/, but for bnn_config.h, and none that is not needed."""
    always = {
        "bnn.h",
        "job.h",
        "kernels.h",
        "elementwise.h",
        "engine.c",
        "job.c",
        "products.c",
        "portable.c",
    }
    more = {"signs": {"gather.c", "operations.c"}, "floats": set(), "normalised": set()}
    more["one of each"] = {"gather.c", "operations.c", "softmax.c"}
    for name, extra in more.items():
        files = make(MODELS[name]()).files
        engine = {path.removeprefix("bnn/") for path in files if path.startswith("bnn/")}
        assert engine == always | extra | {"bnn_config.h"}
        assert set(files) - {f"bnn/{file}" for file in engine} == {
            "model.h", "model.c", "main.c", "Makefile", "README.md",
        }  # fmt: skip
        for file in always | extra:
            assert files[f"bnn/{file}"] == (NATIVE / file).read_bytes()
        template = (NATIVE / "export_config.h").read_text().splitlines()
        config = files["bnn/bnn_config.h"].decode().splitlines()
        filled = [line.split()[1] for line, other in zip(config, template, strict=True) if line != other]
        assert filled in (["BNN_OPS_USED", "BNN_DTYPES_USED", "BNN_GATHERS"][:n] for n in (2, 3))


def test_the_same_model_gives_the_same_files() -> None:
    """Byte for byte."""
    for build in MODELS.values():
        assert make(build()).files == make(build()).files


def test_all_that_is_said_of_sizes_is_so() -> None:
    """The arena in the notes is the one in the header; the README says what `bnn export` prints."""
    made = make(network_of_signs())
    arena = re.search(rb"#define MODEL_ARENA_BYTES (\d+)", made.files["model.h"])
    assert arena
    assert f"an arena of {int(arena[1]):,} bytes" in made.notes[0]
    assert all(note in made.files["README.md"].decode() for note in made.notes)


@needs("gcc")
def test_names_from_anywhere(tmp_path: Path) -> None:
    """Names of nodes and labels are what they like; identifiers, comments and strings stay C."""
    nodes = [
        linear('*/ int x; /* "', "input", 5, 8),
        Sign(name="a-b", inputs=('*/ int x; /* "',)),
        linear("a_b", "a-b", 5, 5),
        Sign(name="Größe\n\\", inputs=("a_b",)),
        linear("int", "Größe\n\\", 3, 5),
    ]
    labels = ('a"b\\??/', "±1\n", "0")
    contract = InputContract((8,), mean=(0.5,), std=(0.5,), labels=labels)
    model = PackedModel(contract, tuple(nodes), {"from": "*/\n?"})
    x = random_pixels(50, 8)
    winners, _ = in_c(model, x, tmp_path, *STRICT, "-O1")
    assert (winners == Runner(model).predict(x)).all()
    assert "`model_labels`" in (tmp_path / "export" / "README.md").read_text()
    main = tmp_path / "labels.c"
    main.write_text(
        '#include <stdio.h>\n#include "model.h"\n'
        "int main(void)\n{\n    int i;\n"
        "    for (i = 0; i < MODEL_OUTPUTS; i++) puts(model_labels[i]);\n    return 0;\n}\n"
    )
    program = compile_export(tmp_path / "export", main, tmp_path / "labels")
    assert subprocess.run([program], capture_output=True, check=True).stdout.decode() == "\n".join(
        [*labels, ""]
    )


def test_a_label_too_long_for_c_is_refused() -> None:
    """A string of C has 4,095 bytes at most: one line, with both numbers."""
    contract = InputContract((8,), mean=(0.5,), std=(0.5,), labels=("±" * 2048, "", ""))
    model = PackedModel(contract, (linear("a", "input", 3, 8),))
    with pytest.raises(ExportError, match=r"a label has 4,096 bytes; a string of C has room for 4,095"):
        make(model)


def test_c_as_text() -> None:
    """Literals are read back as they were; names are unique."""
    for value in (np.float32(0.1), np.float32(1e-45), np.float64(-1 / 3), np.float32(16777216)):
        text = literal(value)
        assert type(value)(float(text.removesuffix("f"))) == value
        assert ("f" in text) == (value.dtype == np.float32)
    assert literal(np.int32(-(2**31))) == "INT32_MIN"
    assert literal(np.uint64(2**63)) == "0x8000000000000000u"
    names = Names()
    assert [names.of("weight", node) for node in ("a.b", "a/b", "ü", "")] == [
        "weight_a_b", "weight_a_b_2", "weight", "weight_2",
    ]  # fmt: skip
    assert comment("a */ b\n\\") == "a * / b/x0a/"
    assert comment("???/ ??/*/\u202e*/") == "? ? ?/ ? ?/ * //u202e* /"
    assert len(comment("/*" * 10**6)) < 3000
    assert string('?"±') == r'"\077\042\302\261"'


# --- what it refuses --------------------------------------------------------------------------------------


class Cosine(Node):
    """An operation that no engine has."""


def test_an_unknown_operation_is_named(tmp_path: Path) -> None:
    """And nothing is written."""
    model = model_of((4,), ReLU(name="relu", inputs=("input",)), Cosine(name="odd", inputs=("relu",)))
    with pytest.raises(ExportError, match=r"node 'odd' \(Cosine\): the engine has no such operation"):
        export(model, "c", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_without_the_compiled_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The engine plans the memory: where it cannot be loaded the error says so, and nothing is written."""
    monkeypatch.setitem(sys.modules, "bnn.runtime.native", None)
    with pytest.raises(ExportError, match=r"the compiled engine, which plans .* cannot be loaded: .*native"):
        export(network_of_signs(), "c", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_constants_beyond_float_are_named(tmp_path: Path) -> None:
    """A double that is infinite as a float."""
    far = affine("far", "fc", [1e300] * 3, [0] * 3)
    model = model_of((4,), linear("fc", "input", 3, 4), far, mean=(0.5,), std=(0.5,))
    with pytest.raises(ExportError, match=r"node 'far': its scale is beyond what a float can hold"):
        export(model, "c", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_outputs_beyond_float_are_named(tmp_path: Path) -> None:
    """Constants that a float can hold, but sums of them that it cannot: a self-test has nothing to expect."""
    contract, far = InputContract((64,), mean=(0.5,), std=(0.5,)), np.full(3, 3e38, np.float32)
    layers = linear("fc", "input", 3, 64), affine("far", "fc", far, np.zeros(3, np.float32))
    with pytest.raises(ExportError, match=r"node 'far': its outputs are beyond what a float can hold"):
        export(PackedModel(contract, layers), "c", tmp_path / "out")
    assert not list(tmp_path.iterdir())


@needs("gcc")
def test_the_self_test_has_inputs_with_finite_outputs(tmp_path: Path) -> None:
    """Where outputs of some, here of half, are beyond what a float can hold, the others are taken."""
    contract = InputContract((64,), mean=(0.0,), std=(1.0,))
    weight = PackedWeight.from_signs(np.ones((3, 64), np.int8))
    scale, shift = np.full(3, 2e37, np.float32), np.arange(3, dtype=np.float32)
    layer = Linear(name="fc", inputs=("input",), weight=weight, scale=scale, shift=shift)
    export(PackedModel(contract, (layer,)), "c", tmp_path / "out")
    main = tmp_path / "out" / "main.c"
    assert_passes(compile_export(tmp_path / "out", main, tmp_path / "test"))


@needs("gcc")
def test_signs_of_values_beyond_double(tmp_path: Path) -> None:
    """A scale of 1e308 before a sign: infinity has one too, and neither target nor runtime warns of it."""
    contract = InputContract((64,), mean=(0.1,), std=(0.3,))
    scale = 1e308 * np.where(np.arange(9) % 2, -1, 1)
    layers = (
        linear("fc", "input", 9, 64, scale=scale, shift=np.linspace(-1, 1, 9)),
        Sign(name="sign", inputs=("fc",)),
        linear("head", "sign", 3, 9),
    )
    model, x = PackedModel(contract, layers), random_pixels(100, 64)
    with np.errstate(over="ignore"):
        expected = reference.run(model, x)
    winners, scores = in_c(model, x, tmp_path)
    assert (scores == expected).all()
    assert len(set(winners)) > 1
    assert (Runner(model)(x) == expected).all()


# --- elsewhere --------------------------------------------------------------------------------------------


def test_a_wheel_has_the_sources() -> None:
    """What CMake installs with the compiled module is native/, as it stands: rebuild if this fails."""
    installed = Path(_native.__file__).parents[1] / "export" / "native"
    for path in installed.iterdir():
        assert path.read_bytes() == (NATIVE / path.name).read_bytes()
    assert {"bnn.h", "export_config.h", "softmax.c"} < {path.name for path in installed.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("core", ["m3", "m4"])
@pytest.mark.parametrize(("activation", "layers"), [(ReLU, 1), (Sign, 3)])
def test_on_a_bare_cortex_m(activation: type[Node], layers: int, core: str, tmp_path: Path) -> None:
    """Under QEMU the self-test passes; flash is at most the packed weights and 12 KiB, RAM of signs 8 KiB."""
    notes = export(network_for_mnist(activation, layers), "c", tmp_path / "out")
    run = [NATIVE.parent / "tests" / "native" / "export.sh", tmp_path / "out", core]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 the right scores" in done.stdout
    (sizes,) = re.findall(r"^ *(\d+)\s+(\d+)\s+(\d+).*TOTALS", done.stdout, re.MULTILINE)
    text, data, bss = map(int, sizes)
    (weights,) = re.findall(r"([\d,]+) of them packed", "\n".join(notes))
    (stack,) = re.findall(r"stack of a prediction: (\d+)", done.stdout)
    assert text + data <= int(weights.replace(",", "")) + 12 * 1024
    if activation is Sign:
        assert data + bss + int(stack) <= 8 * 1024


EMULATED = {
    "aarch64": ("aarch64-linux-gnu-gcc", "qemu-aarch64", "qemu-aarch64-static"),
    "armhf": ("arm-linux-gnueabihf-gcc", "qemu-arm", "qemu-arm-static"),
}


@pytest.mark.slow
@pytest.mark.parametrize("machine", EMULATED)
@every_model
def test_under_emulation(machine: str, name: str, tmp_path: Path) -> None:
    """64 and 32 bits of ARM: predictions are the reference's."""
    compiler, *emulators = EMULATED[machine]
    emulator = next(filter(shutil.which, emulators), None)
    if not shutil.which(compiler) or not emulator:
        pytest.skip(f"needs {compiler} and {emulators[0]}")
    out = exported(name, tmp_path)
    program = compile_export(out.folder, PREDICT, tmp_path / "run", compiler, *STRICT, "-O2", "-static")
    x = inputs_of(out.model, 100)
    winners, _ = run_export(out.folder, program, x, emulator)
    assert (winners == reference.run(out.model, x).reshape(100, -1).argmax(axis=1)).all()


def test_the_page_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code exports a model."""
    monkeypatch.chdir(tmp_path)
    one_of_each().save("model.bnn")
    (code,) = re.findall(
        r"```python\n(.*?)```", (NATIVE.parent / "docs" / "export-c.md").read_text(), re.DOTALL
    )
    exec(code, {})
    assert (tmp_path / "model-c" / "model.c").is_file()
