"""Makefile and README.md of an exported folder."""

from collections.abc import Sequence
from math import prod

from bnn.export.c.device import Device
from bnn.export.c.model import input_type, score_type
from bnn.export.markdown import fenced
from bnn.packed.model import PackedModel

__all__ = ["makefile", "readme"]


def makefile(c_files: Sequence[str]) -> str:
    """The Makefile, with the names of all sources but main.c."""
    return MAKEFILE.format(sources=" ".join(c_files))


MAKEFILE = """\
# make        libmodel.a, the network and its engine
# make test   the self-test, on this machine
# make size   bytes of code and data
#
# For a microcontroller name its tools and processor:
#
#     make size CROSS=arm-none-eabi- CPU="-mcpu=cortex-m4 -mthumb -mfpu=fpv4-sp-d16 -mfloat-abi=hard"
#
# As C++:
#
#     make CC=g++ STD=-std=c++11

CROSS ?=
CPU ?=
STD := -std=c11
# CC and AR of the environment are for this machine.
ifneq ($(CROSS)$(filter default,$(origin CC)),)
CC := $(CROSS)gcc
endif
ifneq ($(CROSS),)
AR := $(CROSS)ar
endif
SIZE := $(CROSS)size
INSTALL := name another compiler (make CC=clang), or install it (Debian, Ubuntu: apt-get install \\
$(if $(CROSS),gcc-$(notdir $(CROSS:%-=%)),build-essential; macOS: xcode-select --install))

# Signs that are taken of floats must not depend on the compiler: no contraction of a product and a sum.
CFLAGS ?= -Os -Wall -Wextra -Wpedantic -Wconversion
ALL_CFLAGS := $(STD) -ffp-contract=off -ffunction-sections -fdata-sections $(CPU) $(CFLAGS)
BUILD ?= build

SOURCES := {sources}
OBJECTS := $(SOURCES:%.c=$(BUILD)/%.o)

.PHONY: all test size clean compiler

all: $(BUILD)/libmodel.a

test: $(BUILD)/selftest
\t$(BUILD)/selftest

size: $(OBJECTS)
\t$(SIZE) -t $(OBJECTS)

$(BUILD)/libmodel.a: $(OBJECTS)
\trm -f $@
\t$(AR) rcs $@ $^

$(BUILD)/selftest: $(BUILD)/main.o $(BUILD)/libmodel.a
\t$(CC) $(ALL_CFLAGS) $^ -o $@

compiler:
\t@command -v $(firstword $(CC)) >/dev/null || \\
\t{{ echo "make: there is no $(firstword $(CC)): $(INSTALL)" >&2; exit 1; }}

$(BUILD)/%.o: %.c $(wildcard *.h bnn/*.h) | compiler
\tmkdir -p $(@D)
\t$(CC) $(ALL_CFLAGS) -c $< -o $@

clean:
\trm -rf $(BUILD)
"""


def readme(model: PackedModel, device: Device, notes: Sequence[str]) -> str:
    """What lies in the folder, what it takes, and how it is used."""
    shape, scores = model.input.shape, device.scores
    order = f"{shape[0]} of them"
    if len(shape) == 3:
        channels, height, width = shape
        order = f"{height} rows of {width}: `image[row * {width} + column]`"
        if channels > 1:
            at = f"(channel * {height} + row) * {width} + column"
            order = f"{channels} planes, each {height} rows of {width}: `image[{at}]`"
    entries = "floats, normalised as they were for training"
    if model.input.mean:
        entries = "raw pixels, 0 to 255; their normalisation is in the constants"
    meaning = "`float`, what the network gives"
    if scores is not None:
        meaning = f"`{score_type(scores)}`, what the network gives times `MODEL_SCORE_ONE`"
    if any(op.op == "softmax" for op in device.program.ops):
        meaning += ": probabilities"
    return README.format(
        notes=fenced("\n".join(notes)),  # they name nodes
        order=order,
        entries=entries,
        input=input_type(model),
        meaning=meaning,
        outputs=prod(model.shapes[model.output.name]),
        labels="- `model_labels`: names of the outputs, in UTF-8.\n" if model.input.labels else "",
    )


README = """\
# A one-bit network in C

Made by `bnn export --to c`; if the network changes, export it again. C11, and C++11 as well, where `int` has
32 bits or more. It allocates nothing and asks nothing of an operating system.

{notes}

```
make test    compiles it for this machine and runs the self-test; as C++: make test CC=g++ STD=-std=c++11
make size CROSS=arm-none-eabi- CPU="-mcpu=cortex-m4 -mthumb -mfpu=fpv4-sp-d16 -mfloat-abi=hard"
```

## Use

Compile `model.c` and `bnn/*.c` with your project, optimised (`-Os`): the compiler leaves out what
`bnn/bnn_config.h` says is not needed. Where there is floating point, with `-ffp-contract=off`.

```c
#include "model.h"

{input} image[MODEL_INPUTS];
model_score scores[MODEL_OUTPUTS];
int best = model_predict(image, scores); /* or NULL */
```

- `image`: {order}; {entries}.
- `scores`: {outputs}, each {meaning}.
- Returned is the index of the largest score, the lowest where several have it.
{labels}- All calls share one static array, the arena: one call at a time.
  `-DMODEL_ARENA_PLACE='__attribute__((section(".dtcm")))'` puts it elsewhere.
- Two exports have names in common, and engines that differ. To link both, make of each one object with one
  name, and include its `model.h` in a file of its own, behind `#define model_predict digits_predict`:

```
make CFLAGS="-Os -Dmodel_predict=digits_predict"
ld -r --whole-archive build/libmodel.a -o digits.o
objcopy --keep-global-symbol=digits_predict digits.o
```

## Files

- `model.h`, `model.c`: the network: one-bit weights, constants, and the plan that the engine runs; all of it
  `const`, so it stays in flash
- `bnn/`: the engine, as the project has it; only `bnn_config.h` is of this network
- `main.c`: self-test, ten inputs and what they must give; without stdio, `-DMODEL_PRINT=f` prints by your
  `void f(const char *)`
- `Makefile`: `make`, `make test`, `make size`

To run the self-test on a bare Cortex-M, take `startup.c` and `link.ld` from `examples/cortex_m` of the
project. Without a C library: `-DBNN_FREESTANDING`, and a `memcpy` and a `memset` of your own.
"""
