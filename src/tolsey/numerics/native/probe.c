/* base.h's own operations one by one, so that tests (and a self-test on a stranger's machine) can look at them. */
#include "base.h"

enum { FMA, FMA_ONE, SQRT, SQRT_ONE, ROUND, ROUND_ONE, MAX, MIN, CANONICAL, ADD, SUB, MUL, DIV, PROBES };

struct probed {
    int64_t what;
    const float *a, *b, *c;
    float *out;
};

static int probe_some(void *ctx, int64_t begin, int64_t end) {
    struct probed *it = (struct probed *)ctx;
    FOR_VECTORS(i, w, begin, end) {
        vf a = vload_n(it->a + i, w), b = vload_n(it->b + i, w), c = vload_n(it->c + i, w), r = a;
        switch (it->what) {
        case FMA: r = vfma(a, b, c); break;
        case FMA_ONE:
            for (int l = 0; l < VW; l++) r[l] = sfma(a[l], b[l], c[l]);
            break;
        case SQRT: r = vsqrt(a); break;
        case SQRT_ONE:
            for (int l = 0; l < VW; l++) r[l] = ssqrt(a[l]);
            break;
        case ROUND: r = vround(a); break;
        case ROUND_ONE:
            for (int l = 0; l < VW; l++) r[l] = sround(a[l]);
            break;
        case MAX: r = vmax(a, b); break;
        case MIN: r = vmin(a, b); break;
        case CANONICAL: r = vcanonical(a); break;
        case ADD: r = a + b; break;
        case SUB: r = a - b; break;
        case MUL: r = a * b; break;
        case DIV: r = a / b; break;
        }
        vstore_n(it->out + i, r, w);
    }
    return 0;
}

TASK_KERNEL(probe, (int64_t what, const float *a, const float *b, const float *c, float *out, int64_t n),
            what < 0 || what >= PROBES ? -1 : n, 1000, probe_some, struct probed, {what, a, b, c, out})
