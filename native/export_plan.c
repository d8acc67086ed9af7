/* Plans as a C export has them: plan.c and job.c once more, with its configuration, under other names.

   An export holds a finished plan. `bnn export --to c` asks these two where its values lie and how large its
   arena is, for nobody else knows. Two other ways were weighed: to compile them when a model is exported
   would need a compiler there; a configuration that is read at run time would make every exported engine
   larger, as its compiler could leave out less. */

#include "export_config.h"

#define bnn_pixel_bytes bnn_export_pixel_bytes
#define bnn_sum_dtype bnn_export_sum_dtype
#define bnn_is_pointwise bnn_export_is_pointwise
#define bnn_layout_of bnn_export_layout_of
#define bnn_scratch_bytes bnn_export_scratch_bytes
#define bnn_address bnn_export_address
#define bnn_status_text bnn_export_status_text
#define bnn_plan_init bnn_export_plan_init
#define bnn_arena_bytes bnn_export_arena_bytes
#define bnn_node_work bnn_export_node_work

#include "job.c"
#include "plan.c"
