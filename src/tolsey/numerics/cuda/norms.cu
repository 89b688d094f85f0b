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

/* Place and weight of a list's number. A team that keeps its numbers does so for layer norm alone, whose lists are rows: the
 * divisions that others need would take the registers. */
template <class Team> INLINE int64_t place_of(const struct norm &it, int64_t begin, member of) {
    return begin + (Team::KEEPS ? of.i : list_place(it.lists, of.i));
}
template <class Team> INLINE int64_t weight_of(const struct norm &it, int64_t list, member of) {
    return Team::KEEPS ? of.i : weight_place(it, list, of.i);
}

/* mean and rstd are given where not `training`, else they are results. */
template <class Team>
INLINE void norm_forward(const Team &team, const struct norm &it, int32_t training, const float *x, float *y, float *mean,
                         float *rstd) {
    FOR_LISTS(list, team, it.lists.kept * it.lists.width) {
        const int64_t begin = list_begin(it.lists, list), n = it.lists.n;
        const auto place = [&](member of) { return place_of<Team>(it, begin, of); };
        const auto numbers = team.keep(n, [&](member of) { return x[place(of)]; });
        float m, r;
        if (training) {
            m = team.sum(n, [&](float lane, member of) { return lane + numbers[of]; }) / it.n;
            const float squares = team.sum(n, [&](float lane, member of) {
                const float d = numbers[of] - m;
                return sfma(d, d, lane);
            });
            r = 1.0f / ssqrt(squares / it.n + it.eps);
            if (team.thread() == 0) {
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
        team.each(n, [&](member of) { y[place(of)] = scaled(it, (numbers[of] - m) * r, weight_of<Team>(it, list, of)); });
    }
}
#define PARAMETERS (const struct norm it, int32_t training, const float *x, float *y, float *mean, float *rstd)
#define ALL it, training, x, y, mean, rstd
TEAM_KERNELS(norm_forward, PARAMETERS, ALL)
KEPT_KERNEL(norm_forward, PARAMETERS, ALL)
#undef ALL
#undef PARAMETERS

enum direction { BY_ELEMENT, BY_LIST, FIXED };

/* BY_ELEMENT: a weight for each number, before the sums (layer and group norm). BY_LIST: one for the list, after them (batch
 * norm). FIXED: as BY_LIST, with statistics that do not depend on x. */
template <class Team>
INLINE void norm_backward(const Team &team, const struct norm &it, int32_t direction, const float *grad, const float *x,
                          const float *mean, const float *rstd, float *dx) {
    FOR_LISTS(list, team, it.lists.kept * it.lists.width) {
        const int64_t begin = list_begin(it.lists, list), n = it.lists.n;
        const auto place = [&](member of) { return place_of<Team>(it, begin, of); };
        const float m = mean[list], r = rstd[list];
        const float by = direction == BY_ELEMENT || !it.weight ? r : r * it.weight[weight_place(it, list, 0)];
        if (direction == FIXED) {
            team.each(n, [&](member of) { dx[place(of)] = grad[place(of)] * by; });
            continue;
        }
        const auto g = team.keep(n, [&](member of) {
            const float reaching = grad[place(of)];
            return direction == BY_ELEMENT && it.weight ? reaching * it.weight[weight_of<Team>(it, list, of)] : reaching;
        });
        const auto h = team.keep(n, [&](member of) { return (x[place(of)] - m) * r; });
        const float s = team.sum(n, [&](float lane, member of) { return lane + g[of]; }) / it.n;
        const float t = team.sum(n, [&](float lane, member of) { return sfma(g[of], h[of], lane); }) / it.n;
        team.each(n, [&](member of) { dx[place(of)] = (g[of] - sfma(h[of], t, s)) * by; });
    }
}
#define PARAMETERS                                                                                                     \
    (const struct norm it, int32_t direction, const float *grad, const float *x, const float *mean, const float *rstd, \
     float *dx)
#define ALL it, direction, grad, x, mean, rstd, dx
TEAM_KERNELS(norm_backward, PARAMETERS, ALL)
KEPT_KERNEL(norm_backward, PARAMETERS, ALL)
#undef ALL
#undef PARAMETERS

/* 1 / deviation of variances that are given. */
KERNEL spread(const float *variance, float eps, float *rstd, int64_t n) {
    FOR_PLACES(i, 0, n) rstd[i] = 1.0f / ssqrt(variance[i] + eps);
}
