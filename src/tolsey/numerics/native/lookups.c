/* Gradients of look-ups: values that land on one place are added in the order in which they stand (docs/numerics/reductions.md,
 * sections 1 and 6). Threads split places, so none is shared. An index outside its table is refused. */
#include "reduce.h"
#include "lists.h"

/* ---------------------------------------------------------------- embedding */

struct embedding {
    const float *grad;
    const int64_t *index, *count;
    float *dweight;
    int64_t positions, rows, width, padding, span;
};

static int embedding_task(void *ctx, int64_t begin, int64_t end) {
    const struct embedding *it = ctx;
    for (int64_t part = begin; part < end; part++) {
        const int64_t first = part * it->span, last = least(first + it->span, it->width);
        for (int64_t row = 0; row < it->rows; row++)
            memset(it->dweight + row * it->width + first, 0, sizeof(float) * (size_t)(last - first));
        for (int64_t k = 0; k < it->positions; k++) {
            if (it->index[k] == it->padding) continue;
            const float *from = it->grad + k * it->width;
            float *to = it->dweight + it->index[k] * it->width;
            FOR_VECTORS(j, w, first, last) { vstore_n(to + j, vload_n(to + j, w) + vload_n(from + j, w), w); }
        }
        for (int64_t row = 0; it->count && row < it->rows; row++) {
            if (it->count[row] == 0) continue;
            float *to = it->dweight + row * it->width;
            const vf by = vset((float)it->count[row]);
            FOR_VECTORS(j, w, first, last) { vstore_n(to + j, vload_n(to + j, w) / by, w); }
        }
    }
    return TOLSEY_OK;
}

/* grad: [positions, width], index: [positions], dweight: [rows, width]. */
TOLSEY_EXPORT int tolsey_embedding_backward(const float *grad, const int64_t *index, float *dweight, int64_t positions,
                                            int64_t rows, int64_t width, int64_t padding, int32_t scale) {
    LAWFUL_ENTRY;
    if (positions < 0 || rows < 0 || width < 0) return TOLSEY_BAD_ARGUMENT;
    int64_t *count = NULL;
    if (scale) {
        count = tolsey_scratch(SCRATCH_EXTRA, sizeof(int64_t) * (size_t)(rows + 1));
        if (!count) return TOLSEY_NO_MEMORY;
        memset(count, 0, sizeof(int64_t) * (size_t)rows);
    }
    for (int64_t k = 0; k < positions; k++) {
        if (index[k] == padding) continue;
        if (index[k] < 0 || index[k] >= rows) return TOLSEY_BAD_INDEX;
        if (count) count[index[k]]++;
    }
    const int64_t span = most(64, round_up((width + tolsey_threads() - 1) / tolsey_threads(), 16));
    struct embedding it = {grad, index, count, dweight, positions, rows, width, padding, span};
    return tolsey_parallel((width + span - 1) / span, 1, embedding_task, &it);
}

/* ---------------------------------------------------------------- scatter */

/* Dims before the scattered one make `outer`, those after it `inner`; index, source and destination may differ in every
 * size, so each has strides of its own. A task is a block of inner places of one outer place, for which the scattered dim is
 * walked from its beginning. */
enum { BLOCK = 256 };
struct scatter {
    const int64_t *index;
    const float *source;
    float *y;
    int64_t n, bound, blocks, inner;
    int outer_dims, inner_dims;
    struct dim index_outer[MAX_RANK], source_outer[MAX_RANK], y_outer[MAX_RANK];
    struct dim index_inner[MAX_RANK], source_inner[MAX_RANK], y_inner[MAX_RANK];
    int64_t index_step, source_step, y_step;
};

static int scatter_task(void *ctx, int64_t begin, int64_t end) {
    const struct scatter *it = ctx;
    int64_t from_index[BLOCK], from_source[BLOCK], to[BLOCK];
    for (int64_t piece = begin; piece < end; piece++) {
        const int64_t outer = piece / it->blocks, first = piece % it->blocks * BLOCK;
        const int64_t count = least(BLOCK, it->inner - first);
        for (int64_t j = 0; j < count; j++) {
            from_index[j] = offset_of(it->index_outer, it->outer_dims, outer) + offset_of(it->index_inner, it->inner_dims, first + j);
            from_source[j] = offset_of(it->source_outer, it->outer_dims, outer) + offset_of(it->source_inner, it->inner_dims, first + j);
            to[j] = offset_of(it->y_outer, it->outer_dims, outer) + offset_of(it->y_inner, it->inner_dims, first + j);
        }
        for (int64_t i = 0; i < it->n; i++)
            for (int64_t j = 0; j < count; j++) {
                const int64_t index = it->index[from_index[j] + i * it->index_step];
                if (index < 0 || index >= it->bound) return TOLSEY_BAD_INDEX;
                float *place = it->y + to[j] + index * it->y_step;
                *place = *place + it->source[from_source[j] + i * it->source_step];
            }
    }
    return TOLSEY_OK;
}

/* Strides of a row-major tensor, with the sizes of the index, which say how far it is walked. */
static int64_t split_dims(int64_t rank, const int64_t *sizes, const int64_t *walked, int64_t dim, struct dim *outer,
                          struct dim *inner) {
    int64_t stride = 1, step = 1;
    for (int64_t d = rank - 1; d >= 0; d--) {
        if (d < dim) outer[d] = (struct dim){walked[d], stride};
        if (d > dim) inner[d - dim - 1] = (struct dim){walked[d], stride};
        if (d == dim) step = stride;
        stride *= sizes[d];
    }
    return step;
}

/* self and y: `sizes`; index: `index_sizes`; source: `source_sizes`; all of `rank` dims, the index nowhere larger than
 * source, nor than self but in `dim`. */
TOLSEY_EXPORT int tolsey_scatter_add(const float *self, const int64_t *index, const float *source, float *y, int64_t rank,
                                     const int64_t *sizes, const int64_t *index_sizes, const int64_t *source_sizes,
                                     int64_t dim) {
    LAWFUL_ENTRY;
    if (rank < 1 || rank > MAX_RANK || dim < 0 || dim >= rank) return TOLSEY_BAD_ARGUMENT;
    int64_t size = 1, outer = 1, inner = 1;
    for (int64_t d = 0; d < rank; d++) {
        if (sizes[d] < 0 || index_sizes[d] < 0 || index_sizes[d] > source_sizes[d]) return TOLSEY_BAD_ARGUMENT;
        if (d != dim && index_sizes[d] > sizes[d]) return TOLSEY_BAD_ARGUMENT;
        size *= sizes[d];
        if (d < dim) outer *= index_sizes[d];
        if (d > dim) inner *= index_sizes[d];
    }
    if (y != self) memcpy(y, self, sizeof(float) * (size_t)size);
    if (inner == 0) return TOLSEY_OK;
    struct scatter it = {.index = index, .source = source, .y = y, .n = index_sizes[dim], .bound = sizes[dim],
                         .blocks = (inner - 1) / BLOCK + 1, .inner = inner, .outer_dims = (int)dim, .inner_dims = (int)(rank - dim - 1)};
    it.index_step = split_dims(rank, index_sizes, index_sizes, dim, it.index_outer, it.index_inner);
    it.source_step = split_dims(rank, source_sizes, index_sizes, dim, it.source_outer, it.source_inner);
    it.y_step = split_dims(rank, sizes, index_sizes, dim, it.y_outer, it.y_inner);
    return tolsey_parallel(outer * it.blocks, (1 << 12) / (least(inner, BLOCK) * it.n + 1), scatter_task, &it);
}
