// Busway for C++17: what busway.h has, with owners that give back what they hold, and errors that are thrown.
//
// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Everything here is a thin layer, header-only, and mixes freely with the functions of busway.h: get() of a link or a pool is its handle.
// Owners are moved and never copied. What is made for each message (a message, a request, a call, a loan) is an object of C that cannot
// move in memory, so it is filled where it is: declare it, and receive into it.
//
// All of them throw busway::error, but destructors and what is said to answer a status.

#ifndef BUSWAY_HPP
#define BUSWAY_HPP

#include "busway.h"

#include <chrono>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace busway {

// What went wrong.
class error : public std::runtime_error {
public:
    explicit error(busway_status status)
        : std::runtime_error(busway_error_text()), details_(busway_error_init())
    {
        busway_error_details(&details_);
        details_.status = status;
    }

    busway_status status() const noexcept { return details_.status; }
    const busway_error &details() const noexcept { return details_; }

private:
    busway_error details_;
};

inline void check(busway_status status)
{
    if (status != BUSWAY_OK)
        throw error(status);
}

// A point in time: from a duration, or one of the two that have names.
class deadline {
public:
    constexpr explicit deadline(uint64_t ns) noexcept : ns_(ns) {}

    template <class Rep, class Period>
    deadline(std::chrono::duration<Rep, Period> after) noexcept
        : ns_(busway_deadline_after(nanoseconds(std::chrono::duration_cast<std::chrono::nanoseconds>(after).count())))
    {
    }

    constexpr uint64_t ns() const noexcept { return ns_; }

private:
    static constexpr uint64_t nanoseconds(std::chrono::nanoseconds::rep count) noexcept
    {
        return count < 0 ? 0 : static_cast<uint64_t>(count);
    }

    uint64_t ns_;
};

inline constexpr deadline now{BUSWAY_NOW};
inline constexpr deadline never{BUSWAY_NEVER};

namespace detail {

// Owns a handle.
template <class T, busway_status (*Free)(T *)>
class owner {
public:
    owner() noexcept = default;
    explicit owner(T *handle) noexcept : handle_(handle) {}
    owner(owner &&other) noexcept : handle_(other.release()) {}
    owner &operator=(owner &&other) noexcept
    {
        if (this != &other)
            reset(other.release());
        return *this;
    }
    owner(const owner &) = delete;
    owner &operator=(const owner &) = delete;
    ~owner() { reset(); }

    T *get() const noexcept { return handle_; }
    explicit operator bool() const noexcept { return handle_ != nullptr; }

    // Leaves the handle to the caller.
    T *release() noexcept { return std::exchange(handle_, nullptr); }

    void reset(T *handle = nullptr) noexcept
    {
        if (handle_ != nullptr)
            Free(handle_);
        handle_ = handle;
    }

private:
    T *handle_ = nullptr;
};

// Holds an object of C where it is.
template <class T, busway_status (*Release)(T *)>
class object {
public:
    object() noexcept = default;
    object(const object &) = delete;
    object &operator=(const object &) = delete;
    ~object() { Release(&c_); }

    T *get() noexcept { return &c_; }
    const T *get() const noexcept { return &c_; }

    // Gives back what it holds, if anything.
    void release() noexcept { Release(&c_); }

    // For a result: gives back what it holds, and is empty.
    T *fresh() noexcept
    {
        Release(&c_);
        return &c_;
    }

protected:
    T c_{};
};

} // namespace detail

// Memory that will travel.
class loan : public detail::object<busway_loan, busway_loan_release> {
public:
    uint8_t *data() noexcept { return c_.data; }
    size_t size() const noexcept { return c_.len; }
    uint8_t *begin() noexcept { return c_.data; }
    uint8_t *end() noexcept { return c_.data + c_.len; }

    // Only less.
    void resize(size_t len) noexcept { c_.len = len; }
};

namespace detail {

// A payload that was received. A process that is not trusted can change the bytes while they are read: copy() first, then check.
template <class T, busway_status (*Release)(T *), busway_status (*Copy)(const T *, size_t, void *, size_t)>
class payload : public object<T, Release> {
public:
    const uint8_t *data() const noexcept { return this->c_.data; }
    size_t size() const noexcept { return this->c_.len; }
    std::string_view view() const noexcept { return {reinterpret_cast<const char *>(data()), size()}; }

    std::string copy() const
    {
        std::string to(size(), '\0');
        check(Copy(&this->c_, 0, to.data(), to.size()));
        return to;
    }

    // The payload as plain data that both sides define alike.
    template <class V>
    V read() const
    {
        static_assert(std::is_trivially_copyable_v<V>, "plain data only");
        V value;
        if (size() != sizeof value)
            throw std::length_error("a payload of another size than its type");
        check(Copy(&this->c_, 0, &value, sizeof value));
        return value;
    }
};

} // namespace detail

// A reply.
class message : public detail::payload<busway_message, busway_message_release, busway_message_copy> {};

// A call under way. Destroying it gives the call up.
class call : public detail::object<busway_call, busway_call_release> {
public:
    void wait(message &reply) { check(busway_call_wait(&c_, reply.fresh())); }

    bool ready() const
    {
        bool is = false;
        check(busway_call_is_ready(&c_, &is));
        return is;
    }
};

// A call to answer, or an event to take note of. Destroying it unanswered refuses the call.
class request : public detail::payload<busway_request, busway_request_release, busway_request_copy> {
public:
    uint32_t method() const noexcept { return c_.method; }
    bool is_event() const noexcept { return (c_.flags & BUSWAY_EVENT) != 0; }
    deadline until() const noexcept { return deadline(c_.deadline); }

    void reply(std::string_view bytes) { check(busway_request_reply(&c_, bytes.data(), bytes.size())); }
    void reply(busway::loan &with) { check(busway_request_reply_loan(&c_, with.get())); }
    void lend(size_t len, busway::loan &to) const { check(busway_request_loan(&c_, len, to.fresh())); }
    void reject(uint32_t code) { check(busway_request_reject(&c_, code)); }
    void no_such_method() { check(busway_request_no_such_method(&c_)); }

    // A nested call.
    void call(uint32_t method, std::string_view bytes, deadline until, message &reply) const
    {
        check(busway_request_call(&c_, method, bytes.data(), bytes.size(), until.ns(), reply.fresh()));
    }
};

// One end of a link.
class link : public detail::owner<busway_link, busway_link_free> {
public:
    using owner::owner;

    static link attach(const busway_config *config = nullptr)
    {
        busway_link *handle = nullptr;
        check(busway_attach(config, &handle));
        return link(handle);
    }

    static link connect(const std::string &path, const busway_config *config = nullptr)
    {
        busway_link *handle = nullptr;
        check(busway_connect(path.c_str(), config, &handle));
        return link(handle);
    }

    static std::pair<link, link> pair(const busway_config *config = nullptr)
    {
        busway_link *host = nullptr, *plugin = nullptr;
        check(busway_link_pair(config, &host, &plugin));
        return {link(host), link(plugin)};
    }

    void call(uint32_t method, std::string_view bytes, deadline until, message &reply)
    {
        check(busway_link_call(get(), method, bytes.data(), bytes.size(), until.ns(), reply.fresh()));
    }
    void call(uint32_t method, loan &with, deadline until, message &reply)
    {
        check(busway_link_call_loan(get(), method, with.get(), until.ns(), reply.fresh()));
    }
    void send(uint32_t method, std::string_view bytes, deadline until)
    {
        check(busway_link_send(get(), method, bytes.data(), bytes.size(), until.ns()));
    }
    void send(uint32_t method, loan &with, deadline until)
    {
        check(busway_link_send_loan(get(), method, with.get(), until.ns()));
    }
    void submit(uint32_t method, std::string_view bytes, deadline until, busway::call &to)
    {
        check(busway_link_submit(get(), method, bytes.data(), bytes.size(), until.ns(), to.fresh()));
    }
    void lend(size_t len, deadline until, loan &to) { check(busway_link_loan(get(), len, until.ns(), to.fresh())); }

    // Receives the next request; false if the link is closed.
    bool receive(request &to, deadline until = never)
    {
        busway_status status = busway_link_recv(get(), until.ns(), to.fresh());
        if (status == BUSWAY_CLOSED)
            return false;
        check(status);
        return true;
    }

    // Serves requests on this thread until the link is closed. What the handler does not answer is refused; what it throws ends serving.
    template <class Handler>
    void serve(Handler &&handler)
    {
        request request;
        while (receive(request))
            handler(request);
    }

    void close(deadline until) { check(busway_link_close(get(), until.ns())); }

    // Ends the process that was spawned; its status as waitpid has it.
    int shut_down(deadline until)
    {
        int32_t status = 0;
        check(busway_link_shut_down(release(), until.ns(), &status));
        return status;
    }

    int fd() const
    {
        int32_t fd = -1;
        check(busway_link_fd(get(), &fd));
        return fd;
    }
    bool arm()
    {
        bool sleep = false;
        check(busway_link_arm(get(), &sleep));
        return sleep;
    }
    void disarm() { check(busway_link_disarm(get())); }

    busway_stats stats() const
    {
        busway_stats stats = busway_stats_init();
        check(busway_link_stats(get(), &stats));
        return stats;
    }
};

// A process that has said hello.
class guest : public detail::owner<busway_guest, busway_guest_free> {
public:
    using owner::owner;

    link admit()
    {
        busway_link *handle = nullptr;
        check(busway_guest_admit(release(), &handle));
        return link(handle);
    }
    void refuse() { check(busway_guest_refuse(release())); }
};

// Listens for processes that connect.
class listener : public detail::owner<busway_listener, busway_listener_free> {
public:
    using owner::owner;

    guest accept(deadline until = never)
    {
        busway_guest *handle = nullptr;
        check(busway_listener_accept(get(), until.ns(), &handle));
        return guest(handle);
    }
};

// The side that makes the memory.
class host : public detail::owner<busway_host, busway_host_free> {
public:
    explicit host(const busway_config *config = nullptr) : owner(make(config)) {}

    // Spawns a program with these arguments behind its name.
    link spawn(const std::string &program, std::initializer_list<const char *> arguments = {})
    {
        std::vector<const char *> argv{program.c_str()};
        argv.insert(argv.end(), arguments.begin(), arguments.end());
        argv.push_back(nullptr);
        busway_command command = busway_command_init();
        command.program = program.c_str();
        command.argv = argv.data();
        return spawn(command);
    }
    link spawn(const busway_command &command)
    {
        busway_link *handle = nullptr;
        check(busway_host_spawn(get(), &command, &handle));
        return link(handle);
    }
    listener listen(const std::string &path)
    {
        busway_listener *handle = nullptr;
        check(busway_host_listen(get(), path.c_str(), &handle));
        return listener(handle);
    }

private:
    static busway_host *make(const busway_config *config)
    {
        busway_host *handle = nullptr;
        check(busway_host_new(config, &handle));
        return handle;
    }
};

} // namespace busway

#endif
