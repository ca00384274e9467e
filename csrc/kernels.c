/* Compiled once per instruction-set level with -DWCY_LEVEL=<name>: every kernel family, then one table of
 * them. */
#include "kernels.h"

#include "attention.h"
#include "matmul_f32.h"
#include "mel.h"
#include "norm.h"

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define TEXT_(a) #a
#define TEXT(a) TEXT_(a)

const wcy_kernels JOIN(wcy_kernels_, WCY_LEVEL) = {
    .name = TEXT(WCY_LEVEL),
    .linear = linear,
    .pack = pack,
    .embed = embed,
    .layer_norm = layer_norm,
    .store_keys_values = store_keys_values,
    .attention = attention,
    .peak_and_logsumexp = peak_and_logsumexp,
    .log_mel = log_mel,
};
