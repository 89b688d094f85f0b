/* Signs, NaN, larger and smaller, powers of two: what base.h's vectors and the GPU's lanes (cuda/lane.h) have in common. Each
 * of them includes this after its types. */
#ifndef TOLSEY_CHOOSING_H
#define TOLSEY_CHOOSING_H

INLINE vi visnan(vf x) { return (vi)(x != x); }
INLINE vf vabs(vf x) { return (vf)((vi)x & vset_i(0x7fffffff)); }
INLINE vf vneg(vf x) { return (vf)((vu)x ^ vset_u(0x80000000u)); }
/* The size of the first with the sign of the second. */
INLINE vf vcopysign(vf size, vf sign) {
    return (vf)(((vu)size & vset_u(0x7fffffffu)) | ((vu)sign & vset_u(0x80000000u)));
}
INLINE vf vcanonical(vf x) { return vselect(visnan(x), (vf)vset_i(0x7fc00000), x); }

/* Larger and smaller by the law: NaN wins, +0 is above -0; so order of a reduction does not matter. */
INLINE vf vmax(vf a, vf b) {
    vf r = vselect((vi)(a > b), a, b);
    r = vselect((vi)(a == b), (vf)((vi)a & (vi)b), r);
    return vselect(visnan(a), a, r);
}
INLINE vf vmin(vf a, vf b) {
    vf r = vselect((vi)(a < b), a, b);
    r = vselect((vi)(a == b), (vf)((vi)a | (vi)b), r);
    return vselect(visnan(a), a, r);
}

/* 2^n for -126 <= n <= 127. */
INLINE vf vpow2(vi n) { return (vf)((n + 127) << 23); }

#endif
