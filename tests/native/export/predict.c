/* For the tests: images from standard input, one after the other; for each the prediction, an int32_t, and
   the scores to standard output. */

#include <stdio.h>

#include "model.h"

#ifndef PIXEL
#define PIXEL uint8_t /* what model_predict takes */
#endif

int main(void)
{
    static PIXEL image[MODEL_INPUTS];
    static model_score scores[MODEL_OUTPUTS];
    while (fread(image, sizeof image, 1, stdin) == 1) {
        const int32_t winner = model_predict(image, scores);
        fwrite(&winner, sizeof winner, 1, stdout);
        fwrite(scores, sizeof scores, 1, stdout);
    }
    return ferror(stdin) || fflush(stdout) ? 1 : 0;
}
