/* AVX-512: F, BW, DQ and VL for products with tables; VPOPCNTDQ for ±1 x ±1 where there is one.

   Lanes are outputs, so that no sum ever has to be added up across a register, and no length of a row is
   special. Prepared weights lie in the order in which a tile reads them. */

#include "kernels.h"

#if defined(__x86_64__) && !defined(_MSC_VER)

#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,bmi2"))),         \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,bmi2")
#endif

/* Unrolled, so that arrays of vectors stay in registers. */
#define EACH(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < (n); i++)
#define TILE static inline __attribute__((always_inline)) void

static uint64_t negative_word(const float *x)
{
    uint64_t word = 0;
    int i;
    for (i = 0; i < 4; i++) {
        const __mmask16 negative =
            _mm512_cmp_ps_mask(_mm512_loadu_ps(x + 16 * i), _mm512_setzero_ps(), _CMP_NGE_UQ);
        word |= (uint64_t)negative << 16 * i;
    }
    return word;
}

static uint64_t below_word(const int32_t *z, const int32_t *limit)
{
    uint64_t word = 0;
    int i;
    for (i = 0; i < 4; i++) {
        const __mmask16 below =
            _mm512_cmplt_epi32_mask(_mm512_loadu_si512(z + 16 * i), _mm512_loadu_si512(limit + 16 * i));
        word |= (uint64_t)below << 16 * i;
    }
    return word;
}

/* Sixteen pixels at a time: a channel's sixteen signs become one bit in each of sixteen words. */
#define BNN_HAVE_SIGNS_FROM_PLANES

static void signs_from_planes(const float *planes, int32_t channels, size_t plane, int32_t places,
                              uint64_t *out)
{
    const int32_t words = bnn_words(channels);
    int32_t p, k, c;
    for (p = 0; p < places; p += 16) {
        const __mmask16 inside = (__mmask16)(places - p >= 16 ? 0xffff : (1 << (places - p)) - 1);
        for (k = 0; k < words; k++) {
            const int32_t end = channels - 64 * k < 64 ? channels - 64 * k : 64;
            const float *x = planes + (size_t)(64 * k) * plane + (size_t)p;
            __m512i pixel_u64x8[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
            __m512i bit = _mm512_set1_epi64(1);
            uint64_t word[16];
            int i;
            for (c = 0; c < end; c++, x += plane) {
                const __m512 x_f32x16 = _mm512_maskz_loadu_ps(inside, x);
                const __mmask16 negative = _mm512_cmp_ps_mask(x_f32x16, _mm512_setzero_ps(), _CMP_NGE_UQ);
                pixel_u64x8[0] =
                    _mm512_mask_or_epi64(pixel_u64x8[0], (__mmask8)negative, pixel_u64x8[0], bit);
                pixel_u64x8[1] =
                    _mm512_mask_or_epi64(pixel_u64x8[1], (__mmask8)(negative >> 8), pixel_u64x8[1], bit);
                bit = _mm512_add_epi64(bit, bit);
            }
            _mm512_storeu_si512(word, pixel_u64x8[0]);
            _mm512_storeu_si512(word + 8, pixel_u64x8[1]);
            for (i = 0; i < 16 && p + i < places; i++)
                out[(size_t)(p + i) * (size_t)words + (size_t)k] = word[i];
        }
    }
}

/* Sixteen by sixteen in registers: pairs of lanes are exchanged between rows 1, 2, 4 and 8 apart. */
#define BNN_HAVE_TO_PLANES

static void transpose_16x16(const float *x, size_t x_stride, float *y, size_t y_stride)
{
    __m512i a[16], b[16];
    EACH (i, 16) a[i] = _mm512_loadu_si512(x + (size_t)i * x_stride);
    EACH (i, 8) {
        b[2 * i] = _mm512_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
        b[2 * i + 1] = _mm512_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
    }
    EACH (i, 4) {
        a[4 * i] = _mm512_unpacklo_epi64(b[4 * i], b[4 * i + 2]);
        a[4 * i + 1] = _mm512_unpackhi_epi64(b[4 * i], b[4 * i + 2]);
        a[4 * i + 2] = _mm512_unpacklo_epi64(b[4 * i + 1], b[4 * i + 3]);
        a[4 * i + 3] = _mm512_unpackhi_epi64(b[4 * i + 1], b[4 * i + 3]);
    }
    EACH (i, 4) {
        b[i] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88);
        b[i + 4] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xdd);
        b[i + 8] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88);
        b[i + 12] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xdd);
    }
    EACH (i, 4) {
        _mm512_storeu_si512(y + (size_t)i * y_stride, _mm512_shuffle_i32x4(b[i], b[i + 8], 0x88));
        _mm512_storeu_si512(y + (size_t)(i + 4) * y_stride, _mm512_shuffle_i32x4(b[i + 4], b[i + 12], 0x88));
        _mm512_storeu_si512(y + (size_t)(i + 8) * y_stride, _mm512_shuffle_i32x4(b[i], b[i + 8], 0xdd));
        _mm512_storeu_si512(y + (size_t)(i + 12) * y_stride, _mm512_shuffle_i32x4(b[i + 4], b[i + 12], 0xdd));
    }
}

static void to_planes(const float *x, int32_t channels, size_t plane, int32_t places, float *planes)
{
    const size_t stride = (size_t)channels;
    int32_t p, c, i, j;
    for (c = 0; c < channels; c += 16)
        for (p = 0; p < places; p += 16) {
            const float *from = x + (size_t)p * stride + (size_t)c;
            float *to = planes + (size_t)c * plane + (size_t)p;
            if (channels - c >= 16 && places - p >= 16) {
                transpose_16x16(from, stride, to, plane);
                continue;
            }
            for (j = 0; j < 16 && c + j < channels; j++)
                for (i = 0; i < 16 && p + i < places; i++)
                    to[(size_t)j * plane + (size_t)i] = from[(size_t)i * stride + (size_t)j];
        }
}

#include "elementwise.h"

/* Prepared weights, in general: outputs in panels of `panel`, of which the last may be narrower (whole blocks
   of `block`); in a panel, step after step along the row, the entries of all its outputs side by side. */
static size_t panel_width(int32_t outputs, int32_t at, int32_t panel, int32_t block)
{
    return bnn_round_up((size_t)least(panel, outputs - at), (size_t)block);
}

/* --- ±1 x ±1: panels of 32 outputs, a step is a word ---------------------------------------------------- */

enum { BITS_PANEL = 32, BITS_BLOCK = 8 };

static size_t bits_bytes(int32_t outputs, int32_t words)
{
    return bnn_round_up((size_t)outputs, BITS_BLOCK) * (size_t)words * sizeof(uint64_t);
}

static void bits_prepare(const uint64_t *rows, int32_t outputs, int32_t words, void *prepared)
{
    uint64_t *to = prepared;
    int32_t at, k, i;
    for (at = 0; at < outputs; at += BITS_PANEL) {
        const int32_t width = (int32_t)panel_width(outputs, at, BITS_PANEL, BITS_BLOCK);
        for (k = 0; k < words; k++)
            for (i = 0; i < width; i++)
                *to++ = at + i < outputs ? rows[(size_t)(at + i) * (size_t)words + (size_t)k] : 0;
    }
}

static inline __attribute__((always_inline)) __m512i popcount_by_shuffle(__m512i v)
{
    const __m512i ones_of_nibble =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const __m512i low = _mm512_set1_epi8(15);
    const __m512i a = _mm512_shuffle_epi8(ones_of_nibble, _mm512_and_si512(v, low));
    const __m512i b = _mm512_shuffle_epi8(ones_of_nibble, _mm512_and_si512(_mm512_srli_epi16(v, 4), low));
    return _mm512_sad_epu8(_mm512_add_epi8(a, b), _mm512_setzero_si512());
}

#define BITS_TILE(NAME, TARGET, POPCOUNT)                                                                    \
    static inline __attribute__((always_inline)) TARGET void NAME(                                           \
        const int R, const int B, const uint64_t *x, size_t x_stride, const uint64_t *w, size_t width,       \
        int32_t words, int32_t *differing, size_t ld)                                                        \
    {                                                                                                        \
        __m512i sum_u64x8[4][4];                                                                             \
        int32_t k;                                                                                           \
        EACH (r, R)                                                                                          \
            EACH (b, B) sum_u64x8[r][b] = _mm512_setzero_si512();                                            \
        for (k = 0; k < words; k++, w += width) {                                                            \
            __m512i w_u64x8[4];                                                                              \
            EACH (b, B) w_u64x8[b] = _mm512_loadu_si512(w + 8 * b);                                          \
            EACH (r, R) {                                                                                    \
                const __m512i x_u64x8 = _mm512_set1_epi64((long long)x[(size_t)r * x_stride + (size_t)k]);   \
                EACH (b, B)                                                                                  \
                    sum_u64x8[r][b] =                                                                        \
                        _mm512_add_epi64(sum_u64x8[r][b], POPCOUNT(_mm512_xor_si512(x_u64x8, w_u64x8[b])));  \
            }                                                                                                \
        }                                                                                                    \
        EACH (r, R)                                                                                          \
            EACH (b, B)                                                                                      \
                _mm256_storeu_si256((__m256i *)(void *)(differing + (size_t)r * ld + 8 * b),                 \
                                    _mm512_cvtepi64_epi32(sum_u64x8[r][b]));                                 \
    }

/* A panel stays in the first cache while all rows pass. */
#define BITS_PRODUCT(NAME, TARGET, TILE_NAME)                                                                \
    static TARGET void NAME(const uint64_t *x, size_t x_stride, int32_t rows, const void *prepared,          \
                            int32_t words, int32_t first, int32_t count, int32_t *differing, size_t ld)      \
    {                                                                                                        \
        int32_t o, r, b;                                                                                     \
        for (o = 0; o < count; o += BITS_PANEL) {                                                            \
            const uint64_t *w = (const uint64_t *)prepared + (size_t)(first + o) * (size_t)words;            \
            const int32_t blocks = (least(BITS_PANEL, count - o) + BITS_BLOCK - 1) / BITS_BLOCK;             \
            const size_t width = (size_t)blocks * BITS_BLOCK;                                                \
            for (r = 0; r < rows;) {                                                                         \
                const uint64_t *row = x + (size_t)r * x_stride;                                              \
                int32_t *to = differing + (size_t)r * ld + o;                                                \
                if (blocks == 4 && rows - r >= 4) {                                                          \
                    TILE_NAME(4, 4, row, x_stride, w, width, words, to, ld);                                 \
                    r += 4;                                                                                  \
                } else if (blocks == 4) {                                                                    \
                    TILE_NAME(1, 4, row, x_stride, w, width, words, to, ld);                                 \
                    r += 1;                                                                                  \
                } else if (rows - r >= 4) {                                                                  \
                    for (b = 0; b < blocks; b++)                                                             \
                        TILE_NAME(4, 1, row, x_stride, w + 8 * b, width, words, to + 8 * b, ld);             \
                    r += 4;                                                                                  \
                } else {                                                                                     \
                    for (b = 0; b < blocks; b++)                                                             \
                        TILE_NAME(1, 1, row, x_stride, w + 8 * b, width, words, to + 8 * b, ld);             \
                    r += 1;                                                                                  \
                }                                                                                            \
            }                                                                                                \
        }                                                                                                    \
    }

BITS_TILE(bits_tile_shuffle, , popcount_by_shuffle)
BITS_PRODUCT(bits_product_shuffle, , bits_tile_shuffle)

#define POPCNT __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,bmi2,avx512vpopcntdq")))
BITS_TILE(bits_tile_popcnt, POPCNT, _mm512_popcnt_epi64)
BITS_PRODUCT(bits_product_popcnt, POPCNT, bits_tile_popcnt)

/* --- products with tables: panels of 128 outputs -------------------------------------------------------- */

enum { PANEL = BNN_SPLIT };

/* float: a table holds the 16 signed sums of 4 inputs, one register; a 32-bit lane of weights the 8 nibbles
   of 32 inputs of one output. vpermps looks only at the low 4 bits of a lane. */
enum { F32_BLOCK = 16, F32_STEP = 32, F32_TABLES = F32_STEP / 4 };

static int32_t f32_steps(int32_t n) { return (n + F32_STEP - 1) / F32_STEP; }

static size_t f32_weight_bytes(int32_t outputs, int32_t n)
{
    return bnn_round_up((size_t)outputs, F32_BLOCK) * (size_t)f32_steps(n) * sizeof(uint32_t);
}

static void f32_prepare(const uint64_t *rows, int32_t outputs, int32_t n, void *prepared)
{
    uint32_t *to = prepared;
    int32_t at, k, i;
    for (at = 0; at < outputs; at += PANEL) {
        const int32_t width = (int32_t)panel_width(outputs, at, PANEL, F32_BLOCK);
        for (k = 0; k < f32_steps(n); k++)
            for (i = 0; i < width; i++) {
                const uint64_t *row = rows + (size_t)(at + i) * (size_t)bnn_words(n);
                *to++ = at + i < outputs ? bnn_bits_at(row, n, k * F32_STEP, F32_STEP) : 0;
            }
    }
}

static size_t f32_table_bytes(int32_t n) { return (size_t)f32_steps(n) * F32_TABLES * 16 * sizeof(float); }

static void f32_tables(const float *x, int32_t n, void *tables)
{
    float *to = tables;
    __m512 sign_f32x16[4];
    int32_t k;
    int i, j;
    for (j = 0; j < 4; j++) {
        uint32_t lane[16];
        for (i = 0; i < 16; i++) lane[i] = (uint32_t)(i >> j & 1) << 31;
        sign_f32x16[j] = _mm512_castsi512_ps(_mm512_loadu_si512(lane));
    }
    for (k = 0; k < f32_steps(n) * F32_STEP; k += 4, to += 16) {
        float tail[4] = {0};
        const float *v = x + k;
        if (k + 4 > n) {
            for (j = 0; k + j < n; j++) tail[j] = x[k + j];
            v = tail;
        }
        _mm512_storeu_ps(to,
                         _mm512_add_ps(_mm512_add_ps(_mm512_xor_ps(_mm512_set1_ps(v[0]), sign_f32x16[0]),
                                                     _mm512_xor_ps(_mm512_set1_ps(v[1]), sign_f32x16[1])),
                                       _mm512_add_ps(_mm512_xor_ps(_mm512_set1_ps(v[2]), sign_f32x16[2]),
                                                     _mm512_xor_ps(_mm512_set1_ps(v[3]), sign_f32x16[3]))));
    }
}

TILE f32_tile(const int R, const int B, const float *tables, size_t table_stride, const uint32_t *w,
              size_t width, int32_t steps, float *sums, size_t ld)
{
    __m512 sum_f32x16[2][8];
    int32_t k;
    EACH (r, R)
        EACH (b, B) sum_f32x16[r][b] = _mm512_loadu_ps(sums + (size_t)r * ld + 16 * b);
    for (k = 0; k < steps; k++, w += width, tables += F32_TABLES * 16) {
        __m512i w_u32x16[8];
        EACH (b, B) w_u32x16[b] = _mm512_loadu_si512(w + 16 * b);
        EACH (j, F32_TABLES) {
            EACH (r, R) {
                const __m512 table_f32x16 = _mm512_loadu_ps(tables + (size_t)r * table_stride + 16 * j);
                EACH (b, B)
                    sum_f32x16[r][b] =
                        _mm512_add_ps(sum_f32x16[r][b], _mm512_permutexvar_ps(w_u32x16[b], table_f32x16));
            }
            EACH (b, B) w_u32x16[b] = _mm512_srli_epi32(w_u32x16[b], 4);
        }
    }
    EACH (r, R)
        EACH (b, B) _mm512_storeu_ps(sums + (size_t)r * ld + 16 * b, sum_f32x16[r][b]);
}

static void f32_product(const void *tables, int32_t rows, const void *prepared, int32_t n, int32_t first,
                        int32_t count, float *sums, size_t ld)
{
    const int32_t steps = f32_steps(n);
    const size_t stride = f32_table_bytes(n) / sizeof(float);
    int32_t r, k, o, b;
    for (r = 0; r < rows;) {
        const int32_t R = rows - r >= 2 ? 2 : 1;
        const int32_t deep = 32 / R; /* steps at a time: 16 KiB of tables stay in the first cache */
        float *const to = sums + (size_t)r * ld;
        for (b = 0; b < R; b++)
            memset(to + (size_t)b * ld, 0, bnn_round_up((size_t)count, F32_BLOCK) * sizeof(float));
        for (k = 0; k < steps; k += deep) {
            const int32_t here = least(deep, steps - k);
            const float *const t = (const float *)tables + (size_t)r * stride + (size_t)k * F32_TABLES * 16;
            for (o = 0; o < count; o += PANEL) {
                const int32_t blocks = (least(PANEL, count - o) + F32_BLOCK - 1) / F32_BLOCK;
                const size_t width = (size_t)blocks * F32_BLOCK;
                const uint32_t *w =
                    (const uint32_t *)prepared + (size_t)(first + o) * (size_t)steps + (size_t)k * width;
                b = 0;
                if (R == 2) {
                    for (; b + 4 <= blocks; b += 4)
                        f32_tile(2, 4, t, stride, w + 16 * b, width, here, to + o + 16 * b, ld);
                    for (; b < blocks; b++)
                        f32_tile(2, 1, t, stride, w + 16 * b, width, here, to + o + 16 * b, ld);
                } else {
                    for (; b + 8 <= blocks; b += 8)
                        f32_tile(1, 8, t, stride, w + 16 * b, width, here, to + o + 16 * b, ld);
                    for (; b < blocks; b++)
                        f32_tile(1, 1, t, stride, w + 16 * b, width, here, to + o + 16 * b, ld);
                }
            }
        }
        r += R;
    }
}

/* Integers: a table holds the 32 signed sums of 5 inputs, as int16; a 16-bit lane of weights three groups of
   5 bits. vpermw looks only at the low 5 bits of a lane. Sums are widened before they could overflow. */
enum { I16_BLOCK = 32, I16_STEP = 15, I16_TABLES = 3 };

static int32_t i16_steps(int32_t n) { return (n + I16_STEP - 1) / I16_STEP; }

static size_t i16_weight_bytes(int32_t outputs, int32_t n)
{
    return bnn_round_up((size_t)outputs, I16_BLOCK) * (size_t)i16_steps(n) * sizeof(uint16_t);
}

static void i16_prepare(const uint64_t *rows, int32_t outputs, int32_t n, void *prepared)
{
    uint16_t *to = prepared;
    int32_t at, k, i;
    for (at = 0; at < outputs; at += PANEL) {
        const int32_t width = (int32_t)panel_width(outputs, at, PANEL, I16_BLOCK);
        for (k = 0; k < i16_steps(n); k++)
            for (i = 0; i < width; i++) {
                const uint64_t *row = rows + (size_t)(at + i) * (size_t)bnn_words(n);
                *to++ = (uint16_t)(at + i < outputs ? bnn_bits_at(row, n, k * I16_STEP, I16_STEP) : 0);
            }
    }
}

static size_t i16_table_bytes(int32_t n) { return (size_t)i16_steps(n) * I16_TABLES * 32 * sizeof(int16_t); }

static void i16_tables(const int16_t *x, int32_t n, void *tables)
{
    int16_t *to = tables, lane[32];
    __m512i negative_i16x32[5], negatives_i16x32; /* -v = ~v + 1: the ones are added once, in front */
    int32_t k;
    int i, j;
    for (j = 0; j < 5; j++) {
        for (i = 0; i < 32; i++) lane[i] = (int16_t)-(i >> j & 1);
        negative_i16x32[j] = _mm512_loadu_si512(lane);
    }
    negatives_i16x32 = _mm512_setzero_si512();
    for (j = 0; j < 5; j++) negatives_i16x32 = _mm512_sub_epi16(negatives_i16x32, negative_i16x32[j]);
    for (k = 0; k < i16_steps(n) * I16_STEP; k += 5, to += 32) {
        int16_t tail[5] = {0};
        const int16_t *v = x + k;
        __m512i sum_i16x32 = negatives_i16x32;
        if (k + 5 > n) {
            for (j = 0; k + j < n; j++) tail[j] = x[k + j];
            v = tail;
        }
        EACH (j, 5)
            sum_i16x32 =
                _mm512_add_epi16(sum_i16x32, _mm512_xor_si512(_mm512_set1_epi16(v[j]), negative_i16x32[j]));
        _mm512_storeu_si512(to, sum_i16x32);
    }
}

TILE i16_tile(const int R, const int B, const int16_t *tables, size_t table_stride, const uint16_t *w,
              size_t width, int32_t steps, int32_t *sums, size_t ld)
{
    __m512i sum_i16x32[2][4];
    int32_t k;
    EACH (r, R)
        EACH (b, B) sum_i16x32[r][b] = _mm512_setzero_si512();
    for (k = 0; k < steps; k++, w += width, tables += I16_TABLES * 32) {
        __m512i w_u16x32[4];
        EACH (b, B) w_u16x32[b] = _mm512_loadu_si512(w + 32 * b);
        EACH (j, I16_TABLES) {
            EACH (r, R) {
                const __m512i table_i16x32 = _mm512_loadu_si512(tables + (size_t)r * table_stride + 32 * j);
                EACH (b, B)
                    sum_i16x32[r][b] = _mm512_add_epi16(sum_i16x32[r][b],
                                                        _mm512_permutexvar_epi16(w_u16x32[b], table_i16x32));
            }
            EACH (b, B) w_u16x32[b] = _mm512_srli_epi16(w_u16x32[b], 5);
        }
    }
    EACH (r, R)
        EACH (b, B) {
            int32_t *to = sums + (size_t)r * ld + 32 * b;
            const __m512i low_i32x16 = _mm512_cvtepi16_epi32(_mm512_castsi512_si256(sum_i16x32[r][b]));
            const __m512i high_i32x16 = _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(sum_i16x32[r][b], 1));
            _mm512_storeu_si512(to, _mm512_add_epi32(_mm512_loadu_si512(to), low_i32x16));
            _mm512_storeu_si512(to + 16, _mm512_add_epi32(_mm512_loadu_si512(to + 16), high_i32x16));
        }
}

static void i16_product(const void *tables, int32_t rows, const void *prepared, int32_t n, int32_t limit,
                        int32_t first, int32_t count, int32_t *sums, size_t ld)
{
    const int32_t steps = i16_steps(n);
    const int32_t deep = 32767 / (I16_STEP * limit); /* steps until a sum of int16 could overflow: 17 or 8 */
    const size_t stride = i16_table_bytes(n) / sizeof(int16_t);
    int32_t r, k, o, b;
    for (r = 0; r < rows;) {
        const int32_t R = rows - r >= 2 ? 2 : 1;
        int32_t *const to = sums + (size_t)r * ld;
        for (b = 0; b < R; b++)
            memset(to + (size_t)b * ld, 0, bnn_round_up((size_t)count, I16_BLOCK) * sizeof(int32_t));
        for (k = 0; k < steps; k += deep) {
            const int32_t here = least(deep, steps - k);
            const int16_t *const t =
                (const int16_t *)tables + (size_t)r * stride + (size_t)k * I16_TABLES * 32;
            for (o = 0; o < count; o += PANEL) {
                const int32_t blocks = (least(PANEL, count - o) + I16_BLOCK - 1) / I16_BLOCK;
                const size_t width = (size_t)blocks * I16_BLOCK;
                const uint16_t *w =
                    (const uint16_t *)prepared + (size_t)(first + o) * (size_t)steps + (size_t)k * width;
                if (blocks == 4 && R == 2)
                    i16_tile(2, 4, t, stride, w, width, here, to + o, ld);
                else if (blocks == 4)
                    i16_tile(1, 4, t, stride, w, width, here, to + o, ld);
                else
                    for (b = 0; b < blocks; b++) {
                        if (R == 2)
                            i16_tile(2, 1, t, stride, w + 32 * b, width, here, to + o + 32 * b, ld);
                        else
                            i16_tile(1, 1, t, stride, w + 32 * b, width, here, to + o + 32 * b, ld);
                    }
            }
        }
        r += R;
    }
}

#define KERNELS(NAME, BITS_PRODUCT)                                                                          \
    {.name = NAME,                                                                                           \
     .bits_bytes = bits_bytes,                                                                               \
     .bits_prepare = bits_prepare,                                                                           \
     .bits_product = BITS_PRODUCT,                                                                           \
     .f32 = {f32_weight_bytes, f32_prepare, f32_table_bytes},                                                \
     .f32_tables = f32_tables,                                                                               \
     .f32_product = f32_product,                                                                             \
     .i16 = {i16_weight_bytes, i16_prepare, i16_table_bytes},                                                \
     .i16_tables = i16_tables,                                                                               \
     .i16_product = i16_product,                                                                             \
     BNN_ELEMENTWISE}

const bnn_kernels bnn_avx512 = KERNELS("avx512", bits_product_shuffle);

const bnn_kernels bnn_avx512_popcnt = KERNELS("avx512-popcnt", bits_product_popcnt);

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#else
typedef int bnn_no_avx512; /* a translation unit may not be empty */
#endif
