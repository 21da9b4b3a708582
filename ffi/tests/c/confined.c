// Confined plugins: they serve, and what others can do to their host they cannot.

#include "check.h"
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

static const char *self;
static busway_host *host;
// Where the library is, which is not one of the system here.
static const char *library;

enum { ECHO, WRITE_MEMORY, TAKE_DESCRIPTOR, SIGNAL, OPEN, CREATE, SOCKET, READ, LIMITS, USER, METHODS };

// What an attack is about.
typedef struct {
    pid_t pid;
    int fd;
    uint64_t *word;
    char path[128];
} victim;

static int result(long done)
{
    return done < 0 ? errno : 0;
}

static int attack(uint32_t method, const victim *on)
{
    uint64_t value = 42;
    struct iovec from = {&value, sizeof value}, to = {on->word, sizeof value};
    char byte;
    switch (method) {
    case WRITE_MEMORY:
        return result(process_vm_writev(on->pid, &from, 1, &to, 1, 0));
    case TAKE_DESCRIPTOR: {
        int pidfd = (int)syscall(SYS_pidfd_open, on->pid, 0);
        CHECK(pidfd >= 0);
        return result(syscall(SYS_pidfd_getfd, pidfd, on->fd, 0));
    }
    case SIGNAL:
        return result(kill(on->pid, SIGCONT));
    case OPEN:
        return result(open(on->path, O_RDONLY));
    case CREATE:
        return result(open(on->path, O_WRONLY | O_CREAT, 0600));
    case SOCKET:
        return result(socket(AF_INET, SOCK_STREAM, 0));
    default:
        // One that was left open.
        return result(pread(on->fd, &byte, 1, 0));
    }
}

static int plugin(void)
{
    busway_link *link;
    busway_request request = {0};
    busway_status status;
    OK(busway_attach(NULL, &link));
    while ((status = busway_link_recv(link, BUSWAY_NEVER, &request)) == BUSWAY_OK) {
        victim on;
        struct rlimit limit;
        uint64_t answers[2];
        int error;
        switch (request.method) {
        case ECHO:
            OK(busway_request_reply(&request, request.data, request.len));
            break;
        case LIMITS:
            CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0);
            answers[0] = limit.rlim_cur;
            CHECK(getrlimit(RLIMIT_AS, &limit) == 0);
            answers[1] = limit.rlim_cur;
            OK(busway_request_reply(&request, answers, sizeof answers));
            break;
        case USER:
            answers[0] = getuid();
            answers[1] = getgid();
            OK(busway_request_reply(&request, answers, sizeof answers));
            break;
        default:
            OK(busway_request_copy(&request, 0, &on, sizeof on));
            error = attack(request.method, &on);
            OK(busway_request_reply(&request, &error, sizeof error));
        }
    }
    GIVES(BUSWAY_CLOSED, status);
    OK(busway_link_free(link));
    return 3;
}

static busway_status spawn(const busway_confinement *confinement, busway_link **link)
{
    busway_command command = busway_command_init();
    const char *argv[] = {"plugin", "serves", NULL};
    command.program = self;
    command.argv = argv;
    return busway_host_spawn_confined(host, &command, confinement, link);
}

static void echoes(busway_link *link)
{
    static uint8_t payload[60000];
    static const size_t lengths[] = {0, 32, 1000, sizeof payload};
    busway_message reply = {0};
    memset(payload, 'p', sizeof payload);
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        OK(busway_link_call(link, ECHO, payload, lengths[i], SECONDS(60), &reply));
        CHECK(reply.len == lengths[i] && memcmp(reply.data, payload, reply.len) == 0);
        OK(busway_message_release(&reply));
    }
}

static int try(busway_link *link, uint32_t method, const victim *on)
{
    busway_message reply = {0};
    int error;
    OK(busway_link_call(link, method, on, sizeof *on, SECONDS(60), &reply));
    OK(busway_message_copy(&reply, 0, &error, sizeof error));
    OK(busway_message_release(&reply));
    return error;
}

static void ask(busway_link *link, uint32_t method, uint64_t answers[2])
{
    busway_message reply = {0};
    OK(busway_link_call(link, method, NULL, 0, SECONDS(60), &reply));
    OK(busway_message_copy(&reply, 0, answers, 16));
    OK(busway_message_release(&reply));
}

static void ends(busway_link *link)
{
    int status;
    OK(busway_link_shut_down(link, SECONDS(60), &status));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 3);
}

static busway_grade grade_of(busway_link *link)
{
    busway_grade grade = busway_grade_init();
    OK(busway_link_grade(link, &grade));
    return grade;
}

enum { LEFT_OPEN = 60 };

// The same attacks by one that is not confined, one that is, and one that may do some of it.
static void attacks(const char *directory)
{
    busway_command command = busway_command_init();
    busway_confinement confinement = busway_confinement_init();
    const char *argv[] = {"plugin", "serves", NULL};
    const char *paths[] = {library, NULL, NULL}, *places[] = {directory, NULL};
    busway_link *link;
    uint64_t word = 7;
    victim on = {.pid = getpid(), .word = &word};
    snprintf(on.path, sizeof on.path, "%s/secret", directory);
    // Not closed on exec, and with a number that nothing else has there.
    int fd = open(on.path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    on.fd = LEFT_OPEN;
    CHECK(fd >= 0 && write(fd, "secret", 6) == 6 && dup2(fd, LEFT_OPEN) == LEFT_OPEN && close(fd) == 0);

    command.program = self;
    command.argv = argv;
    OK(busway_host_spawn(host, &command, &link));
    CHECK(grade_of(link).grade == BUSWAY_GRADE_UNCONFINED && grade_of(link).seccomp == 0);
    for (uint32_t method = SIGNAL; method < LIMITS; method++)
        CHECK(try(link, method, &on) == 0);
    // Some kernels keep processes of one user apart by themselves.
    if (try(link, WRITE_MEMORY, &on) == 0)
        CHECK(word == 42);
    ends(link);

    word = 7;
    confinement.read = paths;
    OK(spawn(&confinement, &link));
    CHECK(grade_of(link).grade == BUSWAY_GRADE_CONFINED);
    CHECK(grade_of(link).seccomp == 1 && grade_of(link).landlock > 0 && grade_of(link).other_user == 0);
    echoes(link);
    CHECK(try(link, WRITE_MEMORY, &on) == EPERM && word == 7);
    CHECK(try(link, TAKE_DESCRIPTOR, &on) == EPERM);
    CHECK(try(link, SIGNAL, &on) == EPERM);
    CHECK(try(link, OPEN, &on) == EACCES);
    CHECK(try(link, CREATE, &on) == EACCES);
    CHECK(try(link, SOCKET, &on) != 0);
    CHECK(try(link, READ, &on) == EBADF);
    ends(link);

    // What it may is what was named, and no more.
    paths[1] = on.path;
    OK(spawn(&confinement, &link));
    CHECK(try(link, OPEN, &on) == 0 && try(link, CREATE, &on) == EACCES && try(link, READ, &on) == EBADF);
    ends(link);
    paths[1] = NULL;
    confinement.write = places;
    confinement.flags = BUSWAY_CONFINE_NETWORK;
    confinement.inherit = &on.fd;
    confinement.inherit_count = 1;
    confinement.max_files = 77;
    confinement.max_memory = UINT64_C(1) << 33;
    confinement.max_processes = 100000;
    OK(spawn(&confinement, &link));
    CHECK(try(link, CREATE, &on) == 0 && try(link, SOCKET, &on) == 0 && try(link, READ, &on) == 0);
    CHECK(try(link, WRITE_MEMORY, &on) == EPERM && try(link, SIGNAL, &on) == EPERM);
    uint64_t answers[2];
    ask(link, LIMITS, answers);
    CHECK(answers[0] == 77 && answers[1] == UINT64_C(1) << 33);
    ends(link);
    // The descriptor is the caller's still.
    CHECK(fcntl(on.fd, F_GETFD) == 0 && close(on.fd) == 0);
    CHECK(unlink(on.path) == 0);
}

enum { NOBODY = 65534 };

// Whether that user could run this program.
static bool open_to_nobody(void)
{
    int status;
    pid_t child = fork();
    if (child == 0)
        _exit(setuid(NOBODY) == 0 && access(self, X_OK) == 0 && access(library, R_OK) == 0 ? 0 : 1);
    CHECK(waitpid(child, &status, 0) == child);
    return status == 0;
}

static void another_user(void)
{
    busway_confinement confinement = busway_confinement_init();
    const char *paths[] = {library, NULL};
    busway_link *link;
    uint64_t answers[2], word = 7;
    victim on = {.pid = getpid(), .fd = 0, .word = &word, .path = "/etc/hostname"};
    confinement.read = paths;
    confinement.flags = BUSWAY_CONFINE_USER;
    confinement.uid = confinement.gid = NOBODY;
    if (getuid() == 0) {
        if (!open_to_nobody()) {
            printf("confined: another user may not execute this program\n");
            return;
        }
        OK(spawn(&confinement, &link));
        CHECK(grade_of(link).grade == BUSWAY_GRADE_CONFINED && grade_of(link).other_user == 1);
        ask(link, USER, answers);
        CHECK(answers[0] == NOBODY && answers[1] == NOBODY);
    } else {
        GIVES(BUSWAY_UNSUPPORTED, spawn(&confinement, &link));
        confinement.flags |= BUSWAY_CONFINE_BEST_EFFORT;
        OK(spawn(&confinement, &link));
        CHECK(grade_of(link).other_user == 0);
        ask(link, USER, answers);
        CHECK(answers[0] == getuid() && answers[1] == getgid());
    }
    CHECK(try(link, SIGNAL, &on) == EPERM && try(link, WRITE_MEMORY, &on) == EPERM && word == 7);
    ends(link);
}

static void what_is_refused(bool landlock)
{
    busway_confinement confinement = busway_confinement_init();
    busway_grade grade = busway_grade_init();
    busway_link *link, *ends_of[2];
    const char *nowhere[] = {"/nowhere/at all", NULL};
    int32_t wrong = -1, closed = 1000;
    GIVES(BUSWAY_INVALID, busway_host_spawn_confined(host, NULL, NULL, &link));
    confinement.flags = 8;
    GIVES(BUSWAY_UNSUPPORTED, spawn(&confinement, &link));
    confinement = busway_confinement_init();
    confinement.inherit = &wrong;
    confinement.inherit_count = 1;
    GIVES(BUSWAY_INVALID, spawn(&confinement, &link));
    confinement.inherit = NULL;
    GIVES(BUSWAY_INVALID, spawn(&confinement, &link));
    if (landlock) {
        confinement.inherit = &closed;
        GIVES(BUSWAY_IO, spawn(&confinement, &link));
        CHECK(last_error().os_error == EBADF);
        confinement = busway_confinement_init();
        confinement.read = nowhere;
        GIVES(BUSWAY_IO, spawn(&confinement, &link));
        CHECK(last_error().os_error == ENOENT);
    }
    confinement.size = 0;
    GIVES(BUSWAY_INVALID, spawn(&confinement, &link));
    GIVES(BUSWAY_INVALID, spawn(NULL, NULL));
    if (landlock) {
        busway_command command = busway_command_init();
        command.program = "/bin/true";
        GIVES(BUSWAY_JOIN_FAILED, busway_host_spawn_confined(host, &command, NULL, &link));
        CHECK(last_error().reason == BUSWAY_JOIN_CHILD_EXITED && last_error().exit_status == 0);
    } else {
        GIVES(BUSWAY_UNSUPPORTED, spawn(NULL, &link));
    }

    OK(busway_link_pair(NULL, &ends_of[0], &ends_of[1]));
    CHECK(grade_of(ends_of[0]).grade == BUSWAY_GRADE_UNCONFINED);
    GIVES(BUSWAY_INVALID, busway_link_grade(ends_of[0], NULL));
    OK(busway_link_free(ends_of[0]));
    GIVES(BUSWAY_STALE_HANDLE, busway_link_grade(ends_of[0], &grade));
    OK(busway_link_free(ends_of[1]));
}

static void hidden(void)
{
    int status;
    CHECK(prctl(PR_GET_DUMPABLE) == 1);
    // In a process of its own: it is for ever.
    pid_t child = fork();
    if (child == 0) {
        OK(busway_hide_memory());
        _exit(prctl(PR_GET_DUMPABLE) == 0 ? 0 : 1);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

int main(int argc, char **argv)
{
    char directory[] = "/tmp/busway-c-XXXXXX";
    watchdog();
    if (argc > 1)
        return plugin();
    self = argc > 0 && strchr(argv[0], '/') ? argv[0] : "/proc/self/exe";
    busway_config config = busway_config_init();
    config.patience_ns = UINT64_C(60000000000);
    OK(busway_host_new(&config, &host));
    Dl_info info;
    CHECK(dladdr((const void *)(uintptr_t)&busway_version, &info) != 0);
    library = realpath(info.dli_fname, NULL);
    CHECK(library != NULL);
    bool landlock = syscall(SYS_landlock_create_ruleset, NULL, 0, 1) > 0;
    what_is_refused(landlock);
    hidden();
    if (landlock) {
        CHECK(mkdtemp(directory) != NULL);
        attacks(directory);
        another_user();
        CHECK(rmdir(directory) == 0);
    } else {
        printf("confined: no Landlock here\n");
    }
    free((void *)(uintptr_t)library);
    OK(busway_host_free(host));
    return 0;
}
