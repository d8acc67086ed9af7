/* What a page calls: it writes pixels to image(), calls predict(), and reads scores(). */

#include "model.h"

#define EXPORT(NAME) __attribute__((export_name(NAME)))

#ifndef MODEL_SCORE_ONE /* scores that are integers have it: what 1 is in them */
#define MODEL_SCORE_ONE 1
#endif

static uint8_t pixels[MODEL_INPUTS];
static double results[MODEL_OUTPUTS];

uint8_t *image(void);
double *scores(void);
int predict(void);

EXPORT("image") uint8_t *image(void) { return pixels; }

EXPORT("scores") double *scores(void) { return results; }

/* The class; and the scores in the units that the network was trained with. */
EXPORT("predict") int predict(void)
{
    static model_score exact[MODEL_OUTPUTS];
    const int winner = model_predict(pixels, exact);
    int i;
    for (i = 0; i < MODEL_OUTPUTS; i++) results[i] = (double)exact[i] / (double)MODEL_SCORE_ONE;
    return winner;
}
