/* A job: one part of one node of one run. What the files that do it share. */

#ifndef BNN_JOB_H
#define BNN_JOB_H

#include "kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {     /* how one part of one node goes about it, and what lies where in its scratch */
    int32_t at_once; /* rows; a row is one place of one sample */
    int32_t inner;   /* entries of a row of the product, of one group: taps * channels, or words for bits */
    int32_t sum_ld;
    size_t pixel, entry,
        tap; /* bytes of an input pixel, of one entry of it (but for bits), of one tap of a window */
    size_t patches, row, tables, sums, totals, bytes; /* offsets into the scratch, and its size */
} bnn_layout;

typedef struct { /* a place of the output */
    int32_t sample, y, x;
} bnn_place;

typedef struct {
    const bnn_plan *plan;
    const bnn_batch *batch;
    const bnn_node *node;
    const bnn_value *in, *out; /* of the first input, and of the output */
    const char *x;
    const float *row_scales; /* one for each sample, or NULL */
    char *y;
    char *scratch; /* this part's own */
    bnn_layout layout;
    int32_t first, count; /* outputs of this part */
} bnn_job;

static inline int32_t bnn_least(int32_t a, int32_t b) { return a < b ? a : b; }

static inline int32_t bnn_most(int32_t a, int32_t b) { return a > b ? a : b; }

static inline int32_t bnn_places(const bnn_value *v) { return v->height * v->width; }

static inline int32_t bnn_entries(const bnn_value *v) { return v->height * v->width * v->channels; }

static inline int bnn_is_product(bnn_op op) { return op >= BNN_PRODUCT_BITS && op <= BNN_DEPTHWISE; }

/* Whether any other operation occurs; see kernels.h. */
#define BNN_HAS_OTHERS ((BNN_OPS_USED & ~(((1u << BNN_DEPTHWISE) << 1) - (1u << BNN_PRODUCT_BITS))) != 0)

static inline int bnn_is_windowed(bnn_op op) { return op >= BNN_PRODUCT_BITS && op <= BNN_AVG_POOL; }

/* Whether what is left of the run is to be left out. */
static inline int bnn_stopped(const bnn_batch *batch)
{
#if BNN_STOPS
    return batch->stopped && batch->stopped(batch->flag);
#else
    (void)batch;
    return 0;
#endif
}

/* Part `part` of `parts` of n things: [from, to). */
static inline void bnn_share(int32_t n, int32_t part, int32_t parts, int32_t *from, int32_t *to)
{
    if (!BNN_SHARES) part = 0, parts = 1;
    *from = (int32_t)((int64_t)n * part / parts);
    *to = (int32_t)((int64_t)n * (part + 1) / parts);
}

static inline bnn_place bnn_find_place(const bnn_value *out, int32_t row)
{
    const int32_t places = bnn_places(out), place = row % places;
    const bnn_place found = {row / places, place / out->width, place % out->width};
    return found;
}

static inline void bnn_next_place(const bnn_value *out, bnn_place *place)
{
    if (++place->x < out->width) return;
    place->x = 0;
    if (++place->y < out->height) return;
    place->y = 0;
    place->sample++;
}

/* job.c */
size_t bnn_pixel_bytes(const bnn_value *v);
bnn_dtype bnn_sum_dtype(const bnn_node *node, bnn_dtype in); /* of a product's sums */
int bnn_is_pointwise(const bnn_node *node);                  /* whether its rows can be read where they lie */
bnn_layout bnn_layout_of(const bnn_plan *plan, const bnn_node *node, int32_t rows, int32_t parts);
size_t bnn_scratch_bytes(const bnn_plan *plan, int32_t rows, int32_t parts);
char *bnn_address(const bnn_plan *plan, const bnn_batch *batch, int32_t value);

/* gather.c: the rows [row, row + n) of one group, in the scratch, and the bytes from one to the next */
const char *bnn_gather(const bnn_job *j, int32_t row, int32_t n, int32_t group, size_t *stride);

/* products.c, operations.c: one part of a node */
void bnn_run_product(bnn_job *j, int32_t part, int32_t parts);
void bnn_run_operation(const bnn_job *j, int32_t part, int32_t parts);

/* softmax.c: of n numbers */
void bnn_softmax_f32(const float *x, int32_t n, float *y);
void bnn_softmax_f64(const double *x, int32_t n, double *y);

#ifdef __cplusplus
}
#endif

#endif
