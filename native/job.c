/* What every job asks: how large a value is, where it lies, how the scratch is laid out, what becomes of
 * sums. */

#include "job.h"

size_t bnn_pixel_bytes(const bnn_value *v)
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

/* The dtype of a product's sums. */
bnn_dtype bnn_sum_dtype(const bnn_node *node, bnn_dtype in)
{
    switch (node->op) {
    case BNN_PRODUCT_BITS:
    case BNN_PRODUCT_I8: return BNN_I32;
    case BNN_PRODUCT_F32: return BNN_F32;
    case BNN_PRODUCT_F64: return BNN_F64;
    case BNN_PRODUCT_U8: return node->finish.threshold ? BNN_I32 : node->finish.computed;
    case BNN_DENSE: return node->finish.computed;
    default: return in == BNN_F32 || in == BNN_F64 ? in : BNN_I32;
    }
}

static size_t append(bnn_layout *layout, size_t bytes)
{
    const size_t at = layout->bytes;
    layout->bytes += bnn_round_up(bytes, BNN_ALIGNMENT);
    return at;
}

/* Whether rows can be read where they lie. */
int bnn_is_pointwise(const bnn_node *node)
{
    return node->kernel[0] == 1 && node->kernel[1] == 1 && node->stride[0] == 1 && node->stride[1] == 1 &&
           node->groups == 1 && !node->padding[0] && !node->padding[1] && !node->padding[2] &&
           !node->padding[3];
}

bnn_layout bnn_layout_of(const bnn_plan *plan, const bnn_node *node, int32_t rows, int32_t parts)
{
    const bnn_kernels *kernels = plan->kernels;
    const bnn_value *in = plan->values + node->inputs[0], *out = plan->values + node->output;
    const int bits = node->op == BNN_PRODUCT_BITS;
    const int integers =
        node->op == BNN_PRODUCT_I8 || node->op == BNN_PRODUCT_U8; /* that tables are made of */
    bnn_layout layout;
    bnn_dtype sums;
    int32_t taps, slice, n, outputs, share;
    memset(&layout, 0, sizeof layout);
    if (node->op == BNN_MAP && in->dtype == BNN_BITS)
        layout.row = append(&layout, (size_t)in->channels * sizeof(float));
    if (node->op == BNN_QUANTIZE && in->dtype == BNN_F64)
        layout.row = append(&layout, (size_t)bnn_entries(in) * sizeof(float));
    if (!bnn_is_product(node->op)) return layout;
    taps = node->kernel[0] * node->kernel[1];
    slice = in->channels / node->groups;
    n = taps * slice;
    outputs = out->channels;
    layout.pixel = bnn_pixel_bytes(in);
    layout.entry = in->dtype == BNN_BITS ? 0 : layout.pixel / (size_t)in->channels;
    layout.tap =
        in->dtype == BNN_BITS ? (size_t)bnn_words(slice) * sizeof(uint64_t) : (size_t)slice * layout.entry;
    layout.inner = bits ? taps * bnn_words(slice) : n;
    /* Many rows a time for bits, whose weights then stay in cache; shares of about the same size. */
    share = rows * bnn_places(out);
    if (BNN_SHARES) share = (int32_t)(((int64_t)share + parts - 1) / parts);
    layout.at_once = bits ? bnn_least(BNN_ROWS_OF_BITS, bnn_most(4, 8192 / layout.inner)) : BNN_ROWS;
    layout.at_once = bnn_least(layout.at_once, bits ? (int32_t)bnn_round_up((size_t)share, 4) : share);
    if (node->op == BNN_DEPTHWISE) layout.at_once = 1;
    /* Sums of bits without groups: a few outputs at a time; else the whole row. */
    layout.sum_ld =
        bits && node->groups == 1 ? BNN_SLACK : (int32_t)bnn_round_up((size_t)outputs, BNN_SLACK) + BNN_SLACK;
    if (!bnn_is_pointwise(node))
        layout.patches = append(&layout, (size_t)layout.at_once * (size_t)taps * layout.tap);
    if (!BNN_IN_PLACE && integers) layout.row = append(&layout, (size_t)n * sizeof(int16_t));
    sums = bnn_sum_dtype(node, in->dtype);
    if (node->op == BNN_PRODUCT_F64 || node->op == BNN_DENSE)
        layout.row = append(&layout, (size_t)n * (sums == BNN_F64 ? sizeof(double) : sizeof(float)));
    if (node->op == BNN_PRODUCT_F32)
        layout.tables = append(&layout, (size_t)layout.at_once * kernels->f32.table_bytes(n));
    if (integers) layout.tables = append(&layout, (size_t)layout.at_once * kernels->i16.table_bytes(n));
    /* Pixels have sums of integers, and unless these are compared, totals. */
    layout.sums =
        append(&layout, (size_t)layout.at_once * (size_t)layout.sum_ld *
                            (sums == BNN_F64 && node->op != BNN_PRODUCT_U8 ? sizeof(double) : sizeof(float)));
    if (node->op == BNN_PRODUCT_U8 && sums != BNN_I32)
        layout.totals = append(&layout, (size_t)layout.at_once * (size_t)layout.sum_ld *
                                            (sums == BNN_F64 ? sizeof(double) : sizeof(float)));
    return layout;
}

size_t bnn_scratch_bytes(const bnn_plan *plan, int32_t rows, int32_t parts)
{
    size_t bytes = 0;
    int32_t i;
    for (i = 0; i < plan->n_nodes; i++) {
        const bnn_layout layout = bnn_layout_of(plan, plan->nodes + i, rows, parts);
        if (layout.bytes > bytes) bytes = layout.bytes;
    }
    return bytes;
}

char *bnn_address(const bnn_plan *plan, const bnn_batch *batch, int32_t value)
{
    if (value == 0) return (char *)(uintptr_t)batch->input; /* only read */
    if (!BNN_OUTPUT_IN_ARENA && value == plan->nodes[plan->n_nodes - 1].output) return (char *)batch->output;
    return (char *)batch->arena + (size_t)batch->rows * plan->values[value].offset;
}
