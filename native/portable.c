/* Every kernel in plain C: the definition that the other instruction sets must equal, and what runs where
   there is nothing else. Prepared weights are the rows as they are. */

#include "kernels.h"

static uint64_t negative_word(const float *x)
{
    uint64_t word = 0;
    int i;
    for (i = 0; i < 64; i++) word |= (uint64_t)!(x[i] >= 0) << i;
    return word;
}

static uint64_t below_word(const int32_t *z, const int32_t *limit)
{
    uint64_t word = 0;
    int i;
    for (i = 0; i < 64; i++) word |= (uint64_t)(z[i] < limit[i]) << i;
    return word;
}

#include "elementwise.h"

/* --- ±1 x ±1 -------------------------------------------------------------------------------------------- */

static size_t rows_bytes(int32_t outputs, int32_t words)
{
    return (size_t)outputs * (size_t)words * sizeof(uint64_t);
}

static void bits_prepare(const uint64_t *rows, int32_t outputs, int32_t words, void *prepared)
{
    memcpy(prepared, rows, rows_bytes(outputs, words));
}

/* Ones in a word: pairs, then nibbles, then bytes are summed side by side; the product adds the eight bytes
 * up. */
static int32_t popcount(uint64_t v)
{
    v -= (v >> 1) & UINT64_C(0x5555555555555555);
    v = (v & UINT64_C(0x3333333333333333)) + ((v >> 2) & UINT64_C(0x3333333333333333));
    v = (v + (v >> 4)) & UINT64_C(0x0f0f0f0f0f0f0f0f);
    return (int32_t)((v * UINT64_C(0x0101010101010101)) >> 56);
}

static void bits_product(const uint64_t *x, size_t x_stride, int32_t rows, const void *prepared,
                         int32_t words, int32_t first, int32_t count, int32_t *differing, size_t ld)
{
    int32_t r, o, k;
    for (r = 0; r < rows; r++)
        for (o = 0; o < count; o++) {
            const uint64_t *a = x + (size_t)r * x_stride;
            const uint64_t *w = (const uint64_t *)prepared + (size_t)(first + o) * (size_t)words;
            int32_t sum = 0;
            for (k = 0; k < words; k++) sum += popcount(a[k] ^ w[k]);
            differing[(size_t)r * ld + (size_t)o] = sum;
        }
}

/* --- products with tables ------------------------------------------------------------------------------- */

static size_t table_weight_bytes(int32_t outputs, int32_t n) { return rows_bytes(outputs, bnn_words(n)); }

static void table_prepare(const uint64_t *rows, int32_t outputs, int32_t n, void *prepared)
{
    bits_prepare(rows, outputs, bnn_words(n), prepared);
}

/* The tables of 64 inputs take a kilobyte and are made when they are used; before that, a row is only padded.
 */
static size_t f32_table_bytes(int32_t n) { return (size_t)bnn_words(n) * 64 * sizeof(float); }

static size_t i16_table_bytes(int32_t n) { return (size_t)bnn_words(n) * 64 * sizeof(int16_t); }

static void f32_tables(const float *x, int32_t n, void *tables)
{
    memset(tables, 0, f32_table_bytes(n));
    memcpy(tables, x, (size_t)n * sizeof(float));
}

static void i16_tables(const int16_t *x, int32_t n, void *tables)
{
    memset(tables, 0, i16_table_bytes(n));
    memcpy(tables, x, (size_t)n * sizeof(int16_t));
}

/* sums[o] += weight row o . x, for 64 inputs: sixteen tables with the sixteen signed sums of four inputs
 * each. */
#define LOOK_UP(NAME, X, T)                                                                                  \
    static void NAME(const X *x, const uint64_t *rows, size_t stride, int32_t count, T *sums)                \
    {                                                                                                        \
        X table[16][16];                                                                                     \
        int32_t o;                                                                                           \
        int i, j;                                                                                            \
        for (j = 0; j < 16; j++)                                                                             \
            for (i = 0; i < 16; i++) {                                                                       \
                const X *v = x + 4 * j;                                                                      \
                table[j][i] = (X)(((i & 1 ? -v[0] : v[0]) + (i & 2 ? -v[1] : v[1])) +                        \
                                  ((i & 4 ? -v[2] : v[2]) + (i & 8 ? -v[3] : v[3])));                        \
            }                                                                                                \
        for (o = 0; o < count; o++) {                                                                        \
            const uint64_t w = rows[(size_t)o * stride];                                                     \
            T part[4] = {0, 0, 0, 0};                                                                        \
            for (j = 0; j < 4; j++) {                                                                        \
                part[0] += table[j][w >> 4 * j & 15];                                                        \
                part[1] += table[j + 4][w >> (4 * j + 16) & 15];                                             \
                part[2] += table[j + 8][w >> (4 * j + 32) & 15];                                             \
                part[3] += table[j + 12][w >> (4 * j + 48) & 15];                                            \
            }                                                                                                \
            sums[o] += (part[0] + part[1]) + (part[2] + part[3]);                                            \
        }                                                                                                    \
    }
LOOK_UP(look_up_f32, float, float)
LOOK_UP(look_up_f64, double, double)
LOOK_UP(look_up_i16, int16_t, int32_t)

static void f32_product(const void *tables, int32_t rows, const void *prepared, int32_t n, int32_t first,
                        int32_t count, float *sums, size_t ld)
{
    const size_t words = (size_t)bnn_words(n);
    size_t r, k;
    for (r = 0; r < (size_t)rows; r++) {
        memset(sums + r * ld, 0, (size_t)count * sizeof(float));
        for (k = 0; k < words; k++)
            look_up_f32((const float *)tables + (r * words + k) * 64,
                        (const uint64_t *)prepared + (size_t)first * words + k, words, count, sums + r * ld);
    }
}

static void i16_product(const void *tables, int32_t rows, const void *prepared, int32_t n, int32_t limit,
                        int32_t first, int32_t count, int32_t *sums, size_t ld)
{
    const size_t words = (size_t)bnn_words(n);
    size_t r, k;
    (void)limit; /* four of at most 255 fit 16 bits */
    for (r = 0; r < (size_t)rows; r++) {
        memset(sums + r * ld, 0, (size_t)count * sizeof(int32_t));
        for (k = 0; k < words; k++)
            look_up_i16((const int16_t *)tables + (r * words + k) * 64,
                        (const uint64_t *)prepared + (size_t)first * words + k, words, count, sums + r * ld);
    }
}

void bnn_product_f64(const double *x, int32_t n, const uint64_t *rows, int32_t first, int32_t count,
                     double *sums)
{
    const size_t words = (size_t)bnn_words(n);
    size_t k;
    memset(sums, 0, (size_t)count * sizeof(double));
    for (k = 0; k < words; k++) {
        double chunk[64] = {0};
        memcpy(chunk, x + k * 64, sizeof(double) * (size_t)least(64, n - (int32_t)k * 64));
        look_up_f64(chunk, rows + (size_t)first * words + k, words, count, sums);
    }
}

const bnn_kernels bnn_portable = {
    .name = "portable",
    .bits_bytes = rows_bytes,
    .bits_prepare = bits_prepare,
    .bits_product = bits_product,
    .f32 = {table_weight_bytes, table_prepare, f32_table_bytes},
    .f32_tables = f32_tables,
    .f32_product = f32_product,
    .i16 = {table_weight_bytes, table_prepare, i16_table_bytes},
    .i16_tables = i16_tables,
    .i16_product = i16_product,
    BNN_ELEMENTWISE,
};
