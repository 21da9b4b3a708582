// A plugin in C: the filter of examples/http_filter, whose bytes docs/http_filter.md describes.
//
//     cc plugin.c $(pkg-config --cflags --libs busway) -o plugin
//     target/release/http_filter --plugin ./plugin
//
// It decides as the one in Rust does: who may see /admin, which bodies go no further, who is greeted, what is marked.

#include <busway.h>
#include <stdio.h>
#include <string.h>

enum { JUDGE = 1, MALFORMED = 1, MANY = 64, MAX_LINES = 256 };
enum { REWRITE = 1, ANSWER = 2, BLOCK = 3 };
// Numbers of names.
enum { AUTHORIZATION = 15, CONTENT_TYPE = 24, USER_AGENT = 56, X_FILTERED_BY = 60 };

typedef struct {
    const uint8_t *at;
    uint32_t len;
} text;

typedef struct {
    uint16_t number;
    text name, value;
    bool remove;
} line;

typedef struct {
    uint8_t kind;
    uint16_t status;
    uint32_t lines, parts;
    line line[MAX_LINES];
    text body[3];
} verdict;

#define TEXT(literal) ((text){(const uint8_t *)(literal), sizeof(literal) - 1})

// All numbers are little endian, as is every machine that Busway runs on.
static uint16_t read16(const uint8_t *at)
{
    uint16_t n;
    memcpy(&n, at, sizeof n);
    return n;
}

static uint32_t read32(const uint8_t *at)
{
    uint32_t n;
    memcpy(&n, at, sizeof n);
    return n;
}

static bool same(text a, text b)
{
    return a.len == b.len && memcmp(a.at, b.at, a.len) == 0;
}

static bool starts_with(text whole, text start)
{
    return whole.len >= start.len && memcmp(whole.at, start.at, start.len) == 0;
}

static bool contains(text whole, text part)
{
    for (uint32_t i = 0; i + part.len <= whole.len; i++)
        if (memcmp(whole.at + i, part.at, part.len) == 0)
            return true;
    return false;
}

// The text of a range; false if it leaves the payload.
static bool range(const busway_request *request, uint32_t offset, uint32_t len, text *to)
{
    if (offset > request->len || len > request->len - offset)
        return false;
    *to = (text){request->data + offset, len};
    return true;
}

static bool range_at(const busway_request *request, size_t at, text *to)
{
    return range(request, read32(request->data + at), read32(request->data + at + 4), to);
}

static void set(verdict *to, uint16_t number, text value)
{
    to->line[to->lines++] = (line){number, {NULL, 0}, value, false};
}

// Decides about a request; false if it cannot be read.
static bool decide(const busway_request *request, verdict *to)
{
    const uint8_t *data = request->data;
    text target, body, none = {NULL, 0}, token = none, agent = TEXT("stranger"), path;
    uint32_t headers;
    to->lines = to->parts = 0;
    to->status = 0;
    if (request->len < 40 || data[0] != 1)
        return false;
    headers = read32(data + 4);
    if (headers > (request->len - 40) / 16 || !range_at(request, 24, &target) || !range_at(request, 32, &body))
        return false;
    for (uint32_t i = 0; i < headers; i++) {
        const uint8_t *entry = data + 40 + 16 * (size_t)i;
        uint16_t number = read16(entry);
        text name = none, value;
        if (!range_at(request, 48 + 16 * (size_t)i, &value))
            return false;
        if (number == 0 && !range(request, read32(entry + 4), read16(entry + 2), &name))
            return false;
        if (number == AUTHORIZATION)
            token = value;
        if (number == USER_AGENT)
            agent = value;
        if (number == 0 && starts_with(name, TEXT("x-internal-")) && to->lines < MAX_LINES - 1)
            to->line[to->lines++] = (line){0, name, none, true};
    }
    path = target;
    for (uint32_t i = 0; i < target.len; i++)
        if (target.at[i] == '?') {
            path.len = i;
            break;
        }
    if (starts_with(path, TEXT("/admin")) && !same(token, TEXT("Bearer open-sesame"))) {
        to->kind = BLOCK;
        to->status = 403;
        to->lines = 0;
    } else if (contains(body, TEXT("forbidden words"))) {
        to->kind = BLOCK;
        to->status = 422;
        to->lines = 0;
    } else if (same(path, TEXT("/hello"))) {
        to->kind = ANSWER;
        to->status = 200;
        to->lines = 0;
        to->body[to->parts++] = TEXT("hello, ");
        to->body[to->parts++] = agent;
        to->body[to->parts++] = TEXT("\n");
        set(to, CONTENT_TYPE, TEXT("text/plain"));
        set(to, X_FILTERED_BY, TEXT("example"));
    } else {
        to->kind = REWRITE;
        set(to, X_FILTERED_BY, TEXT("example"));
    }
    return true;
}

static size_t size_of(const verdict *of)
{
    size_t size = 16 + 16 * (size_t)of->lines;
    for (uint32_t i = 0; i < of->lines; i++)
        size += of->line[i].name.len + of->line[i].value.len;
    for (uint32_t i = 0; i < of->parts; i++)
        size += of->body[i].len;
    return size;
}

// Appends a text behind the tables, and returns where it lies.
static uint32_t append(uint8_t *to, uint32_t *end, text what)
{
    uint32_t at = *end;
    if (what.len > 0)
        memcpy(to + at, what.at, what.len);
    *end += what.len;
    return at;
}

static void write_out(const verdict *from, uint8_t *to)
{
    uint32_t end = 16 + 16 * from->lines;
    uint32_t body[2] = {end, 0};
    to[0] = 1;
    to[1] = from->kind;
    memcpy(to + 2, &from->status, 2);
    memcpy(to + 4, &from->lines, 4);
    for (uint32_t i = 0; i < from->parts; i++) {
        append(to, &end, from->body[i]);
        body[1] += from->body[i].len;
    }
    memcpy(to + 8, body, 8);
    for (uint32_t i = 0; i < from->lines; i++) {
        const line *line = &from->line[i];
        uint8_t *entry = to + 16 + 16 * (size_t)i;
        uint16_t name_len = (uint16_t)line->name.len;
        uint32_t name = append(to, &end, line->name);
        uint32_t value[2] = {append(to, &end, line->value), line->remove ? UINT32_MAX : line->value.len};
        memcpy(entry, &line->number, 2);
        memcpy(entry + 2, &name_len, 2);
        memcpy(entry + 4, &name, 4);
        memcpy(entry + 8, value, 8);
    }
}

// Judges one request: what it is to be answered.
static busway_answer judge(const busway_request *request, busway_loan *loan)
{
    static verdict verdict;
    busway_answer answer = {NULL, 0, NULL, BUSWAY_OK, 0};
    if (request->method != JUDGE) {
        answer.status = BUSWAY_NO_SUCH_METHOD;
    } else if (!decide(request, &verdict)) {
        answer.status = BUSWAY_REJECTED;
        answer.code = MALFORMED;
    } else if (busway_request_loan(request, size_of(&verdict), loan) == BUSWAY_OK) {
        write_out(&verdict, loan->data);
        answer.loan = loan;
    } else {
        // Nobody waits for it any more, or no slot came free in time.
        answer.status = BUSWAY_REJECTED;
        answer.code = BUSWAY_REJECT_NO_SLOT;
    }
    return answer;
}

int main(void)
{
    static busway_request requests[MANY];
    static busway_answer answers[MANY];
    static busway_loan loans[MANY];
    busway_config config = busway_config_init();
    busway_status status;
    busway_link *link;
    size_t count;

    // Whoever spins takes the CPU from those who have work.
    config.idle = BUSWAY_IDLE_PARK;
    status = busway_attach(&config, &link);
    while (status == BUSWAY_OK) {
        status = busway_link_recv_many(link, requests, MANY, BUSWAY_NEVER, &count);
        if (status != BUSWAY_OK)
            break;
        for (size_t i = 0; i < count; i++)
            answers[i] = judge(&requests[i], &loans[i]);
        status = busway_link_reply_many(link, requests, answers, count, NULL);
    }
    if (status != BUSWAY_CLOSED && status != BUSWAY_PEER_DIED) {
        fprintf(stderr, "plugin: %s\n", busway_error_text());
        return 1;
    }
    return 0;
}
