/* Sizes: of values, and of what one part of a node needs beside them. */

#include "engine.h"

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

static size_t append(bnn_work *w, size_t bytes)
{
    const size_t at = w->bytes;
    w->bytes += bnn_round_up(bytes, BNN_ALIGNMENT);
    return at;
}

/* Whether rows can be read where they lie. */
int bnn_is_pointwise(const bnn_node *node)
{
    return node->kernel[0] == 1 && node->kernel[1] == 1 && node->stride[0] == 1 && node->stride[1] == 1 &&
           node->groups == 1 && !node->padding[0] && !node->padding[1] && !node->padding[2] &&
           !node->padding[3];
}

bnn_work bnn_work_of(const bnn_plan *plan, const bnn_node *node, int32_t rows, int32_t parts)
{
    const bnn_kernels *kernels = plan->kernels;
    const bnn_value *in = plan->values + node->inputs[0], *out = plan->values + node->output;
    bnn_work w;
    bnn_dtype sums;
    int32_t taps, slice, n, outputs, share;
    memset(&w, 0, sizeof w);
    if (node->op == BNN_MAP && in->dtype == BNN_BITS)
        w.row = append(&w, (size_t)in->channels * sizeof(float));
    if (node->op == BNN_QUANTIZE && in->dtype == BNN_F64)
        w.row = append(&w, (size_t)bnn_entries(in) * sizeof(float));
    if (!bnn_is_product(node->op)) return w;
    taps = node->kernel[0] * node->kernel[1];
    slice = in->channels / node->groups;
    n = taps * slice;
    outputs = out->channels;
    w.pixel = bnn_pixel_bytes(in);
    w.entry = in->dtype == BNN_BITS ? 0 : w.pixel / (size_t)in->channels;
    w.tap = in->dtype == BNN_BITS ? (size_t)bnn_words(slice) * sizeof(uint64_t) : (size_t)slice * w.entry;
    w.inner = node->op == BNN_PRODUCT_BITS ? taps * bnn_words(slice) : n;
    /* Many rows a time for bits, whose weights then stay in cache; shares of about the same size. */
    share = rows * bnn_places(out);
    if (BNN_SHARES) share = (int32_t)(((int64_t)share + parts - 1) / parts);
    w.at_once =
        node->op == BNN_PRODUCT_BITS ? bnn_least(BNN_ROWS_OF_BITS, bnn_most(4, 8192 / w.inner)) : BNN_ROWS;
    w.at_once =
        bnn_least(w.at_once, node->op == BNN_PRODUCT_BITS ? (int32_t)bnn_round_up((size_t)share, 4) : share);
    if (node->op == BNN_DEPTHWISE) w.at_once = 1;
    /* Of bits without groups, a few outputs at a time; else the whole row. */
    w.sum_ld = node->op == BNN_PRODUCT_BITS && node->groups == 1
                   ? BNN_SLACK
                   : (int32_t)bnn_round_up((size_t)outputs, BNN_SLACK) + BNN_SLACK;
    if (!bnn_is_pointwise(node)) w.patches = append(&w, (size_t)w.at_once * (size_t)taps * w.tap);
    if (!BNN_IN_PLACE && (node->op == BNN_PRODUCT_I8 || node->op == BNN_PRODUCT_U8))
        w.row = append(&w, (size_t)n * sizeof(int16_t));
    sums = bnn_sum_dtype(node, in->dtype);
    if (node->op == BNN_PRODUCT_F64 || node->op == BNN_DENSE)
        w.row = append(&w, (size_t)n * (sums == BNN_F64 ? sizeof(double) : sizeof(float)));
    if (node->op == BNN_PRODUCT_F32) w.tables = append(&w, (size_t)w.at_once * kernels->f32.table_bytes(n));
    if (node->op == BNN_PRODUCT_I8 || node->op == BNN_PRODUCT_U8)
        w.tables = append(&w, (size_t)w.at_once * kernels->i16.table_bytes(n));
    /* Of pixels there are sums of integers, and unless these are compared, totals. */
    w.sums = append(&w, (size_t)w.at_once * (size_t)w.sum_ld *
                            (sums == BNN_F64 && node->op != BNN_PRODUCT_U8 ? sizeof(double) : sizeof(float)));
    if (node->op == BNN_PRODUCT_U8 && sums != BNN_I32)
        w.totals = append(&w, (size_t)w.at_once * (size_t)w.sum_ld *
                                  (sums == BNN_F64 ? sizeof(double) : sizeof(float)));
    return w;
}

size_t bnn_scratch_bytes(const bnn_plan *plan, int32_t rows, int32_t parts)
{
    size_t bytes = 0;
    int32_t i;
    for (i = 0; i < plan->n_nodes; i++) {
        const bnn_work w = bnn_work_of(plan, plan->nodes + i, rows, parts);
        if (w.bytes > bytes) bytes = w.bytes;
    }
    return bytes;
}
