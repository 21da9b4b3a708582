// What benches/rtt.rs does in Rust, in C: a host with a plugin that is this program again.
//
//     rtt host NAME BYTES INFLIGHT N HOST_CPU PLUGIN_CPU
//
// prints messages a second, and in a second line the time of each trip in nanoseconds if one is under way at a time.

#define _GNU_SOURCE
#include <busway.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { ECHO = 1, BATCH = 32, MOST = 64 };

static void must(busway_status status)
{
    if (status != BUSWAY_OK) {
        fprintf(stderr, "rtt.c: %s\n", busway_error_text());
        exit(1);
    }
}

static void pin(const char *cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)atoi(cpu), &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0)
        exit(1);
}

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static busway_config spinning(void)
{
    busway_config config = busway_config_init();
    config.idle = BUSWAY_IDLE_SPIN;
    return config;
}

static int plugin(bool one, const char *cpu)
{
    static busway_request requests[BATCH];
    static busway_answer answers[BATCH];
    busway_config config = spinning();
    busway_status status;
    busway_link *link;
    size_t count;
    pin(cpu);
    must(busway_attach(&config, &link));
    if (one) {
        while ((status = busway_link_recv(link, BUSWAY_NEVER, &requests[0])) == BUSWAY_OK)
            busway_request_reply(&requests[0], requests[0].data, requests[0].len);
        return 0;
    }
    while ((status = busway_link_recv_many(link, requests, BATCH, BUSWAY_NEVER, &count)) == BUSWAY_OK) {
        for (size_t i = 0; i < count; i++) {
            answers[i].data = requests[i].data;
            answers[i].len = requests[i].len;
        }
        busway_link_reply_many(link, requests, answers, count, NULL);
    }
    return 0;
}

static void one_at_a_time(busway_link *link, size_t bytes, uint32_t n)
{
    uint8_t *out = calloc(1, bytes), *back = calloc(1, bytes);
    uint64_t *times = calloc(n, sizeof *times), begin = 0;
    for (uint32_t i = 0; i < n + n / 10; i++) {
        busway_message reply = {0};
        uint64_t start = now();
        out[bytes - 1] = (uint8_t)i;
        must(busway_link_call(link, ECHO, out, bytes, BUSWAY_NEVER, &reply));
        must(busway_message_copy(&reply, 0, back, bytes));
        must(busway_message_release(&reply));
        if (back[bytes - 1] != (uint8_t)i)
            exit(1);
        // The first tenth warms caches up.
        if (i == n / 10)
            begin = start;
        if (i >= n / 10)
            times[i - n / 10] = now() - start;
    }
    printf("%f\n", n / ((double)(now() - begin) / 1e9));
    for (uint32_t i = 0; i < n; i++)
        printf("%llu ", (unsigned long long)times[i]);
    free(out);
    free(back);
    free(times);
}

static uint32_t next;

static void in_flight(busway_link *link, size_t bytes, uint32_t inflight, uint32_t n)
{
    static busway_item items[MOST];
    static busway_call calls[MOST];
    static busway_message replies[MOST];
    static busway_status statuses[MOST];
    static uint32_t numbers[MOST];
    static uint8_t payloads[MOST * 4096];
    uint32_t half = inflight / 2, done = 0;
    // Two halves in turn: one is taken in and sent again while the other is under way.
    for (uint32_t turn = 0; done < n; turn++) {
        uint32_t at = turn % 2 * half;
        size_t submitted;
        if (turn >= 2) {
            must(busway_calls_wait(calls + at, half, replies + at, statuses + at));
            for (uint32_t i = at; i < at + half; i++, done++) {
                uint32_t number;
                memcpy(payloads + i * bytes, replies[i].data, bytes);
                memcpy(&number, payloads + i * bytes, sizeof number);
                if (replies[i].len != bytes || number != numbers[i])
                    exit(1);
            }
            must(busway_messages_release(replies + at, half));
        }
        for (uint32_t i = at; i < at + half; i++) {
            numbers[i] = next++;
            memcpy(payloads + i * bytes, &numbers[i], sizeof numbers[i]);
            items[i] = (busway_item){payloads + i * bytes, bytes, NULL, ECHO, 0};
        }
        must(busway_link_submit_many(link, items + at, half, BUSWAY_NEVER, calls + at, &submitted));
    }
    for (uint32_t i = 0; i < inflight; i++)
        must(busway_call_release(&calls[i]));
}

int main(int argc, char **argv)
{
    busway_config config = spinning();
    busway_command command = busway_command_init();
    busway_host *host;
    busway_link *link;
    if (argc == 4 && strcmp(argv[1], "plugin") == 0)
        return plugin(strcmp(argv[2], "one") == 0, argv[3]);
    if (argc != 8)
        return 2;
    size_t bytes = (size_t)atol(argv[3]);
    uint32_t inflight = (uint32_t)atol(argv[4]), n = (uint32_t)atol(argv[5]);
    const char *arguments[] = {argv[0], "plugin", inflight == 1 ? "one" : "many", argv[7], NULL};
    if (bytes < sizeof next || bytes > 4096 || inflight > MOST)
        return 2;
    pin(argv[6]);
    command.program = argv[0];
    command.argv = arguments;
    must(busway_host_new(&config, &host));
    must(busway_host_spawn(host, &command, &link));
    if (inflight == 1) {
        one_at_a_time(link, bytes, n);
    } else {
        in_flight(link, bytes, inflight, n / 10);
        uint64_t start = now();
        in_flight(link, bytes, inflight, n);
        printf("%f\n", n / ((double)(now() - start) / 1e9));
    }
    must(busway_link_free(link));
    must(busway_host_free(host));
    return 0;
}
