/* Plain loops, which a compiler turns into vector code; each is compiled once for every instruction set worth
 * it. */

#include "latent.h"

#include <string.h>

#if defined(__GNUC__) || defined(__clang__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

/* Bits of 1 and -1. */
enum { ONE_BF16 = 0x3f80, MINUS_BF16 = 0xbf80 };

/* Random bytes are made a block at a time: a loop over words and one over bytes, each of one width. */
enum { BLOCK = 256 };

INLINE void signs_bf16(const float *x, size_t n, uint16_t *out)
{
    size_t i;
    for (i = 0; i < n; i++) out[i] = x[i] >= 0 ? ONE_BF16 : MINUS_BF16;
}

INLINE void signs_f32(const float *x, size_t n, float *out)
{
    size_t i;
    for (i = 0; i < n; i++) out[i] = x[i] >= 0 ? 1.0f : -1.0f;
}

INLINE uint64_t splitmix64(uint64_t seed, uint64_t i)
{
    uint64_t z = seed + (i + 1) * UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* The bytes of BLOCK entries, the lowest of a word first. */
INLINE void random_bytes(uint64_t seed, uint64_t first, uint8_t *bytes)
{
    uint64_t words[BLOCK / 8];
    int i;
    for (i = 0; i < BLOCK / 8; i++) words[i] = splitmix64(seed, first + (uint64_t)i);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    for (i = 0; i < BLOCK; i++) bytes[i] = (uint8_t)(words[i / 8] >> (i % 8 * 8));
#else
    memcpy(bytes, words, BLOCK);
#endif
}

INLINE int32_t threshold(float x)
{
    float t = 128 * x + 128.5f;
    t = t > 0 ? t : 0; /* NaN too */
    t = t < 256 ? t : 256;
    return (int32_t)t;
}

#define DRAWS(NAME, T, ONE, MINUS)                                                                           \
    INLINE void NAME(const float *x, size_t n, uint64_t seed, uint64_t first, T *out)                        \
    {                                                                                                        \
        uint8_t bytes[BLOCK];                                                                                \
        size_t at;                                                                                           \
        int i;                                                                                               \
        for (at = 0; at + BLOCK <= n; at += BLOCK) {                                                         \
            random_bytes(seed, first + at / 8, bytes);                                                       \
            for (i = 0; i < BLOCK; i++)                                                                      \
                out[at + (size_t)i] = bytes[i] < threshold(x[at + (size_t)i]) ? ONE : MINUS;                 \
        }                                                                                                    \
        random_bytes(seed, first + at / 8, bytes);                                                           \
        for (i = 0; at + (size_t)i < n; i++)                                                                 \
            out[at + (size_t)i] = bytes[i] < threshold(x[at + (size_t)i]) ? ONE : MINUS;                     \
    }

DRAWS(draws_bf16, uint16_t, ONE_BF16, MINUS_BF16)
DRAWS(draws_f32, float, 1.0f, -1.0f)

/* The table of a target: each loop again, compiled for it. */
#define TABLE(ISA, TARGET)                                                                                   \
    TARGET static void signs_bf16_##ISA(const float *x, size_t n, uint16_t *out) { signs_bf16(x, n, out); }  \
    TARGET static void signs_f32_##ISA(const float *x, size_t n, float *out) { signs_f32(x, n, out); }       \
    TARGET static void draws_bf16_##ISA(const float *x, size_t n, uint64_t seed, uint64_t first,             \
                                        uint16_t *out)                                                       \
    {                                                                                                        \
        draws_bf16(x, n, seed, first, out);                                                                  \
    }                                                                                                        \
    TARGET static void draws_f32_##ISA(const float *x, size_t n, uint64_t seed, uint64_t first, float *out)  \
    {                                                                                                        \
        draws_f32(x, n, seed, first, out);                                                                   \
    }                                                                                                        \
    static const bnn_latent ISA = {#ISA, signs_bf16_##ISA, signs_f32_##ISA, draws_bf16_##ISA,                \
                                   draws_f32_##ISA};

TABLE(plain, )

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))

TABLE(avx2, __attribute__((target("avx2"))))
TABLE(avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))))

const bnn_latent *bnn_latent_at(int i)
{
    const int wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (i == 0) return &plain;
    if (i == 1 && __builtin_cpu_supports("avx2")) return &avx2;
    return i == 2 && wide ? &avx512 : NULL;
}

#else

const bnn_latent *bnn_latent_at(int i) { return i == 0 ? &plain : NULL; }

#endif
