/* Functions and arithmetic of single places: docs/numerics/functions.md, sections 3 and 4. */
#include "places.h"

UNARY(exp, vexp(a))
UNARY(expm1, vexpm1(a))
UNARY(log, vlog(a))
UNARY(log1p, vlog1p(a))
UNARY(sin, vsin(a))
UNARY(cos, vcos(a))
UNARY(tanh, vtanh(a))
UNARY(erf, verf(a))
UNARY(sigmoid, vsigmoid(a))
UNARY(sqrt, vsqrt(a))
UNARY(rsqrt, vset(1.0f) / vsqrt(a))
UNARY(reciprocal, vset(1.0f) / a)

BINARY(maximum, vmax(a, b))
BINARY(minimum, vmin(a, b))
BINARY(pow, vpow(a, b))

/* The exponents with a rule of their own. */
PLACES_TASK(one, LOAD_A, ((void)a, vset(1.0f)))
PLACES_TASK(same, LOAD_A, a)
PLACES_TASK(square, LOAD_A, a * a)
PLACES_TASK(cube, LOAD_A, (a * a) * a)
PLACES_TASK(fourth, LOAD_A, (a * a) * (a * a))
PLACES_TASK(over_square, LOAD_A, vset(1.0f) / (a * a))
PLACES_TASK(any_power, LOAD_A, vpow(a, vset(it->p)))

static int pow_scalar_places(void *ctx, int64_t begin, int64_t end) {
    const float exponent = ((const struct places *)ctx)->p;
    if (exponent == 0.0f) return one_places(ctx, begin, end);
    if (exponent == 1.0f) return same_places(ctx, begin, end);
    if (exponent == 2.0f) return square_places(ctx, begin, end);
    if (exponent == 3.0f) return cube_places(ctx, begin, end);
    if (exponent == 4.0f) return fourth_places(ctx, begin, end);
    if (exponent == 0.5f) return sqrt_places(ctx, begin, end);
    if (exponent == -0.5f) return rsqrt_places(ctx, begin, end);
    if (exponent == -1.0f) return reciprocal_places(ctx, begin, end);
    if (exponent == -2.0f) return over_square_places(ctx, begin, end);
    return any_power_places(ctx, begin, end);
}
PLACES_KERNEL(pow_scalar, (const float *a, float exponent, float *y, int64_t n), {.a = a, .y = y, .p = exponent})

PLACES_TASK(clamp, LOAD_A, vmin(vmax(a, vset(it->p)), vset(it->q)))
PLACES_TASK(clamp_low, LOAD_A, vmax(a, vset(it->p)))
PLACES_TASK(clamp_high, LOAD_A, vmin(a, vset(it->p)))
PLACES_KERNEL(clamp, (const float *a, float low, float high, float *y, int64_t n),
              {.a = a, .y = y, .p = low, .q = high})
PLACES_KERNEL(clamp_low, (const float *a, float low, float *y, int64_t n), {.a = a, .y = y, .p = low})
PLACES_KERNEL(clamp_high, (const float *a, float high, float *y, int64_t n), {.a = a, .y = y, .p = high})

PLACES_TASK(lerp, LOAD_AB, vlerp(a, b, it->p))
PLACES_TASK(addcmul, LOAD_ABC, a + (vset(it->p) * b) * c)
PLACES_KERNEL(lerp, (const float *a, const float *target, float weight, float *y, int64_t n),
              {.a = a, .b = target, .y = y, .p = weight})
PLACES_KERNEL(addcmul, (const float *a, const float *b, const float *c, float value, float *y, int64_t n),
              {.a = a, .b = b, .c = c, .y = y, .p = value})

/* ---------------------------------------------------------------- conversions that C leaves undefined somewhere */

struct converted {
    const void *from;
    void *to;
};

#define CONVERSION(name, source, target, expression)                                                                   \
    static int name##_places(void *ctx, int64_t begin, int64_t end) {                                                  \
        const struct converted *it = (const struct converted *)ctx;                                                    \
        const source *from = (const source *)it->from;                                                                 \
        target *to = (target *)it->to;                                                                                 \
        FOR_PLACES(i, begin, end) {                                                                                    \
            const source x = from[i];                                                                                  \
            to[i] = (target)(expression);                                                                              \
        }                                                                                                              \
        return 0;                                                                                                      \
    }                                                                                                                  \
    TASK_KERNEL(name, (const source *from, target *to, int64_t n), n, PLACES_AT_ONCE, name##_places, struct converted, \
                {from, to})

/* Cut towards 0; what lies outside gives the nearest end, NaN gives 0. */
#define CUT(low, high) x >= (float)(high) ? (high) : x <= (float)(low) ? (low) : x != x ? 0 : x
CONVERSION(f32_to_i64, float, int64_t, x >= 0x1p63f ? INT64_MAX : x <= -0x1p63f ? INT64_MIN : x != x ? 0 : (int64_t)x)
CONVERSION(f32_to_i32, float, int32_t, x >= 0x1p31f ? INT32_MAX : x <= -0x1p31f ? INT32_MIN : x != x ? 0 : (int32_t)x)
CONVERSION(f32_to_i16, float, int16_t, CUT(-32768, 32767))
CONVERSION(f32_to_i8, float, int8_t, CUT(-128, 127))
CONVERSION(f32_to_u8, float, uint8_t, CUT(0, 255))
CONVERSION(i64_to_f32, int64_t, float, x)
CONVERSION(i32_to_f32, int32_t, float, x)
