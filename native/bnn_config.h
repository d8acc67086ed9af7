/* What of the engine is compiled: here, all of it.

   A C export has a bnn_config.h of its own, with what its model needs: made from export_config.h. The
   conditions that read it are ordinary ones, over constants: what they leave out is still checked by the
   compiler, and then dropped. */

#ifndef BNN_CONFIG_H
#define BNN_CONFIG_H

/* One bit for each bnn_op that occurs, and for each bnn_dtype of a value, a sum or the arithmetic between. */
#define BNN_OPS_USED 0xffffffffu
#define BNN_DTYPES_USED 0xffffffffu

/* Whether windows are gathered: of some product the rows do not lie in its input as they are. */
#define BNN_GATHERS 1

/* Whether work is shared among parts, which several threads may run. */
#define BNN_SHARES 1

/* Whether a run can be stopped from outside: bnn_batch tells when. */
#define BNN_STOPS 1

/* Whether tables of integers may be made where their row lies: of all kernels the portable ones alone do. */
#define BNN_IN_PLACE 0

/* Bytes: of an arena, and of all that lies in it. */
#define BNN_ALIGNMENT 64

/* Whether the output lies in the arena as well, not where the caller says. */
#define BNN_OUTPUT_IN_ARENA 0

/* Places at a time: of products with tables, and of bits, whose weights then stay in cache. */
#define BNN_ROWS 4
#define BNN_ROWS_OF_BITS 64

#endif
