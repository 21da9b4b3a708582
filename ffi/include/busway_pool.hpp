// Busway for C++17: pools. A part of busway.hpp.
//
// SPDX-License-Identifier: MIT OR Apache-2.0

#ifndef BUSWAY_POOL_HPP
#define BUSWAY_POOL_HPP

#include "busway.hpp"

namespace busway {

// A member of a pool that was spawned. Destroying it waits a second for the process to exit, then kills it.
class process : public detail::owner<busway_process, busway_process_free> {
public:
    using owner::owner;

    uint32_t pid() const { return detail::value(busway_process_pid, get()); }
    uint32_t place() const { return detail::value(busway_process_place, get()); }
    void kill() { check(busway_process_kill(get())); }
    // Its status as waitpid has it.
    int wait() { return detail::value(busway_process_wait, release()); }
};

class pool;

// A queue of a pool, asked for by its name. It ends with the pool.
class queue {
public:
    queue(pool &of, const std::string &name);
    queue(const queue &) = delete;
    queue &operator=(const queue &) = delete;

    void call(uint32_t method, std::string_view bytes, deadline until, message &reply)
    {
        check(busway_queue_call(&c_, method, bytes.data(), bytes.size(), until.ns(), reply.fresh()));
    }
    void call(uint32_t method, loan &with, deadline until, message &reply)
    {
        check(busway_queue_call_loan(&c_, method, with.get(), until.ns(), reply.fresh()));
    }
    void send(uint32_t method, std::string_view bytes, deadline until)
    {
        check(busway_queue_send(&c_, method, bytes.data(), bytes.size(), until.ns()));
    }
    void send(uint32_t method, loan &with, deadline until)
    {
        check(busway_queue_send_loan(&c_, method, with.get(), until.ns()));
    }
    void submit(uint32_t method, std::string_view bytes, deadline until, busway::call &to)
    {
        check(busway_queue_submit(&c_, method, bytes.data(), bytes.size(), until.ns(), to.fresh()));
    }
    size_t size() const { return detail::value(busway_queue_len, &c_); }

private:
    busway_queue c_{};
};

// Takes requests from queues of a pool, in turn. It ends with the pool.
class worker {
public:
    worker(pool &of, std::initializer_list<const char *> queues);
    worker(const worker &) = delete;
    worker &operator=(const worker &) = delete;

    const busway_worker *get() const noexcept { return &c_; }

    // Receives the next request; false if the pool is closed.
    bool receive(request &to, deadline until = never)
    {
        busway_status status = busway_worker_recv(&c_, until.ns(), to.fresh());
        if (status == BUSWAY_CLOSED)
            return false;
        check(status);
        return true;
    }
    busway_status receive_many(busway_request *to, size_t max, deadline until, size_t &count)
    {
        return busway_worker_recv_many(&c_, to, max, until.ns(), &count);
    }

    // As link::serve.
    template <class Handler>
    void serve(Handler &&handler)
    {
        request request;
        while (receive(request))
            handler(request);
    }

private:
    busway_worker c_{};
};

// A pool, as one of its processes sees it.
class pool : public detail::owner<busway_pool, busway_pool_free> {
public:
    using owner::owner;

    // As its host. Of the queues only names and capacities matter.
    static pool create(const busway_pool_config &config) { return make(busway_pool_create, &config); }
    static pool create(std::initializer_list<const char *> queues)
    {
        std::vector<busway_queue_config> names;
        for (const char *name : queues)
            names.push_back({name, 0, 0});
        busway_pool_config config = busway_pool_config_init();
        config.queues = names.data();
        config.queue_count = names.size();
        return create(config);
    }
    static pool create_named(const std::string &name, const busway_pool_config &config)
    {
        return make(busway_pool_create_named, name.c_str(), &config);
    }
    // As a member, with what a waiting thread does.
    static pool attach(const busway_config *config = nullptr) { return make(busway_pool_attach, config); }
    static pool connect(const std::string &path, const busway_config *config = nullptr)
    {
        return make(busway_pool_connect, path.c_str(), config);
    }
    static pool open_named(const std::string &name, const busway_config *config = nullptr)
    {
        return make(busway_pool_open_named, name.c_str(), config);
    }
    // All members of a pool inside this process.
    static std::vector<pool> group(const busway_pool_config &config, uint32_t count)
    {
        std::vector<busway_pool *> handles(count);
        check(busway_pool_group(&config, count, handles.data()));
        return std::vector<pool>(handles.begin(), handles.end());
    }

    process spawn(const std::string &program, std::initializer_list<const char *> arguments = {})
    {
        return detail::spawn(program, arguments, [this](const busway_command &command) { return spawn(command); });
    }
    process spawn(const busway_command &command)
    {
        busway_process *handle = nullptr;
        check(busway_pool_spawn(get(), &command, &handle));
        return process(handle);
    }
    listener listen(const std::string &path)
    {
        busway_listener *handle = nullptr;
        check(busway_pool_listen(get(), path.c_str(), &handle));
        return listener(handle);
    }

    void lend(size_t len, deadline until, loan &to) { check(busway_pool_loan(get(), len, until.ns(), to.fresh())); }
    void close(deadline until) { check(busway_pool_close(get(), until.ns())); }
    void leave() { check(busway_pool_leave(get())); }
    bool is_closed() const { return detail::value(busway_pool_is_closed, get()); }
    uint32_t place() const { return detail::value(busway_pool_place, get()); }
    size_t members() const { return detail::value(busway_pool_members, get()); }
    void wait_members(size_t count, deadline until) { check(busway_pool_wait_members(get(), count, until.ns())); }
    size_t max_payload() const { return detail::value(busway_pool_max_payload, get()); }

    int fd() const { return detail::value(busway_pool_fd, get()); }
    bool arm(const worker *with = nullptr)
    {
        bool sleep = false;
        check(busway_pool_arm(get(), with == nullptr ? nullptr : with->get(), &sleep));
        return sleep;
    }
    void disarm() { check(busway_pool_disarm(get())); }

private:
    template <class How, class... Args>
    static pool make(How how, Args... args)
    {
        busway_pool *handle = nullptr;
        check(how(args..., &handle));
        return pool(handle);
    }
};

inline queue::queue(pool &of, const std::string &name) { check(busway_pool_queue(of.get(), name.c_str(), &c_)); }

inline worker::worker(pool &of, std::initializer_list<const char *> queues)
{
    check(busway_pool_worker(of.get(), queues.begin(), queues.size(), &c_));
}

} // namespace busway

#endif
