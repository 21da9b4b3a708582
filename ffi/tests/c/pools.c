// Pools and sets: in one process, and with members and links that are processes of their own, in C.

#include "check.h"
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

static const char *self;

enum { ECHO, REJECT, DROP, LOAN, DIE };

static busway_pool_config config_of(void)
{
    static const busway_queue_config queues[] = {{"urgent", 16, 0}, {"bulk", 0, 0}};
    static const busway_size_class classes[] = {{64, 64}, {4096, 16}};
    busway_pool_config config = busway_pool_config_init();
    config.queues = queues;
    config.queue_count = 2;
    config.classes = classes;
    config.class_count = 2;
    config.members = 4;
    return config;
}

static void answer(busway_request *request)
{
    busway_loan loan = {0};
    switch (request->method) {
    case ECHO:
        OK(busway_request_reply(request, request->data, request->len));
        break;
    case REJECT:
        OK(busway_request_reject(request, 42));
        break;
    case LOAN:
        OK(busway_request_loan(request, 2000, &loan));
        memset(loan.data, 'l', 2000);
        OK(busway_request_reply_loan(request, &loan));
        break;
    case DIE:
        raise(SIGKILL);
        break;
    default:
        OK(busway_request_release(request));
    }
}

static busway_status serve(busway_pool *pool)
{
    static const char *const names[] = {"urgent", "bulk"};
    busway_worker worker = {0};
    busway_request requests[8];
    busway_status status;
    size_t count;
    memset(requests, 0, sizeof requests);
    OK(busway_pool_worker(pool, names, 2, &worker));
    while ((status = busway_worker_recv_many(&worker, requests, 8, BUSWAY_NEVER, &count)) == BUSWAY_OK) {
        CHECK(count > 0 && count <= 8);
        for (size_t i = 0; i < count; i++)
            answer(&requests[i]);
    }
    return status;
}

static void *serves(void *pool)
{
    GIVES(BUSWAY_CLOSED, serve(pool));
    return NULL;
}

static void calls(busway_pool *pool)
{
    busway_queue urgent = {0}, bulk = {0};
    busway_message reply = {0};
    busway_loan loan = {0};
    busway_call pending[4] = {{0}};
    uint32_t ready[4];
    size_t n, left = 4;
    uint8_t payload[4096];
    memset(payload, 'p', sizeof payload);
    GIVES(BUSWAY_NO_SUCH_QUEUE, busway_pool_queue(pool, "other", &bulk));
    OK(busway_pool_queue(pool, "urgent", &urgent));
    OK(busway_pool_queue(pool, "bulk", &bulk));
    static const size_t lengths[] = {0, 1, 47, 48, 49, 64, 65, 4096};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        OK(busway_queue_call(&bulk, ECHO, payload, lengths[i], SECONDS(60), &reply));
        CHECK(reply.len == lengths[i] && memcmp(reply.data, payload, reply.len) == 0);
        OK(busway_message_release(&reply));
        OK(busway_pool_loan(pool, lengths[i], SECONDS(60), &loan));
        CHECK(loan.len == lengths[i]);
        memset(loan.data, 'q', loan.len);
        OK(busway_queue_call_loan(&urgent, ECHO, &loan, SECONDS(60), &reply));
        CHECK(reply.len == lengths[i] && (reply.len == 0 || reply.data[reply.len - 1] == 'q'));
        OK(busway_message_release(&reply));
    }
    OK(busway_queue_call(&bulk, LOAN, NULL, 0, SECONDS(60), &reply));
    CHECK(reply.len == 2000 && reply.data[1999] == 'l');
    OK(busway_message_release(&reply));
    GIVES(BUSWAY_REJECTED, busway_queue_call(&bulk, REJECT, NULL, 0, SECONDS(60), &reply));
    CHECK(last_error().code == 42);
    GIVES(BUSWAY_REJECTED, busway_queue_call(&bulk, DROP, NULL, 0, SECONDS(60), &reply));
    CHECK(last_error().code == BUSWAY_REJECT_UNANSWERED);

    OK(busway_queue_submit(&bulk, ECHO, "0", 1, SECONDS(60), &pending[0]));
    OK(busway_queue_try_submit(&bulk, ECHO, "1", 1, SECONDS(60), &pending[1]));
    OK(busway_pool_loan(pool, 1, BUSWAY_NOW, &loan));
    loan.data[0] = '2';
    OK(busway_queue_submit_loan(&urgent, ECHO, &loan, SECONDS(60), &pending[2]));
    OK(busway_queue_submit(&urgent, ECHO, "3", 1, SECONDS(60), &pending[3]));
    while (left > 0) {
        OK(busway_calls_poll(pending, 4, SECONDS(60), ready, &n));
        for (size_t i = 0; i < n; i++, left--) {
            OK(busway_call_wait(&pending[ready[i]], &reply));
            CHECK(reply.len == 1 && reply.data[0] == '0' + ready[i]);
            OK(busway_message_release(&reply));
        }
    }
}

// Over heap memory.
static void group(void)
{
    busway_pool_config config = config_of();
    busway_pool *pools[2], *none[8];
    busway_queue queue = {0}, copy;
    busway_worker worker = {0};
    busway_request request = {0};
    busway_loan loan = {0};
    busway_stats stats = busway_stats_init();
    busway_status status;
    pthread_t server;
    static const char *const names[] = {"urgent"};
    size_t n;
    uint32_t place;
    bool closed;
    GIVES(BUSWAY_JOIN_FAILED, busway_pool_group(&config, 8, none));
    OK(busway_pool_group(&config, 2, pools));
    OK(busway_pool_place(pools[1], &place));
    CHECK(place == 2);
    OK(busway_pool_max_payload(pools[0], &n));
    CHECK(n == 4096);
    GIVES(BUSWAY_UNSUPPORTED, busway_pool_close(pools[0], BUSWAY_NOW));
    GIVES(BUSWAY_UNSUPPORTED, busway_pool_members(pools[0], &n));
    GIVES(BUSWAY_UNSUPPORTED, busway_pool_wait_members(pools[0], 0, BUSWAY_NOW));
    GIVES(BUSWAY_UNSUPPORTED, busway_pool_listen(pools[0], "/tmp", &(busway_listener *){NULL}));
    GIVES(BUSWAY_NO_SUCH_QUEUE, busway_pool_worker(pools[0], names, 0, &worker));

    // Events.
    OK(busway_pool_queue(pools[0], "urgent", &queue));
    OK(busway_pool_worker(pools[1], names, 1, &worker));
    GIVES(BUSWAY_WOULD_BLOCK, busway_worker_recv(&worker, BUSWAY_NOW, &request));
    GIVES(BUSWAY_TIMEOUT, busway_worker_recv(&worker, 1, &request));
    OK(busway_queue_send(&queue, 5, "event", 5, BUSWAY_NOW));
    OK(busway_queue_len(&queue, &n));
    OK(busway_worker_recv(&worker, BUSWAY_NEVER, &request));
    CHECK(request.method == 5 && request.flags == BUSWAY_EVENT && IS(request, "event"));
    OK(busway_request_release(&request));
    OK(busway_pool_loan(pools[0], 3000, BUSWAY_NOW, &loan));
    memset(loan.data, 'e', 3000);
    OK(busway_queue_send_loan(&queue, 6, &loan, BUSWAY_NOW));
    OK(busway_worker_recv(&worker, BUSWAY_NOW, &request));
    CHECK(request.len == 3000 && request.data[2999] == 'e');
    OK(busway_request_release(&request));
    while ((status = busway_queue_send(&queue, 1, NULL, 0, BUSWAY_NOW)) == BUSWAY_OK)
        continue;
    GIVES(BUSWAY_FULL, status);
    while ((status = busway_worker_recv(&worker, BUSWAY_NOW, &request)) == BUSWAY_OK)
        OK(busway_request_release(&request));
    GIVES(BUSWAY_WOULD_BLOCK, status);
    GIVES(BUSWAY_WOULD_BLOCK, busway_worker_recv_many(&worker, &request, 1, BUSWAY_NOW, &n));
    OK(busway_pool_stats(pools[0], &stats));
    CHECK(stats.sent > 16 && stats.calls_in_use == 0);

    memcpy(&copy, &queue, sizeof copy);
    GIVES(BUSWAY_STALE_HANDLE, busway_queue_send(&copy, 1, NULL, 0, BUSWAY_NOW));
    CHECK(pthread_create(&server, NULL, serves, pools[1]) == 0);
    calls(pools[0]);
    OK(busway_pool_leave(pools[1]));
    CHECK(pthread_join(server, NULL) == 0);
    OK(busway_pool_is_closed(pools[1], &closed));
    CHECK(closed);
    OK(busway_pool_free(pools[0]));
    GIVES(BUSWAY_CLOSED, busway_queue_send(&queue, 1, NULL, 0, BUSWAY_NOW));
    GIVES(BUSWAY_STALE_HANDLE, busway_pool_queue(pools[0], "urgent", &queue));
    OK(busway_pool_free(pools[1]));
    GIVES(BUSWAY_CLOSED, busway_worker_recv(&worker, BUSWAY_NEVER, &request));
    GIVES(BUSWAY_STALE_HANDLE, busway_pool_free(pools[1]));
}

static const char *const as_member[] = {"member", "spawned", NULL};

static void members(void)
{
    busway_pool_config config = config_of();
    busway_command command = busway_command_init();
    busway_pool *pool;
    busway_process *process, *doomed;
    busway_listener *listener;
    busway_guest *guest;
    busway_queue queue = {0};
    busway_worker worker = {0};
    busway_call call = {0};
    busway_message reply = {0};
    char path[] = "/tmp/busway-c-XXXXXX", socket[64];
    static const char *const names[] = {"bulk"};
    uint32_t place, pid;
    size_t n;
    int status;
    command.program = self;
    command.argv = as_member;
    OK(busway_pool_create(&config, &pool));
    OK(busway_pool_spawn(pool, &command, &process));
    OK(busway_process_place(process, &place));
    CHECK(place == 2);
    OK(busway_process_pid(process, &pid));
    CHECK(kill((pid_t)pid, 0) == 0);
    calls(pool);

    // One that connects.
    CHECK(mkdtemp(path) != NULL);
    snprintf(socket, sizeof socket, "%s/socket", path);
    OK(busway_pool_listen(pool, socket, &listener));
    pid_t child = fork();
    if (child == 0) {
        const char *arguments[] = {"member", "connects", socket, NULL};
        execv(self, (char *const *)(uintptr_t)arguments);
        _exit(98);
    }
    OK(busway_listener_accept(listener, SECONDS(60), &guest));
    GIVES(BUSWAY_UNSUPPORTED, busway_guest_admit(guest, &(busway_link *){NULL}));
    OK(busway_guest_admit_member(guest, &place));
    CHECK(place == 3);
    OK(busway_pool_members(pool, &n));
    CHECK(n == 2);

    // One dies over a call.
    OK(busway_pool_queue(pool, "bulk", &queue));
    OK(busway_process_wait(process, NULL));
    OK(busway_queue_submit(&queue, DIE, NULL, 0, SECONDS(60), &call));
    GIVES(BUSWAY_PEER_DIED, busway_call_wait(&call, &reply));
    CHECK(last_error().maybe_executed == 1);
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
    OK(busway_pool_wait_members(pool, 0, SECONDS(60)));

    OK(busway_pool_spawn(pool, &command, &doomed));
    GIVES(BUSWAY_TIMEOUT, busway_pool_wait_members(pool, 0, BUSWAY_NOW));
    OK(busway_process_kill(doomed));
    OK(busway_pool_wait_members(pool, 0, SECONDS(60)));
    OK(busway_process_free(doomed));

    // The host as a worker, asleep by descriptor; a member calls it.
    const char *const asks[] = {"member", "asks", NULL};
    struct pollfd waits = {-1, POLLIN, 0};
    command.argv = asks;
    OK(busway_pool_worker(pool, names, 1, &worker));
    OK(busway_pool_fd(pool, &waits.fd));
    OK(busway_pool_spawn(pool, &command, &process));
    for (int served = 0; served < 10;) {
        busway_request request = {0};
        bool sleep;
        busway_status got = busway_worker_recv(&worker, BUSWAY_NOW, &request);
        if (got == BUSWAY_OK) {
            answer(&request);
            served++;
            continue;
        }
        GIVES(BUSWAY_WOULD_BLOCK, got);
        OK(busway_pool_arm(pool, &worker, &sleep));
        if (sleep)
            CHECK(poll(&waits, 1, 60000) == 1);
        OK(busway_pool_disarm(pool));
    }
    OK(busway_pool_arm(pool, NULL, &(bool){false}));
    OK(busway_pool_disarm(pool));
    OK(busway_process_wait(process, &status));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 5);

    command.argv = as_member;
    OK(busway_pool_spawn(pool, &command, &process));
    OK(busway_pool_close(pool, SECONDS(60)));
    OK(busway_process_wait(process, &status));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 4);
    OK(busway_listener_free(listener));
    OK(busway_pool_free(pool));
    CHECK(rmdir(path) == 0);
}

static int member(const char *role, const char *socket)
{
    busway_pool *pool;
    busway_queue queue = {0};
    busway_message reply = {0};
    if (strcmp(role, "connects") == 0) {
        OK(busway_pool_connect(socket, NULL, &pool));
    } else if (strcmp(role, "by name") == 0) {
        OK(busway_pool_open_named(socket, NULL, &pool));
    } else {
        OK(busway_pool_attach(NULL, &pool));
    }
    if (strcmp(role, "asks") == 0) {
        OK(busway_pool_queue(pool, "bulk", &queue));
        for (int i = 0; i < 10; i++) {
            OK(busway_queue_call(&queue, ECHO, "host", 4, SECONDS(60), &reply));
            CHECK(IS(reply, "host"));
            OK(busway_message_release(&reply));
        }
        OK(busway_pool_free(pool));
        return 5;
    }
    GIVES(BUSWAY_CLOSED, serve(pool));
    OK(busway_pool_free(pool));
    return 4;
}

// Members that come by name, from this process and from another.
static void named(void)
{
    busway_pool_config config = config_of(), wrong = config_of();
    busway_command command = busway_command_init();
    busway_pool *pool, *member;
    busway_queue queue = {0};
    busway_message reply = {0};
    char name[64];
    int status;
    static const char *const invalid[] = {"", ".hidden", "a/b", "\xff", "a b"};
    snprintf(name, sizeof name, "busway-c-%d", (int)getpid());
    for (size_t i = 0; i < sizeof invalid / sizeof *invalid; i++) {
        GIVES(BUSWAY_JOIN_FAILED, busway_pool_create_named(invalid[i], &config, &pool));
        CHECK(last_error().reason == BUSWAY_JOIN_INVALID_NAME);
        GIVES(BUSWAY_JOIN_FAILED, busway_pool_open_named(invalid[i], NULL, &pool));
        CHECK(last_error().reason == BUSWAY_JOIN_INVALID_NAME);
    }
    GIVES(BUSWAY_INVALID, busway_pool_create_named(NULL, &config, &pool));
    GIVES(BUSWAY_INVALID, busway_pool_create_named(name, &config, NULL));
    GIVES(BUSWAY_INVALID, busway_pool_open_named(NULL, NULL, &pool));
    GIVES(BUSWAY_INVALID, busway_pool_open_named(name, NULL, NULL));
    wrong.queue_count = 0;
    GIVES(BUSWAY_JOIN_FAILED, busway_pool_create_named(name, &wrong, &pool));
    CHECK(last_error().reason == BUSWAY_JOIN_GEOMETRY);
    GIVES(BUSWAY_JOIN_FAILED, busway_pool_open_named(name, NULL, &pool));
    CHECK(last_error().reason == BUSWAY_JOIN_NO_HOST);

    OK(busway_pool_create_named(name, &config, &pool));
    GIVES(BUSWAY_JOIN_FAILED, busway_pool_create_named(name, &config, &member));
    CHECK(last_error().reason == BUSWAY_JOIN_TAKEN);
    command.program = self;
    GIVES(BUSWAY_UNSUPPORTED, busway_pool_spawn(pool, &command, &(busway_process *){NULL}));
    GIVES(BUSWAY_UNSUPPORTED, busway_pool_listen(pool, "/tmp/busway-c-none", &(busway_listener *){NULL}));
    OK(busway_pool_open_named(name, NULL, &member));
    OK(busway_pool_wait_members(pool, 1, SECONDS(60)));
    OK(busway_pool_free(member));
    OK(busway_pool_wait_members(pool, 0, SECONDS(60)));

    pid_t child = fork();
    if (child == 0) {
        const char *arguments[] = {"member", "by name", name, NULL};
        execv(self, (char *const *)(uintptr_t)arguments);
        _exit(98);
    }
    OK(busway_pool_queue(pool, "bulk", &queue));
    OK(busway_queue_call(&queue, ECHO, "by name", 7, SECONDS(60), &reply));
    CHECK(IS(reply, "by name"));
    OK(busway_message_release(&reply));
    OK(busway_pool_close(pool, SECONDS(60)));
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 4);
    GIVES(BUSWAY_CLOSED, busway_pool_open_named(name, NULL, &member));
    OK(busway_pool_free(pool));
    GIVES(BUSWAY_JOIN_FAILED, busway_pool_open_named(name, NULL, &pool));
    CHECK(last_error().reason == BUSWAY_JOIN_NO_HOST);
}

// Three plugins that call their host, which serves all of them on one thread.
static void sets(void)
{
    enum { LINKS = 3, CALLS = 50 };
    busway_host *host;
    busway_set *set;
    busway_link *links[LINKS], *ends[2];
    busway_command command = busway_command_init();
    uint64_t tokens[LINKS], token;
    int32_t fd;
    const char *const argv[] = {"member", "of a set", NULL};
    int served[LINKS] = {0};
    size_t n;
    command.program = self;
    command.argv = argv;
    OK(busway_host_new(NULL, &host));
    OK(busway_set_new(&set));
    OK(busway_set_fd(set, &fd));
    busway_request request = {0};
    GIVES(BUSWAY_WOULD_BLOCK, busway_set_recv(set, BUSWAY_NOW, &token, &request));
    GIVES(BUSWAY_TIMEOUT, busway_set_recv(set, 1, &token, &request));
    CHECK(token == 0);
    OK(busway_link_pair(NULL, &ends[0], &ends[1]));
    GIVES(BUSWAY_UNSUPPORTED, busway_set_insert(set, ends[0], &token));
    OK(busway_link_free(ends[0]));
    OK(busway_link_free(ends[1]));
    GIVES(BUSWAY_STALE_HANDLE, busway_set_insert(set, ends[0], &token));
    for (int i = 0; i < LINKS; i++) {
        OK(busway_host_spawn(host, &command, &links[i]));
        OK(busway_set_insert(set, links[i], &tokens[i]));
        GIVES(BUSWAY_UNSUPPORTED, busway_set_insert(set, links[i], &token));
    }
    OK(busway_set_len(set, &n));
    CHECK(n == LINKS);
    OK(busway_set_remove(set, tokens[0]));
    GIVES(BUSWAY_INVALID, busway_set_remove(set, tokens[0]));
    OK(busway_set_insert(set, links[0], &tokens[0]));
    for (int left = LINKS; left > 0;) {
        busway_status status = busway_set_recv(set, SECONDS(60), &token, &request);
        int of = 0;
        while (of < LINKS && tokens[of] != token)
            of++;
        CHECK(of < LINKS);
        if (status == BUSWAY_OK) {
            answer(&request);
            served[of]++;
        } else {
            // It has closed its link.
            GIVES(BUSWAY_CLOSED, status);
            CHECK(served[of] == CALLS);
            left--;
        }
    }
    OK(busway_set_len(set, &n));
    CHECK(n == 0);
    for (int i = 0; i < LINKS; i++)
        OK(busway_link_free(links[i]));
    OK(busway_set_free(set));
    GIVES(BUSWAY_STALE_HANDLE, busway_set_free(set));
    OK(busway_host_free(host));
}

static int of_a_set(void)
{
    busway_link *link;
    busway_message reply = {0};
    OK(busway_attach(NULL, &link));
    for (int i = 0; i < 50; i++) {
        OK(busway_link_call(link, ECHO, "of a set", 8, SECONDS(60), &reply));
        CHECK(IS(reply, "of a set"));
        OK(busway_message_release(&reply));
    }
    OK(busway_link_close(link, SECONDS(60)));
    OK(busway_link_free(link));
    return 0;
}

int main(int argc, char **argv)
{
    watchdog();
    if (argc > 1 && strcmp(argv[1], "of a set") == 0)
        return of_a_set();
    if (argc > 1 && strcmp(argv[1], "group") != 0)
        return member(argv[1], argc > 2 ? argv[2] : "");
    group();
    // Under tools that cannot run two processes, only so far.
    if (argc > 1)
        return 0;
    self = strchr(argv[0], '/') ? argv[0] : "/proc/self/exe";
    members();
    named();
    sets();
    return 0;
}
