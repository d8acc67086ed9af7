/* The passes over latent weights, of every instruction set: against one entry at a time, in double. */

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../../native/latent.h"

enum { MOST = 1100, GUARD = 8 };

static int failures = 0;

static void check(int right, const char *isa, const char *what, size_t n, size_t i)
{
    if (right) return;
    if (failures++ < 10) printf("%s: %s of %u entries, entry %u\n", isa, what, (unsigned)n, (unsigned)i);
}

static uint64_t word(uint64_t seed, uint64_t i)
{
    uint64_t z = seed + (i + 1) * UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static int drawn(float x, uint64_t seed, size_t i)
{
    const unsigned byte = (unsigned)(word(seed, i / 8) >> (i % 8 * 8)) & 255;
    double limit = floor(128.0 * x + 128.5);
    if (isnan(x)) return -1;
    if (limit < 0) limit = 0;
    return byte < limit ? 1 : -1;
}

static void test(const bnn_latent *passes, const float *x, size_t n)
{
    static uint16_t bf16[MOST + GUARD];
    static float f32[MOST + GUARD];
    const uint64_t seed = UINT64_C(0xfedcba9876543210) + n, first = 12345;
    size_t i;
    int draws;
    for (draws = 0; draws < 2; draws++) {
        memset(bf16, 0x55, sizeof bf16);
        memset(f32, 0x55, sizeof f32);
        if (draws) {
            passes->draws_bf16(x, n, seed, first, bf16);
            passes->draws_f32(x, n, seed, first, f32);
        } else {
            passes->signs_bf16(x, n, bf16);
            passes->signs_f32(x, n, f32);
        }
        for (i = 0; i < n; i++) {
            const int wanted = draws ? drawn(x[i], seed, 8 * first + i) : x[i] >= 0 ? 1 : -1;
            check(bf16[i] == (wanted > 0 ? 0x3f80 : 0xbf80), passes->name, draws ? "draws" : "signs", n, i);
            check(f32[i] == (float)wanted, passes->name, draws ? "draws" : "signs", n, i);
        }
        for (; i < n + GUARD; i++) /* nothing is written past the end */
            check(bf16[i] == 0x5555, passes->name, "beyond", n, i);
    }
}

int main(int arguments, char **argument)
{
    static float x[MOST];
    const float odd[] = {0.0f, -0.0f, 1.0f, -1.0f, NAN, INFINITY, -INFINITY, 1e-45f, -1e-45f, 300.0f, -1e30f};
    const bnn_latent *passes;
    size_t i, n;
    int k;
    for (i = 0; i < MOST; i++)
        x[i] = i % 7 == 0 ? odd[i / 7 % (sizeof odd / sizeof *odd)] : (float)i / (MOST / 2) - 1.0f;
    for (k = 0; (passes = bnn_latent_at(k)) != NULL; k++) {
        if (arguments > 1 && strcmp(argument[1], passes->name) != 0) continue;
        for (n = 0; n < 600; n++) test(passes, x, n);
        test(passes, x, MOST);
        printf("passes over latent weights, %s\n", passes->name);
    }
    if (failures) printf("%d failures\n", failures);
    return failures != 0;
}
