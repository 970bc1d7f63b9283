// Work on the threads of the OpenMP that torch has loaded: between torch's own work those wait for more by spinning, and
// would take half of the time of other threads. A process forked after this was loaded has none of them, and gets threads
// for each call.
#pragma once

#include <dlfcn.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

// At loading, not at a first call: that may come in a forked process.
inline const pid_t home = getpid();

// A thread's share: work(first, last) over pieces that no other thread has taken. It has a copy of `work`, with memory of
// its own.
template <class Work>
auto taker(std::atomic<int64_t>& next, int64_t count, int64_t piece, Work work) {
    return [&next, count, piece, work]() mutable {
        for (int64_t first; (first = next.fetch_add(piece)) < count;)
            work(first, first + piece < count ? first + piece : count);
    };
}

template <class Make>
void on_new_threads(int64_t team, Make make) {
    std::vector<std::thread> others;
    try {
        for (int64_t other = 1; other < team; ++other) others.emplace_back(make);
    } catch (const std::system_error&) {
        // no more threads to be had: those that run do the work
    }
    make();
    for (auto& other : others) other.join();
}

// work(first, last) over pieces of [0, count) of `piece` each, on up to `threads` threads; a piece's place does not
// depend on their number. Each thread works on a copy of `work`, with memory of its own.
template <class Work>
void in_pieces(int64_t count, int64_t piece, int64_t threads, Work work) {
    using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
    static const auto parallel = (Parallel)dlsym(RTLD_DEFAULT, "GOMP_parallel");
    const int64_t pieces = (count + piece - 1) / piece, team = threads < pieces ? threads : pieces;
    std::atomic<int64_t> next{0};
    auto make = [&] { taker(next, count, piece, work)(); };
    if (team < 2)
        make();
    else if (!parallel || getpid() != home)
        on_new_threads(team, make);
    else
        parallel([](void* made) { (*(decltype(make)*)made)(); }, &make, (unsigned)team, 0);
}
