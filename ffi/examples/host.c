// A host in C: it passes each line of its standard input through a plugin, and writes what comes back.
//
//     cc host.c $(pkg-config --cflags --libs busway) -o host
//     ./host target/release/examples/line_filter <some.txt     # a plugin in Rust, which upper-cases
//
// Up to 64 calls are under way at a time: one crossing sends them, one takes in their replies.

#define _GNU_SOURCE
#include <busway.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { UPPER = 1, MANY = 64 };

static void must(busway_status status, const char *what)
{
    if (status != BUSWAY_OK) {
        fprintf(stderr, "host: %s: %s\n", what, busway_error_text());
        exit(1);
    }
}

int main(int argc, char **argv)
{
    static busway_item items[MANY];
    static busway_call calls[MANY];
    static busway_message replies[MANY];
    static busway_status statuses[MANY];
    static char *lines[MANY];
    static size_t rooms[MANY];
    static bool newlines[MANY];
    busway_command command = busway_command_init();
    busway_host *host;
    busway_link *link;
    size_t count, sent;

    if (argc != 2) {
        fprintf(stderr, "usage: host PLUGIN\n");
        return 2;
    }
    command.program = argv[1];
    must(busway_host_new(NULL, &host), "make a host");
    must(busway_host_spawn(host, &command, &link), "spawn the plugin");

    do {
        for (count = 0; count < MANY; count++) {
            ssize_t len = getline(&lines[count], &rooms[count], stdin);
            if (len < 0)
                break;
            newlines[count] = lines[count][len - 1] == '\n';
            items[count].method = UPPER;
            items[count].data = lines[count];
            items[count].len = (size_t)len - newlines[count];
        }
        // As many as there is room for, until all were sent: replies that are taken in make room again.
        for (size_t done = 0; done < count; done += sent) {
            busway_status status =
                busway_link_try_submit_many(link, items + done, count - done, BUSWAY_NEVER, calls + done, &sent);
            if (status != BUSWAY_OK && (status != BUSWAY_FULL || sent == 0))
                must(status, "send a line");
            must(busway_calls_wait(calls + done, sent, replies + done, statuses + done), "get a line back");
            for (size_t i = done; i < done + sent; i++) {
                fwrite(replies[i].data, 1, replies[i].len, stdout);
                if (newlines[i])
                    putchar('\n');
                must(busway_message_release(&replies[i]), "give a line back");
            }
        }
    } while (count == MANY);

    for (size_t i = 0; i < MANY; i++)
        free(lines[i]);
    must(busway_link_shut_down(link, busway_deadline_after(1000000000), NULL), "shut the plugin down");
    must(busway_host_free(host), "free the host");
    return fflush(stdout) != 0;
}
