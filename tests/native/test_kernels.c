/* Every kernel of every instruction set against a naive evaluation, in int64 or double, from unpacked signs.

       test_kernels          all that this processor has
       test_kernels avx2     that one

   What a kernel reads lies in blocks of exactly its size, so that AddressSanitizer sees one entry too many;
   what it writes has guards around it as well. Everything is random, but the same each time. */

#define _POSIX_C_SOURCE 200112L /* posix_memalign: C11's aligned_alloc wants sizes that are multiples */

#include <float.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../native/kernels.h"

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

#define LENGTH(array) ((int)(sizeof(array) / sizeof(array)[0]))

static const int32_t SIZES[] = {1, 7, 63, 64, 65, 97, 255, 1000};

/* --- checks --------------------------------------------------------------------------------------------- */

static const bnn_kernels *kernels;  /* those tested now */
static const char *name, *function; /* of them, and which of their functions */
static char sizes[160];
static long long checks, failures;
static int shown;

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
static void fail(int line, const char *format, ...)
{
    va_list arguments;
    failures++;
    if (shown++ >= 5) return; /* the first of each function */
    printf("%s:%d: %s: %s: %s: ", __FILE__, line, name, function, sizes);
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
    fflush(stdout);
}

#define CHECK(condition, ...)                                                                                \
    do {                                                                                                     \
        checks++;                                                                                            \
        if (!(condition)) fail(__LINE__, __VA_ARGS__);                                                       \
    } while (0)

#define TESTS(what) (function = (what), shown = 0, sizes[0] = 0)
#define WITH(...) ((void)snprintf(sizes, sizeof sizes, __VA_ARGS__))

/* Equal, or both NaN. */
static int same(double a, double b) { return a == b || (a != a && b != b); }

static int same_bits(float a, float b) { return memcmp(&a, &b, sizeof a) == 0 || (a != a && b != b); }

/* Within the bound, but NaN where NaN is wanted and the same infinity where one is. */
static int close_to(double got, double want, double bound)
{
    if (want != want || fabs(want) > DBL_MAX) return same(got, want);
    return fabs(got - want) <= bound;
}

/* --- memory --------------------------------------------------------------------------------------------- */

/* As a float, FILL is NaN; as an integer, -1. */
enum { FILL = 0xff, GUARD = 0xc3, TAIL = SANITIZED ? 0 : 128 };

typedef struct {
    unsigned char *base;
    size_t offset, bytes;
} block;

static block blocks[32];
static int n_blocks;

/* `bytes` bytes of FILL, which begin `offset` bytes after an aligned address; guarded on both sides. */
static void *take(size_t bytes, size_t offset)
{
    block *b = blocks + n_blocks++;
    void *base;
    const size_t all = offset + bytes + TAIL;
    if (n_blocks > LENGTH(blocks) || posix_memalign(&base, BNN_ALIGNMENT, all ? all : 1)) {
        printf("out of memory\n");
        exit(1);
    }
    b->base = base;
    b->offset = offset;
    b->bytes = bytes;
    memset(b->base, GUARD, offset);
    memset(b->base + offset, FILL, bytes);
    memset(b->base + offset + bytes, GUARD, TAIL);
    return b->base + offset;
}

/* All bytes from `from` on, `bytes` of them, are `value`. */
static int filled(const void *from, size_t bytes, int value)
{
    const unsigned char *p = from;
    size_t i;
    for (i = 0; i < bytes; i++)
        if (p[i] != value) return 0;
    return 1;
}

/* Gives back what was taken since there were `mark` blocks. */
static void give(int mark)
{
    while (n_blocks > mark) {
        const block *b = blocks + --n_blocks;
        CHECK(filled(b->base, b->offset, GUARD), "wrote before a block of %zu bytes", b->bytes);
        CHECK(filled(b->base + b->offset + b->bytes, TAIL, GUARD), "wrote past a block of %zu bytes",
              b->bytes);
        free(b->base);
    }
}

static void *copy(const void *from, size_t bytes, size_t offset)
{
    void *to = take(bytes, offset);
    memcpy(to, from, bytes);
    return to;
}

#define TAKE(T, n, offset) ((T *)take(sizeof(T) * (size_t)(n), offset))

/* --- random --------------------------------------------------------------------------------------------- */

static uint64_t state = UINT64_C(0x9e3779b97f4a7c15);

static uint64_t random_word(void)
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * UINT64_C(2685821657736338717);
}

static int32_t below(int32_t n) { return (int32_t)((random_word() >> 33) % (uint64_t)n); }

static int32_t between(int32_t low, int32_t high) { return low + below(high - low + 1); }

/* Of magnitudes from 2^-9 to 2^8. */
static double random_double(void)
{
    const double x = (double)(random_word() >> 11) * 0x1p-53 + 0.5;
    return ldexp(below(2) ? x : -x, between(-8, 8));
}

static float random_float(void) { return (float)random_double(); }

/* Now and then something peculiar. */
static double random_special(void)
{
    static const double special[] = {0.0,     -0.0,    1.0,      -1.0,       1e-45, -1e-45, 1e-300,
                                     -1e-300, FLT_MAX, -FLT_MAX, 16777217.0, 1e300, -1e300, FLT_MIN};
    switch (below(12)) {
    case 0: return (double)NAN;
    case 1: return -(double)NAN;
    case 2: return (double)INFINITY;
    case 3: return -(double)INFINITY;
    case 4: return special[below(LENGTH(special))];
    default: return random_double();
    }
}

/* --- signs ---------------------------------------------------------------------------------------------- */

/* Bit 1 means -1; rows are whole words, padded with 0. */
static void pack(const int8_t *signs, int32_t rows, int32_t n, uint64_t *words)
{
    const size_t stride = ((size_t)n + 63) / 64;
    int32_t r, i;
    memset(words, 0, (size_t)rows * stride * sizeof(uint64_t));
    for (r = 0; r < rows; r++)
        for (i = 0; i < n; i++)
            if (signs[(size_t)r * (size_t)n + (size_t)i] < 0)
                words[(size_t)r * stride + (size_t)(i / 64)] |= UINT64_C(1) << (i % 64);
}

static int8_t *random_signs(int32_t rows, int32_t n)
{
    int8_t *signs = TAKE(int8_t, ((size_t)rows * (size_t)n), 0);
    size_t i;
    for (i = 0; i < (size_t)rows * (size_t)n; i++) signs[i] = random_word() >> 63 ? -1 : 1;
    return signs;
}

static uint64_t *packed(const int8_t *signs, int32_t rows, int32_t n)
{
    uint64_t *words = TAKE(uint64_t, ((size_t)rows * (((size_t)n + 63) / 64)), 0);
    pack(signs, rows, n, words);
    return words;
}

/* Ranges of outputs that a product may be asked for: from a multiple of `unit` to another, or to the last
 * output. */
typedef struct {
    int32_t first, count;
} range;

enum { RANGES = 100 };

static int ranges(int32_t outputs, int32_t unit, range *list)
{
    const int32_t counts[] = {unit, 2 * unit};
    int n = 0, i;
    int32_t first;
    for (first = 0; first < outputs; first += unit) {
        for (i = 0; i < LENGTH(counts); i++)
            if (counts[i] < outputs - first) list[n++] = (range){first, counts[i]};
        list[n++] = (range){first, outputs - first};
    }
    return n;
}

static size_t room(int32_t count) { return ((size_t)count + BNN_SLACK - 1) / BNN_SLACK * BNN_SLACK; }

/* The room for a tile of 4-byte results, as small as may be. */
static void *take_tile(int32_t rows, int32_t count, size_t ld)
{
    return take(4 * ((size_t)(rows - 1) * ld + room(count)), below(2) ? 4 : 0);
}

/* Between the rows of a tile, nothing was written. */
static void check_gaps(const void *tile, int32_t rows, int32_t count, size_t ld)
{
    int32_t r;
    for (r = 0; r + 1 < rows; r++)
        CHECK(filled((const char *)tile + 4 * ((size_t)r * ld + room(count)), 4 * (ld - room(count)), FILL),
              "row %d: wrote beyond the slack", r);
}

static size_t random_ld(int32_t count)
{
    static const size_t more[] = {0, 3, 64};
    return room(count) + more[below(LENGTH(more))];
}

/* --- ±1 x ±1 -------------------------------------------------------------------------------------------- */

enum { MOST_ROWS = 65 };

/* All of x and w, and what is wanted of them: for the first `rows` rows, all ranges, in tiles. */
static void check_bits(const uint64_t *x, int32_t rows, const uint64_t *w, int32_t words, int32_t outputs,
                       const int32_t *want)
{
    const int mark = n_blocks;
    const size_t wide = (size_t)words, more[] = {0, 1, 5}, stride = wide + more[below(LENGTH(more))];
    uint64_t *at = TAKE(uint64_t, (size_t)(rows - 1) * stride + wide, below(2) ? 8 : 0);
    void *prepared = take(kernels->bits_bytes(outputs, words), 0);
    range list[RANGES];
    const int n_ranges = ranges(outputs, BNN_SLACK, list);
    int i;
    int32_t r, o;
    for (r = 0; r < rows; r++) memcpy(at + (size_t)r * stride, x + (size_t)r * wide, 8 * wide);
    kernels->bits_prepare(w, outputs, words, prepared);
    for (i = 0; i < n_ranges; i++) {
        const int inner = n_blocks;
        const int32_t first = list[i].first, count = list[i].count;
        const size_t ld = random_ld(count);
        int32_t *differing = take_tile(rows, count, ld);
        WITH("words=%d outputs=%d rows=%d stride=%zu first=%d count=%d ld=%zu", words, outputs, rows, stride,
             first, count, ld);
        kernels->bits_product(at, stride, rows, prepared, words, first, count, differing, ld);
        for (r = 0; r < rows; r++)
            for (o = 0; o < count; o++) {
                const int32_t got = differing[(size_t)r * ld + (size_t)o];
                const int32_t wanted = want[(size_t)r * (size_t)outputs + (size_t)(first + o)];
                CHECK(got == wanted, "row %d, output %d: %d, not %d", r, first + o, got, wanted);
            }
        check_gaps(differing, rows, count, ld);
        give(inner);
    }
    give(mark);
}

static void test_bits(int32_t n, int32_t outputs)
{
    static const int32_t rows[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 64, 65};
    const int mark = n_blocks;
    const int8_t *x = random_signs(MOST_ROWS, n), *w = random_signs(outputs, n);
    const uint64_t *x_words = packed(x, MOST_ROWS, n), *w_words = packed(w, outputs, n);
    int32_t *want = TAKE(int32_t, ((size_t)MOST_ROWS * (size_t)outputs), 0), r, o, k;
    int i;
    for (r = 0; r < MOST_ROWS; r++)
        for (o = 0; o < outputs; o++) {
            const int8_t *a = x + (size_t)r * (size_t)n, *b = w + (size_t)o * (size_t)n;
            int32_t sum = 0;
            for (k = 0; k < n; k++) sum += a[k] != b[k];
            want[(size_t)r * (size_t)outputs + (size_t)o] = sum;
        }
    for (i = 0; i < LENGTH(rows); i++) check_bits(x_words, rows[i], w_words, (n + 63) / 64, outputs, want);
    give(mark);
}

/* Rows of which all signs differ, or all but a few: the most that counters have to hold. */
static void test_bits_extremes(int32_t words)
{
    enum { ROWS = 5, OUTPUTS = 9 };

    const int mark = n_blocks;
    uint64_t *x = TAKE(uint64_t, (ROWS * words), 0), *w = TAKE(uint64_t, (OUTPUTS * words), 0);
    int32_t want[ROWS * OUTPUTS], r, o;
    memset(w, 0, sizeof(uint64_t) * OUTPUTS * (size_t)words);
    for (r = 0; r < ROWS; r++)
        for (o = 0; o < OUTPUTS; o++) want[r * OUTPUTS + o] = words * 64 - r - o;
    for (r = 0; r < ROWS; r++) x[(size_t)r * (size_t)words] <<= r;
    for (o = 0; o < OUTPUTS; o++) w[(size_t)o * (size_t)words + (size_t)words - 1] |= ~(~UINT64_C(0) >> o);
    check_bits(x, ROWS, w, words, OUTPUTS, want);
    give(mark);
}

/* Rows that overlap, as the windows of an image may. */
static void test_bits_overlapping(void)
{
    enum { WORDS = 6, ROWS = 9, OUTPUTS = 70 };

    const int mark = n_blocks;
    const int8_t *x = random_signs(1, (WORDS + ROWS - 1) * 64), *w = random_signs(OUTPUTS, WORDS * 64);
    const uint64_t *x_words = packed(x, 1, (WORDS + ROWS - 1) * 64),
                   *w_words = packed(w, OUTPUTS, WORDS * 64);
    void *prepared = take(kernels->bits_bytes(OUTPUTS, WORDS), 0);
    int32_t *differing = take_tile(ROWS, OUTPUTS, room(OUTPUTS)), r, o, k;
    WITH("words=%d outputs=%d rows=%d stride=1", WORDS, OUTPUTS, ROWS);
    kernels->bits_prepare(w_words, OUTPUTS, WORDS, prepared);
    kernels->bits_product(x_words, 1, ROWS, prepared, WORDS, 0, OUTPUTS, differing, room(OUTPUTS));
    for (r = 0; r < ROWS; r++)
        for (o = 0; o < OUTPUTS; o++) {
            int32_t want = 0;
            for (k = 0; k < WORDS * 64; k++) want += x[r * 64 + k] != w[o * WORDS * 64 + k];
            CHECK(differing[(size_t)r * room(OUTPUTS) + (size_t)o] == want, "row %d, output %d: not %d", r, o,
                  want);
        }
    give(mark);
}

/* --- products with tables ------------------------------------------------------------------------------- */

enum {
    INTEGERS, /* small enough that float sums are exact */
    FLOATS,
    SPECIALS, /* rows with a NaN, an infinity, two infinities, and none */
    KINDS
};

/* One row of inputs of a kind. */
static void fill_row(int kind, int32_t row, double *x, int32_t n)
{
    const double infinity = (double)INFINITY;
    int32_t i;
    for (i = 0; i < n; i++) x[i] = kind == INTEGERS ? between(-100, 100) : (double)random_float();
    if (kind != SPECIALS) return;
    i = below(n);
    if (row == 0) x[i] = (double)NAN;
    if (row == 1) x[i] = below(2) ? infinity : -infinity;
    if (row == 2) {
        x[i] = below(2) ? infinity : -infinity;
        x[(i + between(0, 9)) % n] = below(2) ? infinity : -infinity;
    }
}

/* What is wanted of BNN_ROWS rows: [row][output], and the largest allowed difference for each row. */
static void evaluate(const double *x, int32_t n, const int8_t *w, int32_t outputs, double epsilon,
                     double *want, double *bound)
{
    int32_t r, o, k;
    for (r = 0; r < BNN_ROWS; r++) {
        bound[r] = 0;
        for (k = 0; k < n; k++) bound[r] += fabs(x[(size_t)r * (size_t)n + (size_t)k]);
        bound[r] *= n * epsilon;
        for (o = 0; o < outputs; o++) {
            const double *a = x + (size_t)r * (size_t)n;
            const int8_t *b = w + (size_t)o * (size_t)n;
            double sum = 0;
            for (k = 0; k < n; k++) sum += b[k] < 0 ? -a[k] : a[k];
            want[(size_t)r * (size_t)outputs + (size_t)o] = sum;
        }
    }
}

/* Tables of `rows` rows, of which the first is row `turn` of x and then round and round. */
static void *f32_tables_of(const float *x, int32_t n, int32_t rows, int32_t turn)
{
    const size_t bytes = kernels->f32.table_bytes(n);
    char *tables = take((size_t)rows * bytes, 0);
    int32_t r;
    for (r = 0; r < rows; r++) {
        const int mark = n_blocks;
        const float *row = x + (size_t)((r + turn) % BNN_ROWS) * (size_t)n;
        kernels->f32_tables(copy(row, sizeof(float) * (size_t)n, below(2) ? 4 : 0), n,
                            tables + (size_t)r * bytes);
        give(mark);
    }
    return tables;
}

static void test_f32(int32_t n, int32_t outputs, int kind)
{
    const int mark = n_blocks;
    const int8_t *w = random_signs(outputs, n);
    const uint64_t *w_words = packed(w, outputs, n);
    void *prepared = take(kernels->f32.weight_bytes(outputs, n), 0), *fewer;
    double *x = TAKE(double, (BNN_ROWS * (size_t)n), 0),
           *want = TAKE(double, (BNN_ROWS * (size_t)outputs), 0);
    double bound[BNN_ROWS];
    float *single = TAKE(float, (BNN_ROWS * (size_t)n), 0),
          *alone = TAKE(float, (BNN_ROWS * room(outputs)), 0);
    const int32_t part = outputs / 2 + 1;
    range list[RANGES];
    const int n_ranges = ranges(outputs, BNN_SPLIT, list);
    int32_t rows, r, o, i;

    WITH("n=%d outputs=%d", n, outputs);
    CHECK(kernels->f32.table_bytes(n) % BNN_ALIGNMENT == 0, "table_bytes is %zu",
          kernels->f32.table_bytes(n));
    for (r = 0; r < BNN_ROWS; r++) fill_row(kind, r, x + (size_t)r * (size_t)n, n);
    for (i = 0; i < BNN_ROWS * n; i++) single[i] = (float)x[i];
    evaluate(x, n, w, outputs, kind == INTEGERS ? 0 : (double)FLT_EPSILON, want, bound);
    kernels->f32.prepare(w_words, outputs, n, prepared);

    /* Each row alone, against the naive sum. */
    for (r = 0; r < BNN_ROWS; r++) {
        const int inner = n_blocks;
        float *sums = alone + (size_t)r * room(outputs);
        const void *tables = f32_tables_of(single, n, 1, r);
        WITH("n=%d outputs=%d kind=%d", n, outputs, kind);
        kernels->f32_product(tables, 1, prepared, n, 0, outputs, sums, room(outputs));
        for (o = 0; o < outputs; o++) {
            const double wanted = want[(size_t)r * (size_t)outputs + (size_t)o];
            CHECK(close_to((double)sums[o], wanted, bound[r]),
                  "row %d, output %d: %.9g, not %.9g within %.3g", r, o, (double)sums[o], wanted, bound[r]);
        }
        give(inner);
    }
    /* The very same in any tile. */
    for (rows = 1; rows <= BNN_ROWS; rows++) {
        const int outer = n_blocks;
        const void *tables = f32_tables_of(single, n, rows, rows);
        for (i = 0; i < n_ranges; i++) {
            const int inner = n_blocks;
            const int32_t first = list[i].first, count = list[i].count;
            const size_t ld = random_ld(count);
            float *sums = take_tile(rows, count, ld);
            WITH("n=%d outputs=%d kind=%d rows=%d first=%d count=%d ld=%zu", n, outputs, kind, rows, first,
                 count, ld);
            kernels->f32_product(tables, rows, prepared, n, first, count, sums, ld);
            for (r = 0; r < rows; r++)
                for (o = 0; o < count; o++) {
                    const float got = sums[(size_t)r * ld + (size_t)o];
                    const float one =
                        alone[(size_t)((r + rows) % BNN_ROWS) * room(outputs) + (size_t)(first + o)];
                    CHECK(same_bits(got, one), "row %d, output %d: %.9g, but alone %.9g", r, first + o,
                          (double)got, (double)one);
                }
            check_gaps(sums, rows, count, ld);
            give(inner);
        }
        give(outer);
    }
    /* And with the first outputs alone. */
    fewer = take(kernels->f32.weight_bytes(part, n), 0);
    kernels->f32.prepare(copy(w_words, 8 * (size_t)part * (size_t)((n + 63) / 64), 8), part, n, fewer);
    {
        const void *tables = f32_tables_of(single, n, 1, 0);
        float *sums = take_tile(1, part, room(part));
        WITH("n=%d outputs=%d of %d kind=%d", n, part, outputs, kind);
        kernels->f32_product(tables, 1, fewer, n, 0, part, sums, room(part));
        for (o = 0; o < part; o++)
            CHECK(same_bits(sums[o], alone[o]), "output %d: %.9g, but of all %.9g", o, (double)sums[o],
                  (double)alone[o]);
    }
    give(mark);
}

/* With extremes, everything has magnitude `limit`, and in some rows all has one sign. */
static void test_i16(int32_t n, int32_t outputs, int32_t limit, int extremes)
{
    const int mark = n_blocks;
    int8_t *w = random_signs(outputs, n);
    double *x = TAKE(double, (BNN_ROWS * (size_t)n), 0),
           *want = TAKE(double, (BNN_ROWS * (size_t)outputs), 0);
    double bound[BNN_ROWS];
    int16_t *small = TAKE(int16_t, (BNN_ROWS * (size_t)n), 0);
    const uint64_t *w_words;
    const size_t table_bytes = kernels->i16.table_bytes(n);
    void *prepared = take(kernels->i16.weight_bytes(outputs, n), 0);
    range list[RANGES];
    const int n_ranges = ranges(outputs, BNN_SPLIT, list);
    int32_t rows, r, o, i;

    WITH("n=%d outputs=%d", n, outputs);
    CHECK(table_bytes % BNN_ALIGNMENT == 0, "table_bytes is %zu", table_bytes);
    for (i = 0; i < BNN_ROWS * n; i++) x[i] = between(-limit, limit);
    if (extremes)
        for (i = 0; i < n; i++) {
            w[i] = 1; /* output 0; the last is all -1 */
            if (outputs > 1) w[(size_t)(outputs - 1) * (size_t)n + (size_t)i] = -1;
            x[i] = limit;
            x[n + i] = -limit;
            x[2 * n + i] = limit * w[(size_t)(outputs / 2) * (size_t)n + (size_t)i];
            x[3 * n + i] = i % 2 ? limit : -limit;
        }
    for (i = 0; i < BNN_ROWS * n; i++) small[i] = (int16_t)x[i];
    w_words = packed(w, outputs, n);
    evaluate(x, n, w, outputs, 0, want, bound);
    kernels->i16.prepare(w_words, outputs, n, prepared);
    for (rows = 1; rows <= BNN_ROWS; rows++) {
        const int outer = n_blocks;
        char *tables = take((size_t)rows * table_bytes, 0);
        for (r = 0; r < rows; r++) {
            const int inner = n_blocks;
            const int16_t *row = small + (size_t)((r + rows) % BNN_ROWS) * (size_t)n;
            kernels->i16_tables(copy(row, sizeof *row * (size_t)n, below(2) ? 2 : 0), n,
                                tables + (size_t)r * table_bytes);
            give(inner);
        }
        for (i = 0; i < n_ranges; i++) {
            const int inner = n_blocks;
            const int32_t first = list[i].first, count = list[i].count;
            const size_t ld = random_ld(count);
            int32_t *sums = take_tile(rows, count, ld);
            WITH("n=%d outputs=%d limit=%d extremes=%d rows=%d first=%d count=%d ld=%zu", n, outputs, limit,
                 extremes, rows, first, count, ld);
            kernels->i16_product(tables, rows, prepared, n, limit, first, count, sums, ld);
            for (r = 0; r < rows; r++)
                for (o = 0; o < count; o++) {
                    const int32_t got = sums[(size_t)r * ld + (size_t)o], turned = (r + rows) % BNN_ROWS;
                    const double wanted = want[(size_t)turned * (size_t)outputs + (size_t)(first + o)];
                    CHECK(got == wanted, "row %d, output %d: %d, not %.0f", r, first + o, got, wanted);
                }
            check_gaps(sums, rows, count, ld);
            give(inner);
        }
        give(outer);
    }
    give(mark);
}

static void test_f64(int32_t n, int32_t outputs, int kind)
{
    const int mark = n_blocks;
    const int8_t *w = random_signs(outputs, n);
    const uint64_t *w_words = packed(w, outputs, n);
    double *x = TAKE(double, (BNN_ROWS * (size_t)n), 0),
           *want = TAKE(double, (BNN_ROWS * (size_t)outputs), 0);
    double *alone = TAKE(double, outputs, 0), bound[BNN_ROWS];
    range list[RANGES];
    const int n_ranges = ranges(outputs, BNN_SPLIT, list);
    int32_t r, o;
    int i;
    for (r = 0; r < BNN_ROWS; r++) fill_row(kind, r, x + (size_t)r * (size_t)n, n);
    evaluate(x, n, w, outputs, kind == INTEGERS ? 0 : DBL_EPSILON, want, bound);
    for (r = 0; r < BNN_ROWS; r++)
        for (i = 0; i < n_ranges; i++) {
            const int inner = n_blocks;
            const double *row = copy(x + (size_t)r * (size_t)n, sizeof(double) * (size_t)n, 8);
            const int32_t first = list[i].first, count = list[i].count;
            double *sums = TAKE(double, count, 8);
            WITH("n=%d outputs=%d kind=%d first=%d count=%d", n, outputs, kind, first, count);
            bnn_product_f64(row, n, w_words, first, count, sums);
            bnn_product_f64(row, n, w_words, 0, outputs, alone);
            for (o = 0; o < count; o++) {
                const double wanted = want[(size_t)r * (size_t)outputs + (size_t)(first + o)];
                CHECK(close_to(sums[o], wanted, bound[r]), "row %d, output %d: %.17g, not %.17g within %.3g",
                      r, first + o, sums[o], wanted, bound[r]);
                CHECK(same(sums[o], alone[first + o]), "row %d, output %d: not as with all", r, first + o);
            }
            give(inner);
        }
    give(mark);
}

/* --- float weights -------------------------------------------------------------------------------------- */

static void test_dense(int32_t n, int32_t count, size_t ld, int kind)
{
    const int mark = n_blocks;
    double *x = TAKE(double, n, 0);
    float *single = TAKE(float, n, 4), *sums = TAKE(float, count, 4);
    float *weight = TAKE(float, (size_t)(n - 1) * ld + (size_t)count, below(2) ? 4 : 0);
    int32_t o, k;
    fill_row(kind, below(4), x, n);
    for (k = 0; k < n; k++) {
        single[k] = (float)x[k];
        for (o = 0; o < count; o++)
            weight[(size_t)k * ld + (size_t)o] = kind == INTEGERS ? (float)between(-10, 10)
                                                 : below(8)       ? random_float()
                                                                  : 0.0f;
    }
    WITH("n=%d count=%d ld=%zu kind=%d", n, count, ld, kind);
    kernels->dense_f32(single, n, weight, ld, count, sums);
    for (o = 0; o < count; o++) {
        double want = 0, bound = 0;
        for (k = 0; k < n; k++) {
            const double term = x[k] * (double)weight[(size_t)k * ld + (size_t)o];
            want += term;
            bound += fabs(term);
        }
        bound *= kind == INTEGERS ? 0 : n * (double)FLT_EPSILON;
        CHECK(close_to((double)sums[o], want, bound), "output %d: %.9g, not %.9g within %.3g", o,
              (double)sums[o], want, bound);
    }
    give(mark);
}

/* --- finish --------------------------------------------------------------------------------------------- */

static const float limits_f32[] = {-1.25f, 0.75f};
static const double limits_f64[] = {-1.25, 0.75};

/* What becomes of one sum, as bnn.h says it; of channel c. */
static double finished(const bnn_finish *f, double sum, const float *row_scale, int32_t c)
{
    double y = sum;
    if (f->computed == BNN_F32) {
        float single = (float)sum;
        if (row_scale) single = single * *row_scale;
        if (f->scale) single = single * ((const float *)f->scale)[c];
        if (f->shift) single = single + ((const float *)f->shift)[c];
        y = (double)single;
    } else {
        if (row_scale) y = y * (double)*row_scale;
        if (f->scale) y = y * ((const double *)f->scale)[c];
        if (f->shift) y = y + ((const double *)f->shift)[c];
    }
    if (f->narrow) y = (double)(float)y;
    if (y != y) return y;
    switch (f->activation) {
    case BNN_RELU: return y > 0 ? y : 0;
    case BNN_HARDTANH: return fmin(fmax(y, (double)limits_f32[0]), (double)limits_f32[1]);
    case BNN_PRELU:
        if (y >= 0) return y;
        return f->computed == BNN_F32 ? (double)(f->slope[c] * (float)y) : (double)f->slope[c] * y;
    default: return y;
    }
}

/* A pixel of `channels` entries of a dtype, as small as may be, and as whole words for bits. */
static size_t pixel_bytes(bnn_dtype dtype, int32_t channels)
{
    if (dtype == BNN_BITS) return 8 * (((size_t)channels + 63) / 64);
    return (size_t)channels * (dtype == BNN_F64 ? 8 : 4);
}

/* Channels before `first` stay, those of the tail's padding are 0, the others are as wanted. */
static void check_pixel(const void *out, bnn_dtype to, int32_t first, int32_t count, const double *want)
{
    int32_t c;
    CHECK(filled(out, pixel_bytes(to, first), FILL), "wrote before the first channel");
    if (to == BNN_BITS) {
        const uint64_t *words = out;
        for (c = first; c < (int32_t)room(first + count); c++) {
            const int got = (int)(words[c / 64] >> (c % 64) & 1);
            const int wanted = c < first + count && !(want[c - first] >= 0);
            CHECK(got == wanted, "channel %d: bit %d, not %d", c, got, wanted);
        }
    } else {
        for (c = first; c < first + count; c++) {
            const double got = to == BNN_F64   ? ((const double *)out)[c]
                               : to == BNN_F32 ? (double)((const float *)out)[c]
                                               : ((const int32_t *)out)[c];
            const double wanted = to == BNN_F32 ? (double)(float)want[c - first] : want[c - first];
            CHECK(same(got, wanted), "channel %d: %.17g, not %.17g", c, got, wanted);
        }
    }
}

/* Sums of each kind that `finish` takes, for the channels of one range. */
enum { SUMS_I32, SUMS_COUNTED, SUMS_CORRECTED, SUMS_I32_CORRECTED, SUMS_F32, SUMS_F64, SUMS };

typedef struct {
    bnn_sums sums;
    double *value; /* what they are */
} source;

static source random_sums(int kind, int32_t count)
{
    static const int32_t integers[] = {0, INT32_MAX, INT32_MIN, 16777217, -16777217, 33554435};
    source s = {{BNN_I32, NULL, 0, NULL, NULL}, TAKE(double, count, 0)};
    int32_t *z, *correction, c;
    if (kind == SUMS_F32) {
        float *x = TAKE(float, count, 4);
        for (c = 0; c < count; c++) s.value[c] = (double)(x[c] = (float)random_special());
        s.sums.dtype = BNN_F32;
        s.sums.at = x;
        return s;
    }
    if (kind == SUMS_F64) {
        double *x = TAKE(double, count, 8);
        for (c = 0; c < count; c++) s.value[c] = x[c] = random_special();
        s.sums.dtype = BNN_F64;
        s.sums.at = x;
        return s;
    }
    s.sums.at = z = TAKE(int32_t, count, 4);
    if (kind == SUMS_I32) {
        for (c = 0; c < count; c++)
            s.value[c] = z[c] = below(8) ? between(-99, 99) : integers[below(LENGTH(integers))];
        return s;
    }
    s.sums.counted = kind == SUMS_I32_CORRECTED ? 0 : between(1, 99);
    for (c = 0; c < count; c++) {
        z[c] = between(0, 99);
        s.value[c] = s.sums.counted ? s.sums.counted - 2 * z[c] : z[c];
    }
    if (kind == SUMS_CORRECTED || kind == SUMS_I32_CORRECTED) {
        s.sums.correction = correction = TAKE(int32_t, count, 4);
        for (c = 0; c < count; c++) {
            correction[c] = between(-99, 99);
            s.value[c] -= correction[c];
        }
    }
    return s;
}

/* All combinations, for one range of channels. */
static void test_finish(int32_t first, int32_t count)
{
    static const bnn_dtype tos[] = {BNN_BITS, BNN_F32, BNN_F64};
    const int mark = n_blocks, channels = first + count;
    float *scale_f32 = TAKE(float, channels, 4), *shift_f32 = TAKE(float, channels, 4);
    double *scale_f64 = TAKE(double, channels, 8), *shift_f64 = TAKE(double, channels, 8);
    float *slope = TAKE(float, channels, 4), row_scale = fabsf(random_float());
    double *want = TAKE(double, count, 0);
    source sources[SUMS];
    int from, to, choice;
    int32_t c;
    for (c = 0; c < channels; c++) {
        scale_f64[c] = random_double();
        shift_f64[c] = random_double();
        scale_f32[c] = random_float();
        shift_f32[c] = random_float();
        slope[c] = random_float();
    }
    for (from = 0; from < SUMS; from++) sources[from] = random_sums(from, count);
    for (from = 0; from < SUMS; from++)
        for (to = 0; to < LENGTH(tos); to++)
            for (choice = 0; choice < 64; choice++) {
                const int inner = n_blocks;
                const int doubles = choice & 1, affine = choice & 2; /* affine: scale and shift */
                bnn_sums sums = sources[from].sums;
                bnn_finish f = {0};
                void *out;
                if (tos[to] == BNN_BITS && first % 64) continue;
                f.computed = doubles ? BNN_F64 : BNN_F32;
                if (affine) {
                    f.scale = doubles ? (void *)scale_f64 : (void *)scale_f32;
                    f.shift = doubles ? (void *)shift_f64 : (void *)shift_f32;
                }
                f.narrow = choice >> 2 & 1;
                if (choice >> 3 & 1) sums.scale = &row_scale;
                f.activation = (bnn_activation)(choice >> 4);
                f.limits = doubles ? (const void *)limits_f64 : (const void *)limits_f32;
                f.slope = f.activation == BNN_PRELU ? slope : NULL;
                for (c = 0; c < count; c++)
                    want[c] = finished(&f, sources[from].value[c], sums.scale, first + c);
                out = take(pixel_bytes(tos[to], channels), tos[to] == BNN_F32 ? 4 : 8);
                WITH("sums=%d to=%d computed=%d narrow=%d affine=%d row_scale=%d activation=%d first=%d "
                     "count=%d",
                     from, (int)tos[to], (int)f.computed, f.narrow, affine != 0, sums.scale != NULL,
                     (int)f.activation, first, count);
                kernels->finish(&f, &sums, tos[to], first, count, out);
                check_pixel(out, tos[to], first, count, want);
                give(inner);
            }
    give(mark);
}

/* Integers as they are, and integers compared. */
static void test_finish_integers(int32_t first, int32_t count, int kind)
{
    const int mark = n_blocks, channels = first + count;
    const source s = random_sums(kind, count);
    int32_t *threshold = TAKE(int32_t, channels, 4), c;
    int8_t *flipped = random_signs(1, channels);
    double *want = TAKE(double, count, 0);
    bnn_finish f = {0};
    void *out;
    f.computed = BNN_F32;
    WITH("sums=%d first=%d count=%d", kind, first, count);
    out = take(pixel_bytes(BNN_I32, channels), 4);
    kernels->finish(&f, &s.sums, BNN_I32, first, count, out);
    check_pixel(out, BNN_I32, first, count, s.value);
    if (first % 64 == 0) {
        for (c = 0; c < channels; c++) {
            threshold[c] = below(8) ? between(-50, 50) : below(2) ? INT32_MAX : INT32_MIN;
            if (c < first) continue;
            if (below(4) == 0) threshold[c] = (int32_t)s.value[c - first];
            want[c - first] = (s.value[c - first] >= threshold[c]) == (flipped[c] < 0) ? -1 : 1;
        }
        f.threshold = threshold;
        f.flip = packed(flipped, 1, channels);
        WITH("with thresholds, sums=%d first=%d count=%d", kind, first, count);
        out = take(pixel_bytes(BNN_BITS, channels), 8);
        kernels->finish(&f, &s.sums, BNN_BITS, first, count, out);
        check_pixel(out, BNN_BITS, first, count, want);
    }
    give(mark);
}

/* --- the rest ------------------------------------------------------------------------------------------- */

static float *random_floats(size_t n, int special, size_t offset)
{
    float *x = TAKE(float, n, offset);
    size_t i;
    for (i = 0; i < n; i++) x[i] = special ? (float)random_special() : random_float();
    return x;
}

static void test_signs(int32_t n, size_t offset)
{
    const int mark = n_blocks;
    float *x = random_floats((size_t)n, 1, offset);
    uint64_t *words = TAKE(uint64_t, (n + 63) / 64, 8);
    int32_t i;
    if (below(2)) x[below(n)] = -0.0f;
    WITH("n=%d offset=%zu", n, offset);
    kernels->signs(x, n, words);
    for (i = 0; i < (n + 63) / 64 * 64; i++) {
        const int got = (int)(words[i / 64] >> (i % 64) & 1), want = i < n && (x[i] != x[i] || x[i] < 0);
        CHECK(got == want, "[%d] of %g: bit %d, not %d", i, i < n ? (double)x[i] : 0.0, got, want);
    }
    give(mark);
}

static void test_largest(int32_t n, int kind)
{
    const int mark = n_blocks;
    float *x = random_floats((size_t)n, 0, 4), want = 0, got;
    int32_t i;
    if (kind == 1) x[below(n)] = -1000.0f;
    if (kind == 2) x[0] = -1000.0f;
    if (kind == 3) x[n - 1] = 1000.0f;
    if (kind == 4) x[below(n)] = -INFINITY;
    if (kind >= 5) {
        x[below(n)] = INFINITY;
        x[kind == 5 ? 0 : kind == 6 ? n - 1 : below(n)] = below(2) ? NAN : -NAN;
    }
    if (kind == 8)
        for (i = 0; i < n; i++) x[i] = (float)between(-3, 3) * 1e-45f;
    if (kind == 9)
        for (i = 0; i < n; i++) x[i] = below(2) ? 0.0f : -0.0f;
    for (i = 0; i < n; i++) want = want != want || fabsf(x[i]) <= want ? want : fabsf(x[i]);
    WITH("n=%d kind=%d", n, kind);
    got = kernels->largest(x, (size_t)n);
    CHECK(same((double)got, (double)want), "%g, not %g", (double)got, (double)want);
    CHECK(got != got || !signbit(got), "-0");
    give(mark);
}

/* The nearest integer, and the even one of two: of what division in float gives. */
static double nearest(float x)
{
    const double low = floor((double)x), rest = (double)x - low;
    if (rest != 0.5) return rest < 0.5 ? low : low + 1;
    return fmod(low, 2) == 0 ? low : low + 1;
}

static void test_quantize(int32_t n, int kind)
{
    const int mark = n_blocks;
    float *x = random_floats((size_t)n, 0, 4), scale = 0;
    int8_t *out = TAKE(int8_t, n, 1);
    int32_t i;
    for (i = 0; i < n; i++) scale = fmaxf(scale, fabsf(x[i]) / 127.0f);
    if (kind == 1 || kind == 2) { /* ties */
        scale = kind == 1 ? 1.0f : (float)between(1, 99) / 64.0f;
        for (i = 0; i < n; i++) x[i] = ((float)between(-127, 126) + 0.5f) * scale;
    }
    if (kind >= 3) scale = 0; /* of a sample that is all 0, or so small that its 127th part is */
    if (kind == 3)
        for (i = 0; i < n; i++) x[i] = below(2) ? 0.0f : -0.0f;
    WITH("n=%d kind=%d", n, kind);
    kernels->quantize(x, (size_t)n, scale, out);
    for (i = 0; i < n; i++) {
        const double want = scale > 0 ? nearest(x[i] / scale) : 0;
        CHECK(out[i] == want, "[%d] %g / %g: %d, not %.0f", i, (double)x[i], (double)scale, out[i], want);
    }
    give(mark);
}

static void test_add(int32_t n, size_t offset)
{
    const int mark = n_blocks;
    const float *x = random_floats((size_t)n, 1, offset);
    float *sum = random_floats((size_t)n, 1, 4);
    const float *before = copy(sum, sizeof(float) * (size_t)n, 0);
    int32_t i;
    WITH("n=%d offset=%zu", n, offset);
    kernels->add(x, (size_t)n, sum);
    for (i = 0; i < n; i++) {
        const float want = before[i] + x[i];
        CHECK(same((double)sum[i], (double)want), "[%d] %g + %g: %g", i, (double)before[i], (double)x[i],
              (double)sum[i]);
    }
    give(mark);
}

static void test_max(int32_t n, size_t offset)
{
    const int mark = n_blocks;
    const float *x = random_floats((size_t)n, 1, offset);
    float *most = random_floats((size_t)n, 1, 4);
    const float *before = copy(most, sizeof(float) * (size_t)n, 0);
    int32_t i;
    WITH("n=%d offset=%zu", n, offset);
    kernels->max(x, n, most);
    for (i = 0; i < n; i++) {
        const int unordered = before[i] != before[i] || x[i] != x[i];
        const float want = unordered ? NAN : before[i] < x[i] ? x[i] : before[i];
        CHECK(same((double)most[i], (double)want), "[%d] of %g and %g: %g", i, (double)before[i],
              (double)x[i], (double)most[i]);
    }
    give(mark);
}

static void test_from_planes(int32_t channels, int32_t places, size_t plane)
{
    const int mark = n_blocks;
    const size_t wide = (size_t)channels;
    const float *planes = random_floats((wide - 1) * plane + (size_t)places, 1, 4);
    float *out = TAKE(float, (wide * (size_t)places), 4);
    int32_t p;
    size_t c;
    WITH("channels=%d places=%d plane=%zu", channels, places, plane);
    kernels->from_planes(planes, channels, plane, places, out);
    for (p = 0; p < places; p++)
        for (c = 0; c < wide; c++)
            CHECK(same_bits(out[(size_t)p * wide + c], planes[c * plane + (size_t)p]),
                  "place %d, channel %zu", p, c);
    give(mark);
}

static void test_signs_from_planes(int32_t channels, int32_t places, size_t plane)
{
    const int mark = n_blocks;
    const size_t wide = (size_t)channels, words = (wide + 63) / 64;
    const float *planes = random_floats((wide - 1) * plane + (size_t)places, 1, 4);
    uint64_t *out = TAKE(uint64_t, (words * (size_t)places), 8);
    int32_t p;
    size_t c;
    WITH("channels=%d places=%d plane=%zu", channels, places, plane);
    kernels->signs_from_planes(planes, channels, plane, places, out);
    for (p = 0; p < places; p++)
        for (c = 0; c < words * 64; c++) {
            const float x = c < wide ? planes[c * plane + (size_t)p] : 0;
            const int got = (int)(out[(size_t)p * words + c / 64] >> (c % 64) & 1), want = x != x || x < 0;
            CHECK(got == want, "place %d, channel %zu, of %g: bit %d", p, c, (double)x, got);
        }
    give(mark);
}

static void test_to_planes(int32_t channels, int32_t places, size_t plane)
{
    const int mark = n_blocks;
    const size_t wide = (size_t)channels;
    const float *x = random_floats(wide * (size_t)places, 1, 4);
    float *planes = TAKE(float, (wide - 1) * plane + (size_t)places, 4);
    int32_t p;
    size_t c;
    WITH("channels=%d places=%d plane=%zu", channels, places, plane);
    kernels->to_planes(x, channels, plane, places, planes);
    for (c = 0; c < wide; c++) {
        for (p = 0; p < places; p++)
            CHECK(same_bits(planes[c * plane + (size_t)p], x[(size_t)p * wide + c]), "place %d, channel %zu",
                  p, c);
        if (c + 1 < wide)
            CHECK(filled(planes + c * plane + (size_t)places, 4 * (plane - (size_t)places), FILL),
                  "wrote after plane %zu", c);
    }
    give(mark);
}

static void test_bits_at(void)
{
    enum { N = 200 };

    const int mark = n_blocks;
    int32_t n, at, bits, i;
    name = "kernels.h";
    TESTS("bnn_bits_at");
    for (n = 1; n <= N; n += 7) {
        const int8_t *signs = random_signs(1, n);
        const uint64_t *row = packed(signs, 1, n);
        for (at = 0; at < n + 40; at++)
            for (bits = 1; bits <= 32; bits++) {
                uint32_t want = 0;
                const uint32_t got = bnn_bits_at(row, n, at, bits);
                for (i = 0; i < bits && at + i < n; i++) want |= (uint32_t)(signs[at + i] < 0) << i;
                WITH("n=%d at=%d bits=%d", n, at, bits);
                CHECK(got == want, "%x, not %x", (unsigned)got, (unsigned)want);
            }
        give(mark);
    }
}

/* The instruction sets there are: a name for each, the plain one first and the best last. */
static void test_tables(void)
{
    int i, j;
    name = "dispatch";
    TESTS("bnn_kernels_at");
    for (i = 0; bnn_kernels_at(i); i++) {
        const bnn_kernels *found = bnn_kernels_at(i);
        WITH("i=%d", i);
        CHECK(bnn_kernels_named(bnn_kernels_name(found)) == found, "bnn_kernels_named(\"%s\") is another",
              bnn_kernels_name(found));
        for (j = 0; j < i; j++) CHECK(bnn_kernels_at(j) != found, "the same as %d", j);
    }
    CHECK(i > 0 && bnn_kernels_at(0) == &bnn_portable, "the first is not portable");
    CHECK(i > 0 && bnn_kernels_at(i - 1) == bnn_kernels_best(), "the best is not the last");
    CHECK(bnn_kernels_named("no such kernels") == NULL, "kernels of no name");
}

/* --- all of it ------------------------------------------------------------------------------------------ */

/* Each pair of sizes. */
#define EACH(a, b)                                                                                           \
    for (i = 0; i < LENGTH(SIZES); i++)                                                                      \
        for (j = 0, a = SIZES[i]; j < LENGTH(SIZES); j++)                                                    \
            if (b = SIZES[j], 1)

static void test_kernels(void)
{
    static const size_t more[] = {0, 5}; /* entries from plane to plane, but for the places */
    int i, j, kind;
    int32_t n, m;

    TESTS("bits_product");
    EACH (n, m) test_bits(n, m);
    for (n = 1; n <= 40; n++) {
        test_bits(64 * n - below(64), 5);
        test_bits_extremes(n);
    }
    test_bits_extremes(79);
    test_bits_extremes(600);
    test_bits_overlapping();

    TESTS("f32_product");
    for (kind = 0; kind < KINDS; kind++) {
        EACH (n, m) test_f32(n, m, kind);
        for (n = 1; n <= 200; n++) test_f32(n, 70, kind);
        test_f32(5000, 70, kind);
    }
    for (i = 0; i < 200; i++) test_f32(between(2, 80), 70, SPECIALS);

    TESTS("i16_product");
    EACH (n, m) test_i16(n, m, 255, 0);
    for (n = 1; n <= 200; n++) test_i16(n, 70, n % 2 ? 255 : between(1, 254), 0);
    for (i = 0; i < LENGTH(SIZES); i++) {
        test_i16(SIZES[i], 70, 127, 1);
        test_i16(SIZES[i], 70, 255, 1);
        test_i16(SIZES[i], 1, 1, 1);
    }
    test_i16(5000, 70, 127, 1);
    test_i16(5000, 70, 255, 1);
    test_i16(5000, 200, 255, 0);

    TESTS("dense_f32");
    for (kind = 0; kind < KINDS; kind++)
        EACH (n, m) test_dense(n, m, (size_t)m + (size_t)(below(2) ? 0 : between(1, 9)), kind);

    TESTS("finish");
    for (n = 1; n <= 130; n++) {
        static const int32_t firsts[] = {0, 64, 128, 3};
        for (i = 0; i < LENGTH(firsts); i++) {
            if (firsts[i] < 128) test_finish(firsts[i], n);
            for (kind = SUMS_I32; kind <= SUMS_I32_CORRECTED; kind++)
                test_finish_integers(firsts[i], n, kind);
        }
    }

    TESTS("signs");
    for (n = 1; n <= 200; n++) {
        test_signs(n, 0);
        test_signs(n, 4);
    }
    test_signs(1000, 4);

    TESTS("largest");
    for (i = 0; i < LENGTH(SIZES); i++)
        for (kind = 0; kind < 10; kind++) test_largest(SIZES[i], kind);
    for (n = 1; n <= 70; n++) test_largest(n, 7);

    TESTS("quantize");
    for (i = 0; i < LENGTH(SIZES); i++)
        for (kind = 0; kind < 5; kind++) test_quantize(SIZES[i], kind);
    for (i = 0; i < 100; i++) test_quantize(255, 2); /* where multiplying by 1 / scale would not do */

    TESTS("add");
    for (i = 0; i < 2 * LENGTH(SIZES); i++) test_add(SIZES[i / 2], i % 2 ? 4 : 0);
    TESTS("max");
    for (i = 0; i < 2 * LENGTH(SIZES); i++) test_max(SIZES[i / 2], i % 2 ? 4 : 0);

    TESTS("from_planes");
    for (kind = 0; kind < 2; kind++)
        EACH (n, m) test_from_planes(n, m, (size_t)m + more[kind]);
    TESTS("signs_from_planes");
    for (kind = 0; kind < 2; kind++)
        EACH (n, m) test_signs_from_planes(n, m, (size_t)m + more[kind]);
    TESTS("to_planes");
    for (kind = 0; kind < 2; kind++)
        EACH (n, m) test_to_planes(n, m, (size_t)m + more[kind]);
}

static void test_common(void)
{
    int i, j, kind;
    int32_t n, m;
    test_tables();
    test_bits_at();
    name = "common";
    TESTS("bnn_product_f64");
    for (kind = 0; kind < KINDS; kind++)
        EACH (n, m) test_f64(n, m, kind);
    for (n = 1; n <= 130; n++) test_f64(n, 9, n % KINDS);
}

/* "avx2: 12,345 checks", and how many of them failed. */
static void report(const char *what)
{
    static long long all_checks, all_failures;
    char digits[32], text[48];
    const int length = snprintf(digits, sizeof digits, "%lld", checks - all_checks);
    int i, at = 0;
    for (i = 0; i < length; i++) {
        if (i > 0 && (length - i) % 3 == 0) text[at++] = ',';
        text[at++] = digits[i];
    }
    text[at] = 0;
    printf("%s: %s checks", what, text);
    if (failures > all_failures) printf(", %lld FAILED", failures - all_failures);
    printf("\n");
    fflush(stdout);
    all_checks = checks;
    all_failures = failures;
}

/* Where it crashed; a sanitizer says more. */
static void crashed(int number)
{
    printf("%s: %s: %s: signal %d\n", name, function, sizes, number);
    fflush(stdout);
    _Exit(1);
}

int main(int argc, char **argv)
{
    int i, tested = 0;
    if (!SANITIZED) {
        (void)signal(SIGSEGV, crashed);
        (void)signal(SIGILL, crashed);
    }
    for (i = 0; (kernels = bnn_kernels_at(i)) != NULL; i++) {
        name = bnn_kernels_name(kernels);
        if (argc > 1 && strcmp(argv[1], name) != 0) continue;
        test_kernels();
        report(name);
        tested++;
    }
    if (!tested) {
        printf("no kernels named %s here\n", argc > 1 ? argv[1] : "anything");
        return 1;
    }
    if (argc == 1) {
        test_common();
        report("common");
    }
    return failures > 0;
}
