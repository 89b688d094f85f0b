/* Binary32 numbers to whole numbers and back, one by one (docs/numerics/int8.md, sections 1 and 6): the same text for the
 * kernels of CPUs and of GPUs, int8.c and int8.cu, and exact_sum.c for both. */
#ifndef TOLSEY_WHOLE_H
#define TOLSEY_WHOLE_H

#include "base.h"

/* Terms of one product at most. */
#define MOST_DEPTH ((int64_t)1 << 22)

/* Exponents of a lane of zeros and of one with an infinity or a NaN: so that the larger of two shards' is right. */
enum { NOTHING = -150, NOT_FINITE = 128 };

/* p of the law: a lane's largest number is below 2^(p + 1) of its units. */
INLINE int fraction_bits(int64_t slices) { return 7 * (int)slices - 2; }

/* Of a lane's largest size. A subnormal one is the number of its bits, in units of 2^-149. */
INLINE int32_t exponent_of(float size) {
    int32_t bits = (int32_t)bits_of(size);
    if (bits == 0) return NOTHING;
    return bits >> 23 ? (bits >> 23) - 127 : (int32_t)(bits_of((float)bits) >> 23) - 127 - 149;
}

/* 2^n as binary32 in two factors, for n from -252 to 254. */
INLINE void two_factors(int32_t n, float *first, float *second) {
    int32_t half_n = n / 2;
    *first = float_of((uint32_t)(half_n + 127) << 23);
    *second = float_of((uint32_t)(n - half_n + 127) << 23);
}

/* How a lane's numbers are rounded: x · first · second. Of the first product only what ends below 1/2 may be rounded, since
 * both factors are above or both below 1. `kept` has no bits where the lane is not finite, so that no conversion is undefined,
 * and all bits elsewhere. */
INLINE void scale_of(int32_t exponent, int p, float *kept, float *first, float *second) {
    *kept = float_of(exponent == NOT_FINITE ? 0 : 0xffffffffu);
    two_factors(p - exponent, first, second);
}

INLINE vi to_whole(vf x, vf kept, vf first, vf second) {
    return vtoi(vround((vf)((vi)x & (vi)kept) * first * second));
}

/* sum · 2^n, rounded once; |sum| up to 2^62, +0 for 0. */
INLINE float rounded_once(int64_t sum, int32_t n) {
    const uint32_t sign = sum < 0 ? 0x80000000u : 0;
    const uint64_t size = sum < 0 ? 0 - (uint64_t)sum : (uint64_t)sum;
    if (size == 0) return 0.0f;
    /* A normal result has the bits of the sum's own rounding, but for the exponent. */
    const uint32_t whole = bits_of((float)(int64_t)size);
    const int32_t biased = (int32_t)(whole >> 23) + n;
    if (biased >= 255) return float_of(sign | 0x7f800000u);
    if (biased > 0) return float_of(sign | (whole + ((uint32_t)n << 23)));
    /* A subnormal one is a number of units of 2^-149. */
    const int32_t below = -149 - n;
    if (below <= 0) return float_of(sign | (uint32_t)(size << -below));
    if (below > 62) return float_of(sign);
    const uint64_t units = size >> below, rest = size - (units << below), half = (uint64_t)1 << (below - 1);
    return float_of(sign | (uint32_t)(units + (rest > half || (rest == half && (units & 1)))));
}

#endif
