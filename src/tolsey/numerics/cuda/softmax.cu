/* Softmax and log-softmax along one dim of [before, n, after]: docs/numerics/reductions.md, section 3. A team for each list. */
#include "warps.h"

enum kind { SOFTMAX, SAFE_SOFTMAX, LOG_SOFTMAX };

template <class Team>
INLINE void softmax(const Team &team, int32_t kind, const float *x, float *y, int64_t before, int64_t n, int64_t after) {
    FOR_LISTS(list, team, before * after) {
        const int64_t begin = list / after * n * after + list % after;
        const float *from = x + begin;
        const float m = team.template over<largest>(n, [=](float lane, int64_t i) { return largest::join(lane, from[i * after]); });
        const float s = team.sum(n, [=](float lane, int64_t i) { return lane + sexp(from[i * after] - m); });
        const float by = kind == LOG_SOFTMAX ? slog(s) : 1.0f / s;
        /* The largest is -infinity where all are. */
        const bool nothing = kind == SAFE_SOFTMAX && m == -INFINITE;
        FOR_MEMBERS(i, team, n) {
            const float d = from[i * after] - m;
            y[begin + i * after] = nothing ? 0.0f : kind == LOG_SOFTMAX ? d - by : sexp(d) * by;
        }
    }
}
#define ALL kind, x, y, before, n, after
TEAM_KERNELS(softmax, (int32_t kind, const float *x, float *y, int64_t before, int64_t n, int64_t after), ALL)
#undef ALL

template <class Team>
INLINE void softmax_backward(const Team &team, int32_t kind, const float *grad, const float *y, float *dx, int64_t before,
                             int64_t n, int64_t after) {
    FOR_LISTS(list, team, before * after) {
        const int64_t begin = list / after * n * after + list % after;
        const float *g = grad + begin, *of = y + begin;
        if (kind == LOG_SOFTMAX) {
            const float s = team.sum(n, [=](float lane, int64_t i) { return lane + g[i * after]; });
            FOR_MEMBERS(i, team, n) dx[begin + i * after] = sfma(-sexp(of[i * after]), s, g[i * after]);
        } else {
            const float s = team.sum(n, [=](float lane, int64_t i) { return sfma(g[i * after], of[i * after], lane); });
            FOR_MEMBERS(i, team, n) dx[begin + i * after] = (g[i * after] - s) * of[i * after];
        }
    }
}
#define ALL kind, grad, y, dx, before, n, after
TEAM_KERNELS(softmax_backward,
             (int32_t kind, const float *grad, const float *y, float *dx, int64_t before, int64_t n, int64_t after), ALL)
#undef ALL
