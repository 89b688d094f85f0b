/* What every kernel stands on: vectors of binary32, the one fused multiply-add, tails, the pool, the control register.
 *
 * One source, several builds (build.py): baseline (any CPU, fma in software), avx2, avx512, neon. A build may choose how
 * many numbers it handles at once; it may not choose bits. So:
 *
 *   - a kernel is written once over `vf`, a vector of VW floats, and gives the same result for VW = 4, 8 and 16;
 *   - `a * b + c` is two roundings (-ffp-contract=off), `vfma(a, b, c)` and `sfma(a, b, c)` are one; the law says which;
 *   - no libm, no intrinsic that is only approximate (rcp, rsqrt), no -ffast-math;
 *   - x != x is how NaN is found; which NaN comes out of an operation is left open (docs/numerics.md), see `vcanonical`.
 *
 * Plain operators work on vectors: + - * / on vf are IEEE; comparisons give a `vi` of 0 and -1; casts `(vi)x`, `(vf)x`
 * keep bits. Everything here is `static inline`; what has state lives in parallel.c and control.c.
 *
 * Shape of a kernel:
 *
 *     static int double_some(void *ctx, int64_t begin, int64_t end) {
 *         struct doubled *it = (struct doubled *)ctx;
 *         FOR_VECTORS(i, w, begin, end) { vf x = vload_n(it->x + i, w); vstore_n(it->y + i, x + x, w); }
 *         return 0;
 *     }
 *     TASK_KERNEL(double, (const float *x, float *y, int64_t n), n, 4096, double_some, struct doubled, {x, y})
 *
 * A kernel written like that is compiled for GPUs too (cuda/lane.h), where each thread is a vector of one number.
 */
#ifndef TOLSEY_BASE_H
#define TOLSEY_BASE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__FAST_MATH__)
#error "Tolsey's kernels must not be compiled with -ffast-math"
#endif
#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0
#error "Tolsey's kernels need float expressions evaluated in float (x87 builds are not possible)"
#endif
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "Tolsey's kernels are written for little-endian machines"
#endif

/* build.py defines exactly one of these. */
#if defined(TOLSEY_AVX512)
#define ISA_NAME "avx512"
#define VW 16
#elif defined(TOLSEY_AVX2)
#define ISA_NAME "avx2"
#define VW 8
#elif defined(TOLSEY_NEON)
#define ISA_NAME "neon"
#define VW 4
#elif defined(TOLSEY_BASELINE)
#define ISA_NAME "baseline"
#define VW 4
#else
#error "build.py names the instruction set: -DTOLSEY_BASELINE, -DTOLSEY_AVX2, -DTOLSEY_AVX512 or -DTOLSEY_NEON"
#endif

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(TOLSEY_NEON)
#include <arm_neon.h>
#endif

#define TOLSEY_EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline, unused))
#define TABLE static const
#define INFINITE __builtin_inff()
#define NOT_A_NUMBER __builtin_nanf("")

/* What an exported kernel returns; library.py turns the rest into exceptions. */
enum { TOLSEY_OK = 0, TOLSEY_NO_MEMORY = 1, TOLSEY_BAD_ARGUMENT = 2, TOLSEY_BAD_INDEX = 3 };

/* ---------------------------------------------------------------- types */

typedef float vf __attribute__((vector_size(4 * VW)));
typedef int32_t vi __attribute__((vector_size(4 * VW)));
typedef uint32_t vu __attribute__((vector_size(4 * VW)));
typedef double vd __attribute__((vector_size(8 * VW)));
typedef int64_t vl __attribute__((vector_size(8 * VW)));
typedef uint64_t vlu __attribute__((vector_size(8 * VW)));

typedef float vf_anywhere __attribute__((vector_size(4 * VW), aligned(4), may_alias));
typedef uint32_t vu_anywhere __attribute__((vector_size(4 * VW), aligned(4), may_alias));

/* ---------------------------------------------------------------- moving */

INLINE vf vload(const float *p) { return *(const vf_anywhere *)p; }
INLINE void vstore(float *p, vf x) { *(vf_anywhere *)p = x; }
INLINE vu vload_u(const uint32_t *p) { return *(const vu_anywhere *)p; }
INLINE void vstore_u(uint32_t *p, vu x) { *(vu_anywhere *)p = x; }

/* All lanes alike. */
INLINE vf vset(float x) {
#if defined(TOLSEY_AVX512)
    return (vf)_mm512_set1_ps(x);
#elif defined(TOLSEY_AVX2)
    return (vf)_mm256_set1_ps(x);
#else
    return (vf){x, x, x, x};
#endif
}
INLINE vi vset_i(int32_t x) { return x + (vi){0}; }
INLINE vu vset_u(uint32_t x) { return x + (vu){0}; }
/* yes where the mask is -1, no where it is 0. */
INLINE vf vselect(vi mask, vf yes, vf no) { return (vf)((mask & (vi)yes) | (~mask & (vi)no)); }
/* 0, 1, 2, … */
INLINE vi vcount(void) {
    vi r;
    for (int i = 0; i < VW; i++) r[i] = i;
    return r;
}

/* The first n lanes from memory, +0 in the others; n may be VW or more. Memory beyond n is not touched. */
INLINE vf vload_n(const float *p, int64_t n) {
    if (n >= VW) return vload(p);
#if defined(TOLSEY_AVX512)
    return (vf)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#elif defined(TOLSEY_AVX2)
    return (vf)_mm256_maskload_ps(p, (__m256i)(vcount() < vset_i((int32_t)n)));
#else
    vf r = {0};
    for (int i = 0; i < n; i++) r[i] = p[i];
    return r;
#endif
}
/* Lanes from … past - 1 from memory, +0 in the others; memory outside of those is not touched, wherever p itself points. */
INLINE vf vload_between(const float *p, int64_t from, int64_t past) {
#if defined(TOLSEY_AVX512)
    uint32_t below_past = past >= VW ? 0xffff : past <= 0 ? 0 : (1u << past) - 1;
    uint32_t below_from = from >= VW ? 0xffff : from <= 0 ? 0 : (1u << from) - 1;
    return (vf)_mm512_maskz_loadu_ps((__mmask16)(below_past & ~below_from), p);
#elif defined(TOLSEY_AVX2)
    vi lane = vcount();
    return (vf)_mm256_maskload_ps(p, (__m256i)((lane >= vset_i((int32_t)from)) & (lane < vset_i((int32_t)past))));
#else
    vf r = {0};
    for (int64_t i = from > 0 ? from : 0; i < past && i < VW; i++) r[i] = p[i];
    return r;
#endif
}
/* The same with a chosen number in the lanes beyond n. */
INLINE vf vload_or(const float *p, int64_t n, float other) {
    if (n >= VW) return vload(p);
    return vselect(vcount() < vset_i((int32_t)n), vload_n(p, n), vset(other));
}
/* The lanes of the mask from memory, +0 in the others, whose memory is not touched. */
INLINE vf vload_where(const float *p, vi mask) {
#if defined(TOLSEY_AVX512)
    return (vf)_mm512_maskz_loadu_ps(_mm512_movepi32_mask((__m512i)mask), p);
#elif defined(TOLSEY_AVX2)
    return (vf)_mm256_maskload_ps(p, (__m256i)mask);
#else
    vf r = {0};
    for (int i = 0; i < VW; i++)
        if (mask[i]) r[i] = p[i];
    return r;
#endif
}
/* base[at] in the lanes of the mask, +0 in the others, whose place is not touched. */
INLINE vf vgather(const float *base, vi at, vi mask) {
#if defined(TOLSEY_AVX512)
    __mmask16 lanes = _mm512_movepi32_mask((__m512i)mask);
    return (vf)_mm512_mask_i32gather_ps(_mm512_setzero_ps(), lanes, (__m512i)at, base, 4);
#elif defined(TOLSEY_AVX2)
    return (vf)_mm256_mask_i32gather_ps(_mm256_setzero_ps(), base, (__m256i)at, (__m256)mask, 4);
#else
    vf r = {0};
    for (int i = 0; i < VW; i++)
        if (mask[i]) r[i] = base[at[i]];
    return r;
#endif
}
INLINE void vstore_n(float *p, vf x, int64_t n) {
    if (n >= VW) {
        vstore(p, x);
        return;
    }
#if defined(TOLSEY_AVX512)
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)x);
#elif defined(TOLSEY_AVX2)
    _mm256_maskstore_ps(p, (__m256i)(vcount() < vset_i((int32_t)n)), (__m256)x);
#else
    for (int i = 0; i < n; i++) p[i] = x[i];
#endif
}
/* i = begin, begin + VW, … below end; w = how many of the VW places are there. */
#define FOR_VECTORS(i, w, begin, end)                                                                                  \
    for (int64_t i = (begin), i##_end = (end), w = i##_end - i < VW ? i##_end - i : VW; i < i##_end;                   \
         i += VW, w = i##_end - i < VW ? i##_end - i : VW)

/* The same for what is no vector. */
#define FOR_STRIDES(i, step, begin, end) for (int64_t i = (begin); i < (end); i += (step))
#define FOR_PLACES(i, begin, end) FOR_STRIDES(i, 1, begin, end)

/* ---------------------------------------------------------------- choosing and bits */

INLINE vi vselect_i(vi mask, vi yes, vi no) { return (mask & yes) | (~mask & no); }
INLINE vu vselect_u(vi mask, vu yes, vu no) { return ((vu)mask & yes) | (~(vu)mask & no); }

INLINE uint32_t bits_of(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}
INLINE float float_of(uint32_t u) {
    float x;
    memcpy(&x, &u, 4);
    return x;
}

#include "choosing.h"

/* ---------------------------------------------------------------- arithmetic */

/* fma in software, for CPUs without: round(a * b + c) once, from binary64.
 * The product of two binary32 is exact in binary64. Its sum with c is split (Knuth's two-sum) into s, rounded, and e,
 * what rounding lost. Moving s to the neighbour with an odd last bit on the side of e is rounding to odd, and a number
 * rounded to odd at 53 bits rounds to 24 (or fewer, where subnormal) as the exact one does (Boldo and Melquiond, 2008).
 * With an infinity or NaN about, e is NaN, which is neither below nor above 0: s stays. */
INLINE float software_fma(float a, float b, float c) {
    double p = (double)a * (double)b, d = c, s = p + d, t = s - p, e = (p - (s - t)) + (d - t);
    uint64_t u, v;
    memcpy(&u, &s, 8);
    memcpy(&v, &e, 8);
    if ((e < 0 || e > 0) && !(u & 1)) {
        u += 1 - 2 * ((u ^ v) >> 63);
        memcpy(&s, &u, 8);
    }
    return (float)s;
}

#if defined(TOLSEY_AVX512)
INLINE vf vfma(vf a, vf b, vf c) { return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
INLINE vf vsqrt(vf x) { return (vf)_mm512_sqrt_ps((__m512)x); }
INLINE vf vround(vf x) { return (vf)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE float sfma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
#elif defined(TOLSEY_AVX2)
INLINE vf vfma(vf a, vf b, vf c) { return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
INLINE vf vsqrt(vf x) { return (vf)_mm256_sqrt_ps((__m256)x); }
INLINE vf vround(vf x) { return (vf)_mm256_round_ps((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
INLINE float sfma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
#elif defined(TOLSEY_NEON)
INLINE vf vfma(vf a, vf b, vf c) { return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
INLINE vf vsqrt(vf x) { return (vf)vsqrtq_f32((float32x4_t)x); }
INLINE vf vround(vf x) { return (vf)vrndnq_f32((float32x4_t)x); }
INLINE float sfma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
#else
INLINE vf vfma(vf a, vf b, vf c) {
    vd p = __builtin_convertvector(a, vd) * __builtin_convertvector(b, vd), d = __builtin_convertvector(c, vd);
    vd s = p + d, t = s - p, e = (p - (s - t)) + (d - t);
    vlu u = (vlu)s, towards = 1 - 2 * ((u ^ (vlu)e) >> 63), even = (u & 1) - 1;
    u += towards & even & (vlu)((e < 0) | (e > 0));
    return __builtin_convertvector((vd)u, vf);
}
INLINE vf vsqrt(vf x) {
#if defined(__x86_64__)
    return (vf)_mm_sqrt_ps((__m128)x);
#else
    vf r;
    for (int i = 0; i < VW; i++) r[i] = __builtin_sqrtf(x[i]);
    return r;
#endif
}
/* Adding 2^23 pushes the fraction out, rounded to nearest even; from 2^23 on there is none. */
INLINE vf vround(vf x) {
    vf size = vabs(x), whole = vset(0x1p23f);
    return vcopysign(vselect((vi)(size < whole), (size + whole) - whole, size), x);
}
INLINE float sfma(float a, float b, float c) { return software_fma(a, b, c); }
#endif
/* The same for one number; neither calls libm. */
INLINE float ssqrt(float x) {
    vf r = vsqrt(vset(x));
    return r[0];
}
INLINE float sround(float x) {
    vf r = vround(vset(x));
    return r[0];
}

/* To integers, cut towards 0. Outside ±2^31 and for NaN the builds differ: choose such lanes away, before or after. */
INLINE vi vtoi(vf x) { return __builtin_convertvector(x, vi); }
/* From integers, rounded to nearest even. */
INLINE vf vtof(vi x) { return __builtin_convertvector(x, vf); }
/* Upper half of the 64-bit product: even and odd places apart, as the machines multiply. */
INLINE vu vmulhi_u(vu a, vu b) {
#if defined(TOLSEY_AVX512)
    __m512i even = _mm512_mul_epu32((__m512i)a, (__m512i)b);
    __m512i odd = _mm512_mul_epu32(_mm512_srli_epi64((__m512i)a, 32), _mm512_srli_epi64((__m512i)b, 32));
    return (vu)_mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
#elif defined(TOLSEY_AVX2)
    __m256i even = _mm256_mul_epu32((__m256i)a, (__m256i)b);
    __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64((__m256i)a, 32), _mm256_srli_epi64((__m256i)b, 32));
    return (vu)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
#else
    return __builtin_convertvector((__builtin_convertvector(a, vlu) * __builtin_convertvector(b, vlu)) >> 32, vu);
#endif
}

/* ---------------------------------------------------------------- what has state */

/* control.c: inside, the floating-point control register is the law's (nearest even, subnormals kept, traps off); on the
 * way out it is what the caller had. Stands first in every exported kernel; tolsey_parallel does the same in each thread. */
uint64_t tolsey_control_enter(void);
void tolsey_control_leave(const uint64_t *saved);
#define LAWFUL_ENTRY                                                                                                   \
    uint64_t saved_control_ __attribute__((cleanup(tolsey_control_leave), unused)) = tolsey_control_enter()

/* parallel.c: task(ctx, begin, end) for pieces of [0, count) that begin at multiples of `grain`, in no order, by several
 * threads. A piece is at most `grain` long. So a task may write what belongs to its places and nothing else. Returns the
 * first non-zero answer of a task (the others may then be left out), else 0. Inside a task it runs in the calling thread. */
typedef int (*tolsey_task)(void *ctx, int64_t begin, int64_t end);
TOLSEY_EXPORT int tolsey_parallel(int64_t count, int64_t grain, tolsey_task task, void *ctx);
TOLSEY_EXPORT int tolsey_threads(void);
/* How many threads a job brought now may get: 1 inside a task. For choosing a grain, never for choosing an order. */
int tolsey_helpers(void);

/* The exported kernel tolsey_NAME out of a task: `state` filled in from the parameters, then the task over `count` places,
 * `at_once` of them at a time; a negative count is a bad argument. */
#define TASK_KERNEL(name, parameters, count, at_once, task, state, ...)                                                \
    TOLSEY_EXPORT int tolsey_##name parameters {                                                                       \
        LAWFUL_ENTRY;                                                                                                  \
        state it = __VA_ARGS__;                                                                                        \
        return (count) < 0 ? TOLSEY_BAD_ARGUMENT : tolsey_parallel(count, at_once, task, &it);                         \
    }

/* scratch.c: memory of the calling thread, aligned to 64 bytes, kept for the next call, lost at the next request for the
 * same slot. NULL when there is none: return TOLSEY_NO_MEMORY. Contents are left over from before. Each use has a slot of
 * its own, so that a kernel that calls another keeps its own. */
enum scratch_slot {
    SCRATCH_PACK_A,
    SCRATCH_PACK_B,
    SCRATCH_COLUMNS,
    SCRATCH_SUMS,
    SCRATCH_ROW,
    SCRATCH_EXTRA,
    SCRATCH_SLOTS
};
void *tolsey_scratch(enum scratch_slot slot, size_t size_bytes);

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

#endif
