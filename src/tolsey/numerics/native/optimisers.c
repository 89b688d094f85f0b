/* One step of an optimiser over one tensor, in one pass: docs/numerics/functions.md, section 6.
 *
 * What is computed is what the nodes of a program's update phase compute one after another, operation by operation; here
 * the numbers in between stay in registers. An output may be the input that it replaces. */
#include "places.h"

struct update {
    const float *param, *grad, *first, *second;
    float *param_out, *first_out, *second_out;
    float factor, decay, rate, correction, weight1, weight2, beta2, eps;
    int nesterov;
};

static int adamw_places(void *ctx, int64_t begin, int64_t end) {
    const struct update *it = (const struct update *)ctx;
    FOR_VECTORS(i, w, begin, end) {
        vf param = vload_n(it->param + i, w), grad = vload_n(it->grad + i, w) * vset(it->factor);
        vf first = vlerp(vload_n(it->first + i, w), grad, it->weight1);
        vf second = vload_n(it->second + i, w) * vset(it->beta2) + (vset(it->weight2) * grad) * grad;
        vf spread = vsqrt(second) * vset(it->correction) + vset(it->eps);
        vstore_n(it->param_out + i, param * vset(it->decay) - (first / spread) * vset(it->rate), w);
        vstore_n(it->first_out + i, first, w);
        vstore_n(it->second_out + i, second, w);
    }
    return 0;
}

TASK_KERNEL(adamw,
            (const float *param, const float *grad, const float *first, const float *second, float *param_out,
             float *first_out, float *second_out, int64_t n, float factor, float decay, float step_size,
             float correction, float weight1, float beta2, float weight2, float eps),
            n, PLACES_AT_ONCE, adamw_places, struct update,
            {.param = param, .grad = grad, .first = first, .second = second, .param_out = param_out,
             .first_out = first_out, .second_out = second_out, .factor = factor, .decay = decay, .rate = step_size,
             .correction = correction, .weight1 = weight1, .weight2 = weight2, .beta2 = beta2, .eps = eps})

/* `first` is the velocity, `weight1` the momentum. */
static int sgd_places(void *ctx, int64_t begin, int64_t end) {
    const struct update *it = (const struct update *)ctx;
    FOR_VECTORS(i, w, begin, end) {
        vf param = vload_n(it->param + i, w), grad = vload_n(it->grad + i, w) * vset(it->factor);
        if (it->decay != 0.0f) grad = grad + param * vset(it->decay);
        vf velocity = vload_n(it->first + i, w) * vset(it->weight1) + grad;
        vf direction = it->nesterov ? grad + velocity * vset(it->weight1) : velocity;
        vstore_n(it->param_out + i, param - direction * vset(it->rate), w);
        vstore_n(it->first_out + i, velocity, w);
    }
    return 0;
}

TASK_KERNEL(sgd,
            (const float *param, const float *grad, const float *velocity, float *param_out, float *velocity_out,
             int64_t n, float factor, float weight_decay, float momentum, int32_t nesterov, float lr),
            n, PLACES_AT_ONCE, sgd_places, struct update,
            {.param = param, .grad = grad, .first = velocity, .param_out = param_out, .first_out = velocity_out,
             .factor = factor, .decay = weight_decay, .rate = lr, .weight1 = momentum, .nesterov = nesterov})

static int lion_places(void *ctx, int64_t begin, int64_t end) {
    const struct update *it = (const struct update *)ctx;
    FOR_VECTORS(i, w, begin, end) {
        vf param = vload_n(it->param + i, w), grad = vload_n(it->grad + i, w) * vset(it->factor);
        vf moment = vload_n(it->first + i, w), direction = vsign(vlerp(moment, grad, it->weight1));
        vstore_n(it->param_out + i, param * vset(it->decay) - direction * vset(it->rate), w);
        vstore_n(it->first_out + i, vlerp(moment, grad, it->weight2), w);
    }
    return 0;
}

TASK_KERNEL(lion,
            (const float *param, const float *grad, const float *moment, float *param_out, float *moment_out, int64_t n,
             float factor, float decay, float lr, float weight1, float weight2),
            n, PLACES_AT_ONCE, lion_places, struct update,
            {.param = param, .grad = grad, .first = moment, .param_out = param_out, .first_out = moment_out,
             .factor = factor, .decay = decay, .rate = lr, .weight1 = weight1, .weight2 = weight2})
