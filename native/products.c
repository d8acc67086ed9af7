/* Products: rows are gathered, tables made, kernels called, and sums finished, a few rows at a time. */

#include "job.h"

/* The rows [row, row + n) of one group, where they lie or gathered, and the bytes from one to the next. */
static const char *rows_of(const bnn_job *j, int32_t row, int32_t n, int32_t group, size_t *stride)
{
    if (BNN_GATHERS && !bnn_is_pointwise(j->node)) return bnn_gather(j, row, n, group, stride);
    *stride = j->layout.pixel;
    return j->x + (size_t)row * j->layout.pixel;
}

static size_t entry_bytes(bnn_dtype sums) { return BNN_IS(sums, BNN_F64) ? sizeof(double) : sizeof(float); }

static const void *border_values(const bnn_border *border, bnn_place place, int32_t outputs, bnn_dtype dtype)
{
    size_t at = 0;
    if (border->row) at = (size_t)border->row[place.y] * (size_t)border->columns + border->column[place.x];
    return (const char *)border->values + at * (size_t)outputs * entry_bytes(dtype);
}

/* Rows of sums, or of how many signs differ of `counted`; those of `count` outputs from `first` on. */
static void finish_rows(const bnn_job *j, int32_t row, int32_t rows, bnn_dtype dtype, const char *at,
                        int32_t counted, int32_t first, int32_t count)
{
    const bnn_border *border = &j->node->border;
    const size_t pixel = bnn_pixel_bytes(j->out), ld = (size_t)j->layout.sum_ld * entry_bytes(dtype);
    bnn_sums sums = {dtype, at, counted, NULL, NULL};
    bnn_place place = bnn_find_place(j->out, row);
    int32_t r;
    for (r = 0; r < rows; r++, bnn_next_place(j->out, &place)) {
        sums.at = at + (size_t)r * ld;
        if (border->values && BNN_IS(dtype, BNN_I32))
            sums.correction = (const int32_t *)border_values(border, place, j->out->channels, dtype) + first;
        if (j->row_scales) sums.scale = j->row_scales + place.sample;
        j->plan->kernels->finish(&j->node->finish, &sums, j->out->dtype, first, count,
                                 j->y + (size_t)(row + r) * pixel);
    }
}

/* Some rows of one group, and which of its outputs this part computes. */
typedef struct {
    const char *x; /* the first row, and bytes from one to the next */
    size_t stride;
    void *sums;
    int32_t rows, index, outputs; /* the group's number, and how many outputs it has */
    int32_t first, count;
} group;

static const void *row_of(const group *g, int32_t r) { return g->x + (size_t)r * g->stride; }

/* The group's weights, `bytes` of them in each group. */
static const void *weight_of(const bnn_job *j, const group *g, size_t bytes)
{
    return (const char *)j->node->weight + (size_t)g->index * bytes;
}

static void sum_bits(const bnn_job *j, const group *g)
{
    const bnn_kernels *kernels = j->plan->kernels;
    const size_t bytes = kernels->bits_bytes(g->outputs, j->layout.inner);
    kernels->bits_product((const uint64_t *)row_of(g, 0), g->stride / sizeof(uint64_t), g->rows,
                          weight_of(j, g, bytes), j->layout.inner, g->first, g->count, (int32_t *)g->sums,
                          (size_t)j->layout.sum_ld);
}

static void sum_f32(const bnn_job *j, const group *g)
{
    const bnn_kernels *kernels = j->plan->kernels;
    const int32_t n = j->layout.inner;
    const size_t bytes = kernels->f32.weight_bytes(g->outputs, n), table_bytes = kernels->f32.table_bytes(n);
    char *tables = j->scratch + j->layout.tables;
    int32_t r;
    for (r = 0; r < g->rows; r++)
        kernels->f32_tables((const float *)row_of(g, r), n, tables + (size_t)r * table_bytes);
    kernels->f32_product(tables, g->rows, weight_of(j, g, bytes), n, g->first, g->count, (float *)g->sums,
                         (size_t)j->layout.sum_ld);
}

/* Where the r-th row of integers is widened, before its tables are made. */
static int16_t *wide_row(const bnn_job *j, int32_t r, size_t table_bytes)
{
    const size_t at = BNN_IN_PLACE ? j->layout.tables + (size_t)r * table_bytes : j->layout.row;
    return (int16_t *)(void *)(j->scratch + at);
}

static void sum_i8(const bnn_job *j, const group *g)
{
    const bnn_kernels *kernels = j->plan->kernels;
    const int32_t n = j->layout.inner;
    const size_t bytes = kernels->i16.weight_bytes(g->outputs, n), table_bytes = kernels->i16.table_bytes(n);
    char *tables = j->scratch + j->layout.tables;
    int32_t r, k;
    for (r = 0; r < g->rows; r++) {
        const int8_t *from = (const int8_t *)row_of(g, r);
        int16_t *wide = wide_row(j, r, table_bytes);
        for (k = 0; k < n; k++) wide[k] = from[k];
        kernels->i16_tables(wide, n, tables + (size_t)r * table_bytes);
    }
    kernels->i16_product(tables, g->rows, weight_of(j, g, bytes), n, 127, g->first, g->count,
                         (int32_t *)g->sums, (size_t)j->layout.sum_ld);
}

static void to_double(bnn_dtype dtype, const void *x, int32_t n, double *y)
{
    int32_t k;
    if (BNN_IS(dtype, BNN_F64))
        memcpy(y, x, (size_t)n * sizeof(double));
    else
        for (k = 0; k < n; k++) y[k] = ((const float *)x)[k];
}

static void dense_f64(const double *x, int32_t n, const float *weight, size_t ld, int32_t count, double *sums)
{
    int32_t k, o;
    memset(sums, 0, (size_t)count * sizeof(double));
    for (k = 0; k < n; k++)
        for (o = 0; o < count; o++) sums[o] += x[k] * weight[(size_t)k * ld + (size_t)o];
}

static void sum_f64(const bnn_job *j, const group *g)
{
    const int32_t n = j->layout.inner;
    const size_t bytes = (size_t)g->outputs * (size_t)bnn_words(n) * sizeof(uint64_t);
    double *x = (double *)(void *)(j->scratch + j->layout.row), *sums = (double *)g->sums;
    int32_t r;
    for (r = 0; r < g->rows; r++, sums += j->layout.sum_ld) {
        to_double(j->in->dtype, row_of(g, r), n, x);
        bnn_product_f64(x, n, (const uint64_t *)weight_of(j, g, bytes), g->first, g->count, sums);
    }
}

static void sum_dense(const bnn_job *j, const group *g)
{
    const int32_t n = j->layout.inner;
    const size_t ld = (size_t)g->outputs, bytes = (size_t)n * ld * sizeof(float);
    const float *weight = (const float *)weight_of(j, g, bytes) + g->first;
    void *other = j->scratch + j->layout.row; /* a row in the dtype that is computed with */
    int32_t r, k;
    for (r = 0; r < g->rows; r++) {
        const void *x = row_of(g, r);
        const size_t at = (size_t)r * (size_t)j->layout.sum_ld;
        if (BNN_IS(j->node->finish.computed, BNN_F64)) {
            to_double(j->in->dtype, x, n, (double *)other);
            dense_f64((const double *)other, n, weight, ld, g->count, (double *)g->sums + at);
            continue;
        }
        if (BNN_IS(j->in->dtype, BNN_F64)) {
            for (k = 0; k < n; k++) ((float *)other)[k] = (float)((const double *)x)[k];
            x = other;
        }
        j->plan->kernels->dense_f32((const float *)x, n, weight, ld, g->count, (float *)g->sums + at);
    }
}

/* Signs in a row of one group. */
static int32_t signs_in(const bnn_job *j)
{
    return j->node->kernel[0] * j->node->kernel[1] * (j->in->channels / j->node->groups);
}

/* Group by group, side by side in rows of sums. Where there is one, this part may have some outputs only. */
static void run_groups(const bnn_job *j, int32_t row, int32_t rows)
{
    const bnn_op op = j->node->op;
    const bnn_dtype dtype = bnn_sum_dtype(j->node, j->in->dtype);
    const int32_t groups = j->node->groups, outputs = j->out->channels / groups;
    char *sums = j->scratch + j->layout.sums;
    group g = {NULL, 0, sums, rows, 0, outputs, j->first, bnn_least(j->count, outputs)};
    for (; g.index < groups && !bnn_stopped(j->batch); g.index++) {
        g.x = rows_of(j, row, rows, g.index, &g.stride);
        g.sums = sums + (size_t)(g.index * outputs) * entry_bytes(dtype);
        if (BNN_IS_OP(op, BNN_PRODUCT_BITS))
            sum_bits(j, &g);
        else if (BNN_IS_OP(op, BNN_PRODUCT_F32))
            sum_f32(j, &g);
        else if (BNN_IS_OP(op, BNN_PRODUCT_F64))
            sum_f64(j, &g);
        else if (BNN_IS_OP(op, BNN_PRODUCT_I8))
            sum_i8(j, &g);
        else if (BNN_HAS_OP(BNN_DENSE))
            sum_dense(j, &g);
    }
    finish_rows(j, row, rows, dtype, sums, BNN_IS_OP(op, BNN_PRODUCT_BITS) ? signs_in(j) : 0, j->first,
                j->count);
}

/* Bits without groups: a few outputs at a time. */
static void run_bits(const bnn_job *j, int32_t row, int32_t rows)
{
    const int32_t end = j->first + j->count, n = signs_in(j);
    char *sums = j->scratch + j->layout.sums;
    size_t stride;
    const uint64_t *x = (const uint64_t *)(const void *)rows_of(j, row, rows, 0, &stride);
    int32_t o;
    for (o = j->first; o < end; o += BNN_SLACK) {
        const int32_t here = bnn_least(BNN_SLACK, end - o);
        j->plan->kernels->bits_product(x, stride / sizeof(uint64_t), rows, j->node->weight, j->layout.inner,
                                       o, here, (int32_t *)(void *)sums, (size_t)j->layout.sum_ld);
        finish_rows(j, row, rows, BNN_I32, sums, n, o, here);
    }
}

/* Some channels of a window of pixels, widened. */
static void take_channels(const uint8_t *window, int32_t taps, int32_t channels, const bnn_segment *segment,
                          int16_t *wide)
{
    int32_t t, c;
    if (segment->channels == channels) { /* all of them, in order */
        for (c = 0; c < taps * channels; c++) wide[c] = window[c];
        return;
    }
    for (t = 0; t < taps; t++)
        for (c = 0; c < segment->channels; c++) *wide++ = window[t * channels + segment->take[c]];
}

#define ADD_SEGMENT(T)                                                                                       \
    static void add_segment_##T(const int32_t *sums, int32_t count, const void *divisor, T *totals)          \
    {                                                                                                        \
        const T d = *(const T *)divisor;                                                                     \
        int32_t o;                                                                                           \
        for (o = 0; o < count; o++) totals[o] += (T)sums[o] / d;                                             \
    }
ADD_SEGMENT(float)
ADD_SEGMENT(double)

static void run_u8(const bnn_job *j, int32_t row, int32_t rows)
{
    const bnn_kernels *kernels = j->plan->kernels;
    const bnn_node *node = j->node;
    const int32_t taps = node->kernel[0] * node->kernel[1];
    const bnn_dtype dtype = bnn_sum_dtype(node, BNN_U8);
    const size_t ld = (size_t)j->layout.sum_ld, entry = entry_bytes(dtype);
    int32_t *sums = (int32_t *)(void *)(j->scratch + j->layout.sums);
    char *tables = j->scratch + j->layout.tables, *totals = j->scratch + j->layout.totals;
    size_t stride;
    const char *x = rows_of(j, row, rows, 0, &stride);
    int32_t r, s;
    for (r = 0; r < rows && dtype != BNN_I32; r++) {
        const char *constants = (const char *)border_values(&node->border, bnn_find_place(j->out, row + r),
                                                            j->out->channels, dtype);
        memcpy(totals + (size_t)r * ld * entry, constants + (size_t)j->first * entry,
               (size_t)j->count * entry);
    }
    for (s = 0; s < node->n_segments && !bnn_stopped(j->batch); s++) {
        const bnn_segment *segment = node->segments + s;
        const int all = segment->outputs == j->out->channels; /* else this part has all outputs */
        const int32_t n = taps * segment->channels, count = all ? j->count : segment->outputs;
        const size_t table_bytes = kernels->i16.table_bytes(n);
        for (r = 0; r < rows; r++) {
            int16_t *wide = wide_row(j, r, table_bytes);
            take_channels((const uint8_t *)x + (size_t)r * stride, taps, j->in->channels, segment, wide);
            kernels->i16_tables(wide, n, tables + (size_t)r * table_bytes);
        }
        kernels->i16_product(tables, rows, segment->weight, n, 255, all ? j->first : 0, count,
                             sums + (dtype == BNN_I32 ? segment->output : 0), ld);
        for (r = 0; r < rows && dtype != BNN_I32; r++) {
            char *total = totals + ((size_t)r * ld + (size_t)segment->output) * entry;
            if (BNN_IS(dtype, BNN_F32))
                add_segment_float(sums + (size_t)r * ld, count, segment->divisor, (float *)(void *)total);
            else if (BNN_HAS(BNN_F64))
                add_segment_double(sums + (size_t)r * ld, count, segment->divisor, (double *)(void *)total);
        }
    }
    finish_rows(j, row, rows, dtype, dtype == BNN_I32 ? (char *)sums : totals, 0, j->first, j->count);
}

#define DEPTHWISE(X, T, PIXEL, AT, PAD)                                                                      \
    static void depthwise_##X(const bnn_node *node, const bnn_value *in, const X *image, bnn_place place,    \
                              T *sums)                                                                       \
    {                                                                                                        \
        const int8_t *w = (const int8_t *)node->weight;                                                      \
        const int32_t channels = in->channels;                                                               \
        const T pad = PAD(T);                                                                                \
        int32_t ky, kx, c;                                                                                   \
        memset(sums, 0, (size_t)channels * sizeof(T));                                                       \
        for (ky = 0; ky < node->kernel[0]; ky++)                                                             \
            for (kx = 0; kx < node->kernel[1]; kx++, w += channels) {                                        \
                const int32_t y = place.y * node->stride[0] - node->padding[0] + ky * node->dilation[0];     \
                const int32_t x = place.x * node->stride[1] - node->padding[2] + kx * node->dilation[1];     \
                if (y >= 0 && y < in->height && x >= 0 && x < in->width) {                                   \
                    const X *pixel = image + ((size_t)y * (size_t)in->width + (size_t)x) * (size_t)(PIXEL);  \
                    for (c = 0; c < channels; c++) sums[c] += (T)w[c] * (T)AT(pixel, c);                     \
                } else if (pad != 0) {                                                                       \
                    for (c = 0; c < channels; c++) sums[c] += (T)w[c] * pad;                                 \
                }                                                                                            \
            }                                                                                                \
    }
#define ENTRIES(pixel, c) (pixel)[c]
#define SIGNS(pixel, c) (1 - 2 * (int32_t)((pixel)[(c) / 64] >> ((c) % 64) & 1))
#define PAD_SIGN(T) node->pad_sign
#define PAD_ENTRY(T) (node->pad ? *(const T *)node->pad : 0)
DEPTHWISE(uint64_t, int32_t, bnn_words(in->channels), SIGNS, PAD_SIGN)
DEPTHWISE(int8_t, int32_t, in->channels, ENTRIES, PAD_SIGN)
DEPTHWISE(float, float, in->channels, ENTRIES, PAD_ENTRY)
DEPTHWISE(double, double, in->channels, ENTRIES, PAD_ENTRY)

static void run_depthwise(const bnn_job *j, int32_t row, int32_t rows)
{
    void *sums = j->scratch + j->layout.sums;
    int32_t r;
    for (r = row; r < row + rows; r++) {
        const bnn_place place = bnn_find_place(j->out, r);
        const void *image = j->x + (size_t)place.sample * j->in->bytes;
        if (BNN_IS(j->in->dtype, BNN_BITS))
            depthwise_uint64_t(j->node, j->in, (const uint64_t *)image, place, (int32_t *)sums);
        else if (BNN_IS(j->in->dtype, BNN_I8))
            depthwise_int8_t(j->node, j->in, (const int8_t *)image, place, (int32_t *)sums);
        else if (BNN_IS(j->in->dtype, BNN_F32))
            depthwise_float(j->node, j->in, (const float *)image, place, (float *)sums);
        else if (BNN_HAS(BNN_F64))
            depthwise_double(j->node, j->in, (const double *)image, place, (double *)sums);
        finish_rows(j, r, 1, bnn_sum_dtype(j->node, j->in->dtype), (char *)sums, 0, 0, j->out->channels);
    }
}

static void run_rows(const bnn_job *j, int32_t row, int32_t rows)
{
    const bnn_op op = j->node->op;
    if (BNN_IS_OP(op, BNN_PRODUCT_BITS) && j->node->groups == 1)
        run_bits(j, row, rows);
    else if (BNN_IS_OP(op, BNN_PRODUCT_U8))
        run_u8(j, row, rows);
    else if (BNN_IS_OP(op, BNN_DEPTHWISE))
        run_depthwise(j, row, rows);
    else
        run_groups(j, row, rows);
}

void bnn_run_product(bnn_job *j, int32_t part, int32_t parts)
{
    const int32_t total = j->batch->rows * bnn_places(j->out), outputs = j->out->channels;
    int32_t splits = j->node->groups == 1 ? (outputs + BNN_SPLIT - 1) / BNN_SPLIT : 1, i;
    int32_t from = 0, to = total;
    for (i = 0; i < j->node->n_segments; i++) /* those of a group have some outputs only */
        if (j->node->segments[i].outputs != outputs) splits = 1;
    j->first = 0;
    j->count = outputs;
    if (total >= parts * BNN_ROWS || splits < 2) { /* rows are shared, or, where they are few, outputs */
        bnn_share(total, part, parts, &from, &to);
    } else {
        int32_t a, b;
        bnn_share(splits, part, parts, &a, &b);
        j->first = a * BNN_SPLIT;
        j->count = bnn_least(b * BNN_SPLIT, outputs) - j->first;
        if (a == b) return;
    }
    for (; from < to && !bnn_stopped(j->batch); from += j->layout.at_once)
        run_rows(j, from, bnn_least(j->layout.at_once, to - from));
}
