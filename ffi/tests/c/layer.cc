// busway.hpp over a link inside this process: owners move, objects give back, errors are thrown.

#include "check.h"
#include <busway.hpp>
#include <thread>

using namespace std::chrono_literals;

template <class F>
static busway_status thrown(F &&f)
{
    try {
        f();
    } catch (const busway::error &error) {
        CHECK(error.details().status == error.status() && *error.what() != '\0');
        return error.status();
    }
    return BUSWAY_OK;
}

static void serve(busway::link &link)
{
    link.serve([](busway::request &request) {
        busway::loan loan;
        switch (request.method()) {
        case 1:
            request.reply(request.view());
            break;
        case 2:
            request.lend(request.size(), loan);
            memcpy(loan.data(), request.data(), loan.size());
            loan.resize(loan.size() / 2);
            request.reply(loan);
            break;
        case 3:
            request.reject(7);
            break;
        case 4:
            request.no_such_method();
            break;
        default:
            break; // destroyed unanswered
        }
    });
}

int main()
{
    watchdog();
    auto [host, plugin] = busway::link::pair();
    busway::link moved = std::move(host);
    CHECK(!host && moved);
    host = std::move(moved);
    CHECK(host && !moved);
    GIVES(BUSWAY_STALE_HANDLE, thrown([&moved] { moved.close(busway::now); }));

    busway::request request;
    busway::message reply;
    busway::loan loan;
    GIVES(BUSWAY_WOULD_BLOCK, thrown([&, &plugin = plugin] { plugin.receive(request, busway::now); }));
    GIVES(BUSWAY_TIMEOUT, thrown([&, &plugin = plugin] { plugin.receive(request, 1ns); }));
    host.send(9, "event", busway::now);
    CHECK(plugin.receive(request, busway::now) && request.is_event() && request.view() == "event");
    CHECK(request.until().ns() == BUSWAY_NEVER);
    host.lend(100, busway::now, loan);
    host.send(9, loan, busway::now);
    // What it held is given back by the next.
    CHECK(plugin.receive(request, busway::now) && request.size() == 100);
    request.release();

    std::thread server(serve, std::ref(plugin));
    std::string text(1000, 't');
    host.call(1, text, 60s, reply);
    CHECK(reply.view() == text && reply.copy() == text);
    host.call(1, {reinterpret_cast<const char *>("\1\0\0\0"), 4}, 60s, reply);
    CHECK(reply.read<uint32_t>() == 1);
    host.lend(1000, 60s, loan);
    std::fill(loan.begin(), loan.end(), uint8_t{'l'});
    host.call(2, loan, 60s, reply);
    CHECK(reply.copy() == std::string(500, 'l'));
    GIVES(BUSWAY_REJECTED, thrown([&, &host = host] { host.call(3, "", 60s, reply); }));
    GIVES(BUSWAY_NO_SUCH_METHOD, thrown([&, &host = host] { host.call(4, "", 60s, reply); }));
    GIVES(BUSWAY_REJECTED, thrown([&, &host = host] { host.call(5, "", 60s, reply); }));
    bool wrong = false;
    host.call(1, "abc", 60s, reply);
    try {
        reply.read<uint64_t>();
    } catch (const std::length_error &) {
        wrong = true;
    }
    CHECK(wrong);
    {
        busway::call call;
        host.submit(1, "pending", 60s, call);
        call.wait(reply);
        CHECK(reply.view() == "pending");
        GIVES(BUSWAY_STALE_HANDLE, thrown([&] { call.ready(); }));
        host.submit(1, "given up", 60s, call);
    }
    host.close(60s);
    server.join();
    CHECK(plugin.stats().received > 0 && host.stats().violations == 0);
    GIVES(BUSWAY_UNSUPPORTED, thrown([&host = host] { host.fd(); }));
    GIVES(BUSWAY_CLOSED, thrown([&, &host = host] { host.call(1, "", 60s, reply); }));
    CHECK(!plugin.receive(request));
    return 0;
}
