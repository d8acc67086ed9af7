/* Runs a graph over a caller's arena: where values lie, which rows a part works on, and what surrounds a kernel
   (gathering windows, tables, what becomes of sums). The arithmetic itself is in the kernels. */

#include <math.h>
#include <string.h>

#include "kernels.h"

typedef struct { /* what one part of one node needs beside the values */
    int32_t at_once; /* rows; a row is one place of one sample */
    int32_t inner;   /* entries of a row of the product, of one group: taps * channels, or words for bits */
    int32_t sum_ld;
    size_t pixel, entry, tap; /* bytes of an input pixel, of one entry of it (but for bits), of one tap of a window */
    size_t patches, row, tables, sums, totals, bytes; /* offsets into the scratch, and its size */
} work;

static int32_t least(int32_t a, int32_t b) { return a < b ? a : b; }
static int32_t most(int32_t a, int32_t b) { return a > b ? a : b; }

const char *bnn_status_text(bnn_status status)
{
    switch (status) {
    case BNN_OK: return "no error";
    case BNN_ERROR_GRAPH: return "a node reads what no earlier node wrote, or an index is out of range";
    case BNN_ERROR_SHAPE: return "the shapes or fields of a node do not fit each other";
    case BNN_ERROR_DTYPE: return "a node cannot take or give this dtype";
    case BNN_ERROR_MISSING: return "a node lacks an array";
    case BNN_ERROR_SIZE: return "more bytes than can be counted";
    }
    return "unknown status";
}

/* --- values ------------------------------------------------------------------------------------------------- */

static size_t pixel_bytes(const bnn_value *v)
{
    switch (v->dtype) {
    case BNN_BITS: return (size_t)bnn_words(v->channels) * sizeof(uint64_t);
    case BNN_U8:
    case BNN_I8: return (size_t)v->channels;
    case BNN_I32:
    case BNN_F32: return (size_t)v->channels * 4;
    default: return (size_t)v->channels * 8;
    }
}

static int32_t places_of(const bnn_value *v) { return v->height * v->width; }
static int32_t entries_of(const bnn_value *v) { return v->height * v->width * v->channels; }

static char *address(const bnn_plan *plan, const bnn_batch *batch, int32_t value)
{
    if (value == 0) return (char *)(uintptr_t)batch->input; /* only read */
    if (value == plan->nodes[plan->n_nodes - 1].output) return batch->output;
    return (char *)batch->arena + (size_t)batch->rows * plan->values[value].offset;
}

/* --- planning ------------------------------------------------------------------------------------------------ */

static int is_product(bnn_op op) { return op >= BNN_PRODUCT_BITS && op <= BNN_DEPTHWISE; }
static int is_windowed(bnn_op op) { return op >= BNN_PRODUCT_BITS && op <= BNN_AVG_POOL; }

/* The dtype of a product's sums. */
static bnn_dtype sum_dtype(const bnn_node *node, bnn_dtype in)
{
    switch (node->op) {
    case BNN_PRODUCT_BITS:
    case BNN_PRODUCT_I8: return BNN_I32;
    case BNN_PRODUCT_F32: return BNN_F32;
    case BNN_PRODUCT_F64:
    case BNN_PRODUCT_U8: return BNN_F64;
    case BNN_DENSE: return node->finish.computed;
    default: return in == BNN_F32 || in == BNN_F64 ? in : BNN_I32;
    }
}

static int takes(const bnn_node *node, bnn_dtype in, bnn_dtype out)
{
    const int floats = in == BNN_F32 || in == BNN_F64;
    switch (node->op) {
    case BNN_FROM_PLANES: return in == out ? in != BNN_BITS : in == BNN_F32 && out == BNN_BITS;
    case BNN_TO_PLANES: return in == out;
    case BNN_NORMALIZE: return in == BNN_U8 && out == BNN_F64;
    case BNN_QUANTIZE: return floats && out == BNN_I8;
    case BNN_MAP: return in != BNN_U8 && in != BNN_I8;
    case BNN_PRODUCT_BITS: return in == BNN_BITS;
    case BNN_PRODUCT_F32: return in == BNN_F32;
    case BNN_PRODUCT_F64:
    case BNN_DENSE: return floats;
    case BNN_PRODUCT_I8: return in == BNN_I8;
    case BNN_PRODUCT_U8: return in == BNN_U8;
    case BNN_DEPTHWISE: return floats || in == BNN_I8 || in == BNN_BITS;
    case BNN_MAX_POOL: return in == out && (floats || in == BNN_BITS || in == BNN_I32);
    case BNN_AVG_POOL:
    case BNN_ADD:
    case BNN_SOFTMAX: return in == out && floats;
    case BNN_CONCAT: return in == out;
    default: return 0;
    }
}

static bnn_status check_finish(const bnn_finish *f, bnn_dtype from, bnn_dtype to)
{
    if (to == BNN_U8 || to == BNN_I8) return BNN_ERROR_DTYPE;
    if (f->threshold) {
        if (from != BNN_I32 || to != BNN_BITS) return BNN_ERROR_DTYPE;
        return f->flip ? BNN_OK : BNN_ERROR_MISSING;
    }
    if (to == BNN_I32) return from == BNN_I32 && !f->scale && !f->activation ? BNN_OK : BNN_ERROR_DTYPE;
    if (f->computed != BNN_F32 && f->computed != BNN_F64) return BNN_ERROR_DTYPE;
    if ((f->scale == NULL) != (f->shift == NULL)) return BNN_ERROR_MISSING;
    if (f->activation == BNN_PRELU && !f->slope) return BNN_ERROR_MISSING;
    return BNN_OK;
}

static int window_fits(const bnn_node *node, int32_t axis, int32_t in, int32_t out)
{
    const int64_t before = node->padding[2 * axis], after = node->padding[2 * axis + 1];
    const int64_t span = (int64_t)node->dilation[axis] * (node->kernel[axis] - 1) + 1;
    if (node->kernel[axis] < 1 || node->stride[axis] < 1 || node->dilation[axis] < 1 || before < 0 || after < 0)
        return 0;
    if (in + before + after < span || in + before + after > INT32_MAX) return 0;
    return out == (in + before + after - span) / node->stride[axis] + 1;
}

static bnn_status check_window(const bnn_node *node, const bnn_value *in, const bnn_value *out)
{
    const int64_t inner = (int64_t)node->kernel[0] * node->kernel[1] * (in->channels + 63);
    if (!window_fits(node, 0, in->height, out->height) || !window_fits(node, 1, in->width, out->width))
        return BNN_ERROR_SHAPE;
    if (!is_product(node->op)) return in->channels == out->channels ? BNN_OK : BNN_ERROR_SHAPE;
    if (inner > INT32_MAX || node->groups < 1 || in->channels % node->groups || out->channels % node->groups)
        return BNN_ERROR_SHAPE;
    if (node->op == BNN_DEPTHWISE && (node->groups != in->channels || in->channels != out->channels))
        return BNN_ERROR_SHAPE;
    if (node->op == BNN_PRODUCT_U8) {
        int32_t i;
        if (!node->segments || !node->border.values || node->groups != 1) return BNN_ERROR_MISSING;
        for (i = 0; i < node->n_segments; i++) {
            const bnn_segment *s = node->segments + i;
            if (s->first < 0 || s->channels < 1 || s->first > in->channels - s->channels) return BNN_ERROR_SHAPE;
            if (!s->weight) return BNN_ERROR_MISSING;
        }
        return BNN_OK;
    }
    return node->weight ? BNN_OK : BNN_ERROR_MISSING;
}

static bnn_status check_node(const bnn_plan *plan, int32_t step)
{
    const bnn_node *node = plan->nodes + step;
    const bnn_value *values = plan->values, *in, *out;
    int32_t i, channels = 0;
    if (node->op < 0 || node->op >= BNN_OPS || node->n_inputs < 1 || !node->inputs) return BNN_ERROR_GRAPH;
    if (node->output < 1 || node->output >= plan->n_values || values[node->output].first >= 0) return BNN_ERROR_GRAPH;
    for (i = 0; i < node->n_inputs; i++) {
        if (node->inputs[i] < 0 || node->inputs[i] >= plan->n_values) return BNN_ERROR_GRAPH;
        if (node->inputs[i] > 0 && values[node->inputs[i]].first < 0) return BNN_ERROR_GRAPH;
    }
    in = values + node->inputs[0];
    out = values + node->output;
    if (!takes(node, in->dtype, out->dtype)) return BNN_ERROR_DTYPE;
    if (is_windowed(node->op)) {
        const bnn_status status = check_window(node, in, out);
        if (status != BNN_OK) return status;
    } else if (node->op == BNN_FROM_PLANES || node->op == BNN_TO_PLANES) {
        if (entries_of(in) != entries_of(out)) return BNN_ERROR_SHAPE;
    } else if (node->op != BNN_CONCAT) {
        if (places_of(in) != places_of(out) || in->channels != out->channels) return BNN_ERROR_SHAPE;
    }
    for (i = 0; i < node->n_inputs; i++) {
        const bnn_value *other = values + node->inputs[i];
        if (node->op == BNN_ADD || node->op == BNN_CONCAT) {
            if (other->dtype != in->dtype) return BNN_ERROR_DTYPE;
            if (places_of(other) != places_of(out)) return BNN_ERROR_SHAPE;
            if (node->op == BNN_ADD && other->channels != out->channels) return BNN_ERROR_SHAPE;
            channels += other->channels;
        } else if (i == 1 && (node->op == BNN_PRODUCT_I8 || node->op == BNN_DEPTHWISE)) {
            if (other->dtype != BNN_F32 || entries_of(other) != 1) return BNN_ERROR_SHAPE;
        } else if (i > 0) {
            return BNN_ERROR_GRAPH;
        }
    }
    if (node->op == BNN_CONCAT && channels != out->channels) return BNN_ERROR_SHAPE;
    if (node->op == BNN_PRODUCT_I8 && node->n_inputs != 2) return BNN_ERROR_GRAPH;
    if (node->op == BNN_NORMALIZE && (!node->mean || !node->deviation)) return BNN_ERROR_MISSING;
    if (node->op == BNN_QUANTIZE) {
        const int32_t k = node->second;
        if (k < 1 || k >= plan->n_values || k == node->output || values[k].first >= 0) return BNN_ERROR_GRAPH;
        if (values[k].dtype != BNN_F32 || entries_of(values + k) != 1) return BNN_ERROR_SHAPE;
    }
    if (is_product(node->op)) return check_finish(&node->finish, sum_dtype(node, in->dtype), out->dtype);
    if (node->op == BNN_MAP) return check_finish(&node->finish, in->dtype, out->dtype);
    return BNN_OK;
}

static size_t room(const bnn_value *v) { return bnn_round_up(v->bytes, BNN_ALIGNMENT); }

/* The lowest offset at which a value overlaps none that is needed while it is. */
static void place(bnn_plan *plan, int32_t index)
{
    bnn_value *v = plan->values + index;
    int32_t k;
    v->offset = 0;
    for (k = 1; k < plan->n_values; k++) {
        const bnn_value *w = plan->values + k;
        if (k == index || w->first < 0 || w->offset == SIZE_MAX || w->last < v->first || w->first > v->last) continue;
        if (v->offset < w->offset + room(w) && w->offset < v->offset + room(v)) {
            v->offset = w->offset + room(w);
            k = 0; /* look at all of them again */
        }
    }
    if (v->offset + room(v) > plan->row_bytes) plan->row_bytes = v->offset + room(v);
}

bnn_status bnn_plan_init(bnn_plan *plan, bnn_value *values, int32_t n_values, const bnn_node *nodes,
                         int32_t n_nodes, const bnn_kernels *kernels)
{
    int32_t i, k;
    size_t all = 0;
    plan->kernels = kernels;
    plan->values = values;
    plan->nodes = nodes;
    plan->n_values = n_values;
    plan->n_nodes = n_nodes;
    plan->row_bytes = 0;
    if (!values || !nodes || !kernels) return BNN_ERROR_MISSING;
    if (n_values < 2 || n_nodes < 1) return BNN_ERROR_GRAPH;
    for (k = 0; k < n_values; k++) {
        bnn_value *v = values + k;
        if (v->height < 1 || v->width < 1 || v->channels < 1) return BNN_ERROR_SHAPE;
        if (v->width > INT32_MAX / v->height || v->channels > INT32_MAX - 63 ||
            (v->channels + 63) / 64 * 64 > INT32_MAX / places_of(v))
            return BNN_ERROR_SIZE;
        if ((size_t)places_of(v) > (SIZE_MAX / 2 - all) / pixel_bytes(v)) return BNN_ERROR_SIZE;
        v->bytes = (size_t)places_of(v) * pixel_bytes(v);
        all += v->bytes;
        v->first = v->last = -1;
        v->offset = SIZE_MAX; /* not placed */
    }
    for (i = 0; i < n_nodes; i++) {
        const bnn_status status = check_node(plan, i);
        if (status != BNN_OK) return status;
        for (k = 0; k < nodes[i].n_inputs; k++) values[nodes[i].inputs[k]].last = i;
        values[nodes[i].output].first = values[nodes[i].output].last = i;
        if (nodes[i].op == BNN_QUANTIZE) values[nodes[i].second].first = values[nodes[i].second].last = i;
    }
    k = nodes[n_nodes - 1].output;
    if (values[k].dtype != BNN_F32) return BNN_ERROR_DTYPE;
    for (i = 0; i < n_nodes - 1; i++) { /* the last node's output is the caller's */
        place(plan, nodes[i].output);
        if (nodes[i].op == BNN_QUANTIZE) place(plan, nodes[i].second);
    }
    return BNN_OK;
}

/* --- scratch ------------------------------------------------------------------------------------------------- */

static size_t append(work *w, size_t bytes)
{
    const size_t at = w->bytes;
    w->bytes += bnn_round_up(bytes, BNN_ALIGNMENT);
    return at;
}

/* Whether rows can be read where they lie. */
static int is_pointwise(const bnn_node *node)
{
    return node->kernel[0] == 1 && node->kernel[1] == 1 && node->stride[0] == 1 && node->stride[1] == 1 &&
           node->groups == 1 && !node->padding[0] && !node->padding[1] && !node->padding[2] && !node->padding[3];
}

static work work_of(const bnn_plan *plan, const bnn_node *node, int32_t rows, int32_t parts)
{
    const bnn_kernels *kernels = plan->kernels;
    const bnn_value *in = plan->values + node->inputs[0], *out = plan->values + node->output;
    work w = {0};
    int32_t taps, slice, n, outputs, share;
    if (node->op == BNN_MAP && in->dtype == BNN_BITS) w.row = append(&w, (size_t)in->channels * sizeof(float));
    if (node->op == BNN_QUANTIZE && in->dtype == BNN_F64) w.row = append(&w, (size_t)entries_of(in) * sizeof(float));
    if (!is_product(node->op)) return w;
    taps = node->kernel[0] * node->kernel[1];
    slice = in->channels / node->groups;
    n = taps * slice;
    outputs = out->channels;
    w.pixel = pixel_bytes(in);
    w.entry = in->dtype == BNN_BITS ? 0 : w.pixel / (size_t)in->channels;
    w.tap = in->dtype == BNN_BITS ? (size_t)bnn_words(slice) * sizeof(uint64_t) : (size_t)slice * w.entry;
    w.inner = node->op == BNN_PRODUCT_BITS ? taps * bnn_words(slice) : n;
    /* Many rows a time for bits, whose weights then stay in cache; shares of about the same size. */
    share = (int32_t)(((int64_t)rows * places_of(out) + parts - 1) / parts);
    w.at_once = node->op == BNN_PRODUCT_BITS ? least(64, most(4, 8192 / w.inner)) : BNN_ROWS;
    w.at_once = least(w.at_once, node->op == BNN_PRODUCT_BITS ? (int32_t)bnn_round_up((size_t)share, 4) : share);
    if (node->op == BNN_DEPTHWISE) w.at_once = 1;
    /* Of bits without groups, a few outputs at a time; else the whole row. */
    w.sum_ld = node->op == BNN_PRODUCT_BITS && node->groups == 1 ? BNN_SLACK
                                                                  : (int32_t)bnn_round_up((size_t)outputs, BNN_SLACK) + BNN_SLACK;
    if (!is_pointwise(node)) {
        w.patches = append(&w, (size_t)w.at_once * (size_t)taps * w.tap);
    }
    if (node->op == BNN_PRODUCT_I8 || node->op == BNN_PRODUCT_U8) w.row = append(&w, (size_t)n * sizeof(int16_t));
    if (node->op == BNN_PRODUCT_F64 || node->op == BNN_DENSE) w.row = append(&w, (size_t)n * sizeof(double));
    if (node->op == BNN_PRODUCT_F32) w.tables = append(&w, (size_t)w.at_once * kernels->f32.table_bytes(n));
    if (node->op == BNN_PRODUCT_I8 || node->op == BNN_PRODUCT_U8)
        w.tables = append(&w, (size_t)w.at_once * kernels->i16.table_bytes(n));
    w.sums = append(&w, (size_t)w.at_once * (size_t)w.sum_ld * sizeof(double) /
                            (sum_dtype(node, in->dtype) == BNN_F64 && node->op != BNN_PRODUCT_U8 ? 1 : 2));
    if (node->op == BNN_PRODUCT_U8) w.totals = append(&w, (size_t)w.at_once * (size_t)w.sum_ld * sizeof(double));
    return w;
}

static size_t scratch_bytes(const bnn_plan *plan, int32_t rows, int32_t parts)
{
    size_t bytes = 0;
    int32_t i;
    for (i = 0; i < plan->n_nodes; i++) {
        const work w = work_of(plan, plan->nodes + i, rows, parts);
        if (w.bytes > bytes) bytes = w.bytes;
    }
    return bytes;
}

size_t bnn_arena_bytes(const bnn_plan *plan, int32_t rows, int32_t parts)
{
    const size_t scratch = scratch_bytes(plan, rows, parts);
    if (rows < 1 || parts < 1) return 0;
    if (plan->row_bytes > SIZE_MAX / 4 / (size_t)rows || scratch > SIZE_MAX / 4 / (size_t)parts) return 0;
    return plan->row_bytes * (size_t)rows + scratch * (size_t)parts;
}

/* --- rows of a product --------------------------------------------------------------------------------------- */

typedef struct { /* a place of the output */
    int32_t sample, y, x;
} place_of_row;

static place_of_row find_place(const bnn_value *out, int32_t row)
{
    const int32_t places = places_of(out), place = row % places;
    const place_of_row found = {row / places, place / out->width, place % out->width};
    return found;
}

static void next_place(const bnn_value *out, place_of_row *place)
{
    if (++place->x < out->width) return;
    place->x = 0;
    if (++place->y < out->height) return;
    place->y = 0;
    place->sample++;
}

/* Entries `at` to `at + bits` of one row of signs to the beginning of another; what is left of a word is 0. */
static void copy_bits(uint64_t *to, const uint64_t *from, int32_t n, int32_t at, int32_t bits)
{
    int32_t k;
    for (k = 0; k < bits; k += 32) {
        const uint64_t half = bnn_bits_at(from, n, at + k, least(32, bits - k));
        if (k % 64)
            to[k / 64] |= half << 32;
        else
            to[k / 64] = half;
    }
}

/* Whole words; where there are few, a call of memcpy would take longer than they do. */
static void copy_few(char *to, const char *from, size_t bytes)
{
    if (bytes > 128 || bytes % 8) {
        memcpy(to, from, bytes);
        return;
    }
    for (; bytes >= 16; bytes -= 16, to += 16, from += 16) memcpy(to, from, 16);
    if (bytes) memcpy(to, from, 8);
}

static void fill(char *to, bnn_dtype dtype, float value, size_t entries)
{
    size_t i;
    if (dtype == BNN_F32)
        for (i = 0; i < entries; i++) memcpy(to + i * sizeof(float), &value, sizeof(float));
    else if (dtype == BNN_F64)
        for (i = 0; i < entries; i++) {
            const double wide = value;
            memcpy(to + i * sizeof(double), &wide, sizeof(double));
        }
    else
        memset(to, 0, entries); /* pixels and quantized values: 0 adds nothing */
}

static void fill_bits(uint64_t *to, float value, int32_t bits)
{
    int32_t k;
    for (k = 0; k < bnn_words(bits); k++) to[k] = value < 0 ? ~UINT64_C(0) : 0;
    if (bits % 64) to[bits / 64] &= (UINT64_C(1) << bits % 64) - 1;
}

/* The window that one row of the output sees, of one group: [tap][channel]. */
static void gather(const bnn_node *node, const bnn_value *in, const work *w, const char *image, place_of_row place,
                   int32_t group, char *patch)
{
    const size_t pixel = w->pixel, entry = w->entry, tap = w->tap;
    const int32_t top = place.y * node->stride[0] - node->padding[0];
    const int32_t left = place.x * node->stride[1] - node->padding[2];
    const int32_t kw = node->kernel[1], slice = in->channels / node->groups;
    int32_t ky, kx;
    for (ky = 0; ky < node->kernel[0]; ky++) {
        const int32_t y = top + ky * node->dilation[0];
        const int inside = y >= 0 && y < in->height;
        for (kx = 0; kx < kw; kx++, patch += tap) {
            const int32_t x = left + kx * node->dilation[1];
            if (inside && x >= 0 && x < in->width) {
                const char *from = image + ((size_t)y * (size_t)in->width + (size_t)x) * pixel;
                if (in->dtype != BNN_BITS)
                    memcpy(patch, from + (size_t)(group * slice) * entry, tap);
                else
                    copy_bits((uint64_t *)(void *)patch, (const uint64_t *)(const void *)from, in->channels,
                              group * slice, slice);
            } else if (in->dtype != BNN_BITS) {
                fill(patch, in->dtype, node->pad_value, (size_t)slice);
            } else {
                fill_bits((uint64_t *)(void *)patch, node->pad_value, slice);
            }
        }
    }
}

/* How many places from this one on, along its row, have windows that lie in the image and whose taps touch. */
static int32_t whole_windows(const bnn_node *node, const bnn_value *in, const bnn_value *out, place_of_row place)
{
    const int32_t top = place.y * node->stride[0] - node->padding[0];
    const int32_t left = place.x * node->stride[1] - node->padding[2];
    const int32_t right = in->width - node->kernel[1]; /* the last place where a window may begin */
    if (node->groups > 1 || node->dilation[1] > 1 || top < 0 || left < 0 || left > right) return 0;
    if (top + (node->kernel[0] - 1) * node->dilation[0] >= in->height) return 0;
    return least(out->width - place.x, node->stride[1] == 1 ? right - left + 1 : (right - left) / node->stride[1] + 1);
}

/* As gather does, for several such places: a row of a kernel is one piece of the image. */
static void gather_whole(const bnn_node *node, const bnn_value *in, const work *w, const char *image,
                         place_of_row place, int32_t places, char *patches, size_t patch_stride)
{
    const size_t piece = (size_t)node->kernel[1] * w->tap, step = (size_t)node->stride[1] * w->pixel;
    const size_t top = (size_t)(place.y * node->stride[0] - node->padding[0]);
    const size_t left = (size_t)(place.x * node->stride[1] - node->padding[2]);
    int32_t ky, r;
    for (ky = 0; ky < node->kernel[0]; ky++) {
        const char *from = image + ((top + (size_t)(ky * node->dilation[0])) * (size_t)in->width + left) * w->pixel;
        char *to = patches + (size_t)ky * piece;
        for (r = 0; r < places; r++, from += step, to += patch_stride) copy_few(to, from, piece);
    }
}

static const void *border_values(const bnn_border *border, place_of_row place, int32_t outputs, size_t entry)
{
    size_t class = 0;
    if (!border->values) return NULL;
    if (border->row) class = (size_t)border->row[place.y] * (size_t)border->columns + border->column[place.x];
    return (const char *)border->values + class * (size_t)outputs * entry;
}

/* --- products ------------------------------------------------------------------------------------------------ */

typedef struct { /* one node of one run, as all its rows see it */
    const bnn_plan *plan;
    const bnn_node *node;
    const bnn_value *in, *out;
    const char *x;
    const float *row_scales; /* one for each sample, or NULL */
    char *y;
    char *scratch;
    work w;
    int32_t first, count; /* outputs of this part */
} job;

/* The rows [row, row + n) of one group, gathered if need be, and the bytes from one to the next. */
static const char *rows_of(const job *j, int32_t row, int32_t n, int32_t group, size_t *stride)
{
    char *patches = j->scratch + j->w.patches;
    place_of_row place;
    int32_t r;
    if (is_pointwise(j->node)) {
        *stride = j->w.pixel;
        return j->x + (size_t)row * j->w.pixel;
    }
    *stride = (size_t)(j->node->kernel[0] * j->node->kernel[1]) * j->w.tap;
    place = find_place(j->out, row);
    for (r = 0; r < n;) {
        const char *image = j->x + (size_t)place.sample * j->in->bytes;
        const int32_t whole = least(n - r, whole_windows(j->node, j->in, j->out, place));
        if (whole > 0) {
            gather_whole(j->node, j->in, &j->w, image, place, whole, patches + (size_t)r * *stride, *stride);
            place.x += whole - 1;
            r += whole;
        } else {
            gather(j->node, j->in, &j->w, image, place, group, patches + (size_t)r * *stride);
            r++;
        }
        next_place(j->out, &place);
    }
    return patches;
}

static void finish_row(const job *j, int32_t row, bnn_dtype dtype, const void *at, int32_t first, int32_t count)
{
    const bnn_sums sums = {dtype, at, 0, NULL, j->row_scales ? j->row_scales + row / places_of(j->out) : NULL};
    j->plan->kernels->finish(&j->node->finish, &sums, j->out->dtype, first, count,
                             j->y + (size_t)row * pixel_bytes(j->out));
}

/* Rows of counted differences. */
static void finish_bits(const job *j, int32_t row, int32_t rows, const int32_t *differing, int32_t first, int32_t count)
{
    const bnn_node *node = j->node;
    const size_t pixel = pixel_bytes(j->out);
    bnn_sums sums = {BNN_I32, differing, 0, NULL, NULL};
    place_of_row place = find_place(j->out, row);
    int32_t r;
    sums.counted = node->kernel[0] * node->kernel[1] * (j->in->channels / node->groups);
    for (r = row; r < row + rows; r++) {
        if (node->border.values)
            sums.correction =
                (const int32_t *)border_values(&node->border, place, j->out->channels, sizeof(int32_t)) + first;
        j->plan->kernels->finish(&node->finish, &sums, j->out->dtype, first, count, j->y + (size_t)r * pixel);
        sums.at = (const int32_t *)sums.at + j->w.sum_ld;
        next_place(j->out, &place);
    }
}

static void run_bits(const job *j, int32_t row, int32_t rows)
{
    const bnn_kernels *kernels = j->plan->kernels;
    const bnn_node *node = j->node;
    const int32_t outputs = j->out->channels, per_group = outputs / node->groups;
    const size_t group_bytes = kernels->bits_bytes(per_group, j->w.inner);
    int32_t *sums = (int32_t *)(void *)(j->scratch + j->w.sums);
    const size_t ld = (size_t)j->w.sum_ld;
    size_t stride;
    int32_t group, o;
    if (node->groups == 1) {
        const uint64_t *x = (const uint64_t *)(const void *)rows_of(j, row, rows, 0, &stride);
        for (o = j->first; o < j->first + j->count; o += BNN_SLACK) {
            const int32_t here = least(BNN_SLACK, j->first + j->count - o);
            kernels->bits_product(x, stride / sizeof(uint64_t), rows, node->weight, j->w.inner, o, here, sums, ld);
            finish_bits(j, row, rows, sums, o, here);
        }
        return;
    }
    for (group = 0; group < node->groups; group++) {
        const uint64_t *x = (const uint64_t *)(const void *)rows_of(j, row, rows, group, &stride);
        kernels->bits_product(x, stride / sizeof(uint64_t), rows, (const char *)node->weight + (size_t)group * group_bytes,
                              j->w.inner, 0, per_group, sums + group * per_group, ld);
    }
    finish_bits(j, row, rows, sums, 0, outputs);
}

static void run_f32(const job *j, int32_t row, int32_t rows)
{
    const bnn_kernels *kernels = j->plan->kernels;
    const bnn_node *node = j->node;
    const int32_t n = j->w.inner, per_group = j->out->channels / node->groups;
    const size_t table_bytes = kernels->f32.table_bytes(n), group_bytes = kernels->f32.weight_bytes(per_group, n);
    char *tables = j->scratch + j->w.tables;
    float *sums = (float *)(void *)(j->scratch + j->w.sums);
    const size_t ld = (size_t)j->w.sum_ld;
    size_t stride;
    int32_t group, r;
    for (group = 0; group < node->groups; group++) {
        const int32_t first = node->groups == 1 ? j->first : 0, count = node->groups == 1 ? j->count : per_group;
        const char *x = rows_of(j, row, rows, group, &stride);
        for (r = 0; r < rows; r++)
            kernels->f32_tables((const float *)(const void *)(x + (size_t)r * stride), n, tables + (size_t)r * table_bytes);
        kernels->f32_product(tables, rows, (const char *)node->weight + (size_t)group * group_bytes, n, first, count,
                             sums + group * per_group, ld);
    }
    for (r = 0; r < rows; r++) finish_row(j, row + r, BNN_F32, sums + (size_t)r * ld, j->first, j->count);
}

static void run_i8(const job *j, int32_t row, int32_t rows)
{
    const bnn_kernels *kernels = j->plan->kernels;
    const bnn_node *node = j->node;
    const int32_t n = j->w.inner, per_group = j->out->channels / node->groups;
    const size_t table_bytes = kernels->i16.table_bytes(n), group_bytes = kernels->i16.weight_bytes(per_group, n);
    char *tables = j->scratch + j->w.tables;
    int16_t *wide = (int16_t *)(void *)(j->scratch + j->w.row);
    int32_t *sums = (int32_t *)(void *)(j->scratch + j->w.sums);
    const size_t ld = (size_t)j->w.sum_ld;
    size_t stride;
    int32_t group, r, k;
    for (group = 0; group < node->groups; group++) {
        const int32_t first = node->groups == 1 ? j->first : 0, count = node->groups == 1 ? j->count : per_group;
        const char *x = rows_of(j, row, rows, group, &stride);
        for (r = 0; r < rows; r++) {
            const int8_t *from = (const int8_t *)(const void *)(x + (size_t)r * stride);
            for (k = 0; k < n; k++) wide[k] = from[k];
            kernels->i16_tables(wide, n, tables + (size_t)r * table_bytes);
        }
        kernels->i16_product(tables, rows, (const char *)node->weight + (size_t)group * group_bytes, n, 127, first, count,
                             sums + group * per_group, ld);
    }
    for (r = 0; r < rows; r++) finish_row(j, row + r, BNN_I32, sums + (size_t)r * ld, j->first, j->count);
}

/* Some channels of a window of pixels, widened. */
static void take_channels(const uint8_t *window, int32_t taps, int32_t channels, const bnn_segment *segment,
                          int16_t *wide)
{
    int32_t t, c;
    if (segment->channels == channels) {
        for (c = 0; c < taps * channels; c++) wide[c] = window[c];
        return;
    }
    for (t = 0; t < taps; t++)
        for (c = 0; c < segment->channels; c++) *wide++ = window[t * channels + segment->first + c];
}

static void run_u8(const job *j, int32_t row, int32_t rows)
{
    const bnn_kernels *kernels = j->plan->kernels;
    const bnn_node *node = j->node;
    const int32_t taps = node->kernel[0] * node->kernel[1];
    int16_t *wide = (int16_t *)(void *)(j->scratch + j->w.row);
    int32_t *sums = (int32_t *)(void *)(j->scratch + j->w.sums);
    double *totals = (double *)(void *)(j->scratch + j->w.totals);
    char *tables = j->scratch + j->w.tables;
    const size_t ld = (size_t)j->w.sum_ld;
    size_t stride;
    const char *x = rows_of(j, row, rows, 0, &stride);
    int32_t r, s, o;
    for (r = 0; r < rows; r++) {
        const double *constant =
            border_values(&node->border, find_place(j->out, row + r), j->out->channels, sizeof(double));
        memcpy(totals + (size_t)r * ld, constant + j->first, (size_t)j->count * sizeof(double));
    }
    for (s = 0; s < node->n_segments; s++) {
        const bnn_segment *segment = node->segments + s;
        const int32_t n = taps * segment->channels;
        const size_t table_bytes = kernels->i16.table_bytes(n);
        for (r = 0; r < rows; r++) {
            take_channels((const uint8_t *)x + (size_t)r * stride, taps, j->in->channels, segment, wide);
            kernels->i16_tables(wide, n, tables + (size_t)r * table_bytes);
        }
        kernels->i16_product(tables, rows, segment->weight, n, 255, j->first, j->count, sums, ld);
        for (r = 0; r < rows; r++)
            for (o = 0; o < j->count; o++)
                totals[(size_t)r * ld + (size_t)o] += sums[(size_t)r * ld + (size_t)o] / segment->divisor;
    }
    for (r = 0; r < rows; r++) finish_row(j, row + r, BNN_F64, totals + (size_t)r * ld, j->first, j->count);
}

static void to_double(bnn_dtype dtype, const void *x, int32_t n, double *y)
{
    int32_t k;
    if (dtype == BNN_F64)
        memcpy(y, x, (size_t)n * sizeof(double));
    else
        for (k = 0; k < n; k++) y[k] = ((const float *)x)[k];
}

static void run_f64(const job *j, int32_t row, int32_t rows)
{
    const bnn_node *node = j->node;
    const int32_t n = j->w.inner, per_group = j->out->channels / node->groups;
    double *x = (double *)(void *)(j->scratch + j->w.row), *sums = (double *)(void *)(j->scratch + j->w.sums);
    size_t stride;
    int32_t group, r;
    for (r = 0; r < rows; r++) {
        for (group = 0; group < node->groups; group++) {
            const int32_t first = node->groups == 1 ? j->first : 0, count = node->groups == 1 ? j->count : per_group;
            const uint64_t *weight = (const uint64_t *)node->weight +
                                     (size_t)group * (size_t)per_group * (size_t)bnn_words(n);
            to_double(j->in->dtype, rows_of(j, row + r, 1, group, &stride), n, x);
            bnn_product_f64(x, n, weight, first, count, sums + group * per_group);
        }
        finish_row(j, row + r, BNN_F64, sums, j->first, j->count);
    }
}

static void dense_f64(const double *x, int32_t n, const float *weight, size_t ld, int32_t count, double *sums)
{
    int32_t k, o;
    memset(sums, 0, (size_t)count * sizeof(double));
    for (k = 0; k < n; k++)
        for (o = 0; o < count; o++) sums[o] += x[k] * weight[(size_t)k * ld + (size_t)o];
}

static void run_dense(const job *j, int32_t row, int32_t rows)
{
    const bnn_node *node = j->node;
    const int32_t n = j->w.inner, per_group = j->out->channels / node->groups;
    const bnn_dtype dtype = node->finish.computed;
    double *x64 = (double *)(void *)(j->scratch + j->w.row), *sums64 = (double *)(void *)(j->scratch + j->w.sums);
    float *x32 = (float *)(void *)(j->scratch + j->w.row), *sums32 = (float *)(void *)(j->scratch + j->w.sums);
    size_t stride;
    int32_t group, r, k;
    for (r = 0; r < rows; r++) {
        for (group = 0; group < node->groups; group++) {
            const int32_t first = node->groups == 1 ? j->first : 0, count = node->groups == 1 ? j->count : per_group;
            const float *weight = (const float *)node->weight + (size_t)group * (size_t)n * (size_t)per_group + first;
            const void *x = rows_of(j, row + r, 1, group, &stride);
            if (dtype == BNN_F64) {
                to_double(j->in->dtype, x, n, x64);
                dense_f64(x64, n, weight, (size_t)per_group, count, sums64 + group * per_group);
                continue;
            }
            if (j->in->dtype == BNN_F64) {
                for (k = 0; k < n; k++) x32[k] = (float)((const double *)x)[k];
                x = x32;
            }
            j->plan->kernels->dense_f32(x, n, weight, (size_t)per_group, count, sums32 + group * per_group);
        }
        finish_row(j, row + r, dtype, dtype == BNN_F64 ? (const void *)sums64 : sums32, j->first, j->count);
    }
}

#define DEPTHWISE(X, T, PIXEL, AT)                                                                                            \
    static void depthwise_##X(const bnn_node *node, const bnn_value *in, const X *image, place_of_row place, T *sums) \
    {                                                                                                              \
        const int8_t *w = node->weight;                                                                            \
        const int32_t channels = in->channels;                                                                     \
        int32_t ky, kx, c;                                                                                         \
        memset(sums, 0, (size_t)channels * sizeof(T));                                                             \
        for (ky = 0; ky < node->kernel[0]; ky++)                                                                   \
            for (kx = 0; kx < node->kernel[1]; kx++, w += channels) {                                              \
                const int32_t y = place.y * node->stride[0] - node->padding[0] + ky * node->dilation[0];           \
                const int32_t x = place.x * node->stride[1] - node->padding[2] + kx * node->dilation[1];           \
                if (y >= 0 && y < in->height && x >= 0 && x < in->width) {                                         \
                    const X *pixel = image + ((size_t)y * (size_t)in->width + (size_t)x) * (size_t)(PIXEL);       \
                    for (c = 0; c < channels; c++) sums[c] += (T)w[c] * (T)AT(pixel, c);                               \
                } else if (node->pad_value != 0) {                                                                 \
                    for (c = 0; c < channels; c++) sums[c] += (T)((T)w[c] * (T)node->pad_value);                   \
                }                                                                                                  \
            }                                                                                                      \
    }
#define ENTRIES(pixel, c) (pixel)[c]
DEPTHWISE(int8_t, int32_t, in->channels, ENTRIES)
DEPTHWISE(float, float, in->channels, ENTRIES)
DEPTHWISE(double, double, in->channels, ENTRIES)
#define SIGNS(pixel, c) (1 - 2 * (int32_t)((pixel)[(c) / 64] >> ((c) % 64) & 1))
DEPTHWISE(uint64_t, int32_t, bnn_words(in->channels), SIGNS)

static void run_depthwise(const job *j, int32_t row, int32_t rows)
{
    void *sums = j->scratch + j->w.sums;
    int32_t r;
    for (r = row; r < row + rows; r++) {
        const place_of_row place = find_place(j->out, r);
        const void *image = j->x + (size_t)place.sample * j->in->bytes;
        if (j->in->dtype == BNN_BITS)
            depthwise_uint64_t(j->node, j->in, image, place, sums);
        else if (j->in->dtype == BNN_I8)
            depthwise_int8_t(j->node, j->in, image, place, sums);
        else if (j->in->dtype == BNN_F32)
            depthwise_float(j->node, j->in, image, place, sums);
        else
            depthwise_double(j->node, j->in, image, place, sums);
        finish_row(j, r, sum_dtype(j->node, j->in->dtype), sums, 0, j->out->channels);
    }
}

/* Part `part` of `parts` of n things. */
static void share(int32_t n, int32_t part, int32_t parts, int32_t *from, int32_t *to)
{
    *from = (int32_t)((int64_t)n * part / parts);
    *to = (int32_t)((int64_t)n * (part + 1) / parts);
}

static void run_product(job *j, int32_t rows, int32_t part, int32_t parts)
{
    void (*const run)(const job *, int32_t, int32_t) = j->node->op == BNN_PRODUCT_BITS  ? run_bits
                                                       : j->node->op == BNN_PRODUCT_F32 ? run_f32
                                                       : j->node->op == BNN_PRODUCT_F64 ? run_f64
                                                       : j->node->op == BNN_PRODUCT_I8  ? run_i8
                                                       : j->node->op == BNN_PRODUCT_U8  ? run_u8
                                                       : j->node->op == BNN_DENSE       ? run_dense
                                                                                        : run_depthwise;
    const int32_t total = rows * places_of(j->out), outputs = j->out->channels;
    const int32_t splits = j->node->groups == 1 ? (outputs + BNN_SPLIT - 1) / BNN_SPLIT : 1;
    int32_t from = 0, to = total;
    j->first = 0;
    j->count = outputs;
    if (total >= parts * BNN_ROWS || splits < 2) { /* rows are shared, or, where they are few, outputs */
        share(total, part, parts, &from, &to);
    } else {
        int32_t a, b;
        share(splits, part, parts, &a, &b);
        j->first = a * BNN_SPLIT;
        j->count = least(b * BNN_SPLIT, outputs) - j->first;
        if (a == b) return;
    }
    for (; from < to; from += j->w.at_once) run(j, from, least(j->w.at_once, to - from));
}

/* --- everything else ------------------------------------------------------------------------------------------ */

static void bits_to_floats(const uint64_t *words, int32_t n, float *y)
{
    int32_t k;
    for (k = 0; k < n; k++) y[k] = words[k / 64] >> (k % 64) & 1 ? -1.0f : 1.0f;
}

static void run_map(const job *j, int32_t row, int32_t rows)
{
    const size_t pixel = pixel_bytes(j->in);
    int32_t r;
    for (r = row; r < row + rows; r++) {
        const void *x = j->x + (size_t)r * pixel;
        if (j->in->dtype == BNN_BITS) {
            float *y = (float *)(void *)(j->scratch + j->w.row);
            bits_to_floats(x, j->in->channels, y);
            finish_row(j, r, BNN_F32, y, 0, j->in->channels);
        } else {
            finish_row(j, r, j->in->dtype, x, 0, j->in->channels);
        }
    }
}

static void quantize_sample(const job *j, const void *x, int8_t *y, float *scale)
{
    const bnn_kernels *kernels = j->plan->kernels;
    const int32_t n = entries_of(j->in);
    const float *from = x;
    if (j->in->dtype == BNN_F64) {
        float *narrow = (float *)(void *)(j->scratch + j->w.row);
        int32_t k;
        for (k = 0; k < n; k++) narrow[k] = (float)((const double *)x)[k];
        from = narrow;
    }
    *scale = kernels->largest(from, (size_t)n) / 127.0f;
    kernels->quantize(from, (size_t)n, *scale, y);
}

static void normalize_sample(const job *j, const uint8_t *x, double *y)
{
    const int32_t channels = j->in->channels;
    int32_t p, c;
    for (p = 0; p < places_of(j->in); p++)
        for (c = 0; c < channels; c++, x++, y++) *y = (*x / 255.0 - j->node->mean[c]) / j->node->deviation[c];
}

static void from_planes(const job *j, const char *x, char *y, int32_t first, int32_t count)
{
    const bnn_kernels *kernels = j->plan->kernels;
    const int32_t channels = j->out->channels;
    const size_t plane = (size_t)places_of(j->out), entry = pixel_bytes(j->in) / (size_t)j->in->channels;
    char *to = y + (size_t)first * pixel_bytes(j->out);
    int32_t p, c;
    x += (size_t)first * entry;
    if (j->in->dtype == BNN_F32 && j->out->dtype == BNN_BITS)
        kernels->signs_from_planes((const float *)(const void *)x, channels, plane, count, (uint64_t *)(void *)to);
    else if (j->in->dtype == BNN_F32)
        kernels->from_planes((const float *)(const void *)x, channels, plane, count, (float *)(void *)to);
    else
        for (p = 0; p < count; p++)
            for (c = 0; c < channels; c++, to += entry) memcpy(to, x + ((size_t)c * plane + (size_t)p) * entry, entry);
}

static void bits_to_planes(const job *j, const uint64_t *x, uint64_t *y)
{
    const int32_t channels = j->in->channels, places = places_of(j->in), words = bnn_words(channels);
    int32_t p, c;
    memset(y, 0, j->out->bytes);
    for (p = 0; p < places; p++)
        for (c = 0; c < channels; c++) {
            const int32_t at = c * places + p;
            y[at / 64] |= (x[p * words + c / 64] >> (c % 64) & 1) << (at % 64);
        }
}

static void to_planes(const job *j, const char *x, char *y, int32_t first, int32_t count)
{
    const int32_t channels = j->in->channels;
    const size_t plane = (size_t)places_of(j->in), entry = pixel_bytes(j->in) / (size_t)channels;
    int32_t p, c;
    x += (size_t)first * pixel_bytes(j->in);
    y += (size_t)first * entry;
    if (j->in->dtype == BNN_F32)
        j->plan->kernels->to_planes((const float *)(const void *)x, channels, plane, count, (float *)(void *)y);
    else
        for (p = 0; p < count; p++)
            for (c = 0; c < channels; c++, x += entry) memcpy(y + ((size_t)c * plane + (size_t)p) * entry, x, entry);
}

typedef struct { /* the part of a pooling window that lies in the image */
    int32_t top, bottom, left, right;
} window;

static window window_at(const bnn_node *node, const bnn_value *in, place_of_row place)
{
    const int32_t y = place.y * node->stride[0] - node->padding[0], x = place.x * node->stride[1] - node->padding[2];
    const window w = {most(y, 0), least(y + node->kernel[0], in->height), most(x, 0),
                      least(x + node->kernel[1], in->width)};
    return w;
}

/* Bit 1 is -1, so the largest of signs is their and; where the smallest is wanted, both sides are flipped. */
static void max_pool_bits(const job *j, const uint64_t *image, window w, uint64_t *y)
{
    const int32_t words = bnn_words(j->in->channels);
    const uint64_t *flip = j->node->flip;
    int32_t iy, ix, k;
    for (k = 0; k < words; k++) y[k] = ~UINT64_C(0);
    for (iy = w.top; iy < w.bottom; iy++)
        for (ix = w.left; ix < w.right; ix++) {
            const uint64_t *x = image + ((size_t)iy * (size_t)j->in->width + (size_t)ix) * (size_t)words;
            for (k = 0; k < words; k++) y[k] &= flip ? x[k] ^ flip[k] : x[k];
        }
    if (flip)
        for (k = 0; k < words; k++) y[k] ^= flip[k];
}

/* NaN wins, as in numpy. Of integers the last comparison is never true. */
#define MAX_POOL(T)                                                                                                \
    static void max_pool_##T(const job *j, const T *image, window w, T *y)                                         \
    {                                                                                                              \
        const int32_t channels = j->in->channels;                                                                  \
        int32_t iy, ix, c;                                                                                         \
        memcpy(y, image + ((size_t)w.top * (size_t)j->in->width + (size_t)w.left) * (size_t)channels,              \
               (size_t)channels * sizeof(T));                                                                      \
        for (iy = w.top; iy < w.bottom; iy++)                                                                      \
            for (ix = w.left; ix < w.right; ix++) {                                                                \
                const T *x = image + ((size_t)iy * (size_t)j->in->width + (size_t)ix) * (size_t)channels;          \
                for (c = 0; c < channels; c++) y[c] = y[c] >= x[c] || y[c] != y[c] ? y[c] : x[c];                  \
            }                                                                                                      \
    }
MAX_POOL(int32_t)
MAX_POOL(double)

static void max_pool_float(const job *j, const float *image, window w, float *y)
{
    const size_t channels = (size_t)j->in->channels;
    int32_t iy, ix;
    memcpy(y, image + ((size_t)w.top * (size_t)j->in->width + (size_t)w.left) * channels, channels * sizeof(float));
    for (iy = w.top; iy < w.bottom; iy++)
        for (ix = w.left; ix < w.right; ix++)
            j->plan->kernels->max(image + ((size_t)iy * (size_t)j->in->width + (size_t)ix) * channels,
                                  j->in->channels, y);
}

#define AVG_POOL(T)                                                                                                \
    static void avg_pool_##T(const job *j, const T *image, window w, T *y)                                         \
    {                                                                                                              \
        const int32_t channels = j->in->channels;                                                                  \
        const int32_t all = j->node->kernel[0] * j->node->kernel[1];                                               \
        const T size = (T)(j->node->count_padding ? all : (w.bottom - w.top) * (w.right - w.left));                \
        int32_t iy, ix, c;                                                                                         \
        memset(y, 0, (size_t)channels * sizeof(T));                                                                \
        for (iy = w.top; iy < w.bottom; iy++)                                                                      \
            for (ix = w.left; ix < w.right; ix++) {                                                                \
                const T *x = image + ((size_t)iy * (size_t)j->in->width + (size_t)ix) * (size_t)channels;          \
                for (c = 0; c < channels; c++) y[c] += x[c];                                                       \
            }                                                                                                      \
        for (c = 0; c < channels; c++) y[c] /= size;                                                               \
    }
AVG_POOL(float)
AVG_POOL(double)

static void run_pool(const job *j, int32_t row)
{
    const place_of_row place = find_place(j->out, row);
    const void *image = j->x + (size_t)place.sample * j->in->bytes;
    const window w = window_at(j->node, j->in, place);
    void *y = j->y + (size_t)row * pixel_bytes(j->out);
    const bnn_dtype dtype = j->in->dtype;
    if (j->node->op == BNN_AVG_POOL)
        dtype == BNN_F32 ? avg_pool_float(j, image, w, y) : avg_pool_double(j, image, w, y);
    else if (dtype == BNN_BITS)
        max_pool_bits(j, image, w, y);
    else if (dtype == BNN_I32)
        max_pool_int32_t(j, image, w, y);
    else
        dtype == BNN_F32 ? max_pool_float(j, image, w, y) : max_pool_double(j, image, w, y);
}

#define SOFTMAX(T, EXP)                                                                                            \
    static void softmax_##T(const T *x, int32_t n, T *y)                                                           \
    {                                                                                                              \
        T top = x[0], sum = 0;                                                                                     \
        int32_t k;                                                                                                 \
        for (k = 1; k < n; k++) top = top >= x[k] || top != top ? top : x[k];                                      \
        for (k = 0; k < n; k++) sum += y[k] = EXP(x[k] - top);                                                     \
        for (k = 0; k < n; k++) y[k] /= sum;                                                                       \
    }
SOFTMAX(float, expf)
SOFTMAX(double, exp)

static void run_add(const job *j, const bnn_batch *batch, int32_t sample)
{
    const size_t n = (size_t)entries_of(j->out), at = (size_t)sample * j->out->bytes;
    int32_t i;
    memcpy(j->y + at, j->x + at, j->out->bytes);
    for (i = 1; i < j->node->n_inputs; i++) {
        const char *x = address(j->plan, batch, j->node->inputs[i]) + at;
        if (j->out->dtype == BNN_F32) {
            j->plan->kernels->add((const float *)(const void *)x, n, (float *)(void *)(j->y + at));
        } else {
            double *y = (double *)(void *)(j->y + at);
            size_t k;
            for (k = 0; k < n; k++) y[k] += ((const double *)(const void *)x)[k];
        }
    }
}

static void run_concat(const job *j, const bnn_batch *batch, int32_t row)
{
    char *y = j->y + (size_t)row * pixel_bytes(j->out);
    int32_t i, at = 0;
    if (j->out->dtype == BNN_BITS) memset(y, 0, pixel_bytes(j->out));
    for (i = 0; i < j->node->n_inputs; i++) {
        const bnn_value *in = j->plan->values + j->node->inputs[i];
        const char *x = address(j->plan, batch, j->node->inputs[i]) + (size_t)row * pixel_bytes(in);
        if (j->out->dtype != BNN_BITS) {
            memcpy(y, x, pixel_bytes(in));
            y += pixel_bytes(in);
        } else {
            uint64_t *words = (uint64_t *)(void *)y;
            const uint64_t *from = (const uint64_t *)(const void *)x;
            int32_t k;
            for (k = 0; k < in->channels; k += 32) {
                const int32_t bits = least(32, in->channels - k), to = at + k;
                const uint64_t half = bnn_bits_at(from, in->channels, k, bits);
                words[to / 64] |= half << (to % 64);
                if (to % 64 > 32 && half >> (64 - to % 64)) words[to / 64 + 1] |= half >> (64 - to % 64);
            }
            at += in->channels;
        }
    }
}

static void run_samples(const job *j, const bnn_batch *batch, int32_t from, int32_t to)
{
    const bnn_node *node = j->node;
    int32_t s;
    for (s = from; s < to; s++) {
        const char *x = j->x + (size_t)s * j->in->bytes;
        char *y = j->y + (size_t)s * j->out->bytes;
        if (node->op == BNN_QUANTIZE)
            quantize_sample(j, x, (int8_t *)y, (float *)(void *)address(j->plan, batch, node->second) + s);
        else if (node->op == BNN_NORMALIZE)
            normalize_sample(j, (const uint8_t *)x, (double *)(void *)y);
        else if (node->op == BNN_ADD)
            run_add(j, batch, s);
        else if (node->op == BNN_TO_PLANES) /* of bits: planes share words, so that places cannot be shared out */
            bits_to_planes(j, (const uint64_t *)(const void *)x, (uint64_t *)(void *)y);
        else if (j->in->dtype == BNN_F32)
            softmax_float((const float *)(const void *)x, entries_of(j->in), (float *)(void *)y);
        else
            softmax_double((const double *)(const void *)x, entries_of(j->in), (double *)(void *)y);
    }
}

static void run_places(const job *j, const bnn_batch *batch, int32_t from, int32_t to)
{
    const int32_t places = places_of(j->node->op == BNN_FROM_PLANES ? j->out : j->in);
    if (j->node->op == BNN_MAP) {
        run_map(j, from, to - from);
        return;
    }
    if (j->node->op == BNN_FROM_PLANES || j->node->op == BNN_TO_PLANES) {
        while (from < to) { /* image by image */
            const int32_t sample = from / places, first = from % places, count = least(places - first, to - from);
            const char *x = j->x + (size_t)sample * j->in->bytes;
            char *y = j->y + (size_t)sample * j->out->bytes;
            if (j->node->op == BNN_FROM_PLANES)
                from_planes(j, x, y, first, count);
            else
                to_planes(j, x, y, first, count);
            from += count;
        }
        return;
    }
    for (; from < to; from++) {
        if (j->node->op == BNN_CONCAT)
            run_concat(j, batch, from);
        else
            run_pool(j, from);
    }
}

void bnn_run_part(const bnn_plan *plan, const bnn_batch *batch, int32_t step, int32_t part, int32_t parts)
{
    const bnn_node *node = plan->nodes + step;
    job j;
    int32_t from, to;
    j.plan = plan;
    j.node = node;
    j.in = plan->values + node->inputs[0];
    j.out = plan->values + node->output;
    j.x = address(plan, batch, node->inputs[0]);
    j.y = address(plan, batch, node->output);
    j.row_scales = NULL;
    j.w = work_of(plan, node, batch->rows, parts);
    j.scratch = (char *)batch->arena + plan->row_bytes * (size_t)batch->rows +
                scratch_bytes(plan, batch->rows, parts) * (size_t)part;
    j.first = 0;
    j.count = j.out->channels;
    if (is_product(node->op)) {
        if (node->n_inputs == 2) j.row_scales = (const float *)(const void *)address(plan, batch, node->inputs[1]);
        run_product(&j, batch->rows, part, parts);
        return;
    }
    switch (node->op) {
    case BNN_QUANTIZE:
    case BNN_NORMALIZE:
    case BNN_ADD:
    case BNN_SOFTMAX:
        share(batch->rows, part, parts, &from, &to);
        run_samples(&j, batch, from, to);
        return;
    case BNN_TO_PLANES:
        if (j.in->dtype == BNN_BITS) {
            share(batch->rows, part, parts, &from, &to);
            run_samples(&j, batch, from, to);
            return;
        }
        share(batch->rows * places_of(j.in), part, parts, &from, &to);
        run_places(&j, batch, from, to);
        return;
    default:
        share(batch->rows * places_of(j.out), part, parts, &from, &to);
        run_places(&j, batch, from, to);
    }
}

void bnn_run(const bnn_plan *plan, const void *input, void *output, int32_t rows, void *arena)
{
    const bnn_batch batch = {input, output, rows, arena};
    int32_t step;
    for (step = 0; step < plan->n_nodes; step++) bnn_run_part(plan, &batch, step, 0, 1);
}

double bnn_node_work(const bnn_plan *plan, int32_t step)
{
    static const double per_cycle[BNN_OPS] = {/* of a fast core: entries, or multiply-accumulates of products */
                                              2,  2,  1, 4, 8, 256, 32, 4, 96, 48, 8, 4, 8, 8, 8, 8, 1};
    const bnn_node *node = plan->nodes + step;
    const bnn_value *in = plan->values + node->inputs[0], *out = plan->values + node->output;
    double work = entries_of(out);
    if (is_windowed(node->op)) work *= (double)node->kernel[0] * node->kernel[1];
    if (is_product(node->op)) work *= (double)in->channels / node->groups;
    return work / per_cycle[node->op];
}
