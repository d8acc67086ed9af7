/* For the tests: the memory that an export has laid out is what plan.c and job.c, which it does not have,
   would lay out. The value of the output, which they leave to the caller, lies in an export's arena as well.
 */

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
        const int placed = i > 0 && i != nodes[NODES - 1].output;
        if (copy[i].bytes != values[i].bytes || (placed && copy[i].offset != values[i].offset)) {
            printf("value %d: %d bytes at %d, not %d at %d\n", i, (int)values[i].bytes, (int)values[i].offset,
                   (int)copy[i].bytes, (int)copy[i].offset);
            wrong = 1;
        }
    }
    if (bytes - made.row_bytes != MODEL_ARENA_BYTES - plan.row_bytes) {
        printf("%d bytes of scratch, not %d\n", (int)(MODEL_ARENA_BYTES - plan.row_bytes),
               (int)(bytes - made.row_bytes));
        wrong = 1;
    }
    return wrong;
}
