// Two processes and a ring with one producer and one consumer: a stream of samples to a child, which adds them up.
//
//     cc ring.c $(pkg-config --cflags --libs busway) -o ring
//     ./ring
//
// A ring never waits; who finds it full or empty spins here, then lets others run, and now and then looks whether the other
// process still lives.

#define _GNU_SOURCE
#include <busway.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CAPACITY = 1024, BATCH = 64, STREAM = 10000000 };

typedef struct {
    uint64_t number;
    double value;
} sample;

static void must(busway_status status, const char *what)
{
    if (status != BUSWAY_OK) {
        fprintf(stderr, "ring: %s: %s\n", what, busway_error_text());
        exit(1);
    }
}

// Whether it is time to look whether the other process is there.
static bool waited(unsigned *turns)
{
    *turns += 1;
    if (*turns < 1000)
        return false;
    sched_yield();
    return *turns % 1000 == 0;
}

// Its ring is its standard input.
static int child(void)
{
    busway_spsc *ring;
    busway_consumer consumer = {0};
    sample samples[BATCH];
    uint64_t next = 0;
    double sum = 0;
    unsigned turns = 0;
    bool gone = false, empty;
    size_t count;
    must(busway_spsc_open(STDIN_FILENO, sizeof(sample), _Alignof(sample), &ring), "open the ring");
    must(busway_spsc_consumer(ring, &consumer), "take the consumer");
    for (;;) {
        busway_status status = busway_consumer_pop_many(&consumer, samples, BATCH, &count);
        if (status == BUSWAY_WOULD_BLOCK) {
            // Gone first, then empty: what the producer had pushed before it went is still there.
            if (waited(&turns))
                must(busway_consumer_is_abandoned(&consumer, &gone), "look for the producer");
            must(busway_consumer_is_empty(&consumer, &empty), "look into the ring");
            if (gone && empty)
                break;
            continue;
        }
        must(status, "pop");
        turns = 0;
        for (size_t i = 0; i < count; i++, next++) {
            if (samples[i].number != next) {
                fprintf(stderr, "ring: number %llu where %llu should be\n", (unsigned long long)samples[i].number,
                        (unsigned long long)next);
                return 1;
            }
            sum += samples[i].value;
        }
    }
    printf("%llu samples, sum %.1f\n", (unsigned long long)next, sum);
    must(busway_consumer_release(&consumer), "give the consumer back");
    must(busway_spsc_free(ring), "free the ring");
    return next == STREAM ? 0 : 1;
}

static void produce(busway_producer *producer)
{
    sample samples[BATCH];
    for (uint64_t sent = 0; sent < STREAM;) {
        size_t count = STREAM - sent < BATCH ? STREAM - sent : BATCH, done = 0, pushed;
        unsigned turns = 0;
        bool gone = false;
        for (size_t i = 0; i < count; i++)
            samples[i] = (sample){sent + i, 0.5};
        while (done < count) {
            busway_status status = busway_producer_push_many(producer, samples + done, count - done, &pushed);
            if (status != BUSWAY_FULL)
                must(status, "push");
            else if (waited(&turns))
                must(busway_producer_is_abandoned(producer, &gone), "look for the consumer");
            if (gone) {
                fprintf(stderr, "ring: the consumer is gone\n");
                exit(1);
            }
            done += pushed;
        }
        sent += count;
    }
}

int main(int argc, char **argv)
{
    busway_spsc *ring;
    busway_producer producer = {0};
    struct timespec begin, end;
    int32_t fd;
    int status;
    if (argc > 1)
        return child();
    must(busway_spsc_create(sizeof(sample), _Alignof(sample), CAPACITY, &ring), "make a ring");
    must(busway_spsc_producer(ring, &producer), "take the producer");
    must(busway_spsc_fd(ring, &fd), "ask for the file");
    pid_t pid = fork();
    if (pid == 0) {
        char *const arguments[] = {argv[0], (char[]){"child"}, NULL};
        if (dup2(fd, STDIN_FILENO) == STDIN_FILENO)
            execv("/proc/self/exe", arguments);
        _exit(127);
    }
    clock_gettime(CLOCK_MONOTONIC, &begin);
    produce(&producer);
    must(busway_producer_release(&producer), "give the producer back");
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) {
        fprintf(stderr, "ring: the child failed\n");
        return 1;
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    double ns = 1e9 * (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_nsec - begin.tv_nsec);
    printf("%.1f million a second\n", STREAM / ns * 1e3);
    must(busway_spsc_free(ring), "free the ring");
    return 0;
}
