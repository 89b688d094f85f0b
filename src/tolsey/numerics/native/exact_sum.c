/* Sums of binary32 numbers without any rounding (docs/numerics/int8.md, section 6), so that addends may come in any order.
 *
 * A sum of one place is WORDS signed 64-bit integers, each in a plane of its own (planes[word * places + place]): DIGITS digits of
 * DIGIT_BITS bits, the lowest first, in units of 2^-149, and the number of addends that were not finite. A digit may be of any
 * sign and larger than its bits: 2^23 numbers may be added before one overflows. Two sums are added word by word. */
#include "whole.h"

enum { DIGIT_BITS = 40, DIGITS = 7, WORDS = DIGITS + 1 };
#define DIGIT_MASK (((int64_t)1 << DIGIT_BITS) - 1)

struct addition {
    const float *x;
    int64_t *planes;
    int64_t places;
};

static int add_some(void *ctx, int64_t begin, int64_t end) {
    const struct addition *it = (const struct addition *)ctx;
    FOR_PLACES(place, begin, end) {
        uint32_t bits = bits_of(it->x[place]), biased = bits >> 23 & 255;
        int64_t *word = it->planes + place;
        if (biased == 255) {
            word[DIGITS * it->places] += 1;
            continue;
        }
        int64_t size = (int64_t)(bits & 0x7fffff) | (biased ? 0x800000 : 0), sign = bits >> 31 ? -1 : 1;
        uint32_t at = biased ? biased - 1 : 0, shift = at % DIGIT_BITS;
        word += at / DIGIT_BITS * it->places;
        word[0] += sign * (size << shift & DIGIT_MASK); /* at most 24 + 39 bits before the mask */
        word[it->places] += sign * (size << shift >> DIGIT_BITS);
    }
    return 0;
}

/* Adds x[places] to the sums; planes of zeros are sums of nothing. */
TASK_KERNEL(exact_sum_add, (int64_t places, const float *x, int64_t *planes), places, 4096, add_some, struct addition,
            {x, planes, places})

/* Digits from 0 to 2^40 - 1, but for the last one, which has the sign. */
INLINE void carry(int64_t digit[DIGITS]) {
    for (int d = 0; d + 1 < DIGITS; d++) {
        digit[d + 1] += digit[d] >> DIGIT_BITS;
        digit[d] &= DIGIT_MASK;
    }
}

INLINE float rounded(const int64_t *words, int64_t places) {
    int64_t digit[DIGITS];
    for (int d = 0; d < DIGITS; d++) digit[d] = words[d * places];
    if (words[DIGITS * places]) return float_of(0x7fc00000);
    carry(digit);
    int negative = digit[DIGITS - 1] < 0;
    if (negative) {
        for (int d = 0; d < DIGITS; d++) digit[d] = -digit[d];
        carry(digit);
    }
    int top = DIGITS - 1;
    while (top > 0 && digit[top] == 0) top--;
    /* The uppermost bits, at least 26 where there are more below, and one more that says whether anything is below them. */
    int64_t head = digit[top], below = 0, at = DIGIT_BITS * top;
    if (top > 0 && head < (int64_t)1 << 26) {
        head = head << 26 | digit[top - 1] >> 14;
        below = digit[top - 1] & 0x3fff;
        at -= 26;
        top--;
    }
    for (int d = top - 1; d >= 0; d--) below |= digit[d];
    while (head >= (int64_t)1 << 52) {
        below |= head & 1;
        head >>= 1;
        at++;
    }
    const int64_t size = 2 * head + (below ? 1 : 0);
    return rounded_once(negative ? -size : size, (int32_t)at - 150);
}

struct rounding {
    const int64_t *planes;
    float *y;
    int64_t places;
};

static int round_some(void *ctx, int64_t begin, int64_t end) {
    const struct rounding *it = (const struct rounding *)ctx;
    FOR_PLACES(place, begin, end) it->y[place] = rounded(it->planes + place, it->places);
    return 0;
}

/* The sums, each rounded once. */
TASK_KERNEL(exact_sum_round, (int64_t places, const int64_t *planes, float *y), places, 4096, round_some, struct rounding,
            {planes, y, places})
