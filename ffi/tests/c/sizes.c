// A program of another version than its library: ci/c.sh compiles this with a header whose structs end earlier (OLD) or later (NEW).

#include "check.h"

// What lies behind a struct of this program's version is not the library's.
typedef struct {
    busway_error error;
    uint64_t behind;
} fenced_error;

typedef struct {
    busway_stats stats;
    uint64_t behind;
} fenced_stats;

typedef struct {
    busway_config config;
    uint64_t behind;
} fenced_config;

int main(void)
{
    busway_link *a, *b;
    fenced_error error = {busway_error_init(), UINT64_MAX};
    fenced_stats stats = {busway_stats_init(), UINT64_MAX};
    // Not zero: were it read, it would be an option.
    fenced_config config = {busway_config_init(), UINT64_MAX};
    watchdog();
#ifdef OLD
    CHECK(sizeof(busway_config) == 40 && sizeof(busway_error) == 40 && sizeof(busway_stats) == 96);
#else
    CHECK(sizeof(busway_config) == 56 && sizeof(busway_error) == 56 && sizeof(busway_stats) == 112);
#endif
    config.config.entries = 64;
    OK(busway_link_pair(&config.config, &a, &b));
    OK(busway_link_send(a, 1, "four", 4, BUSWAY_NOW));
    memset((char *)&stats.stats + 4, 0xff, sizeof stats.stats - 4);
    OK(busway_link_stats(a, &stats.stats));
    CHECK(stats.stats.sent == 1 && stats.stats.sent_bytes == 4 && stats.stats.size == sizeof(busway_stats));
    CHECK(stats.stats.violations == 0 && stats.behind == UINT64_MAX);
    GIVES(BUSWAY_TOO_LARGE, busway_link_loan(a, (size_t)1 << 40, BUSWAY_NOW, &(busway_loan){0}));
    memset((char *)&error.error + 4, 0xff, sizeof error.error - 4);
    OK(busway_error_details(&error.error));
    CHECK(error.error.status == BUSWAY_TOO_LARGE && error.error.len == (uint64_t)1 << 40);
    CHECK(error.error.size == sizeof(busway_error) && error.behind == UINT64_MAX);
    OK(busway_link_free(a));
    OK(busway_link_free(b));
#ifdef NEW
    // What this library cannot know is zero in what it writes, and has to be in what it reads.
    CHECK(error.error.later == 0 && stats.stats.later == 0);
    config.config.later = 1;
    GIVES(BUSWAY_UNSUPPORTED, busway_link_pair(&config.config, &a, &b));
#endif
    return 0;
}
