"""The generated sources of a model: model.h, model.c, and the engine's bnn_config.h."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from bnn.export.c.device import Device, Used
from bnn.export.c.memory import Memory
from bnn.export.c.scores import Scores
from bnn.export.c.tables import Tables
from bnn.export.c.text import array, comment, string
from bnn.export.target import ExportError
from bnn.packed.model import PackedModel
from bnn.runtime.program import DTYPES, OPS

__all__ = ["Sources", "config", "input_type", "score_type", "sources"]

STRING = 4095
"""Bytes of a string literal that every compiler of C takes."""


@dataclass(frozen=True)
class Sources:
    """Generated files.

    Attributes:
        header, body: model.h, model.c.
        weight_bytes: of the packed signs.
        constant_bytes: of all the program's arrays, the signs among them.
    """

    header: str
    body: str
    weight_bytes: int
    constant_bytes: int


def sources(model: PackedModel, device: Device, memory: Memory) -> Sources:
    """Everything about this model that is C."""
    program = device.program
    tables = Tables(program, memory)
    body = BODY.format(
        arrays="\n".join([*tables.arrays, *_score_arrays(device.scores)]),
        values="".join(tables.values),
        nodes="".join(tables.nodes),
        value_bytes=memory.values,
        input=input_type(model),
        output_at=memory.offsets[program.ops[-1].output],
        sum="int32_t" if device.scores else "float",
        score=_score(device),
        labels=_labels(model.input.labels),
    )
    scores = device.scores
    of_scores = 0 if scores is None or scores.plain else scores.factor.size * 2 * (scores.bits // 8)
    return Sources(
        header=_header(model, device, memory),
        body=body,
        weight_bytes=tables.weight_bytes,
        constant_bytes=tables.constant_bytes + of_scores,
    )


def score_type(scores: Scores | None) -> str:
    return f"int{scores.bits}_t" if scores else "float"


def input_type(model: PackedModel) -> str:
    return "uint8_t" if model.input.mean else "float"


# --- model.h ----------------------------------------------------------------------------------------------


def _header(model: PackedModel, device: Device, memory: Memory) -> str:
    shape, scores = model.input.shape, device.scores
    about = ", ".join(f"{key}: {value}" for key, value in sorted(model.about.items()))
    sizes = zip(("CHANNELS", "HEIGHT", "WIDTH"), shape, strict=True) if len(shape) == 3 else ()
    order = "channel by channel, each row by row" if len(shape) == 3 else "in order"
    image = (
        f"raw pixels, 0 to 255, {order}"
        if model.input.mean
        else f"floats, normalised as they were for training, {order}"
    )
    if scores is None:
        meaning = "what the network gives"
    elif scores.one == 1:
        meaning = "what the network gives: integers"
    elif scores.rounded:
        meaning = "what the network gives, a float, times MODEL_SCORE_ONE, exactly"
    else:
        meaning = "what the network gives times MODEL_SCORE_ONE, in integers"
    return HEADER.format(
        about=comment(about) or "no more is said of it",
        inputs=prod(shape),
        sizes="".join(f"#define MODEL_{name} {size}\n" for name, size in sizes),
        outputs=prod(model.shapes[model.output.name]),
        arena=memory.arena,
        score_type=score_type(scores),
        one=f"#define MODEL_SCORE_ONE {_integer(scores.one)}\n" if scores else "",
        input=input_type(model),
        image=image,
        meaning=meaning,
        labels=(
            "\n/* Names of the outputs, UTF-8. */\nextern const char *const model_labels[MODEL_OUTPUTS];\n"
            if model.input.labels
            else ""
        ),
    )


HEADER = """\
/* A one-bit network, made by `bnn export --to c`: {about}. */

#ifndef MODEL_H
#define MODEL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

#define MODEL_INPUTS {inputs}
{sizes}#define MODEL_OUTPUTS {outputs}

/* Bytes of RAM that it works in, one static array. Beside them it needs stack. */
#define MODEL_ARENA_BYTES {arena}

/* A score is {meaning}. */
typedef {score_type} model_score;
{one}
/* The output with the largest score, the lowest index where several have it.

   image: MODEL_INPUTS {image}.
   scores: takes MODEL_OUTPUTS of them; may be NULL.

   Not re-entrant: all calls share the array. */
int model_predict(const {input} *image, model_score *scores);
{labels}
#ifdef __cplusplus
}}
#endif

#endif
"""


# --- model.c ----------------------------------------------------------------------------------------------


def _score_arrays(scores: Scores | None) -> list[str]:
    if scores is None or scores.plain:
        return []
    kind = np.int32 if scores.bits == 32 else np.int64
    arrays = {"factor": scores.factor, "offset": scores.offset}
    return [*(array(name, v.astype(kind)) for name, v in arrays.items()), *[ROUNDED] * scores.rounded]


def _score(device: Device) -> str:
    if device.scores is None or device.scores.plain:
        return "output[i]"
    places = prod(device.model.shapes[device.model.output.name][1:])
    channel = "i" if places == 1 else f"i / {places}"
    score = f"factor[{channel}] * output[i] + offset[{channel}]"
    return f"rounded({score})" if device.scores.rounded else score


def _labels(labels: Sequence[str]) -> str:
    if not labels:
        return ""
    longest = max(len(label.encode()) for label in labels)
    if longest > STRING:
        raise ExportError(f"a label has {longest:,} bytes; a string of C has room for {STRING:,}")
    names = "".join(f"    {string(label)},\n" for label in labels)
    return f"\nconst char *const model_labels[MODEL_OUTPUTS] = {{\n{names}}};\n"


def _integer(value: int) -> str:
    return str(value) if value < 2**31 else f"INT64_C({value})"


ROUNDED = """\
/* To the 24 significant bits of a float, ties to even: what is equal as floats is to be equal here. */
static model_score rounded(model_score score)
{
    uint64_t magnitude = score < 0 ? 0 - (uint64_t)score : (uint64_t)score;
    int drop = 0;
    while (magnitude >> drop >> 24) drop++;
    if (drop > 0) magnitude += (UINT64_C(1) << (drop - 1)) - 1 + (magnitude >> drop & 1);
    magnitude = magnitude >> drop << drop;
    return score < 0 ? -(model_score)magnitude : (model_score)magnitude;
}
"""

BODY = """\
/* The network: its packed weights and constants, and the plan that bnn/ runs. All of it is const, so that it
   stays in flash. Made by `bnn export --to c`; to change it, export again. */

#include "model.h"

#include "bnn/kernels.h"

/* --- constants ------------------------------------------------------------------------------------------ */

{arrays}
/* --- the plan ------------------------------------------------------------------------------------------- */

/* dtype, height, width, channels, bytes, offset in the arena; the rest is for making plans, which this is. */
static const bnn_value values[] = {{
{values}}};

/* As bnn_node has it: operation, inputs; output; kernel, stride, dilation, padding, groups; pad;
   count_padding; weight; segments, border; mean, deviation; flip; finish. */
static const bnn_node nodes[] = {{
{nodes}}};

static const bnn_plan plan = {{
    &bnn_portable,
    values,
    nodes,
    (int32_t)(sizeof values / sizeof values[0]),
    (int32_t)(sizeof nodes / sizeof nodes[0]),
    {value_bytes},
}};

/* --- running -------------------------------------------------------------------------------------------- */

/* Where the arena goes can be said before: -DMODEL_ARENA_PLACE='__attribute__((section(".dtcm")))' */
#ifndef MODEL_ARENA_PLACE
#define MODEL_ARENA_PLACE
#endif

static uint64_t arena[MODEL_ARENA_BYTES / sizeof(uint64_t)] MODEL_ARENA_PLACE;

int model_predict(const {input} *image, model_score *scores)
{{
    const bnn_batch batch = {{image, (char *)arena + {output_at}, 1, 1, arena, 0}};
    const {sum} *output = (const {sum} *)batch.output;
    model_score best = 0;
    int i, winner = 0;
    for (i = 0; i < plan.n_nodes; i++) bnn_run_part(&plan, &batch, i, 0);
    for (i = 0; i < MODEL_OUTPUTS; i++) {{
        const model_score score = {score};
        if (i == 0 || score > best) {{
            best = score;
            winner = i;
        }}
        if (scores) scores[i] = score;
    }}
    return winner;
}}
{labels}"""


# --- bnn_config.h -----------------------------------------------------------------------------------------


def config(template: str, used: Used) -> str:
    """native/export_config.h, with what the model has need of."""
    values = {
        "OPS_USED": _mask(used.operations, OPS),
        "DTYPES_USED": _mask(used.dtypes, DTYPES),
        "GATHERS": str(int(used.gathers)),
    }
    for name, value in values.items():
        template = re.sub(rf"(?m)^(#define BNN_{name}) .*$", rf"\1 {value}", template)
    return template


def _mask(names: Collection[str], all_names: Sequence[str]) -> str:
    used = [name for name in all_names if name in names]
    return f"0x{sum(1 << all_names.index(name) for name in used):x}u /* {', '.join(used)} */"
