/* What of the engine model.c needs; the compiler leaves out the rest. Made by `bnn export --to c`, from
   native/export_config.h. */

#ifndef BNN_CONFIG_H
#define BNN_CONFIG_H

/* One bit for each bnn_op that occurs, and for each bnn_dtype of a value, a sum or the arithmetic between. */
#define BNN_OPS_USED 0xffffffffu
#define BNN_DTYPES_USED 0xffffffffu

/* Whether windows are gathered: of some product the rows do not lie in its input as they are. */
#define BNN_GATHERS 1

/* Whether work is shared among parts, which several threads may run. */
#define BNN_SHARES 0

/* Whether a run can be stopped from outside: bnn_batch tells when. */
#define BNN_STOPS 0

/* Whether tables of integers may be made where their row lies: of all kernels the portable ones alone do. */
#define BNN_IN_PLACE 1

/* Bytes: of the arena, and of all that lies in it. It is what the widest access needs. */
#define BNN_ALIGNMENT 8

/* Whether the output lies in the arena as well, not where the caller says. */
#define BNN_OUTPUT_IN_ARENA 1

/* Places at a time: of products with tables, and of bits. One needs the least RAM. */
#define BNN_ROWS 1
#define BNN_ROWS_OF_BITS 1

#endif
