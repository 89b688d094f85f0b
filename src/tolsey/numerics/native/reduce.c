/* Sums, means, variances, norms, largest and smallest over any dims; running sums; the place of the largest.
 *
 * A reduction of one chunk is a *piece*: pieces go to threads in any order, and what they leave, [kept, chunks, width], is
 * reduced by the same code until one chunk is left. So a sum over everything uses all threads and keeps its one order.
 *
 * After dims of size 1 are dropped and neighbours of one kind joined, two cases are left. The last dim is reduced: a list
 * lies in one piece, or is gathered into one, and is folded along. The last dim is kept: `width` lists lie side by side and
 * are folded as columns, each row of memory read once. */
#include "functions.h"
#include "reduce.h"
#include "lists.h"

enum reduction { SUM, SQUARES, SIZES, NONZERO, POWERS, LARGEST, SMALLEST, LARGEST_SIZE, SMALLEST_SIZE };

struct reducing {
    enum reduction kind;
    const float *x;
    const float *mean; /* SQUARES: per result; NULL is 0 */
    float power;       /* POWERS */
    float *y;          /* [kept, chunks, width] */
    struct lists lists;
    int64_t chunks;
};

/* Changes nothing that it is folded with; places beyond a list hold it too. */
INLINE vf beginning(enum reduction kind) {
    if (kind == LARGEST) return vset(-__builtin_inff());
    if (kind == SMALLEST || kind == SMALLEST_SIZE) return vset(__builtin_inff());
    return (vf){0};
}

/* Large and rarely asked for: one copy. */
__attribute__((noinline)) static vf size_to_the(vf x, vf power) { return vpow(vabs(x), power); }

/* One more number in each place of `lane`; `here` says how many of x are there. */
INLINE vf fold(enum reduction kind, vf lane, vf x, vf mean, vf power, int64_t here) {
    switch (kind) {
    case SUM: return lane + vfirst(x, here);
    case SQUARES: {
        vf d = vfirst(x - mean, here);
        return vfma(d, d, lane);
    }
    case SIZES: return lane + vfirst(vabs(x), here);
    case NONZERO: return lane + vfirst(vselect((vi)(x != (vf){0}), vset(1.0f), (vf){0}), here);
    case POWERS: return lane + vfirst(size_to_the(x, power), here);
    case LARGEST: return vmax(lane, x);
    case SMALLEST: return vmin(lane, x);
    case LARGEST_SIZE: return vmax(lane, vabs(x));
    default: return vmin(lane, vabs(x));
    }
}

/* What the results of chunks are folded by. */
static enum reduction above(enum reduction kind) {
    if (kind == LARGEST || kind == LARGEST_SIZE) return LARGEST;
    if (kind == SMALLEST || kind == SMALLEST_SIZE) return SMALLEST;
    return SUM;
}

INLINE float along(enum reduction kind, const float *x, int64_t n, float mean, float power) {
    struct lanes a;
    const vf m = vset(mean), p = vset(power), begin = beginning(kind);
    UNROLLED for (int q = 0; q < LANE_VECTORS; q++) a.v[q] = begin;
    const float other = begin[0];
    FOR_LANES(n, { a.v[q] = fold(kind, a.v[q], vload_or(x + i, w, other), m, p, w); });
    if (above(kind) == SUM) return lanes_total(a);
    for (int q = 1; q < LANE_VECTORS; q++) a.v[0] = fold(above(kind), a.v[0], a.v[q], m, p, VW);
    float found = a.v[0][0];
    for (int i = 1; i < VW; i++) found = fold(above(kind), vset(found), vset(a.v[0][i]), m, p, VW)[0];
    return found;
}

INLINE int rows_task(enum reduction kind, const struct reducing *it, int64_t begin, int64_t end) {
    for (int64_t piece = begin; piece < end; piece++) {
        int64_t kept = piece / it->chunks, first = piece % it->chunks * CHUNK;
        int64_t length = least(CHUNK, it->lists.n - first);
        const float *list = list_part(&it->lists, it->x, kept, first, length);
        if (!list) return TOLSEY_NO_MEMORY;
        it->y[piece] = along(kind, list, length, it->mean ? it->mean[kept] : 0.0f, it->power);
    }
    return TOLSEY_OK;
}

/* Rows that share a lane are taken four at a time, so that the lane is read and written once for them. */
enum { ROWS_TOGETHER = 4 };

INLINE void fold_columns(enum reduction kind, const float *const *row, int64_t rows, int64_t width, const float *mean, vf power,
                         float *lane) {
    if (rows == 0)
        for (int64_t j = 0; j < PANEL; j += VW) vstore(lane + j, beginning(kind));
    for (int64_t block = 0; block < rows; block += ROWS_TOGETHER * LANES) {
        for (int64_t l = 0; l < LANES && block + l < rows; l++) {
            const float *const *mine = row + block + l;
            int64_t left = (rows - block - l + LANES - 1) / LANES;
            FOR_VECTORS(j, w, 0, width) {
                vf m = mean ? vload_n(mean + j, w) : (vf){0};
                vf a = block ? vload(lane + l * PANEL + j) : beginning(kind);
                a = fold(kind, a, vload_n(mine[0] + j, w), m, power, w);
                if (left > 1) a = fold(kind, a, vload_n(mine[LANES] + j, w), m, power, w);
                if (left > 2) a = fold(kind, a, vload_n(mine[2 * LANES] + j, w), m, power, w);
                if (left > 3) a = fold(kind, a, vload_n(mine[3 * LANES] + j, w), m, power, w);
                vstore(lane + l * PANEL + j, a);
            }
        }
    }
    rows = least(rows, LANES);
    if (above(kind) == SUM) {
        lane_rows_total(lane, rows, PANEL, width);
        return;
    }
    for (int64_t l = 1; l < rows; l++)
        for (int64_t j = 0; j < width; j += VW)
            vstore(lane + j, fold(above(kind), vload(lane + j), vload(lane + l * PANEL + j), (vf){0}, power, VW));
}

INLINE int columns_task(enum reduction kind, const struct reducing *it, int64_t begin, int64_t end) {
    const int64_t panels = (it->lists.width - 1) / PANEL + 1;
    float lane[LANES * PANEL];
    const float *row[CHUNK];
    for (int64_t piece = begin; piece < end; piece++) {
        int64_t panel = piece % panels, chunk = piece / panels % it->chunks, kept = piece / panels / it->chunks;
        int64_t first = chunk * CHUNK, rows = least(CHUNK, it->lists.n - first), column = panel * PANEL;
        int64_t width = least(PANEL, it->lists.width - column);
        list_rows(&it->lists, it->x + column, kept, first, rows, row);
        const float *mean = it->mean ? it->mean + kept * it->lists.width + column : NULL;
        fold_columns(kind, row, rows, width, mean, vset(it->power), lane);
        float *to = it->y + (kept * it->chunks + chunk) * it->lists.width + column;
        FOR_VECTORS(j, w, 0, width) { vstore_n(to + j, vload(lane + j), w); }
    }
    return TOLSEY_OK;
}

#define TASK(KIND)                                                                                                     \
    static int rows_##KIND(void *it, int64_t begin, int64_t end) { return rows_task(KIND, it, begin, end); }           \
    static int columns_##KIND(void *it, int64_t begin, int64_t end) { return columns_task(KIND, it, begin, end); }
TASK(SUM)
TASK(SQUARES)
TASK(SIZES)
TASK(NONZERO)
TASK(POWERS)
TASK(LARGEST)
TASK(SMALLEST)
TASK(LARGEST_SIZE)
TASK(SMALLEST_SIZE)
static const tolsey_task TASKS[][2] = {
    [SUM] = {rows_SUM, columns_SUM},
    [SQUARES] = {rows_SQUARES, columns_SQUARES},
    [SIZES] = {rows_SIZES, columns_SIZES},
    [NONZERO] = {rows_NONZERO, columns_NONZERO},
    [POWERS] = {rows_POWERS, columns_POWERS},
    [LARGEST] = {rows_LARGEST, columns_LARGEST},
    [SMALLEST] = {rows_SMALLEST, columns_SMALLEST},
    [LARGEST_SIZE] = {rows_LARGEST_SIZE, columns_LARGEST_SIZE},
    [SMALLEST_SIZE] = {rows_SMALLEST_SIZE, columns_SMALLEST_SIZE},
};

/* Chunks of a list of n; one, of nothing, where n is 0. */
static int64_t chunks_of(int64_t n) { return n > CHUNK ? (n - 1) / CHUNK + 1 : 1; }

/* Results of all levels below the last one, one after another. */
static int64_t partial_count(const struct lists *lists) {
    int64_t count = 0;
    for (int64_t n = chunks_of(lists->n); n > 1; n = chunks_of(n)) count += lists->kept * n * lists->width;
    return count;
}

/* Reduces every list of `it` to one number in `y`; `partial` has room for partial_count. */
static int reduce(struct reducing it, float *y, float *partial) {
    for (;;) {
        it.chunks = chunks_of(it.lists.n);
        it.y = it.chunks == 1 ? y : partial;
        const int columns = it.lists.width > 1;
        int64_t pieces = it.lists.kept * it.chunks * (columns ? (it.lists.width - 1) / PANEL + 1 : 1);
        int64_t cost = least(it.lists.n, CHUNK) * (columns ? least(it.lists.width, PANEL) : 1) + 1;
        int answer = tolsey_parallel(pieces, (1 << 14) / cost, TASKS[it.kind][columns], &it);
        if (answer != TOLSEY_OK || it.chunks == 1) return answer;
        partial += it.lists.kept * it.chunks * it.lists.width;
        it = (struct reducing){.kind = above(it.kind), .x = it.y, .lists = lists_between(it.lists.kept, it.chunks, it.lists.width)};
    }
}

static int reduce_dims(enum reduction kind, float power, const float *x, float *y, int64_t rank, const int64_t *sizes,
                       uint32_t reduced, struct lists *lists) {
    if (!lists_over(lists, rank, sizes, reduced)) return TOLSEY_BAD_ARGUMENT;
    if (above(kind) != SUM && lists->n == 0 && lists->kept * lists->width > 0) return TOLSEY_BAD_ARGUMENT;
    int64_t room = partial_count(lists);
    float *partial = tolsey_scratch(SCRATCH_SUMS, sizeof(float) * (size_t)(room + 1));
    if (!partial) return TOLSEY_NO_MEMORY;
    return reduce((struct reducing){.kind = kind, .x = x, .power = power, .lists = *lists}, y, partial);
}

/* ---------------------------------------------------------------- what is done to a finished sum */

struct finishing {
    enum { DIVIDE, ROOT, POWER } how;
    float *y, by;
};

static int finish_task(void *ctx, int64_t begin, int64_t end) {
    const struct finishing *it = ctx;
    const vf by = vset(it->by);
    FOR_VECTORS(i, w, begin, end) {
        vf x = vload_n(it->y + i, w);
        vstore_n(it->y + i, it->how == DIVIDE ? x / by : it->how == ROOT ? vsqrt(x) : vpow(x, by), w);
    }
    return TOLSEY_OK;
}

static int finish(const struct lists *lists, struct finishing how) {
    return tolsey_parallel(lists->kept * lists->width, 1 << 13, finish_task, &how);
}

/* ---------------------------------------------------------------- operations over any dims */

/* x has `rank` dims of these sizes, row-major; bit d of `reduced` is set where dim d is reduced. y has the others. */

TOLSEY_EXPORT int tolsey_sum(const float *x, float *y, int64_t rank, const int64_t *sizes, uint32_t reduced) {
    LAWFUL_ENTRY;
    struct lists lists;
    return reduce_dims(SUM, 0, x, y, rank, sizes, reduced, &lists);
}

TOLSEY_EXPORT int tolsey_mean(const float *x, float *y, int64_t rank, const int64_t *sizes, uint32_t reduced) {
    LAWFUL_ENTRY;
    struct lists lists;
    int answer = reduce_dims(SUM, 0, x, y, rank, sizes, reduced, &lists);
    return answer ? answer : finish(&lists, (struct finishing){DIVIDE, y, (float)lists.n});
}

int tolsey_squares(const float *x, const float *mean, float *y, int64_t rank, const int64_t *sizes, uint32_t reduced) {
    struct lists lists;
    if (!lists_over(&lists, rank, sizes, reduced)) return TOLSEY_BAD_ARGUMENT;
    float *partial = tolsey_scratch(SCRATCH_SUMS, sizeof(float) * (size_t)(partial_count(&lists) + 1));
    if (!partial) return TOLSEY_NO_MEMORY;
    return reduce((struct reducing){.kind = SQUARES, .x = x, .mean = mean, .lists = lists}, y, partial);
}

TOLSEY_EXPORT int tolsey_variance(const float *x, float *y, int64_t rank, const int64_t *sizes, uint32_t reduced,
                                  double correction) {
    LAWFUL_ENTRY;
    struct lists lists;
    if (!lists_over(&lists, rank, sizes, reduced)) return TOLSEY_BAD_ARGUMENT;
    int64_t room = partial_count(&lists), results = lists.kept * lists.width;
    float *mean = tolsey_scratch(SCRATCH_SUMS, sizeof(float) * (size_t)(results + room + 1));
    if (!mean) return TOLSEY_NO_MEMORY;
    int answer = reduce((struct reducing){.kind = SUM, .x = x, .lists = lists}, mean, mean + results);
    if (!answer) answer = finish(&lists, (struct finishing){DIVIDE, mean, (float)lists.n});
    if (!answer) answer = reduce((struct reducing){.kind = SQUARES, .x = x, .mean = mean, .lists = lists}, y, mean + results);
    double left = (double)lists.n - correction;
    return answer ? answer : finish(&lists, (struct finishing){DIVIDE, y, (float)(left > 0 ? left : 0)});
}

TOLSEY_EXPORT int tolsey_amax(const float *x, float *y, int64_t rank, const int64_t *sizes, uint32_t reduced) {
    LAWFUL_ENTRY;
    struct lists lists;
    return reduce_dims(LARGEST, 0, x, y, rank, sizes, reduced, &lists);
}

TOLSEY_EXPORT int tolsey_amin(const float *x, float *y, int64_t rank, const int64_t *sizes, uint32_t reduced) {
    LAWFUL_ENTRY;
    struct lists lists;
    return reduce_dims(SMALLEST, 0, x, y, rank, sizes, reduced, &lists);
}

TOLSEY_EXPORT int tolsey_vector_norm(const float *x, float *y, int64_t rank, const int64_t *sizes, uint32_t reduced,
                                     double order) {
    LAWFUL_ENTRY;
    struct lists lists;
    if (order == 2) {
        int answer = reduce_dims(SQUARES, 0, x, y, rank, sizes, reduced, &lists);
        return answer ? answer : finish(&lists, (struct finishing){ROOT, y, 0});
    }
    if (order == 1) return reduce_dims(SIZES, 0, x, y, rank, sizes, reduced, &lists);
    if (order == 0) return reduce_dims(NONZERO, 0, x, y, rank, sizes, reduced, &lists);
    if (order == __builtin_inf()) return reduce_dims(LARGEST_SIZE, 0, x, y, rank, sizes, reduced, &lists);
    if (order == -__builtin_inf()) return reduce_dims(SMALLEST_SIZE, 0, x, y, rank, sizes, reduced, &lists);
    const float power = (float)order;
    int answer = reduce_dims(POWERS, power, x, y, rank, sizes, reduced, &lists);
    if (!answer && order < 0 && lists.n == 0 && lists.kept * lists.width > 0) return TOLSEY_BAD_ARGUMENT;
    return answer ? answer : finish(&lists, (struct finishing){POWER, y, 1.0f / power});
}

/* ---------------------------------------------------------------- operations along one dim of [outer, n, inner] */

struct along_dim {
    const float *x;
    float *y;
    int64_t *place;
    int64_t n, inner;
};

/* Lists lie `inner` apart in steps; PANEL of them are walked together so that memory is read in order. */
static int cumsum_task(void *ctx, int64_t begin, int64_t end) {
    const struct along_dim *it = ctx;
    const int64_t panels = (it->inner - 1) / PANEL + 1;
    for (int64_t piece = begin; piece < end; piece++) {
        int64_t at = piece / panels * it->n * it->inner + piece % panels * PANEL;
        int64_t width = least(PANEL, it->inner - piece % panels * PANEL);
        float sum[PANEL] = {0};
        for (int64_t i = 0; i < it->n; i++, at += it->inner)
            FOR_VECTORS(j, w, 0, width) {
                vf s = vload(sum + j) + vload_n(it->x + at + j, w);
                vstore(sum + j, s);
                vstore_n(it->y + at + j, s, w);
            }
    }
    return TOLSEY_OK;
}

/* Rows: each is one chain of additions that wait for each other, so several are walked together. */
enum { ROWS_AT_ONCE = 8 };
static int cumsum_rows_task(void *ctx, int64_t begin, int64_t end) {
    const struct along_dim *it = ctx;
    const int64_t n = it->n;
    int64_t row = begin;
    for (; row + ROWS_AT_ONCE <= end; row += ROWS_AT_ONCE) {
        const float *x = it->x + row * n;
        float *y = it->y + row * n, sum[ROWS_AT_ONCE] = {0};
        for (int64_t i = 0; i < n; i++)
            UNROLLED for (int j = 0; j < ROWS_AT_ONCE; j++) y[j * n + i] = sum[j] = sum[j] + x[j * n + i];
    }
    for (; row < end; row++) {
        float sum = 0;
        for (int64_t i = row * n; i < (row + 1) * n; i++) it->y[i] = sum = sum + it->x[i];
    }
    return TOLSEY_OK;
}

TOLSEY_EXPORT int tolsey_cumsum(const float *x, float *y, int64_t outer, int64_t n, int64_t inner) {
    LAWFUL_ENTRY;
    if (outer < 0 || n < 0 || inner < 0) return TOLSEY_BAD_ARGUMENT;
    if (inner == 0) return TOLSEY_OK;
    struct along_dim it = {.x = x, .y = y, .n = n, .inner = inner};
    if (inner == 1) return tolsey_parallel(outer, round_up((1 << 14) / (n + 1), ROWS_AT_ONCE), cumsum_rows_task, &it);
    return tolsey_parallel(outer * ((inner - 1) / PANEL + 1), (1 << 14) / (n * least(inner, PANEL) + 1), cumsum_task, &it);
}

/* The first NaN, else the first that equals the largest. */
static int argmax_rows_task(void *ctx, int64_t begin, int64_t end) {
    const struct along_dim *it = ctx;
    for (int64_t row = begin; row < end; row++) {
        const float *x = it->x + row * it->n, greatest = row_greatest(x, it->n);
        int64_t nan = 0, place = 0;
        while (nan < it->n && x[nan] == x[nan]) nan++;
        while (nan == it->n && x[place] != greatest) place++;
        it->place[row] = nan < it->n ? nan : place;
    }
    return TOLSEY_OK;
}

static int argmax_task(void *ctx, int64_t begin, int64_t end) {
    const struct along_dim *it = ctx;
    for (int64_t list = begin; list < end; list++) {
        const float *x = it->x + list / it->inner * it->n * it->inner + list % it->inner;
        int64_t place = 0;
        for (int64_t i = 1; i < it->n && x[place * it->inner] == x[place * it->inner]; i++)
            if (!(x[i * it->inner] <= x[place * it->inner])) place = i;
        it->place[list] = place;
    }
    return TOLSEY_OK;
}

TOLSEY_EXPORT int tolsey_argmax(const float *x, int64_t *place, int64_t outer, int64_t n, int64_t inner) {
    LAWFUL_ENTRY;
    if (outer < 0 || n < 0 || inner < 0 || (n == 0 && outer * inner > 0)) return TOLSEY_BAD_ARGUMENT;
    struct along_dim it = {.x = x, .place = place, .n = n, .inner = inner};
    return tolsey_parallel(outer * inner, (1 << 14) / (n + 1), inner == 1 ? argmax_rows_task : argmax_task, &it);
}
