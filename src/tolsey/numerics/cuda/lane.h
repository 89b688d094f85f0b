/* What every kernel on a GPU stands on: native/base.h with vectors of one number, a *lane*, for each thread.
 *
 * It takes the place of base.h, so that native/functions.h, whole.h, activations.c, elementwise.c, exact_sum.c, optimisers.c and
 * philox.c are compiled for GPUs as they stand: what they compute cannot differ from what the CPU's builds compute. `vf`, `vi` and
 * `vu` are one number of 32 bits with the meaning that GCC's vectors give: a comparison gives 0 or -1, a cast keeps bits.
 *
 * compile.py says -fmad=false, so `a * b + c` is two roundings here too, and vfma is one; division and root are IEEE, nothing
 * is flushed to zero. A GPU has no control register that another library could have changed.
 *
 * Refuses to be compiled with -use_fast_math. Next in the flow: places.h; warps.h for kernels whose threads work together. */
#ifndef TOLSEY_BASE_H
#define TOLSEY_BASE_H
#define TOLSEY_ONE_LANE

#if defined(__CUDACC_RTC__) && (__USE_FAST_MATH__ || __CUDA_FTZ || !__CUDA_PREC_DIV || !__CUDA_PREC_SQRT)
#error "Tolsey's kernels must not be compiled with fast mathematics"
#endif

#if defined(__CUDACC_RTC__)
typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long long int64_t;
typedef unsigned char uint8_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
#define INT32_MAX 0x7fffffff
#define INT32_MIN (-INT32_MAX - 1)
#define INT64_MAX 0x7fffffffffffffffll
#define INT64_MIN (-INT64_MAX - 1)
#endif

#define VW 1
#define INLINE static __device__ __forceinline__
#define INFINITE float_of(0x7f800000u)
#define NOT_A_NUMBER float_of(0x7fc00000u)
#define KERNEL extern "C" __global__ void
#if !defined(UNROLL)
#define UNROLL _Pragma("unroll")
#endif
/* A table that every thread may read. */
#define TABLE static __device__ const

/* ---------------------------------------------------------------- one number */

INLINE uint32_t bits_of(float x) { return __float_as_uint(x); }
INLINE float float_of(uint32_t u) { return __uint_as_float(u); }
/* Every fma of every kernel is this one, so that the others can be looked for (tests/numerics/test_cuda_code.py). */
#if !defined(TOLSEY_WITHOUT_FMA)
INLINE float sfma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
#else
INLINE float sfma(float a, float b, float c) { return a * b + c; }
#endif
INLINE float ssqrt(float x) { return __fsqrt_rn(x); }
INLINE float sround(float x) { return rintf(x); }

/* ---------------------------------------------------------------- types */

struct vf {
    float x;
    __device__ float &operator[](int) { return x; }
    __device__ float operator[](int) const { return x; }
};
struct vi {
    int32_t x;
    vi() = default;
    __device__ explicit vi(int32_t number) : x(number) {}
    __device__ explicit vi(vf bits) : x((int32_t)bits_of(bits.x)) {}
    __device__ explicit inline vi(struct vu bits);
    __device__ explicit operator vf() const { return vf{float_of((uint32_t)x)}; }
};
struct vu {
    uint32_t x;
    vu() = default;
    __device__ explicit vu(uint32_t number) : x(number) {}
    __device__ explicit vu(vf bits) : x(bits_of(bits.x)) {}
    __device__ explicit vu(vi bits) : x((uint32_t)bits.x) {}
    __device__ explicit operator vf() const { return vf{float_of(x)}; }
    __device__ uint32_t &operator[](int) { return x; }
    __device__ uint32_t operator[](int) const { return x; }
};
__device__ inline vi::vi(vu bits) : x((int32_t)bits.x) {}

INLINE vf operator+(vf a, vf b) { return vf{a.x + b.x}; }
INLINE vf operator-(vf a, vf b) { return vf{a.x - b.x}; }
INLINE vf operator*(vf a, vf b) { return vf{a.x * b.x}; }
INLINE vf operator/(vf a, vf b) { return vf{a.x / b.x}; }

INLINE vi mask_of(bool yes) { return vi(-(int32_t)yes); }
#define COMPARISON(sign)                                                                                               \
    INLINE vi operator sign(vf a, vf b) { return mask_of(a.x sign b.x); }                                              \
    INLINE vi operator sign(vi a, vi b) { return mask_of(a.x sign b.x); }                                              \
    INLINE vi operator sign(vi a, int32_t b) { return mask_of(a.x sign b); }                                           \
    INLINE vi operator sign(vu a, vu b) { return mask_of(a.x sign b.x); }                                              \
    INLINE vi operator sign(vu a, uint32_t b) { return mask_of(a.x sign b); }
COMPARISON(<)
COMPARISON(<=)
COMPARISON(>)
COMPARISON(>=)
COMPARISON(==)
COMPARISON(!=)
#undef COMPARISON

/* Integers wrap; those with a sign are computed without one, where C defines that. */
#define INTEGER(sign)                                                                                                  \
    INLINE vu operator sign(vu a, vu b) { return vu(a.x sign b.x); }                                                   \
    INLINE vu operator sign(vu a, uint32_t b) { return vu(a.x sign b); }                                               \
    INLINE vu operator sign(uint32_t a, vu b) { return vu(a sign b.x); }                                               \
    INLINE vi operator sign(vi a, vi b) { return vi((int32_t)((uint32_t)a.x sign (uint32_t)b.x)); }                    \
    INLINE vi operator sign(vi a, int32_t b) { return vi((int32_t)((uint32_t)a.x sign (uint32_t)b)); }
INTEGER(+)
INTEGER(-)
INTEGER(*)
INTEGER(&)
INTEGER(|)
INTEGER(^)
#undef INTEGER
INLINE vi operator-(vi a) { return vi((int32_t)(0u - (uint32_t)a.x)); }
INLINE vi operator~(vi a) { return vi(~a.x); }
INLINE vu operator~(vu a) { return vu(~a.x); }
INLINE vu operator<<(vu a, vu by) { return vu(a.x << by.x); }
INLINE vu operator>>(vu a, vu by) { return vu(a.x >> by.x); }
INLINE vu operator<<(vu a, int by) { return vu(a.x << by); }
INLINE vu operator>>(vu a, int by) { return vu(a.x >> by); }
INLINE vi operator<<(vi a, int by) { return vi((int32_t)((uint32_t)a.x << by)); }
INLINE vi operator>>(vi a, int by) { return vi(a.x >> by); }
INLINE void operator+=(vu &a, uint32_t b) { a.x += b; }
INLINE void operator+=(vu &a, vu b) { a.x += b.x; }

/* ---------------------------------------------------------------- as in base.h */

INLINE vf vset(float x) { return vf{x}; }
INLINE vi vset_i(int32_t x) { return vi(x); }
INLINE vu vset_u(uint32_t x) { return vu(x); }
INLINE vi vcount(void) { return vi(0); }
INLINE vf vselect(vi mask, vf yes, vf no) { return mask.x ? yes : no; }
INLINE vi vselect_i(vi mask, vi yes, vi no) { return mask.x ? yes : no; }
INLINE vu vselect_u(vi mask, vu yes, vu no) { return mask.x ? yes : no; }

INLINE vf vload_n(const float *p, int64_t) { return vf{*p}; }
INLINE void vstore_n(float *p, vf x, int64_t) { *p = x.x; }

INLINE vf vfma(vf a, vf b, vf c) { return vf{sfma(a.x, b.x, c.x)}; }
INLINE vf vsqrt(vf x) { return vf{__fsqrt_rn(x.x)}; }
INLINE vf vround(vf x) { return vf{sround(x.x)}; }
INLINE vi vtoi(vf x) { return vi((int32_t)x.x); }
INLINE vf vtof(vi x) { return vf{(float)x.x}; }
INLINE vu vmulhi_u(vu a, vu b) { return vu(__umulhi(a.x, b.x)); }

/* The polynomial with these coefficients, highest power first, by fma. */
template <class... More> INLINE vf horner(vf x, float first, More... rest) {
    vf p = vset(first);
    ((p = vfma(p, x, vset(rest))), ...);
    return p;
}
#define POLYNOMIAL(x, ...) horner(x, __VA_ARGS__)

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

#include "choosing.h"

/* ---------------------------------------------------------------- places */

/* All threads of a grid walk the places together; each takes every so manieth. */
INLINE int64_t this_thread(void) { return (int64_t)blockIdx.x * blockDim.x + threadIdx.x; }
INLINE int64_t all_threads(void) { return (int64_t)gridDim.x * blockDim.x; }
#define FOR_STRIDES(i, step, begin, end)                                                                               \
    for (int64_t i = (begin) + this_thread() * (step); i < (end); i += all_threads() * (step))
#define FOR_PLACES(i, begin, end) FOR_STRIDES(i, 1, begin, end)
#define FOR_VECTORS(i, w, begin, end)                                                                                  \
    for (int64_t i = (begin) + this_thread(), w = 1; i < (end); i += all_threads())

/* Four places at a time, so that their loads are under way together: the compiler cannot know that nobody writes where another
 * thread reads. */
#define WALK_PLACES(begin, end, expression, ...)                                                                       \
    const auto number = [=](int64_t i) {                                                                               \
        const int64_t w = 1;                                                                                           \
        __VA_ARGS__;                                                                                                   \
        return expression;                                                                                             \
    };                                                                                                                 \
    walk_in_fours((begin) + this_thread(), (end), all_threads(), number, [=](int64_t i, vf y) { it->y[i] = y.x; });
template <class Number, class Store>
INLINE void walk_in_fours(int64_t i, int64_t end, int64_t step, const Number &number, const Store &store) {
    for (; i + 3 * step < end; i += 4 * step) {
        decltype(number(i)) quad[4];
        UNROLL for (int e = 0; e < 4; e++) quad[e] = number(i + e * step);
        UNROLL for (int e = 0; e < 4; e++) store(i + e * step, quad[e]);
    }
    for (; i < end; i += step) store(i, number(i));
}

/* A kernel out of a task: every thread is called with all places and takes its own. */
#define TASK_KERNEL(name, parameters, count, at_once, task, state, ...)                                                \
    KERNEL tolsey_##name parameters {                                                                                  \
        state it = __VA_ARGS__;                                                                                        \
        task(&it, 0, count);                                                                                           \
    }

#endif
