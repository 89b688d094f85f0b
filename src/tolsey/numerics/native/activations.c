/* Activations and their gradients: docs/numerics/functions.md, section 5. */
#include "places.h"

UNARY(relu, vmax(a, vset(0.0f)))

PLACES_TASK(threshold_backward, LOAD_AB, vselect((vi)(b <= vset(it->p)), vset(0.0f), a))
PLACES_KERNEL(threshold_backward, (const float *grad, const float *x, float threshold, float *y, int64_t n),
              {.a = grad, .b = x, .y = y, .p = threshold})

/* a is the gradient, b the output. */
BINARY(sigmoid_backward, (a * (vset(1.0f) - b)) * b)
BINARY(tanh_backward, a * (vset(1.0f) - b * b))

/* From here on b is the input. */
UNARY(silu, a * vsigmoid(a))
INLINE vf vsilu_backward(vf grad, vf x) {
    vf s = vsigmoid(x);
    return (grad * s) * (vset(1.0f) + x * (vset(1.0f) - s));
}
BINARY(silu_backward, vsilu_backward(a, b))

#define HALF_ROOT 0x1.6a09e6p-1f /* sqrt(1/2) */
UNARY(gelu, (a * vset(0.5f)) * (vset(1.0f) + verf(a * vset(HALF_ROOT))))
INLINE vf vgelu_backward(vf grad, vf x) {
    vf below = vset(0.5f) * (vset(1.0f) + verf(x * vset(HALF_ROOT)));
    vf density = vexp((x * x) * vset(-0.5f)) * vset(0x1.988454p-2f); /* 1 / sqrt(2 pi) */
    return grad * (below + x * density);
}
BINARY(gelu_backward, vgelu_backward(a, b))

#define TWICE_DENSITY 0x1.988454p-1f /* sqrt(2 / pi) */
INLINE vf vgelu_tanh_of(vf x) {
    return vtanh(vset(TWICE_DENSITY) * (x + vset(0x1.6e4e26p-5f) * ((x * x) * x))); /* 0.044715 */
}
UNARY(gelu_tanh, (a * vset(0.5f)) * (vset(1.0f) + vgelu_tanh_of(a)))
INLINE vf vgelu_tanh_backward(vf grad, vf x) {
    vf t = vgelu_tanh_of(x);
    vf slope = vset(TWICE_DENSITY) * (vset(1.0f) + vset(0x1.12ba9ep-3f) * (x * x)); /* 3 * 0.044715 */
    vf bent = ((vset(0.5f) * x) * (vset(1.0f) - t * t)) * slope;
    return grad * (vset(0.5f) * (vset(1.0f) + t) + bent);
}
BINARY(gelu_tanh_backward, vgelu_tanh_backward(a, b))
