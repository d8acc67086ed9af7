// Work is handed out as tickets, step by step, part by part, to whoever asks. The calling thread asks as
// well: it never waits for one that has not woken, only for parts that another has begun.

#include "threads.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace
{

inline void relax()
{
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
    __builtin_ia32_pause();
#elif defined(__aarch64__) && (defined(__GNUC__) || defined(__clang__))
    __asm__ __volatile__("yield");
#endif
}

// Between two steps a wait is short, so a thread looks for a while before it lets another run. Not for long:
// where threads outnumber cores, what is waited for may not even be running.
template <class Done> bool spin_until(Done done)
{
    constexpr int spins = 1000;
    for (int i = 0; i < spins; i++) {
        if (done()) return true;
        relax();
    }
    return false;
}

struct Pool {
    std::mutex owner; // held by the team that has the pool
    std::mutex mutex; // for going to sleep and waking
    std::condition_variable wake;
    std::vector<std::thread> threads;

    // The call that is being worked on. All of it is written before `tickets`, and holds until `done` is the
    // number of tickets, so whoever has drawn one of them may read it.
    const std::function<void(int, int)> *task = nullptr;
    int parts = 0;
    std::atomic<int> done{0};

    // How many calls there were (24 bits), tickets of this one (20), tickets drawn (20): in one word, so that
    // a thread that comes late can not take a ticket of one call for one of another.
    std::atomic<std::uint64_t> tickets{0};
    static constexpr int bits = 20;
    static constexpr std::uint64_t mask = (std::uint64_t{1} << bits) - 1;

    static std::uint64_t call_of(std::uint64_t word) { return word >> 2 * bits; }

    void begin(int steps, int of_each, const std::function<void(int, int)> &what)
    {
        task = &what;
        parts = of_each;
        done.store(0, std::memory_order_relaxed);
        const std::uint64_t total = static_cast<std::uint64_t>(steps) * static_cast<std::uint64_t>(of_each);
        {
            const std::lock_guard<std::mutex> lock(mutex); // or a thread about to sleep would miss it
            const std::uint64_t call = call_of(tickets.load(std::memory_order_relaxed)) + 1;
            tickets.store(call << 2 * bits | total << bits, std::memory_order_release);
        }
        wake.notify_all();
    }

    // Draws tickets until there are none.
    void work()
    {
        for (;;) {
            const std::uint64_t word = tickets.fetch_add(1, std::memory_order_acq_rel);
            const int total = static_cast<int>(word >> bits & mask), ticket = static_cast<int>(word & mask);
            if (ticket >= total) return; // one too many for each thread and call, for which there is room
            const int step = ticket / parts;
            const auto ready = [&] { return done.load(std::memory_order_acquire) >= step * parts; };
            if (!spin_until(ready))
                while (!ready()) std::this_thread::yield();
            (*task)(step, ticket % parts);
            done.fetch_add(1, std::memory_order_acq_rel);
        }
    }

    void serve()
    {
        std::uint64_t seen = 0;
        for (;;) {
            const auto called = [&] { return call_of(tickets.load(std::memory_order_acquire)) != seen; };
            if (!spin_until(called)) {
                std::unique_lock<std::mutex> lock(mutex);
                wake.wait(lock, called);
            }
            seen = call_of(tickets.load(std::memory_order_acquire));
            work();
        }
    }

    void grow(int size)
    {
        while (static_cast<int>(threads.size()) < size) threads.emplace_back([this] { serve(); });
    }
};

Pool *make_pool();

// Never destroyed: its threads wait on it until the process ends. Made when the module is loaded, where no
// other thread can fork meanwhile.
Pool *pool = make_pool();

Pool *make_pool()
{
#if defined(__unix__) || defined(__APPLE__)
    // In the child of a fork none of the threads exist, and a mutex may be held by one of them.
    pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });
#endif
    return new Pool;
}

} // namespace

Team::Team(int wanted) : size_(1)
{
    if (wanted < 2) return;
    if (!pool->owner.try_lock()) return;
    try {
        pool->grow(wanted - 1);
    } catch (...) { // no more threads to be had: as many as there are
    }
    size_ = std::min(wanted, static_cast<int>(pool->threads.size()) + 1);
    if (size_ < 2) pool->owner.unlock();
}

Team::~Team()
{
    if (size_ > 1) pool->owner.unlock();
}

void Team::run(int steps, const std::function<void(int, int)> &task)
{
    // As many steps at a time as tickets can be counted, with room for every thread to draw one too many.
    const int at_once = (1 << 19) / size_;
    for (int first = 0; first < steps; first += at_once) {
        const int here = std::min(at_once, steps - first);
        if (size_ < 2) {
            for (int step = 0; step < here; step++) task(first + step, 0);
            continue;
        }
        const std::function<void(int, int)> from_first = [&](int step, int part) {
            task(first + step, part);
        };
        pool->begin(here, size_, from_first);
        pool->work();
        const auto finished = [&] { return pool->done.load(std::memory_order_acquire) == here * size_; };
        if (!spin_until(finished))
            while (!finished()) std::this_thread::yield();
    }
}
