/* Which kernels this processor can run. Asked once by whoever makes a plan; loops never ask. */

#include <string.h>

#include "kernels.h"

#if defined(__x86_64__) && !defined(_MSC_VER)

static int can_run(const bnn_kernels *kernels)
{
    const int avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                       __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    const int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                     __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
    if (kernels == &bnn_avx2) return avx2;
    if (kernels == &bnn_avx512) return avx2 && avx512;
    if (kernels == &bnn_avx512_popcnt) return avx2 && avx512 && __builtin_cpu_supports("avx512vpopcntdq");
    return 1;
}

static const bnn_kernels *const all[] = {&bnn_portable, &bnn_avx2, &bnn_avx512, &bnn_avx512_popcnt};

#elif defined(__aarch64__)

static int can_run(const bnn_kernels *kernels) { return kernels != NULL; } /* every aarch64 has NEON */

static const bnn_kernels *const all[] = {&bnn_portable, &bnn_neon};

#else

static int can_run(const bnn_kernels *kernels) { return kernels != NULL; }

static const bnn_kernels *const all[] = {&bnn_portable};

#endif

enum { ALL = sizeof all / sizeof all[0] };

const bnn_kernels *bnn_kernels_at(int i)
{
    int k;
    for (k = 0; k < ALL; k++)
        if (can_run(all[k]) && i-- == 0) return all[k];
    return NULL;
}

const bnn_kernels *bnn_kernels_best(void)
{
    int k = ALL;
    while (!can_run(all[--k])) {
    }
    return all[k]; /* the first always can */
}

const bnn_kernels *bnn_kernels_named(const char *name)
{
    int k;
    for (k = 0; k < ALL; k++)
        if (strcmp(all[k]->name, name) == 0 && can_run(all[k])) return all[k];
    return NULL;
}

const char *bnn_kernels_name(const bnn_kernels *kernels) { return kernels->name; }

size_t bnn_prepared_bytes(const bnn_kernels *kernels, bnn_op op, int32_t outputs, int32_t n)
{
    if (op == BNN_PRODUCT_BITS) return kernels->bits_bytes(outputs, bnn_words(n));
    if (op == BNN_PRODUCT_F32) return kernels->f32.weight_bytes(outputs, n);
    if (op == BNN_PRODUCT_I8 || op == BNN_PRODUCT_U8) return kernels->i16.weight_bytes(outputs, n);
    return (size_t)outputs * (size_t)bnn_words(n) * sizeof(uint64_t);
}

void bnn_prepare(const bnn_kernels *kernels, bnn_op op, const uint64_t *rows, int32_t outputs, int32_t n,
                 void *prepared)
{
    if (op == BNN_PRODUCT_BITS)
        kernels->bits_prepare(rows, outputs, bnn_words(n), prepared);
    else if (op == BNN_PRODUCT_F32)
        kernels->f32.prepare(rows, outputs, n, prepared);
    else if (op == BNN_PRODUCT_I8 || op == BNN_PRODUCT_U8)
        kernels->i16.prepare(rows, outputs, n, prepared);
    else
        memcpy(prepared, rows, bnn_prepared_bytes(kernels, op, outputs, n));
}
