/* All that an exported network needs to run its self-test on a bare Cortex-M, M0+ to M7: from reset to main,
   output by semihosting, and what one prediction takes: of stack, by painting it, and of time.

   The linker gives this file the calls of model_predict: -Wl,--wrap=model_predict. */

#include <stdint.h>
#include <string.h>

#include "model.h"

#ifndef PIXEL
#define PIXEL uint8_t /* what model_predict takes */
#endif

extern uint32_t data_start[], data_end[], data_image[], bss_start[], bss_end[], stack_top[];

int main(void);
void print(const char *text);
void reset_handler(void);
int __real_model_predict(const PIXEL *image, model_score *scores);
int __wrap_model_predict(const PIXEL *image, model_score *scores);

/* --- semihosting: a debugger, or QEMU, does what register 0 asks for -------------------------------------
 */

static void semihosting(int32_t operation, const void *argument)
{
    register int32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}

void print(const char *text) { semihosting(0x04, text); } /* SYS_WRITE0 */

static void leave(int status) /* SYS_EXIT: ApplicationExit, or RunTimeErrorUnknown */
{
    semihosting(0x18, (const void *)(uintptr_t)(status == 0 ? 0x20026 : 0x20023));
}

static void print_number(uint32_t n)
{
    char digits[12];
    int at = (int)sizeof digits - 1;
    digits[at] = 0;
    do {
        digits[--at] = (char)('0' + n % 10);
        n /= 10;
    } while (n > 0);
    print(digits + at);
}

/* --- what one prediction takes -------------------------------------------------------------------------- */

#define SYSTICK ((volatile uint32_t *)0xe000e010) /* control, reload, current */

enum { PAINT = 0x5a5a5a5a, STACK = 16384 };

static uint32_t most_stack, most_ticks;

int __wrap_model_predict(const PIXEL *image, model_score *scores)
{
    uint32_t *const here = (uint32_t *)__builtin_frame_address(0);
    uint32_t *deepest = here - STACK / sizeof(uint32_t), *word, ticks;
    int winner;
    for (word = deepest; word < here - 16; word++) *word = PAINT; /* below what this function has */
    SYSTICK[2] = 0;
    ticks = SYSTICK[2];
    winner = __real_model_predict(image, scores);
    ticks = (ticks - SYSTICK[2]) & 0xffffff; /* it counts down */
    while (*deepest == PAINT) deepest++;
    if ((uint32_t)(here - deepest) * 4 > most_stack) most_stack = (uint32_t)(here - deepest) * 4;
    if (ticks > most_ticks) most_ticks = ticks;
    return winner;
}

/* --- from reset to main --------------------------------------------------------------------------------- */

void reset_handler(void)
{
    int status;
#ifdef __ARM_FP
    *(volatile uint32_t *)0xe000ed88 |= 0xfu << 20; /* the floating-point unit on, before anything uses it */
    __asm__ volatile("dsb\n\tisb");
#endif
    memcpy(data_start, data_image, (size_t)((char *)data_end - (char *)data_start));
    memset(bss_start, 0, (size_t)((char *)bss_end - (char *)bss_start));
    SYSTICK[1] = 0xffffff;
    SYSTICK[0] = 5; /* on, from the processor's clock */
    status = main();
    print("stack of a prediction: ");
    print_number(most_stack);
    print(" bytes\nticks of a prediction: ");
    print_number(most_ticks);
    print("\n");
    leave(status);
    for (;;) {
    }
}

static void fault(void)
{
    print("a fault\n");
    leave(1);
    for (;;) {
    }
}

typedef void (*handler)(void);
__attribute__((section(".vectors"), used)) static const handler vectors[16] = {
    (handler)(uintptr_t)stack_top, reset_handler, fault, fault, fault, fault, fault};
