// A plugin that writes into its side of the memory what no plugin writes: its host finds out, with a status and a reason.

#include "layout.h"
#include <sys/socket.h>
#include <sys/wait.h>

static const char *self;

// Kinds of sections, and of entries, and statuses of replies, as docs/layout.md has them.
enum { ENTRIES = 3, INTAKE = 4, CELLS = 5 };
enum { CALL = 1, EVENT = 2, SLOT = 1 << 8 };
enum { REPLIED_REJECTED = 2, REPLIED_PANICKED = 3 };

typedef struct {
    uint64_t word;
    uint32_t method;
    uint32_t length;
    uint64_t call;
    uint64_t inlined[4];
    uint64_t deadline;
} entry;

typedef struct {
    uint32_t word;
    uint32_t flags;
    uint32_t code;
    uint32_t zero;
    uint64_t length;
    uint64_t inlined[5];
} reply_cell;

// The region of this process, which it may write.
static uint8_t *own_region(void)
{
    static uint8_t magic[8] = "busway\0\x01";
    char line[512];
    FILE *maps = fopen("/proc/self/maps", "r");
    uint8_t *found = NULL;
    CHECK(maps != NULL);
    while (found == NULL && fgets(line, sizeof line, maps) != NULL) {
        unsigned long begin, end;
        char access[5];
        CHECK(sscanf(line, "%lx-%lx %4s", &begin, &end, access) == 3);
        uint8_t *region = (uint8_t *)begin;
        if (strcmp(access, "rw-s") == 0 && end - begin > HEADER_SIZE && memcmp(region, magic, 8) == 0 &&
            section_of(region, ENTRIES) != 0)
            found = region;
    }
    fclose(maps);
    CHECK(found != NULL);
    return found;
}

// Publishes the first entry.
static void publish(uint32_t tag, entry body)
{
    entry *at = (entry *)(void *)(own_region() + section_of(own_region(), ENTRIES));
    body.word = at->word;
    *at = body;
    __atomic_store_n(&at->word, (uint64_t)tag << 32 | 1, __ATOMIC_RELEASE);
}

// Answers the host's first call.
static void answer(reply_cell body)
{
    reply_cell *at = (reply_cell *)(void *)(own_region() + section_of(own_region(), CELLS));
    body.word = at->word;
    *at = body;
    __atomic_store_n(&at->word, 1, __ATOMIC_RELEASE);
}

static void wrong_slot(void)
{
    publish(EVENT | SLOT, (entry){.inlined = {UINT64_C(31) << 48, 40}});
}

static void wrong_kind(void)
{
    publish(77, (entry){0});
}

static void wrong_length(void)
{
    publish(EVENT, (entry){.length = 33});
}

static void wrong_cell(void)
{
    publish(CALL, (entry){.call = UINT32_MAX});
}

static void wrong_position(void)
{
    uint8_t *intake = own_region() + section_of(own_region(), INTAKE);
    __atomic_store_n((uint32_t *)(void *)intake, 1 << 20, __ATOMIC_RELEASE);
}

static void wrong_status(void)
{
    answer((reply_cell){.flags = 77});
}

static void panics(void)
{
    answer((reply_cell){.flags = REPLIED_PANICKED});
}

static void too_deep(void)
{
    answer((reply_cell){.flags = REPLIED_REJECTED, .code = BUSWAY_REJECT_TOO_DEEP});
}

static void speaks_unasked(void)
{
    const char *number = getenv("BUSWAY_SOCKET");
    CHECK(number != NULL && send(atoi(number), "boo", 3, 0) == 3);
}

// Whom a lie is told: who receives, who sends, or who has called.
enum { RECEIVES, SENDS, CALLS };

static const struct {
    const char *name;
    void (*tell)(void);
    int victim;
    busway_status status;
    uint32_t reason;
} lies[] = {
    {"slot", wrong_slot, RECEIVES, BUSWAY_POISONED, BUSWAY_VIOLATION_SLOT_REFERENCE},
    {"kind", wrong_kind, RECEIVES, BUSWAY_POISONED, BUSWAY_VIOLATION_ENTRY_KIND},
    {"length", wrong_length, RECEIVES, BUSWAY_POISONED, BUSWAY_VIOLATION_INLINE_LENGTH},
    {"cell", wrong_cell, RECEIVES, BUSWAY_POISONED, BUSWAY_VIOLATION_REPLY_CELL},
    {"socket", speaks_unasked, RECEIVES, BUSWAY_POISONED, BUSWAY_VIOLATION_CONTROL_MESSAGE},
    {"position", wrong_position, SENDS, BUSWAY_POISONED, BUSWAY_VIOLATION_POSITION},
    {"status", wrong_status, CALLS, BUSWAY_POISONED, BUSWAY_VIOLATION_REPLY_STATUS},
    // And what a plugin in Rust may say, and one in C has no function for.
    {"panic", panics, CALLS, BUSWAY_HANDLER_PANICKED, 0},
    {"depth", too_deep, CALLS, BUSWAY_REJECTED, 0},
};

enum { LIES = sizeof lies / sizeof *lies };

static int plugin(const char *name)
{
    busway_link *link;
    busway_request first = {0}, later = {0};
    int which = 0;
    OK(busway_attach(NULL, &link));
    while (strcmp(lies[which].name, name) != 0)
        which++;
    if (lies[which].victim == CALLS)
        OK(busway_link_recv(link, SECONDS(60), &first));
    lies[which].tell();
    // Nothing more is said, which might cover the lie up, until the link ends.
    busway_status status = BUSWAY_WOULD_BLOCK;
    while (status == BUSWAY_WOULD_BLOCK || status == BUSWAY_OK) {
        status = busway_link_recv(link, BUSWAY_NOW, &later);
        memset(&later, 0, sizeof later);
        usleep(1000);
    }
    GIVES(BUSWAY_CLOSED, status);
    _exit(0);
}

int main(int argc, char **argv)
{
    busway_config config = busway_config_init();
    busway_host *host;
    watchdog();
    self = argc > 0 && strchr(argv[0], '/') ? argv[0] : "/proc/self/exe";
    if (argc > 1)
        return plugin(argv[1]);
    // The liar rings no bell, so its host looks at the memory itself.
    config.idle = BUSWAY_IDLE_SPIN;
    config.entries = 256;
    config.patience_ns = UINT64_C(60000000000);
    OK(busway_host_new(&config, &host));
    for (int i = 0; i < LIES; i++) {
        busway_command command = busway_command_init();
        const char *arguments[] = {"liar", lies[i].name, NULL};
        busway_link *link;
        busway_request request = {0};
        busway_message reply = {0};
        busway_status status = BUSWAY_OK;
        int exit_status;
        command.program = self;
        command.argv = arguments;
        OK(busway_host_spawn(host, &command, &link));
        if (lies[i].victim == RECEIVES)
            status = busway_link_recv(link, SECONDS(60), &request);
        else if (lies[i].victim == CALLS)
            status = busway_link_call(link, 1, NULL, 0, SECONDS(60), &reply);
        while (lies[i].victim == SENDS && status == BUSWAY_OK)
            status = busway_link_send(link, 1, NULL, 0, SECONDS(60));
        GIVES(lies[i].status, status);
        if (status == BUSWAY_POISONED) {
            CHECK(last_error().reason == lies[i].reason);
            // From now on everything answers so.
            GIVES(BUSWAY_POISONED, busway_link_send(link, 1, NULL, 0, BUSWAY_NOW));
            GIVES(BUSWAY_POISONED, busway_link_recv(link, BUSWAY_NOW, &request));
        } else {
            CHECK(last_error().maybe_executed == (status == BUSWAY_HANDLER_PANICKED));
            CHECK(last_error().code == (status == BUSWAY_REJECTED ? BUSWAY_REJECT_TOO_DEEP : 0));
        }
        OK(busway_link_shut_down(link, BUSWAY_NOW, &exit_status));
        CHECK(WIFEXITED(exit_status) && WEXITSTATUS(exit_status) == 0);
    }
    OK(busway_host_free(host));
    return 0;
}
