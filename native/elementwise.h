/* The loops that a compiler turns into vector code by itself. Each instruction set's file includes this once,
   under its own target, and so gets its own copy of these static functions.

   It defines before:

       static uint64_t negative_word(const float *x);                       64 entries: bit 1 unless x >= 0
       static uint64_t below_word(const int32_t *z, const int32_t *limit);  64 entries: bit 1 where z < limit
 */

#include "kernels.h"

static int32_t least(int32_t a, int32_t b) { return a < b ? a : b; }

static void dense_f32(const float *x, int32_t n, const float *weight, size_t ld, int32_t count, float *sums)
{
    int32_t o, k, i;
    for (o = 0; o < count; o += 32) {
        float sum[32] = {0};
        const float *w = weight + o;
        if (count - o >= 32) {
            for (k = 0; k < n; k++)
                for (i = 0; i < 32; i++) sum[i] += x[k] * w[(size_t)k * ld + (size_t)i];
        } else {
            for (k = 0; k < n; k++)
                for (i = 0; i < count - o; i++) sum[i] += x[k] * w[(size_t)k * ld + (size_t)i];
        }
        memcpy(sums + o, sum, sizeof(float) * (size_t)least(32, count - o));
    }
}

static void signs(const float *x, int32_t n, uint64_t *words)
{
    int32_t i;
    for (i = 0; i + 64 <= n; i += 64) words[i / 64] = negative_word(x + i);
    if (i < n) {
        float tail[64] = {0};
        memcpy(tail, x + i, sizeof(float) * (size_t)(n - i));
        words[i / 64] = negative_word(tail);
    }
}

/* The integers of up to 64 channels from `at` on, counted from the first of these sums. */
static void take_integers(const bnn_sums *sums, int32_t at, int32_t count, int32_t *z)
{
    const int32_t *from = (const int32_t *)sums->at + at, n = sums->counted;
    int32_t i;
    if (!n)
        memcpy(z, from, sizeof(int32_t) * (size_t)count);
    else
        for (i = 0; i < count; i++) z[i] = n - 2 * from[i];
    if (sums->correction)
        for (i = 0; i < count; i++) z[i] -= sums->correction[at + i];
}

/* Thresholds compared, 64 at a time; bit 1 where (z >= threshold) == flip, that is, z < threshold xor flip.
 */
static void compare(const bnn_finish *f, const bnn_sums *sums, int32_t first, int32_t count, uint64_t *words)
{
    int32_t i;
    for (i = 0; i < count; i += 64) {
        const int32_t here = least(64, count - i), *t = f->threshold + first + i;
        int32_t z[64], tail[64] = {0};
        take_integers(sums, i, here, z);
        if (here < 64) { /* padding: 0 < 0 is false, and flip is 0 there */
            memset(z + here, 0, sizeof(int32_t) * (size_t)(64 - here));
            memcpy(tail, t, sizeof(int32_t) * (size_t)here);
            t = tail;
        }
        words[(first + i) / 64] = below_word(z, t) ^ f->flip[(first + i) / 64];
    }
}

/* NaN stays NaN in all of these, as numpy's maximum and clip have it. */
#define ACTIVATE(T)                                                                                          \
    static void activate_##T(const bnn_finish *f, int32_t first, int32_t count, T *y)                        \
    {                                                                                                        \
        int32_t i;                                                                                           \
        if (f->activation == BNN_RELU) {                                                                     \
            for (i = 0; i < count; i++) y[i] = y[i] <= 0 ? 0 : y[i];                                         \
        } else if (f->activation == BNN_HARDTANH) {                                                          \
            const T low = ((const T *)f->limits)[0], high = ((const T *)f->limits)[1];                       \
            for (i = 0; i < count; i++) {                                                                    \
                const T v = y[i] < low ? low : y[i];                                                         \
                y[i] = v > high ? high : v;                                                                  \
            }                                                                                                \
        } else if (f->activation == BNN_PRELU) {                                                             \
            const float *slope = f->slope + first;                                                           \
            for (i = 0; i < count; i++) y[i] = y[i] >= 0 ? y[i] : (T)slope[i] * y[i];                        \
        }                                                                                                    \
    }
ACTIVATE(float)
ACTIVATE(double)

/* `count` channels, the first of which is `at` among these sums and `first` of the layer. */
#define COMPUTE(T)                                                                                           \
    static void compute_##T(const bnn_finish *f, const bnn_sums *sums, int32_t at, int32_t first,            \
                            int32_t count, T *y)                                                             \
    {                                                                                                        \
        int32_t i;                                                                                           \
        if (BNN_IS(sums->dtype, BNN_I32)) {                                                                  \
            const int32_t *z = (const int32_t *)sums->at + at, n = sums->counted;                            \
            if (sums->correction) {                                                                          \
                const int32_t *correction = sums->correction + at;                                           \
                for (i = 0; i < count; i++) y[i] = (T)((n ? n - 2 * z[i] : z[i]) - correction[i]);           \
            } else if (n) {                                                                                  \
                for (i = 0; i < count; i++) y[i] = (T)(n - 2 * z[i]);                                        \
            } else {                                                                                         \
                for (i = 0; i < count; i++) y[i] = (T)z[i];                                                  \
            }                                                                                                \
        } else if (BNN_IS(sums->dtype, BNN_F32)) {                                                           \
            const float *z = (const float *)sums->at + at;                                                   \
            for (i = 0; i < count; i++) y[i] = (T)z[i];                                                      \
        } else if (BNN_HAS(BNN_F64)) {                                                                       \
            const double *z = (const double *)sums->at + at;                                                 \
            for (i = 0; i < count; i++) y[i] = (T)z[i];                                                      \
        }                                                                                                    \
        if (sums->scale) {                                                                                   \
            const T scale = (T)sums->scale[0];                                                               \
            for (i = 0; i < count; i++) y[i] *= scale;                                                       \
        }                                                                                                    \
        if (f->scale) {                                                                                      \
            const T *scale = (const T *)f->scale + first, *shift = (const T *)f->shift + first;              \
            for (i = 0; i < count; i++) y[i] = y[i] * scale[i] + shift[i];                                   \
        }                                                                                                    \
        if (f->narrow)                                                                                       \
            for (i = 0; i < count; i++) y[i] = (T)(float)y[i];                                               \
        activate_##T(f, first, count, y);                                                                    \
    }
COMPUTE(float)
COMPUTE(double)

/* Where the sign of a double is wanted: a float that has it (a tiny negative double would become a float -0).
 */
static uint64_t negative_word_f64(const double *y, int32_t count)
{
    float x[64] = {0};
    int32_t i;
    for (i = 0; i < count; i++) x[i] = y[i] >= 0 ? 1.0f : -1.0f;
    return negative_word(x);
}

static void finish(const bnn_finish *f, const bnn_sums *sums, bnn_dtype to, int32_t first, int32_t count,
                   void *out)
{
    int32_t i, j;
    if (f->threshold) {
        compare(f, sums, first, count, (uint64_t *)out);
        return;
    }
    if (BNN_IS(to, BNN_I32)) {
        take_integers(sums, 0, count, (int32_t *)out + first);
        return;
    }
    if (BNN_IS(to, BNN_F32) && f->computed == BNN_F32) { /* the common case: no detour over a buffer */
        compute_float(f, sums, 0, first, count, (float *)out + first);
        return;
    }
    for (i = 0; i < count; i += 64) {
        const int32_t here = least(64, count - i);
        if (BNN_IS(f->computed, BNN_F32)) {
            float y[64];
            compute_float(f, sums, i, first + i, here, y);
            if (BNN_IS(to, BNN_BITS))
                signs(y, here, (uint64_t *)out + (first + i) / 64);
            else if (BNN_HAS(BNN_F64))
                for (j = 0; j < here; j++) ((double *)out)[first + i + j] = y[j];
        } else if (BNN_HAS(BNN_F64)) {
            double y[64];
            compute_double(f, sums, i, first + i, here, y);
            if (BNN_IS(to, BNN_BITS))
                ((uint64_t *)out)[(first + i) / 64] = negative_word_f64(y, here);
            else if (BNN_IS(to, BNN_F32))
                for (j = 0; j < here; j++) ((float *)out)[first + i + j] = (float)y[j];
            else
                memcpy((double *)out + first + i, y, sizeof(double) * (size_t)here);
        }
    }
}

static float largest(const float *x, size_t n)
{
    /* As integers, magnitudes are in order, and NaN above infinity: no comparison that a NaN could spoil. */
    uint32_t most = 0;
    size_t i;
    float magnitude;
    for (i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffffu;
        most = bits > most ? bits : most;
    }
    memcpy(&magnitude, &most, sizeof magnitude);
    return magnitude;
}

static void quantize(const float *x, size_t n, float scale, int8_t *out)
{
    /* Adding 1.5 * 2^23 leaves the nearest integer, ties to even, in the lowest bits of the sum. */
    const float magic = 12582912.0f;
    size_t i;
    for (i = 0; i < n; i++) {
        const float q =
            x[i] / scale +
            magic; /* of a scale of 0 infinity or NaN: what that becomes is multiplied by the scale again */
        uint32_t bits;
        memcpy(&bits, &q, sizeof bits);
        out[i] = (int8_t)(int32_t)(bits - 0x4b400000u);
    }
}

static void add(const float *x, size_t n, float *sum)
{
    size_t i;
    for (i = 0; i < n; i++) sum[i] += x[i];
}

static void maximum(const float *x, int32_t n, float *most)
{
    int32_t i;
    for (i = 0; i < n; i++) most[i] = most[i] >= x[i] || most[i] != most[i] ? most[i] : x[i];
}

static void from_planes(const float *planes, int32_t channels, size_t plane, int32_t places, float *out)
{
    int32_t p, c, i, j;
    for (p = 0; p < places; p += 16)
        for (c = 0; c < channels; c += 16)
            for (i = p; i < least(p + 16, places); i++)
                for (j = c; j < least(c + 16, channels); j++)
                    out[(size_t)i * (size_t)channels + (size_t)j] = planes[(size_t)j * plane + (size_t)i];
}

#ifndef BNN_HAVE_TO_PLANES
static void to_planes(const float *x, int32_t channels, size_t plane, int32_t places, float *planes)
{
    int32_t p, c, i, j;
    for (c = 0; c < channels; c += 16)
        for (p = 0; p < places; p += 16)
            for (j = c; j < least(c + 16, channels); j++)
                for (i = p; i < least(p + 16, places); i++)
                    planes[(size_t)j * plane + (size_t)i] = x[(size_t)i * (size_t)channels + (size_t)j];
}
#endif

#ifndef BNN_HAVE_SIGNS_FROM_PLANES
static void signs_from_planes(const float *planes, int32_t channels, size_t plane, int32_t places,
                              uint64_t *out)
{
    const size_t words = (size_t)bnn_words(channels);
    int32_t p, c;
    for (p = 0; p < places; p++) {
        uint64_t *pixel = out + (size_t)p * words;
        memset(pixel, 0, words * sizeof(uint64_t));
        for (c = 0; c < channels; c++) {
            const uint64_t negative = !(planes[(size_t)c * plane + (size_t)p] >= 0);
            pixel[c / 64] |= negative << (c % 64);
        }
    }
}
#endif

/* The last members of bnn_kernels, behind i16_product: the functions above, but for those that a bnn_config.h
   leaves out. */
#define BNN_IF(condition, function) ((condition) ? (function) : NULL)
#define BNN_ELEMENTWISE                                                                                      \
    BNN_IF(BNN_HAS_OP(BNN_DENSE), dense_f32), finish, BNN_IF(BNN_HAS_FLOATS, signs),                         \
        BNN_IF(BNN_HAS_OP(BNN_QUANTIZE), largest), BNN_IF(BNN_HAS_OP(BNN_QUANTIZE), quantize),               \
        BNN_IF(BNN_HAS_OP(BNN_ADD), add), BNN_IF(BNN_HAS_OP(BNN_MAX_POOL) && BNN_HAS_FLOATS, maximum),       \
        BNN_IF(BNN_HAS_OP(BNN_FROM_PLANES) && BNN_HAS_FLOATS, from_planes),                                  \
        BNN_IF(BNN_HAS_OP(BNN_FROM_PLANES) && BNN_HAS_FLOATS, signs_from_planes),                            \
        BNN_IF(BNN_HAS_OP(BNN_TO_PLANES) && BNN_HAS_FLOATS, to_planes)
