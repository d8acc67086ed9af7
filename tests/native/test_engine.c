/* The engine as a C program uses it: a small network planned and run by hand, on every instruction set, in
   parts and not, without one allocation; and plans that must be refused. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../native/bnn.h"

/* --- allocations, counted ------------------------------------------------------------------------------- */

static long allocations = 0;

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) &&                                                  \
    !defined(STATIC) /* where malloc can be replaced */
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void *malloc(size_t n);
void *calloc(size_t n, size_t size);
void *realloc(void *p, size_t n);

void *malloc(size_t n)
{
    allocations++;
    return __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
    allocations++;
    return __libc_calloc(n, size);
}

void *realloc(void *p, size_t n)
{
    allocations++;
    return __libc_realloc(p, n);
}

enum { COUNTED = 1 };
#else
enum { COUNTED = 0 };
#endif

static int failures = 0;

#define CHECK(condition, ...)                                                                                \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            failures++;                                                                                      \
            printf("%s:%d: %s: ", __FILE__, __LINE__, #condition);                                           \
            printf(__VA_ARGS__);                                                                             \
            printf("\n");                                                                                    \
        }                                                                                                    \
    } while (0)

/* --- a network: 784 pixels, 1024 ±1 units, 1024 ReLU units, 10 classes ---------------------------------- */

enum { PIXELS = 784, UNITS = 1024, CLASSES = 10, ROWS = 5, LAYERS = 3 };

static uint64_t state = 88172645463325252u;

static uint64_t random_word(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

typedef struct {
    uint64_t *rows[LAYERS];
    double constants[UNITS];
    int32_t threshold[UNITS];
    uint64_t flip[UNITS / 64];
    float scale[UNITS], shift[UNITS];
} network;

static const int32_t inputs_of[LAYERS] = {PIXELS, UNITS, UNITS}, outputs_of[LAYERS] = {UNITS, UNITS, CLASSES};
static const bnn_op op_of[LAYERS] = {BNN_PRODUCT_U8, BNN_PRODUCT_BITS, BNN_PRODUCT_F32};
static const int32_t reads[LAYERS] = {0, 1, 2};

static size_t words_of(int layer) { return ((size_t)inputs_of[layer] + 63) / 64; }

static int weight(const network *net, int layer, int32_t o, int32_t k)
{
    return net->rows[layer][(size_t)o * words_of(layer) + (size_t)k / 64] >> (k % 64) & 1 ? -1 : 1;
}

static network *make_network(void)
{
    network *net = calloc(1, sizeof *net);
    int layer, i;
    if (!net) exit(2);
    for (layer = 0; layer < LAYERS; layer++) {
        const size_t words = words_of(layer), n = (size_t)outputs_of[layer] * words;
        size_t k;
        net->rows[layer] = malloc(n * sizeof(uint64_t));
        if (!net->rows[layer]) exit(2);
        for (k = 0; k < n; k++) {
            net->rows[layer][k] = random_word();
            if (k % words == words - 1 && inputs_of[layer] % 64)
                net->rows[layer][k] &= (UINT64_C(1) << inputs_of[layer] % 64) - 1;
        }
    }
    for (i = 0; i < UNITS; i++) {
        net->constants[i] = (double)(random_word() % 1000) / 100 - 5;
        net->scale[i] = (float)(random_word() % 100) / 64;
        net->shift[i] = (float)(random_word() % 100) - 50;
    }
    return net;
}

/* What the network gives, written down from its definition. */
static void expect(const network *net, const uint8_t *x, double *y)
{
    static int first[UNITS];
    static double second[UNITS];
    int32_t o, k;
    for (o = 0; o < UNITS; o++) {
        long sum = 0;
        for (k = 0; k < PIXELS; k++) sum += (long)weight(net, 0, o, k) * x[k];
        first[o] = net->constants[o] + (double)sum / (255 * 0.25) >= 0 ? 1 : -1;
    }
    for (o = 0; o < UNITS; o++) {
        int sum = 0;
        for (k = 0; k < UNITS; k++) sum += weight(net, 1, o, k) * first[k];
        second[o] = (double)((float)sum * net->scale[o] + net->shift[o]);
        if (second[o] < 0) second[o] = 0;
    }
    for (o = 0; o < CLASSES; o++) {
        y[o] = 0;
        for (k = 0; k < UNITS; k++) y[o] += weight(net, 2, o, k) * second[k];
    }
}

static void *aligned(size_t n) /* aligned_alloc wants a multiple */
{
    void *p = aligned_alloc(BNN_ALIGNMENT, (n + BNN_ALIGNMENT - 1) / BNN_ALIGNMENT * BNN_ALIGNMENT);
    if (!p) exit(2);
    return p;
}

static void test_network(const bnn_kernels *kernels, const network *net, const uint8_t *x,
                         const double *truth)
{
    bnn_value values[] = {{.dtype = BNN_U8, .height = 1, .width = 1, .channels = PIXELS},
                          {.dtype = BNN_BITS, .height = 1, .width = 1, .channels = UNITS},
                          {.dtype = BNN_F32, .height = 1, .width = 1, .channels = UNITS},
                          {.dtype = BNN_F32, .height = 1, .width = 1, .channels = CLASSES}};
    bnn_node nodes[LAYERS] = {{0}};
    static int32_t all_pixels[PIXELS];
    static const double divisor = 255 * 0.25;
    bnn_segment segment = {.take = all_pixels, .channels = PIXELS, .outputs = UNITS, .divisor = &divisor};
    size_t bytes, bytes_of_parts, before_bytes;
    void *prepared[LAYERS], *arena, *arena_of_parts;
    float y[ROWS * CLASSES], shared[ROWS * CLASSES];
    bnn_plan plan;
    bnn_status status;
    long before;
    int i, part, step;
    for (i = 0; i < PIXELS; i++) all_pixels[i] = i;
    for (i = 0; i < LAYERS; i++) {
        bnn_node *node = nodes + i;
        prepared[i] = aligned(bnn_prepared_bytes(kernels, op_of[i], outputs_of[i], inputs_of[i]));
        bnn_prepare(kernels, op_of[i], net->rows[i], outputs_of[i], inputs_of[i], prepared[i]);
        node->op = op_of[i];
        node->n_inputs = 1;
        node->inputs = reads + i;
        node->output = i + 1;
        node->kernel[0] = node->kernel[1] = node->stride[0] = node->stride[1] = 1;
        node->dilation[0] = node->dilation[1] = node->groups = 1;
        node->weight = prepared[i];
        node->finish.computed = BNN_F32;
    }
    segment.weight = prepared[0];
    nodes[0].segments = &segment;
    nodes[0].n_segments = 1;
    nodes[0].border.values = net->constants;
    nodes[0].finish.computed = BNN_F64;
    nodes[1].finish.scale = net->scale;
    nodes[1].finish.shift = net->shift;
    nodes[1].finish.activation = BNN_RELU;

    status = bnn_plan_init(&plan, values, 4, nodes, LAYERS, kernels);
    CHECK(status == BNN_OK, "%s: %s", bnn_kernels_name(kernels), bnn_status_text(status));
    if (status != BNN_OK) return;
    CHECK(bnn_arena_bytes(&plan, ROWS, 1, &bytes) == BNN_OK, "an arena");
    CHECK(bnn_arena_bytes(&plan, ROWS, 3, &bytes_of_parts) == BNN_OK, "an arena for three parts");
    CHECK(bnn_arena_bytes(&plan, 0, 1, &before_bytes) == BNN_ERROR_SHAPE, "no rows");
    CHECK(bnn_arena_bytes(&plan, 1, 0, &before_bytes) == BNN_ERROR_SHAPE, "no parts");
    arena = aligned(bytes);
    arena_of_parts = aligned(bytes_of_parts);

    before = allocations;
    bnn_run(&plan, x, y, ROWS, arena);
    CHECK(allocations == before, "%s: %ld allocations", bnn_kernels_name(kernels), allocations - before);
    for (i = 0; i < ROWS * CLASSES; i++)
        CHECK(y[i] - truth[i] < 0.5 && truth[i] - y[i] < 0.5, "%s: output %d is %f, not %f",
              bnn_kernels_name(kernels), i, (double)y[i], truth[i]);

    {
        const bnn_batch batch = bnn_batch_of(&plan, x, shared, ROWS, 3, arena_of_parts);
        for (step = 0; step < plan.n_nodes; step++)
            for (part = 2; part >= 0; part--) bnn_run_part(&plan, &batch, step, part);
    }
    CHECK(memcmp(y, shared, sizeof y) == 0, "%s: three parts give something else", bnn_kernels_name(kernels));
    for (i = 0; i < ROWS; i++) { /* one at a time: another split of rows and outputs */
        bnn_run(&plan, x + i * PIXELS, shared + i * CLASSES, 1, arena);
    }
    CHECK(memcmp(y, shared, sizeof y) == 0, "%s: single rows give something else", bnn_kernels_name(kernels));
    printf("%s: network, %d rows, %ld allocations%s\n", bnn_kernels_name(kernels), ROWS, allocations - before,
           COUNTED ? "" : " (not counted here)");
    free(arena);
    free(arena_of_parts);
    for (i = 0; i < LAYERS; i++) free(prepared[i]);
}

/* --- plans that must be refused ------------------------------------------------------------------------- */

static bnn_status plan_with(void (*spoil)(bnn_value *, bnn_node *))
{
    static const float ones[64] = {1};
    bnn_value values[] = {{.dtype = BNN_F32, .height = 4, .width = 4, .channels = 2},
                          {.dtype = BNN_F32, .height = 2, .width = 2, .channels = 2},
                          {.dtype = BNN_F32, .height = 2, .width = 2, .channels = 2}};
    bnn_node nodes[2] = {{0}};
    bnn_plan plan;
    int i;
    for (i = 0; i < 2; i++) {
        nodes[i].n_inputs = 1;
        nodes[i].inputs = reads + i;
        nodes[i].output = i + 1;
        nodes[i].kernel[0] = nodes[i].kernel[1] = nodes[i].stride[0] = nodes[i].stride[1] = 2;
        nodes[i].dilation[0] = nodes[i].dilation[1] = nodes[i].groups = 1;
        nodes[i].finish.computed = BNN_F32;
    }
    nodes[0].op = BNN_MAX_POOL;
    nodes[1].op = BNN_MAP;
    nodes[1].finish.scale = nodes[1].finish.shift = ones;
    spoil(values, nodes);
    return bnn_plan_init(&plan, values, 3, nodes, 2, bnn_kernels_best());
}

static const int32_t wild = 77, negative = -1;

static void nothing(bnn_value *v, bnn_node *n) { (void)v, (void)n; }

static void input_out_of_range(bnn_value *v, bnn_node *n) { (void)v, n[1].inputs = &wild; }

static void negative_input(bnn_value *v, bnn_node *n) { (void)v, n[1].inputs = &negative; }

static void reads_itself(bnn_value *v, bnn_node *n) { (void)v, n[0].inputs = reads + 1; }

static void writes_the_input(bnn_value *v, bnn_node *n) { (void)v, n[1].output = 0; }

static void writes_twice(bnn_value *v, bnn_node *n) { (void)v, n[1].output = 1; }

static void no_operation(bnn_value *v, bnn_node *n) { (void)v, n[1].op = BNN_OPS; }

static void no_stride(bnn_value *v, bnn_node *n) { (void)v, n[0].stride[1] = 0; }

static void dilated_pool(bnn_value *v, bnn_node *n) { (void)v, n[0].dilation[1] = 2; }

static void padding_alone(bnn_value *v, bnn_node *n)
{
    n[0].padding[0] = 2;
    v[1].height = v[2].height = 3;
}

static void no_correction(bnn_value *v, bnn_node *n)
{
    v[0].dtype = BNN_BITS;
    n[0].op = BNN_PRODUCT_BITS;
    n[0].weight = reads;
    n[0].padding[3] = 1; /* of 0, with no border to take off what it adds */
}

static void another_size(bnn_value *v, bnn_node *n) { (void)n, v[1].width = 3; }

static void other_channels(bnn_value *v, bnn_node *n) { (void)n, v[2].channels = 3; }

static void no_pixels(bnn_value *v, bnn_node *n) { (void)n, v[1].height = 0; }

static void huge(bnn_value *v, bnn_node *n) { (void)n, v[0].height = v[0].width = 1 << 20; }

static void to_bytes(bnn_value *v, bnn_node *n) { (void)n, v[2].dtype = BNN_U8; }

static void integers_from_floats(bnn_value *v, bnn_node *n) { (void)n, v[2].dtype = BNN_I32; }

static void no_shift(bnn_value *v, bnn_node *n) { (void)v, n[1].finish.shift = NULL; }

static void no_slope(bnn_value *v, bnn_node *n) { (void)v, n[1].finish.activation = BNN_PRELU; }

static void no_limits(bnn_value *v, bnn_node *n) { (void)v, n[1].finish.activation = BNN_HARDTANH; }

static void no_weight(bnn_value *v, bnn_node *n) { (void)v, n[0].op = BNN_PRODUCT_F32; }

static void test_refusals(void)
{
    static const struct {
        const char *name;
        void (*spoil)(bnn_value *, bnn_node *);
        bnn_status status;
    } cases[] = {
        {"nothing", nothing, BNN_OK},
        {"input out of range", input_out_of_range, BNN_ERROR_GRAPH},
        {"negative input", negative_input, BNN_ERROR_GRAPH},
        {"reads itself", reads_itself, BNN_ERROR_GRAPH},
        {"writes the input", writes_the_input, BNN_ERROR_GRAPH},
        {"writes twice", writes_twice, BNN_ERROR_GRAPH},
        {"no operation", no_operation, BNN_ERROR_GRAPH},
        {"no stride", no_stride, BNN_ERROR_SHAPE},
        {"dilated pool", dilated_pool, BNN_ERROR_SHAPE},
        {"window in padding alone", padding_alone, BNN_ERROR_SHAPE},
        {"no correction", no_correction, BNN_ERROR_MISSING},
        {"another size", another_size, BNN_ERROR_SHAPE},
        {"other channels", other_channels, BNN_ERROR_SHAPE},
        {"no pixels", no_pixels, BNN_ERROR_SHAPE},
        {"huge", huge, BNN_ERROR_SIZE},
        {"to bytes", to_bytes, BNN_ERROR_DTYPE},
        {"integers from floats", integers_from_floats, BNN_ERROR_DTYPE},
        {"no shift", no_shift, BNN_ERROR_MISSING},
        {"no slope", no_slope, BNN_ERROR_MISSING},
        {"no limits", no_limits, BNN_ERROR_MISSING},
        {"no weight", no_weight, BNN_ERROR_MISSING},
    };

    size_t i;
    for (i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const bnn_status status = plan_with(cases[i].spoil);
        CHECK(status == cases[i].status, "%s: %s", cases[i].name, bnn_status_text(status));
    }
    printf("%d plans\n", (int)i);
}

/* A figure is there for each operation: to divide by 0 would give infinitely many cycles. */
static void test_cycles(void)
{
    const bnn_value values[] = {{.dtype = BNN_F32, .height = 4, .width = 4, .channels = 2},
                                {.dtype = BNN_F32, .height = 4, .width = 4, .channels = 2}};
    bnn_node node = {.n_inputs = 1, .inputs = reads, .output = 1, .kernel = {1, 1}, .groups = 1};
    const bnn_plan plan = {.values = values, .nodes = &node, .n_values = 2, .n_nodes = 1};
    int op;
    for (op = 0; op < BNN_OPS; op++) {
        node.op = (bnn_op)op;
        CHECK(bnn_node_work(&plan, 0) > 0 && bnn_node_work(&plan, 0) <= 64, "operation %d", op);
    }
}

int main(void)
{
    static uint8_t x[ROWS * PIXELS];
    static double truth[ROWS * CLASSES];
    const bnn_kernels *kernels;
    network *net = make_network();
    int i;
    for (i = 0; i < ROWS * PIXELS; i++) x[i] = (uint8_t)random_word();
    for (i = 0; i < ROWS; i++) expect(net, x + i * PIXELS, truth + i * CLASSES);
    for (i = 0; (kernels = bnn_kernels_at(i)) != NULL; i++) test_network(kernels, net, x, truth);
    test_refusals();
    test_cycles();
    for (i = 0; i < LAYERS; i++) free(net->rows[i]);
    free(net);
    return failures ? 1 : 0;
}
