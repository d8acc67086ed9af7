/* The rows of a product that do not lie in its input as they are: windows gathered into patches,
 * [tap][channel]. */

#include "job.h"

/* Entries `at` to `at + bits` of one row of signs to the beginning of another; what is left of a word is 0.
 */
static void copy_bits(uint64_t *to, const uint64_t *from, int32_t n, int32_t at, int32_t bits)
{
    int32_t k;
    for (k = 0; k < bits; k += 32) {
        const uint64_t half = bnn_bits_at(from, n, at + k, bnn_least(32, bits - k));
        if (k % 64)
            to[k / 64] |= half << 32;
        else
            to[k / 64] = half;
    }
}

/* Whole words; where there are few, a call of memcpy would take longer than they do. */
static void copy_few(char *to, const char *from, size_t bytes)
{
    if (bytes > 128 || bytes % 8) {
        memcpy(to, from, bytes);
        return;
    }
    for (; bytes >= 16; bytes -= 16, to += 16, from += 16) memcpy(to, from, 16);
    if (bytes) memcpy(to, from, 8);
}

static void fill(char *to, const void *pad, size_t entry, size_t entries)
{
    size_t i;
    if (!pad)
        memset(to, 0, entries * entry);
    else
        for (i = 0; i < entries; i++) memcpy(to + i * entry, pad, entry);
}

static void fill_bits(uint64_t *to, int32_t sign, int32_t bits)
{
    int32_t k;
    for (k = 0; k < bnn_words(bits); k++) to[k] = sign < 0 ? ~UINT64_C(0) : 0;
    if (bits % 64) to[bits / 64] &= (UINT64_C(1) << bits % 64) - 1;
}

/* The window that one row of the output sees, of one group: [tap][channel]. */
static void gather(const bnn_node *node, const bnn_value *in, const bnn_layout *layout, const char *image,
                   bnn_place place, int32_t group, char *patch)
{
    const size_t pixel = layout->pixel, entry = layout->entry, tap = layout->tap;
    const int32_t top = place.y * node->stride[0] - node->padding[0];
    const int32_t left = place.x * node->stride[1] - node->padding[2];
    const int32_t kw = node->kernel[1], slice = in->channels / node->groups;
    int32_t ky, kx;
    for (ky = 0; ky < node->kernel[0]; ky++) {
        const int32_t y = top + ky * node->dilation[0];
        const int inside = y >= 0 && y < in->height;
        for (kx = 0; kx < kw; kx++, patch += tap) {
            const int32_t x = left + kx * node->dilation[1];
            if (inside && x >= 0 && x < in->width) {
                const char *from = image + ((size_t)y * (size_t)in->width + (size_t)x) * pixel;
                if (!BNN_IS(in->dtype, BNN_BITS))
                    memcpy(patch, from + (size_t)(group * slice) * entry, tap);
                else
                    copy_bits((uint64_t *)(void *)patch, (const uint64_t *)(const void *)from, in->channels,
                              group * slice, slice);
            } else if (!BNN_IS(in->dtype, BNN_BITS)) {
                fill(patch, node->pad, entry, (size_t)slice);
            } else {
                fill_bits((uint64_t *)(void *)patch, node->pad_sign, slice);
            }
        }
    }
}

/* How many places from this one on, along its row, have windows that lie in the image and whose taps touch.
 */
static int32_t whole_windows(const bnn_node *node, const bnn_value *in, const bnn_value *out, bnn_place place)
{
    const int32_t top = place.y * node->stride[0] - node->padding[0];
    const int32_t left = place.x * node->stride[1] - node->padding[2];
    const int32_t right = in->width - node->kernel[1]; /* the last place where a window may begin */
    if (node->groups > 1 || node->dilation[1] > 1 || top < 0 || left < 0 || left > right) return 0;
    if (top + (node->kernel[0] - 1) * node->dilation[0] >= in->height) return 0;
    return bnn_least(out->width - place.x,
                     node->stride[1] == 1 ? right - left + 1 : (right - left) / node->stride[1] + 1);
}

/* As gather does, for several such places: a row of a kernel is one piece of the image. */
static void gather_whole(const bnn_node *node, const bnn_value *in, const bnn_layout *layout,
                         const char *image, bnn_place place, int32_t places, char *patches,
                         size_t patch_stride)
{
    const size_t piece = (size_t)node->kernel[1] * layout->tap,
                 step = (size_t)node->stride[1] * layout->pixel;
    const size_t top = (size_t)(place.y * node->stride[0] - node->padding[0]);
    const size_t left = (size_t)(place.x * node->stride[1] - node->padding[2]);
    int32_t ky, r;
    for (ky = 0; ky < node->kernel[0]; ky++) {
        const char *from =
            image + ((top + (size_t)(ky * node->dilation[0])) * (size_t)in->width + left) * layout->pixel;
        char *to = patches + (size_t)ky * piece;
        for (r = 0; r < places; r++, from += step, to += patch_stride) copy_few(to, from, piece);
    }
}

const char *bnn_gather(const bnn_job *j, int32_t row, int32_t n, int32_t group, size_t *stride)
{
    char *patches = j->scratch + j->layout.patches;
    bnn_place place;
    int32_t r;
    *stride = (size_t)(j->node->kernel[0] * j->node->kernel[1]) * j->layout.tap;
    place = bnn_find_place(j->out, row);
    for (r = 0; r < n;) {
        const char *image = j->x + (size_t)place.sample * j->in->bytes;
        const int32_t whole = bnn_least(n - r, whole_windows(j->node, j->in, j->out, place));
        if (whole > 0) {
            gather_whole(j->node, j->in, &j->layout, image, place, whole, patches + (size_t)r * *stride,
                         *stride);
            place.x += whole - 1;
            r += whole;
        } else {
            gather(j->node, j->in, &j->layout, image, place, group, patches + (size_t)r * *stride);
            r++;
        }
        bnn_next_place(j->out, &place);
    }
    return patches;
}
