// What the tests in C share: checks that say where and why, and a watchdog.

#ifndef CHECK_H
#define CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <busway.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static inline void failed(const char *file, int line, const char *what)
{
    fprintf(stderr, "%s:%d: %s\n    last error: %s\n", file, line, what, busway_error_text());
    abort();
}

#define CHECK(condition) ((condition) ? (void)0 : failed(__FILE__, __LINE__, "not so: " #condition))

static inline void check_status(busway_status got, busway_status want, const char *file, int line, const char *call)
{
    char text[512];
    if (got == want)
        return;
    snprintf(text, sizeof text, "%s: '%s' and not '%s'", call, busway_status_text(got), busway_status_text(want));
    failed(file, line, text);
}

#define GIVES(status, call) check_status((call), (status), __FILE__, __LINE__, #call)
#define OK(call) GIVES(BUSWAY_OK, call)

static inline busway_error last_error(void)
{
    busway_error error = busway_error_init();
    OK(busway_error_details(&error));
    return error;
}

#define SECONDS(n) (busway_deadline_after((n) * UINT64_C(1000000000)))

// A test that hangs is ended by a signal.
static inline void watchdog(void)
{
    alarm(100);
}

#define IS(message, text) ((message).len == strlen(text) && memcmp((message).data, (text), (message).len) == 0)

#endif
