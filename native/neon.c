/* NEON, which every aarch64 has. Lanes are outputs everywhere, so that no sum has to be added up across a
   register; prepared weights lie in the order in which a tile reads them. */

#include "kernels.h"

#if defined(__aarch64__)

#include <arm_neon.h>

#define UNROLL _Pragma("GCC unroll 16")
/* Unrolled, so that arrays of vectors stay in registers. */
#define EACH(i, n) UNROLL for (int i = 0; i < (n); i++)
#define TILE static inline __attribute__((always_inline))

/* A bit for each of 64 lanes that are all ones or all zeros. */
TILE uint64_t mask_word(const uint32x4_t *lanes)
{
    static const uint8_t bits[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    uint8x16_t byte[4];
    EACH (i, 4) {
        const uint16x8_t left = vcombine_u16(vmovn_u32(lanes[4 * i]), vmovn_u32(lanes[4 * i + 1]));
        const uint16x8_t right = vcombine_u16(vmovn_u32(lanes[4 * i + 2]), vmovn_u32(lanes[4 * i + 3]));
        byte[i] = vandq_u8(vcombine_u8(vmovn_u16(left), vmovn_u16(right)), vld1q_u8(bits));
    }
    byte[0] = vpaddq_u8(vpaddq_u8(byte[0], byte[1]), vpaddq_u8(byte[2], byte[3]));
    return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(byte[0], byte[0])), 0);
}

TILE uint32x4_t negative(const float *x) { return vmvnq_u32(vcgeq_f32(vld1q_f32(x), vdupq_n_f32(0))); }

static uint64_t negative_word(const float *x)
{
    uint32x4_t lanes[16];
    int i;
    for (i = 0; i < 16; i++) lanes[i] = negative(x + 4 * i);
    return mask_word(lanes);
}

static uint64_t below_word(const int32_t *z, const int32_t *limit)
{
    uint32x4_t lanes[16];
    int i;
    for (i = 0; i < 16; i++) lanes[i] = vcltq_s32(vld1q_s32(z + 4 * i), vld1q_s32(limit + 4 * i));
    return mask_word(lanes);
}

/* Signs of up to 32 planes in each of sixteen pixels, the last plane's shifted in first. Sixteen are a cache
   line, and planes may lie so that few of their lines stay in the first-level cache at once. */
TILE void signs_u32x16(const float *planes, size_t plane, int32_t channels, uint32_t *signs)
{
    uint32x4_t word[4] = {vdupq_n_u32(0), vdupq_n_u32(0), vdupq_n_u32(0), vdupq_n_u32(0)};
    int32_t c;
    int v;
    for (c = channels - 1; c >= 0; c--)
        EACH (v, 4)
            word[v] = vsubq_u32(vaddq_u32(word[v], word[v]), negative(planes + (size_t)c * plane + 4 * v));
    for (v = 0; v < 4; v++) vst1q_u32(signs + 4 * v, word[v]);
}

#define BNN_HAVE_SIGNS_FROM_PLANES

static void signs_from_planes(const float *planes, int32_t channels, size_t plane, int32_t places,
                              uint64_t *out)
{
    const size_t words = (size_t)bnn_words(channels);
    size_t k;
    int32_t p, i;
    for (p = 0; p < places; p += 16)
        for (k = 0; k < words; k++) {
            const float *x = planes + 64 * k * plane + (size_t)p;
            const int32_t here = channels - 64 * (int32_t)k < 64 ? channels - 64 * (int32_t)k : 64;
            uint64_t *pixel = out + (size_t)p * words + k;
            uint32_t low[16], high[16] = {0};
            if (places - p >= 16) {
                signs_u32x16(x, plane, here < 32 ? here : 32, low);
                if (here > 32) signs_u32x16(x + 32 * plane, plane, here - 32, high);
                for (i = 0; i < 16; i++) pixel[(size_t)i * words] = (uint64_t)high[i] << 32 | low[i];
            } else {
                for (i = 0; i < places - p; i++) {
                    uint64_t word = 0;
                    int32_t c;
                    for (c = here - 1; c >= 0; c--)
                        word = word << 1 | !(x[(size_t)c * plane + (size_t)i] >= 0);
                    pixel[(size_t)i * words] = word;
                }
            }
        }
}

#include "elementwise.h"

/* --- ±1 x ±1 -------------------------------------------------------------------------------------------- */

enum { BITS_OUTPUTS = 8 }; /* [eight outputs][word][eight outputs], in vectors of two */

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
            for (i = o; i < o + BITS_OUTPUTS; i++)
                *p++ = i >= outputs ? 0 : rows[(size_t)i * (size_t)words + (size_t)k];
}

/* R rows x eight outputs. */
TILE void bits_tile(const int R, const uint64_t *x, size_t x_stride, const uint64_t *w, int32_t words,
                    int32_t *differing, size_t ld)
{
    uint32x4_t sum_u32x4[2][4];
    int32_t k = 0;
    EACH (r, R)
        EACH (v, 4) sum_u32x4[r][v] = vdupq_n_u32(0);
    while (k < words) {
        const int32_t stop = k + least(31, words - k); /* 31 times 8 fit a byte */
        uint8x16_t count_u8x16[2][4];
        EACH (r, R)
            EACH (v, 4) count_u8x16[r][v] = vdupq_n_u8(0);
        for (; k < stop; k++, w += BITS_OUTPUTS)
            EACH (r, R) {
                const uint64x2_t x_k = vdupq_n_u64(x[(size_t)r * x_stride + (size_t)k]);
                EACH (v, 4) {
                    const uint8x16_t differs = vreinterpretq_u8_u64(veorq_u64(x_k, vld1q_u64(w + 2 * v)));
                    count_u8x16[r][v] = vaddq_u8(count_u8x16[r][v], vcntq_u8(differs));
                }
            }
        EACH (r, R)
            EACH (v, 4) sum_u32x4[r][v] = vpadalq_u16(sum_u32x4[r][v], vpaddlq_u8(count_u8x16[r][v]));
    }
    EACH (r, R)
        EACH (v, 2) /* two lanes are an output */
            vst1q_s32(differing + (size_t)r * ld + 4 * v,
                      vreinterpretq_s32_u32(vpaddq_u32(sum_u32x4[r][2 * v], sum_u32x4[r][2 * v + 1])));
}

static void bits_product(const uint64_t *x, size_t x_stride, int32_t rows, const void *prepared,
                         int32_t words, int32_t first, int32_t count, int32_t *differing, size_t ld)
{
    const uint64_t *w = (const uint64_t *)prepared + (size_t)first * (size_t)words;
    int32_t r, o;
    for (o = 0; o < count; o += BITS_OUTPUTS, w += (size_t)BITS_OUTPUTS * (size_t)words) {
        int32_t *d = differing + o;
        for (r = 0; r + 2 <= rows; r += 2)
            bits_tile(2, x + (size_t)r * x_stride, x_stride, w, words, d + (size_t)r * ld, ld);
        if (r < rows) bits_tile(1, x + (size_t)r * x_stride, x_stride, w, words, d + (size_t)r * ld, ld);
    }
}

/* --- float x ±1 ----------------------------------------------------------------------------------------- */

/* No look-ups: a weight's bit, moved to the sign of 1.0, is what an input is multiplied by, for all rows at
   once. A product with ±1 that is added in the same operation rounds as a sum does, and keeps infinities and
   NaN.

   Weights: [32 outputs][32 inputs][32 outputs], bit 31 the first input. "Tables" are a row, padded. */
enum { F32_OUTPUTS = 32 };

static size_t chunks_of(int32_t n) { return ((size_t)n + 31) / 32; }

static size_t f32_weight_bytes(int32_t outputs, int32_t n)
{
    return bnn_round_up((size_t)outputs, F32_OUTPUTS) * chunks_of(n) * sizeof(uint32_t);
}

static void f32_prepare(const uint64_t *rows, int32_t outputs, int32_t n, void *prepared)
{
    uint32_t *p = prepared;
    int32_t o, k, i, j;
    for (o = 0; o < outputs; o += F32_OUTPUTS)
        for (k = 0; k < n; k += 32)
            for (i = o; i < o + F32_OUTPUTS; i++) {
                uint32_t bits =
                    i >= outputs ? 0 : bnn_bits_at(rows + (size_t)i * (size_t)bnn_words(n), n, k, 32);
                *p = 0;
                for (j = 0; j < 32; j++, bits >>= 1) *p = *p << 1 | (bits & 1);
                p++;
            }
}

static size_t f32_table_bytes(int32_t n) { return chunks_of(n) * 32 * sizeof(float); }

static void f32_tables(const float *x, int32_t n, void *tables)
{
    memset(tables, 0, f32_table_bytes(n));
    memcpy(tables, x, (size_t)n * sizeof(float));
}

/* R rows x V vectors. */
TILE void f32_tile(const int R, const int V, const float *x, size_t row, const uint32_t *w, size_t chunks,
                   float *sums, size_t ld)
{
    float32x4_t sum[BNN_ROWS][8];
    size_t k;
    int i;
    EACH (r, R)
        EACH (v, V) sum[r][v] = vdupq_n_f32(0);
    for (k = 0; k < chunks; k++, w += F32_OUTPUTS) {
        uint32x4_t bits[8];
        EACH (v, V) bits[v] = vld1q_u32(w + 4 * v);
        _Pragma("GCC unroll 1") for (i = 0; i < 32; i++, x++) EACH (v, V)
        {
            const float32x4_t sign =
                vbslq_f32(vdupq_n_u32(UINT32_C(1) << 31), vreinterpretq_f32_u32(bits[v]), vdupq_n_f32(1));
            bits[v] = vshlq_n_u32(bits[v], 1);
            EACH (r, R) sum[r][v] = vfmaq_n_f32(sum[r][v], sign, x[(size_t)r * row]);
        }
    }
    EACH (r, R)
        EACH (v, V) vst1q_f32(sums + (size_t)r * ld + 4 * v, sum[r][v]);
}

static void f32_product(const void *tables, int32_t rows, const void *prepared, int32_t n, int32_t first,
                        int32_t count, float *sums, size_t ld)
{
    const size_t chunks = chunks_of(n), row = chunks * 32;
    const float *x = tables;
    int32_t o;
    for (o = 0; o < count; o += F32_OUTPUTS) {
        const uint32_t *w = (const uint32_t *)prepared + (size_t)(first + o) * chunks;
        int half;
        if (rows == 1) f32_tile(1, 8, x, row, w, chunks, sums + o, ld);
        for (half = 0; half < 32 && rows > 1; half += 16) { /* what fits 32 registers */
            if (rows == 2) f32_tile(2, 4, x, row, w + half, chunks, sums + o + half, ld);
            if (rows == 3) f32_tile(3, 4, x, row, w + half, chunks, sums + o + half, ld);
            if (rows == 4) f32_tile(4, 4, x, row, w + half, chunks, sums + o + half, ld);
        }
    }
}

/* --- small integers x ±1 -------------------------------------------------------------------------------- */

/* sum of ±x = sum of |x| - 2 * (sum of |x| where the sign is wrong), and only the latter is looked up. Four
   inputs make up to 4 * 255, ten bits: two tables of sixteen bytes, of the five low and the five high bits.
   TBL looks up 16 outputs at once; eight of its results fit a byte, and are then widened to low + 32 * high
   in 16 bits.

   Tables: the sum of |x|, in BNN_ALIGNMENT bytes; then for each four inputs the low and the high table.
   Weights: [32 outputs][eight inputs][32 outputs] bytes, bit 0 the first input. Both are padded to chunks of
   32 inputs. */
enum { I16_OUTPUTS = 32, I16_TABLE = 256 /* bytes of a chunk */ };

static size_t i16_weight_bytes(int32_t outputs, int32_t n)
{
    return bnn_round_up((size_t)outputs, I16_OUTPUTS) * chunks_of(n) * 4;
}

static void i16_prepare(const uint64_t *rows, int32_t outputs, int32_t n, void *prepared)
{
    uint8_t *p = prepared;
    const int32_t inputs = (int32_t)chunks_of(n) * 32;
    int32_t o, k, i;
    for (o = 0; o < outputs; o += I16_OUTPUTS)
        for (k = 0; k < inputs; k += 8)
            for (i = o; i < o + I16_OUTPUTS; i++)
                *p++ =
                    i >= outputs ? 0 : (uint8_t)bnn_bits_at(rows + (size_t)i * (size_t)bnn_words(n), n, k, 8);
}

static size_t i16_table_bytes(int32_t n) { return BNN_ALIGNMENT + chunks_of(n) * I16_TABLE; }

/* The tables of four inputs. Entry i takes -x of the inputs whose bit is 0 and +x of the others, where that
   is positive; entries 8 to 15 differ in the last input only. */
TILE void i16_table(const int16_t *x, uint8_t *table)
{
    static const uint16_t choose[3][8] = {
        {0, 0xffff, 0, 0xffff, 0, 0xffff, 0, 0xffff},
        {0, 0, 0xffff, 0xffff, 0, 0, 0xffff, 0xffff},
        {0, 0, 0, 0, 0xffff, 0xffff, 0xffff, 0xffff},
    };
    uint16x8_t positive[4], negated[4], sum = vdupq_n_u16(0), upper;
    EACH (i, 4) {
        positive[i] = vdupq_n_u16((uint16_t)(x[i] > 0 ? x[i] : 0));
        negated[i] = vdupq_n_u16((uint16_t)(x[i] < 0 ? -x[i] : 0));
    }
    EACH (i, 3) sum = vaddq_u16(sum, vbslq_u16(vld1q_u16(choose[i]), positive[i], negated[i]));
    upper = vaddq_u16(sum, positive[3]);
    sum = vaddq_u16(sum, negated[3]);
    vst1q_u8(table, vandq_u8(vcombine_u8(vmovn_u16(sum), vmovn_u16(upper)), vdupq_n_u8(31)));
    vst1q_u8(table + 16, vcombine_u8(vshrn_n_u16(sum, 5), vshrn_n_u16(upper, 5)));
}

static void i16_tables(const int16_t *x, int32_t n, void *tables)
{
    uint8_t *table = (uint8_t *)tables + BNN_ALIGNMENT;
    int32_t magnitudes = 0, k, i;
    for (k = 0; k < n; k += 32) {
        int16_t tail[32] = {0};
        const int16_t *inputs = x + k;
        if (n - k < 32) inputs = memcpy(tail, inputs, sizeof(int16_t) * (size_t)(n - k));
        for (i = 0; i < 32; i++) magnitudes += inputs[i] < 0 ? -inputs[i] : inputs[i];
        for (i = 0; i < 32; i += 4, table += 32) i16_table(inputs + i, table);
    }
    memcpy(tables, &magnitudes, sizeof magnitudes);
}

TILE void take_twice(int32_t *sums, uint16x8_t u16x8)
{
    const int32x4_t left = vreinterpretq_s32_u32(vshll_n_u16(vget_low_u16(u16x8), 1));
    const int32x4_t right = vreinterpretq_s32_u32(vshll_high_n_u16(u16x8, 1));
    vst1q_s32(sums, vsubq_s32(vld1q_s32(sums), left));
    vst1q_s32(sums + 4, vsubq_s32(vld1q_s32(sums + 4), right));
}

/* Takes from R rows x 32 sums what some chunks, few enough for 16 bits, have of the wrong sign. */
TILE void i16_tile(const int R, const uint8_t *tables, size_t row, const uint8_t *w, int32_t chunks,
                   int32_t *sums, size_t ld)
{
    uint16x8_t wide_u16x8[2][4];
    int32_t k;
    int g;
    EACH (r, R)
        EACH (v, 4) wide_u16x8[r][v] = vdupq_n_u16(0);
    for (k = 0; k < chunks; k++) {
        uint8x16_t low_u8x16[2][2], high_u8x16[2][2];
        EACH (r, R)
            EACH (v, 2) low_u8x16[r][v] = high_u8x16[r][v] = vdupq_n_u8(0);
        _Pragma("GCC unroll 1") for (g = 0; g < 4; g++, tables += I16_TABLE / 4, w += I16_OUTPUTS) EACH (h, 2)
            EACH (v, 2)
        {
            const uint8x16_t two = vld1q_u8(w + 16 * v);
            const uint8x16_t index = h ? vshrq_n_u8(two, 4) : vandq_u8(two, vdupq_n_u8(15));
            EACH (r, R) {
                const uint8_t *table = tables + (size_t)r * row + 32 * h;
                low_u8x16[r][v] = vaddq_u8(low_u8x16[r][v], vqtbl1q_u8(vld1q_u8(table), index));
                high_u8x16[r][v] = vaddq_u8(high_u8x16[r][v], vqtbl1q_u8(vld1q_u8(table + 16), index));
            }
        }
        EACH (r, R)
            EACH (v, 2) {
                uint16x8_t *wide = wide_u16x8[r] + 2 * v;
                wide[0] = vmlal_u8(vaddw_u8(wide[0], vget_low_u8(low_u8x16[r][v])),
                                   vget_low_u8(high_u8x16[r][v]), vdup_n_u8(32));
                wide[1] =
                    vmlal_high_u8(vaddw_high_u8(wide[1], low_u8x16[r][v]), high_u8x16[r][v], vdupq_n_u8(32));
            }
    }
    EACH (r, R)
        EACH (v, 4) take_twice(sums + (size_t)r * ld + 8 * v, wide_u16x8[r][v]);
}

static void i16_product(const void *tables, int32_t rows, const void *prepared, int32_t n, int32_t limit,
                        int32_t first, int32_t count, int32_t *sums, size_t ld)
{
    const int32_t chunks = (int32_t)chunks_of(n), padded = (int32_t)bnn_round_up((size_t)count, I16_OUTPUTS);
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
        for (o = 0; o < count; o += I16_OUTPUTS, w += (size_t)chunks * I16_OUTPUTS * 4) {
            int32_t *sum = sums + o;
            for (r = 0; r + 2 <= rows; r += 2)
                i16_tile(2, table + (size_t)r * row, row, w, here, sum + (size_t)r * ld, ld);
            if (r < rows) i16_tile(1, table + (size_t)r * row, row, w, here, sum + (size_t)r * ld, ld);
        }
    }
}

const bnn_kernels bnn_neon = {
    .name = "neon",
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

#else

typedef int bnn_neon_is_not_for_this_machine; /* a translation unit must not be empty */

#endif
