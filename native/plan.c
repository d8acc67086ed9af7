/* From nodes and values to a plan: everything is checked, and values are placed in the arena. */

#include "job.h"

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

/* --- checks --------------------------------------------------------------------------------------------- */

static int takes(const bnn_node *node, bnn_dtype in, bnn_dtype out)
{
    const int floats = in == BNN_F32 || in == BNN_F64;
    switch (node->op) {
    case BNN_FROM_PLANES: return in == out ? in != BNN_BITS : in == BNN_F32 && out == BNN_BITS;
    case BNN_TO_PLANES: return in == out;
    case BNN_NORMALIZE: return in == BNN_U8 && (out == BNN_F32 || out == BNN_F64);
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
    if (f->activation == BNN_HARDTANH && !f->limits) return BNN_ERROR_MISSING;
    if (f->activation == BNN_PRELU && !f->slope) return BNN_ERROR_MISSING;
    return BNN_OK;
}

static int window_fits(const bnn_node *node, int32_t axis, int32_t in, int32_t out)
{
    const int64_t before = node->padding[2 * axis], after = node->padding[2 * axis + 1];
    const int64_t span = (int64_t)node->dilation[axis] * (node->kernel[axis] - 1) + 1;
    if (node->kernel[axis] < 1 || node->stride[axis] < 1 || node->dilation[axis] < 1 || before < 0 ||
        after < 0)
        return 0;
    if (in + before + after < span || in + before + after > INT32_MAX) return 0;
    return out == (in + before + after - span) / node->stride[axis] + 1;
}

static bnn_status check_segment(const bnn_segment *segment, const bnn_value *in, const bnn_value *out)
{
    int32_t i;
    if (segment->channels < 1 || segment->outputs < 1) return BNN_ERROR_SHAPE;
    if (segment->output < 0 || segment->output > out->channels - segment->outputs) return BNN_ERROR_SHAPE;
    if (!segment->weight || (!segment->take && segment->channels != in->channels)) return BNN_ERROR_MISSING;
    for (i = 0; i < segment->channels && segment->take; i++)
        if (segment->take[i] < 0 || segment->take[i] >= in->channels) return BNN_ERROR_SHAPE;
    return BNN_OK;
}

/* Integers are written by one segment each, and none is left out; to other sums segments are added. */
static bnn_status check_pixels(const bnn_node *node, const bnn_value *in, const bnn_value *out)
{
    const int integers = bnn_sum_dtype(node, BNN_U8) == BNN_I32;
    int32_t i, outputs = 0;
    if (!node->segments || (!integers && !node->border.values)) return BNN_ERROR_MISSING;
    if (node->groups != 1) return BNN_ERROR_SHAPE;
    for (i = 0; i < node->n_segments; i++) {
        const bnn_segment *segment = node->segments + i;
        const bnn_status status = check_segment(segment, in, out);
        if (status != BNN_OK) return status;
        if (!integers && !segment->divisor) return BNN_ERROR_MISSING;
        if (integers && segment->output != outputs) return BNN_ERROR_SHAPE;
        outputs += segment->outputs;
    }
    return integers && outputs != out->channels ? BNN_ERROR_SHAPE : BNN_OK;
}

static bnn_status check_window(const bnn_node *node, const bnn_value *in, const bnn_value *out)
{
    const int64_t taps = (int64_t)node->kernel[0] * node->kernel[1];
    int32_t i;
    if (!window_fits(node, 0, in->height, out->height) || !window_fits(node, 1, in->width, out->width))
        return BNN_ERROR_SHAPE;
    if (!bnn_is_product(node->op)) {
        for (i = 0; i < 4; i++) /* no window lies in padding alone */
            if (node->padding[i] >= node->kernel[i / 2]) return BNN_ERROR_SHAPE;
        if (node->dilation[0] != 1 || node->dilation[1] != 1) return BNN_ERROR_SHAPE;
        return in->channels == out->channels ? BNN_OK : BNN_ERROR_SHAPE;
    }
    if (node->groups < 1 || in->channels % node->groups || out->channels % node->groups)
        return BNN_ERROR_SHAPE;
    if (taps * (in->channels / node->groups) > INT32_MAX / 2) return BNN_ERROR_SIZE; /* and so of words */
    if (node->op == BNN_DEPTHWISE && (node->groups != in->channels || in->channels != out->channels))
        return BNN_ERROR_SHAPE;
    if (node->op == BNN_PRODUCT_U8) return check_pixels(node, in, out);
    if (node->op == BNN_PRODUCT_BITS && node->pad_sign == 0 && !node->border.values)
        for (i = 0; i < 4; i++)
            if (node->padding[i]) return BNN_ERROR_MISSING;
    return node->weight ? BNN_OK : BNN_ERROR_MISSING;
}

static bnn_status check_node(const bnn_plan *plan, int32_t step)
{
    const bnn_node *node = plan->nodes + step;
    const bnn_value *values = plan->values, *in, *out;
    int32_t i, channels = 0;
    if (node->op < 0 || node->op >= BNN_OPS || node->n_inputs < 1 || !node->inputs) return BNN_ERROR_GRAPH;
    if (node->output < 1 || node->output >= plan->n_values || values[node->output].first >= 0)
        return BNN_ERROR_GRAPH;
    for (i = 0; i < node->n_inputs; i++) {
        if (node->inputs[i] < 0 || node->inputs[i] >= plan->n_values) return BNN_ERROR_GRAPH;
        if (node->inputs[i] > 0 && values[node->inputs[i]].first < 0) return BNN_ERROR_GRAPH;
    }
    in = values + node->inputs[0];
    out = values + node->output;
    if (!takes(node, in->dtype, out->dtype)) return BNN_ERROR_DTYPE;
    if (bnn_is_windowed(node->op)) {
        const bnn_status status = check_window(node, in, out);
        if (status != BNN_OK) return status;
    } else if (node->op == BNN_FROM_PLANES || node->op == BNN_TO_PLANES) {
        if (bnn_entries(in) != bnn_entries(out)) return BNN_ERROR_SHAPE;
    } else if (node->op != BNN_CONCAT) {
        if (bnn_places(in) != bnn_places(out) || in->channels != out->channels) return BNN_ERROR_SHAPE;
    }
    for (i = 0; i < node->n_inputs; i++) {
        const bnn_value *other = values + node->inputs[i];
        if (node->op == BNN_ADD || node->op == BNN_CONCAT) {
            if (other->dtype != in->dtype) return BNN_ERROR_DTYPE;
            if (bnn_places(other) != bnn_places(out)) return BNN_ERROR_SHAPE;
            if (node->op == BNN_ADD && other->channels != out->channels) return BNN_ERROR_SHAPE;
            channels += other->channels;
        } else if (i == 1 && (node->op == BNN_PRODUCT_I8 || node->op == BNN_DEPTHWISE)) {
            if (other->dtype != BNN_F32 || bnn_entries(other) != 1) return BNN_ERROR_SHAPE;
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
        if (values[k].dtype != BNN_F32 || bnn_entries(values + k) != 1) return BNN_ERROR_SHAPE;
    }
    if (bnn_is_product(node->op))
        return check_finish(&node->finish, bnn_sum_dtype(node, in->dtype), out->dtype);
    if (node->op == BNN_MAP) return check_finish(&node->finish, in->dtype, out->dtype);
    return BNN_OK;
}

/* --- the arena ------------------------------------------------------------------------------------------ */

static size_t room(const bnn_value *v) { return bnn_round_up(v->bytes, BNN_ALIGNMENT); }

/* The values that are needed at a step, in order of their offsets: a list through `next`, from `live` on. */
static void place(bnn_plan *plan, bnn_value *values, int32_t index, int32_t *live)
{
    bnn_value *v = values + index;
    int32_t *link = live;
    size_t offset = 0;
    while (*link >= 0) {
        bnn_value *w = values + *link;
        if (w->last < v->first) { /* needed no more */
            *link = w->next;
            continue;
        }
        if (w->offset >= offset + room(v)) break; /* the first gap that is wide enough */
        offset = w->offset + room(w);
        link = &w->next;
    }
    v->offset = offset;
    v->next = *link;
    *link = index;
    if (offset + room(v) > plan->row_bytes) plan->row_bytes = offset + room(v);
}

bnn_status bnn_plan_init(bnn_plan *plan, bnn_value *values, int32_t n_values, const bnn_node *nodes,
                         int32_t n_nodes, const bnn_kernels *kernels)
{
    int32_t i, k, live = -1;
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
        if (v->width > INT32_MAX / v->height || v->channels > INT32_MAX / bnn_places(v))
            return BNN_ERROR_SIZE;
        if ((size_t)bnn_places(v) > (SIZE_MAX / 2 - all) / bnn_pixel_bytes(v)) return BNN_ERROR_SIZE;
        v->bytes = (size_t)bnn_places(v) * bnn_pixel_bytes(v);
        all += v->bytes;
        v->first = v->last = v->next = -1;
        v->offset = 0;
    }
    for (i = 0; i < n_nodes; i++) {
        const bnn_status status = check_node(plan, i);
        if (status != BNN_OK) return status;
        for (k = 0; k < nodes[i].n_inputs; k++) values[nodes[i].inputs[k]].last = i;
        values[nodes[i].output].first = values[nodes[i].output].last = i;
        if (nodes[i].op == BNN_QUANTIZE) values[nodes[i].second].first = values[nodes[i].second].last = i;
    }
    k = nodes[n_nodes - 1].output;
    if (values[k].dtype != BNN_F32 && values[k].dtype != BNN_I32) return BNN_ERROR_DTYPE;
    for (i = 0; i < n_nodes - !BNN_OUTPUT_IN_ARENA; i++) { /* the last node's output may be the caller's */
        place(plan, values, nodes[i].output, &live);
        if (nodes[i].op == BNN_QUANTIZE) place(plan, values, nodes[i].second, &live);
    }
    return BNN_OK;
}

bnn_status bnn_arena_bytes(const bnn_plan *plan, int32_t rows, int32_t parts, size_t *bytes)
{
    size_t scratch;
    int32_t i;
    *bytes = 0;
    if (rows < 1 || parts < 1) return BNN_ERROR_SHAPE;
    for (i = 0; i < plan->n_values; i++) /* places of all samples are counted in an int32_t */
        if (rows > INT32_MAX / bnn_places(plan->values + i)) return BNN_ERROR_SIZE;
    scratch = bnn_scratch_bytes(plan, rows, parts);
    if (plan->row_bytes > SIZE_MAX / 4 / (size_t)rows || scratch > SIZE_MAX / 4 / (size_t)parts)
        return BNN_ERROR_SIZE;
    *bytes = plan->row_bytes * (size_t)rows + scratch * (size_t)parts;
    return BNN_OK;
}

double bnn_node_work(const bnn_plan *plan, int32_t step)
{
    static const double per_cycle[BNN_OPS] = {
        /* of a fast core: entries, or multiply-accumulates of products */
        [BNN_FROM_PLANES] = 2, [BNN_TO_PLANES] = 2,      [BNN_NORMALIZE] = 1,    [BNN_QUANTIZE] = 4,
        [BNN_MAP] = 8,         [BNN_PRODUCT_BITS] = 256, [BNN_PRODUCT_F32] = 32, [BNN_PRODUCT_F64] = 4,
        [BNN_PRODUCT_I8] = 96, [BNN_PRODUCT_U8] = 48,    [BNN_DENSE] = 8,        [BNN_DEPTHWISE] = 4,
        [BNN_MAX_POOL] = 8,    [BNN_AVG_POOL] = 8,       [BNN_ADD] = 8,          [BNN_CONCAT] = 8,
        [BNN_SOFTMAX] = 1,
    };
    const bnn_node *node = plan->nodes + step;
    const bnn_value *in = plan->values + node->inputs[0], *out = plan->values + node->output;
    const double taps = bnn_is_windowed(node->op) ? (double)node->kernel[0] * node->kernel[1] : 1;
    double work = bnn_entries(out) * taps / per_cycle[node->op];
    if (bnn_is_product(node->op)) work *= (double)in->channels / node->groups;
    if (taps > 1) work += 10 * taps * bnn_places(out); /* each is found, however few channels it has */
    return work;
}
