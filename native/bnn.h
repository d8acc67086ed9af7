/* A runtime for packed one-bit networks, in C11: no allocation, no dependency, no state.

   A network is an array of nodes over an array of values. The caller owns every byte:

       bnn_plan plan;
       bnn_plan_init(&plan, values, n_values, nodes, n_nodes, bnn_kernels_best());
       bnn_arena_bytes(&plan, rows, 1, &bytes);
       void *arena = ... bytes, aligned to BNN_ALIGNMENT ...;
       bnn_run(&plan, input, output, rows, arena);

   `rows` samples are computed at once. To share the work, several threads each take one part of

       batch = bnn_batch_of(&plan, input, output, rows, parts, arena);
       for (step = 0; step < plan.n_nodes; step++) {
           bnn_run_part(&plan, &batch, step, part);
           barrier();
       }

   and the result is the same for any number of parts. Everything here is re-entrant; a plan is only read once
   it is made, so any number of arenas may be run over it.

   Weights. Bit 1 means -1; a row of n signs is ceil(n / 64) little-endian uint64, its padding 0. An
   instruction set wants them in an order of its own, which `bnn_prepare` makes of rows. The portable kernels
   take rows as they are, so that a plan over them may be a constant, made elsewhere: that is what a C export
   is.

   Values are channels-last, (height, width, channels); a vector has height = width = 1. Signs are one bit
   each, the channels of a pixel padded to whole words. What the caller gives and gets is as PyTorch has it:
   where a network takes or gives images, nodes of kind BNN_FROM_PLANES and BNN_TO_PLANES stand at its ends.
 */

#ifndef BNN_H
#define BNN_H

#include <stddef.h>
#include <stdint.h>

#include "bnn_config.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    BNN_OK = 0,
    BNN_ERROR_GRAPH,   /* a node reads what no earlier node wrote, or an index is out of range */
    BNN_ERROR_SHAPE,   /* shapes or fields of a node do not fit each other */
    BNN_ERROR_DTYPE,   /* a node cannot take or give this dtype */
    BNN_ERROR_MISSING, /* a pointer that the node needs is NULL */
    BNN_ERROR_SIZE     /* more bytes than a size_t can count */
} bnn_status;

const char *bnn_status_text(bnn_status status);

typedef enum {
    BNN_BITS, /* ±1, one bit each */
    BNN_U8,   /* raw pixels */
    BNN_I8,   /* quantized activations */
    BNN_I32,  /* sums of ±1 */
    BNN_F32,
    BNN_F64
} bnn_dtype;

/* One array, for each sample. */
typedef struct {
    bnn_dtype dtype;
    int32_t height, width, channels;
    /* Set by bnn_plan_init: */
    size_t bytes;        /* of one sample, in the arena a multiple of BNN_ALIGNMENT */
    size_t offset;       /* of the first sample in the arena, for each row of the run */
    int32_t first, last; /* the nodes that write it and that read it last */
    int32_t next;        /* the value behind it in the arena */
} bnn_value;

typedef enum {
    BNN_FROM_PLANES, /* (channels, height, width), a vector here, to channels-last; to BITS it takes signs too
                      */
    BNN_TO_PLANES,   /* the inverse */
    BNN_NORMALIZE,   /* (x / 255 - mean) / deviation for each channel: U8 to F32 or F64 */
    BNN_QUANTIZE,    /* F32 or F64 to I8 by the sample's largest magnitude: outputs are it and the scale */
    BNN_MAP,         /* `finish` alone */
    BNN_PRODUCT_BITS, /* ±1 x ±1 */
    BNN_PRODUCT_F32,  /* float x ±1 */
    BNN_PRODUCT_F64,  /* the same in double, from F32 or F64 */
    BNN_PRODUCT_I8,   /* int8 x ±1; a second input is the sample's scale */
    BNN_PRODUCT_U8,   /* raw pixels x ±1: exact integers, the normalisation folded in; the sums are of the
                         dtype that is computed with, or, where they are compared, integers */
    BNN_DENSE,        /* float weights, from F32 or F64 */
    BNN_DEPTHWISE,    /* one filter of ±1 a channel, from BITS, F32, F64, or I8 with a scale */
    BNN_MAX_POOL,     /* BITS, I32, F32 or F64 */
    BNN_AVG_POOL,     /* F32 or F64 */
    BNN_ADD,
    BNN_CONCAT,
    BNN_SOFTMAX,
    BNN_OPS
} bnn_op;

typedef enum { BNN_IDENTITY, BNN_RELU, BNN_HARDTANH, BNN_PRELU } bnn_activation;

/* What becomes of a sum before it is stored:  activation(scale * sum + shift), then its sign if the value is
   BITS. Or, for integers to BITS, a comparison. */
typedef struct {
    bnn_dtype computed; /* BNN_F32 or BNN_F64: of scale, shift and the arithmetic */
    int narrow;         /* computed in double, rounded to float before the activation */
    const void *scale;  /* for each channel; scale and shift come together, or not at all */
    const void *shift;
    bnn_activation activation;
    const void *limits;       /* of BNN_HARDTANH: the lowest and the highest, of the dtype `computed` */
    const float *slope;       /* of BNN_PRELU, for each channel */
    const int32_t *threshold; /* for each channel; bit 1 where (sum >= threshold) == flip */
    const uint64_t *flip;     /* a bit for each channel */
} bnn_finish;

/* Values that depend on the output channel, and on how near the border a place is: several rows (or columns)
   of places for which the same part of the kernel lies in the padding are one class. */
typedef struct {
    const uint16_t *row, *column; /* class of each output row and column; NULL: one class */
    int32_t columns;              /* classes of columns */
    const void *values;           /* [row class][column class][output channel] */
} bnn_border;

/* The channels of raw pixels that are normalised with one deviation, and the outputs that they are for. */
typedef struct {
    const int32_t *take; /* these channels of the input; NULL: all, in order */
    int32_t channels;    /* how many */
    int32_t output, outputs;
    const void *divisor; /* one number of the sums' dtype, 255 * deviation; not read for integers */
    const void *weight;
} bnn_segment;

typedef struct {
    bnn_op op;
    int32_t n_inputs;
    const int32_t *inputs; /* indices of values */
    int32_t output;
    int32_t second; /* BNN_QUANTIZE: the value that takes the scales */

    /* Products and pooling: a window over (height, width). A fully connected layer has a 1x1 window. */
    int32_t kernel[2], stride[2], dilation[2];
    int32_t padding[4]; /* top, bottom, left, right */
    int32_t groups;
    int32_t pad_sign;      /* of BITS: -1, 0 or 1; with 0, border holds what is too much */
    const void *pad;       /* of F32 and F64: one entry; NULL: 0 */
    int32_t count_padding; /* BNN_AVG_POOL */

    const void *weight;          /* prepared, one group after the other; of BNN_DENSE float [group][k][out];
                                    of BNN_DEPTHWISE int8 [tap][channel] */
    const bnn_segment *segments; /* BNN_PRODUCT_U8 */
    int32_t n_segments;
    bnn_border
        border; /* int32, to be taken off; of BNN_PRODUCT_U8 with F32 or F64 sums, to be added to them */
    const void *mean, *deviation; /* BNN_NORMALIZE: for each channel, of the output's dtype */
    const uint64_t *flip; /* BNN_MAX_POOL of BITS: channels of which the smallest is wanted; may be NULL */
    bnn_finish finish;
} bnn_node;

/* --- instruction sets ----------------------------------------------------------------------------------- */

/* The kernels of one instruction set. */
typedef struct bnn_kernels bnn_kernels;

/* The fastest this processor has; with a name ("portable", "avx2", ...), that one, or NULL if there is none
   of that name or the processor lacks it. */
const bnn_kernels *bnn_kernels_best(void);
const bnn_kernels *bnn_kernels_named(const char *name);

/* The i-th that this processor has, slowest first; NULL past the last. */
const bnn_kernels *bnn_kernels_at(int i);
const char *bnn_kernels_name(const bnn_kernels *kernels);

/* Bytes that prepared weights take, for a matrix of (outputs, n) signs and one of the BNN_PRODUCT_
 * operations. */
size_t bnn_prepared_bytes(const bnn_kernels *kernels, bnn_op op, int32_t outputs, int32_t n);

/* Puts rows, [outputs][ceil(n / 64)] words, into the order that these kernels read; aligned to BNN_ALIGNMENT.
 */
void bnn_prepare(const bnn_kernels *kernels, bnn_op op, const uint64_t *rows, int32_t outputs, int32_t n,
                 void *prepared);

/* --- running -------------------------------------------------------------------------------------------- */

typedef struct {
    const bnn_kernels *kernels;
    const bnn_value *values; /* 0 is the input, the last node's output is the output */
    const bnn_node *nodes;   /* in order */
    int32_t n_values, n_nodes;
    size_t row_bytes; /* of the arena, for each sample */
} bnn_plan;

/* Checks the graph, and places its values in an arena where those that are not needed at once share bytes.
   The arrays stay the caller's and must outlive the plan. */
bnn_status bnn_plan_init(bnn_plan *plan, bnn_value *values, int32_t n_values, const bnn_node *nodes,
                         int32_t n_nodes, const bnn_kernels *kernels);

/* Bytes of an arena for that many samples and parts at once. */
bnn_status bnn_arena_bytes(const bnn_plan *plan, int32_t rows, int32_t parts, size_t *bytes);

typedef struct {
    const void *input;
    void *output; /* float, or int32_t if the last value is that */
    int32_t rows, parts;
    void *arena;
    size_t scratch; /* bytes of the arena's end, for each part */
#if BNN_STOPS
    /* NULL, or what tells whether to stop, by a flag of the caller's: once it does, what is left of the run
       is left out, and its output is of no use. Asked between small pieces of work, by every thread. */
    int (*stopped)(const void *flag);
    const void *flag;
#endif
} bnn_batch;

/* A run of the plan: rows and parts as the arena was made for. */
bnn_batch bnn_batch_of(const bnn_plan *plan, const void *input, void *output, int32_t rows, int32_t parts,
                       void *arena);

/* One part of one node. All parts of a node before any of the next. */
void bnn_run_part(const bnn_plan *plan, const bnn_batch *batch, int32_t step, int32_t part);

/* The whole network, in this thread. */
void bnn_run(const bnn_plan *plan, const void *input, void *output, int32_t rows, void *arena);

/* About how many cycles of a fast core a node takes for one sample: what sharing it among threads could be
   worth. */
double bnn_node_work(const bnn_plan *plan, int32_t step);

#ifdef __cplusplus
}
#endif

#endif
