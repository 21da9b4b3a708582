// busway.hpp: batches, sets, pools and rings, in one process and between two.

#include "check.h"
#include <array>
#include <busway.hpp>
#include <sys/wait.h>
#include <thread>

using namespace std::chrono_literals;

static const char *self;

template <class F>
static busway_status thrown(F &&f)
{
    try {
        f();
    } catch (const busway::error &error) {
        return error.status();
    }
    return BUSWAY_OK;
}

static void batches()
{
    constexpr size_t many = 20;
    auto [host, plugin] = busway::link::pair();
    busway::batch batch;
    busway::requests requests(many);
    busway::calls calls(many);
    busway::loan loan, answer;
    std::array<std::string, many> texts;
    GIVES(BUSWAY_WOULD_BLOCK, thrown([&, &plugin = plugin] { requests.receive(plugin, busway::now); }));
    for (size_t i = 0; i + 1 < many; i++)
        batch.add(static_cast<uint32_t>(i), texts[i] = "number " + std::to_string(i));
    host.lend(1000, busway::now, loan);
    std::fill(loan.begin(), loan.end(), uint8_t{'l'});
    batch.add(many - 1, loan);
    CHECK(batch.size() == many);

    CHECK(host.send(batch, busway::now) == many);
    CHECK(requests.receive(plugin, busway::now) == many && requests.size() == many);
    CHECK(requests[7].method == 7 && requests[7].flags == BUSWAY_EVENT && requests.view(7) == texts[7]);
    CHECK(requests.view(many - 1) == std::string(1000, 'l'));

    // A loan is spent, so the batch is made anew.
    batch.clear();
    for (size_t i = 0; i < many; i++)
        batch.add(static_cast<uint32_t>(i), texts[i]);
    CHECK(calls.submit(host, batch, 60s) == many);
    CHECK(requests.receive(plugin) == many);
    for (size_t i = 0; i < many; i++)
        requests.reply(i, requests.view(i));
    requests.reject(1, 5);
    requests.no_such_method(2);
    plugin.lend(2000, busway::now, answer);
    std::fill(answer.begin(), answer.end(), uint8_t{'a'});
    requests.reply(3, answer);
    requests.answer(plugin);
    CHECK(requests.size() == 0);
    CHECK(!calls.wait() && calls.size() == many);
    CHECK(calls.status(0) == BUSWAY_OK && calls.view(0) == texts[0] && calls.view(10) == texts[10]);
    CHECK(calls.status(1) == BUSWAY_REJECTED && calls.status(2) == BUSWAY_NO_SUCH_METHOD);
    CHECK(calls.view(3) == std::string(2000, 'a'));

    // From the middle of a batch on; what is not answered is refused, and calls that are dropped are given up.
    CHECK(calls.submit(host, batch, 60s, many - 2) == 2);
    {
        busway::requests dropped(many);
        CHECK(dropped.receive(plugin) == 2 && dropped.view(0) == texts[many - 2]);
    }
    CHECK(!calls.wait() && calls.status(1) == BUSWAY_REJECTED);
    {
        busway::calls given_up(1);
        CHECK(given_up.submit(host, batch, 60s) == 1);
    }
    host.close(busway::now);
    GIVES(BUSWAY_CLOSED, thrown([&, &host = host] { host.send(batch, busway::now); }));
    GIVES(BUSWAY_CLOSED, thrown([&, &host = host] { calls.submit(host, batch, busway::now); }));
    while (requests.receive(plugin) > 0)
        continue;
    CHECK(plugin.stats().slots_in_use == 0);
}

// Two plugins that call, served by one thread.
static void sets()
{
    constexpr size_t links = 2;
    busway::host host;
    busway::set set;
    busway::request request;
    std::vector<busway::link> ends;
    std::vector<uint64_t> tokens;
    std::array<int, links> served{};
    GIVES(BUSWAY_WOULD_BLOCK, thrown([&] { set.receive(request, busway::now); }));
    for (size_t i = 0; i < links; i++) {
        ends.push_back(host.spawn(self, {"calls"}));
        CHECK(ends[i].grade().grade == BUSWAY_GRADE_UNCONFINED);
        tokens.push_back(set.insert(ends[i]));
    }
    set.remove(tokens[0]);
    GIVES(BUSWAY_INVALID, thrown([&] { set.remove(tokens[0]); }));
    tokens[0] = set.insert(ends[0]);
    CHECK(set.size() == links && set.fd() >= 0);
    while (set.size() > 0) {
        busway::set::event came = set.receive(request, 60s);
        size_t of = came.token == tokens[0] ? 0 : 1;
        CHECK(came.token == tokens[of]);
        if (came.status == BUSWAY_OK) {
            request.reply(request.view());
            served[of]++;
        } else {
            GIVES(BUSWAY_CLOSED, came.status);
        }
    }
    CHECK(served[0] == 10 && served[1] == 10);
    busway_command command = busway_command_init();
    busway_confinement confinement = busway_confinement_init();
    command.program = "/bin/true";
    busway_status status = thrown([&] { host.spawn(command, confinement); });
    // Without Landlock nobody is spawned.
    CHECK(status == BUSWAY_JOIN_FAILED || status == BUSWAY_UNSUPPORTED);
}

static int calls()
{
    busway::link link = busway::link::attach();
    busway::message reply;
    for (int i = 0; i < 10; i++) {
        link.call(1, "of a set", 60s, reply);
        CHECK(reply.view() == "of a set");
    }
    link.close(60s);
    return 0;
}

static void group()
{
    static const busway_queue_config queues[] = {{"work", 16, 0}};
    busway_pool_config config = busway_pool_config_init();
    config.queues = queues;
    config.queue_count = 1;
    std::vector<busway::pool> pools = busway::pool::group(config, 2);
    busway::queue queue(pools[0], "work");
    busway::worker worker(pools[1], {"work"});
    busway::requests requests(4);
    busway::loan loan;
    CHECK(pools[1].place() == 2 && pools[0].max_payload() >= 1 << 20);
    GIVES(BUSWAY_NO_SUCH_QUEUE, thrown([&] { busway::queue none(pools[0], "none"); }));
    GIVES(BUSWAY_NO_SUCH_QUEUE, thrown([&] { busway::worker none(pools[0], {"none"}); }));
    queue.send(1, "event", busway::now);
    pools[0].lend(3000, busway::now, loan);
    std::fill(loan.begin(), loan.end(), uint8_t{'e'});
    queue.send(2, loan, busway::now);
    CHECK(queue.size() == 2);
    CHECK(requests.receive(worker) == 2 && requests.view(0) == "event" && requests.view(1) == std::string(3000, 'e'));
    GIVES(BUSWAY_WOULD_BLOCK, thrown([&] { requests.receive(worker, busway::now); }));
    pools[1].leave();
    CHECK(pools[1].is_closed() && requests.receive(worker) == 0);
    pools[0].reset();
    GIVES(BUSWAY_CLOSED, thrown([&] { queue.send(1, "", busway::now); }));
}

static void pools()
{
    busway::pool pool = busway::pool::create({"work", "other"});
    busway::queue queue(pool, "work");
    busway::message reply;
    busway::loan loan;
    busway::process process = pool.spawn(self, {"works"});
    CHECK(process.place() == 2 && process.pid() > 0 && pool.members() == 1);
    queue.call(1, "text", 60s, reply);
    CHECK(reply.view() == "text");
    pool.lend(5000, 60s, loan);
    std::fill(loan.begin(), loan.end(), uint8_t{'p'});
    queue.call(1, loan, 60s, reply);
    CHECK(reply.copy() == std::string(5000, 'p'));
    {
        busway::call call;
        queue.submit(1, "pending", 60s, call);
        call.wait(reply);
        CHECK(reply.view() == "pending");
    }
    CHECK(pool.fd() >= 0);
    if (pool.arm())
        pool.disarm();
    process.kill();
    pool.wait_members(0, 60s);
    CHECK(WIFSIGNALED(process.wait()) && !process);
    process = pool.spawn(self, {"works"});
    pool.close(60s);
    int status = process.wait();
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 4);

    // One that connects, here from this process.
    char directory[] = "/tmp/busway-cc-XXXXXX";
    CHECK(mkdtemp(directory) != nullptr);
    std::string path = std::string(directory) + "/socket";
    pool = busway::pool::create({"work"});
    {
        busway::listener listener = pool.listen(path);
        std::thread connects([&] { CHECK(busway::pool::connect(path).place() == 2); });
        CHECK(listener.accept(60s).admit_member() == 2);
        connects.join();
    }
    CHECK(rmdir(directory) == 0);

    std::string name = "busway-cc-" + std::to_string(getpid());
    static const busway_queue_config queues[] = {{"work", 0, 0}};
    busway_pool_config config = busway_pool_config_init();
    config.queues = queues;
    config.queue_count = 1;
    busway::pool named = busway::pool::create_named(name, config), member = busway::pool::open_named(name);
    GIVES(BUSWAY_JOIN_FAILED, thrown([&] { busway::pool::create_named(name, config); }));
    std::thread server([&] {
        busway::worker worker(member, {"work"});
        worker.serve([](busway::request &request) { request.reply(request.view()); });
    });
    busway::queue work(named, "work");
    work.call(1, "by name", 60s, reply);
    CHECK(reply.view() == "by name");
    reply.release();
    named.close(60s);
    server.join();
}

static int works()
{
    busway::pool pool = busway::pool::attach();
    busway::worker worker(pool, {"work", "other"});
    worker.serve([](busway::request &request) { request.reply(request.view()); });
    return 4;
}

struct sample {
    uint64_t number;
    double value;
};

static void rings()
{
    busway::spsc<sample> ring(4), again = busway::spsc<sample>::open(ring.fd());
    busway::producer<sample> to;
    busway::consumer<sample> from;
    std::array<sample, 16> in{}, out{};
    sample one{};
    for (size_t i = 0; i < in.size(); i++)
        in[i] = {i, 0.5};
    ring.take(to);
    again.take(from);
    GIVES(BUSWAY_JOIN_FAILED, thrown([&] { busway::producer<sample> second; ring.take(second); }));
    GIVES(BUSWAY_WRONG_SIZE, thrown([&] { busway::spsc<uint64_t>::open(ring.fd()); }));
    CHECK(ring.capacity() == 4 && to.capacity() == 4 && from.capacity() == 4);
    ring.reset();
    CHECK(from.is_empty() && !from.pop(one) && from.pop(out.data(), out.size()) == 0);
    size_t pushed = to.push(in.data(), in.size());
    CHECK(pushed >= 4 && pushed < in.size() && !to.push(in[0]) && to.push(in.data(), 1) == 0);
    CHECK(from.pop(one) && one.number == 0 && one.value == 0.5);
    CHECK(from.pop(out.data(), out.size()) == pushed - 1 && out[pushed - 2].number == pushed - 1);
    CHECK(!from.is_abandoned() && !to.is_abandoned());
    CHECK(to.push(in[3]));
    to.release();
    CHECK(from.is_abandoned() && from.pop(one) && one.number == 3);
    GIVES(BUSWAY_STALE_HANDLE, thrown([&] { to.push(one); }));

    struct alignas(64) line {
        uint32_t first, last;
    };
    busway::spsc<line> lines(4);
    busway::producer<line> line_to;
    busway::consumer<line> line_from;
    lines.take(line_to);
    lines.take(line_from);
    line taken{};
    CHECK(line_to.push(line{1, 2}) && line_from.pop(taken) && taken.last == 2);

    busway::mpmc<uint32_t> many(8, 2);
    busway::mpmc_member<uint32_t> first = many.join(), second = busway::mpmc<uint32_t>::open(many.fd()).join();
    uint32_t got = 0;
    CHECK(many.capacity() == 8 && second.number() == 2 && first.is_empty() && !first.pop(got));
    GIVES(BUSWAY_JOIN_FAILED, thrown([&] { many.join(); }));
    for (uint32_t i = 0; i < 8; i++)
        CHECK(first.push(i));
    CHECK(!second.push(8) && first.size() == 8);
    for (uint32_t i = 0; i < 8; i++)
        CHECK(second.pop(got) && got == i);
    CHECK(second.recover_dead().members == 0);
    second.reset();
    second = many.join();
    CHECK(second.number() == 2);
}

int main(int argc, char **argv)
{
    watchdog();
    self = strchr(argv[0], '/') != nullptr ? argv[0] : "/proc/self/exe";
    if (argc > 1)
        return strcmp(argv[1], "works") == 0 ? works() : calls();
    batches();
    sets();
    group();
    pools();
    rings();
    return 0;
}
