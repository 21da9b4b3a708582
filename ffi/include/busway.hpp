// Busway for C++17: what busway.h has, with owners that give back what they hold, and errors that are thrown.
//
// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Everything here is a thin layer, header-only, and mixes freely with the functions of busway.h: get() of a link or a pool is its handle.
// Owners are moved and never copied. What is made for each message (a message, a request, a call, a loan) is an object of C that cannot
// move in memory, so it is filled where it is: declare it, and receive into it.
//
// Pools are in busway_pool.hpp and rings in busway_ring.hpp, which this includes.
//
// All of them throw busway::error, but destructors and what is said to answer a status.

#ifndef BUSWAY_HPP
#define BUSWAY_HPP

#include "busway.h"

#include <chrono>
#include <cstddef>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
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

// What a function writes to its last argument.
template <class Of, class Value>
Value value(busway_status (*ask)(Of *, Value *), Of *of)
{
    Value to{};
    check(ask(of, &to));
    return to;
}

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

class batch;

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

    // Sends a batch as events; how many were sent, which is fewer than all if there was no room until the deadline.
    size_t send(const batch &events, deadline until);

    // Receives the next request; false if the link is closed.
    bool receive(request &to, deadline until = never)
    {
        busway_status status = busway_link_recv(get(), until.ns(), to.fresh());
        if (status == BUSWAY_CLOSED)
            return false;
        check(status);
        return true;
    }

    busway_status receive_many(busway_request *to, size_t max, deadline until, size_t &count)
    {
        return busway_link_recv_many(get(), to, max, until.ns(), &count);
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

    int fd() const { return detail::value(busway_link_fd, get()); }
    bool arm() { return detail::value(busway_link_arm, get()); }
    void disarm() { check(busway_link_disarm(get())); }

    // What holds the other process back besides the link.
    busway_grade grade() const
    {
        busway_grade grade = busway_grade_init();
        check(busway_link_grade(get(), &grade));
        return grade;
    }

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
    // Into a pool; its place there.
    uint32_t admit_member() { return detail::value(busway_guest_admit_member, release()); }
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

namespace detail {

// Has a program spawned with these arguments behind its name.
template <class Spawn>
auto spawn(const std::string &program, std::initializer_list<const char *> arguments, Spawn &&with)
{
    std::vector<const char *> argv{program.c_str()};
    argv.insert(argv.end(), arguments.begin(), arguments.end());
    argv.push_back(nullptr);
    busway_command command = busway_command_init();
    command.program = program.c_str();
    command.argv = argv.data();
    return with(command);
}

} // namespace detail

// The side that makes the memory.
class host : public detail::owner<busway_host, busway_host_free> {
public:
    explicit host(const busway_config *config = nullptr) : owner(make(config)) {}

    // Spawns a program with these arguments behind its name.
    link spawn(const std::string &program, std::initializer_list<const char *> arguments = {})
    {
        return detail::spawn(program, arguments, [this](const busway_command &command) { return spawn(command); });
    }
    link spawn(const busway_command &command)
    {
        busway_link *handle = nullptr;
        check(busway_host_spawn(get(), &command, &handle));
        return link(handle);
    }
    // The same, confined.
    link spawn(const busway_command &command, const busway_confinement &confinement)
    {
        busway_link *handle = nullptr;
        check(busway_host_spawn_confined(get(), &command, &confinement, &handle));
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

// Receives from whichever of many links has something.
class set : public detail::owner<busway_set, busway_set_free> {
public:
    set() : owner(make()) {}

    // Its name in the set, from 1, which is never used again.
    uint64_t insert(link &which)
    {
        uint64_t token = 0;
        check(busway_set_insert(get(), which.get(), &token));
        return token;
    }
    void remove(uint64_t token) { check(busway_set_remove(get(), token)); }
    size_t size() const { return detail::value(busway_set_len, get()); }
    int fd() const { return detail::value(busway_set_fd, get()); }

    // What came: a request of the link with this token, if the status is BUSWAY_OK, or how that link has ended.
    struct event {
        uint64_t token;
        busway_status status;
    };

    // Receives the next request of any link.
    event receive(request &to, deadline until = never)
    {
        uint64_t token = 0;
        busway_status status = busway_set_recv(get(), until.ns(), &token, to.fresh());
        if (token == 0)
            check(status);
        return {token, status};
    }

private:
    static busway_set *make()
    {
        busway_set *handle = nullptr;
        check(busway_set_new(&handle));
        return handle;
    }
};

// Requests that will go out together. It refers to payloads and loans, which stay where they are until it was sent.
class batch {
public:
    void add(uint32_t method, std::string_view bytes) { items_.push_back({bytes.data(), bytes.size(), nullptr, method, 0}); }
    void add(uint32_t method, loan &with) { items_.push_back({nullptr, 0, with.get(), method, 0}); }
    void clear() noexcept { items_.clear(); }
    size_t size() const noexcept { return items_.size(); }
    const busway_item *data() const noexcept { return items_.data(); }

private:
    std::vector<busway_item> items_;
};

inline size_t link::send(const batch &events, deadline until)
{
    size_t sent = 0;
    busway_status status = busway_link_send_many(get(), events.data(), events.size(), until.ns(), &sent);
    if (sent == 0)
        check(status);
    return sent;
}

// Calls of a batch, up to so many at a time, and their replies.
class calls {
public:
    explicit calls(size_t max) : calls_(max), replies_(max), statuses_(max) {}
    calls(const calls &) = delete;
    calls &operator=(const calls &) = delete;
    ~calls() { release(); }

    // Sends those of a batch from `first` on, as many as there is room for until the deadline, which is the calls' too. How many were sent.
    size_t submit(link &to, const batch &batch, deadline until, size_t first = 0)
    {
        release();
        size_t count = batch.size() - first < calls_.size() ? batch.size() - first : calls_.size();
        busway_status status =
            busway_link_submit_many(to.get(), batch.data() + first, count, until.ns(), calls_.data(), &size_);
        if (size_ == 0)
            check(status);
        return size_;
    }

    // Waits for the replies of all of them, and says whether all succeeded.
    bool wait()
    {
        return busway_calls_wait(calls_.data(), size_, replies_.data(), statuses_.data()) == BUSWAY_OK;
    }

    // After wait().
    size_t size() const noexcept { return size_; }
    busway_status status(size_t i) const { return statuses_.at(i); }
    std::string_view view(size_t i) const
    {
        return {reinterpret_cast<const char *>(replies_.at(i).data), replies_.at(i).len};
    }

private:
    void release() noexcept
    {
        for (size_t i = 0; i < size_; i++) {
            busway_call_release(&calls_[i]);
            busway_message_release(&replies_[i]);
        }
        size_ = 0;
    }

    std::vector<busway_call> calls_;
    std::vector<busway_message> replies_;
    std::vector<busway_status> statuses_;
    size_t size_ = 0;
};

// Requests that came together, up to so many at a time. Those that are not answered are refused.
class requests {
public:
    explicit requests(size_t max) : requests_(max), answers_(max) {}
    requests(const requests &) = delete;
    requests &operator=(const requests &) = delete;
    ~requests() { release(); }

    // From anything that has requests. Waits for the first until the deadline, then takes what is there; 0 if it is closed.
    template <class From>
    size_t receive(From &from, deadline until = never)
    {
        release();
        busway_status status = from.receive_many(requests_.data(), requests_.size(), until, size_);
        if (status != BUSWAY_CLOSED)
            check(status);
        return size_;
    }

    size_t size() const noexcept { return size_; }
    const busway_request &operator[](size_t i) const { return requests_.at(i); }
    std::string_view view(size_t i) const
    {
        return {reinterpret_cast<const char *>(requests_.at(i).data), requests_.at(i).len};
    }

    // What `i` is to be answered; the payload and the loan stay where they are until answer().
    void reply(size_t i, std::string_view bytes) { answers_.at(i) = {bytes.data(), bytes.size(), nullptr, BUSWAY_OK, 0}; }
    void reply(size_t i, loan &with) { answers_.at(i) = {nullptr, 0, with.get(), BUSWAY_OK, 0}; }
    void reject(size_t i, uint32_t code) { answers_.at(i) = {nullptr, 0, nullptr, BUSWAY_REJECTED, code}; }
    void no_such_method(size_t i) { answers_.at(i) = {nullptr, 0, nullptr, BUSWAY_NO_SUCH_METHOD, 0}; }

    // Answers all of them, with one wake-up.
    void answer(link &to)
    {
        size_t count = std::exchange(size_, 0);
        check(busway_link_reply_many(to.get(), requests_.data(), answers_.data(), count, nullptr));
    }

private:
    void release() noexcept
    {
        for (size_t i = 0; i < size_; i++)
            busway_request_release(&requests_[i]);
        size_ = 0;
        for (auto &answer : answers_)
            answer = {nullptr, 0, nullptr, BUSWAY_REJECTED, BUSWAY_REJECT_UNANSWERED};
    }

    std::vector<busway_request> requests_;
    std::vector<busway_answer> answers_;
    size_t size_ = 0;
};

} // namespace busway

#include "busway_pool.hpp"
#include "busway_ring.hpp"

#endif
