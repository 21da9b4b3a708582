// Rings: in one process, between two in C, and what they refuse.

#include "layout.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

static const char *self;

typedef struct {
    uint64_t number;
    double value;
} sample;

static sample sample_of(uint64_t i)
{
    sample s = {i, (double)i / 2};
    return s;
}

static bool is_sample(const sample *s, uint64_t i)
{
    return s->number == i && s->value == (double)i / 2;
}

static bool abandoned_by_producer(const busway_consumer *consumer)
{
    bool is;
    OK(busway_consumer_is_abandoned(consumer, &is));
    return is;
}

static bool abandoned_by_consumer(const busway_producer *producer)
{
    bool is;
    OK(busway_producer_is_abandoned(producer, &is));
    return is;
}

static bool is_empty(const busway_consumer *consumer)
{
    bool is;
    OK(busway_consumer_is_empty(consumer, &is));
    return is;
}

// Elements of each size there is, at addresses that are aligned for nothing, with what is beside them untouched.
static void of_every_size(size_t align)
{
    enum { MANY = 3, GUARD = 0xa5, MAX = 256 };
    static uint8_t in[1 + MANY * MAX], out[1 + MANY * MAX + 1];
    for (size_t i = 0; i < sizeof in; i++)
        in[i] = (uint8_t)(i * 7 + 1);
    for (size_t size = align; size <= MAX; size += align) {
        busway_spsc *spsc;
        busway_mpmc *mpmc;
        busway_mpmc_member *member;
        busway_producer producer = {0};
        busway_consumer consumer = {0};
        size_t n;
        OK(busway_spsc_create(size, align, MANY, &spsc));
        OK(busway_spsc_producer(spsc, &producer));
        OK(busway_spsc_consumer(spsc, &consumer));
        CHECK(producer.element_size == size && producer.capacity == MANY);
        CHECK(consumer.element_size == size && consumer.capacity == MANY);
        memset(out, GUARD, sizeof out);
        OK(busway_producer_push_many(&producer, in + 1, MANY, &n));
        CHECK(n == MANY);
        OK(busway_consumer_pop(&consumer, out + 1));
        CHECK(memcmp(out + 1, in + 1, size) == 0 && out[0] == GUARD && out[1 + size] == GUARD);
        OK(busway_consumer_pop_many(&consumer, out + 1 + size, MANY, &n));
        CHECK(n == MANY - 1);
        CHECK(memcmp(out + 1, in + 1, MANY * size) == 0 && out[1 + MANY * size] == GUARD);
        OK(busway_producer_release(&producer));
        OK(busway_consumer_release(&consumer));
        OK(busway_spsc_free(spsc));

        OK(busway_mpmc_create(size, align, MANY, 1, &mpmc));
        OK(busway_mpmc_join(mpmc, &member));
        memset(out, GUARD, sizeof out);
        for (size_t i = 0; i < MANY; i++)
            OK(busway_mpmc_push(member, in + 1 + i * size));
        for (size_t i = 0; i < MANY; i++) {
            OK(busway_mpmc_pop(member, out + 1 + i * size));
            CHECK(memcmp(out + 1, in + 1, (i + 1) * size) == 0 && out[0] == GUARD && out[1 + (i + 1) * size] == GUARD);
        }
        OK(busway_mpmc_leave(member));
        OK(busway_mpmc_free(mpmc));
    }
}

static void one_to_one(void)
{
    enum { CAPACITY = 4 };
    busway_spsc *ring, *again;
    busway_producer producer = {0}, copy;
    busway_consumer consumer = {0}, second = {0};
    sample in[16], out[16], one = sample_of(0);
    size_t n, pushed = 0;
    int32_t fd;
    for (uint64_t i = 0; i < 16; i++)
        in[i] = sample_of(i);
    OK(busway_spsc_create(sizeof(sample), _Alignof(sample), CAPACITY, &ring));
    OK(busway_spsc_capacity(ring, &n));
    CHECK(n == CAPACITY);
    OK(busway_spsc_producer(ring, &producer));
    GIVES(BUSWAY_BUSY, busway_spsc_producer(ring, &producer));
    GIVES(BUSWAY_JOIN_FAILED, busway_spsc_producer(ring, &(busway_producer){0}));
    CHECK(last_error().reason == BUSWAY_JOIN_TAKEN);

    // The other end, over the file.
    OK(busway_spsc_fd(ring, &fd));
    OK(busway_spsc_open(fd, sizeof(sample), _Alignof(sample), &again));
    CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
    OK(busway_spsc_free(ring));
    CHECK(fcntl(fd, F_GETFD) == -1 && errno == EBADF);
    CHECK(!abandoned_by_consumer(&producer));
    OK(busway_spsc_consumer(again, &consumer));
    GIVES(BUSWAY_BUSY, busway_spsc_consumer(again, &consumer));
    GIVES(BUSWAY_JOIN_FAILED, busway_spsc_consumer(again, &second));
    OK(busway_spsc_free(again));
    GIVES(BUSWAY_STALE_HANDLE, busway_spsc_free(again));
    GIVES(BUSWAY_STALE_HANDLE, busway_spsc_fd(again, &fd));
    GIVES(BUSWAY_STALE_HANDLE, busway_spsc_capacity(again, &n));
    GIVES(BUSWAY_STALE_HANDLE, busway_spsc_producer(again, &(busway_producer){0}));
    GIVES(BUSWAY_STALE_HANDLE, busway_spsc_consumer(NULL, &second));

    CHECK(is_empty(&consumer));
    GIVES(BUSWAY_WOULD_BLOCK, busway_consumer_pop(&consumer, &one));
    n = 9;
    GIVES(BUSWAY_WOULD_BLOCK, busway_consumer_pop_many(&consumer, out, 16, &n));
    CHECK(n == 0);
    OK(busway_consumer_pop_many(&consumer, NULL, 0, &n));
    OK(busway_producer_push_many(&producer, NULL, 0, &n));
    CHECK(n == 0);
    OK(busway_producer_push_many(&producer, in, 16, &pushed));
    CHECK(pushed >= CAPACITY && pushed < 16);
    GIVES(BUSWAY_FULL, busway_producer_push(&producer, &one));
    n = 9;
    GIVES(BUSWAY_FULL, busway_producer_push_many(&producer, in, 16, &n));
    CHECK(n == 0 && !is_empty(&consumer));
    OK(busway_consumer_pop(&consumer, &one));
    CHECK(is_sample(&one, 0));
    OK(busway_consumer_pop_many(&consumer, out, 16, &n));
    CHECK(n == pushed - 1);
    for (size_t i = 0; i < n; i++)
        CHECK(is_sample(&out[i], i + 1));

    GIVES(BUSWAY_INVALID, busway_producer_push(&producer, NULL));
    GIVES(BUSWAY_INVALID, busway_producer_push(NULL, &one));
    GIVES(BUSWAY_INVALID, busway_producer_push_many(&producer, NULL, 1, &n));
    GIVES(BUSWAY_INVALID, busway_producer_push_many(&producer, in, SIZE_MAX / 8, &n));
    GIVES(BUSWAY_INVALID, busway_producer_push_many(&producer, in, 1, NULL));
    GIVES(BUSWAY_INVALID, busway_consumer_pop(&consumer, NULL));
    GIVES(BUSWAY_INVALID, busway_consumer_pop_many(&consumer, NULL, 1, &n));
    GIVES(BUSWAY_INVALID, busway_consumer_pop_many(&consumer, out, 1, NULL));
    memcpy(&copy, &producer, sizeof copy);
    GIVES(BUSWAY_STALE_HANDLE, busway_producer_push(&copy, &one));
    GIVES(BUSWAY_STALE_HANDLE, busway_consumer_pop(&second, &one));
    GIVES(BUSWAY_STALE_HANDLE, busway_consumer_is_empty(&second, &(bool){false}));
    GIVES(BUSWAY_STALE_HANDLE, busway_consumer_is_abandoned(&second, &(bool){false}));
    GIVES(BUSWAY_STALE_HANDLE, busway_consumer_release(&second));
    GIVES(BUSWAY_STALE_HANDLE, busway_producer_is_abandoned(&copy, &(bool){false}));

    // Whoever leaves is missed; what was pushed stays.
    CHECK(!abandoned_by_producer(&consumer));
    OK(busway_producer_push(&producer, &in[7]));
    OK(busway_producer_release(&producer));
    CHECK(producer.element_size == 0 && producer.capacity == 0);
    GIVES(BUSWAY_STALE_HANDLE, busway_producer_release(&producer));
    CHECK(abandoned_by_producer(&consumer) && !is_empty(&consumer));
    OK(busway_consumer_pop(&consumer, &one));
    CHECK(is_sample(&one, 7));
    OK(busway_consumer_release(&consumer));
}

static void what_is_refused(void)
{
    busway_spsc *spsc, *other;
    busway_mpmc *mpmc;
    int32_t fd;
    static const size_t wrong[][2] = {{0, 1}, {8, 0}, {8, 3}, {12, 8}, {SIZE_MAX, 1}};
    static const size_t beyond[][2] = {{(size_t)1 << 33, 8}, {128, 128}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        GIVES(BUSWAY_INVALID, busway_spsc_create(wrong[i][0], wrong[i][1], 16, &spsc));
        GIVES(BUSWAY_INVALID, busway_mpmc_create(wrong[i][0], wrong[i][1], 16, 2, &mpmc));
        GIVES(BUSWAY_INVALID, busway_spsc_open(0, wrong[i][0], wrong[i][1], &spsc));
        GIVES(BUSWAY_INVALID, busway_mpmc_open(0, wrong[i][0], wrong[i][1], &mpmc));
    }
    for (size_t i = 0; i < sizeof beyond / sizeof *beyond; i++) {
        GIVES(BUSWAY_JOIN_FAILED, busway_spsc_create(beyond[i][0], beyond[i][1], 16, &spsc));
        CHECK(last_error().reason == BUSWAY_JOIN_GEOMETRY);
        GIVES(BUSWAY_JOIN_FAILED, busway_mpmc_create(beyond[i][0], beyond[i][1], 16, 2, &mpmc));
        CHECK(last_error().reason == BUSWAY_JOIN_GEOMETRY);
    }
    GIVES(BUSWAY_JOIN_FAILED, busway_spsc_create(8, 8, 0, &spsc));
    CHECK(last_error().reason == BUSWAY_JOIN_GEOMETRY);
    GIVES(BUSWAY_JOIN_FAILED, busway_spsc_create(8, 8, SIZE_MAX, &spsc));
    GIVES(BUSWAY_JOIN_FAILED, busway_mpmc_create(8, 8, 1 << 16, 2, &mpmc));
    GIVES(BUSWAY_JOIN_FAILED, busway_mpmc_create(8, 8, 16, 0, &mpmc));
    GIVES(BUSWAY_JOIN_FAILED, busway_mpmc_create(8, 8, 16, 4096, &mpmc));
    GIVES(BUSWAY_INVALID, busway_spsc_create(8, 8, 16, NULL));
    GIVES(BUSWAY_INVALID, busway_mpmc_create(8, 8, 16, 2, NULL));

    // Files that are no such ring.
    GIVES(BUSWAY_INVALID, busway_spsc_open(-1, 8, 8, &spsc));
    GIVES(BUSWAY_IO, busway_mpmc_open(1000, 8, 8, &mpmc));
    CHECK(last_error().os_error == EBADF);
    fd = open("/dev/null", O_RDWR);
    CHECK(fd >= 0);
    GIVES(BUSWAY_JOIN_FAILED, busway_spsc_open(fd, 8, 8, &spsc));
    CHECK(last_error().reason == BUSWAY_JOIN_SEALS);
    close(fd);
    fd = memfd_create("no ring", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(fd >= 0 && ftruncate(fd, 1 << 16) == 0);
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0);
    GIVES(BUSWAY_JOIN_FAILED, busway_spsc_open(fd, 8, 8, &spsc));
    CHECK(last_error().reason == BUSWAY_JOIN_BAD_MAGIC);
    close(fd);

    // Rings of other elements, or of the other kind.
    OK(busway_spsc_create(8, 8, 16, &spsc));
    OK(busway_spsc_fd(spsc, &fd));
    GIVES(BUSWAY_WRONG_SIZE, busway_spsc_open(fd, 4, 4, &other));
    CHECK(last_error().len == 8 && last_error().max == 4);
    // Of as many words, too.
    GIVES(BUSWAY_WRONG_SIZE, busway_spsc_open(fd, 6, 2, &other));
    GIVES(BUSWAY_JOIN_FAILED, busway_spsc_open(fd, 8, 4, &other));
    CHECK(last_error().reason == BUSWAY_JOIN_GEOMETRY);
    GIVES(BUSWAY_JOIN_FAILED, busway_mpmc_open(fd, 8, 8, &mpmc));
    CHECK(last_error().reason == BUSWAY_JOIN_GEOMETRY);
    GIVES(BUSWAY_STALE_HANDLE, busway_mpmc_free((busway_mpmc *)spsc));
    // The version of the layout, in its first page.
    uint32_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(page != MAP_FAILED);
    page[2] += 1;
    GIVES(BUSWAY_VERSION_MISMATCH, busway_spsc_open(fd, 8, 8, &other));
    CHECK(last_error().version == page[2]);
    CHECK(munmap(page, 4096) == 0);
    OK(busway_spsc_free(spsc));
}

// The producer finds out that the consumer's position cannot be.
static void a_liar(void)
{
    enum { SPSC_ENDS = 33 };
    busway_spsc *ring;
    busway_producer producer = {0};
    uint64_t value = 1;
    int32_t fd;
    size_t n;
    OK(busway_spsc_create(8, 8, 4, &ring));
    OK(busway_spsc_fd(ring, &fd));
    OK(busway_spsc_producer(ring, &producer));
    off_t len = lseek(fd, 0, SEEK_END);
    CHECK(len > 0);
    uint8_t *file = mmap(NULL, (size_t)len, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(file != MAP_FAILED);
    OK(busway_producer_push(&producer, &value));
    file[section_of(file, SPSC_ENDS)] = 77;
    GIVES(BUSWAY_POISONED, busway_producer_push_many(&producer, (uint64_t[8]){0}, 8, &n));
    CHECK(last_error().reason == BUSWAY_VIOLATION_POSITION && n == 0);
    CHECK(munmap(file, (size_t)len) == 0);
    OK(busway_producer_release(&producer));
    OK(busway_spsc_free(ring));
}

enum { THREADS = 3, EACH = 20000 };

static void *pushes(void *member)
{
    for (uint64_t i = 0; i < EACH; i++) {
        busway_status status;
        while ((status = busway_mpmc_push(member, &i)) == BUSWAY_FULL)
            sched_yield();
        OK(status);
    }
    return NULL;
}

static void *pops(void *member)
{
    uint64_t *sum = calloc(1, sizeof *sum), value = 0;
    for (int i = 0; i < EACH; i++) {
        busway_status status;
        while ((status = busway_mpmc_pop(member, &value)) == BUSWAY_WOULD_BLOCK)
            sched_yield();
        OK(status);
        *sum += value;
    }
    return sum;
}

static void many_to_many(void)
{
    busway_mpmc *ring, *again;
    busway_mpmc_member *members[2], *third;
    busway_recovered recovered = {9, 9};
    pthread_t threads[2 * THREADS];
    uint64_t value = 7, sum = 0;
    uint32_t number;
    int32_t fd;
    size_t n;
    bool empty;
    OK(busway_mpmc_create(8, 8, 100, 2, &ring));
    OK(busway_mpmc_capacity(ring, &n));
    CHECK(n == 128);
    OK(busway_mpmc_fd(ring, &fd));
    OK(busway_mpmc_open(fd, 8, 8, &again));
    GIVES(BUSWAY_WRONG_SIZE, busway_mpmc_open(fd, 16, 8, &(busway_mpmc *){NULL}));
    GIVES(BUSWAY_JOIN_FAILED, busway_spsc_open(fd, 8, 8, &(busway_spsc *){NULL}));
    OK(busway_mpmc_join(ring, &members[0]));
    OK(busway_mpmc_join(again, &members[1]));
    GIVES(BUSWAY_JOIN_FAILED, busway_mpmc_join(ring, &third));
    CHECK(last_error().reason == BUSWAY_JOIN_TAKEN);
    OK(busway_mpmc_number(members[1], &number));
    CHECK(number == 2);
    OK(busway_mpmc_free(ring));
    OK(busway_mpmc_free(again));
    GIVES(BUSWAY_STALE_HANDLE, busway_mpmc_free(again));
    GIVES(BUSWAY_STALE_HANDLE, busway_mpmc_join(again, &third));
    GIVES(BUSWAY_STALE_HANDLE, busway_mpmc_fd(again, &fd));
    GIVES(BUSWAY_STALE_HANDLE, busway_mpmc_capacity(again, &n));

    OK(busway_mpmc_is_empty(members[0], &empty));
    CHECK(empty);
    GIVES(BUSWAY_WOULD_BLOCK, busway_mpmc_pop(members[0], &value));
    for (int i = 0; i < 128; i++)
        OK(busway_mpmc_push(members[i % 2], &value));
    GIVES(BUSWAY_FULL, busway_mpmc_push(members[0], &value));
    OK(busway_mpmc_len(members[1], &n));
    CHECK(n > 0 && n <= 128);
    OK(busway_mpmc_is_empty(members[1], &empty));
    CHECK(!empty);
    for (int i = 0; i < 128; i++) {
        value = 0;
        OK(busway_mpmc_pop(members[i % 2], &value));
        CHECK(value == 7);
    }
    GIVES(BUSWAY_INVALID, busway_mpmc_push(members[0], NULL));
    GIVES(BUSWAY_INVALID, busway_mpmc_pop(members[0], NULL));
    OK(busway_mpmc_recover_dead(members[0], &recovered));
    CHECK(recovered.members == 0 && recovered.elements == 0);
    OK(busway_mpmc_recover_dead(members[0], NULL));

    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_create(&threads[i], NULL, pushes, members[i % 2]) == 0);
        CHECK(pthread_create(&threads[THREADS + i], NULL, pops, members[(i + 1) % 2]) == 0);
    }
    for (int i = 0; i < 2 * THREADS; i++) {
        void *result;
        CHECK(pthread_join(threads[i], &result) == 0);
        if (result != NULL)
            sum += *(uint64_t *)result;
        free(result);
    }
    CHECK(sum == (uint64_t)THREADS * EACH * (EACH - 1) / 2);
    OK(busway_mpmc_leave(members[0]));
    OK(busway_mpmc_leave(members[1]));
    GIVES(BUSWAY_STALE_HANDLE, busway_mpmc_leave(members[1]));
    GIVES(BUSWAY_STALE_HANDLE, busway_mpmc_push(members[1], &value));
    GIVES(BUSWAY_STALE_HANDLE, busway_mpmc_pop(members[1], &value));
    GIVES(BUSWAY_STALE_HANDLE, busway_mpmc_len(members[1], &n));
    GIVES(BUSWAY_STALE_HANDLE, busway_mpmc_is_empty(members[1], &empty));
    GIVES(BUSWAY_STALE_HANDLE, busway_mpmc_number(members[1], &number));
    GIVES(BUSWAY_STALE_HANDLE, busway_mpmc_recover_dead(members[1], NULL));
}

// Runs this program in a role, with the ring's file as standard input.
static pid_t run(const char *role, int32_t fd)
{
    pid_t child = fork();
    if (child == 0) {
        const char *arguments[] = {"rings", role, NULL};
        if (dup2(fd, 0) == 0)
            execv(self, (char *const *)(uintptr_t)arguments);
        _exit(98);
    }
    CHECK(child > 0);
    return child;
}

enum { CROSSING = 100000 };

static int consumes(void)
{
    busway_spsc *ring;
    busway_consumer consumer = {0};
    sample values[7];
    size_t n;
    OK(busway_spsc_open(0, sizeof(sample), _Alignof(sample), &ring));
    OK(busway_spsc_consumer(ring, &consumer));
    for (uint64_t next = 0; next < CROSSING;) {
        busway_status status = busway_consumer_pop_many(&consumer, values, 7, &n);
        if (status == BUSWAY_WOULD_BLOCK)
            sched_yield();
        else
            OK(status);
        for (size_t i = 0; i < n; i++, next++)
            CHECK(is_sample(&values[i], next));
    }
    while (!abandoned_by_producer(&consumer))
        sched_yield();
    CHECK(is_empty(&consumer));
    OK(busway_consumer_release(&consumer));
    OK(busway_spsc_free(ring));
    return 6;
}

static int joins_and_dies(void)
{
    busway_mpmc *ring;
    busway_mpmc_member *member;
    uint64_t value = 5;
    OK(busway_mpmc_open(0, 8, 8, &ring));
    OK(busway_mpmc_join(ring, &member));
    OK(busway_mpmc_push(member, &value));
    raise(SIGKILL);
    return 99;
}

static void processes(void)
{
    busway_spsc *ring;
    busway_mpmc *mpmc;
    busway_mpmc_member *member;
    busway_producer producer = {0};
    busway_recovered recovered;
    uint64_t value = 0;
    int32_t fd;
    int status;
    OK(busway_spsc_create(sizeof(sample), _Alignof(sample), 1000, &ring));
    OK(busway_spsc_fd(ring, &fd));
    pid_t child = run("consumes", fd);
    OK(busway_spsc_producer(ring, &producer));
    OK(busway_spsc_free(ring));
    for (uint64_t next = 0; next < CROSSING;) {
        sample values[5];
        size_t n;
        for (uint64_t i = 0; i < 5; i++)
            values[i] = sample_of(next + i);
        busway_status got = busway_producer_push_many(&producer, values, CROSSING - next < 5 ? CROSSING - next : 5, &n);
        if (got == BUSWAY_FULL)
            sched_yield();
        else
            OK(got);
        next += n;
    }
    CHECK(!abandoned_by_consumer(&producer));

    // A forked child has neither the end nor the ring.
    pid_t twin = fork();
    if (twin == 0) {
        GIVES(BUSWAY_FORKED, busway_producer_push(&producer, &value));
        CHECK(!abandoned_by_consumer(&producer));
        OK(busway_producer_release(&producer));
        // What is the parent's is not given back, which whoever looks for leaks at an exit would find.
        raise(SIGKILL);
    }
    CHECK(waitpid(twin, &status, 0) == twin && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    OK(busway_producer_release(&producer));
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 6);

    // What a dead member had pushed is popped, and its place is free again.
    OK(busway_mpmc_create(8, 8, 16, 2, &mpmc));
    OK(busway_mpmc_fd(mpmc, &fd));
    OK(busway_mpmc_join(mpmc, &member));
    child = run("joins and dies", fd);
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
    OK(busway_mpmc_pop(member, &value));
    CHECK(value == 5);
    OK(busway_mpmc_recover_dead(member, &recovered));
    CHECK(recovered.members == 1 && recovered.elements == 0);
    twin = fork();
    if (twin == 0) {
        size_t n = 9;
        bool empty = false;
        GIVES(BUSWAY_FORKED, busway_mpmc_push(member, &value));
        GIVES(BUSWAY_FORKED, busway_mpmc_pop(member, &value));
        GIVES(BUSWAY_FORKED, busway_mpmc_recover_dead(member, NULL));
        GIVES(BUSWAY_FORKED, busway_mpmc_join(mpmc, &(busway_mpmc_member *){NULL}));
        OK(busway_mpmc_len(member, &n));
        OK(busway_mpmc_is_empty(member, &empty));
        CHECK(n == 0 && empty);
        OK(busway_mpmc_leave(member));
        GIVES(BUSWAY_STALE_HANDLE, busway_mpmc_leave(member));
        raise(SIGKILL);
    }
    CHECK(waitpid(twin, &status, 0) == twin && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    OK(busway_mpmc_push(member, &value));
    OK(busway_mpmc_leave(member));
    OK(busway_mpmc_free(mpmc));
}

int main(int argc, char **argv)
{
    watchdog();
    self = argc > 0 && strchr(argv[0], '/') ? argv[0] : "/proc/self/exe";
    // It does not outlive its parent.
    if (argc > 1)
        CHECK(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
    if (argc > 1 && strcmp(argv[1], "consumes") == 0)
        return consumes();
    if (argc > 1)
        return joins_and_dies();
    for (size_t align = 1; align <= 64; align *= 2)
        of_every_size(align);
    one_to_one();
    what_is_refused();
    a_liar();
    many_to_many();
    processes();
    return 0;
}
