/* Layer, group and batch norm: docs/numerics/reductions.md, section 4. A team for each list of numbers that are normalised
 * together. Gradients of weight and bias are sums (reduce.cu, with_normalised and plain). */
#include "warps.h"

struct norm {
    struct lists lists;
    /* The weight of number i of a list: (list % kinds) * of_kind + i / run. */
    int64_t kinds, of_kind, run;
    const float *weight, *bias; /* may be null */
    float n, n_less, eps;       /* fl(n), fl(n - 1), fl(eps) */
    float momentum, keep;       /* of the running statistics */
    const float *running_mean, *running_variance; /* null where there are none */
    float *new_mean, *new_variance;
};

INLINE int64_t weight_place(const struct norm &it, int64_t list, int64_t i) {
    return list % it.kinds * it.of_kind + (it.run == 1 ? i : i / it.run);
}
INLINE float scaled(const struct norm &it, float h, int64_t at) {
    if (it.weight) return it.bias ? sfma(h, it.weight[at], it.bias[at]) : h * it.weight[at];
    return it.bias ? h + it.bias[at] : h;
}

/* mean and rstd are given where not `training`, else they are results. */
template <class Team>
INLINE void norm_forward(const Team &team, const struct norm &it, int32_t training, const float *x, float *y, float *mean,
                         float *rstd) {
    FOR_LISTS(list, team, it.lists.kept * it.lists.width) {
        const int64_t begin = list_begin(it.lists, list), n = it.lists.n;
        const struct lists &lists = it.lists;
        float m, r;
        if (training) {
            m = team.sum(n, [&](float lane, int64_t i) { return lane + x[begin + list_place(lists, i)]; }) / it.n;
            const float squares = team.sum(n, [&](float lane, int64_t i) {
                const float d = x[begin + list_place(lists, i)] - m;
                return sfma(d, d, lane);
            });
            r = 1.0f / ssqrt(squares / it.n + it.eps);
            if (team.member() == 0) {
                mean[list] = m;
                rstd[list] = r;
                if (it.running_mean) {
                    it.new_mean[list] = sfma(m, it.momentum, it.running_mean[list] * it.keep);
                    it.new_variance[list] = sfma(squares / it.n_less, it.momentum, it.running_variance[list] * it.keep);
                }
            }
        } else {
            m = mean[list];
            r = rstd[list];
        }
        FOR_MEMBERS(i, team, n) {
            const int64_t at = begin + list_place(lists, i);
            y[at] = scaled(it, (x[at] - m) * r, weight_place(it, list, i));
        }
    }
}
#define ALL it, training, x, y, mean, rstd
TEAM_KERNELS(norm_forward,
             (const struct norm it, int32_t training, const float *x, float *y, float *mean, float *rstd), ALL)
#undef ALL

enum direction { BY_ELEMENT, BY_LIST, FIXED };

/* BY_ELEMENT: a weight for each number, before the sums (layer and group norm). BY_LIST: one for the list, after them (batch
 * norm). FIXED: as BY_LIST, with statistics that do not depend on x. */
template <class Team>
INLINE void norm_backward(const Team &team, const struct norm &it, int32_t direction, const float *grad, const float *x,
                          const float *mean, const float *rstd, float *dx) {
    FOR_LISTS(list, team, it.lists.kept * it.lists.width) {
        const int64_t begin = list_begin(it.lists, list), n = it.lists.n;
        const struct lists &lists = it.lists;
        const float m = mean[list], r = rstd[list];
        const float by = direction == BY_ELEMENT || !it.weight ? r : r * it.weight[weight_place(it, list, 0)];
        if (direction == FIXED) {
            FOR_MEMBERS(i, team, n) dx[begin + list_place(lists, i)] = grad[begin + list_place(lists, i)] * by;
            continue;
        }
        const auto g = [&](int64_t i) {
            const float reaching = grad[begin + list_place(lists, i)];
            return direction == BY_ELEMENT && it.weight ? reaching * it.weight[weight_place(it, list, i)] : reaching;
        };
        const auto h = [&](int64_t i) { return (x[begin + list_place(lists, i)] - m) * r; };
        const float s = team.sum(n, [&](float lane, int64_t i) { return lane + g(i); }) / it.n;
        const float t = team.sum(n, [&](float lane, int64_t i) { return sfma(g(i), h(i), lane); }) / it.n;
        FOR_MEMBERS(i, team, n) dx[begin + list_place(lists, i)] = (g(i) - sfma(h(i), t, s)) * by;
    }
}
#define ALL it, direction, grad, x, mean, rstd, dx
TEAM_KERNELS(norm_backward,
             (const struct norm it, int32_t direction, const float *grad, const float *x, const float *mean,
              const float *rstd, float *dx),
             ALL)
#undef ALL

/* 1 / deviation of variances that are given. */
KERNEL spread(const float *variance, float eps, float *rstd, int64_t n) {
    FOR_PLACES(i, 0, n) rstd[i] = 1.0f / ssqrt(variance[i] + eps);
}
