// Work on threads of its own: what torch's threads do meanwhile does not matter, and none outlives the call, so that
// a process may fork at any time.
#pragma once

#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

// work(first, last) over pieces of [0, count) of `piece` each, on up to `threads` threads; a piece's place does not
// depend on their number. Each thread works on a copy of `work`, with memory of its own.
template <class Work>
void in_pieces(int64_t count, int64_t piece, int64_t threads, Work work) {
    std::atomic<int64_t> next{0};
    auto run = [&next, count, piece, work]() mutable {
        for (int64_t first; (first = next.fetch_add(piece)) < count;)
            work(first, first + piece < count ? first + piece : count);
    };
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
