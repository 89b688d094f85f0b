/* Negative log likelihood and squared error: docs/numerics/reductions.md, section 5. Their sums are passes of reduce.cu.
 *
 * A target that is neither a class nor the ignored one raises *wrong, which launches.py reads. */
#include "lane.h"

enum { NONE, MEAN, SUM };

struct likelihood {
    const int64_t *target;
    const float *weight; /* [classes] or null */
    int64_t examples, classes, places, ignored;
    int32_t reduction;
    int32_t *wrong;
};

/* For each position its part of the loss and its weight; +0 both where it does not count. */
KERNEL nll_terms(const struct likelihood it, const float *x, float *loss, float *weight) {
    FOR_PLACES(k, 0, it.examples * it.places) {
        const int64_t chosen = it.target[k];
        const bool ignored = chosen == it.ignored, there = chosen >= 0 && chosen < it.classes;
        if (!ignored && !there) *it.wrong = 1;
        const float w = ignored || !there ? 0.0f : it.weight ? it.weight[chosen] : 1.0f;
        weight[k] = w;
        loss[k] = ignored || !there ? 0.0f : -x[(k / it.places * it.classes + chosen) * it.places + k % it.places] * w;
    }
}

/* loss: S of the parts, then the mean where that is wanted; one thread. */
KERNEL nll_mean(float *loss, const float *total) {
    FOR_PLACES(i, 0, 1) *loss = *loss / *total;
}

/* A thread for each number of dx [examples, classes, places]. */
KERNEL nll_backward(const struct likelihood it, const float *grad, const float *total, float *dx) {
    FOR_PLACES(i, 0, it.examples * it.classes * it.places) {
        const int64_t place = i % it.places, of_class = i / it.places % it.classes, example = i / it.places / it.classes;
        const int64_t k = example * it.places + place, chosen = it.target[k];
        const bool ignored = chosen == it.ignored;
        if (!ignored && (chosen < 0 || chosen >= it.classes)) *it.wrong = 1;
        float d = 0.0f;
        if (!ignored && chosen == of_class) {
            const float w = it.weight ? it.weight[chosen] : 1.0f;
            d = -w * (it.reduction == NONE ? grad[k] : it.reduction == MEAN ? *grad / *total : *grad);
        }
        dx[i] = d;
    }
}

KERNEL mse_places(const float *x, const float *target, float *y, int64_t n) {
    FOR_PLACES(i, 0, n) {
        const float d = x[i] - target[i];
        y[i] = d * d;
    }
}

/* factor: 2, or 2 / fl(n) for a mean; grad: n numbers (reduction 0) or one. */
KERNEL mse_backward(const float *grad, const float *x, const float *target, float *dx, int64_t n, int32_t reduction,
                    float factor) {
    FOR_PLACES(i, 0, n) dx[i] = (factor * (x[i] - target[i])) * grad[reduction == NONE ? i : 0];
}
