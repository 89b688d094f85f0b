/* exp, log, tanh and their kin over vectors: the law of docs/numerics/functions.md, section 3, step by step.
 *
 * Every function is made of IEEE operations, fma and integer work, in the order of the page; coefficients are named there.
 * Lanes never look at each other, so a kernel may use them inside anything (softmax, norms, losses). `s…` is the same for
 * one number. Special values come out of the arithmetic where they can and are chosen in where they cannot. */
#ifndef TOLSEY_FUNCTIONS_H
#define TOLSEY_FUNCTIONS_H

#include "base.h"

/* x where it is not above (below) the limit, NaN included, else the limit. */
INLINE vf vat_most(vf x, float limit) {
#if defined(TOLSEY_AVX512)
    return (vf)_mm512_min_ps(_mm512_set1_ps(limit), (__m512)x);
#elif defined(TOLSEY_AVX2)
    return (vf)_mm256_min_ps(_mm256_set1_ps(limit), (__m256)x);
#elif defined(TOLSEY_BASELINE) && defined(__x86_64__)
    return (vf)_mm_min_ps(_mm_set1_ps(limit), (__m128)x);
#else
    return vselect((vi)(x > vset(limit)), vset(limit), x);
#endif
}
INLINE vf vat_least(vf x, float limit) {
#if defined(TOLSEY_AVX512)
    return (vf)_mm512_max_ps(_mm512_set1_ps(limit), (__m512)x);
#elif defined(TOLSEY_AVX2)
    return (vf)_mm256_max_ps(_mm256_set1_ps(limit), (__m256)x);
#elif defined(TOLSEY_BASELINE) && defined(__x86_64__)
    return (vf)_mm_max_ps(_mm_set1_ps(limit), (__m128)x);
#else
    return vselect((vi)(x < vset(limit)), vset(limit), x);
#endif
}

/* The polynomial with these coefficients, highest power first, by fma; cuda/lane.h has one of its own. */
#if !defined(POLYNOMIAL)
#define POLYNOMIAL(x, first, ...)                                                                                      \
    ({                                                                                                                 \
        const float rest_[] = {__VA_ARGS__};                                                                           \
        vf p_ = vset(first);                                                                                           \
        UNROLL_POLYNOMIAL for (size_t k_ = 0; k_ < sizeof rest_ / sizeof *rest_; k_++) p_ = vfma(p_, x, vset(rest_[k_])); \
        p_;                                                                                                            \
    })
#if defined(__clang__)
#define UNROLL_POLYNOMIAL _Pragma("clang loop unroll(full)")
#else
#define UNROLL_POLYNOMIAL _Pragma("GCC unroll 16")
#endif
#endif

/* ---------------------------------------------------------------- exp, expm1 */

/* x = n ln 2 + r, n whole, |r| <= 0.3466: n as number and as integer. */
struct halving {
    vf r, n;
    vi whole;
};
INLINE struct halving vhalving(vf x) {
    /* Adding 1.5 * 2^23 leaves the whole number, rounded half to even, in the low bits. */
    const vf shift = vset(0x1.8p23f);
    vf t = vfma(x, vset(0x1.715476p0f), shift), n = t - shift;
    vf r = vfma(n, vset(-0x1.62e4p-1f), x);
    struct halving h = {vfma(n, vset(-0x1.7f7d1cp-20f), r), n, (vi)((vu)t - (vu)shift)};
    return h;
}

/* y * 2^n, rounded once; 1/4 < y < 4, -160 <= n <= 130. */
INLINE vf vscale(vf y, vf n, vi whole) {
#if defined(TOLSEY_AVX512)
    (void)whole;
    return (vf)_mm512_scalef_ps((__m512)y, (__m512)n);
#else
    (void)n;
    vi half = whole >> 1;
    return (y * vpow2(half)) * vpow2(whole - half);
#endif
}

INLINE vf vexp_reduced(struct halving h) {
    vf q = POLYNOMIAL(h.r, 0x1.6a539cp-10f, 0x1.123994p-7f, 0x1.5558acp-5f, 0x1.555492p-3f, 0x1.fffffcp-2f);
    return vscale(vfma(h.r * h.r, q, h.r) + vset(1.0f), h.n, h.whole);
}

INLINE vf vexp(vf x) { return vexp_reduced(vhalving(vat_least(vat_most(x, 89.0f), -104.0f))); }

INLINE vf vexpm1(vf x) {
    struct halving h = vhalving(vat_least(vat_most(x, 89.0f), -19.0f));
    vf q = POLYNOMIAL(h.r, 0x1.9e775ap-13f, 0x1.6d3a5ep-10f, 0x1.1112d6p-7f, 0x1.5554f8p-5f, 0x1.555554p-3f, 0x1p-1f);
    vf p = vfma(h.r * h.r, q, h.r), t = vpow2(h.whole - 1), u = vfma(p, t, t - vset(0.5f));
    return vcopysign(vselect((vi)(h.whole == 0), p, u + u), x);
}

/* ---------------------------------------------------------------- log, log1p */

/* ln(1 + f) + e ln 2, |f| a little above 1/3 at most. */
INLINE vf vlog_reduced(vf f, vi e) {
    vf q = POLYNOMIAL(f, -0x1.07ddfep-3f, 0x1.1e7786p-3f, -0x1.f325p-4f, 0x1.1ed3b2p-3f, -0x1.559cfcp-3f, 0x1.99d06p-3f,
                      -0x1.fffef6p-3f, 0x1.555506p-2f, -0x1p-1f);
    return vfma(vtof(e), vset(0x1.62e43p-1f), vfma(f * f, q, f));
}

/* What a logarithm is of `of`, a number that is not above 0 and finite. */
INLINE vf vlog_special(vf of) {
    vf r = vselect((vi)(of == vset(0.0f)), vset(-INFINITE), vset(NOT_A_NUMBER));
    return vselect((vi)(of == vset(INFINITE)), of, r);
}

INLINE vf vlog(vf x) {
    vi tiny = (vi)(x < vset(0x1p-126f));
    vf scaled = vselect(tiny, x * vset(0x1p23f), x);
    vi e = (vi)((vu)scaled - 0x3f2aaaabu) >> 23;
    vf m = (vf)((vu)scaled - ((vu)e << 23));
    vf y = vlog_reduced(m - vset(1.0f), e - (tiny & vset_i(23)));
    return vselect((vi)(x > vset(0.0f)) & (vi)(x < vset(INFINITE)), y, vlog_special(x));
}

INLINE vf vlog1p(vf x) {
    vf u = x + vset(1.0f);
    vi e = (vi)((vu)u - 0x3f2aaaabu) >> 23;
    /* 2^-e - 1, which is -1 from e = 25 on. */
    vf less = vpow2(-vselect_i((vi)(e > vset_i(64)), vset_i(64), e)) - vset(1.0f);
    vf f = (vf)((vu)x - ((vu)e << 23)) + less;
    vf y = vlog_reduced(f, e);
    y = vselect((vi)(u > vset(0.0f)) & (vi)(u < vset(INFINITE)), y, vlog_special(u));
    return vselect((vi)(x == vset(0.0f)), x, y);
}

/* ---------------------------------------------------------------- tanh, sigmoid, erf */

INLINE vf vtanh(vf x) {
    vf a = vabs(x), z = a * a;
    vf q = POLYNOMIAL(z, -0x1.750ddp-8f, 0x1.51f8eep-6f, -0x1.b835a6p-5f, 0x1.1106f6p-3f, -0x1.555532p-2f);
    vf small = vfma(z * q, a, a);
    vf large = vset(1.0f) - vset(2.0f) / (vexp(a + a) + vset(1.0f));
    return vcopysign(vselect((vi)(a < vset(0.625f)), small, large), x);
}

INLINE vf vsigmoid(vf x) {
    vf e = vexp((vf)((vu)x | vset_u(0x80000000u)));
    return vselect((vi)(x < vset(0.0f)), e, vset(1.0f)) / (vset(1.0f) + e);
}

INLINE vf verf(vf x) {
    vf a = vabs(x), z = a * a;
    vf q = POLYNOMIAL(z, 0x1.4b6eb2p-14f, -0x1.a4c72p-11f, 0x1.5425bp-8f, -0x1.b7fdb2p-6f, 0x1.ce2d48p-4f, -0x1.81274p-2f,
                      0x1.06eba8p-3f);
    vf small = vfma(q, a, a);
    vf t = vat_most(a, 4.0f);
    vf l = POLYNOMIAL(t, -0x1.b9c22ep-13f, 0x1.a1b93p-9f, -0x1.758816p-6f, 0x1.ae8e6cp-4f, 0x1.458bbp-1f, 0x1.20e412p0f);
    vf large = vset(1.0f) - vexp(vneg(l * t));
    return vcopysign(vselect((vi)(a < vset(1.0f)), small, large), x);
}

/* ---------------------------------------------------------------- sin, cos */

/* 2/pi: 26 zeros, then its bits. */
TABLE uint32_t TWO_OVER_PI[8] = {
    0x00000028u, 0xbe60db93u, 0x91054a7fu, 0x09d5f47du, 0x4d377036u, 0xd8a5664fu, 0x10e4107fu, 0x9458eaf7u,
};
INLINE vu vtwo_over_pi(vu place) {
#if defined(TOLSEY_AVX512)
    __m512i table = _mm512_broadcast_i32x8(_mm256_loadu_si256((const __m256i *)TWO_OVER_PI));
    return (vu)_mm512_permutexvar_epi32((__m512i)place, table);
#elif defined(TOLSEY_AVX2)
    return (vu)_mm256_permutevar8x32_epi32(_mm256_loadu_si256((const __m256i *)TWO_OVER_PI), (__m256i)place);
#else
    vu r;
    for (int i = 0; i < VW; i++) r[i] = TWO_OVER_PI[place[i] & 7];
    return r;
#endif
}

/* a >= 0 as `quarter` quarter turns and an angle r, |r| <= pi/4 or a little above. Infinity and NaN: anything. */
struct turning {
    vf r;
    vu quarter;
};
INLINE struct turning vturning(vf a) {
    /* a * 2/pi modulo 4 in fixed point, 2 bits before the point and 62 after: the 24 bits of a times the 96 bits of 2/pi
     * that matter at its exponent. */
    vu k = ((vu)a >> 23) - 126, m = ((vu)a & 0x7fffffu) | 0x800000u;
    vu word = (k >> 5) & 7, by = k & 31, back = 31 - by;
    vu w0 = vtwo_over_pi(word), w1 = vtwo_over_pi(word + 1), w2 = vtwo_over_pi(word + 2), w3 = vtwo_over_pi(word + 3);
    w0 = (w0 << by) | ((w1 >> 1) >> back);
    w1 = (w1 << by) | ((w2 >> 1) >> back);
    w2 = (w2 << by) | ((w3 >> 1) >> back);
    vu carried = vmulhi_u(m, w2), low = m * w1 + carried;
    vu high = m * w0 + vmulhi_u(m, w1) + (vu)((low < carried) & 1);
    vu quarter = (high + 0x20000000u) >> 30;
    vi rest = (vi)(high - (quarter << 30));
    /* The rest, -2^61 … 2^61, as three numbers of 24, 24 and 14 bits, then f + left: a sum that is exact. */
    vf f0 = vtof(rest >> 6) * vset(0x1p-24f);
    vf f1 = vtof((vi)((((vu)rest & 63u) << 18) | (low >> 14))) * vset(0x1p-48f);
    vf f2 = vtof((vi)(low & 0x3fffu)) * vset(0x1p-62f);
    vf t = f0 + f1, f = t + f2, left = ((f0 - t) + f1) + ((t - f) + f2);
    const vf high_half_pi = vset(0x1.921fb6p0f), low_half_pi = vset(-0x1.777a5cp-25f);
    vf r = vfma(f, high_half_pi, vfma(f, low_half_pi, left * high_half_pi));
    vi near = (vi)(a <= vset(0x1.921fb6p-1f));
    struct turning it = {vselect(near, a, r), (vu)(~near) & quarter};
    return it;
}

/* The sine, `quarter` quarter turns on. */
INLINE vf vsine_of(struct turning it) {
    vf r = it.r, z = r * r;
    vf s = vfma(z * r, POLYNOMIAL(z, -0x1.9953fep-13f, 0x1.110778p-7f, -0x1.555546p-3f), r);
    vf c = vfma(z * z, POLYNOMIAL(z, 0x1.99e92p-16f, -0x1.6c0c2ap-10f, 0x1.55554ap-5f), vfma(vset(-0.5f), z, vset(1.0f)));
    vf y = vselect((vi)((it.quarter & 1) == 1), c, s);
    return (vf)((vu)y ^ ((it.quarter & 2) << 30));
}
INLINE vf vsin(vf x) {
    vf a = vabs(x), y = vsine_of(vturning(a));
    y = (vf)((vu)y ^ ((vu)x & 0x80000000u));
    return vselect((vi)(a < vset(INFINITE)), y, x - x);
}
INLINE vf vcos(vf x) {
    vf a = vabs(x);
    struct turning it = vturning(a);
    it.quarter += 1;
    return vselect((vi)(a < vset(INFINITE)), vsine_of(it), x - x);
}

/* ---------------------------------------------------------------- pow */

/* |x| to the y, in a logarithm of two numbers. */
INLINE vf vpow_size(vf a, vf y) {
    vi tiny = (vi)(a < vset(0x1p-126f));
    vf scaled = vselect(tiny, a * vset(0x1p23f), a);
    vi e = (vi)((vu)scaled - 0x3f3504f3u) >> 23;
    vf f = (vf)((vu)scaled - ((vu)e << 23)) - vset(1.0f), n = vtof(e - (tiny & vset_i(23)));
    /* q + ql = f / (f + 2); its square s + sl, its cube c + cl; half the logarithm of 1 + f is its series. */
    vf reciprocal = vset(1.0f) / (f + vset(2.0f)), q = f * reciprocal;
    vf ql = reciprocal * vfma(q, vneg(f), vfma(vset(-2.0f), q, f));
    vf s = q * q, sl = vfma(q, ql + ql, vfma(q, q, vneg(s)));
    vf c = s * q, cl = vfma(s, ql, vfma(sl, q, vfma(s, q, vneg(c))));
    vf p = POLYNOMIAL(s, 0x1.d775eap-4f, 0x1.248e9cp-3f, 0x1.9998f4p-3f, 0x1.555556p-2f);
    vf tail = vfma(p, c, vfma(p, cl, ql));
    vf whole = n * vset(0x1.62e4p-1f), twice = q + q, sum = whole + twice;
    vf rest = vfma(n, vset(0x1.7f7d1cp-20f), vfma(vset(2.0f), tail, twice - (sum - whole)));
    vf high = sum + rest, low = (sum - high) + rest;
    /* ln 0 and ln infinity. */
    vf infinity = vset(INFINITE);
    high = vselect((vi)(a == vset(0.0f)), vneg(infinity), vselect((vi)(a == infinity), infinity, high));
    vf product = high * y, error = vfma(low, y, vfma(high, y, vneg(product)));
    vf clipped = vat_least(vat_most(product, 89.0f), -104.0f);
    struct halving h = vhalving(clipped);
    h.r = h.r + vselect((vi)(clipped == product), error, vset(0.0f));
    return vexp_reduced(h);
}

INLINE vf vpow(vf x, vf y) {
    const vf one = vset(1.0f), zero = vset(0.0f);
    vf r = vpow_size(vabs(x), y), half = y * vset(0.5f);
    vi is_whole = (vi)(vround(y) == y), is_odd = is_whole & (vi)(vround(half) != half);
    /* -1 to plus or minus infinity. */
    r = vselect((vi)(vabs(x) == one) & (vi)(vabs(y) == vset(INFINITE)), one, r);
    r = (vf)((vu)r ^ ((vu)is_odd & (vu)x & 0x80000000u));
    vi undefined = (vi)(x < zero) & (vi)(x > vset(-INFINITE)) & ~is_whole;
    r = vselect(undefined | visnan(x) | visnan(y), vset(NOT_A_NUMBER), r);
    return vselect((vi)(y == zero) | (vi)(x == one), one, r);
}

/* ---------------------------------------------------------------- single operations, in order */

/* From `from` to `to`, counted from the nearer end. */
INLINE vf vlerp(vf from, vf to, float weight) {
    vf way = to - from;
    if (weight > -0.5f && weight < 0.5f) return from + vset(weight) * way;
    return to - way * vset(1.0f - weight);
}

INLINE vf vsign(vf x) {
    const vf one = vset(1.0f), zero = vset(0.0f);
    return vselect((vi)(x > zero), one, vselect((vi)(x < zero), vneg(one), zero));
}

/* ---------------------------------------------------------------- one number */

#define FOR_ONE(name)                                                                                                  \
    INLINE float s##name(float x) {                                                                                    \
        vf r = v##name(vset(x));                                                                                       \
        return r[0];                                                                                                   \
    }
FOR_ONE(exp)
FOR_ONE(log)
INLINE float spow(float x, float y) {
    vf r = vpow(vset(x), vset(y));
    return r[0];
}
#undef FOR_ONE

#endif
