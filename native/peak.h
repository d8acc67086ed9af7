/* What a core can do at best, measured in loops that work in registers, or that only read: the yardstick of
   the benchmark. Not part of the engine. */

#ifndef BNN_PEAK_H
#define BNN_PEAK_H

#ifdef __cplusplus
extern "C" {
#endif

/* Runs a loop for about that many seconds; returns its rate, or 0 if this processor has no such loop.

       "bits"    multiply-accumulates of ±1 x ±1 a second: xor, population count, add. AVX2 cannot count: the
                 loop looks nibbles up, and carry-save adders may beat it
       "f32"     of float x ±1: a table look-up in a register and an addition
       "i16"     the same of 16-bit integers
       "memory"  bytes read a second from an array of 256 MiB
       "cache"   from one of 2 MiB

   `what` may be followed by "/" and the name of an instruction set; without, the best. */
double bnn_peak(const char *what, double seconds);

#ifdef __cplusplus
}
#endif

#endif
