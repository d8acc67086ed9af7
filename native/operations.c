/* Everything but products: elementwise maps, changes of layout, pooling, sums and concatenation. */

#include <float.h>

#include "job.h"

static void bits_to_floats(const uint64_t *words, int32_t n, float *y)
{
    int32_t k;
    for (k = 0; k < n; k++) y[k] = words[k / 64] >> (k % 64) & 1 ? -1.0f : 1.0f;
}

static void run_map(const bnn_job *j, int32_t row, int32_t rows)
{
    const size_t in = bnn_pixel_bytes(j->in), out = bnn_pixel_bytes(j->out);
    float *signs = (float *)(void *)(j->scratch + j->layout.row);
    bnn_sums sums = {j->in->dtype, NULL, 0, NULL, NULL};
    int32_t r;
    for (r = row; r < row + rows && !bnn_stopped(j->batch); r++) {
        sums.at = j->x + (size_t)r * in;
        if (BNN_IS(j->in->dtype, BNN_BITS) && BNN_HAS(BNN_F32)) {
            bits_to_floats((const uint64_t *)sums.at, j->in->channels, signs);
            sums.dtype = BNN_F32;
            sums.at = signs;
        }
        j->plan->kernels->finish(&j->node->finish, &sums, j->out->dtype, 0, j->in->channels,
                                 j->y + (size_t)r * out);
    }
}

static void quantize_sample(const bnn_job *j, const void *x, int8_t *y, float *scale)
{
    const bnn_kernels *kernels = j->plan->kernels;
    const int32_t n = bnn_entries(j->in);
    const float *from = (const float *)x;
    if (BNN_IS(j->in->dtype, BNN_F64)) {
        float *narrow = (float *)(void *)(j->scratch + j->layout.row);
        int32_t k;
        for (k = 0; k < n; k++) narrow[k] = (float)((const double *)x)[k];
        from = narrow;
    }
    *scale = kernels->largest(from, (size_t)n) / 127.0f;
    if (*scale < FLT_MIN) *scale = 0; /* too coarse to divide by; what is divided by 0 becomes 0 */
    kernels->quantize(from, (size_t)n, *scale, y);
}

#define NORMALIZE(T)                                                                                         \
    static void normalize_##T(const bnn_job *j, const uint8_t *x, T *y)                                      \
    {                                                                                                        \
        const T *mean = (const T *)j->node->mean, *deviation = (const T *)j->node->deviation;                \
        const int32_t channels = j->in->channels;                                                            \
        int32_t p, c;                                                                                        \
        for (p = 0; p < bnn_places(j->in); p++)                                                              \
            for (c = 0; c < channels; c++, x++, y++) *y = ((T) * x / (T)255 - mean[c]) / deviation[c];       \
    }
NORMALIZE(float)
NORMALIZE(double)

static void from_planes(const bnn_job *j, const char *x, char *y, int32_t first, int32_t count)
{
    const bnn_kernels *kernels = j->plan->kernels;
    const int32_t channels = j->out->channels;
    const size_t plane = (size_t)bnn_places(j->out), entry = bnn_pixel_bytes(j->in) / (size_t)j->in->channels;
    char *to = y + (size_t)first * bnn_pixel_bytes(j->out);
    int32_t p, c;
    x += (size_t)first * entry;
    if (BNN_IS(j->in->dtype, BNN_F32) && BNN_IS(j->out->dtype, BNN_BITS))
        kernels->signs_from_planes((const float *)(const void *)x, channels, plane, count,
                                   (uint64_t *)(void *)to);
    else if (BNN_IS(j->in->dtype, BNN_F32))
        kernels->from_planes((const float *)(const void *)x, channels, plane, count, (float *)(void *)to);
    else
        for (p = 0; p < count; p++)
            for (c = 0; c < channels; c++, to += entry)
                memcpy(to, x + ((size_t)c * plane + (size_t)p) * entry, entry);
}

static void bits_to_planes(const bnn_job *j, const uint64_t *x, uint64_t *y)
{
    const int32_t channels = j->in->channels, places = bnn_places(j->in), words = bnn_words(channels);
    int32_t p, c;
    memset(y, 0, j->out->bytes);
    for (p = 0; p < places; p++)
        for (c = 0; c < channels; c++) {
            const int32_t at = c * places + p;
            y[at / 64] |= (x[p * words + c / 64] >> (c % 64) & 1) << (at % 64);
        }
}

static void to_planes(const bnn_job *j, const char *x, char *y, int32_t first, int32_t count)
{
    const int32_t channels = j->in->channels;
    const size_t plane = (size_t)bnn_places(j->in), entry = bnn_pixel_bytes(j->in) / (size_t)channels;
    int32_t p, c;
    x += (size_t)first * bnn_pixel_bytes(j->in);
    y += (size_t)first * entry;
    if (BNN_IS(j->in->dtype, BNN_F32))
        j->plan->kernels->to_planes((const float *)(const void *)x, channels, plane, count,
                                    (float *)(void *)y);
    else
        for (p = 0; p < count; p++)
            for (c = 0; c < channels; c++, x += entry)
                memcpy(y + ((size_t)c * plane + (size_t)p) * entry, x, entry);
}

typedef struct { /* the part of a pooling window that lies in the image */
    int32_t top, bottom, left, right;
} window;

static window window_at(const bnn_node *node, const bnn_value *in, bnn_place place)
{
    const int32_t y = place.y * node->stride[0] - node->padding[0],
                  x = place.x * node->stride[1] - node->padding[2];
    const window w = {bnn_most(y, 0), bnn_least(y + node->kernel[0], in->height), bnn_most(x, 0),
                      bnn_least(x + node->kernel[1], in->width)};
    return w;
}

/* Bit 1 is -1, so the largest of signs is their and; where the smallest is wanted, both sides are flipped. */
static void max_pool_bits(const bnn_job *j, const uint64_t *image, window w, uint64_t *y)
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
#define MAX_POOL(T)                                                                                          \
    static void max_pool_##T(const bnn_job *j, const T *image, window w, T *y)                               \
    {                                                                                                        \
        const int32_t channels = j->in->channels;                                                            \
        int32_t iy, ix, c;                                                                                   \
        memcpy(y, image + ((size_t)w.top * (size_t)j->in->width + (size_t)w.left) * (size_t)channels,        \
               (size_t)channels * sizeof(T));                                                                \
        for (iy = w.top; iy < w.bottom; iy++)                                                                \
            for (ix = w.left; ix < w.right; ix++) {                                                          \
                const T *x = image + ((size_t)iy * (size_t)j->in->width + (size_t)ix) * (size_t)channels;    \
                for (c = 0; c < channels; c++) y[c] = y[c] >= x[c] || y[c] != y[c] ? y[c] : x[c];            \
            }                                                                                                \
    }
MAX_POOL(int32_t)
MAX_POOL(double)

static void max_pool_float(const bnn_job *j, const float *image, window w, float *y)
{
    const size_t channels = (size_t)j->in->channels;
    int32_t iy, ix;
    memcpy(y, image + ((size_t)w.top * (size_t)j->in->width + (size_t)w.left) * channels,
           channels * sizeof(float));
    for (iy = w.top; iy < w.bottom; iy++)
        for (ix = w.left; ix < w.right; ix++)
            j->plan->kernels->max(image + ((size_t)iy * (size_t)j->in->width + (size_t)ix) * channels,
                                  j->in->channels, y);
}

#define AVG_POOL(T)                                                                                          \
    static void avg_pool_##T(const bnn_job *j, const T *image, window w, T *y)                               \
    {                                                                                                        \
        const int32_t channels = j->in->channels;                                                            \
        const int32_t all = j->node->kernel[0] * j->node->kernel[1];                                         \
        const T size = (T)(j->node->count_padding ? all : (w.bottom - w.top) * (w.right - w.left));          \
        int32_t iy, ix, c;                                                                                   \
        memset(y, 0, (size_t)channels * sizeof(T));                                                          \
        for (iy = w.top; iy < w.bottom; iy++)                                                                \
            for (ix = w.left; ix < w.right; ix++) {                                                          \
                const T *x = image + ((size_t)iy * (size_t)j->in->width + (size_t)ix) * (size_t)channels;    \
                for (c = 0; c < channels; c++) y[c] += x[c];                                                 \
            }                                                                                                \
        for (c = 0; c < channels; c++) y[c] /= size;                                                         \
    }
AVG_POOL(float)
AVG_POOL(double)

static void run_pool(const bnn_job *j, int32_t row)
{
    const bnn_place place = bnn_find_place(j->out, row);
    const void *image = j->x + (size_t)place.sample * j->in->bytes;
    const window w = window_at(j->node, j->in, place);
    void *y = j->y + (size_t)row * bnn_pixel_bytes(j->out);
    const bnn_dtype dtype = j->in->dtype;
    if (BNN_IS_OP(j->node->op, BNN_AVG_POOL)) {
        if (BNN_IS(dtype, BNN_F32))
            avg_pool_float(j, (const float *)image, w, (float *)y);
        else if (BNN_HAS(BNN_F64))
            avg_pool_double(j, (const double *)image, w, (double *)y);
    } else if (BNN_IS(dtype, BNN_BITS)) {
        max_pool_bits(j, (const uint64_t *)image, w, (uint64_t *)y);
    } else if (BNN_IS(dtype, BNN_I32)) {
        max_pool_int32_t(j, (const int32_t *)image, w, (int32_t *)y);
    } else if (BNN_IS(dtype, BNN_F32)) {
        max_pool_float(j, (const float *)image, w, (float *)y);
    } else if (BNN_HAS(BNN_F64)) {
        max_pool_double(j, (const double *)image, w, (double *)y);
    }
}

static void run_add(const bnn_job *j, int32_t sample)
{
    const size_t n = (size_t)bnn_entries(j->out), at = (size_t)sample * j->out->bytes;
    int32_t i;
    memcpy(j->y + at, j->x + at, j->out->bytes);
    for (i = 1; i < j->node->n_inputs && !bnn_stopped(j->batch); i++) {
        const char *x = bnn_address(j->plan, j->batch, j->node->inputs[i]) + at;
        if (BNN_IS(j->out->dtype, BNN_F32)) {
            j->plan->kernels->add((const float *)(const void *)x, n, (float *)(void *)(j->y + at));
        } else if (BNN_HAS(BNN_F64)) {
            double *y = (double *)(void *)(j->y + at);
            size_t k;
            for (k = 0; k < n; k++) y[k] += ((const double *)(const void *)x)[k];
        }
    }
}

static void run_concat(const bnn_job *j, int32_t row)
{
    char *y = j->y + (size_t)row * bnn_pixel_bytes(j->out);
    int32_t i, at = 0;
    if (BNN_IS(j->out->dtype, BNN_BITS)) memset(y, 0, bnn_pixel_bytes(j->out));
    for (i = 0; i < j->node->n_inputs; i++) {
        const bnn_value *in = j->plan->values + j->node->inputs[i];
        const char *x =
            bnn_address(j->plan, j->batch, j->node->inputs[i]) + (size_t)row * bnn_pixel_bytes(in);
        if (!BNN_IS(j->out->dtype, BNN_BITS)) {
            memcpy(y, x, bnn_pixel_bytes(in));
            y += bnn_pixel_bytes(in);
        } else {
            uint64_t *words = (uint64_t *)(void *)y;
            const uint64_t *from = (const uint64_t *)(const void *)x;
            int32_t k;
            for (k = 0; k < in->channels; k += 32) {
                const int32_t bits = bnn_least(32, in->channels - k), to = at + k;
                const uint64_t half = bnn_bits_at(from, in->channels, k, bits);
                words[to / 64] |= half << (to % 64);
                if (to % 64 > 32 && half >> (64 - to % 64)) words[to / 64 + 1] |= half >> (64 - to % 64);
            }
            at += in->channels;
        }
    }
}

static void run_samples(const bnn_job *j, int32_t from, int32_t to)
{
    const bnn_node *node = j->node;
    int32_t s;
    for (s = from; s < to && !bnn_stopped(j->batch); s++) {
        const char *x = j->x + (size_t)s * j->in->bytes;
        char *y = j->y + (size_t)s * j->out->bytes;
        if (BNN_IS_OP(node->op, BNN_QUANTIZE))
            quantize_sample(j, x, (int8_t *)y,
                            (float *)(void *)bnn_address(j->plan, j->batch, node->second) + s);
        else if (BNN_IS_OP(node->op, BNN_NORMALIZE) && BNN_IS(j->out->dtype, BNN_F32))
            normalize_float(j, (const uint8_t *)x, (float *)(void *)y);
        else if (BNN_IS_OP(node->op, BNN_NORMALIZE) && BNN_HAS(BNN_F64))
            normalize_double(j, (const uint8_t *)x, (double *)(void *)y);
        else if (BNN_IS_OP(node->op, BNN_ADD))
            run_add(j, s);
        else if (BNN_IS_OP(node->op, BNN_TO_PLANES))
            bits_to_planes(j, (const uint64_t *)(const void *)x, (uint64_t *)(void *)y);
        else if (BNN_HAS_OP(BNN_SOFTMAX) && BNN_IS(j->in->dtype, BNN_F32))
            bnn_softmax_f32((const float *)(const void *)x, bnn_entries(j->in), (float *)(void *)y);
        else if (BNN_HAS_OP(BNN_SOFTMAX) && BNN_HAS(BNN_F64))
            bnn_softmax_f64((const double *)(const void *)x, bnn_entries(j->in), (double *)(void *)y);
    }
}

static void run_places(const bnn_job *j, int32_t from, int32_t to)
{
    const int32_t places = bnn_places(j->node->op == BNN_FROM_PLANES ? j->out : j->in);
    if (BNN_IS_OP(j->node->op, BNN_MAP)) {
        run_map(j, from, to - from);
        return;
    }
    if (BNN_IS_OP(j->node->op, BNN_FROM_PLANES) || BNN_IS_OP(j->node->op, BNN_TO_PLANES)) {
        while (from < to && !bnn_stopped(j->batch)) { /* image by image */
            const int32_t sample = from / places, first = from % places,
                          count = bnn_least(places - first, to - from);
            const char *x = j->x + (size_t)sample * j->in->bytes;
            char *y = j->y + (size_t)sample * j->out->bytes;
            if (BNN_IS_OP(j->node->op, BNN_FROM_PLANES))
                from_planes(j, x, y, first, count);
            else if (BNN_HAS_OP(BNN_TO_PLANES))
                to_planes(j, x, y, first, count);
            from += count;
        }
        return;
    }
    for (; from < to && !bnn_stopped(j->batch); from++) {
        if (BNN_IS_OP(j->node->op, BNN_CONCAT))
            run_concat(j, from);
        else if (BNN_HAS_OP(BNN_MAX_POOL) || BNN_HAS_OP(BNN_AVG_POOL))
            run_pool(j, from);
    }
}

void bnn_run_operation(const bnn_job *j, int32_t part, int32_t parts)
{
    const bnn_op op = j->node->op;
    /* Planes of bits share words, so their places cannot be shared out. */
    const int by_sample = op == BNN_QUANTIZE || op == BNN_NORMALIZE || op == BNN_ADD || op == BNN_SOFTMAX ||
                          (op == BNN_TO_PLANES && j->in->dtype == BNN_BITS);
    const int32_t places = op == BNN_TO_PLANES ? bnn_places(j->in) : bnn_places(j->out);
    int32_t from, to;
    bnn_share(by_sample ? j->batch->rows : j->batch->rows * places, part, parts, &from, &to);
    if (by_sample)
        run_samples(j, from, to);
    else
        run_places(j, from, to);
}
