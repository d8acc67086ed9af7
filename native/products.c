/* Products: rows are gathered, tables made, kernels called, and sums finished, a few rows at a time. */

#include "job.h"

/* The rows [row, row + n) of one group, where they lie or gathered, and the bytes from one to the next. */
static const char *rows_of(const bnn_job *j, int32_t row, int32_t n, int32_t group, size_t *stride)
{
    if (BNN_GATHERS && !bnn_is_pointwise(j->node)) return bnn_gather(j, row, n, group, stride);
    *stride = j->layout.pixel;
    return j->x + (size_t)row * j->layout.pixel;
}

static const void *border_values(const bnn_border *border, bnn_place place, int32_t outputs, size_t entry)
{
    size_t at = 0;
    if (border->row) at = (size_t)border->row[place.y] * (size_t)border->columns + border->column[place.x];
    return (const char *)border->values + at * (size_t)outputs * entry;
}

/* Rows of integers: sums, or how many signs differ of `counted`. */
static void finish_integers(const bnn_job *j, int32_t row, int32_t rows, const int32_t *at, int32_t counted,
                            int32_t first, int32_t count)
{
    const bnn_node *node = j->node;
    const size_t pixel = bnn_pixel_bytes(j->out);
    bnn_sums sums = {BNN_I32, at, counted, NULL, NULL};
    bnn_place place = bnn_find_place(j->out, row);
    int32_t r;
    for (r = row; r < row + rows; r++) {
        if (node->border.values)
            sums.correction =
                (const int32_t *)border_values(&node->border, place, j->out->channels, sizeof(int32_t)) +
                first;
        j->plan->kernels->finish(&node->finish, &sums, j->out->dtype, first, count, j->y + (size_t)r * pixel);
        sums.at = at + (size_t)(r + 1 - row) * (size_t)j->layout.sum_ld;
        bnn_next_place(j->out, &place);
    }
}

static void run_bits(const bnn_job *j, int32_t row, int32_t rows)
{
    const bnn_kernels *kernels = j->plan->kernels;
    const bnn_node *node = j->node;
    const int32_t outputs = j->out->channels, per_group = outputs / node->groups;
    const int32_t n = node->kernel[0] * node->kernel[1] * (j->in->channels / node->groups);
    const size_t group_bytes = kernels->bits_bytes(per_group, j->layout.inner);
    int32_t *sums = (int32_t *)(void *)(j->scratch + j->layout.sums);
    const size_t ld = (size_t)j->layout.sum_ld;
    size_t stride;
    int32_t group, o;
    if (node->groups == 1) {
        const uint64_t *x = (const uint64_t *)(const void *)rows_of(j, row, rows, 0, &stride);
        for (o = j->first; o < j->first + j->count; o += BNN_SLACK) {
            const int32_t here = bnn_least(BNN_SLACK, j->first + j->count - o);
            kernels->bits_product(x, stride / sizeof(uint64_t), rows, node->weight, j->layout.inner, o, here,
                                  sums, ld);
            finish_integers(j, row, rows, sums, n, o, here);
        }
        return;
    }
    for (group = 0; group < node->groups; group++) {
        const uint64_t *x = (const uint64_t *)(const void *)rows_of(j, row, rows, group, &stride);
        kernels->bits_product(x, stride / sizeof(uint64_t), rows,
                              (const char *)node->weight + (size_t)group * group_bytes, j->layout.inner, 0,
                              per_group, sums + group * per_group, ld);
    }
    finish_integers(j, row, rows, sums, n, 0, outputs);
}

static void run_f32(const bnn_job *j, int32_t row, int32_t rows)
{
    const bnn_kernels *kernels = j->plan->kernels;
    const bnn_node *node = j->node;
    const int32_t n = j->layout.inner, per_group = j->out->channels / node->groups;
    const size_t table_bytes = kernels->f32.table_bytes(n),
                 group_bytes = kernels->f32.weight_bytes(per_group, n);
    char *tables = j->scratch + j->layout.tables;
    float *sums = (float *)(void *)(j->scratch + j->layout.sums);
    const size_t ld = (size_t)j->layout.sum_ld;
    size_t stride;
    int32_t group, r;
    for (group = 0; group < node->groups; group++) {
        const int32_t first = node->groups == 1 ? j->first : 0,
                      count = node->groups == 1 ? j->count : per_group;
        const char *x = rows_of(j, row, rows, group, &stride);
        for (r = 0; r < rows; r++)
            kernels->f32_tables((const float *)(const void *)(x + (size_t)r * stride), n,
                                tables + (size_t)r * table_bytes);
        kernels->f32_product(tables, rows, (const char *)node->weight + (size_t)group * group_bytes, n, first,
                             count, sums + group * per_group, ld);
    }
    for (r = 0; r < rows; r++) bnn_finish_row(j, row + r, BNN_F32, sums + (size_t)r * ld, j->first, j->count);
}

/* Where the r-th row of integers is widened, before its tables are made. */
static int16_t *wide_row(const bnn_job *j, int32_t r, size_t table_bytes)
{
    const size_t at = BNN_IN_PLACE ? j->layout.tables + (size_t)r * table_bytes : j->layout.row;
    return (int16_t *)(void *)(j->scratch + at);
}

static void run_i8(const bnn_job *j, int32_t row, int32_t rows)
{
    const bnn_kernels *kernels = j->plan->kernels;
    const bnn_node *node = j->node;
    const int32_t n = j->layout.inner, per_group = j->out->channels / node->groups;
    const size_t table_bytes = kernels->i16.table_bytes(n),
                 group_bytes = kernels->i16.weight_bytes(per_group, n);
    char *tables = j->scratch + j->layout.tables;
    int32_t *sums = (int32_t *)(void *)(j->scratch + j->layout.sums);
    const size_t ld = (size_t)j->layout.sum_ld;
    size_t stride;
    int32_t group, r, k;
    for (group = 0; group < node->groups; group++) {
        const int32_t first = node->groups == 1 ? j->first : 0,
                      count = node->groups == 1 ? j->count : per_group;
        const char *x = rows_of(j, row, rows, group, &stride);
        for (r = 0; r < rows; r++) {
            const int8_t *from = (const int8_t *)(const void *)(x + (size_t)r * stride);
            int16_t *wide = wide_row(j, r, table_bytes);
            for (k = 0; k < n; k++) wide[k] = from[k];
            kernels->i16_tables(wide, n, tables + (size_t)r * table_bytes);
        }
        kernels->i16_product(tables, rows, (const char *)node->weight + (size_t)group * group_bytes, n, 127,
                             first, count, sums + group * per_group, ld);
    }
    for (r = 0; r < rows; r++) bnn_finish_row(j, row + r, BNN_I32, sums + (size_t)r * ld, j->first, j->count);
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
    const size_t ld = (size_t)j->layout.sum_ld,
                 entry = BNN_IS(dtype, BNN_F64) ? sizeof(double) : sizeof(float);
    int32_t *sums = (int32_t *)(void *)(j->scratch + j->layout.sums);
    char *tables = j->scratch + j->layout.tables, *totals = j->scratch + j->layout.totals;
    size_t stride;
    const char *x = rows_of(j, row, rows, 0, &stride);
    int32_t r, s;
    for (r = 0; r < rows && dtype != BNN_I32; r++) {
        const char *constants = (const char *)border_values(&node->border, bnn_find_place(j->out, row + r),
                                                            j->out->channels, entry);
        memcpy(totals + (size_t)r * ld * entry, constants + (size_t)j->first * entry,
               (size_t)j->count * entry);
    }
    for (s = 0; s < node->n_segments; s++) {
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
    if (dtype == BNN_I32) {
        finish_integers(j, row, rows, sums, 0, j->first, j->count);
        return;
    }
    for (r = 0; r < rows; r++)
        bnn_finish_row(j, row + r, dtype, totals + (size_t)r * ld * entry, j->first, j->count);
}

static void to_double(bnn_dtype dtype, const void *x, int32_t n, double *y)
{
    int32_t k;
    if (BNN_IS(dtype, BNN_F64))
        memcpy(y, x, (size_t)n * sizeof(double));
    else
        for (k = 0; k < n; k++) y[k] = ((const float *)x)[k];
}

static void run_f64(const bnn_job *j, int32_t row, int32_t rows)
{
    const bnn_node *node = j->node;
    const int32_t n = j->layout.inner, per_group = j->out->channels / node->groups;
    double *x = (double *)(void *)(j->scratch + j->layout.row),
           *sums = (double *)(void *)(j->scratch + j->layout.sums);
    size_t stride;
    int32_t group, r;
    for (r = 0; r < rows; r++) {
        for (group = 0; group < node->groups; group++) {
            const int32_t first = node->groups == 1 ? j->first : 0,
                          count = node->groups == 1 ? j->count : per_group;
            const uint64_t *weight =
                (const uint64_t *)node->weight + (size_t)group * (size_t)per_group * (size_t)bnn_words(n);
            to_double(j->in->dtype, rows_of(j, row + r, 1, group, &stride), n, x);
            bnn_product_f64(x, n, weight, first, count, sums + group * per_group);
        }
        bnn_finish_row(j, row + r, BNN_F64, sums, j->first, j->count);
    }
}

static void dense_f64(const double *x, int32_t n, const float *weight, size_t ld, int32_t count, double *sums)
{
    int32_t k, o;
    memset(sums, 0, (size_t)count * sizeof(double));
    for (k = 0; k < n; k++)
        for (o = 0; o < count; o++) sums[o] += x[k] * weight[(size_t)k * ld + (size_t)o];
}

static void run_dense(const bnn_job *j, int32_t row, int32_t rows)
{
    const bnn_node *node = j->node;
    const int32_t n = j->layout.inner, per_group = j->out->channels / node->groups;
    const bnn_dtype dtype = node->finish.computed;
    double *x64 = (double *)(void *)(j->scratch + j->layout.row),
           *sums64 = (double *)(void *)(j->scratch + j->layout.sums);
    float *x32 = (float *)(void *)(j->scratch + j->layout.row),
          *sums32 = (float *)(void *)(j->scratch + j->layout.sums);
    size_t stride;
    int32_t group, r, k;
    for (r = 0; r < rows; r++) {
        for (group = 0; group < node->groups; group++) {
            const int32_t first = node->groups == 1 ? j->first : 0,
                          count = node->groups == 1 ? j->count : per_group;
            const float *weight =
                (const float *)node->weight + (size_t)group * (size_t)n * (size_t)per_group + first;
            const void *x = rows_of(j, row + r, 1, group, &stride);
            if (BNN_IS(dtype, BNN_F64)) {
                to_double(j->in->dtype, x, n, x64);
                dense_f64(x64, n, weight, (size_t)per_group, count, sums64 + group * per_group);
                continue;
            }
            if (BNN_IS(j->in->dtype, BNN_F64)) {
                for (k = 0; k < n; k++) x32[k] = (float)((const double *)x)[k];
                x = x32;
            }
            j->plan->kernels->dense_f32((const float *)x, n, weight, (size_t)per_group, count,
                                        sums32 + group * per_group);
        }
        bnn_finish_row(j, row + r, dtype, j->scratch + j->layout.sums, j->first, j->count);
    }
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
        bnn_finish_row(j, r, bnn_sum_dtype(j->node, j->in->dtype), sums, 0, j->out->channels);
    }
}

typedef void (*run_rows)(const bnn_job *, int32_t row, int32_t rows);

static run_rows run_of(bnn_op op)
{
    if (BNN_IS_OP(op, BNN_PRODUCT_BITS)) return run_bits;
    if (BNN_IS_OP(op, BNN_PRODUCT_F32)) return run_f32;
    if (BNN_IS_OP(op, BNN_PRODUCT_F64)) return run_f64;
    if (BNN_IS_OP(op, BNN_PRODUCT_I8)) return run_i8;
    if (BNN_IS_OP(op, BNN_PRODUCT_U8)) return run_u8;
    if (BNN_IS_OP(op, BNN_DENSE)) return run_dense;
    return BNN_HAS_OP(BNN_DEPTHWISE) ? run_depthwise : NULL;
}

void bnn_run_product(bnn_job *j, int32_t part, int32_t parts)
{
    const run_rows run = run_of(j->node->op);
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
    for (; from < to; from += j->layout.at_once) run(j, from, bnn_least(j->layout.at_once, to - from));
}
