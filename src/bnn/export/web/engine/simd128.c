/* Kernels with WebAssembly's 128-bit vectors, in place of the portable ones and in their order of weights.

   Everything is portable.c's but the two products with tables. There a sum is looked up for one output at a
   time; here it is for sixteen. A swizzle looks up sixteen bytes at once in a table of sixteen bytes, so a
   table of sixteen sums is kept as planes: the lowest bytes of all of them, the next ones, and so on. */

#include <wasm_simd128.h>

#define bnn_portable bnn_scalar
#include "bnn/portable.c"
#undef bnn_portable

enum { LANES = 16, TABLES = 16, ENTRIES = 16 }; /* outputs at once; of 64 inputs: tables, and sums in each */

/* Bytes, 16-bit, 32-bit, 64-bit entries of two vectors, turn by turn: of their low halves, of their high
 * ones. */
#define LOW_8(a, b) wasm_i8x16_shuffle(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define HIGH_8(a, b) wasm_i8x16_shuffle(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#define LOW_16(a, b) wasm_i16x8_shuffle(a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define HIGH_16(a, b) wasm_i16x8_shuffle(a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#define LOW_32(a, b) wasm_i32x4_shuffle(a, b, 0, 4, 1, 5)
#define HIGH_32(a, b) wasm_i32x4_shuffle(a, b, 2, 6, 3, 7)
#define LOW_64(a, b) wasm_i64x2_shuffle(a, b, 0, 2)
#define HIGH_64(a, b) wasm_i64x2_shuffle(a, b, 1, 3)

/* The lowest bytes of the 32-bit entries of two vectors, then the next; the same of the upper bytes. */
#define BYTES_0_1(a, b) wasm_i8x16_shuffle(a, b, 0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29)
#define BYTES_2_3(a, b) wasm_i8x16_shuffle(a, b, 2, 6, 10, 14, 18, 22, 26, 30, 3, 7, 11, 15, 19, 23, 27, 31)

/* The lower and the upper bytes of 16-bit entries. */
#define EVEN_8(a, b) wasm_i8x16_shuffle(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30)
#define ODD_8(a, b) wasm_i8x16_shuffle(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31)

/* A word from each of sixteen rows, as bytes: lane o of column k is byte k of row o. */
static inline void transpose(const uint64_t *rows, size_t stride, v128_t column[8])
{
    v128_t pair[8], four[8], eight[8];
    int i;
    for (i = 0; i < 8; i++) /* rows 2i and 2i + 1; entries of 16 bits, by column */
        pair[i] = LOW_8(wasm_v128_load64_zero(rows + (size_t)(2 * i) * stride),
                        wasm_v128_load64_zero(rows + (size_t)(2 * i + 1) * stride));
    for (i = 0; i < 4; i++) { /* rows 4i to 4i + 3: columns 0 to 3, and 4 to 7 */
        four[i] = LOW_16(pair[2 * i], pair[2 * i + 1]);
        four[i + 4] = HIGH_16(pair[2 * i], pair[2 * i + 1]);
    }
    for (i = 0; i < 2; i++) { /* rows 8i to 8i + 7: two columns in each */
        eight[i] = LOW_32(four[2 * i], four[2 * i + 1]);
        eight[i + 2] = HIGH_32(four[2 * i], four[2 * i + 1]);
        eight[i + 4] = LOW_32(four[2 * i + 4], four[2 * i + 5]);
        eight[i + 6] = HIGH_32(four[2 * i + 4], four[2 * i + 5]);
    }
    for (i = 0; i < 4; i++) {
        column[2 * i] = LOW_64(eight[2 * i], eight[2 * i + 1]);
        column[2 * i + 1] = HIGH_64(eight[2 * i], eight[2 * i + 1]);
    }
}

/* Of a column, the signs of inputs 8k to 8k + 3 and of the next four: in each lane the number of a sum in
   table 2k, and in table 2k + 1. */
static inline v128_t low_nibble(v128_t column) { return wasm_v128_and(column, wasm_i8x16_splat(15)); }

static inline v128_t high_nibble(v128_t column) { return wasm_u8x16_shr(column, 4); }

/* The signed sums of four inputs, bit i of an entry's number being the sign of input i, as bytes in planes.
 */
static inline void table_f32(const float *v, uint8_t planes[4][ENTRIES])
{
    const v128_t first = wasm_f32x4_make(v[0] + v[1], -v[0] + v[1], v[0] - v[1], -v[0] - v[1]);
    const v128_t s0 = wasm_f32x4_add(first, wasm_f32x4_splat(v[2] + v[3])),
                 s1 = wasm_f32x4_add(first, wasm_f32x4_splat(-v[2] + v[3])),
                 s2 = wasm_f32x4_add(first, wasm_f32x4_splat(v[2] - v[3])),
                 s3 = wasm_f32x4_add(first, wasm_f32x4_splat(-v[2] - v[3]));
    const v128_t left01 = BYTES_0_1(s0, s1), left23 = BYTES_2_3(s0, s1), right01 = BYTES_0_1(s2, s3),
                 right23 = BYTES_2_3(s2, s3);
    wasm_v128_store(planes[0], LOW_64(left01, right01));
    wasm_v128_store(planes[1], HIGH_64(left01, right01));
    wasm_v128_store(planes[2], LOW_64(left23, right23));
    wasm_v128_store(planes[3], HIGH_64(left23, right23));
}

static inline void table_i16(const int16_t *v, uint8_t planes[2][ENTRIES])
{
    const v128_t v0 = wasm_i16x8_splat(v[0]), v1 = wasm_i16x8_splat(v[1]), v2 = wasm_i16x8_splat(v[2]),
                 v3 = wasm_i16x8_splat(v[3]);
    /* x ^ m - m is -x where m is -1 */
    const v128_t m0 = wasm_i16x8_const(0, -1, 0, -1, 0, -1, 0, -1),
                 m1 = wasm_i16x8_const(0, 0, -1, -1, 0, 0, -1, -1),
                 m2 = wasm_i16x8_const(0, 0, 0, 0, -1, -1, -1, -1);
    const v128_t three = wasm_i16x8_add(
        wasm_i16x8_add(wasm_i16x8_sub(wasm_v128_xor(v0, m0), m0), wasm_i16x8_sub(wasm_v128_xor(v1, m1), m1)),
        wasm_i16x8_sub(wasm_v128_xor(v2, m2), m2));
    const v128_t left = wasm_i16x8_add(three, v3), right = wasm_i16x8_sub(three, v3);
    wasm_v128_store(planes[0], EVEN_8(left, right));
    wasm_v128_store(planes[1], ODD_8(left, right));
}

/* For each lane its sum of table j: sixteen floats in four vectors. */
static inline void look_up_f32x16(uint8_t planes[4][ENTRIES], v128_t index, v128_t sum[4])
{
    const v128_t b0 = wasm_i8x16_swizzle(wasm_v128_load(planes[0]), index),
                 b1 = wasm_i8x16_swizzle(wasm_v128_load(planes[1]), index),
                 b2 = wasm_i8x16_swizzle(wasm_v128_load(planes[2]), index),
                 b3 = wasm_i8x16_swizzle(wasm_v128_load(planes[3]), index);
    const v128_t low01 = LOW_8(b0, b1), high01 = HIGH_8(b0, b1), low23 = LOW_8(b2, b3),
                 high23 = HIGH_8(b2, b3);
    sum[0] = LOW_16(low01, low23);
    sum[1] = HIGH_16(low01, low23);
    sum[2] = LOW_16(high01, high23);
    sum[3] = HIGH_16(high01, high23);
}

/* Adds the sums of two tables, that of a column's low nibbles and that of its high ones. */
static inline void add_f32x16(uint8_t planes[2][4][ENTRIES], v128_t column, v128_t total[4])
{
    v128_t low[4], high[4];
    int i;
    look_up_f32x16(planes[0], low_nibble(column), low);
    for (i = 0; i < 4; i++) total[i] = wasm_f32x4_add(total[i], low[i]);
    look_up_f32x16(planes[1], high_nibble(column), high);
    for (i = 0; i < 4; i++) total[i] = wasm_f32x4_add(total[i], high[i]);
}

static void f32_product_simd128(const void *tables, int32_t rows, const void *prepared, int32_t n,
                                int32_t first, int32_t count, float *sums, size_t ld)
{
    const size_t words = (size_t)bnn_words(n);
    const int32_t whole = count / LANES * LANES;
    size_t r, k;
    int32_t o;
    int i;
    for (r = 0; r < (size_t)rows; r++) {
        float *y = sums + r * ld;
        memset(y, 0, (size_t)whole * sizeof(float));
        for (k = 0; k < words; k++) {
            const float *x = (const float *)tables + (r * words + k) * 64;
            const uint64_t *w = (const uint64_t *)prepared + (size_t)first * words + k;
            uint8_t planes[TABLES][4][ENTRIES];
            for (i = 0; i < TABLES; i++) table_f32(x + 4 * i, planes[i]);
            for (o = 0; o < whole; o += LANES) {
                const v128_t zero = wasm_f32x4_splat(0);
                v128_t column[8], total[4] = {zero, zero, zero, zero};
                transpose(w + (size_t)o * words, words, column);
                for (i = 0; i < 8; i++) add_f32x16(planes + 2 * i, column[i], total);
                for (i = 0; i < 4; i++) {
                    float *at = y + o + 4 * i;
                    wasm_v128_store(at, wasm_f32x4_add(wasm_v128_load(at), total[i]));
                }
            }
        }
    }
    bnn_scalar.f32_product(tables, rows, prepared, n, first + whole, count - whole, sums + whole, ld);
}

/* The same of integers: in two vectors. */
static inline void add_i16x16(uint8_t planes[2][ENTRIES], v128_t index, v128_t total[2])
{
    const v128_t b0 = wasm_i8x16_swizzle(wasm_v128_load(planes[0]), index),
                 b1 = wasm_i8x16_swizzle(wasm_v128_load(planes[1]), index);
    total[0] = wasm_i16x8_add(total[0], LOW_8(b0, b1));
    total[1] = wasm_i16x8_add(total[1], HIGH_8(b0, b1));
}

static inline void add_i32x4(int32_t *sums, v128_t more)
{
    wasm_v128_store(sums, wasm_i32x4_add(wasm_v128_load(sums), more));
}

static void i16_product_simd128(const void *tables, int32_t rows, const void *prepared, int32_t n,
                                int32_t limit, int32_t first, int32_t count, int32_t *sums, size_t ld)
{
    const size_t words = (size_t)bnn_words(n);
    const int32_t whole = count / LANES * LANES;
    size_t r, k;
    int32_t o;
    int i;
    for (r = 0; r < (size_t)rows; r++) { /* 64 of at most 255 fit 16 bits, whatever the limit */
        int32_t *y = sums + r * ld;
        memset(y, 0, (size_t)whole * sizeof(int32_t));
        for (k = 0; k < words; k++) {
            const int16_t *x = (const int16_t *)tables + (r * words + k) * 64;
            const uint64_t *w = (const uint64_t *)prepared + (size_t)first * words + k;
            uint8_t planes[TABLES][2][ENTRIES];
            for (i = 0; i < TABLES; i++) table_i16(x + 4 * i, planes[i]);
            for (o = 0; o < whole; o += LANES) {
                v128_t column[8], total[2] = {wasm_i16x8_splat(0), wasm_i16x8_splat(0)};
                int32_t *at = y + o;
                transpose(w + (size_t)o * words, words, column);
                for (i = 0; i < 8; i++) {
                    add_i16x16(planes[2 * i], low_nibble(column[i]), total);
                    add_i16x16(planes[2 * i + 1], high_nibble(column[i]), total);
                }
                for (i = 0; i < 2; i++) {
                    add_i32x4(at + 8 * i, wasm_i32x4_extend_low_i16x8(total[i]));
                    add_i32x4(at + 8 * i + 4, wasm_i32x4_extend_high_i16x8(total[i]));
                }
            }
        }
    }
    bnn_scalar.i16_product(tables, rows, prepared, n, limit, first + whole, count - whole, sums + whole, ld);
}

const bnn_kernels bnn_portable = {
    "simd128",
    rows_bytes,
    bits_prepare,
    BNN_IF(BNN_HAS_OP(BNN_PRODUCT_BITS), bits_product),
    {table_weight_bytes, table_prepare, f32_table_bytes},
    BNN_IF(TABLES_OF_F32, f32_tables),
    BNN_IF(TABLES_OF_F32, f32_product_simd128),
    {table_weight_bytes, table_prepare, i16_table_bytes},
    BNN_IF(TABLES_OF_I16, i16_tables),
    BNN_IF(TABLES_OF_I16, i16_product_simd128),
    BNN_ELEMENTWISE,
};
