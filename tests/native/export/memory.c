/* For the tests: the memory that an export has laid out is what plan.c, which it does not have, lays out
   under its configuration. */

#include <stdio.h>

#include "model.c"

int main(void)
{
    enum { VALUES = sizeof values / sizeof values[0], NODES = sizeof nodes / sizeof nodes[0] };

    bnn_value copy[VALUES];
    bnn_plan made;
    bnn_status status;
    size_t bytes;
    int i, wrong = 0;
    for (i = 0; i < VALUES; i++) copy[i] = values[i];
    status = bnn_plan_init(&made, copy, VALUES, nodes, NODES, &bnn_portable);
    if (status != BNN_OK || bnn_arena_bytes(&made, 1, 1, &bytes) != BNN_OK) {
        printf("no plan: %s\n", bnn_status_text(status));
        return 1;
    }
    for (i = 0; i < VALUES; i++) {
        if (copy[i].bytes != values[i].bytes || copy[i].offset != values[i].offset) {
            printf("value %d: %d bytes at %d, not %d at %d\n", i, (int)values[i].bytes, (int)values[i].offset,
                   (int)copy[i].bytes, (int)copy[i].offset);
            wrong = 1;
        }
    }
    if (made.row_bytes != plan.row_bytes || bytes != MODEL_ARENA_BYTES) {
        printf("an arena of %d bytes, %d of values; not of %d, %d\n", MODEL_ARENA_BYTES, (int)plan.row_bytes,
               (int)bytes, (int)made.row_bytes);
        wrong = 1;
    }
    return wrong;
}
