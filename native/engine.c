/* Runs a graph over a caller's arena, in parts that several threads may share. */

#include "engine.h"

char *bnn_address(const bnn_plan *plan, const bnn_batch *batch, int32_t value)
{
    if (value == 0) return (char *)(uintptr_t)batch->input; /* only read */
    if (value == plan->nodes[plan->n_nodes - 1].output) return (char *)batch->output;
    return (char *)batch->arena + (size_t)batch->rows * plan->values[value].offset;
}

void bnn_finish_row(const bnn_job *j, int32_t row, bnn_dtype dtype, const void *at, int32_t first,
                    int32_t count)
{
    const bnn_sums sums = {dtype, at, 0, NULL,
                           j->row_scales ? j->row_scales + row / bnn_places(j->out) : NULL};
    j->plan->kernels->finish(&j->node->finish, &sums, j->out->dtype, first, count,
                             j->y + (size_t)row * bnn_pixel_bytes(j->out));
}

void bnn_run_part(const bnn_plan *plan, const bnn_batch *batch, int32_t step, int32_t part)
{
    const bnn_node *node = plan->nodes + step;
    bnn_job j;
    j.plan = plan;
    j.batch = batch;
    j.node = node;
    j.in = plan->values + node->inputs[0];
    j.out = plan->values + node->output;
    j.x = bnn_address(plan, batch, node->inputs[0]);
    j.y = bnn_address(plan, batch, node->output);
    j.row_scales = NULL;
    j.w = bnn_work_of(plan, node, batch->rows, batch->parts);
    j.scratch = (char *)batch->arena + plan->row_bytes * (size_t)batch->rows + batch->scratch * (size_t)part;
    j.first = 0;
    j.count = j.out->channels;
    if (BNN_HAS_OTHERS && !bnn_is_product(node->op)) {
        bnn_run_operation(&j, part, batch->parts);
        return;
    }
    if (node->n_inputs == 2)
        j.row_scales = (const float *)(const void *)bnn_address(plan, batch, node->inputs[1]);
    bnn_run_product(&j, part, batch->parts);
}

bnn_batch bnn_batch_of(const bnn_plan *plan, const void *input, void *output, int32_t rows, int32_t parts,
                       void *arena)
{
    const bnn_batch batch = {input, output, rows, parts, arena, bnn_scratch_bytes(plan, rows, parts)};
    return batch;
}

void bnn_run(const bnn_plan *plan, const void *input, void *output, int32_t rows, void *arena)
{
    const bnn_batch batch = bnn_batch_of(plan, input, output, rows, 1, arena);
    int32_t step;
    for (step = 0; step < plan->n_nodes; step++) bnn_run_part(plan, &batch, step, 0);
}
