/* What an instruction set provides: one table of functions. portable.c is the readable definition of each;
   the others differ in speed, in the order of prepared weights, and in how a float sum rounds.

   Products come in tiles. `x` are rows of activations, `first` and `count` say which outputs, `ld` is the
   number of entries between rows of the result, which may be unaligned. A range begins at a multiple of
   BNN_SPLIT, of bits BNN_SLACK, and ends at one or at the last output; every row has room for `count` rounded
   up to BNN_SLACK entries, and what lies beyond count may be written. */

#ifndef BNN_KERNELS_H
#define BNN_KERNELS_H

#include "bnn.h"

/* All that is needed of a C library. Without one, whoever links gives these two. */
#ifdef BNN_FREESTANDING
#ifdef __cplusplus
extern "C" {
#endif
void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int byte, size_t n);
#ifdef __cplusplus
}
#endif
#else
#include <string.h>
#endif

enum {
    BNN_SPLIT = 128, /* outputs are shared among parts in multiples of this */
    BNN_SLACK = 64
};

/* Whether an operation or a dtype occurs: constants, by which a compiler leaves out what does not. */
#define BNN_HAS_OP(op) ((int)(BNN_OPS_USED >> (op) & 1u))
#define BNN_HAS(dtype) ((int)(BNN_DTYPES_USED >> (dtype) & 1u))
#define BNN_HAS_FLOATS (BNN_HAS(BNN_F32) || BNN_HAS(BNN_F64))

/* x == y for operations, and for dtypes: false without a look where that one does not occur. */
#define BNN_IS_OP(x, op) (BNN_HAS_OP(op) && (x) == (op))
#define BNN_IS(x, dtype) (BNN_HAS(dtype) && (x) == (dtype))

/* float x ±1, or small integers x ±1: sums of a few inputs with every choice of signs are put into tables,
   once for each row, and looked up by the weights' bits. */
typedef struct {
    size_t (*weight_bytes)(int32_t outputs, int32_t n);
    void (*prepare)(const uint64_t *rows, int32_t outputs, int32_t n, void *prepared);
    size_t (*table_bytes)(int32_t n); /* of one row; a multiple of BNN_ALIGNMENT */
} bnn_table_layout;

/* Sums as a product leaves them, for `finish`. */
typedef struct {
    bnn_dtype dtype; /* I32, F32 or F64 */
    const void *at;
    int32_t
        counted; /* not 0: differing signs of that many; the sum is counted - 2 * differing - correction */
    const int32_t *correction; /* of integers, to be taken off: of the range's first channel on; or NULL */
    const float *scale;        /* of the row; NULL: 1 */
} bnn_sums;

struct bnn_kernels {
    const char *name;

    /* ±1 x ±1: how many of the signs of a row and an output differ, so that dot = n - 2 * differing. */
    size_t (*bits_bytes)(int32_t outputs, int32_t words);
    void (*bits_prepare)(const uint64_t *rows, int32_t outputs, int32_t words, void *prepared);
    void (*bits_product)(const uint64_t *x, size_t x_stride, int32_t rows, const void *prepared,
                         int32_t words, int32_t first, int32_t count, int32_t *differing, size_t ld);

    /* float x ±1. Each output adds its n terms in an order that depends on n alone: not on rows, nor on the
     * range. */
    bnn_table_layout f32;
    void (*f32_tables)(const float *x, int32_t n, void *tables);
    void (*f32_product)(const void *tables, int32_t rows, const void *prepared, int32_t n, int32_t first,
                        int32_t count, float *sums, size_t ld);

    /* Integers x ±1, |x| <= limit <= 255: exact. */
    bnn_table_layout i16;
    void (*i16_tables)(const int16_t *x, int32_t n, void *tables); /* of portable: x may be where they go */
    void (*i16_product)(const void *tables, int32_t rows, const void *prepared, int32_t n, int32_t limit,
                        int32_t first, int32_t count, int32_t *sums, size_t ld);

    /* The rest are plain loops, which a compiler makes the best of: elementwise.h. */

    /* sums[o] = sum over k of x[k] * weight[k * ld + o], in order of k */
    void (*dense_f32)(const float *x, int32_t n, const float *weight, size_t ld, int32_t count, float *sums);
    /* `count` channels from `first` on: of a row's sums to `out`, a whole pixel of dtype `to`. With to =
       BITS, first is a multiple of 64, and whole words are written. */
    void (*finish)(const bnn_finish *finish, const bnn_sums *sums, bnn_dtype to, int32_t first, int32_t count,
                   void *out);
    void (*signs)(const float *x, int32_t n, uint64_t *words); /* bit 1 unless x >= 0; so NaN is -1 */
    float (*largest)(const float *x, size_t n);                /* magnitude; NaN if any is NaN */
    void (*quantize)(const float *x, size_t n, float scale, int8_t *out); /* to the nearest, ties to even */
    void (*add)(const float *x, size_t n, float *sum);
    void (*max)(const float *x, int32_t n, float *largest); /* NaN wins */
    /* (channels, places) to (places, channels), signs of the same, and back; `plane` entries from plane to
     * plane */
    void (*from_planes)(const float *planes, int32_t channels, size_t plane, int32_t places, float *out);
    void (*signs_from_planes)(const float *planes, int32_t channels, size_t plane, int32_t places,
                              uint64_t *out);
    void (*to_planes)(const float *x, int32_t channels, size_t plane, int32_t places, float *planes);
};

extern const bnn_kernels bnn_portable;
extern const bnn_kernels bnn_avx2;
extern const bnn_kernels bnn_avx512;
extern const bnn_kernels bnn_avx512_popcnt;
extern const bnn_kernels bnn_neon;

/* float x ±1 in double, for all instruction sets; rows as the file has them. */
void bnn_product_f64(const double *x, int32_t n, const uint64_t *rows, int32_t first, int32_t count,
                     double *sums);

/* Words that a row of n signs takes. */
static inline int32_t bnn_words(int32_t n) { return (n + 63) / 64; }

/* n rounded up to a multiple of m. */
static inline size_t bnn_round_up(size_t n, size_t m) { return (n + m - 1) / m * m; }

/* `bits` <= 32 signs of a row from entry `at` on; 0 past the end of its n entries. */
static inline uint32_t bnn_bits_at(const uint64_t *row, int32_t n, int32_t at, int32_t bits)
{
    uint64_t found;
    if (at >= n) return 0;
    found = row[at / 64] >> (at % 64);
    if (at % 64 + bits > 64 && at / 64 + 1 < bnn_words(n)) found |= row[at / 64 + 1] << (64 - at % 64);
    return (uint32_t)(found & ((UINT64_C(1) << bits) - 1));
}

#endif
