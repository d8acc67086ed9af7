/* AVX2 and FMA. Lanes are outputs everywhere, so that no sum has to be added up across a register; prepared
   weights lie in the order in which a tile reads them. */

#include <math.h>
#include <string.h>

#include "kernels.h"

#if defined(__x86_64__) && !defined(_MSC_VER)

#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi2,popcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi2,popcnt")
#endif

#define UNROLL _Pragma("GCC unroll 16")
/* Unrolled, so that arrays of vectors stay in registers. */
#define EACH(i, n) UNROLL for (int i = 0; i < (n); i++)
/* Unrolled, GCC would look up everything first and add it up later, with most of it in memory meanwhile. */
#define NO_UNROLL _Pragma("GCC unroll 1")
#define TILE static inline __attribute__((always_inline))

TILE __m128i load_128(const void *p) { return _mm_loadu_si128((const __m128i *)p); }

TILE __m256i load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }

TILE void store(void *p, __m256i v) { _mm256_storeu_si256((__m256i *)p, v); }

static uint64_t negative_word(const float *x)
{
    uint64_t word = 0;
    int i;
    for (i = 0; i < 64; i += 8) {
        const __m256 negative = _mm256_cmp_ps(_mm256_loadu_ps(x + i), _mm256_setzero_ps(), _CMP_NGE_UQ);
        word |= (uint64_t)(uint32_t)_mm256_movemask_ps(negative) << i;
    }
    return word;
}

static uint64_t below_word(const int32_t *z, const int32_t *limit)
{
    uint64_t word = 0;
    int i;
    for (i = 0; i < 64; i += 8) {
        const __m256i below = _mm256_cmpgt_epi32(load(limit + i), load(z + i));
        word |= (uint64_t)(uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(below)) << i;
    }
    return word;
}

/* Signs of up to 32 planes in each of sixteen pixels, the last plane's shifted in first. Sixteen are a cache
   line, and planes may lie so that few of their lines stay in the first-level cache at once. */
TILE void signs_u32x16(const float *planes, size_t plane, int32_t channels, const __m256i inside[2],
                       uint32_t *signs)
{
    __m256i word[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    int32_t c;
    for (c = channels - 1; c >= 0; c--)
        EACH (v, 2) {
            const __m256 x = _mm256_maskload_ps(planes + (size_t)c * plane + 8 * v, inside[v]);
            const __m256i minus_sign =
                _mm256_castps_si256(_mm256_cmp_ps(x, _mm256_setzero_ps(), _CMP_NGE_UQ));
            word[v] = _mm256_sub_epi32(_mm256_add_epi32(word[v], word[v]), minus_sign);
        }
    store(signs, word[0]);
    store(signs + 8, word[1]);
}

#define BNN_HAVE_SIGNS_FROM_PLANES

static void signs_from_planes(const float *planes, int32_t channels, size_t plane, int32_t places,
                              uint64_t *out)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const int32_t words = bnn_words(channels);
    int32_t p, k, i;
    for (p = 0; p < places; p += 16) {
        const __m256i inside[2] = {_mm256_cmpgt_epi32(_mm256_set1_epi32(places - p), lane),
                                   _mm256_cmpgt_epi32(_mm256_set1_epi32(places - p - 8), lane)};
        for (k = 0; k < words; k++) {
            const float *x = planes + (size_t)(64 * k) * plane + (size_t)p;
            const int32_t here = channels - 64 * k;
            uint32_t low[16], high[16] = {0};
            signs_u32x16(x, plane, here < 32 ? here : 32, inside, low);
            if (here > 32) signs_u32x16(x + 32 * plane, plane, here < 64 ? here - 32 : 32, inside, high);
            for (i = 0; i < 16 && i < places - p; i++)
                out[(size_t)(p + i) * (size_t)words + (size_t)k] = (uint64_t)high[i] << 32 | low[i];
        }
    }
}

#include "elementwise.h"

/* --- ±1 x ±1 -------------------------------------------------------------------------------------------- */

/* Bits that differ, in words a, b, c, ..., are added by carry-save adders, which takes fewer operations than
   to count the ones of each word: `ones` and `twos` are the two lowest digits of a place's sum, and only what
   they carry over is counted, once in four words. An adder wants a and a ^ b. So prepare stores an odd word
   as what it differs from the word before, and a ^ b is the difference of two such differences.

   Eight outputs are two vectors: [eight outputs][word][2][4], in the order that suits _mm256_shuffle_ps at
   the end. */
enum { BITS_OUTPUTS = 8 };

static const int32_t bits_order[BITS_OUTPUTS] = {0, 1, 4, 5, 2, 3, 6, 7};

static size_t bits_bytes(int32_t outputs, int32_t words)
{
    return bnn_round_up((size_t)outputs, BITS_OUTPUTS) * (size_t)words * sizeof(uint64_t);
}

static void bits_prepare(const uint64_t *rows, int32_t outputs, int32_t words, void *prepared)
{
    uint64_t *p = prepared;
    int32_t o, k, i;
    for (o = 0; o < outputs; o += BITS_OUTPUTS)
        for (k = 0; k < words; k++)
            for (i = 0; i < BITS_OUTPUTS; i++) {
                const int32_t output = o + bits_order[i];
                const uint64_t *word = rows + (size_t)output * (size_t)words + k;
                *p++ = output >= outputs ? 0 : k % 2 ? word[0] ^ word[-1] : word[0];
            }
}

/* Ones of each byte: both nibbles are looked up. */
TILE __m256i popcount_u8x32(__m256i v)
{
    const __m256i table =
        _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, /* each half has its own */
                         0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i nibble = _mm256_set1_epi8(15), high = _mm256_srli_epi16(v, 4);
    return _mm256_add_epi8(_mm256_shuffle_epi8(table, _mm256_and_si256(v, nibble)),
                           _mm256_shuffle_epi8(table, _mm256_and_si256(high, nibble)));
}

/* Adds a and b to a digit; returns what carries over. */
TILE __m256i carry(__m256i *digit, __m256i a, __m256i a_xor_b)
{
    const __m256i over = _mm256_or_si256(_mm256_and_si256(a_xor_b, *digit), _mm256_andnot_si256(a_xor_b, a));
    *digit = _mm256_xor_si256(*digit, a_xor_b);
    return over;
}

TILE __m256i word_u64x4(uint64_t word) { return _mm256_set1_epi64x((long long)word); }

/* One row x eight outputs. */
TILE void bits_tile(const uint64_t *x, const uint64_t *w, int32_t words, int32_t *differing)
{
    const __m256i zero = _mm256_setzero_si256();
    __m256i ones[2] = {zero, zero}, twos[2] = {zero, zero}, fours_u64x4[2] = {zero, zero},
            rest_u8x32[2] = {zero, zero};
    __m256i last[2] = {zero, zero}, sum[2];
    int32_t k = 0;
    while (k + 4 <= words) {
        const int32_t stop = words - k < 4 * 31 ? words : k + 4 * 31; /* 31 times 8 fit a byte */
        __m256i fours_u8x32[2] = {zero, zero};
        for (; k + 4 <= stop; k += 4, w += 4 * BITS_OUTPUTS) {
            const __m256i x0 = word_u64x4(x[k]), x01 = _mm256_xor_si256(x0, word_u64x4(x[k + 1]));
            const __m256i x2 = word_u64x4(x[k + 2]), x23 = _mm256_xor_si256(x2, word_u64x4(x[k + 3]));
            EACH (v, 2) {
                const __m256i a = carry(&ones[v], _mm256_xor_si256(x0, load(w + 4 * v)),
                                        _mm256_xor_si256(x01, load(w + 8 + 4 * v)));
                const __m256i b = carry(&ones[v], _mm256_xor_si256(x2, load(w + 16 + 4 * v)),
                                        _mm256_xor_si256(x23, load(w + 24 + 4 * v)));
                const __m256i four = carry(&twos[v], a, _mm256_xor_si256(a, b));
                fours_u8x32[v] = _mm256_add_epi8(fours_u8x32[v], popcount_u8x32(four));
            }
        }
        EACH (v, 2) fours_u64x4[v] = _mm256_add_epi64(fours_u64x4[v], _mm256_sad_epu8(fours_u8x32[v], zero));
    }
    if (words >= 4) {
        EACH (v, 2) {
            const __m256i two = popcount_u8x32(twos[v]);
            rest_u8x32[v] = _mm256_add_epi8(popcount_u8x32(ones[v]), _mm256_add_epi8(two, two));
        }
    }
    for (; k < words; k++, w += BITS_OUTPUTS) {
        const __m256i x_k = word_u64x4(k % 2 ? x[k] ^ x[k - 1] : x[k]);
        EACH (v, 2) {
            const __m256i differs = _mm256_xor_si256(x_k, load(w + 4 * v));
            last[v] = k % 2 ? _mm256_xor_si256(last[v], differs) : differs;
            rest_u8x32[v] = _mm256_add_epi8(rest_u8x32[v], popcount_u8x32(last[v]));
        }
    }
    EACH (v, 2)
        sum[v] = _mm256_add_epi64(_mm256_slli_epi64(fours_u64x4[v], 2), _mm256_sad_epu8(rest_u8x32[v], zero));
    _mm256_storeu_ps((float *)differing, /* the low halves of all sums */
                     _mm256_shuffle_ps(_mm256_castsi256_ps(sum[0]), _mm256_castsi256_ps(sum[1]), 0x88));
}

static void bits_product(const uint64_t *x, size_t x_stride, int32_t rows, const void *prepared,
                         int32_t words, int32_t first, int32_t count, int32_t *differing, size_t ld)
{
    const uint64_t *w = (const uint64_t *)prepared + (size_t)first * (size_t)words;
    int32_t r, o;
    for (o = 0; o < count; o += BITS_OUTPUTS, w += (size_t)BITS_OUTPUTS * (size_t)words)
        for (r = 0; r < rows; r++)
            bits_tile(x + (size_t)r * x_stride, w, words, differing + (size_t)r * ld + (size_t)o);
}

/* --- float x ±1 ----------------------------------------------------------------------------------------- */

/* The eight signed sums of three inputs are one vector, of which vpermps takes a lane by three bits of an
   index. An output's weights for a chunk of 30 inputs are the low 15 bits of each half of an index; the next
   three are moved down by multiplying, as 16-bit halves, because shifts would keep the units busy that do
   vpermps.

   Tables: [chunk][10][8]. Weights: [32 outputs][chunk][32 outputs]. */
enum { F32_OUTPUTS = 32, F32_INPUTS = 30, F32_TABLE = 80 /* floats of a chunk */ };

enum { F32_BLOCK = 16 }; /* chunks whose tables stay in the first-level cache while all outputs pass */

static int32_t f32_chunks(int32_t n) { return n / F32_INPUTS + (n % F32_INPUTS != 0); }

static size_t f32_weight_bytes(int32_t outputs, int32_t n)
{
    return bnn_round_up((size_t)outputs, F32_OUTPUTS) * (size_t)f32_chunks(n) * sizeof(uint32_t);
}

static void f32_prepare(const uint64_t *rows, int32_t outputs, int32_t n, void *prepared)
{
    uint32_t *p = prepared;
    int32_t o, k, i;
    for (o = 0; o < outputs; o += F32_OUTPUTS)
        for (k = 0; k < n; k += F32_INPUTS)
            for (i = o; i < o + F32_OUTPUTS; i++) {
                const uint64_t *row = rows + (size_t)i * (size_t)bnn_words(n);
                *p++ = i >= outputs ? 0 : bnn_bits_at(row, n, k, 15) | bnn_bits_at(row, n, k + 15, 15) << 16;
            }
}

static size_t f32_table_bytes(int32_t n) { return (size_t)f32_chunks(n) * F32_TABLE * sizeof(float); }

/* One table. Multiplying by ±1 and adding at once rounds as a sum does, and keeps infinities and NaN. */
TILE void f32_table(const float *x, float *table)
{
    const __m256 sign0 = _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1);
    const __m256 sign1 = _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1);
    const __m256 sign2 = _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1);
    __m256 sum = _mm256_mul_ps(_mm256_broadcast_ss(x), sign0);
    sum = _mm256_fmadd_ps(_mm256_broadcast_ss(x + 1), sign1, sum);
    _mm256_storeu_ps(table, _mm256_fmadd_ps(_mm256_broadcast_ss(x + 2), sign2, sum));
}

static void f32_tables(const float *x, int32_t n, void *tables)
{
    float *table = tables, tail[F32_INPUTS] = {0};
    const int32_t whole = n / F32_INPUTS * F32_INPUTS;
    int32_t k;
    for (k = 0; k < whole; k += 3, table += 8) f32_table(x + k, table);
    if (whole == n) return;
    memcpy(tail, x + whole, sizeof(float) * (size_t)(n - whole));
    for (k = 0; k < F32_INPUTS; k += 3, table += 8) f32_table(tail + k, table);
}

/* Adds some chunks to R rows x B vectors of sums. */
TILE void f32_tile(const int R, const int B, const float *tables, size_t row, const uint32_t *w,
                   int32_t chunks, float *sums, size_t ld)
{
    const __m256i eighth =
        _mm256_set1_epi16(1 << 13); /* of 2^16, whose multiples the high half of a product counts */
    __m256 sum[BNN_ROWS][4];
    int32_t k;
    int g, half;
    EACH (r, R)
        EACH (b, B) sum[r][b] = _mm256_loadu_ps(sums + (size_t)r * ld + 8 * b);
    for (k = 0; k < chunks; k++, w += F32_OUTPUTS)
        for (half = 0; half < 2; half++) {
            __m256i index[4];
            EACH (b, B) index[b] = _mm256_srli_epi32(load(w + 8 * b), 16 * half);
            NO_UNROLL for (g = 0; g < 5; g++, tables += 8)
            {
                EACH (r, R) {
                    const __m256 table = _mm256_loadu_ps(tables + (size_t)r * row);
                    EACH (b, B)
                        sum[r][b] = _mm256_add_ps(sum[r][b], _mm256_permutevar8x32_ps(table, index[b]));
                }
                EACH (b, B) index[b] = _mm256_mulhi_epu16(index[b], eighth);
            }
        }
    EACH (r, R)
        EACH (b, B) _mm256_storeu_ps(sums + (size_t)r * ld + 8 * b, sum[r][b]);
}

static void f32_product(const void *tables, int32_t rows, const void *prepared, int32_t n, int32_t first,
                        int32_t count, float *sums, size_t ld)
{
    const int32_t chunks = f32_chunks(n);
    const size_t row = (size_t)chunks * F32_TABLE, padded = bnn_round_up((size_t)count, F32_OUTPUTS);
    int32_t r, o, k;
    for (r = 0; r < rows; r++) memset(sums + (size_t)r * ld, 0, padded * sizeof(float));
    for (k = 0; k < chunks; k += F32_BLOCK) {
        const float *table = (const float *)tables + (size_t)k * F32_TABLE;
        const uint32_t *w =
            (const uint32_t *)prepared + (size_t)first * (size_t)chunks + (size_t)k * F32_OUTPUTS;
        const int32_t here = least(F32_BLOCK, chunks - k);
        for (o = 0; o < count; o += F32_OUTPUTS, w += (size_t)chunks * F32_OUTPUTS) {
            float *sum = sums + o;
            for (r = 0; r < rows;) { /* whose sums and indices fit sixteen registers */
                if (rows - r == 4) {
                    f32_tile(4, 2, table, row, w, here, sum, ld);
                    f32_tile(4, 2, table, row, w + 16, here, sum + 16, ld);
                    r += 4;
                } else if (rows - r >= 2) {
                    f32_tile(2, 4, table + (size_t)r * row, row, w, here, sum + (size_t)r * ld, ld);
                    r += 2;
                } else {
                    f32_tile(1, 4, table + (size_t)r * row, row, w, here, sum + (size_t)r * ld, ld);
                    r++;
                }
            }
        }
    }
}

/* --- small integers x ±1 -------------------------------------------------------------------------------- */

/* sum of ±x = sum of |x| - 2 * (sum of |x| where the sign is wrong), and only the latter is looked up. Four
   inputs make up to 4 * 255, ten bits: two tables of sixteen bytes, of the five low and the five high bits.
   vpshufb looks up 32 outputs at once; eight of its results fit a byte, and are then widened to low + 32 *
   high in 16 bits.

   Tables: the sum of |x|, in BNN_ALIGNMENT bytes; then 64 bytes for each eight inputs, low tables of the
   first and the last four, high tables of both. Weights: [64 outputs][eight inputs][64 outputs] bytes, bit 0
   the first input. Both are padded to chunks of 32 inputs. */
enum { I16_OUTPUTS = 64, I16_INPUTS = 32, I16_TABLE = 256 /* bytes of a chunk */ };

static int32_t i16_chunks(int32_t n) { return n / I16_INPUTS + (n % I16_INPUTS != 0); }

static size_t i16_weight_bytes(int32_t outputs, int32_t n)
{
    return bnn_round_up((size_t)outputs, I16_OUTPUTS) * (size_t)i16_chunks(n) * 4;
}

static void i16_prepare(const uint64_t *rows, int32_t outputs, int32_t n, void *prepared)
{
    uint8_t *p = prepared;
    const int32_t inputs = i16_chunks(n) * I16_INPUTS;
    int32_t o, k, i;
    for (o = 0; o < outputs; o += I16_OUTPUTS)
        for (k = 0; k < inputs; k += 8)
            for (i = o; i < o + I16_OUTPUTS; i++)
                *p++ =
                    i >= outputs ? 0 : (uint8_t)bnn_bits_at(rows + (size_t)i * (size_t)bnn_words(n), n, k, 8);
}

static size_t i16_table_bytes(int32_t n) { return BNN_ALIGNMENT + (size_t)i16_chunks(n) * I16_TABLE; }

/* Of max(x, 0) of four inputs, and max(-x, 0) of the same, which add up to entries 0 to 7 of a table: the
   former where the bit of the input is 1. What the fourth input adds is the same for all, and other for
   entries 8 to 15. */
#define ENTRY(J) (0x0202 * (J) + 0x0100)
#define FOUR(A, B, C, D) ENTRY(A), ENTRY(B), ENTRY(C), ENTRY(D)
static const int16_t choose[5][8] = {{FOUR(4, 0, 4, 0), FOUR(4, 0, 4, 0)},
                                     {FOUR(5, 5, 1, 1), FOUR(5, 5, 1, 1)},
                                     {FOUR(6, 6, 6, 6), FOUR(2, 2, 2, 2)},
                                     {FOUR(7, 7, 7, 7), FOUR(7, 7, 7, 7)},
                                     {FOUR(3, 3, 3, 3), FOUR(3, 3, 3, 3)}};
#undef FOUR
#undef ENTRY

/* The tables of eight inputs; returns their magnitudes, in parts. */
TILE __m256i i16_table(const int16_t *x, uint8_t *table)
{
    const __m256i five_bits = _mm256_set1_epi16(31);
    const __m256i sign = _mm256_setr_epi16(1, 1, 1, 1, -1, -1, -1, -1, 1, 1, 1, 1, -1, -1, -1, -1);
    const __m256i twice =
        _mm256_permute4x64_epi64(_mm256_castsi128_si256(load_128(x)), 0x50); /* four, four, ... */
    const __m256i parts = _mm256_max_epi16(_mm256_sign_epi16(twice, sign), _mm256_setzero_si256());
    __m256i part[5], sum, upper;
    EACH (i, 5) part[i] = _mm256_shuffle_epi8(parts, _mm256_broadcastsi128_si256(load_128(choose[i])));
    sum = _mm256_add_epi16(_mm256_add_epi16(part[0], part[1]), part[2]);
    upper = _mm256_add_epi16(sum, part[4]);
    sum = _mm256_add_epi16(sum, part[3]);
    store(table, _mm256_packus_epi16(_mm256_and_si256(sum, five_bits), _mm256_and_si256(upper, five_bits)));
    store(table + 32, _mm256_packus_epi16(_mm256_srli_epi16(sum, 5), _mm256_srli_epi16(upper, 5)));
    return _mm256_madd_epi16(parts, _mm256_set1_epi16(1));
}

static void i16_tables(const int16_t *x, int32_t n, void *tables)
{
    uint8_t *table = (uint8_t *)tables + BNN_ALIGNMENT;
    __m256i magnitudes = _mm256_setzero_si256();
    int32_t parts[8], sum = 0, k, i;
    for (k = 0; k < n; k += I16_INPUTS) {
        int16_t tail[I16_INPUTS] = {0};
        const int16_t *inputs = x + k;
        if (n - k < I16_INPUTS) inputs = memcpy(tail, inputs, sizeof(int16_t) * (size_t)(n - k));
        for (i = 0; i < I16_INPUTS; i += 8, table += 64)
            magnitudes = _mm256_add_epi32(magnitudes, i16_table(inputs + i, table));
    }
    store(parts, magnitudes);
    for (i = 0; i < 8; i++) sum += parts[i];
    memcpy(tables, &sum, sizeof sum);
}

TILE void take_twice(int32_t *sums, __m128i u16x8)
{
    store(sums, _mm256_sub_epi32(load(sums), _mm256_slli_epi32(_mm256_cvtepu16_epi32(u16x8), 1)));
}

/* Takes from R rows x B vectors of 32 sums what some chunks, few enough for 16 bits, have of the wrong sign.
 */
TILE void i16_tile(const int R, const int B, const uint8_t *tables, size_t row, const uint8_t *w,
                   int32_t chunks, int32_t *sums, size_t ld)
{
    const __m256i nibble = _mm256_set1_epi8(15), zero = _mm256_setzero_si256();
    const __m256i weigh = _mm256_set1_epi16(32 << 8 | 1); /* a low byte and a high one */
    __m256i wide_u16x16[2][2][2];
    int32_t k;
    int b, g;
    EACH (r, R)
        EACH (b, B) wide_u16x16[r][b][0] = wide_u16x16[r][b][1] = zero;
    for (k = 0; k < chunks; k++) {
        __m256i low_u8x32[2][2], high_u8x32[2][2];
        EACH (r, R)
            EACH (b, B) low_u8x32[r][b] = high_u8x32[r][b] = zero;
        NO_UNROLL for (g = 0; g < 4; g++, tables += I16_TABLE / 4, w += I16_OUTPUTS) EACH (h, 2)
        {
            __m256i index[2];
            EACH (b, B) index[b] = _mm256_and_si256(_mm256_srli_epi16(load(w + 32 * b), 4 * h), nibble);
            EACH (r, R) {
                const uint8_t *table = tables + (size_t)r * row + 16 * h;
                const __m256i low = _mm256_broadcastsi128_si256(load_128(table));
                const __m256i high = _mm256_broadcastsi128_si256(load_128(table + 32));
                EACH (b, B) {
                    low_u8x32[r][b] = _mm256_add_epi8(low_u8x32[r][b], _mm256_shuffle_epi8(low, index[b]));
                    high_u8x32[r][b] = _mm256_add_epi8(high_u8x32[r][b], _mm256_shuffle_epi8(high, index[b]));
                }
            }
        }
        EACH (r, R)
            EACH (b, B) {
                const __m256i even =
                    _mm256_unpacklo_epi8(low_u8x32[r][b], high_u8x32[r][b]); /* eights of outputs */
                const __m256i odd = _mm256_unpackhi_epi8(low_u8x32[r][b], high_u8x32[r][b]);
                wide_u16x16[r][b][0] =
                    _mm256_add_epi16(wide_u16x16[r][b][0], _mm256_maddubs_epi16(even, weigh));
                wide_u16x16[r][b][1] =
                    _mm256_add_epi16(wide_u16x16[r][b][1], _mm256_maddubs_epi16(odd, weigh));
            }
    }
    EACH (r, R) UNROLL
    for (b = 0; b < 2 * B; b++) {
        int32_t *sum = sums + (size_t)r * ld + 8 * (b % 2) + 32 * (b / 2);
        take_twice(sum, _mm256_castsi256_si128(wide_u16x16[r][b / 2][b % 2]));
        take_twice(sum + 16, _mm256_extracti128_si256(wide_u16x16[r][b / 2][b % 2], 1));
    }
}

static void i16_product(const void *tables, int32_t rows, const void *prepared, int32_t n, int32_t limit,
                        int32_t first, int32_t count, int32_t *sums, size_t ld)
{
    const int32_t chunks = i16_chunks(n), padded = (int32_t)bnn_round_up((size_t)count, I16_OUTPUTS);
    const int32_t block =
        limit <= 127 ? 16 : 8; /* of which 32 * limit fit 16 bits; and the first-level cache */
    const size_t row = i16_table_bytes(n);
    int32_t r, o, k;
    for (r = 0; r < rows; r++) {
        int32_t magnitudes;
        memcpy(&magnitudes, (const uint8_t *)tables + (size_t)r * row, sizeof magnitudes);
        for (o = 0; o < padded; o++) sums[(size_t)r * ld + (size_t)o] = magnitudes;
    }
    for (k = 0; k < chunks; k += block) {
        const uint8_t *table = (const uint8_t *)tables + BNN_ALIGNMENT + (size_t)k * I16_TABLE;
        const uint8_t *w =
            (const uint8_t *)prepared + ((size_t)first * (size_t)chunks + (size_t)k * I16_OUTPUTS) * 4;
        const int32_t here = least(block, chunks - k);
        for (o = 0; o < count; o += I16_OUTPUTS, w += (size_t)chunks * I16_OUTPUTS * 4)
            for (r = 0; r < rows; r += 2) {
                const uint8_t *t = table + (size_t)r * row;
                int32_t *sum = sums + (size_t)r * ld + (size_t)o;
                const int two = rows - r > 1, wide = count - o > 32;
                if (two && wide) i16_tile(2, 2, t, row, w, here, sum, ld);
                if (two && !wide) i16_tile(2, 1, t, row, w, here, sum, ld);
                if (!two && wide) i16_tile(1, 2, t, row, w, here, sum, ld);
                if (!two && !wide) i16_tile(1, 1, t, row, w, here, sum, ld);
            }
    }
}

const bnn_kernels bnn_avx2 = {
    .name = "avx2",
    .bits_bytes = bits_bytes,
    .bits_prepare = bits_prepare,
    .bits_product = bits_product,
    .f32 = {f32_weight_bytes, f32_prepare, f32_table_bytes},
    .f32_tables = f32_tables,
    .f32_product = f32_product,
    .i16 = {i16_weight_bytes, i16_prepare, i16_table_bytes},
    .i16_tables = i16_tables,
    .i16_product = i16_product,
    BNN_ELEMENTWISE,
};

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#else

typedef int bnn_avx2_is_not_for_this_machine; /* a translation unit must not be empty */

#endif
