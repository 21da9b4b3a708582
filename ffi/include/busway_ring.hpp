// Busway for C++17: rings of plain values. A part of busway.hpp.
//
// SPDX-License-Identifier: MIT OR Apache-2.0

#ifndef BUSWAY_RING_HPP
#define BUSWAY_RING_HPP

#include "busway.hpp"

namespace busway {

namespace detail {

// What elements of a ring have to be.
template <class T>
struct element {
    static_assert(std::is_trivially_copyable_v<T>, "plain data only");
    static_assert(alignof(T) <= 64, "aligned to too much");
};

// Whether something was done; what there is no room for, or nothing of, was not.
inline bool done(busway_status status)
{
    if (status == BUSWAY_FULL || status == BUSWAY_WOULD_BLOCK)
        return false;
    check(status);
    return true;
}

} // namespace detail

// The end of a ring into which values are pushed, taken by spsc::take. One thread uses it at a time.
template <class T>
class producer : public detail::object<busway_producer, busway_producer_release>, detail::element<T> {
public:
    size_t capacity() const noexcept { return c_.capacity; }

    // False if there is no room.
    bool push(const T &value) { return detail::done(busway_producer_push(&c_, &value)); }

    // The first of so many, as many as there is room for, in one go. How many.
    size_t push(const T *values, size_t count)
    {
        size_t pushed = 0;
        detail::done(busway_producer_push_many(&c_, values, count, &pushed));
        return pushed;
    }

    // Whether the consumer was taken, and is gone.
    bool is_abandoned() const { return detail::value(busway_producer_is_abandoned, &c_); }
};

// The end of a ring from which values are popped.
template <class T>
class consumer : public detail::object<busway_consumer, busway_consumer_release>, detail::element<T> {
public:
    size_t capacity() const noexcept { return c_.capacity; }

    // False if there is nothing.
    bool pop(T &value) { return detail::done(busway_consumer_pop(&c_, &value)); }

    // As many as there are, up to `max`. How many.
    size_t pop(T *values, size_t max)
    {
        size_t popped = 0;
        detail::done(busway_consumer_pop_many(&c_, values, max, &popped));
        return popped;
    }

    bool is_empty() const { return detail::value(busway_consumer_is_empty, &c_); }

    // Whether the producer was taken, and is gone; what it had pushed is still there.
    bool is_abandoned() const { return detail::value(busway_consumer_is_abandoned, &c_); }
};

// A ring of one producer and one consumer: a memory file.
template <class T>
class spsc : public detail::owner<busway_spsc, busway_spsc_free>, detail::element<T> {
public:
    explicit spsc(size_t capacity)
    {
        busway_spsc *handle = nullptr;
        check(busway_spsc_create(sizeof(T), alignof(T), capacity, &handle));
        reset(handle);
    }

    // One that another process made; the descriptor stays the caller's.
    static spsc open(int fd)
    {
        busway_spsc *handle = nullptr;
        check(busway_spsc_open(fd, sizeof(T), alignof(T), &handle));
        return spsc(handle);
    }

    void take(producer<T> &to) { check(busway_spsc_producer(get(), to.fresh())); }
    void take(consumer<T> &to) { check(busway_spsc_consumer(get(), to.fresh())); }
    int fd() const { return detail::value(busway_spsc_fd, get()); }
    size_t capacity() const { return detail::value(busway_spsc_capacity, get()); }

private:
    explicit spsc(busway_spsc *handle) : owner(handle) {}
};

// This process's membership of a ring. Many threads may use it at once.
template <class T>
class mpmc_member : public detail::owner<busway_mpmc_member, busway_mpmc_leave>, detail::element<T> {
public:
    explicit mpmc_member(busway_mpmc_member *handle = nullptr) noexcept : owner(handle) {}

    // False if there is no room.
    bool push(const T &value) { return detail::done(busway_mpmc_push(get(), &value)); }
    // False if there is nothing.
    bool pop(T &value) { return detail::done(busway_mpmc_pop(get(), &value)); }

    size_t size() const { return detail::value(busway_mpmc_len, get()); }
    bool is_empty() const { return detail::value(busway_mpmc_is_empty, get()); }
    uint32_t number() const { return detail::value(busway_mpmc_number, get()); }

    // Gives back what dead members had in hand.
    busway_recovered recover_dead() { return detail::value(busway_mpmc_recover_dead, get()); }
};

// A ring of any number of producers and consumers: a memory file.
template <class T>
class mpmc : public detail::owner<busway_mpmc, busway_mpmc_free>, detail::element<T> {
public:
    mpmc(size_t capacity, size_t members)
    {
        busway_mpmc *handle = nullptr;
        check(busway_mpmc_create(sizeof(T), alignof(T), capacity, members, &handle));
        reset(handle);
    }

    static mpmc open(int fd)
    {
        busway_mpmc *handle = nullptr;
        check(busway_mpmc_open(fd, sizeof(T), alignof(T), &handle));
        return mpmc(handle);
    }

    mpmc_member<T> join() { return mpmc_member<T>(detail::value(busway_mpmc_join, get())); }
    int fd() const { return detail::value(busway_mpmc_fd, get()); }
    size_t capacity() const { return detail::value(busway_mpmc_capacity, get()); }

private:
    explicit mpmc(busway_mpmc *handle) : owner(handle) {}
};

} // namespace busway

#endif
