/* For clock_gettime, which is POSIX's and not C's. */
#define _POSIX_C_SOURCE 199309L

#include "peak.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bnn.h"

static double now(void)
{
    struct timespec t;
#if defined(CLOCK_MONOTONIC)
    clock_gettime(CLOCK_MONOTONIC, &t);
#else
    timespec_get(&t, TIME_UTC);
#endif
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef void loop(long repeats);

/* A loop has `repeats` rounds of `each` operations. The best of short stretches: what else the machine does
   must not count. */
static double rate(loop *run, double each, double seconds)
{
    const double begin = now();
    long repeats = 1000;
    double best = 0;
    do {
        const double start = now();
        double took;
        run(repeats);
        took = now() - start;
        if (took < 1e-3) {
            repeats *= 2;
        } else if (each * (double)repeats / took > best) {
            best = each * (double)repeats / took;
        }
    } while (now() - begin < seconds);
    return best;
}

#if defined(__x86_64__) && !defined(_MSC_VER)

#include <immintrin.h>

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#define POPCNT __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq")))
#define AVX2 __attribute__((target("avx2")))
/* Unrolled, so that arrays of vectors stay in registers. */
#define EACH(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < (n); i++)

/* The compiler must believe that a register has changed, or it computes once what is to be measured. */
#define CHANGED(v) __asm__ volatile("" : "+v"(v))
#define CHANGED_YMM(v) __asm__ volatile("" : "+x"(v))

POPCNT static void bits_avx512_popcnt(long repeats)
{
    __m512i sum_u64x8[8] = {0}, x = _mm512_set1_epi64(0x123456789), w[8] = {0};
    while (repeats--) {
        CHANGED(x);
        EACH (i, 8)
            sum_u64x8[i] = _mm512_add_epi64(sum_u64x8[i], _mm512_popcnt_epi64(_mm512_xor_si512(x, w[i])));
        EACH (i, 8) CHANGED(w[i]);
    }
    EACH (i, 8) CHANGED(sum_u64x8[i]);
}

AVX512 static void f32_avx512(long repeats)
{
    __m512 sum_f32x16[8] = {0}, table = _mm512_set1_ps(1);
    __m512i w[8] = {0};
    while (repeats--) {
        CHANGED(table);
        EACH (i, 8) {
            CHANGED(w[i]);
            sum_f32x16[i] = _mm512_add_ps(sum_f32x16[i], _mm512_permutexvar_ps(w[i], table));
        }
    }
    EACH (i, 8) CHANGED(sum_f32x16[i]);
}

AVX512 static void i16_avx512(long repeats)
{
    __m512i sum_i16x32[8] = {0}, table = _mm512_set1_epi16(1), w[8] = {0};
    while (repeats--) {
        CHANGED(table);
        EACH (i, 8) {
            CHANGED(w[i]);
            sum_i16x32[i] = _mm512_add_epi16(sum_i16x32[i], _mm512_permutexvar_epi16(w[i], table));
        }
    }
    EACH (i, 8) CHANGED(sum_i16x32[i]);
}

AVX2 static void bits_avx2(long repeats)
{
    const __m256i ones_of_nibble =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const __m256i low = _mm256_set1_epi8(15);
    __m256i sum_u8x32[4] = {0}, x = _mm256_set1_epi64x(0x123456789), w[4] = {0};
    while (repeats--) {
        CHANGED_YMM(x);
        EACH (i, 4) {
            CHANGED_YMM(w[i]);
            const __m256i v = _mm256_xor_si256(x, w[i]);
            const __m256i a = _mm256_shuffle_epi8(ones_of_nibble, _mm256_and_si256(v, low));
            const __m256i b =
                _mm256_shuffle_epi8(ones_of_nibble, _mm256_and_si256(_mm256_srli_epi16(v, 4), low));
            sum_u8x32[i] = _mm256_add_epi8(sum_u8x32[i], _mm256_add_epi8(a, b));
        }
    }
    EACH (i, 4) CHANGED_YMM(sum_u8x32[i]);
}

AVX2 static void f32_avx2(long repeats)
{
    __m256 sum_f32x8[4] = {0}, table = _mm256_set1_ps(1);
    __m256i w[4] = {0};
    while (repeats--) {
        CHANGED_YMM(table);
        EACH (i, 4) {
            CHANGED_YMM(w[i]);
            sum_f32x8[i] = _mm256_add_ps(sum_f32x8[i], _mm256_permutevar8x32_ps(table, w[i]));
        }
    }
    EACH (i, 4) CHANGED_YMM(sum_f32x8[i]);
}

/* Outputs in a register times inputs in a table, times the unrolling. */
static const struct {
    const char *what, *isa;
    loop *run;
    double each;
} loops[] = {
    {"bits", "avx512-popcnt", bits_avx512_popcnt, 8 * 512},
    {"bits", "avx2", bits_avx2, 4 * 256},
    {"f32", "avx512", f32_avx512, 8 * 16 * 4},
    {"f32", "avx512-popcnt", f32_avx512, 8 * 16 * 4},
    {"f32", "avx2", f32_avx2, 4 * 8 * 3},
    {"i16", "avx512", i16_avx512, 8 * 32 * 5},
    {"i16", "avx512-popcnt", i16_avx512, 8 * 32 * 5},
};

enum { LOOPS = sizeof loops / sizeof loops[0] };

#else
static const struct {
    const char *what, *isa;
    loop *run;
    double each;
} loops[] = {{NULL, NULL, NULL, 0}};

enum { LOOPS = 0 };
#endif

static double read_rate(size_t bytes, double seconds)
{
    const size_t n = bytes / sizeof(uint64_t);
    uint64_t *array = malloc(bytes), sum = 0;
    const double begin = now();
    double best = 0;
    volatile uint64_t used;
    if (!array) return 0;
    memset(array, 1, bytes);
    do {
        const double start = now();
        double took;
        size_t i, k, passes = bytes < 64u << 20 ? 32 : 1;
        while (passes--) {
            uint64_t part[8] = {0};
            for (i = 0; i + 8 <= n; i += 8)
                for (k = 0; k < 8; k++) part[k] += array[i + k];
            for (k = 0; k < 8; k++) sum += part[k];
            array[0] = sum; /* so that each pass is another */
        }
        took = now() - start;
        if ((double)bytes * (bytes < 64u << 20 ? 32 : 1) / took > best)
            best = (double)bytes * (bytes < 64u << 20 ? 32 : 1) / took;
    } while (now() - begin < seconds);
    used = sum;
    (void)used;
    free(array);
    return best;
}

double bnn_peak(const char *what, double seconds)
{
    const char *slash = strchr(what, '/');
    const size_t length = slash ? (size_t)(slash - what) : strlen(what);
    const char *isa = slash ? slash + 1 : bnn_kernels_name(bnn_kernels_best());
    int i;
    if (strcmp(what, "memory") == 0) return read_rate((size_t)256 << 20, seconds);
    if (strcmp(what, "cache") == 0) return read_rate((size_t)2 << 20, seconds);
    for (i = 0; i < LOOPS; i++)
        if (strncmp(loops[i].what, what, length) == 0 && strcmp(loops[i].isa, isa) == 0 &&
            bnn_kernels_named(isa))
            return rate(loops[i].run, loops[i].each, seconds);
    return 0;
}
