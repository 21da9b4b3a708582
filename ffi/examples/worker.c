// A worker in C, for the host of examples/worker_pool: it hashes the files that it is sent the names of.
//
//     cc worker.c $(pkg-config --cflags --libs busway) -o worker
//     target/release/worker_pool --worker ./worker DIR

#define _GNU_SOURCE
#include <busway.h>
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

enum { HASH = 1 };

// What a request is answered with.
typedef struct {
    uint8_t sum[32];
    uint64_t bytes;
    uint64_t worker;
} answer;

typedef struct {
    uint32_t state[8];
    uint8_t block[64];
    uint64_t len;
} sha256;

static uint32_t rotate(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

static void sha256_block(sha256 *sha, const uint8_t *block)
{
    static const uint32_t k[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
    uint32_t w[64], s[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 |
               block[4 * i + 3];
    for (int i = 16; i < 64; i++)
        w[i] = w[i - 16] + w[i - 7] + (rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3) +
               (rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10);
    memcpy(s, sha->state, sizeof s);
    for (int i = 0; i < 64; i++) {
        uint32_t a = s[7] + (rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25)) +
                     ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
        uint32_t b = (rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22)) +
                     ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += a;
        s[0] = a + b;
    }
    for (int i = 0; i < 8; i++)
        sha->state[i] += s[i];
}

static void sha256_add(sha256 *sha, const uint8_t *data, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        sha->block[sha->len++ % 64] = data[i];
        if (sha->len % 64 == 0)
            sha256_block(sha, sha->block);
    }
}

static void sha256_end(sha256 *sha, uint8_t *sum)
{
    uint64_t bits = sha->len * 8;
    uint8_t tail[8];
    sha256_add(sha, (const uint8_t *)"\x80", 1);
    while (sha->len % 64 != 56)
        sha256_add(sha, (const uint8_t *)"", 1);
    for (int i = 0; i < 8; i++)
        tail[i] = (uint8_t)(bits >> (56 - 8 * i));
    sha256_add(sha, tail, sizeof tail);
    for (int i = 0; i < 32; i++)
        sum[i] = (uint8_t)(sha->state[i / 4] >> (24 - 8 * (i % 4)));
}

// Hashes a file; 0, or the errno for which it cannot be read.
static int hash(const char *path, answer *to)
{
    static uint8_t buffer[1 << 16];
    sha256 sha = {{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19},
                  {0},
                  0};
    FILE *file = fopen(path, "rb");
    size_t len;
    int error;
    if (file == NULL)
        return errno;
    while ((len = fread(buffer, 1, sizeof buffer, file)) > 0)
        sha256_add(&sha, buffer, len);
    error = ferror(file) ? EIO : 0;
    fclose(file);
    to->bytes = sha.len;
    to->worker = (uint64_t)getpid();
    sha256_end(&sha, to->sum);
    return error;
}

static busway_status serve(busway_request *request)
{
    char path[4096];
    answer answer;
    int error;
    if (request->method != HASH)
        return busway_request_no_such_method(request);
    // A copy, since it needs a 0 at its end.
    if (request->len >= sizeof path)
        return busway_request_reject(request, ENAMETOOLONG);
    memcpy(path, request->data, request->len);
    path[request->len] = '\0';
    error = hash(path, &answer);
    if (error != 0)
        return busway_request_reject(request, (uint32_t)error);
    return busway_request_reply(request, &answer, sizeof answer);
}

int main(void)
{
    static const char *const queues[] = {"files"};
    busway_pool *pool;
    busway_worker worker = {0};
    busway_request request = {0};
    busway_status status = busway_pool_attach(NULL, &pool);
    if (status == BUSWAY_OK)
        status = busway_pool_worker(pool, queues, 1, &worker);
    while (status == BUSWAY_OK) {
        status = busway_worker_recv(&worker, BUSWAY_NEVER, &request);
        if (status == BUSWAY_OK)
            status = serve(&request);
    }
    if (status != BUSWAY_CLOSED) {
        fprintf(stderr, "worker: %s\n", busway_error_text());
        return 1;
    }
    return 0;
}
