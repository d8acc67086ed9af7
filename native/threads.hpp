// One pool of threads for the process. A Team borrows it for one call; where another call has it, the team is
// the calling thread alone. Works after fork: a child begins with a pool of its own.

#ifndef BNN_THREADS_HPP
#define BNN_THREADS_HPP

#include <functional>

class Team
{
public:
    explicit Team(int wanted); // at most that many threads, the calling one included
    ~Team();
    Team(const Team &) = delete;
    Team &operator=(const Team &) = delete;

    int size() const { return size_; }

    // Calls task(step, part) for every step and each of size() parts, in whichever thread is free: all parts
    // of a step before any of the next. Returns when all are done. The task must not throw.
    void run(int steps, const std::function<void(int, int)> &task);

private:
    int size_;
};

#endif
