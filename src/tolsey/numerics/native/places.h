/* Kernels in which each place is computed from the same place of up to three inputs, and nothing else.
 *
 * The output may be one of the inputs: a place is read before it is written, and nobody else's place is touched. */
#ifndef TOLSEY_PLACES_H
#define TOLSEY_PLACES_H

#include "functions.h"

/* Places that one thread takes at a time: some microseconds of work. */
enum { PLACES_AT_ONCE = 1 << 13 };

struct places {
    const float *a, *b, *c;
    float *y;
    float p, q;
};

/* What a task sees of its inputs. */
#define LOAD_A vf a = vload_n(it->a + i, w)
#define LOAD_AB LOAD_A, b = vload_n(it->b + i, w)
#define LOAD_ABC LOAD_AB, c = vload_n(it->c + i, w)

/* Walks the places: a vector at a time, unless a GPU's lane.h has said otherwise. After the expression: what it loads. */
#if !defined(WALK_PLACES)
#define WALK_PLACES(begin, end, expression, ...)                                                                       \
    FOR_VECTORS(i, w, begin, end) {                                                                                    \
        __VA_ARGS__;                                                                                                   \
        vstore_n(it->y + i, (expression), w);                                                                          \
    }
#endif

/* A task out of an expression in the vectors a, b, c and the numbers it->p, it->q. */
#define PLACES_TASK(name, loads, expression)                                                                           \
    static int name##_places(void *ctx, int64_t begin, int64_t end) {                                                  \
        const struct places *it = (const struct places *)ctx;                                                          \
        WALK_PLACES(begin, end, (expression), loads)                                                                   \
        return 0;                                                                                                      \
    }

/* The kernel of a task: its parameters, the last of which is n, and what of `struct places` they fill in. */
#define PLACES_KERNEL(name, parameters, ...)                                                                           \
    TASK_KERNEL(name, parameters, n, PLACES_AT_ONCE, name##_places, struct places, __VA_ARGS__)

#define UNARY(name, expression)                                                                                        \
    PLACES_TASK(name, LOAD_A, expression)                                                                              \
    PLACES_KERNEL(name, (const float *a, float *y, int64_t n), {.a = a, .y = y})

#define BINARY(name, expression)                                                                                       \
    PLACES_TASK(name, LOAD_AB, expression)                                                                             \
    PLACES_KERNEL(name, (const float *a, const float *b, float *y, int64_t n), {.a = a, .b = b, .y = y})

#endif
