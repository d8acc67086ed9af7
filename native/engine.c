/* Runs a graph over a caller's arena, in parts that several threads may share. */

#include "job.h"

void bnn_run_part(const bnn_plan *plan, const bnn_batch *batch, int32_t step, int32_t part)
{
    const bnn_node *node = plan->nodes + step;
    bnn_job j;
    if (bnn_stopped(batch)) return;
    j.plan = plan;
    j.batch = batch;
    j.node = node;
    j.in = plan->values + node->inputs[0];
    j.out = plan->values + node->output;
    j.x = bnn_address(plan, batch, node->inputs[0]);
    j.y = bnn_address(plan, batch, node->output);
    j.row_scales = NULL;
    j.layout = bnn_layout_of(plan, node, batch->rows, batch->parts);
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
    bnn_batch batch;
    memset(&batch, 0, sizeof batch);
    batch.input = input;
    batch.output = output;
    batch.rows = rows;
    batch.parts = parts;
    batch.arena = arena;
    batch.scratch = bnn_scratch_bytes(plan, rows, parts);
    return batch;
}

void bnn_run(const bnn_plan *plan, const void *input, void *output, int32_t rows, void *arena)
{
    const bnn_batch batch = bnn_batch_of(plan, input, output, rows, 1, arena);
    int32_t step;
    for (step = 0; step < plan->n_nodes; step++) bnn_run_part(plan, &batch, step, 0);
}
