// A program of the first version. Not to be edited: README.md says why.

#include "busway.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void failed(int line, const char *what)
{
    fprintf(stderr, "program.c:%d: %s: %s\n", line, what, busway_error_text());
    exit(1);
}

#define CHECK(condition) ((condition) ? (void)0 : failed(__LINE__, #condition))
#define OK(call) CHECK((call) == BUSWAY_OK)
#define SECONDS(n) busway_deadline_after((n) * UINT64_C(1000000000))

// Memory behind what the library writes, which it leaves alone.
#define FENCED(type)                                                                                                   \
    struct {                                                                                                           \
        type value;                                                                                                    \
        uint64_t behind;                                                                                               \
    }

static void *serve(void *link)
{
    busway_request request = {0};
    busway_status status;
    while ((status = busway_link_recv(link, BUSWAY_NEVER, &request)) == BUSWAY_OK) {
        if (request.flags == BUSWAY_EVENT)
            OK(busway_request_release(&request));
        else if (request.method == 2)
            OK(busway_request_reject(&request, 42));
        else
            OK(busway_request_reply(&request, request.data, request.len));
    }
    CHECK(status == BUSWAY_CLOSED);
    return NULL;
}

static void links(void)
{
    enum { MANY = 8 };
    static const busway_size_class classes[] = {{64, 64}, {4096, 16}};
    FENCED(busway_config) config = {busway_config_init(), UINT64_MAX};
    FENCED(busway_error) error = {busway_error_init(), UINT64_MAX};
    FENCED(busway_stats) stats = {busway_stats_init(), UINT64_MAX};
    FENCED(busway_grade) grade = {busway_grade_init(), UINT64_MAX};
    FENCED(busway_message) reply = {{0}, UINT64_MAX};
    FENCED(busway_loan) loan = {{0}, UINT64_MAX};
    FENCED(busway_call) call = {{0}, UINT64_MAX};
    static busway_item items[MANY];
    static busway_call calls[MANY];
    static busway_message replies[MANY];
    static busway_status statuses[MANY];
    busway_link *host, *plugin;
    pthread_t server;
    size_t sent;
    config.value.entries = 64;
    config.value.classes = classes;
    config.value.class_count = 2;
    OK(busway_link_pair(&config.value, &host, &plugin));
    CHECK(pthread_create(&server, NULL, serve, plugin) == 0);
    OK(busway_link_call(host, 1, "hello", 5, SECONDS(60), &reply.value));
    CHECK(reply.value.len == 5 && memcmp(reply.value.data, "hello", 5) == 0);
    OK(busway_message_release(&reply.value));
    OK(busway_link_loan(host, 1000, SECONDS(60), &loan.value));
    memset(loan.value.data, 'l', loan.value.len);
    OK(busway_link_call_loan(host, 1, &loan.value, SECONDS(60), &reply.value));
    CHECK(reply.value.len == 1000 && reply.value.data[999] == 'l');
    OK(busway_message_release(&reply.value));
    OK(busway_link_submit(host, 1, "later", 5, SECONDS(60), &call.value));
    OK(busway_call_wait(&call.value, &reply.value));
    OK(busway_message_release(&reply.value));
    OK(busway_link_send(host, 3, "event", 5, SECONDS(60)));
    CHECK(busway_link_call(host, 2, NULL, 0, SECONDS(60), &reply.value) == BUSWAY_REJECTED);
    OK(busway_error_details(&error.value));
    CHECK(error.value.status == BUSWAY_REJECTED && error.value.code == 42 && error.value.size == sizeof error.value);
    for (int i = 0; i < MANY; i++)
        items[i] = (busway_item){.data = "many", .len = 4, .method = 1};
    OK(busway_link_submit_many(host, items, MANY, SECONDS(60), calls, &sent));
    CHECK(sent == MANY);
    OK(busway_calls_wait(calls, MANY, replies, statuses));
    for (int i = 0; i < MANY; i++) {
        CHECK(statuses[i] == BUSWAY_OK && replies[i].len == 4);
        OK(busway_message_release(&replies[i]));
    }
    OK(busway_link_stats(host, &stats.value));
    CHECK(stats.value.sent == MANY + 5 && stats.value.violations == 0);
    OK(busway_link_grade(host, &grade.value));
    CHECK(grade.value.grade == BUSWAY_GRADE_UNCONFINED);
    OK(busway_link_close(host, SECONDS(60)));
    CHECK(pthread_join(server, NULL) == 0);
    OK(busway_link_free(host));
    OK(busway_link_free(plugin));
    CHECK(busway_link_free(plugin) == BUSWAY_STALE_HANDLE);
    CHECK(config.behind == UINT64_MAX && error.behind == UINT64_MAX && stats.behind == UINT64_MAX);
    CHECK(grade.behind == UINT64_MAX && reply.behind == UINT64_MAX && loan.behind == UINT64_MAX);
    CHECK(call.behind == UINT64_MAX);
}

static void pools(void)
{
    static const busway_queue_config queues[] = {{"work", 16, 0}};
    static const char *const names[] = {"work"};
    FENCED(busway_pool_config) config = {busway_pool_config_init(), UINT64_MAX};
    FENCED(busway_queue) queue = {{0}, UINT64_MAX};
    FENCED(busway_worker) worker = {{0}, UINT64_MAX};
    FENCED(busway_request) request = {{0}, UINT64_MAX};
    busway_pool *members[2];
    busway_call call = {0};
    busway_message reply = {0};
    config.value.queues = queues;
    config.value.queue_count = 1;
    OK(busway_pool_group(&config.value, 2, members));
    OK(busway_pool_queue(members[0], "work", &queue.value));
    OK(busway_pool_worker(members[1], names, 1, &worker.value));
    OK(busway_queue_submit(&queue.value, 7, "pool", 4, SECONDS(60), &call));
    OK(busway_worker_recv(&worker.value, SECONDS(60), &request.value));
    CHECK(request.value.method == 7 && request.value.len == 4);
    OK(busway_request_reply(&request.value, "reply", 5));
    OK(busway_call_wait(&call, &reply));
    CHECK(reply.len == 5 && memcmp(reply.data, "reply", 5) == 0);
    OK(busway_message_release(&reply));
    OK(busway_pool_free(members[0]));
    OK(busway_pool_free(members[1]));
    CHECK(config.behind == UINT64_MAX && queue.behind == UINT64_MAX && worker.behind == UINT64_MAX);
    CHECK(request.behind == UINT64_MAX);
}

static void rings(void)
{
    FENCED(busway_producer) producer = {{0}, UINT64_MAX};
    FENCED(busway_consumer) consumer = {{0}, UINT64_MAX};
    uint64_t values[3] = {1, 2, 3}, got[4] = {0};
    busway_spsc *ring;
    busway_mpmc *many;
    busway_mpmc_member *member;
    size_t count;
    OK(busway_spsc_create(8, 8, 16, &ring));
    OK(busway_spsc_producer(ring, &producer.value));
    OK(busway_spsc_consumer(ring, &consumer.value));
    OK(busway_producer_push_many(&producer.value, values, 3, &count));
    OK(busway_consumer_pop_many(&consumer.value, got, 4, &count));
    CHECK(count == 3 && got[2] == 3);
    CHECK(busway_consumer_pop(&consumer.value, got) == BUSWAY_WOULD_BLOCK);
    OK(busway_producer_release(&producer.value));
    OK(busway_consumer_release(&consumer.value));
    OK(busway_spsc_free(ring));
    CHECK(producer.behind == UINT64_MAX && consumer.behind == UINT64_MAX);
    OK(busway_mpmc_create(8, 8, 16, 2, &many));
    OK(busway_mpmc_join(many, &member));
    OK(busway_mpmc_push(member, values));
    OK(busway_mpmc_pop(member, got));
    CHECK(got[0] == 1);
    OK(busway_mpmc_leave(member));
    OK(busway_mpmc_free(many));
}

int main(void)
{
    CHECK(busway_version() >= 1000);
    CHECK(strcmp(busway_status_text(BUSWAY_OK), "done") == 0);
    links();
    pools();
    rings();
    return 0;
}
