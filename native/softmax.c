/* Softmax, with an exponential function of its own: so the engine needs no mathematical library. */

#include "job.h"

/* exp(x) for x <= 0: x = n * ln 2 + r with |r| <= ln 2 / 2, exp(r) by its series, 2^n by its bits. 0 below
   the smallest normal number, NaN for NaN. ln 2 is taken in two parts, so that n times the first is exact. */
#define EXPONENTIAL(NAME, T, U, MANTISSA, BIAS, LOWEST, TERMS)                                               \
    static T NAME(T x)                                                                                       \
    {                                                                                                        \
        T r, y = 1, power;                                                                                   \
        U bits;                                                                                              \
        int n, k;                                                                                            \
        if (x != x) return x;                                                                                \
        if (x < (T)(LOWEST)) return 0;                                                                       \
        n = (int)(x * (T)1.4426950408889634 - (T)0.5);                                                       \
        r = x - (T)n * (T)0.693359375 + (T)n * (T)2.1219444005469058e-4;                                     \
        for (k = TERMS; k > 0; k--) y = 1 + y * r / (T)k;                                                    \
        bits = (U)(n + (BIAS)) << (MANTISSA);                                                                \
        memcpy(&power, &bits, sizeof power);                                                                 \
        return y * power;                                                                                    \
    }
EXPONENTIAL(exponential_f32, float, uint32_t, 23, 127, -87, 8)
EXPONENTIAL(exponential_f64, double, uint64_t, 52, 1023, -708, 15)

#define SOFTMAX(NAME, T, DTYPE, EXPONENTIAL_OF)                                                              \
    void NAME(const T *x, int32_t n, T *y)                                                                   \
    {                                                                                                        \
        T top = x[0], sum = 0;                                                                               \
        int32_t k;                                                                                           \
        if (!BNN_HAS(DTYPE)) return;                                                                         \
        for (k = 1; k < n; k++) top = top >= x[k] || top != top ? top : x[k];                                \
        for (k = 0; k < n; k++) sum += y[k] = EXPONENTIAL_OF(x[k] - top);                                    \
        for (k = 0; k < n; k++) y[k] /= sum;                                                                 \
    }
SOFTMAX(bnn_softmax_f32, float, BNN_F32, exponential_f32)
SOFTMAX(bnn_softmax_f64, double, BNN_F64, exponential_f64)
