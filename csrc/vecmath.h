/* Lanes of float32 and the elementary functions on them, branch-free plain C that is full width at every
   level.

   Polynomials were fitted here (minimax by Lawson-weighted least squares on Chebyshev nodes, float64), over
   the ranges their comments give; the error stated is that of the polynomial before float32 rounding. */
#ifndef WCY_VECMATH_H
#define WCY_VECMATH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__F16C__) || defined(__AVX512F__)
#    include <immintrin.h>
#endif

/* VL: lanes of one vector register */
#if defined(__AVX512F__)
#    define VL 16
#elif defined(__AVX__)
#    define VL 8
#else
#    define VL 4
#endif

typedef float vec __attribute__((vector_size(VL * 4)));
typedef int32_t ivec __attribute__((vector_size(VL * 4)));
typedef float vec_anywhere __attribute__((vector_size(VL * 4), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE vec vec_load(const float *p) { return *(const vec_anywhere *)p; }
INLINE void vec_store(float *p, vec x) { *(vec_anywhere *)p = x; }
INLINE vec vec_set(float x) { return (vec){0} + x; }
INLINE vec vec_select(ivec mask, vec a, vec b) { return (vec)((mask & (ivec)a) | (~mask & (ivec)b)); }
INLINE vec vec_max(vec a, vec b) { return vec_select(a > b, a, b); }
INLINE vec vec_min(vec a, vec b) { return vec_select(a < b, a, b); }
INLINE vec vec_abs(vec x) { return (vec)((ivec)x & 0x7fffffff); }

/* The first n < VL lanes from memory, zero in the others. */
INLINE vec vec_load_first(const float *p, size_t n) {
    vec x = {0};
    memcpy(&x, p, n * sizeof(float));
    return x;
}

INLINE void vec_store_first(float *p, vec x, size_t n) { memcpy(p, &x, n * sizeof(float)); }

INLINE float vec_sum(vec x) {
    float total = 0;
    for (int i = 0; i < VL; i++) total += x[i];
    return total;
}

INLINE float vec_top(vec x) {
    float top = x[0];
    for (int i = 1; i < VL; i++) top = x[i] > top ? x[i] : top;
    return top;
}

/* VL IEEE half-precision values -> float32, exactly. */
INLINE vec vec_load_half(const uint16_t *p) {
#if defined(__AVX512F__)
    return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
#elif defined(__F16C__)
    return (vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
#else
    ivec bits;
    for (int i = 0; i < VL; i++) bits[i] = p[i];
    /* exponent and mantissa moved to float32's place read 2^-112 too small, subnormals included; the product
       mends it exactly. Weights are finite: infinities and NaN need no care. */
    vec magnitude = (vec)((bits & 0x7fff) << 13) * 0x1p112f;
    return (vec)((ivec)magnitude | ((bits & 0x8000) << 16));
#endif
}

/* e^x for x <= 88; 0 below -87; NaN stays NaN. Range reduction by ln 2, then 1 + r + r^2 P(r) on |r| <=
 * ln(2)/2, error 3e-9. */
INLINE vec vec_exp(vec x) {
    const float shift = 0x1.8p23f; /* adding it rounds to the nearest integer, left in the low bits */
    vec clamped = vec_max(vec_set(-87.0f), vec_min(vec_set(88.0f), x));
    vec t = clamped * 1.44269504f + shift;
    vec n = t - shift;
    vec r = clamped - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    vec p = vec_set(1.395052184e-3f);
    p = p * r + 8.368908422e-3f;
    p = p * r + 4.166620534e-2f;
    p = p * r + 1.666651868e-1f;
    p = p * r + 5.000000095e-1f;
    vec value = (r * r) * p + r + 1.0f;
    ivec power = ((ivec)t - 0x4b400000 + 127) << 23;
    return vec_select(x < -87.0f, vec_set(0.0f), value * (vec)power);
}

/* ln x for positive normal x. x = 2^e m, sqrt(1/2) <= m < sqrt(2); ln(1+f) = f - f^2/2 + f^3 P(f), error
 * 6e-9. */
INLINE vec vec_log(vec x) {
    ivec bits = (ivec)x - 0x3f3504f3; /* sqrt(1/2) as float32 bits */
    ivec exponent = bits >> 23;
    vec f = (vec)((bits & 0x007fffff) + 0x3f3504f3) - 1.0f;
    vec p = vec_set(-7.634429911e-2f);
    p = p * f + 1.276155036e-1f;
    p = p * f - 1.316019505e-1f;
    p = p * f + 1.420176247e-1f;
    p = p * f - 1.662335648e-1f;
    p = p * f + 2.000122667e-1f;
    p = p * f - 2.500082106e-1f;
    p = p * f + 3.333333171e-1f;
    vec e = __builtin_convertvector(exponent, vec);
    vec square = f * f;
    return (((square * f) * p + e * -2.12194440e-4f) - 0.5f * square) + f + e * 0.693359375f;
}

/* The error function. |x| < 1: x + x P(x^2), error 1e-9; beyond: 1 - exp(P(|x|)) fitted to ln erfc up to 4,
   where float32 has reached 1; error 2e-11. */
INLINE vec vec_erf(vec x) {
    vec a = vec_min(vec_abs(x), vec_set(4.0f));
    vec s = x * x;
    vec near = vec_set(7.854008745e-5f);
    near = near * s - 8.010241892e-4f;
    near = near * s + 5.188333773e-3f;
    near = near * s - 2.685381563e-2f;
    near = near * s + 1.128358526e-1f;
    near = near * s - 3.761262584e-1f;
    near = near * s + 1.283791657e-1f;
    near = near * x + x;
    vec far = vec_set(-2.169763894e-5f);
    far = far * a + 4.414729156e-4f;
    far = far * a - 4.205285892e-3f;
    far = far * a + 2.521034229e-2f;
    far = far * a - 1.084221026e-1f;
    far = far * a - 6.332163950e-1f;
    far = far * a - 1.129580312f;
    far = far * a + 1.884677821e-4f;
    far = 1.0f - vec_exp(far);
    far = (vec)((ivec)far | ((ivec)x & (int32_t)0x80000000));
    return vec_select(a < 1.0f, near, far);
}

/* GELU by the error function, as torch.nn.functional.gelu's default. */
INLINE vec vec_gelu(vec x) { return 0.5f * x * (1.0f + vec_erf(x * 0.70710678118654752f)); }

#endif
