/* A C library, as far as the engine needs one. */

#include <stddef.h>

/* Loops that a compiler would know for memcpy and memset again, and call: themselves. */
#define NO_IDIOMS __attribute__((no_builtin("memcpy", "memset")))

void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int byte, size_t n);

NO_IDIOMS void *memcpy(void *to, const void *from, size_t n)
{
    char *a = (char *)to;
    const char *b = (const char *)from;
    size_t i;
    for (i = 0; i < n; i++) a[i] = b[i];
    return to;
}

NO_IDIOMS void *memset(void *to, int byte, size_t n)
{
    char *a = (char *)to;
    size_t i;
    for (i = 0; i < n; i++) a[i] = (char)byte;
    return to;
}
