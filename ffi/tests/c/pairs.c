// Everything that needs no second process, over links inside this one.

#include "check.h"
#include <pthread.h>

static busway_link *host, *plugin;

static void begin(uint32_t entries, uint32_t cells)
{
    busway_config config = busway_config_init();
    busway_size_class classes[] = {{64, 16}, {4096, 8}};
    config.entries = entries;
    config.cells = cells;
    config.classes = classes;
    config.class_count = 2;
    OK(busway_link_pair(&config, &host, &plugin));
}

static void end(void)
{
    OK(busway_link_free(host));
    OK(busway_link_free(plugin));
}

enum { ECHO, FLIP, LOAN, REJECT, NO_METHOD, DROP, ASK_BACK, QUIT };

// Answers each method in its own way.
static void *serve(void *unused)
{
    (void)unused;
    for (;;) {
        busway_request request = {0};
        busway_message answer = {0};
        busway_loan loan = {0};
        busway_status status = busway_link_recv(plugin, BUSWAY_NEVER, &request);
        if (status == BUSWAY_CLOSED)
            return NULL;
        OK(status);
        switch (request.method) {
        case ECHO:
            OK(busway_request_reply(&request, request.data, request.len));
            break;
        case FLIP:
            OK(busway_request_loan(&request, request.len, &loan));
            OK(busway_request_copy(&request, 0, loan.data, loan.len));
            for (size_t i = 0; i < loan.len; i++)
                loan.data[i] ^= 0xff;
            OK(busway_request_reply_loan(&request, &loan));
            break;
        case LOAN:
            OK(busway_request_loan(&request, 4096, &loan));
            memset(loan.data, 'z', loan.len);
            loan.len = 100;
            OK(busway_request_reply_loan(&request, &loan));
            break;
        case REJECT:
            OK(busway_request_reject(&request, 42));
            break;
        case ASK_BACK:
            OK(busway_request_call(&request, ECHO, "nested", 6, SECONDS(60), &answer));
            OK(busway_request_reply(&request, answer.data, answer.len));
            OK(busway_message_release(&answer));
            break;
        case DROP:
            OK(busway_request_release(&request));
            break;
        default:
            OK(busway_request_no_such_method(&request));
        }
    }
}

static void *serve_host_once(void *unused)
{
    busway_request request = {0};
    (void)unused;
    OK(busway_link_recv(host, BUSWAY_NEVER, &request));
    OK(busway_request_reply(&request, request.data, request.len));
    return NULL;
}

static void calls(void)
{
    static const size_t lengths[] = {0, 1, 8, 16, 31, 32, 33, 40, 41, 64, 65, 4095, 4096};
    pthread_t server, asked;
    busway_message reply = {0};
    busway_loan loan = {0};
    uint8_t payload[4096], copy[4096];
    size_t max;
    begin(64, 16);
    CHECK(pthread_create(&server, NULL, serve, NULL) == 0);
    for (size_t i = 0; i < sizeof payload; i++)
        payload[i] = (uint8_t)(i * 31);
    OK(busway_link_max_payload(host, &max));
    CHECK(max == sizeof payload);

    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        size_t len = lengths[i];
        OK(busway_link_call(host, ECHO, payload, len, SECONDS(60), &reply));
        CHECK(reply.len == len && memcmp(reply.data, payload, len) == 0);
        OK(busway_message_copy(&reply, 0, copy, len));
        CHECK(memcmp(copy, payload, len) == 0);
        OK(busway_message_copy(&reply, len, NULL, 0));
        GIVES(BUSWAY_INVALID, busway_message_copy(&reply, 0, copy, len + 1));
        GIVES(BUSWAY_INVALID, busway_message_copy(&reply, SIZE_MAX, copy, 2));
        OK(busway_message_release(&reply));
        CHECK(reply.data == NULL && reply.len == 0);

        OK(busway_link_loan(host, len, SECONDS(60), &loan));
        CHECK(loan.len == len);
        memcpy(loan.data, payload, len);
        OK(busway_link_call_loan(host, FLIP, &loan, SECONDS(60), &reply));
        CHECK(reply.len == len && loan.data == NULL);
        for (size_t at = 0; at < len; at++)
            CHECK(reply.data[at] == 255 - payload[at]);
        OK(busway_message_release(&reply));
        GIVES(BUSWAY_STALE_HANDLE, busway_link_call_loan(host, FLIP, &loan, SECONDS(60), &reply));
    }
    OK(busway_link_call(host, LOAN, NULL, 0, SECONDS(60), &reply));
    CHECK(reply.len == 100 && reply.data[99] == 'z');
    OK(busway_message_release(&reply));

    GIVES(BUSWAY_REJECTED, busway_link_call(host, REJECT, "a", 1, SECONDS(60), &reply));
    CHECK(last_error().code == 42);
    GIVES(BUSWAY_REJECTED, busway_link_call(host, DROP, "a", 1, SECONDS(60), &reply));
    CHECK(last_error().code == BUSWAY_REJECT_UNANSWERED);
    GIVES(BUSWAY_NO_SUCH_METHOD, busway_link_call(host, 99, "a", 1, SECONDS(60), &reply));
    CHECK(last_error().code == 99);
    GIVES(BUSWAY_TOO_LARGE, busway_link_call(host, ECHO, payload, 4097, SECONDS(60), &reply));

    CHECK(pthread_create(&asked, NULL, serve_host_once, NULL) == 0);
    OK(busway_link_call(host, ASK_BACK, NULL, 0, SECONDS(60), &reply));
    CHECK(IS(reply, "nested"));
    OK(busway_message_release(&reply));
    CHECK(pthread_join(asked, NULL) == 0);

    busway_stats stats = busway_stats_init();
    OK(busway_link_stats(host, &stats));
    CHECK(stats.size == sizeof stats && stats.received == 1 && stats.sent > 26 && stats.calls_in_use == 0);
    CHECK(stats.slots_in_use == 0 && stats.violations == 0);

    bool closed;
    OK(busway_link_is_closed(plugin, &closed));
    CHECK(!closed);
    OK(busway_link_close(host, SECONDS(60)));
    CHECK(pthread_join(server, NULL) == 0);
    OK(busway_link_is_closed(plugin, &closed));
    CHECK(closed);
    GIVES(BUSWAY_CLOSED, busway_link_call(host, ECHO, "a", 1, SECONDS(60), &reply));
    GIVES(BUSWAY_CLOSED, busway_link_recv(host, BUSWAY_NOW, &(busway_request){0}));
    end();
}

static void events(void)
{
    busway_request request = {0};
    busway_loan loan = {0};
    busway_status status;
    int sent = 0;
    begin(8, 8);
    GIVES(BUSWAY_WOULD_BLOCK, busway_link_recv(plugin, BUSWAY_NOW, &request));
    GIVES(BUSWAY_TIMEOUT, busway_link_recv(plugin, 1, &request));
    OK(busway_link_send(host, 7, "event", 5, BUSWAY_NEVER));
    OK(busway_link_recv(plugin, BUSWAY_NEVER, &request));
    CHECK(request.method == 7 && request.flags == BUSWAY_EVENT && IS(request, "event"));
    CHECK(request.deadline == BUSWAY_NEVER);
    // No answer is due: a reply does nothing, and there is nobody to ask.
    GIVES(BUSWAY_UNSUPPORTED, busway_request_call(&request, 1, "a", 1, BUSWAY_NEVER, &(busway_message){0}));
    OK(busway_request_reply(&request, "ignored", 7));

    OK(busway_link_loan(host, 3000, BUSWAY_NOW, &loan));
    memset(loan.data, 'e', 3000);
    OK(busway_link_send_loan(host, 8, &loan, BUSWAY_NOW));
    OK(busway_link_recv(plugin, BUSWAY_NOW, &request));
    CHECK(request.method == 8 && request.len == 3000 && request.data[2999] == 'e');
    OK(busway_request_release(&request));

    while ((status = busway_link_send(host, 1, NULL, 0, BUSWAY_NOW)) == BUSWAY_OK)
        sent++;
    CHECK(status == BUSWAY_FULL && sent > 0);
    GIVES(BUSWAY_TIMEOUT, busway_link_send(host, 1, NULL, 0, 1));
    CHECK(last_error().maybe_executed == 0);
    OK(busway_link_loan(host, 64, BUSWAY_NOW, &loan));
    GIVES(BUSWAY_FULL, busway_link_send_loan(host, 1, &loan, BUSWAY_NOW));
    GIVES(BUSWAY_STALE_HANDLE, busway_loan_release(&loan));
    while (sent-- > 0) {
        OK(busway_link_recv(plugin, BUSWAY_NOW, &request));
        OK(busway_request_release(&request));
    }

    // All slots of a class, then one more.
    busway_loan loans[9] = {{0}};
    for (int i = 0; i < 8; i++)
        OK(busway_link_loan(host, 4096, BUSWAY_NOW, &loans[i]));
    GIVES(BUSWAY_FULL, busway_link_loan(host, 4096, BUSWAY_NOW, &loans[8]));
    GIVES(BUSWAY_TIMEOUT, busway_link_loan(host, 4096, 1, &loans[8]));
    GIVES(BUSWAY_UNSUPPORTED, busway_link_send_loan(plugin, 1, &loans[0], BUSWAY_NOW));
    OK(busway_link_loan(host, 4096, BUSWAY_NOW, &loans[8]));
    for (int i = 1; i < 9; i++)
        OK(busway_loan_release(&loans[i]));
    end();
}

static void deadlines(void)
{
    busway_request request = {0};
    busway_message reply = {0};
    busway_call call = {0};
    uint64_t deadline = SECONDS(60);
    bool ready;
    begin(64, 16);
    // Nobody takes it.
    GIVES(BUSWAY_TIMEOUT, busway_link_call(host, 1, "a", 1, BUSWAY_NOW, &reply));
    CHECK(last_error().maybe_executed == 0);
    GIVES(BUSWAY_WOULD_BLOCK, busway_link_recv(plugin, BUSWAY_NOW, &request));

    OK(busway_link_submit(host, 1, "a", 1, deadline, &call));
    CHECK(call.deadline == deadline);
    OK(busway_link_recv(plugin, BUSWAY_NOW, &request));
    CHECK(request.deadline == deadline && request.flags == 0);
    OK(busway_call_is_ready(&call, &ready));
    CHECK(!ready);
    OK(busway_request_reply(&request, "b", 1));
    OK(busway_call_is_ready(&call, &ready));
    CHECK(ready);
    OK(busway_call_wait(&call, &reply));
    CHECK(IS(reply, "b"));
    OK(busway_message_release(&reply));

    // Taken, and given up by its deadline.
    OK(busway_link_submit(host, 1, "a", 1, busway_deadline_after(1000000), &call));
    busway_status taken = busway_link_recv(plugin, BUSWAY_NOW, &request);
    GIVES(BUSWAY_TIMEOUT, busway_call_wait(&call, &reply));
    CHECK(last_error().maybe_executed == (taken == BUSWAY_OK));
    if (taken == BUSWAY_OK)
        OK(busway_request_reply(&request, "late", 4));

    // Given up by hand, in time to be not executed.
    OK(busway_link_submit(host, 1, "a", 1, SECONDS(60), &call));
    OK(busway_call_release(&call));
    GIVES(BUSWAY_WOULD_BLOCK, busway_link_recv(plugin, BUSWAY_NOW, &request));
    end();
}

#define MANY 100

static void batches(void)
{
    static busway_item items[MANY];
    static busway_call pending[MANY];
    static busway_request requests[MANY];
    static busway_answer answers[MANY];
    static busway_message replies[MANY];
    static busway_status statuses[MANY];
    static busway_loan loans[2];
    static uint64_t numbers[MANY];
    busway_stats stats = busway_stats_init();
    uint32_t ready[MANY];
    size_t n;
    begin(256, 128);
    for (size_t i = 0; i < MANY; i++) {
        numbers[i] = i;
        items[i].data = &numbers[i];
        items[i].len = sizeof numbers[i];
        items[i].method = (uint32_t)i;
    }
    OK(busway_link_send_many(host, items, MANY, BUSWAY_NOW, &n));
    CHECK(n == MANY);
    OK(busway_link_recv_many(plugin, requests, MANY, BUSWAY_NEVER, &n));
    CHECK(n == MANY);
    for (size_t i = 0; i < MANY; i++) {
        CHECK(requests[i].method == i && requests[i].len == 8 && memcmp(requests[i].data, &i, 8) == 0);
        OK(busway_request_release(&requests[i]));
    }
    GIVES(BUSWAY_WOULD_BLOCK, busway_link_recv_many(plugin, requests, MANY, BUSWAY_NOW, &n));
    CHECK(n == 0);
    GIVES(BUSWAY_TIMEOUT, busway_link_recv_many(plugin, requests, MANY, 1, &n));

    // Two of the calls with loans; what is answered: even ones with their number, odd ones are refused.
    OK(busway_link_loan(host, 2000, BUSWAY_NOW, &loans[0]));
    OK(busway_link_loan(host, 20, BUSWAY_NOW, &loans[1]));
    memset(loans[0].data, 0, 2000);
    memset(loans[1].data, 0, 20);
    items[2].loan = &loans[0];
    items[4].loan = &loans[1];
    OK(busway_link_submit_many(host, items, MANY, SECONDS(60), pending, &n));
    CHECK(n == MANY && loans[0].data == NULL && loans[1].data == NULL);
    GIVES(BUSWAY_WOULD_BLOCK, busway_calls_poll(pending, MANY, BUSWAY_NOW, ready, &n));
    CHECK(n == 0);
    OK(busway_link_recv_many(plugin, requests, 10, BUSWAY_NOW, &n));
    CHECK(n == 10 && requests[2].len == 2000 && requests[4].len == 20);
    OK(busway_link_recv_many(plugin, requests + 10, MANY - 10, BUSWAY_NEVER, &n));
    CHECK(n == MANY - 10);
    for (size_t i = 0; i < MANY; i++) {
        answers[i].status = i % 2 ? i % 3 ? BUSWAY_REJECTED : BUSWAY_NO_SUCH_METHOD : BUSWAY_OK;
        answers[i].code = (uint32_t)i;
        answers[i].data = &numbers[i];
        answers[i].len = 8;
    }
    answers[0].status = BUSWAY_TIMEOUT;
    GIVES(BUSWAY_INVALID, busway_link_reply_many(plugin, requests, answers, 1, NULL));
    answers[0].status = BUSWAY_OK;
    answers[0].len = sizeof numbers;
    OK(busway_link_reply_many(plugin, requests, answers, 10, statuses));
    OK(busway_calls_poll(pending, MANY, BUSWAY_NEVER, ready, &n));
    CHECK(n == 10);
    for (uint32_t i = 0; i < 10; i++)
        CHECK(ready[i] == i && statuses[i] == BUSWAY_OK);
    OK(busway_link_reply_many(plugin, requests + 10, answers + 10, MANY - 10, NULL));
    GIVES(BUSWAY_STALE_HANDLE, busway_link_reply_many(plugin, requests, answers, 1, statuses));
    CHECK(statuses[0] == BUSWAY_STALE_HANDLE);
    GIVES(BUSWAY_REJECTED, busway_calls_wait(pending, MANY, replies, statuses));
    CHECK(last_error().code == 1);
    for (size_t i = 0; i < MANY; i++) {
        CHECK(statuses[i] == answers[i].status);
        if (statuses[i] == BUSWAY_OK)
            CHECK(replies[i].len == answers[i].len && memcmp(replies[i].data, &numbers[i], answers[i].len) == 0);
    }
    // The first came in a slot. Where a call was refused there is nothing to release.
    OK(busway_link_stats(plugin, &stats));
    CHECK(stats.slots_in_use == 1);
    OK(busway_message_release(&replies[2]));
    OK(busway_messages_release(replies, MANY));
    OK(busway_link_stats(plugin, &stats));
    CHECK(stats.slots_in_use == 0);
    for (size_t i = 0; i < MANY; i++)
        GIVES(BUSWAY_STALE_HANDLE, busway_message_release(&replies[i]));
    GIVES(BUSWAY_STALE_HANDLE, busway_calls_poll(pending, MANY, BUSWAY_NEVER, ready, &n));
    items[2].loan = items[4].loan = NULL;
    end();

    // More than there is room for.
    begin(16, 8);
    GIVES(BUSWAY_FULL, busway_link_try_submit_many(host, items, MANY, SECONDS(60), pending, &n));
    CHECK(n > 0 && n < 8);
    GIVES(BUSWAY_FULL, busway_link_try_submit(host, 1, "a", 1, SECONDS(60), &pending[MANY - 1]));
    GIVES(BUSWAY_TIMEOUT, busway_link_submit_many(host, items, 1, 1, pending + n, &(size_t){0}));
    for (size_t i = 0; i < n; i++)
        OK(busway_call_release(&pending[i]));
    GIVES(BUSWAY_FULL, busway_link_send_many(host, items, MANY, BUSWAY_NOW, &n));
    CHECK(n > 0 && n < 16);
    end();
}

static void *answer_last(void *unused)
{
    busway_request requests[3] = {{0}};
    (void)unused;
    for (int i = 0; i < 3; i++)
        OK(busway_link_recv(plugin, BUSWAY_NEVER, &requests[i]));
    OK(busway_request_reply(&requests[2], "c", 1));
    for (int i = 0; i < 2; i++)
        OK(busway_request_release(&requests[i]));
    return NULL;
}

// A thread sleeps until one of its calls is done.
static void polling(void)
{
    pthread_t server;
    busway_call pending[3] = {{0}};
    busway_message reply = {0};
    uint32_t ready[3];
    size_t n, left = 3;
    busway_link *other, *its_plugin;
    begin(16, 8);
    for (int i = 0; i < 3; i++)
        OK(busway_link_submit(host, 1, "a", 1, SECONDS(60), &pending[i]));
    GIVES(BUSWAY_TIMEOUT, busway_calls_poll(pending, 3, busway_deadline_after(1000000), ready, &n));
    CHECK(pthread_create(&server, NULL, answer_last, NULL) == 0);
    while (left > 0) {
        OK(busway_calls_poll(pending, 3, BUSWAY_NEVER, ready, &n));
        CHECK(n > 0);
        for (size_t i = 0; i < n; i++, left--) {
            if (ready[i] == 2) {
                OK(busway_call_wait(&pending[2], &reply));
                CHECK(IS(reply, "c"));
                OK(busway_message_release(&reply));
            } else {
                GIVES(BUSWAY_REJECTED, busway_call_wait(&pending[ready[i]], &reply));
            }
        }
    }
    CHECK(pthread_join(server, NULL) == 0);

    OK(busway_link_pair(NULL, &other, &its_plugin));
    OK(busway_link_submit(host, 1, "a", 1, BUSWAY_NEVER, &pending[0]));
    OK(busway_link_submit(other, 1, "a", 1, BUSWAY_NEVER, &pending[1]));
    GIVES(BUSWAY_INVALID, busway_calls_poll(pending, 2, BUSWAY_NOW, ready, &n));
    OK(busway_link_free(other));
    OK(busway_link_free(its_plugin));
    GIVES(BUSWAY_CLOSED, busway_call_wait(&pending[1], &reply));
    // One that ends by its own deadline is done too.
    OK(busway_link_submit(host, 1, "a", 1, busway_deadline_after(1000000), &pending[1]));
    OK(busway_calls_poll(pending, 2, BUSWAY_NEVER, ready, &n));
    CHECK(n == 1 && ready[0] == 1);
    GIVES(BUSWAY_TIMEOUT, busway_call_wait(&pending[1], &reply));
    OK(busway_link_close(host, BUSWAY_NOW));
    OK(busway_calls_poll(pending, 2, BUSWAY_NEVER, ready, &n));
    GIVES(BUSWAY_CANCELLED, busway_call_wait(&pending[0], &reply));
    end();
}

static void options(void)
{
    busway_config config = busway_config_init();
    busway_size_class classes[] = {{100, 8}};
    static busway_size_class many[40];
    busway_link *a, *b;
    config.idle = 99;
    GIVES(BUSWAY_INVALID, busway_link_pair(&config, &a, &b));
    for (config.idle = BUSWAY_IDLE_ADAPTIVE; config.idle <= BUSWAY_IDLE_POLL; config.idle++) {
        OK(busway_link_pair(&config, &a, &b));
        OK(busway_link_free(a));
        OK(busway_link_free(b));
    }
    config = busway_config_init();
    config.spin_ns = 1000;
    OK(busway_link_pair(&config, &a, &b));
    OK(busway_link_free(a));
    OK(busway_link_free(b));
    config.entries = 7;
    GIVES(BUSWAY_JOIN_FAILED, busway_link_pair(&config, &a, &b));
    CHECK(last_error().reason == BUSWAY_JOIN_GEOMETRY);
    config.entries = 0;
    config.classes = classes;
    config.class_count = 1;
    GIVES(BUSWAY_JOIN_FAILED, busway_link_pair(&config, &a, &b));
    config.classes = many;
    config.class_count = 40;
    GIVES(BUSWAY_INVALID, busway_link_pair(&config, &a, &b));
    config.classes = NULL;
    GIVES(BUSWAY_INVALID, busway_link_pair(&config, &a, &b));
    config.class_count = 0;
    config.size = 3;
    GIVES(BUSWAY_INVALID, busway_link_pair(&config, &a, &b));
}

int main(void)
{
    watchdog();
    calls();
    events();
    deadlines();
    batches();
    polling();
    options();
    return 0;
}
