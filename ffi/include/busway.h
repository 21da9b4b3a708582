/*
 * Busway: a shared-memory, zero-copy message bus for Linux.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Made from the sources in ffi/src; not to be edited.
 *
 * Every function that can fail answers a busway_status: BUSWAY_OK, or what went wrong, of which busway_error_text() and
 * busway_error_details() know more. Results go to the addresses that are the last arguments; they are written if the status is
 * BUSWAY_OK, and where a function says so.
 *
 * Handles (busway_link * and others like it) name what lives long. A handle is a number and no address. One that is NULL, was
 * freed, or is of another kind is BUSWAY_STALE_HANDLE, for ever. It may be freed while other threads use it: they get
 * BUSWAY_CLOSED, BUSWAY_CANCELLED or BUSWAY_STALE_HANDLE.
 *
 * Objects (busway_loan, busway_message, busway_request, busway_call) lie in the caller's memory and hold what is made for one message;
 * busway_producer and busway_consumer, the ends of a ring, are objects too. An object is zeroed before its first use, and is not
 * copied or moved while it holds something. Whatever takes it from the caller spends it. A spent, zeroed or copied one is
 * BUSWAY_STALE_HANDLE; one that still holds something takes nothing else (BUSWAY_BUSY).
 *
 * All other pointers have to be valid for what they point to, as always in C; a text ends with 0. NULL and misaligned ones are
 * BUSWAY_INVALID.
 *
 * Deadlines are points in time: nanoseconds of CLOCK_MONOTONIC, BUSWAY_NOW or BUSWAY_NEVER. See busway_deadline_after().
 *
 * Threads: every function may be called on any thread, at the same time as any other, unless it says otherwise; one object is used by one
 * thread at a time. None may be called in a signal handler, unless it says so.
 *
 * Fork: in a forked child, whatever belongs to the parent answers BUSWAY_FORKED, or does nothing. The child makes handles of its own,
 * wherever other threads of its parent were inside this library.
 */

#ifndef BUSWAY_H
#define BUSWAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

// No waiting: what cannot be done at once is BUSWAY_FULL or BUSWAY_WOULD_BLOCK.
#define BUSWAY_NOW 0

// Wait as long as it takes.
#define BUSWAY_NEVER UINT64_MAX

// This process was not spawned by a host.
#define BUSWAY_JOIN_NOT_A_PLUGIN 1

// The other side does not speak busway.
#define BUSWAY_JOIN_BAD_MAGIC 2

// A malformed message of the handshake.
#define BUSWAY_JOIN_MALFORMED 3

// The geometry is not usable.
#define BUSWAY_JOIN_GEOMETRY 4

// The memory is not sealed as it must be.
#define BUSWAY_JOIN_SEALS 5

// The identity of the other process is not established.
#define BUSWAY_JOIN_IDENTITY 6

// The child ended before it had attached; `exit_status` is how, as waitpid has it.
#define BUSWAY_JOIN_CHILD_EXITED 7

// Others have what was asked for.
#define BUSWAY_JOIN_TAKEN 8

// Nobody attached before the deadline.
#define BUSWAY_JOIN_NOBODY_IN_TIME 9

// No living host has a pool of this name.
#define BUSWAY_JOIN_NO_HOST 10

// A name that no pool can have.
#define BUSWAY_JOIN_INVALID_NAME 11

// The other side hung up during the handshake.
#define BUSWAY_JOIN_HUNG_UP 12

// The other side refused.
#define BUSWAY_JOIN_REFUSED 13

// A position beyond what was sent.
#define BUSWAY_VIOLATION_POSITION 1

// A slot reference outside the arena.
#define BUSWAY_VIOLATION_SLOT_REFERENCE 2

// A call that named a reply cell which does not exist or is in use.
#define BUSWAY_VIOLATION_REPLY_CELL 3

// An entry of unknown kind.
#define BUSWAY_VIOLATION_ENTRY_KIND 4

// An inline length that does not fit.
#define BUSWAY_VIOLATION_INLINE_LENGTH 5

// A reply of unknown status.
#define BUSWAY_VIOLATION_REPLY_STATUS 6

// An unannounced message on the control socket.
#define BUSWAY_VIOLATION_CONTROL_MESSAGE 7

// `code` of BUSWAY_REJECTED: the request was released without an answer.
#define BUSWAY_REJECT_UNANSWERED 4294967295

// `code` of BUSWAY_REJECTED: the call is nested deeper than the other side allows.
#define BUSWAY_REJECT_TOO_DEEP 4294967294

// `code` of BUSWAY_REJECTED: no slot was free for the reply.
#define BUSWAY_REJECT_NO_SLOT 4294967293

// Spin for a while, then park. The default.
#define BUSWAY_IDLE_ADAPTIVE 0

// Never park: lowest latency, one CPU each.
#define BUSWAY_IDLE_SPIN 1

// Park at once: least CPU.
#define BUSWAY_IDLE_PARK 2

// Wait by descriptor at once.
#define BUSWAY_IDLE_POLL 3

// It may connect and listen over TCP and UDP, to anybody, this machine's own services included.
#define BUSWAY_CONFINE_NETWORK 1

// It runs as another user: `uid`, in the group `gid` and no other. For a host that is privileged to do so.
#define BUSWAY_CONFINE_USER 2

// Goes on without what this system does not have, Landlock or the privilege to use another user; the grade says what came of it. Without
// this, spawning fails.
#define BUSWAY_CONFINE_BEST_EFFORT 4

// Nothing that this library knows of holds it back: protection against faults, not against malice.
#define BUSWAY_GRADE_UNCONFINED 0

// Confined as far as this system can, with BUSWAY_CONFINE_BEST_EFFORT, and not enough against malice: without Landlock and another user its
// files, and the memory of other processes of its user, are open to it.
#define BUSWAY_GRADE_PARTLY 1

// Memory, descriptors and signals of this process are out of its reach.
#define BUSWAY_GRADE_CONFINED 2

// Nobody waits for an answer.
#define BUSWAY_EVENT 1

// A process that has said hello and waits to be admitted or refused.
typedef struct busway_guest busway_guest;

// The side that makes the memory: it spawns plugins, or listens for them.
typedef struct busway_host busway_host;

// One end of a link: calls and events to the other process, requests from it. Many threads may use it at once; blocking functions
// spin a little, then park.
typedef struct busway_link busway_link;

// Listens for processes that connect.
typedef struct busway_listener busway_listener;

// A ring of plain values with any number of producers and consumers, in any processes: a memory file. Whoever has the file opens it
// and joins. All processes of a ring trust each other. A process may be killed at any instruction: nobody waits for it.
typedef struct busway_mpmc busway_mpmc;

// A process's membership of a busway_mpmc, for all its threads.
typedef struct busway_mpmc_member busway_mpmc_member;

// A pool, as one of its processes sees it: many processes, one memory, queues that any of them may send to and receive from. Its host
// makes it and admits members. Many threads may use it at once.
typedef struct busway_pool busway_pool;

// A member of a pool that was spawned.
typedef struct busway_process busway_process;

// Receives from whichever of many links has something. A link is in one set, and has no event loop of its own then. Freeing a link takes
// it out of its set. Many threads may use a set at once.
typedef struct busway_set busway_set;

// A ring of plain values with one producer and one consumer, in any two processes or in one: a memory file. Whoever has the file
// opens it; among all of them one takes the producer, and one the consumer. All processes of a ring trust each other.
typedef struct busway_spsc busway_spsc;

// What every function answers: BUSWAY_OK or what went wrong.
typedef int32_t busway_status;

// What is known of an error besides its status. What does not apply is 0.
typedef struct busway_error {
    // Bytes of this struct: busway_error_init() sets it.
    uint32_t size;
    // The status itself.
    busway_status status;
    // One of BUSWAY_JOIN_* or BUSWAY_VIOLATION_*.
    uint32_t reason;
    // Code of a rejection, or number of a method that is not there.
    uint32_t code;
    // Whether the call may have been executed: 0 or 1.
    uint32_t maybe_executed;
    // errno of BUSWAY_IO.
    int32_t os_error;
    // How a child ended, as waitpid has it.
    int32_t exit_status;
    // Version of the protocol on the other side.
    uint32_t version;
    // Length of a payload, in bytes.
    uint64_t len;
    // The largest length there is, or the one that was expected.
    uint64_t max;
} busway_error;

// Slots of one size.
typedef struct busway_size_class {
    // Bytes of a slot: a multiple of 64.
    uint32_t size;
    // Number of slots.
    uint32_t count;
} busway_size_class;

// What can be chosen about a link. Set it up with busway_config_init(); a field of 0 is as by default.
typedef struct busway_config {
    // Bytes of this struct.
    uint32_t size;
    // What a waiting thread does: one of BUSWAY_IDLE_*.
    uint32_t idle;
    // The longest spin of BUSWAY_IDLE_ADAPTIVE, in nanoseconds; 20,000 by default.
    uint64_t spin_ns;
    // Entries of a ring: how many requests can be under way in one direction. A power of two from 8 to 65,536; 1,024 by
    // default. This and what follows is the host's choice.
    uint32_t entries;
    // Reply cells: how many calls can await their reply in one direction. From 8 to 65,535; 256 by default.
    uint32_t cells;
    // Slots, in ascending order of size; NULL for payloads from 0 bytes to 1 MiB.
    const struct busway_size_class *classes;
    // How many classes there are.
    uint64_t class_count;
    // How long a handshake may take, in nanoseconds; 10 seconds by default.
    uint64_t patience_ns;
} busway_config;

// A program to spawn. Set it up with busway_command_init().
typedef struct busway_command {
    // Bytes of this struct.
    uint32_t size;
    // 0.
    uint32_t flags;
    // Path of the program; a name without a slash is looked for in PATH.
    const char *program;
    // Its arguments, the first of which is its own name; ends with NULL. NULL: its name alone.
    const char *const *argv;
    // Its environment, each as NAME=VALUE; ends with NULL. NULL: that of this process.
    const char *const *envp;
    // Its working directory. NULL: that of this process.
    const char *cwd;
} busway_command;

// Who a process is, as the kernel said when it joined.
typedef struct busway_credentials {
    // Process id, in this process's pid namespace.
    uint32_t pid;
    // User id.
    uint32_t uid;
    // Group id.
    uint32_t gid;
} busway_credentials;

// How a plugin is confined. It, and whatever it starts, may compute, use its link, and read the system's programs and libraries; it may open
// no other file, no socket and no descriptor of its host's, touch no process but its own children, and gain no privileges. What it may
// do besides is named here; docs/confinement.md has the whole profile. Set it up with busway_confinement_init().
typedef struct busway_confinement {
    // Bytes of this struct.
    uint32_t size;
    // BUSWAY_CONFINE_*, or 0.
    uint32_t flags;
    // Files that it may read and execute, and directories beneath which it may; ends with NULL. NULL: none. The program itself need not
    // be named, nor the system's directories.
    const char *const *read;
    // Files with which it may do whatever its user may, and directories, but change their mode, owner, times and extended attributes; ends
    // with NULL. NULL: none.
    const char *const *write;
    // Its user, with BUSWAY_CONFINE_USER.
    uint32_t uid;
    // Its group, with BUSWAY_CONFINE_USER.
    uint32_t gid;
    // Its address space in bytes; 0 is no limit.
    uint64_t max_memory;
    // Its open descriptors; 0 is no limit. With standard input, output and error a link takes some ten.
    uint64_t max_files;
    // The processes and threads of its user; 0 is no limit. Root is not limited.
    uint64_t max_processes;
    // Descriptors that it inherits, under their numbers; they stay the caller's. Others but standard input, output and error it does not.
    const int32_t *inherit;
    // How many there are.
    uint64_t inherit_count;
} busway_confinement;

// What keeps the other process of a link from harming this one in other ways than over the link, as of when it joined. Set it up with
// busway_grade_init().
typedef struct busway_grade {
    // Bytes of this struct.
    uint32_t size;
    // One of BUSWAY_GRADE_*.
    uint32_t grade;
    // Whether it runs as another user, who has no privileges: 0 or 1.
    uint32_t other_user;
    // Whether the profile of system calls holds it, and it can gain no privileges: 0 or 1.
    uint32_t seccomp;
    // The version of Landlock that holds it, 0 if none does.
    uint32_t landlock;
    // 0.
    uint32_t reserved;
} busway_grade;

// Memory that will travel: write `len` bytes at `data`, make `len` smaller if less is needed, then send it without a copy. The bytes
// are whatever was there before.
//
// An object: it lies where the caller has put it, is zeroed before its first use, and is not copied or moved while it holds something.
// It holds shared memory until it is sent or released, also after its link was freed.
typedef struct busway_loan {
    // Where to write.
    uint8_t *data;
    // How many bytes there are; may be made smaller.
    size_t len;
    // Of the library.
    uint64_t reserved[28];
} busway_loan;

// A payload from the other side, in place. An object, as busway_loan is.
//
// A process that is not trusted can change the bytes while they are read: copy a value before it is checked, or copy all of it with
// busway_message_copy. They are valid until the message is released, also after its link was freed.
typedef struct busway_message {
    // The payload.
    const uint8_t *data;
    // Its length in bytes.
    size_t len;
    // Of the library.
    uint64_t reserved[20];
} busway_message;

// A call under way. An object, as busway_loan is. It borrows its link: freeing that ends it.
typedef struct busway_call {
    // Until when the reply is waited for.
    uint64_t deadline;
    // Of the library.
    uint64_t reserved[12];
} busway_call;

// A call to answer, or an event to take note of. An object, as busway_loan is; its payload is as that of busway_message.
//
// A call is answered once: by busway_request_reply and its kin, or, if it is released, by BUSWAY_REJECTED with
// BUSWAY_REJECT_UNANSWERED. All of them spend it. Once its link was freed, they answer BUSWAY_CLOSED.
typedef struct busway_request {
    // The payload.
    const uint8_t *data;
    // Its length in bytes.
    size_t len;
    // Until when the caller waits.
    uint64_t deadline;
    // Number of the method.
    uint32_t method;
    // BUSWAY_EVENT, or 0.
    uint32_t flags;
    // Of the library.
    uint64_t reserved[24];
} busway_request;

// Counters of one end since it joined.
typedef struct busway_stats {
    // Bytes of this struct: busway_stats_init() sets it.
    uint32_t size;
    // 0.
    uint32_t flags;
    // Calls and events sent.
    uint64_t sent;
    // Their payload bytes.
    uint64_t sent_bytes;
    // Calls and events received.
    uint64_t received;
    // Their payload bytes.
    uint64_t received_bytes;
    // How often ring, cells or a size class were exhausted.
    uint64_t full;
    // How often a thread went to sleep.
    uint64_t parks;
    // How often sleepers of the other side were looked for and rung.
    uint64_t wakes;
    // Waits that spinning ended.
    uint64_t spins_paid;
    // Waits that spun in vain.
    uint64_t spins_missed;
    // Violations of the protocol by the other side.
    uint64_t violations;
    // Calls under way, or given up and not yet answered.
    uint64_t calls_in_use;
    // Slots of ours in use now: loaned, or not yet given back by the other side.
    uint64_t slots_in_use;
} busway_stats;

// A request of a batch.
typedef struct busway_item {
    // What to send, copied; not looked at if there is a loan.
    const void *data;
    // Its length in bytes.
    size_t len;
    // A loan to send instead, which is spent; or NULL.
    struct busway_loan *loan;
    // Number of the method.
    uint32_t method;
    // 0.
    uint32_t flags;
} busway_item;

// An answer of a batch.
typedef struct busway_answer {
    // What to reply, copied; not looked at if there is a loan.
    const void *data;
    // Its length in bytes.
    size_t len;
    // A loan to reply instead, which is spent; or NULL.
    struct busway_loan *loan;
    // What the caller is to get: BUSWAY_OK and the payload, BUSWAY_REJECTED and the code, or BUSWAY_NO_SUCH_METHOD.
    busway_status status;
    // Code of a rejection.
    uint32_t code;
} busway_answer;

// A queue that a pool is to have.
typedef struct busway_queue_config {
    // Its name.
    const char *name;
    // For how many requests, 65,536 at most; 1,024 if 0.
    uint32_t capacity;
    // 0.
    uint32_t flags;
} busway_queue_config;

// What can be chosen about a pool. Set it up with busway_pool_config_init(); a field of 0 is as by default, but there has to be a queue.
typedef struct busway_pool_config {
    // Bytes of this struct.
    uint32_t size;
    // What a waiting thread of the host does: one of BUSWAY_IDLE_*.
    uint32_t idle;
    // The longest spin of BUSWAY_IDLE_ADAPTIVE, in nanoseconds; 20,000 by default.
    uint64_t spin_ns;
    // Its queues, 32 at most.
    const struct busway_queue_config *queues;
    // How many there are.
    uint64_t queue_count;
    // How many processes may be members at a time, the host among them: from 1 to 447; 32 by default.
    uint32_t members;
    // 0.
    uint32_t flags;
    // Slots, in ascending order of size; NULL for payloads up to 1 MiB. Each request takes one.
    const struct busway_size_class *classes;
    // How many classes there are.
    uint64_t class_count;
    // How long the handshake with a new member may take, in nanoseconds; 10 seconds by default.
    uint64_t patience_ns;
} busway_pool_config;

// Takes requests from queues of a pool. As busway_queue: it holds nothing, and many threads may use it at once.
typedef struct busway_worker {
    // Number of the pool's handle.
    uint64_t pool;
    // Of the library.
    uint64_t reserved[12];
} busway_worker;

// A queue of a pool. It lies in the caller's memory, is zeroed before its first use, and is not copied or moved. It holds nothing, so
// it need not be given back; it ends with the handle of its pool, as BUSWAY_CLOSED. Many threads may use it at once.
typedef struct busway_queue {
    // Number of the pool's handle.
    uint64_t pool;
    // Of the library.
    uint64_t reserved[8];
} busway_queue;

// The end into which values are pushed. It lies in the caller's memory, is zeroed before its first use, and is not copied or
// moved; one thread uses it at a time. It outlives the handle of its ring.
typedef struct busway_producer {
    // Bytes of an element.
    size_t element_size;
    // How many elements fit at least.
    size_t capacity;
    // Of the library.
    uint64_t reserved[8];
} busway_producer;

// The end from which values are popped; as busway_producer.
typedef struct busway_consumer {
    // Bytes of an element.
    size_t element_size;
    // How many elements fit at least.
    size_t capacity;
    // Of the library.
    uint64_t reserved[8];
} busway_consumer;

// What dead members had in hand.
typedef struct busway_recovered {
    // Dead members, whose places are free again.
    uint32_t members;
    // Elements that they had in hand, neither pushed nor returned from a pop yet. They are lost, their room is not.
    uint32_t elements;
} busway_recovered;

// It was done.
#define BUSWAY_OK 0

// No room: ring, reply cells or slots are all in use, and the caller chose not to wait. Nothing was sent.
#define BUSWAY_FULL 1

// The deadline passed. For a call, `maybe_executed` of the details is 0 only if the other side never took it.
#define BUSWAY_TIMEOUT 2

// There is nothing to receive, and the caller chose not to wait.
#define BUSWAY_WOULD_BLOCK 3

// This side closed the link while the operation was under way.
#define BUSWAY_CANCELLED 4

// The link is closed, by either side.
#define BUSWAY_CLOSED 5

// The other process died. `maybe_executed` of the details is 0 only if it never took the call.
#define BUSWAY_PEER_DIED 6

// The other side broke the protocol, and the link is given up. `reason` is one of BUSWAY_VIOLATION_*.
#define BUSWAY_POISONED 7

// The other side refused the call, with `code`.
#define BUSWAY_REJECTED 8

// The handler on the other side panicked; its process goes on.
#define BUSWAY_HANDLER_PANICKED 9

// The other side knows no such method; `code` is its number.
#define BUSWAY_NO_SUCH_METHOD 10

// The pool has no queue of this name.
#define BUSWAY_NO_SUCH_QUEUE 11

// The payload has `len` bytes, and the largest that fits `max`.
#define BUSWAY_TOO_LARGE 12

// A payload of `len` bytes was read as one of `max`.
#define BUSWAY_WRONG_SIZE 13

// This process was forked from the one that owns the handle.
#define BUSWAY_FORKED 14

// This side, the kernel or the other side cannot do that.
#define BUSWAY_UNSUPPORTED 15

// The two sides speak different versions of the protocol.
#define BUSWAY_VERSION_MISMATCH 16

// The processes did not come together. `reason` is one of BUSWAY_JOIN_*.
#define BUSWAY_JOIN_FAILED 17

// The operating system refused something; `os_error` is its errno.
#define BUSWAY_IO 18

// An argument is wrong. Nothing was done, and objects that were passed are as they were.
#define BUSWAY_INVALID 19

// A handle is NULL or was freed, or an object is zeroed, spent or copied. Nothing was done.
#define BUSWAY_STALE_HANDLE 20

// An object that was to receive something still holds something: release it first. Nothing was done.
#define BUSWAY_BUSY 21

// A fault of this library, which it has reported on standard error. What the function was to do is undone or unknown.
#define BUSWAY_PANIC 22

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The version of the library: major, minor and patch, as decimal digits in groups of three. 0.1.0 is 1000.
uint32_t busway_version(void);

// The point in time that lies `ns` nanoseconds from now, on CLOCK_MONOTONIC; BUSWAY_NEVER if that is beyond 500 years.
uint64_t busway_deadline_after(uint64_t ns);

// A short text for a status, for ever valid. Any thread, any time; also in a forked child and in a signal handler.
const char *busway_status_text(busway_status status);

// What went wrong when a function last failed on this thread, as a sentence; "" if none has. Functions that succeed leave it
// as it is. Valid until the next one fails on this thread. Any time but in a signal handler.
const char *busway_error_text(void);

// What is known of the last failure of a function on this thread; a status of BUSWAY_OK if none has failed. `error->size` says how
// much of it the caller knows. Any time but in a signal handler.
busway_status busway_error_details(struct busway_error *error);

// Makes a host, which makes links with this configuration; NULL is the default one.
// Threads: any. Errors: BUSWAY_INVALID; BUSWAY_UNSUPPORTED for options that this library does not know.
busway_status busway_host_new(const struct busway_config *config, struct busway_host **host);

// Frees a host. Its links and listeners go on.
busway_status busway_host_free(struct busway_host *host);

// Spawns a plugin, and waits until it has attached. Freeing the link also ends the process: it gets a second to exit by itself, is
// killed if it does not, and reaped.
// Threads: any. Fork: not in a child that was forked from a process with threads. Errors: BUSWAY_JOIN_FAILED, most often with
// BUSWAY_JOIN_CHILD_EXITED or BUSWAY_JOIN_NOBODY_IN_TIME; BUSWAY_IO; BUSWAY_VERSION_MISMATCH. The child is then killed and reaped.
busway_status busway_host_spawn(struct busway_host *host,
                                const struct busway_command *command,
                                struct busway_link **link);

// Listens on a Unix socket at `path` for processes that connect. The file is removed when the listener is freed; one that a dead
// listener left behind is replaced.
// Threads: any. Errors: BUSWAY_IO, among them that somebody else listens there; BUSWAY_JOIN_FAILED for the geometry.
busway_status busway_host_listen(struct busway_host *host,
                                 const char *path,
                                 struct busway_listener **listener);

// Waits until `deadline` for the next process that connects and says hello.
// Threads: any, many at once. Errors: BUSWAY_JOIN_FAILED with BUSWAY_JOIN_NOBODY_IN_TIME if nobody connects. Any other error is about one
// process that did; the listener goes on.
busway_status busway_listener_accept(struct busway_listener *listener,
                                     uint64_t deadline,
                                     struct busway_guest **guest);

// A descriptor that is readable when somebody connects, for polling only. It is closed when the listener is freed.
busway_status busway_listener_fd(struct busway_listener *listener,
                                 int32_t *fd);

// Frees a listener, and removes its socket. A thread that waits in busway_listener_accept goes on until its deadline.
busway_status busway_listener_free(struct busway_listener *listener);

// Who wants in.
busway_status busway_guest_credentials(struct busway_guest *guest, struct busway_credentials *credentials);

// Hands out the memory and finishes the handshake. The guest is freed, also if this fails; BUSWAY_UNSUPPORTED, and nothing else, if it
// wants a place in a pool.
// Threads: any. Errors: BUSWAY_JOIN_FAILED, BUSWAY_IO; the process is told that it failed.
busway_status busway_guest_admit(struct busway_guest *guest,
                                 struct busway_link **link);

// As busway_guest_admit, for one that wants a place in a pool: `place` is which it got.
// Threads: any. Errors: as busway_guest_admit; BUSWAY_JOIN_TAKEN if there are as many members as there may be.
busway_status busway_guest_admit_member(struct busway_guest *guest,
                                        uint32_t *place);

// Tells the process that it is not admitted: it gets BUSWAY_JOIN_REFUSED. The guest is freed.
busway_status busway_guest_refuse(struct busway_guest *guest);

// Hangs up on a guest, without a word.
busway_status busway_guest_free(struct busway_guest *guest);

// Joins the host that spawned this process; NULL is the default configuration. Once in a process. The first call is best made before
// there are other threads, since it takes BUSWAY_SOCKET out of use.
// Errors: BUSWAY_JOIN_FAILED with BUSWAY_JOIN_NOT_A_PLUGIN if no host did, or this was called before; BUSWAY_VERSION_MISMATCH; BUSWAY_IO.
busway_status busway_attach(const struct busway_config *config,
                            struct busway_link **link);

// Joins the host that listens at `path`.
// Threads: any. Errors: BUSWAY_IO if nobody listens there; BUSWAY_JOIN_FAILED with BUSWAY_JOIN_REFUSED; otherwise as busway_attach.
busway_status busway_connect(const char *path,
                             const struct busway_config *config,
                             struct busway_link **link);

// Whether this process, or one that it descends from, was spawned by a host.
bool busway_is_spawned(void);

// Both ends of a link inside this process, over heap memory and without descriptors: for tests.
busway_status busway_link_pair(const struct busway_config *config,
                               struct busway_link **host,
                               struct busway_link **plugin);

// Spawns a plugin as busway_host_spawn does, confined; NULL is the profile with nothing allowed besides. It holds from the first
// instruction of the program, for ever, and for all that it starts.
// Threads, fork: as busway_host_spawn. Errors: as busway_host_spawn; BUSWAY_UNSUPPORTED if this system lacks what it takes, then nothing is
// spawned; BUSWAY_IO, also for a path that is not there.
busway_status busway_host_spawn_confined(struct busway_host *host,
                                         const struct busway_command *command,
                                         const struct busway_confinement *confinement,
                                         struct busway_link **link);

// What holds back the other process of a link.
busway_status busway_link_grade(struct busway_link *link, struct busway_grade *grade);

// Keeps other processes of the same user out of this one's memory and descriptors, from now on, for a host whose plugins are not confined, or
// to have a second wall. It makes the process non-dumpable, with all that follows: no core dumps, no debugger and no profiler without
// privileges. Signals are not kept away, nor are privileged processes. A program that this process executes begins anew.
// Threads: any. Errors: BUSWAY_IO.
busway_status busway_hide_memory(void);

// Loans memory for a payload of `len` bytes. Waits for a free slot until `deadline`; BUSWAY_NOW does not wait.
// Threads: any. Fork: BUSWAY_FORKED in a forked child. Errors: BUSWAY_TOO_LARGE; BUSWAY_FULL or BUSWAY_TIMEOUT; how the link ended;
// BUSWAY_BUSY if `loan` holds something.
busway_status busway_link_loan(struct busway_link *link,
                               size_t len,
                               uint64_t deadline,
                               struct busway_loan *loan);

// Calls `method` on the other side with a copy of `len` bytes at `data`, and waits for the reply until `deadline`, which the other side
// can see. Waits for room too.
// Threads: any. Fork: BUSWAY_FORKED in a forked child. Errors: BUSWAY_TIMEOUT: the call is given up. BUSWAY_PEER_DIED, BUSWAY_CANCELLED,
// BUSWAY_CLOSED, BUSWAY_POISONED: the link has ended. BUSWAY_REJECTED, BUSWAY_HANDLER_PANICKED, BUSWAY_NO_SUCH_METHOD: what the other side
// answered. BUSWAY_TOO_LARGE. BUSWAY_BUSY if `reply` holds something.
busway_status busway_link_call(struct busway_link *link,
                               uint32_t method,
                               const void *data,
                               size_t len,
                               uint64_t deadline,
                               struct busway_message *reply);

// As busway_link_call, with a loan in place of bytes; it is spent, whatever comes of the call.
// Errors: as busway_link_call; BUSWAY_UNSUPPORTED for a loan of another link.
busway_status busway_link_call_loan(struct busway_link *link,
                                    uint32_t method,
                                    struct busway_loan *loan,
                                    uint64_t deadline,
                                    struct busway_message *reply);

// Sends an event with a copy of `len` bytes at `data`: one way, no reply. Waits for room until `deadline`; BUSWAY_NOW does not wait.
// Threads: any. Fork: BUSWAY_FORKED in a forked child. Errors: BUSWAY_FULL or BUSWAY_TIMEOUT, BUSWAY_TOO_LARGE, how the link ended.
busway_status busway_link_send(struct busway_link *link,
                               uint32_t method,
                               const void *data,
                               size_t len,
                               uint64_t deadline);

// As busway_link_send, with a loan in place of bytes; it is spent, whatever comes of it.
// Errors: as busway_link_send; BUSWAY_UNSUPPORTED for a loan of another link.
busway_status busway_link_send_loan(struct busway_link *link,
                                    uint32_t method,
                                    struct busway_loan *loan,
                                    uint64_t deadline);

// Sends a call without waiting for its reply. Waits for room until `deadline`, which is the call's too.
//
// A thread that holds many calls may wait for room that only its own calls can give back. It then had better use
// busway_link_try_submit: on BUSWAY_FULL take in a reply, and try again.
// Threads: any. Fork: BUSWAY_FORKED in a forked child. Errors: as busway_link_call, for what can go wrong before the reply.
busway_status busway_link_submit(struct busway_link *link,
                                 uint32_t method,
                                 const void *data,
                                 size_t len,
                                 uint64_t deadline,
                                 struct busway_call *call);

// As busway_link_submit, but BUSWAY_FULL at once if there is no room.
busway_status busway_link_try_submit(struct busway_link *link,
                                     uint32_t method,
                                     const void *data,
                                     size_t len,
                                     uint64_t deadline,
                                     struct busway_call *call);

// As busway_link_submit, with a loan in place of bytes; it is spent, whatever comes of it.
// Errors: as busway_link_submit; BUSWAY_UNSUPPORTED for a loan of another link.
busway_status busway_link_submit_loan(struct busway_link *link,
                                      uint32_t method,
                                      struct busway_loan *loan,
                                      uint64_t deadline,
                                      struct busway_call *call);

// Receives the next request, whatever its method. Waits until `deadline`; BUSWAY_NOW does not wait.
// Threads: any, many at once. Fork: BUSWAY_FORKED in a forked child. Errors: BUSWAY_WOULD_BLOCK or BUSWAY_TIMEOUT; how the link ended:
// BUSWAY_CLOSED, BUSWAY_PEER_DIED, BUSWAY_POISONED. Events sent before the end are received first. BUSWAY_BUSY if `request` holds
// something.
busway_status busway_link_recv(struct busway_link *link,
                               uint64_t deadline,
                               struct busway_request *request);

// Closes a link in order: sends nothing new, lets calls of both sides finish and what was sent be taken until `deadline`, then ends.
// Calls that are still under way end as BUSWAY_CANCELLED, everything later as BUSWAY_CLOSED, on both sides; every waiting thread
// wakes. The handle stays valid until busway_link_free.
// Threads: any. Fork: does nothing in a forked child.
busway_status busway_link_close(struct busway_link *link,
                                uint64_t deadline);

// Closes a link at once and frees it. Threads that wait on it wake with BUSWAY_CLOSED or BUSWAY_CANCELLED, and this waits until none is
// inside a function with it. Loans, messages and requests that hold shared memory keep it until they are released. A process that was
// spawned gets a second to exit by itself, is killed if it does not, and reaped.
// Threads: any; one frees. Fork: in a forked child the handle becomes invalid, and nothing else happens.
busway_status busway_link_free(struct busway_link *link);

// Closes the link of a process that was spawned in order and waits for the process to exit, all until `deadline`; then kills it, and frees
// the link. Once the link has closed it has a second to exit in any case. `exit_status` is how it ended, as waitpid has it; it may be NULL.
// Threads: any; one frees. Errors: BUSWAY_UNSUPPORTED if its process was not spawned here; BUSWAY_IO.
busway_status busway_link_shut_down(struct busway_link *link,
                                    uint64_t deadline,
                                    int32_t *exit_status);

// Process id of a child that was spawned.
// Errors: BUSWAY_UNSUPPORTED if the link's process was not spawned here.
busway_status busway_link_pid(struct busway_link *link, uint32_t *pid);

// Kills a child that was spawned, at once. Calls under way end as BUSWAY_PEER_DIED.
// Threads: any. Fork: BUSWAY_FORKED in a forked child. Errors: BUSWAY_UNSUPPORTED if the link's process was not spawned here; BUSWAY_IO.
busway_status busway_link_kill(struct busway_link *link);

// Whether the link has ended, by closing, death or a violation.
busway_status busway_link_is_closed(struct busway_link *link, bool *closed);

// Who the other process is.
busway_status busway_link_peer(struct busway_link *link, struct busway_credentials *credentials);

// The largest payload that this side can send, in bytes.
busway_status busway_link_max_payload(struct busway_link *link, size_t *len);

// Counters of this end. `stats->size` says how many of them the caller knows.
// Threads: any. Fork: all zero in a forked child.
busway_status busway_link_stats(struct busway_link *link, struct busway_stats *stats);

// One descriptor for an event loop, which becomes readable when the other side rings an armed link, or is gone. For polling only. It
// may become readable for nothing: look, and sleep again. It is closed when the link is freed.
// Errors: BUSWAY_UNSUPPORTED on a link inside one process.
busway_status busway_link_fd(struct busway_link *link,
                             int32_t *fd);

// Before an event loop sleeps on the descriptor: asks the other side to ring it for anything that happens. `sleep` is false if there
// is a request to receive already, or the link has ended, so do not sleep. Look at your calls under way after arming, too.
// Threads: one event loop a link; busway_calls_poll is one too.
busway_status busway_link_arm(struct busway_link *link,
                              bool *sleep);

// After an event loop woke, or did not sleep: takes in what made the descriptor readable. Blocks for up to 100 ms if the other side has
// hung up.
busway_status busway_link_disarm(struct busway_link *link);

// Gives a loan back unsent.
// Threads: any. Fork: does nothing in a forked child. Errors: BUSWAY_STALE_HANDLE.
busway_status busway_loan_release(struct busway_loan *loan);

// Copies `len` bytes of a message, from `offset` on, to `to`, where the other side cannot change them.
// Threads: any. Errors: BUSWAY_INVALID if they are not all there; BUSWAY_STALE_HANDLE.
busway_status busway_message_copy(const struct busway_message *message, size_t offset, void *to, size_t len);

// Gives a message back.
// Threads: any. Fork: does nothing in a forked child. Errors: BUSWAY_STALE_HANDLE.
busway_status busway_message_release(struct busway_message *message);

// Gives messages back, as many as there are in the array: those that are spent are left out.
// Threads: any. Fork: does nothing in a forked child.
busway_status busway_messages_release(struct busway_message *messages, size_t count);

// Waits for the reply of a call until its deadline. The call is spent, whatever comes of it.
// Threads: any. Errors: as busway_link_call; BUSWAY_STALE_HANDLE; BUSWAY_BUSY.
busway_status busway_call_wait(struct busway_call *call, struct busway_message *reply);

// Whether busway_call_wait would return at once.
// Threads: any. Errors: BUSWAY_STALE_HANDLE, BUSWAY_CLOSED.
busway_status busway_call_is_ready(const struct busway_call *call, bool *ready);

// Gives a call up: a reply that comes later is discarded.
// Threads: any. Fork: does nothing in a forked child. Errors: BUSWAY_STALE_HANDLE.
busway_status busway_call_release(struct busway_call *call);

// Answers a call with a copy of `len` bytes at `data`. More than 40 bytes wait for a slot until the caller's deadline; without a deadline
// they do not wait. On an event it does nothing.
// Threads: any. Fork: BUSWAY_FORKED in a forked child. Errors: BUSWAY_TOO_LARGE, BUSWAY_FULL, BUSWAY_TIMEOUT, and the caller is told;
// how the link ended; BUSWAY_STALE_HANDLE, BUSWAY_INVALID.
busway_status busway_request_reply(struct busway_request *request,
                                   const void *data,
                                   size_t len);

// Memory for a reply of `len` bytes, to be filled in place and given to busway_request_reply_loan. Waits for a slot until the caller's
// deadline.
// Threads: any. Errors: BUSWAY_TOO_LARGE; BUSWAY_TIMEOUT or, if the caller set no deadline, BUSWAY_FULL; how the link ended;
// BUSWAY_STALE_HANDLE; BUSWAY_BUSY.
busway_status busway_request_loan(const struct busway_request *request,
                                  size_t len,
                                  struct busway_loan *loan);

// Answers a call with a loan, which is spent too.
// Threads, fork, errors: as busway_request_reply; BUSWAY_UNSUPPORTED for a loan of another link, and the caller is told.
busway_status busway_request_reply_loan(struct busway_request *request,
                                        struct busway_loan *loan);

// Refuses a call with a code of your own; the caller gets BUSWAY_REJECTED.
// Threads: any. Fork: BUSWAY_FORKED in a forked child. Errors: how the link ended; BUSWAY_STALE_HANDLE.
busway_status busway_request_reject(struct busway_request *request, uint32_t code);

// Answers that there is no such method; the caller gets BUSWAY_NO_SUCH_METHOD.
// Threads, fork, errors: as busway_request_reject.
busway_status busway_request_no_such_method(struct busway_request *request);

// Gives a request back: the end of an event, and a rejection of a call.
// Threads: any. Fork: does nothing in a forked child. Errors: BUSWAY_STALE_HANDLE.
busway_status busway_request_release(struct busway_request *request);

// Calls the other side while a call of its own is being served, and waits until `deadline`: a nested call. It may use the reserve of
// ring and cells, and does not wait for room.
// Threads: any. Errors: as busway_link_call; BUSWAY_FULL past the reserve; BUSWAY_UNSUPPORTED on an event.
busway_status busway_request_call(const struct busway_request *request,
                                  uint32_t method,
                                  const void *data,
                                  size_t len,
                                  uint64_t deadline,
                                  struct busway_message *reply);

// Copies `len` bytes of a request's payload, from `offset` on, to `to`, where the other side cannot change them.
// Threads: any. Errors: BUSWAY_INVALID if they are not all there; BUSWAY_STALE_HANDLE; BUSWAY_CLOSED.
busway_status busway_request_copy(const struct busway_request *request,
                                  size_t offset,
                                  void *to,
                                  size_t len);

// Sends events, published together. Waits for room until `deadline`; BUSWAY_NOW does not wait. `sent` is how many were sent, also if
// this fails: the first that was not is the one that it is about.
// Threads, fork, errors: as busway_link_send.
busway_status busway_link_send_many(struct busway_link *link,
                                    const struct busway_item *items,
                                    size_t count,
                                    uint64_t deadline,
                                    size_t *sent);

// Sends calls, published together, without waiting for their replies: `calls[i]` is that of `items[i]`. Waits for room until
// `deadline`, which is the calls' too. `submitted` is how many were sent, also if this fails: the first that was not is the one that it is
// about.
// Threads, fork, errors: as busway_link_submit.
busway_status busway_link_submit_many(struct busway_link *link,
                                      const struct busway_item *items,
                                      size_t count,
                                      uint64_t deadline,
                                      struct busway_call *calls,
                                      size_t *submitted);

// As busway_link_submit_many, but BUSWAY_FULL at once when there is no room.
busway_status busway_link_try_submit_many(struct busway_link *link,
                                          const struct busway_item *items,
                                          size_t count,
                                          uint64_t deadline,
                                          struct busway_call *calls,
                                          size_t *submitted);

// Waits for the replies of all these calls, each until its own deadline. `statuses[i]` says what became of `calls[i]`, and `replies[i]`
// holds its reply if that is BUSWAY_OK. All calls are spent. BUSWAY_OK if all are; else the first that is not.
// Threads: any. Errors: as busway_call_wait, for each.
busway_status busway_calls_wait(struct busway_call *calls,
                                size_t count,
                                struct busway_message *replies,
                                busway_status *statuses);

// Waits until at least one of these calls is done, or until `deadline`; BUSWAY_NOW does not wait. `ready[0]` to `ready[*ready_count - 1]`
// are the places of those that are; busway_call_wait on them returns at once. Calls that are spent are left out, so that the array may
// have gaps. There is room in `ready` for `count` places. All calls are of one link or one pool.
// Threads: counts as the link's event loop, of which there is one at a time. Errors: BUSWAY_WOULD_BLOCK or BUSWAY_TIMEOUT if none is done;
// BUSWAY_STALE_HANDLE if all are spent; BUSWAY_CLOSED if the link was freed; BUSWAY_INVALID for calls of two.
busway_status busway_calls_poll(const struct busway_call *calls,
                                size_t count,
                                uint64_t deadline,
                                uint32_t *ready,
                                size_t *ready_count);

// Receives requests: waits for the first until `deadline` (BUSWAY_NOW does not wait), then takes what is there, `max` in all, and waits
// for no more. `count` is how many came.
// Threads, fork, errors: as busway_link_recv.
busway_status busway_link_recv_many(struct busway_link *link,
                                    struct busway_request *requests,
                                    size_t max,
                                    uint64_t deadline,
                                    size_t *count);

// Answers requests of a link, each with the answer in the same place, with one wake-up. `statuses[i]` says what became of the answer to
// `requests[i]`; it may be NULL. All requests are spent. BUSWAY_OK if all were answered; else why the first was not.
// Threads, fork, errors: as busway_request_reply; BUSWAY_INVALID for a request of another link, which is left as it is.
busway_status busway_link_reply_many(struct busway_link *link,
                                     struct busway_request *requests,
                                     const struct busway_answer *answers,
                                     size_t count,
                                     busway_status *statuses);

// Makes a pool, of which this process is the host.
// Threads: any. Errors: BUSWAY_JOIN_FAILED with BUSWAY_JOIN_GEOMETRY; BUSWAY_IO; BUSWAY_INVALID.
busway_status busway_pool_create(const struct busway_pool_config *config, struct busway_pool **pool);

// Members of a pool inside this process, the first of them in the host's place: for tests. Nobody watches them.
// Errors: BUSWAY_JOIN_FAILED with BUSWAY_JOIN_GEOMETRY, also for more than there may be.
busway_status busway_pool_group(const struct busway_pool_config *config,
                                uint32_t count,
                                struct busway_pool **pools);

// Joins the pool whose host spawned this process; of the configuration, which may be NULL, it is what a waiting thread does.
// Errors: as busway_attach; BUSWAY_UNSUPPORTED if the host offers a link.
busway_status busway_pool_attach(const struct busway_config *config,
                                 struct busway_pool **pool);

// Joins the pool whose host listens at `path`.
// Threads: any. Errors: as busway_connect.
busway_status busway_pool_connect(const char *path,
                                  const struct busway_config *config,
                                  struct busway_pool **pool);

// Ends a pool at once for everybody, if this is its host, or leaves it; and frees it. Threads that wait wake. What is held of it keeps its
// memory until it is released.
// Threads: any; one frees. Fork: in a forked child the handle becomes invalid, and nothing else happens.
busway_status busway_pool_free(struct busway_pool *pool);

// Closes a pool in order, for everybody: nothing new is sent, what was sent is served until `deadline`, then all ends. Its host's to do.
// Threads: any. Fork: does nothing in a forked child. Errors: BUSWAY_UNSUPPORTED if this is not the host.
busway_status busway_pool_close(struct busway_pool *pool,
                                uint64_t deadline);

// Leaves a pool: waiting threads of this process wake, its calls under way end as BUSWAY_CANCELLED, everything later as BUSWAY_CLOSED. What
// it has taken and not answered ends as if it had died, once the pool is freed.
// Threads: any. Fork: does nothing in a forked child.
busway_status busway_pool_leave(struct busway_pool *pool);

// Spawns a process, and waits until it has joined.
// Threads, fork: as busway_host_spawn. Errors: as busway_host_spawn; BUSWAY_JOIN_TAKEN if there are as many members as there may be;
// BUSWAY_UNSUPPORTED if this is not the host.
busway_status busway_pool_spawn(struct busway_pool *pool,
                                const struct busway_command *command,
                                struct busway_process **process);

// Listens on a Unix socket at `path` for processes that join: busway_guest_admit_member admits them.
// Threads: any. Errors: as busway_host_listen; BUSWAY_UNSUPPORTED if this is not the host.
busway_status busway_pool_listen(struct busway_pool *pool,
                                 const char *path,
                                 struct busway_listener **listener);

// How many members there are besides the host.
// Errors: BUSWAY_UNSUPPORTED if this is not the host.
busway_status busway_pool_members(struct busway_pool *pool, size_t *count);

// Waits until there are no more than `count` members besides the host, or until `deadline`: BUSWAY_TIMEOUT.
// Threads: any. Errors: BUSWAY_UNSUPPORTED if this is not the host.
busway_status busway_pool_wait_members(struct busway_pool *pool, size_t count, uint64_t deadline);

// The number of this member, from 1, the host's. Numbers are used again.
busway_status busway_pool_place(struct busway_pool *pool, uint32_t *place);

// Whether the pool has ended, for this process at least.
busway_status busway_pool_is_closed(struct busway_pool *pool, bool *closed);

// The largest payload, in bytes.
busway_status busway_pool_max_payload(struct busway_pool *pool, size_t *len);

// Counters of this process. `calls_in_use` counts its calls that await a reply, `slots_in_use` the slots that it holds.
busway_status busway_pool_stats(struct busway_pool *pool,
                                struct busway_stats *stats);

// One descriptor for an event loop, as busway_link_fd. The first use starts a thread.
// Fork: BUSWAY_FORKED in a forked child. Errors: BUSWAY_IO.
busway_status busway_pool_fd(struct busway_pool *pool, int32_t *fd);

// Before an event loop sleeps on the descriptor: asks the others to ring it for requests in the queues of `worker`, which may be NULL, and for
// replies to calls of this process. `sleep` is as of busway_link_arm.
// Threads: one event loop a process; busway_calls_poll is one too. Errors: BUSWAY_IO, BUSWAY_FORKED.
busway_status busway_pool_arm(struct busway_pool *pool,
                              const struct busway_worker *worker,
                              bool *sleep);

// After an event loop woke, or did not sleep. Look at the queues then: others may rely on it.
busway_status busway_pool_disarm(struct busway_pool *pool);

// Loans memory for a payload of `len` bytes, to be sent to any queue. Waits for a free slot until `deadline`; BUSWAY_NOW does not wait.
// Threads, fork, errors: as busway_link_loan.
busway_status busway_pool_loan(struct busway_pool *pool,
                               size_t len,
                               uint64_t deadline,
                               struct busway_loan *loan);

// Asks for a queue by its name.
// Threads: any. Errors: BUSWAY_NO_SUCH_QUEUE; BUSWAY_FORKED.
busway_status busway_pool_queue(struct busway_pool *pool, const char *name, struct busway_queue *queue);

// A worker that takes requests from these queues, in turn.
// Threads: any. Errors: BUSWAY_NO_SUCH_QUEUE, also for none at all; BUSWAY_FORKED.
busway_status busway_pool_worker(struct busway_pool *pool,
                                 const char *const *names,
                                 size_t count,
                                 struct busway_worker *worker);

// Calls `method` with a copy of `len` bytes at `data`, and waits for the reply until `deadline`, which the worker can see.
// Threads, fork: as busway_link_call. Errors: as busway_link_call; BUSWAY_PEER_DIED: the worker that had taken it died, or the host.
busway_status busway_queue_call(const struct busway_queue *queue,
                                uint32_t method,
                                const void *data,
                                size_t len,
                                uint64_t deadline,
                                struct busway_message *reply);

// As busway_queue_call, with a loan in place of bytes; it is spent, whatever comes of the call.
busway_status busway_queue_call_loan(const struct busway_queue *queue,
                                     uint32_t method,
                                     struct busway_loan *loan,
                                     uint64_t deadline,
                                     struct busway_message *reply);

// Sends an event with a copy of `len` bytes at `data`: one way, no reply. Waits for room until `deadline`; BUSWAY_NOW does not wait.
// Threads, fork, errors: as busway_link_send.
busway_status busway_queue_send(const struct busway_queue *queue,
                                uint32_t method,
                                const void *data,
                                size_t len,
                                uint64_t deadline);

// As busway_queue_send, with a loan in place of bytes; it is spent, whatever comes of it.
busway_status busway_queue_send_loan(const struct busway_queue *queue,
                                     uint32_t method,
                                     struct busway_loan *loan,
                                     uint64_t deadline);

// Sends a call without waiting for its reply. Waits for room until `deadline`, which is the call's too.
// Threads, fork, errors: as busway_link_submit.
busway_status busway_queue_submit(const struct busway_queue *queue,
                                  uint32_t method,
                                  const void *data,
                                  size_t len,
                                  uint64_t deadline,
                                  struct busway_call *call);

// As busway_queue_submit, but BUSWAY_FULL at once if there is no room.
busway_status busway_queue_try_submit(const struct busway_queue *queue,
                                      uint32_t method,
                                      const void *data,
                                      size_t len,
                                      uint64_t deadline,
                                      struct busway_call *call);

// As busway_queue_submit, with a loan in place of bytes; it is spent, whatever comes of it.
busway_status busway_queue_submit_loan(const struct busway_queue *queue,
                                       uint32_t method,
                                       struct busway_loan *loan,
                                       uint64_t deadline,
                                       struct busway_call *call);

// About how many requests wait in the queue: a hint, old as soon as it is read; 0 in a forked child.
busway_status busway_queue_len(const struct busway_queue *queue, size_t *len);

// Receives the next request. Waits until `deadline`; BUSWAY_NOW does not wait.
// Threads: any, many at once with one worker. Fork: BUSWAY_FORKED in a forked child. Errors: BUSWAY_WOULD_BLOCK or BUSWAY_TIMEOUT; how the
// pool ended: BUSWAY_CLOSED, BUSWAY_PEER_DIED. BUSWAY_BUSY if `request` holds something.
busway_status busway_worker_recv(const struct busway_worker *worker,
                                 uint64_t deadline,
                                 struct busway_request *request);

// Receives requests: waits for the first until `deadline` (BUSWAY_NOW does not wait), then takes what is there, `max` in all, and waits
// for no more. `count` is how many came.
// Threads, fork, errors: as busway_worker_recv.
busway_status busway_worker_recv_many(const struct busway_worker *worker,
                                      struct busway_request *requests,
                                      size_t max,
                                      uint64_t deadline,
                                      size_t *count);

// Process id of a member that was spawned.
busway_status busway_process_pid(struct busway_process *process, uint32_t *pid);

// Its place in the pool.
busway_status busway_process_place(struct busway_process *process, uint32_t *place);

// Kills it at once.
// Threads: any. Fork: BUSWAY_FORKED in a forked child. Errors: BUSWAY_IO.
busway_status busway_process_kill(struct busway_process *process);

// Waits a second for it to exit, kills it if it does not, and frees the handle. `exit_status` is how it ended, as waitpid has it; it may be
// NULL.
// Threads: any; one frees. Errors: BUSWAY_IO, BUSWAY_FORKED.
busway_status busway_process_wait(struct busway_process *process,
                                  int32_t *exit_status);

// As busway_process_wait, for who does not want to know.
busway_status busway_process_free(struct busway_process *process);

// Makes a pool that other processes of this user open by name, without a socket. The name has from 1 to 64 characters of A-Z, a-z, 0-9,
// `_`, `.` and `-`, and does not begin with a dot; it is free again once the pool is freed, or this process is dead. It never blocks on
// another process. Two files in /dev/shm have the name. busway_pool_spawn and busway_pool_listen answer BUSWAY_UNSUPPORTED.
//
// The size of the memory is not sealed: other processes of this user can cut it short, and a member that touches it then gets a SIGBUS.
// Threads: any. Errors: BUSWAY_JOIN_FAILED with BUSWAY_JOIN_INVALID_NAME, with BUSWAY_JOIN_TAKEN if a host that lives has the name, with
// BUSWAY_JOIN_IDENTITY if a file in /dev/shm that would be the pool's is not of this user alone, with BUSWAY_JOIN_GEOMETRY; BUSWAY_IO;
// BUSWAY_INVALID.
busway_status busway_pool_create_named(const char *name,
                                       const struct busway_pool_config *config,
                                       struct busway_pool **pool);

// Joins the pool of this name that another process of this user made, or this one; of the configuration, which may be NULL, it is what a
// waiting thread does. It never blocks on another process. Free the pool before exec: the host does not take a process that lives on for
// gone.
// Threads: any. Errors: BUSWAY_JOIN_FAILED with BUSWAY_JOIN_NO_HOST if there is none, or it has died, or is not ready yet, with
// BUSWAY_JOIN_INVALID_NAME, with BUSWAY_JOIN_IDENTITY for a host in another pid or time namespace or files that are not of this user alone,
// with BUSWAY_JOIN_TAKEN if there are as many members as there may be; BUSWAY_VERSION_MISMATCH; BUSWAY_CLOSED; BUSWAY_IO.
busway_status busway_pool_open_named(const char *name,
                                     const struct busway_config *config,
                                     struct busway_pool **pool);

// Makes a set without links.
// Threads: any. Errors: BUSWAY_IO.
busway_status busway_set_new(struct busway_set **set);

// Frees a set; its links go on. A thread that waits in busway_set_recv goes on until its deadline.
busway_status busway_set_free(struct busway_set *set);

// Receives from this link too. `token` is its name in the set, from 1, which is never used again.
// Threads: any. Errors: BUSWAY_UNSUPPORTED if it is in a set already, or inside one process; BUSWAY_IO; BUSWAY_FORKED.
busway_status busway_set_insert(struct busway_set *set,
                                struct busway_link *link,
                                uint64_t *token);

// Receives from this link no more.
// Threads: any. Errors: BUSWAY_INVALID if it was not in the set.
busway_status busway_set_remove(struct busway_set *set, uint64_t token);

// How many links are in the set.
busway_status busway_set_len(struct busway_set *set, size_t *len);

// Receives the next request of any link, whose token is written to `token`. Waits until `deadline`; BUSWAY_NOW does not wait. If a link has
// ended instead, this answers how (BUSWAY_CLOSED, BUSWAY_PEER_DIED, BUSWAY_POISONED), `token` is its token, and it is in the set no more; with
// any other failure `token` is 0.
// Threads: any, many at once. Errors: BUSWAY_WOULD_BLOCK or BUSWAY_TIMEOUT; BUSWAY_FORKED; BUSWAY_BUSY if `request` holds something.
busway_status busway_set_recv(struct busway_set *set,
                              uint64_t deadline,
                              uint64_t *token,
                              struct busway_request *request);

// A descriptor that becomes readable when a link that is asleep has something. For polling only. It is closed when the set is freed.
busway_status busway_set_fd(struct busway_set *set,
                            int32_t *fd);

// Makes a ring in which at least `capacity` elements fit, up to 2^30; each has `element_size` bytes, aligned to `element_align`: sizeof and
// _Alignof of a type. Its memory is allocated here: some 2 to 3 times as many elements, and with each 8 bytes, or its alignment if that is
// more.
// Threads: any. Errors: BUSWAY_JOIN_FAILED with BUSWAY_JOIN_GEOMETRY for the capacity, for an alignment above 64, for elements of 4 GiB and
// more and for rings of 64 TiB and more; BUSWAY_INVALID, also if no type has such a size and alignment; BUSWAY_IO, also if there is not so
// much memory.
busway_status busway_spsc_create(size_t element_size,
                                 size_t element_align,
                                 size_t capacity,
                                 struct busway_spsc **ring);

// Opens a ring of the same elements that another process made, in C or in another language, and whose file `fd` is. The descriptor stays
// the caller's.
// Threads: any. Errors: BUSWAY_WRONG_SIZE for elements of another size; BUSWAY_JOIN_FAILED with BUSWAY_JOIN_SEALS, BUSWAY_JOIN_BAD_MAGIC or
// BUSWAY_JOIN_GEOMETRY if it is no such ring, with BUSWAY_JOIN_IDENTITY if it was made in another pid or time namespace;
// BUSWAY_VERSION_MISMATCH; BUSWAY_INVALID; BUSWAY_IO.
busway_status busway_spsc_open(int32_t fd,
                               size_t element_size,
                               size_t element_align,
                               struct busway_spsc **ring);

// Its file, to be handed over: as a descriptor that a child inherits (dup2), or over a Unix socket. It is closed on exec, and when
// the ring is freed.
busway_status busway_spsc_fd(struct busway_spsc *ring,
                             int32_t *fd);

// How many elements fit at least.
busway_status busway_spsc_capacity(struct busway_spsc *ring, size_t *capacity);

// Takes the one producer of a ring.
// Threads: any. Errors: BUSWAY_JOIN_FAILED with BUSWAY_JOIN_TAKEN if a process ever took it; BUSWAY_FORKED; BUSWAY_BUSY if `producer` holds
// something; BUSWAY_IO.
busway_status busway_spsc_producer(struct busway_spsc *ring,
                                   struct busway_producer *producer);

// Takes the one consumer of a ring.
// Threads, errors: as busway_spsc_producer.
busway_status busway_spsc_consumer(struct busway_spsc *ring, struct busway_consumer *consumer);

// Frees a ring; its ends in this process go on.
busway_status busway_spsc_free(struct busway_spsc *ring);

// Appends the element at `value`, which the consumer sees at once. Never blocks.
// Fork: BUSWAY_FORKED in a forked child. Errors: BUSWAY_FULL; BUSWAY_POISONED if the other process wrote what no consumer writes;
// BUSWAY_STALE_HANDLE; BUSWAY_INVALID.
busway_status busway_producer_push(struct busway_producer *producer,
                                   const void *value);

// Appends the first of `count` elements, as many as there is room for, in one go: cheaper than one by one, and the consumer sees all or
// none. `pushed` is how many. BUSWAY_FULL if there is room for none.
// Fork, errors: as busway_producer_push.
busway_status busway_producer_push_many(struct busway_producer *producer,
                                        const void *values,
                                        size_t count,
                                        size_t *pushed);

// Whether the consumer was taken, and is gone: released, or its process died, which some microseconds of system calls find out. What is
// pushed then, nobody pops.
// Fork: false in a forked child.
busway_status busway_producer_is_abandoned(const struct busway_producer *producer,
                                           bool *abandoned);

// Gives a producer back, which the consumer can tell. Nobody can take it again.
// Fork: does nothing else in a forked child.
busway_status busway_producer_release(struct busway_producer *producer);

// Takes the oldest element to `value`. Never blocks.
// Fork: BUSWAY_FORKED in a forked child. Errors: BUSWAY_WOULD_BLOCK if there is none; BUSWAY_STALE_HANDLE; BUSWAY_INVALID.
busway_status busway_consumer_pop(struct busway_consumer *consumer,
                                  void *value);

// Takes the oldest elements to `values`, as many as there are and `max` at most. `popped` is how many.
// Fork, errors: as busway_consumer_pop.
busway_status busway_consumer_pop_many(struct busway_consumer *consumer,
                                       void *values,
                                       size_t max,
                                       size_t *popped);

// Whether there is nothing to pop.
// Fork: true in a forked child.
busway_status busway_consumer_is_empty(const struct busway_consumer *consumer, bool *empty);

// Whether the producer was taken, and is gone: released, or its process died, which some microseconds of system calls find out. What it had
// pushed is still there: pop until the ring is empty.
// Fork: false in a forked child.
busway_status busway_consumer_is_abandoned(const struct busway_consumer *consumer,
                                           bool *abandoned);

// Gives a consumer back, which the producer can tell. Nobody can take it again.
// Fork: does nothing else in a forked child.
busway_status busway_consumer_release(struct busway_consumer *consumer);

// Makes a ring in which `capacity` elements fit, rounded up to a power of two, 2^15 at most; up to `members` processes, 4095 at most, are
// members at a time. Elements are as of busway_spsc_create. Its memory is allocated here: an element of up to 16 bytes takes 32.
// Threads, errors: as busway_spsc_create.
busway_status busway_mpmc_create(size_t element_size,
                                 size_t element_align,
                                 size_t capacity,
                                 size_t members,
                                 struct busway_mpmc **ring);

// As busway_spsc_open.
// Threads, errors: as busway_spsc_open.
busway_status busway_mpmc_open(int32_t fd,
                               size_t element_size,
                               size_t element_align,
                               struct busway_mpmc **ring);

// As busway_spsc_fd.
busway_status busway_mpmc_fd(struct busway_mpmc *ring, int32_t *fd);

// How many elements fit.
busway_status busway_mpmc_capacity(struct busway_mpmc *ring, size_t *capacity);

// Joins the ring, in a place of this process's own. If all are taken, those of dead members are recovered first.
// Threads: any. Errors: BUSWAY_JOIN_FAILED with BUSWAY_JOIN_TAKEN if there are as many living members as there may be; BUSWAY_FORKED; BUSWAY_IO.
busway_status busway_mpmc_join(struct busway_mpmc *ring,
                               struct busway_mpmc_member **member);

// Frees a ring; its members in this process go on.
busway_status busway_mpmc_free(struct busway_mpmc *ring);

// Appends the element at `value`. Never blocks.
// Threads: any, many at once. Fork: BUSWAY_FORKED in a forked child. Errors: BUSWAY_FULL, also if more threads than four of each member were
// killed or stopped in the midst of it; BUSWAY_INVALID.
busway_status busway_mpmc_push(struct busway_mpmc_member *member,
                               const void *value);

// Takes the oldest element to `value`. Never blocks.
// Threads: any, many at once. Fork: BUSWAY_FORKED in a forked child. Errors: BUSWAY_WOULD_BLOCK if there is none; BUSWAY_INVALID.
busway_status busway_mpmc_pop(struct busway_mpmc_member *member,
                              void *value);

// About how many elements there are: a hint, old as soon as it is read.
// Threads: any, many at once. Fork: 0 in a forked child.
busway_status busway_mpmc_len(struct busway_mpmc_member *member, size_t *len);

// Whether the ring was empty at some moment during the call.
// Threads: any, many at once. Fork: true in a forked child.
busway_status busway_mpmc_is_empty(struct busway_mpmc_member *member, bool *empty);

// The number of this member, from 1. Numbers are used again.
busway_status busway_mpmc_number(struct busway_mpmc_member *member, uint32_t *number);

// Finds members whose process is dead, and gives back what they had in hand, beside all others, who go on meanwhile. Call it when a process
// is known to have died, or now and then. `recovered` may be NULL.
// Threads: any, many at once. Fork: BUSWAY_FORKED in a forked child.
busway_status busway_mpmc_recover_dead(struct busway_mpmc_member *member,
                                       struct busway_recovered *recovered);

// Leaves the ring, and frees the member.
// Threads: any; one frees. Fork: in a forked child the handle becomes invalid, and nothing else happens.
busway_status busway_mpmc_leave(struct busway_mpmc_member *member);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#if defined(__cplusplus)
#define BUSWAY_INIT_(type)                                                                                   \
    static inline type type##_init(void) noexcept                                                            \
    {                                                                                                        \
        type value;                                                                                          \
        memset(&value, 0, sizeof value);                                                                     \
        value.size = static_cast<uint32_t>(sizeof value);                                                    \
        return value;                                                                                        \
    }
#else
#define BUSWAY_INIT_(type)                                                                                   \
    static inline type type##_init(void)                                                                     \
    {                                                                                                        \
        type value;                                                                                          \
        memset(&value, 0, sizeof value);                                                                     \
        value.size = (uint32_t)sizeof value;                                                                 \
        return value;                                                                                        \
    }
#endif

// busway_config_init() and others like it: all by default, and the size set.
BUSWAY_INIT_(busway_config)
BUSWAY_INIT_(busway_pool_config)
BUSWAY_INIT_(busway_command)
BUSWAY_INIT_(busway_error)
BUSWAY_INIT_(busway_stats)
BUSWAY_INIT_(busway_confinement)
BUSWAY_INIT_(busway_grade)

#undef BUSWAY_INIT_

#endif /* BUSWAY_H */
