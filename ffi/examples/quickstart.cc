// A host and a plugin in C++: this program is both.
//
//     c++ -std=c++17 quickstart.cc $(pkg-config --cflags --libs busway) -o quickstart && ./quickstart

#include <busway.hpp>
#include <iostream>

using namespace std::chrono_literals;

enum : uint32_t { GREET = 1, ADD = 2 };

struct pair {
    uint64_t a, b;
};

static void plugin()
{
    busway::link::attach().serve([](busway::request &request) {
        switch (request.method()) {
        case GREET:
            request.reply("hello " + request.copy());
            break;
        case ADD: {
            auto [a, b] = request.read<pair>();
            uint64_t sum = a + b;
            request.reply({reinterpret_cast<const char *>(&sum), sizeof sum});
            break;
        }
        default:
            request.no_such_method();
        }
    });
}

static void host(const char *self)
{
    busway::link plugin = busway::host().spawn(self);
    busway::message reply;
    plugin.call(GREET, "host", 10s, reply);
    std::cout << reply.view() << '\n';

    busway::loan numbers;
    plugin.lend(sizeof(pair), 10s, numbers);
    pair both{40, 2};
    memcpy(numbers.data(), &both, sizeof both);
    plugin.call(ADD, numbers, 10s, reply);
    std::cout << "40 + 2 = " << reply.read<uint64_t>() << '\n';

    try {
        plugin.call(99, "", 10s, reply);
    } catch (const busway::error &error) {
        std::cout << error.what() << '\n';
    }
    std::cout << "plugin ended with " << plugin.shut_down(10s) << '\n';
}

int main(int, char **argv)
{
    try {
        if (busway_is_spawned())
            plugin();
        else
            host(argv[0]);
    } catch (const std::exception &error) {
        std::cerr << "quickstart: " << error.what() << '\n';
        return 1;
    }
    return 0;
}
