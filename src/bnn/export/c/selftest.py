"""main.c: ten inputs and what the reference makes of them."""

import random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn.export.c.device import Device
from bnn.export.c.model import input_type
from bnn.export.c.text import lines_of, literal
from bnn.export.target import ExportError
from bnn.packed.model import PackedModel
from bnn.runtime import reference

__all__ = ["main_source"]

Array = NDArray[Any]

TESTS, CANDIDATES = 10, 60
TOLERANCE = 1e-4  # of the largest output: what floats may differ by, added in another order


def main_source(model: PackedModel, device: Device) -> str:
    """The self-test as a program.

    Raises:
        ExportError: too few inputs give outputs that a float can hold, which C can write down.
    """
    candidates = _inputs(model)
    with np.errstate(over="ignore", invalid="ignore"):  # which is found here
        outputs = reference.run(device.model, candidates)
    finite = np.isfinite(outputs.reshape(len(outputs), -1)).all(axis=1)
    if finite.sum() < TESTS:
        raise ExportError(f"node {model.output.name!r}: its outputs are beyond what a float can hold")
    candidates, outputs = candidates[finite], outputs[finite]
    if device.scores is not None:
        outputs = device.scores.of(outputs).astype(np.int32 if device.scores.bits == 32 else np.int64)
    outputs = outputs.reshape(len(candidates), -1)
    winners = outputs.argmax(axis=1)
    chosen = _of_many_classes(winners)
    tolerance = TOLERANCE * float(np.abs(outputs[chosen]).max())
    return MAIN.format(
        tests=TESTS,
        input=input_type(model),
        inputs=_rows(candidates[chosen].reshape(TESTS, -1)),
        winners=", ".join(str(winner) for winner in winners[chosen]),
        scores=_rows(outputs[chosen]),
        close=(CLOSE.format(tolerance=literal(np.float32(tolerance))) if device.scores is None else EXACT),
    )


def _of_many_classes(winners: Array) -> list[int]:
    """Indices of ten inputs, from one predicted class after the other."""
    left = list(range(len(winners)))
    chosen: list[int] = []
    while len(chosen) < TESTS:
        seen = set()
        for index in list(left):
            if winners[index] not in seen and len(chosen) < TESTS:
                seen.add(winners[index])
                chosen.append(index)
                left.remove(index)
    return chosen


def _inputs(model: PackedModel) -> Array:
    """Coarse random patterns of growing detail, the same on every machine: pixels, or as if normalised."""
    shape = model.input.shape
    images = np.stack([_pattern(shape, seed) for seed in range(CANDIDATES)])
    return images if model.input.mean else ((images.astype(np.float32) - 128) / 64).astype(np.float32)


def _pattern(shape: tuple[int, ...], seed: int) -> NDArray[np.uint8]:
    chance = random.Random(seed)  # whose sequence Python promises, as numpy does not
    cells = 2 + seed % 9
    size = shape[1:] if len(shape) == 3 else (1, *shape)
    grid = [[_level(chance) for _ in range(cells * cells)] for _ in range(shape[0] if len(shape) == 3 else 1)]
    coarse = np.array(grid, np.uint8).reshape(-1, cells, cells)
    rows, columns = (np.arange(n) * cells // n for n in size)
    return np.ascontiguousarray(coarse[:, rows][:, :, columns].reshape(shape))


def _level(chance: random.Random) -> int:
    """Dark half of the time, as backgrounds are."""
    return 0 if chance.random() < 0.5 else int(256 * chance.random())


def _rows(values: Array) -> str:
    rows = ["    {\n" + lines_of((literal(v) for v in row), " " * 8) + "\n    },\n" for row in values]
    return "".join(rows)


EXACT = "    return score == expected;\n"
CLOSE = """\
    const float difference = score < expected ? expected - score : score - expected;
    return difference <= {tolerance};
"""

MAIN = """\
/* Self-test: ten inputs, and what the reference that `bnn export` has makes of them. It ends with 0 if all
   agree.

   Where there is no stdio, say -DMODEL_PRINT=name of a function that takes a const char *. */

#include "model.h"

#ifdef MODEL_PRINT
void MODEL_PRINT(const char *text);
#else
#include <stdio.h>
#define MODEL_PRINT(text) fputs(text, stdout)
#endif

enum {{ TESTS = {tests} }};

static const {input} inputs[TESTS][MODEL_INPUTS] = {{
{inputs}}};

static const int winners[TESTS] = {{{winners}}};

static const model_score expected_scores[TESTS][MODEL_OUTPUTS] = {{
{scores}}};

static int agree(model_score score, model_score expected)
{{
{close}}}

static void print_number(unsigned long n)
{{
    char digits[24];
    int at = (int)sizeof digits - 1;
    digits[at] = 0;
    do {{
        digits[--at] = (char)('0' + n % 10);
        n /= 10;
    }} while (n > 0);
    MODEL_PRINT(digits + at);
}}

int main(void)
{{
    static model_score scores[MODEL_OUTPUTS];
    int test, i, same_winner = 0, same_scores = 0;
    for (test = 0; test < TESTS; test++) {{
        int agreeing = 0;
        same_winner += model_predict(inputs[test], scores) == winners[test];
        for (i = 0; i < MODEL_OUTPUTS; i++) agreeing += agree(scores[i], expected_scores[test][i]);
        same_scores += agreeing == MODEL_OUTPUTS;
    }}
    MODEL_PRINT("arena: ");
    print_number(MODEL_ARENA_BYTES);
    MODEL_PRINT(" bytes\\nself-test: of ");
    print_number(TESTS);
    MODEL_PRINT(" inputs ");
    print_number((unsigned long)same_winner);
    MODEL_PRINT(" have the right prediction, ");
    print_number((unsigned long)same_scores);
    MODEL_PRINT(" the right scores\\n");
    return same_winner == TESTS && same_scores == TESTS ? 0 : 1;
}}
"""
