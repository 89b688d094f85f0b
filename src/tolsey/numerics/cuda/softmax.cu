/* Softmax and log-softmax along one dim of [before, n, after]: docs/numerics/reductions.md, section 3. A team for each list. */
#include "warps.h"

enum kind { SOFTMAX, SAFE_SOFTMAX, LOG_SOFTMAX };

template <class Team>
INLINE void softmax(const Team &team, int32_t kind, const float *x, float *y, int64_t before, int64_t n, int64_t after) {
    FOR_LISTS(list, team, before * after) {
        const int64_t begin = list / after * n * after + list % after;
        const float *from = x + begin;
        const auto numbers = team.keep(n, [=](member of) { return from[of.i * after]; });
        const float m = team.template over<largest>(n, [&](float lane, member of) { return largest::join(lane, numbers[of]); });
        if (kind == LOG_SOFTMAX) {
            const float by = slog(team.sum(n, [&](float lane, member of) { return lane + sexp(numbers[of] - m); }));
            team.each(n, [&](member of) { y[begin + of.i * after] = numbers[of] - m - by; });
        } else {
            const auto e = team.keep(n, [&](member of) { return sexp(numbers[of] - m); });
            const float by = 1.0f / team.sum(n, [&](float lane, member of) { return lane + e[of]; });
            /* The largest is -infinity where all are. */
            const bool nothing = kind == SAFE_SOFTMAX && m == -INFINITE;
            team.each(n, [&](member of) { y[begin + of.i * after] = nothing ? 0.0f : e[of] * by; });
        }
    }
}
#define PARAMETERS (int32_t kind, const float *x, float *y, int64_t before, int64_t n, int64_t after)
#define ALL kind, x, y, before, n, after
TEAM_KERNELS(softmax, PARAMETERS, ALL)
KEPT_KERNEL(softmax, PARAMETERS, ALL)
#undef ALL
#undef PARAMETERS

template <class Team>
INLINE void softmax_backward(const Team &team, int32_t kind, const float *grad, const float *y, float *dx, int64_t before,
                             int64_t n, int64_t after) {
    FOR_LISTS(list, team, before * after) {
        const int64_t begin = list / after * n * after + list % after;
        const auto g = team.keep(n, [=](member of) { return grad[begin + of.i * after]; });
        const auto made = team.keep(n, [=](member of) { return y[begin + of.i * after]; });
        float *to = dx + begin;
        if (kind == LOG_SOFTMAX) {
            const float s = team.sum(n, [&](float lane, member of) { return lane + g[of]; });
            team.each(n, [&](member of) { to[of.i * after] = sfma(-sexp(made[of]), s, g[of]); });
        } else {
            const float s = team.sum(n, [&](float lane, member of) { return sfma(g[of], made[of], lane); });
            team.each(n, [&](member of) { to[of.i * after] = (g[of] - s) * made[of]; });
        }
    }
}
#define PARAMETERS                                                                                                     \
    (int32_t kind, const float *grad, const float *y, float *dx, int64_t before, int64_t n, int64_t after)
#define ALL kind, grad, y, dx, before, n, after
TEAM_KERNELS(softmax_backward, PARAMETERS, ALL)
KEPT_KERNEL(softmax_backward, PARAMETERS, ALL)
#undef ALL
#undef PARAMETERS
