/* A layer of ±1, made by hand and run by the engine alone: which shape is it? To compile: native/README.md.
 */

#include <stdio.h>

#include "bnn.h"

enum { PIXELS = 64, SHAPES = 3 };

/* 8 x 8 pixels each. Bit 1 means -1, which is ink here. */
static const uint64_t shapes[SHAPES] = {0x181818ffff181818, 0x3c7ee7c3c3e77e3c, 0xff818181818181ff};
static const uint64_t seen = 0x3c7ec7c3c7e73e2c; /* the second, with four pixels wrong */

static _Alignas(BNN_ALIGNMENT) uint64_t weight[1024], arena[1024]; /* the engine allocates nothing */

int main(void)
{
    /* Floats come in, their signs are taken, and an output is their dot product with a shape. */
    static const int32_t input = 0, signs = 1;
    bnn_value values[] = {{.dtype = BNN_F32, .height = 1, .width = 1, .channels = PIXELS},
                          {.dtype = BNN_BITS, .height = 1, .width = 1, .channels = PIXELS},
                          {.dtype = BNN_F32, .height = 1, .width = 1, .channels = SHAPES}};
    const bnn_node nodes[] = {{.op = BNN_FROM_PLANES, .n_inputs = 1, .inputs = &input, .output = 1},
                              {.op = BNN_PRODUCT_BITS,
                               .n_inputs = 1,
                               .inputs = &signs,
                               .output = 2,
                               .kernel = {1, 1},
                               .stride = {1, 1},
                               .dilation = {1, 1},
                               .groups = 1,
                               .weight = weight,
                               .finish.computed = BNN_F32}};
    const bnn_kernels *kernels = bnn_kernels_best();
    float image[PIXELS], scores[SHAPES];
    size_t bytes;
    bnn_plan plan;

    if (bnn_prepared_bytes(kernels, BNN_PRODUCT_BITS, SHAPES, PIXELS) > sizeof weight) return 1;
    bnn_prepare(kernels, BNN_PRODUCT_BITS, shapes, SHAPES, PIXELS, weight);
    if (bnn_plan_init(&plan, values, 3, nodes, 2, kernels) != BNN_OK) return 1;
    if (bnn_arena_bytes(&plan, 1, 1, &bytes) != BNN_OK || bytes > sizeof arena) return 1;

    for (int i = 0; i < PIXELS; i++) image[i] = seen >> i & 1 ? -0.9f : 0.7f;
    bnn_run(&plan, image, scores, 1, arena);
    printf("cross %g, ring %g, square %g\n", scores[0], scores[1], scores[2]);
    return 0;
}
