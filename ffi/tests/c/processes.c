// Two processes, each in C: this program is its own plugin.

#include "check.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

static busway_host *host;
static const char *self;

// What the plugin does is its first argument.
static int plugin(const char *role, const char *extra)
{
    busway_link *link;
    busway_request request = {0};
    busway_status status;
    CHECK(busway_is_spawned());
    if (strcmp(role, "exits") == 0)
        return 7;
    OK(busway_attach(NULL, &link));
    if (strcmp(role, "echoes") == 0) {
        while ((status = busway_link_recv(link, BUSWAY_NEVER, &request)) == BUSWAY_OK)
            OK(busway_request_reply(&request, request.data, request.len));
        GIVES(BUSWAY_CLOSED, status);
        GIVES(BUSWAY_JOIN_FAILED, busway_attach(NULL, &(busway_link *){NULL}));
        CHECK(last_error().reason == BUSWAY_JOIN_NOT_A_PLUGIN);
        OK(busway_link_free(link));
        return 3;
    }
    if (strcmp(role, "tells") == 0) {
        // Its surroundings, one call each.
        char cwd[4096];
        const char *variable = getenv("CHECK_VARIABLE");
        OK(busway_link_recv(link, BUSWAY_NEVER, &request));
        OK(busway_request_reply(&request, extra, strlen(extra)));
        OK(busway_link_recv(link, BUSWAY_NEVER, &request));
        OK(busway_request_reply(&request, variable ? variable : "", variable ? strlen(variable) : 0));
        OK(busway_link_recv(link, BUSWAY_NEVER, &request));
        CHECK(getcwd(cwd, sizeof cwd) != NULL);
        OK(busway_request_reply(&request, cwd, strlen(cwd)));
        OK(busway_link_recv(link, BUSWAY_NEVER, &request));
        OK(busway_request_reply(&request, getenv("HOME") ? "y" : "n", 1));
        GIVES(BUSWAY_CLOSED, busway_link_recv(link, BUSWAY_NEVER, &request));
        return 0;
    }
    if (strcmp(role, "holds") == 0) {
        OK(busway_link_recv(link, BUSWAY_NEVER, &request));
        OK(busway_link_send(link, 1, "taken", 5, BUSWAY_NEVER));
        pause();
    }
    return 99;
}

static busway_link *spawn(const char *role)
{
    busway_link *link;
    busway_command command = busway_command_init();
    const char *argv[] = {"plugin", role, NULL};
    command.program = self;
    command.argv = argv;
    OK(busway_host_spawn(host, &command, &link));
    return link;
}

static void spawned(void)
{
    busway_link *link = spawn("echoes");
    busway_message reply = {0};
    busway_loan loan = {0};
    busway_credentials who;
    uint32_t pid;
    int status;
    CHECK(!busway_is_spawned());
    OK(busway_link_pid(link, &pid));
    OK(busway_link_peer(link, &who));
    CHECK(who.pid == pid && who.uid == getuid() && who.gid == getgid());
    OK(busway_link_call(link, 1, "hello", 5, SECONDS(60), &reply));
    CHECK(IS(reply, "hello"));
    OK(busway_message_release(&reply));
    OK(busway_link_loan(link, 100000, SECONDS(60), &loan));
    memset(loan.data, 'l', loan.len);
    OK(busway_link_call_loan(link, 1, &loan, SECONDS(60), &reply));
    CHECK(reply.len == 100000 && reply.data[0] == 'l' && reply.data[99999] == 'l');
    OK(busway_message_release(&reply));
    OK(busway_link_shut_down(link, SECONDS(60), &status));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 3);
    GIVES(BUSWAY_STALE_HANDLE, busway_link_shut_down(link, BUSWAY_NOW, &status));
    CHECK(kill((pid_t)pid, 0) == -1 && errno == ESRCH);

    // Freed without a word, it is gone too.
    link = spawn("echoes");
    OK(busway_link_pid(link, &pid));
    OK(busway_link_free(link));
    CHECK(kill((pid_t)pid, 0) == -1 && errno == ESRCH);
}

static void ask(busway_link *link, const char *expected)
{
    busway_message reply = {0};
    OK(busway_link_call(link, 1, NULL, 0, SECONDS(60), &reply));
    CHECK(IS(reply, expected));
    OK(busway_message_release(&reply));
}

static void surroundings(void)
{
    busway_link *link;
    busway_command command = busway_command_init();
    const char *argv[] = {"plugin", "tells", "an argument", NULL};
    const char *envp[] = {"CHECK_VARIABLE=a=b", "LSAN_OPTIONS=detect_leaks=0", NULL};
    const char *wrong[] = {"=x", NULL};
    char *full = realpath(self, NULL);
    command.program = full;
    command.argv = argv;
    command.envp = envp;
    command.cwd = "/";
    OK(busway_host_spawn(host, &command, &link));
    ask(link, "an argument");
    ask(link, "a=b");
    ask(link, "/");
    ask(link, "n");
    OK(busway_link_shut_down(link, SECONDS(60), NULL));

    command.envp = wrong;
    GIVES(BUSWAY_INVALID, busway_host_spawn(host, &command, &link));
    command.envp = NULL;
    command.flags = 1;
    GIVES(BUSWAY_UNSUPPORTED, busway_host_spawn(host, &command, &link));
    command.flags = 0;
    command.program = NULL;
    GIVES(BUSWAY_INVALID, busway_host_spawn(host, &command, &link));
    command.program = "/nowhere/at all";
    GIVES(BUSWAY_IO, busway_host_spawn(host, &command, &link));
    CHECK(last_error().os_error == ENOENT);
    argv[1] = "exits";
    command.program = full;
    GIVES(BUSWAY_JOIN_FAILED, busway_host_spawn(host, &command, &link));
    busway_error error = last_error();
    CHECK(error.reason == BUSWAY_JOIN_CHILD_EXITED && WIFEXITED(error.exit_status));
    CHECK(WEXITSTATUS(error.exit_status) == 7);
    free(full);
}

static void killed(void)
{
    busway_link *link = spawn("holds");
    busway_call call = {0};
    busway_message reply = {0};
    busway_request request = {0};
    int status;
    OK(busway_link_submit(link, 1, "a", 1, SECONDS(60), &call));
    OK(busway_link_recv(link, SECONDS(60), &request));
    CHECK(request.flags == BUSWAY_EVENT && IS(request, "taken"));
    OK(busway_request_release(&request));
    OK(busway_link_kill(link));
    GIVES(BUSWAY_PEER_DIED, busway_call_wait(&call, &reply));
    CHECK(last_error().maybe_executed == 1);
    GIVES(BUSWAY_PEER_DIED, busway_link_call(link, 1, "a", 1, SECONDS(60), &reply));
    CHECK(last_error().maybe_executed == 0);
    GIVES(BUSWAY_PEER_DIED, busway_link_recv(link, SECONDS(60), &request));
    OK(busway_link_shut_down(link, BUSWAY_NOW, &status));
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

// A process that connects, with an event loop on the host's side.
static void connected(void)
{
    busway_listener *listener;
    busway_guest *guest;
    busway_link *link;
    busway_credentials who;
    char path[] = "/tmp/busway-c-XXXXXX", socket[64];
    int32_t fd;
    int status;
    CHECK(mkdtemp(path) != NULL);
    snprintf(socket, sizeof socket, "%s/socket", path);
    OK(busway_host_listen(host, socket, &listener));
    GIVES(BUSWAY_JOIN_FAILED, busway_listener_accept(listener, 1, &guest));
    CHECK(last_error().reason == BUSWAY_JOIN_NOBODY_IN_TIME);
    // Who wants to listen there too has tried to connect.
    GIVES(BUSWAY_IO, busway_host_listen(host, socket, &(busway_listener *){NULL}));
    GIVES(BUSWAY_JOIN_FAILED, busway_listener_accept(listener, SECONDS(60), &guest));
    CHECK(last_error().reason == BUSWAY_JOIN_HUNG_UP);

    pid_t child = fork();
    if (child == 0) {
        const char *arguments[] = {"plugin", "connects", socket, NULL};
        execv(self, (char *const *)(uintptr_t)arguments);
        _exit(98);
    }
    OK(busway_listener_fd(listener, &fd));
    struct pollfd waits = {fd, POLLIN, 0};
    CHECK(poll(&waits, 1, 60000) == 1);
    OK(busway_listener_accept(listener, SECONDS(60), &guest));
    OK(busway_guest_credentials(guest, &who));
    CHECK(who.pid == (uint32_t)child);
    OK(busway_guest_refuse(guest));
    GIVES(BUSWAY_STALE_HANDLE, busway_guest_refuse(guest));
    OK(busway_listener_accept(listener, SECONDS(60), &guest));
    OK(busway_guest_free(guest));
    OK(busway_listener_accept(listener, SECONDS(60), &guest));
    OK(busway_guest_admit(guest, &link));
    GIVES(BUSWAY_STALE_HANDLE, busway_guest_admit(guest, &link));
    GIVES(BUSWAY_UNSUPPORTED, busway_link_pid(link, &(uint32_t){0}));

    // Its requests are waited for by descriptor.
    OK(busway_link_fd(link, &waits.fd));
    int served = 0;
    for (bool open = true; open;) {
        busway_request request = {0};
        busway_status got;
        bool sleep;
        while ((got = busway_link_recv(link, BUSWAY_NOW, &request)) == BUSWAY_OK) {
            OK(busway_request_reply(&request, request.data, request.len));
            served++;
        }
        if (got != BUSWAY_WOULD_BLOCK) {
            GIVES(BUSWAY_CLOSED, got);
            open = false;
        }
        OK(busway_link_arm(link, &sleep));
        if (sleep)
            CHECK(poll(&waits, 1, 60000) == 1);
        OK(busway_link_disarm(link));
    }
    CHECK(served == 10);
    OK(busway_link_free(link));
    OK(busway_listener_free(listener));
    CHECK(access(socket, F_OK) == -1);
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(rmdir(path) == 0);
}

static int connects(const char *socket)
{
    busway_link *link;
    GIVES(BUSWAY_JOIN_FAILED, busway_connect(socket, NULL, &link));
    CHECK(last_error().reason == BUSWAY_JOIN_REFUSED);
    GIVES(BUSWAY_JOIN_FAILED, busway_connect(socket, NULL, &link));
    CHECK(last_error().reason == BUSWAY_JOIN_HUNG_UP);
    OK(busway_connect(socket, NULL, &link));
    for (int i = 0; i < 10; i++)
        ask(link, "");
    OK(busway_link_close(link, SECONDS(60)));
    OK(busway_link_free(link));
    GIVES(BUSWAY_IO, busway_connect("/nowhere/at all", NULL, &link));
    return 0;
}

// One thread, many calls under way, asleep until one is done.
static void completions(void)
{
    enum { CALLS = 20, ROUNDS = 200 };
    static busway_call calls[CALLS];
    busway_link *link = spawn("echoes");
    uint32_t ready[CALLS];
    size_t n;
    uint64_t sent = 0, done = 0;
    while (done < ROUNDS * CALLS) {
        for (size_t i = 0; i < CALLS && sent < ROUNDS * CALLS; i++) {
            bool under_way;
            if (busway_call_is_ready(&calls[i], &under_way) == BUSWAY_STALE_HANDLE) {
                OK(busway_link_submit(link, 1, &sent, sizeof sent, SECONDS(60), &calls[i]));
                sent++;
            }
        }
        OK(busway_calls_poll(calls, CALLS, SECONDS(60), ready, &n));
        CHECK(n > 0 && n <= CALLS);
        for (size_t i = 0; i < n; i++) {
            busway_message reply = {0};
            OK(busway_call_wait(&calls[ready[i]], &reply));
            CHECK(reply.len == 8);
            OK(busway_message_release(&reply));
            done++;
        }
    }
    // Its process dies under those that are left.
    OK(busway_link_submit(link, 1, "a", 1, SECONDS(60), &calls[0]));
    OK(busway_link_kill(link));
    OK(busway_calls_poll(calls, CALLS, SECONDS(60), ready, &n));
    CHECK(n == 1 && ready[0] == 0);
    OK(busway_call_release(&calls[0]));
    OK(busway_link_free(link));
}

static void forked(void)
{
    busway_link *link = spawn("echoes");
    busway_message reply = {0};
    busway_loan loan = {0};
    busway_call call = {0};
    int status;
    OK(busway_link_loan(link, 1000, SECONDS(60), &loan));
    OK(busway_link_submit(link, 1, "a", 1, SECONDS(60), &call));
    pid_t child = fork();
    if (child == 0) {
        GIVES(BUSWAY_FORKED, busway_link_call(link, 1, "a", 1, SECONDS(60), &reply));
        GIVES(BUSWAY_FORKED, busway_link_send(link, 1, "a", 1, BUSWAY_NOW));
        GIVES(BUSWAY_FORKED, busway_link_recv(link, BUSWAY_NOW, &(busway_request){0}));
        GIVES(BUSWAY_FORKED, busway_link_loan(link, 10, BUSWAY_NOW, &(busway_loan){0}));
        GIVES(BUSWAY_FORKED, busway_link_kill(link));
        OK(busway_loan_release(&loan));
        OK(busway_call_release(&call));
        OK(busway_link_close(link, BUSWAY_NOW));
        OK(busway_link_free(link));
        GIVES(BUSWAY_STALE_HANDLE, busway_link_free(link));
        _exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    // To the parent nothing has happened.
    memset(loan.data, 'p', loan.len);
    OK(busway_call_wait(&call, &reply));
    OK(busway_message_release(&reply));
    OK(busway_link_call_loan(link, 1, &loan, SECONDS(60), &reply));
    CHECK(reply.len == 1000 && reply.data[999] == 'p');
    OK(busway_message_release(&reply));
    OK(busway_link_shut_down(link, SECONDS(60), &status));
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 3);
}

int main(int argc, char **argv)
{
    watchdog();
    self = argc > 0 && strchr(argv[0], '/') ? argv[0] : "/proc/self/exe";
    if (argc > 2 && strcmp(argv[1], "connects") == 0)
        return connects(argv[2]);
    if (argc > 1)
        return plugin(argv[1], argc > 2 ? argv[2] : "");
    busway_config config = busway_config_init();
    config.patience_ns = UINT64_C(60000000000);
    OK(busway_host_new(&config, &host));
    spawned();
    surroundings();
    killed();
    connected();
    completions();
    forked();
    OK(busway_host_free(host));
    return 0;
}
