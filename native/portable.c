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

/* Ones in a word: pairs, then nibbles, then bytes are summed side by side; the product adds the bytes up. */
#if UINTPTR_MAX > UINT32_MAX || defined(__wasm__)
static int32_t popcount(uint64_t v)
{
    v -= (v >> 1) & UINT64_C(0x5555555555555555);
    v = (v & UINT64_C(0x3333333333333333)) + ((v >> 2) & UINT64_C(0x3333333333333333));
    v = (v + (v >> 4)) & UINT64_C(0x0f0f0f0f0f0f0f0f);
    return (int32_t)((v * UINT64_C(0x0101010101010101)) >> 56);
}
#else /* registers of 32 bits: both halves, which share what comes after nibbles */
static uint32_t ones_of_nibbles(uint32_t v)
{
    v -= (v >> 1) & 0x55555555u;
    return (v & 0x33333333u) + ((v >> 2) & 0x33333333u);
}

static int32_t popcount(uint64_t v)
{
    const uint32_t ones = ones_of_nibbles((uint32_t)v) + ones_of_nibbles((uint32_t)(v >> 32));
    return (int32_t)(((ones & 0x0f0f0f0fu) + ((ones >> 4) & 0x0f0f0f0fu)) * 0x01010101u >> 24);
}
#endif

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
    if (tables != x) memcpy(tables, x, (size_t)n * sizeof(int16_t)); /* see BNN_IN_PLACE */
    memset((int16_t *)tables + n, 0, i16_table_bytes(n) - (size_t)n * sizeof(int16_t));
}

/* sums[o] += weight row o . x, for up to 64 inputs, with zeros behind them: of each four a table of their
   sixteen signed sums. Pieces of 16 inputs at a time, by halves of a word: where registers have 32 bits,
   shifts of 64 are dear. */
#define LOOK_UP(NAME, X, T)                                                                                  \
    static void NAME(const X *x, int32_t inputs, const uint64_t *rows, size_t stride, int32_t count,         \
                     T *sums)                                                                                \
    {                                                                                                        \
        const int pieces = (int)least(4, (inputs + 15) / 16);                                                \
        X table[256];                                                                                        \
        int32_t o;                                                                                           \
        int i, j, p;                                                                                         \
        for (j = 0; j < 4 * pieces; j++)                                                                     \
            for (i = 0; i < 16; i++) {                                                                       \
                const X *v = x + 4 * j;                                                                      \
                table[16 * j + i] = (X)(((i & 1 ? -v[0] : v[0]) + (i & 2 ? -v[1] : v[1])) +                  \
                                        ((i & 4 ? -v[2] : v[2]) + (i & 8 ? -v[3] : v[3])));                  \
            }                                                                                                \
        for (o = 0; o < count; o++) {                                                                        \
            const uint64_t word = rows[(size_t)o * stride];                                                  \
            const uint32_t halves[2] = {(uint32_t)word, (uint32_t)(word >> 32)};                             \
            T sum = 0;                                                                                       \
            for (p = 0; p < pieces; p++) {                                                                   \
                const uint32_t w = halves[p / 2] >> (p % 2 * 16);                                            \
                const X *t = table + 64 * p;                                                                 \
                sum += ((T)t[w & 15] + (T)t[16 + (w >> 4 & 15)]) +                                           \
                       ((T)t[32 + (w >> 8 & 15)] + (T)t[48 + (w >> 12 & 15)]);                               \
            }                                                                                                \
            sums[o] += sum;                                                                                  \
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
            look_up_f32((const float *)tables + (r * words + k) * 64, n - 64 * (int32_t)k,
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
            look_up_i16((const int16_t *)tables + (r * words + k) * 64, n - 64 * (int32_t)k,
                        (const uint64_t *)prepared + (size_t)first * words + k, words, count, sums + r * ld);
    }
}

void bnn_product_f64(const double *x, int32_t n, const uint64_t *rows, int32_t first, int32_t count,
                     double *sums)
{
    const size_t words = (size_t)bnn_words(n);
    size_t k;
    if (!BNN_HAS_OP(BNN_PRODUCT_F64)) return;
    memset(sums, 0, (size_t)count * sizeof(double));
    for (k = 0; k < words; k++) {
        double chunk[64] = {0};
        memcpy(chunk, x + k * 64, sizeof(double) * (size_t)least(64, n - (int32_t)k * 64));
        look_up_f64(chunk, n - (int32_t)k * 64, rows + (size_t)first * words + k, words, count, sums);
    }
}

/* In the order of the struct: C++, as which an export may be compiled, knows no designators. */
#define TABLES_OF_F32 BNN_HAS_OP(BNN_PRODUCT_F32)
#define TABLES_OF_I16 (BNN_HAS_OP(BNN_PRODUCT_I8) || BNN_HAS_OP(BNN_PRODUCT_U8))
const bnn_kernels bnn_portable = {
    "portable",
    rows_bytes,
    bits_prepare,
    BNN_IF(BNN_HAS_OP(BNN_PRODUCT_BITS), bits_product),
    {table_weight_bytes, table_prepare, f32_table_bytes},
    BNN_IF(TABLES_OF_F32, f32_tables),
    BNN_IF(TABLES_OF_F32, f32_product),
    {table_weight_bytes, table_prepare, i16_table_bytes},
    BNN_IF(TABLES_OF_I16, i16_tables),
    BNN_IF(TABLES_OF_I16, i16_product),
    BNN_ELEMENTWISE,
};
