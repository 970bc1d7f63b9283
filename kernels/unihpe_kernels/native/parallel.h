// Work on several threads: on some of its own, of which none outlives the call, so that the process may fork; or on those
// of torch.
#pragma once

#include <dlfcn.h>

#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

// A thread's share: work(first, last) over pieces that no other thread has taken. It has a copy of `work`, with memory of
// its own.
template <class Work>
auto taker(std::atomic<int64_t>& next, int64_t count, int64_t piece, Work work) {
    return [&next, count, piece, work]() mutable {
        for (int64_t first; (first = next.fetch_add(piece)) < count;)
            work(first, first + piece < count ? first + piece : count);
    };
}

// work(first, last) over pieces of [0, count) of `piece` each, on up to `threads` threads; a piece's place does not
// depend on their number. Each thread works on a copy of `work`, with memory of its own.
template <class Work>
void in_pieces(int64_t count, int64_t piece, int64_t threads, Work work) {
    std::atomic<int64_t> next{0};
    auto run = taker(next, count, piece, work);
    const int64_t pieces = (count + piece - 1) / piece;
    std::vector<std::thread> others;
    try {
        for (int64_t other = 1; other < threads && other < pieces; ++other) others.emplace_back(run);
    } catch (const std::system_error&) {
        // no more threads to be had: those that run do the work
    }
    run();
    for (auto& other : others) other.join();
}

// The same on the threads of the OpenMP that torch has loaded, for work between torch's own: those wait for more by
// spinning, and would take half of the time of other threads. Not for a process that may have been forked from one where
// torch has used its threads; there torch cannot use them either.
template <class Work>
void in_pieces_between_torch(int64_t count, int64_t piece, int64_t threads, Work work) {
    using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
    static const auto parallel = (Parallel)dlsym(RTLD_DEFAULT, "GOMP_parallel");
    const int64_t pieces = (count + piece - 1) / piece, team = threads < pieces ? threads : pieces;
    if (!parallel || team < 2) return in_pieces(count, piece, team, work);
    std::atomic<int64_t> next{0};
    auto make = [&] { taker(next, count, piece, work)(); };
    parallel([](void* made) { (*(decltype(make)*)made)(); }, &make, (unsigned)team, 0);
}
