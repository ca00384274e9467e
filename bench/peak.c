/* What this processor can do at most, for bench_kernels.py: float32 multiply-adds and memory reads, by one
   thread or several. Compiled by the bench with the flags of the level in question. */
#include <stddef.h>

#if defined(__AVX512F__)
#    define VL 16
#    define CHAINS 24
#elif defined(__AVX__)
#    define VL 8
#    define CHAINS 12
#else
#    define VL 4
#    define CHAINS 12
#endif

typedef float vec __attribute__((vector_size(VL * 4)));

/* CHAINS independent chains of `steps` multiply-adds a thread; returns the operations of all threads. */
double multiply_adds(size_t steps, int threads, float *sink) {
#pragma omp parallel num_threads(threads)
    {
        vec sum[CHAINS], a = (vec){0} + 0.999f, b = (vec){0} + 1e-3f;
        for (int i = 0; i < CHAINS; i++) sum[i] = (vec){0} + (float)i;
        for (size_t s = 0; s < steps; s++)
#pragma GCC unroll 24
            for (int i = 0; i < CHAINS; i++) sum[i] = sum[i] * a + b;
        float total = 0;
        for (int i = 0; i < CHAINS; i++) total += sum[i][0];
#pragma omp critical
        *sink += total;
    }
    return 2.0 * VL * CHAINS * (double)steps * threads;
}

/* One read of x (n,), n a multiple of 1024, shared out over the threads. */
void read_all(const float *x, size_t n, int threads, float *sink) {
#pragma omp parallel num_threads(threads)
    {
        vec sum[16] = {{0}};
#pragma omp for schedule(static)
        for (size_t block = 0; block < n / 1024; block++)
            for (size_t i = 0; i < 1024; i += 16 * VL)
#pragma GCC unroll 16
                for (size_t j = 0; j < 16; j++) sum[j] += *(const vec *)(x + block * 1024 + i + j * VL);
        float total = 0;
        for (int j = 0; j < 16; j++) total += sum[j][0];
#pragma omp critical
        *sink += total;
    }
}
