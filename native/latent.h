/* Passes over latent weights, for training on a CPU: their signs, or random ones, straight into the dtype
   that a product takes. No part of the engine. Every instruction set gives the same results. */

#ifndef BNN_LATENT_H
#define BNN_LATENT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { BNN_DRAWN_AT_ONCE = 8 }; /* random bytes in a word */

typedef struct {
    const char *name;

    /* +1 where x >= 0, else -1; as bfloat16's bits or as float. */
    void (*signs_bf16)(const float *x, size_t n, uint16_t *out);
    void (*signs_f32)(const float *x, size_t n, float *out);

    /* +1 where the random byte of an entry lies below 128 x + 128, rounded to the nearest and held within 0
       to 256; else -1, and for NaN. Entry i has byte i % 8, the lowest first, of word first + i / 8 of the
       sequence of `seed`: the words of SplitMix64 (Steele, Lea, Flood, 2014). */
    void (*draws_bf16)(const float *x, size_t n, uint64_t seed, uint64_t first, uint16_t *out);
    void (*draws_f32)(const float *x, size_t n, uint64_t seed, uint64_t first, float *out);
} bnn_latent;

/* The passes that this processor can run, the slowest first; NULL past the last. */
const bnn_latent *bnn_latent_at(int i);

#ifdef __cplusplus
}
#endif

#endif
