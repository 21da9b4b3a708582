// What is no handle or no object is an error, and handles are freed while they are in use.

#include "check.h"
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>

static void pair(busway_link **host, busway_link **plugin)
{
    busway_config config = busway_config_init();
    busway_size_class classes[] = {{64, 8}, {4096, 4}};
    config.entries = 16;
    config.cells = 8;
    config.classes = classes;
    config.class_count = 2;
    OK(busway_link_pair(&config, host, plugin));
}

static void not_a_link(busway_link *link)
{
    busway_message reply = {0};
    busway_request request = {0};
    busway_loan loan = {0};
    busway_call call = {0};
    busway_stats stats = busway_stats_init();
    busway_credentials who;
    size_t n;
    bool flag;
    int32_t number;
    uint32_t pid;
    GIVES(BUSWAY_STALE_HANDLE, busway_link_call(link, 1, "a", 1, BUSWAY_NEVER, &reply));
    GIVES(BUSWAY_STALE_HANDLE, busway_link_call_loan(link, 1, &loan, BUSWAY_NEVER, &reply));
    GIVES(BUSWAY_STALE_HANDLE, busway_link_send(link, 1, "a", 1, BUSWAY_NEVER));
    GIVES(BUSWAY_STALE_HANDLE, busway_link_send_loan(link, 1, &loan, BUSWAY_NEVER));
    GIVES(BUSWAY_STALE_HANDLE, busway_link_submit(link, 1, "a", 1, BUSWAY_NEVER, &call));
    GIVES(BUSWAY_STALE_HANDLE, busway_link_submit_loan(link, 1, &loan, BUSWAY_NEVER, &call));
    GIVES(BUSWAY_STALE_HANDLE, busway_link_try_submit(link, 1, "a", 1, BUSWAY_NEVER, &call));
    GIVES(BUSWAY_STALE_HANDLE, busway_link_send_many(link, NULL, 0, BUSWAY_NEVER, &n));
    GIVES(BUSWAY_STALE_HANDLE, busway_link_submit_many(link, NULL, 0, BUSWAY_NEVER, NULL, &n));
    GIVES(BUSWAY_STALE_HANDLE, busway_link_try_submit_many(link, NULL, 0, BUSWAY_NEVER, NULL, &n));
    GIVES(BUSWAY_STALE_HANDLE, busway_link_recv(link, BUSWAY_NEVER, &request));
    GIVES(BUSWAY_STALE_HANDLE, busway_link_recv_many(link, &request, 1, BUSWAY_NEVER, &n));
    GIVES(BUSWAY_STALE_HANDLE, busway_link_reply_many(link, NULL, NULL, 0, NULL));
    GIVES(BUSWAY_STALE_HANDLE, busway_link_loan(link, 100, BUSWAY_NOW, &loan));
    GIVES(BUSWAY_STALE_HANDLE, busway_link_close(link, BUSWAY_NOW));
    GIVES(BUSWAY_STALE_HANDLE, busway_link_free(link));
    GIVES(BUSWAY_STALE_HANDLE, busway_link_shut_down(link, BUSWAY_NOW, NULL));
    GIVES(BUSWAY_STALE_HANDLE, busway_link_pid(link, &pid));
    GIVES(BUSWAY_STALE_HANDLE, busway_link_kill(link));
    GIVES(BUSWAY_STALE_HANDLE, busway_link_is_closed(link, &flag));
    GIVES(BUSWAY_STALE_HANDLE, busway_link_peer(link, &who));
    GIVES(BUSWAY_STALE_HANDLE, busway_link_max_payload(link, &n));
    GIVES(BUSWAY_STALE_HANDLE, busway_link_stats(link, &stats));
    GIVES(BUSWAY_STALE_HANDLE, busway_link_fd(link, &number));
    GIVES(BUSWAY_STALE_HANDLE, busway_link_arm(link, &flag));
    GIVES(BUSWAY_STALE_HANDLE, busway_link_disarm(link));
}

static void what_is_no_handle(void)
{
    busway_link *host, *plugin, *later, *other;
    busway_host *maker;
    busway_listener *listener = NULL;
    busway_guest *guest = NULL;
    busway_credentials who;
    int32_t fd;
    int local = 0;
    pair(&host, &plugin);
    OK(busway_host_new(NULL, &maker));
    not_a_link(NULL);
    not_a_link((busway_link *)&local);
    not_a_link((busway_link *)1);
    not_a_link((busway_link *)UINTPTR_MAX);
    not_a_link((busway_link *)maker);
    OK(busway_link_free(host));
    not_a_link(host);
    // The cell is used again; what named it before does not name what is there now.
    for (int i = 0; i < 300; i++) {
        pair(&later, &other);
        CHECK(later != host && other != host);
        OK(busway_link_free(later));
        OK(busway_link_free(other));
    }
    not_a_link(host);
    OK(busway_link_free(plugin));

    GIVES(BUSWAY_STALE_HANDLE, busway_host_spawn(NULL, &(busway_command){sizeof(busway_command), 0, "x", 0, 0, 0}, &later));
    GIVES(BUSWAY_INVALID, busway_host_spawn(maker, NULL, &later));
    GIVES(BUSWAY_STALE_HANDLE, busway_host_listen(NULL, "/", &listener));
    GIVES(BUSWAY_INVALID, busway_host_listen(maker, NULL, &listener));
    GIVES(BUSWAY_STALE_HANDLE, busway_listener_accept(NULL, BUSWAY_NOW, &guest));
    GIVES(BUSWAY_STALE_HANDLE, busway_listener_fd(NULL, &fd));
    GIVES(BUSWAY_STALE_HANDLE, busway_listener_free(NULL));
    GIVES(BUSWAY_STALE_HANDLE, busway_guest_credentials(NULL, &who));
    GIVES(BUSWAY_STALE_HANDLE, busway_guest_admit(NULL, &later));
    GIVES(BUSWAY_STALE_HANDLE, busway_guest_refuse(NULL));
    GIVES(BUSWAY_STALE_HANDLE, busway_guest_free(NULL));
    OK(busway_host_free(maker));
    GIVES(BUSWAY_STALE_HANDLE, busway_host_free(maker));
}

static void wrong_arguments(void)
{
    busway_link *host, *plugin;
    busway_message reply = {0};
    busway_call call = {0};
    size_t n;
    _Alignas(8) char misaligned[sizeof(busway_message) + 8] = {0};
    pair(&host, &plugin);
    GIVES(BUSWAY_INVALID, busway_link_call(host, 1, NULL, 1, BUSWAY_NEVER, &reply));
    GIVES(BUSWAY_INVALID, busway_link_call(host, 1, "a", SIZE_MAX, BUSWAY_NEVER, &reply));
    GIVES(BUSWAY_INVALID, busway_link_call(host, 1, "a", 1, BUSWAY_NEVER, NULL));
    GIVES(BUSWAY_INVALID, busway_link_call(host, 1, "a", 1, BUSWAY_NEVER, (busway_message *)(void *)(misaligned + 1)));
    GIVES(BUSWAY_INVALID, busway_link_recv(host, BUSWAY_NOW, NULL));
    GIVES(BUSWAY_INVALID, busway_link_submit(host, 1, "a", 1, BUSWAY_NEVER, NULL));
    GIVES(BUSWAY_INVALID, busway_link_submit_many(host, NULL, 1, BUSWAY_NEVER, &call, &n));
    GIVES(BUSWAY_INVALID, busway_link_is_closed(host, NULL));
    GIVES(BUSWAY_INVALID, busway_link_stats(host, NULL));
    GIVES(BUSWAY_INVALID, busway_error_details(NULL));
    GIVES(BUSWAY_INVALID, busway_link_pair(NULL, NULL, &plugin));
    GIVES(BUSWAY_UNSUPPORTED, busway_link_fd(host, &(int32_t){0}));
    GIVES(BUSWAY_UNSUPPORTED, busway_link_pid(host, &(uint32_t){0}));
    GIVES(BUSWAY_UNSUPPORTED, busway_link_kill(host));
    GIVES(BUSWAY_UNSUPPORTED, busway_link_shut_down(host, BUSWAY_NOW, NULL));
    OK(busway_link_free(host));
    OK(busway_link_free(plugin));
}

// Spent, zeroed, copied and full ones.
static void what_is_no_object(void)
{
    busway_link *host, *plugin;
    busway_loan loan = {0}, copy;
    busway_message reply = {0};
    busway_request request = {0}, twin;
    busway_call call = {0};
    char byte;
    uint32_t place;
    size_t n;
    bool ready;
    pair(&host, &plugin);
    GIVES(BUSWAY_STALE_HANDLE, busway_loan_release(&loan));
    GIVES(BUSWAY_STALE_HANDLE, busway_link_send_loan(host, 1, &loan, BUSWAY_NOW));
    GIVES(BUSWAY_STALE_HANDLE, busway_message_release(&reply));
    GIVES(BUSWAY_STALE_HANDLE, busway_message_copy(&reply, 0, &byte, 1));
    GIVES(BUSWAY_STALE_HANDLE, busway_request_reply(&request, "a", 1));
    GIVES(BUSWAY_STALE_HANDLE, busway_request_reply_loan(&request, &loan));
    GIVES(BUSWAY_STALE_HANDLE, busway_request_loan(&request, 1, &loan));
    GIVES(BUSWAY_STALE_HANDLE, busway_request_reject(&request, 1));
    GIVES(BUSWAY_STALE_HANDLE, busway_request_no_such_method(&request));
    GIVES(BUSWAY_STALE_HANDLE, busway_request_release(&request));
    GIVES(BUSWAY_STALE_HANDLE, busway_request_copy(&request, 0, &byte, 1));
    GIVES(BUSWAY_STALE_HANDLE, busway_request_call(&request, 1, "a", 1, BUSWAY_NEVER, &reply));
    GIVES(BUSWAY_STALE_HANDLE, busway_call_wait(&call, &reply));
    GIVES(BUSWAY_STALE_HANDLE, busway_call_is_ready(&call, &ready));
    GIVES(BUSWAY_STALE_HANDLE, busway_call_release(&call));
    GIVES(BUSWAY_STALE_HANDLE, busway_calls_poll(&call, 1, BUSWAY_NOW, &place, &n));

    OK(busway_link_loan(host, 1000, BUSWAY_NOW, &loan));
    CHECK(loan.data != NULL && loan.len == 1000);
    GIVES(BUSWAY_BUSY, busway_link_loan(host, 1000, BUSWAY_NOW, &loan));
    memcpy(&copy, &loan, sizeof copy);
    GIVES(BUSWAY_STALE_HANDLE, busway_loan_release(&copy));
    loan.len = 1001;
    GIVES(BUSWAY_INVALID, busway_link_send_loan(host, 1, &loan, BUSWAY_NOW));
    OK(busway_loan_release(&loan));
    CHECK(loan.data == NULL && loan.len == 0);
    GIVES(BUSWAY_STALE_HANDLE, busway_loan_release(&loan));

    OK(busway_link_submit(host, 1, "a", 1, BUSWAY_NEVER, &call));
    GIVES(BUSWAY_BUSY, busway_link_submit(host, 1, "a", 1, BUSWAY_NEVER, &call));
    OK(busway_link_recv(plugin, BUSWAY_NOW, &request));
    memcpy(&twin, &request, sizeof twin);
    GIVES(BUSWAY_STALE_HANDLE, busway_request_reply(&twin, "a", 1));
    GIVES(BUSWAY_BUSY, busway_link_recv(plugin, BUSWAY_NOW, &request));
    OK(busway_request_reply(&request, "b", 1));
    GIVES(BUSWAY_STALE_HANDLE, busway_request_reply(&request, "b", 1));
    OK(busway_call_wait(&call, &reply));
    GIVES(BUSWAY_STALE_HANDLE, busway_call_wait(&call, &(busway_message){0}));
    GIVES(BUSWAY_BUSY, busway_link_call(host, 1, "a", 1, BUSWAY_NEVER, &reply));
    OK(busway_message_release(&reply));
    OK(busway_link_free(host));
    OK(busway_link_free(plugin));
}

// What is held of a link outlives it.
static void what_outlives_its_link(void)
{
    busway_link *host, *plugin;
    busway_loan loan = {0};
    busway_request in_slot = {0}, inline_one = {0};
    busway_call calls[2] = {{0}, {0}};
    busway_message reply = {0};
    char payload[1000], copy[1000];
    bool ready;
    uint32_t places[2];
    size_t n;
    memset(payload, 'x', sizeof payload);
    pair(&host, &plugin);
    OK(busway_link_loan(host, 1000, BUSWAY_NOW, &loan));
    OK(busway_link_submit(host, 1, payload, sizeof payload, BUSWAY_NEVER, &calls[0]));
    OK(busway_link_submit(host, 2, "a", 1, BUSWAY_NEVER, &calls[1]));
    OK(busway_link_recv(plugin, BUSWAY_NOW, &in_slot));
    OK(busway_link_recv(plugin, BUSWAY_NOW, &inline_one));
    OK(busway_link_free(host));
    OK(busway_link_free(plugin));
    memset(loan.data, 'y', loan.len);
    OK(busway_loan_release(&loan));
    CHECK(in_slot.len == 1000 && memcmp(in_slot.data, payload, 1000) == 0);
    OK(busway_request_copy(&in_slot, 0, copy, sizeof copy));
    CHECK(memcmp(copy, payload, sizeof copy) == 0);
    GIVES(BUSWAY_CLOSED, busway_request_reply(&in_slot, "late", 4));
    GIVES(BUSWAY_CLOSED, busway_request_reply(&inline_one, "late", 4));
    GIVES(BUSWAY_CLOSED, busway_call_is_ready(&calls[0], &ready));
    GIVES(BUSWAY_CLOSED, busway_calls_poll(calls, 2, BUSWAY_NEVER, places, &n));
    GIVES(BUSWAY_CLOSED, busway_call_wait(&calls[0], &reply));
    OK(busway_call_release(&calls[1]));
}

// Calls of two links, waited for together; one is freed before.
static void of_two_links(void)
{
    busway_link *hosts[2], *plugins[2];
    busway_call pending[3] = {{0}};
    busway_message replies[3] = {{0}};
    busway_request request = {0};
    busway_status statuses[3];
    pair(&hosts[0], &plugins[0]);
    pair(&hosts[1], &plugins[1]);
    for (int i = 0; i < 3; i++) {
        OK(busway_link_submit(hosts[i % 2], 1, &i, sizeof i, BUSWAY_NEVER, &pending[i]));
        OK(busway_link_recv(plugins[i % 2], BUSWAY_NOW, &request));
        OK(busway_request_reply(&request, request.data, request.len));
    }
    OK(busway_link_free(hosts[1]));
    GIVES(BUSWAY_CLOSED, busway_calls_wait(pending, 3, replies, statuses));
    CHECK(statuses[0] == BUSWAY_OK && statuses[1] == BUSWAY_CLOSED && statuses[2] == BUSWAY_OK);
    CHECK(*(const int *)replies[0].data == 0 && *(const int *)replies[2].data == 2 && replies[1].data == NULL);
    OK(busway_messages_release(replies, 3));
    OK(busway_link_free(hosts[0]));
    OK(busway_link_free(plugins[0]));
    OK(busway_link_free(plugins[1]));
}

static void *serves(void *link)
{
    busway_status status;
    do {
        busway_request request = {0};
        status = busway_link_recv(link, BUSWAY_NEVER, &request);
        if (status == BUSWAY_OK)
            busway_request_reply(&request, request.data, request.len);
    } while (status == BUSWAY_OK);
    CHECK(status == BUSWAY_CLOSED || status == BUSWAY_STALE_HANDLE);
    return NULL;
}

static void *calls(void *link)
{
    busway_status status;
    do {
        busway_message reply = {0};
        status = busway_link_call(link, 1, "0123456789012345678901234567890123456789", 40, BUSWAY_NEVER, &reply);
        if (status == BUSWAY_OK)
            OK(busway_message_release(&reply));
    } while (status == BUSWAY_OK);
    // A call that was taken and not run when its server's end was freed is refused.
    CHECK(status == BUSWAY_CLOSED || status == BUSWAY_CANCELLED || status == BUSWAY_STALE_HANDLE ||
          status == BUSWAY_REJECTED);
    return NULL;
}

// There are reply cells for one of these beside the others.
enum { MANY = 3 };

static void *calls_many(void *link)
{
    busway_call pending[MANY] = {{0}};
    busway_message replies[MANY] = {{0}};
    busway_item items[MANY] = {{0}};
    busway_status status, statuses[MANY];
    do {
        size_t n;
        status = busway_link_submit_many(link, items, MANY, BUSWAY_NEVER, pending, &n);
        if (n > 0) {
            busway_status waited = busway_calls_wait(pending, n, replies, statuses);
            status = status == BUSWAY_OK ? waited : status;
        }
        OK(busway_messages_release(replies, MANY));
    } while (status == BUSWAY_OK);
    CHECK(status == BUSWAY_CLOSED || status == BUSWAY_CANCELLED || status == BUSWAY_STALE_HANDLE ||
          status == BUSWAY_REJECTED);
    return NULL;
}

// Both ends are freed under threads that wait in them.
static void freed_in_use(void)
{
    for (int round = 0; round < 50; round++) {
        busway_link *host, *plugin;
        busway_message reply = {0};
        pthread_t threads[5];
        pair(&host, &plugin);
        CHECK(pthread_create(&threads[0], NULL, serves, plugin) == 0);
        CHECK(pthread_create(&threads[1], NULL, serves, plugin) == 0);
        CHECK(pthread_create(&threads[2], NULL, calls, host) == 0);
        CHECK(pthread_create(&threads[3], NULL, calls, host) == 0);
        CHECK(pthread_create(&threads[4], NULL, calls_many, host) == 0);
        OK(busway_link_call(host, 1, "a", 1, BUSWAY_NEVER, &reply));
        OK(busway_message_release(&reply));
        OK(busway_link_free(round % 2 ? host : plugin));
        OK(busway_link_free(round % 2 ? plugin : host));
        for (int i = 0; i < 5; i++)
            CHECK(pthread_join(threads[i], NULL) == 0);
    }
}

static volatile bool done;

static void *makes_handles(void *unused)
{
    while (!done) {
        busway_host *host;
        OK(busway_host_new(NULL, &host));
        OK(busway_host_free(host));
    }
    return unused;
}

// A child makes handles of its own, wherever other threads were in the table when it was forked.
static void forked_meanwhile(void)
{
    enum { THREADS = 3, FORKS = 100 };
    pthread_t threads[THREADS];
    busway_host *kept;
    OK(busway_host_new(NULL, &kept));
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, makes_handles, NULL) == 0);
    for (int i = 0; i < FORKS; i++) {
        int status = -1;
        pid_t child = fork();
        if (child == 0) {
            busway_host *own[70];
            alarm(60);
            for (int n = 0; n < 70; n++) {
                OK(busway_host_new(NULL, &own[n]));
                CHECK(own[n] != kept);
            }
            for (int n = 0; n < 70; n++)
                OK(busway_host_free(own[n]));
            OK(busway_host_free(kept));
            // Whoever looks for leaks at an exit would find what the other threads had in hand.
            raise(SIGKILL);
        }
        CHECK(child > 0 && waitpid(child, &status, 0) == child);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    }
    done = true;
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    OK(busway_host_free(kept));
}

static void errors(void)
{
    busway_link *host, *plugin;
    for (busway_status status = BUSWAY_OK; status <= BUSWAY_PANIC; status++)
        CHECK(strcmp(busway_status_text(status), busway_status_text(-1)) != 0);
    CHECK(strlen(busway_status_text(BUSWAY_PANIC + 1)) > 0);
    CHECK(strcmp(busway_error_text(), "") == 0);
    CHECK(last_error().status == BUSWAY_OK);
    pair(&host, &plugin);
    GIVES(BUSWAY_TOO_LARGE, busway_link_loan(host, 5000, BUSWAY_NOW, &(busway_loan){0}));
    busway_error error = last_error();
    CHECK(error.status == BUSWAY_TOO_LARGE && error.len == 5000 && error.max == 4096);
    CHECK(strstr(busway_error_text(), "5000") != NULL);
    // Success leaves it.
    OK(busway_link_close(host, BUSWAY_NOW));
    CHECK(last_error().status == BUSWAY_TOO_LARGE);
    OK(busway_link_free(host));
    OK(busway_link_free(plugin));
    CHECK(busway_version() >= 1000);
    CHECK(busway_deadline_after(UINT64_MAX) == BUSWAY_NEVER);
    CHECK(busway_deadline_after(0) > 0 && busway_deadline_after(0) <= busway_deadline_after(1000000000));
}

// "alone" leaves out what forks beside threads: valgrind runs one thread at a time, and the busy ones first.
int main(int argc, char **argv)
{
    bool alone = argc > 1 && strcmp(argv[1], "alone") == 0;
#ifdef __SANITIZE_ADDRESS__ // whose own allocator a forked child may find locked for ever
    alone = true;
#endif
    watchdog();
    errors();
    what_is_no_handle();
    wrong_arguments();
    what_is_no_object();
    what_outlives_its_link();
    of_two_links();
    freed_in_use();
    if (!alone)
        forked_meanwhile();
    return 0;
}
