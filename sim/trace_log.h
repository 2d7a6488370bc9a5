// Turns the accelerator's `activity` port into counters and a bounded list of events.
#pragma once

#include <cstdint>
#include <vector>

/// A stretch of cycles in one state, or the moment an instruction was issued or done; mirrored by `sim.device.EVENT`.
struct TraceEvent {
    uint64_t cycle;
    uint32_t length;  // cycles; 0 for issue and done
    uint8_t kind;     // TraceLog::STATE, ISSUE or DONE
    uint8_t engine;
    uint8_t state;
    uint8_t unused;
};

class TraceLog {
  public:
    static constexpr int ENGINES = 6, STATES = 16;
    enum Kind : uint8_t { STATE = 0, ISSUE = 1, DONE = 2 };

    /// Forgets everything; `origin` becomes cycle 0 and at most `limit` events are kept.
    void start(uint64_t origin, size_t limit) {
        *this = TraceLog();
        origin_ = origin;
        limit_ = limit;
        events.reserve(limit < 4096 ? limit : 4096);
    }

    /// Takes the port's value in cycle `now`.
    void sample(uint64_t activity, uint64_t now) {
        const uint64_t cycle = now - origin_;
        const uint64_t changed = activity ^ last_;
        if (changed & STATE_BITS)
            for (int engine = 0; engine < ENGINES; engine++)
                if (state_of(changed, engine)) close(engine, cycle);
        if (activity & ~STATE_BITS)
            for (int engine = 0; engine < ENGINES; engine++) {
                if (activity >> ISSUE_BIT[engine] & 1) add({cycle, 0, ISSUE, uint8_t(engine), 0, 0});
                if (activity >> DONE_BIT[engine] & 1) add({cycle, 0, DONE, uint8_t(engine), 0, 0});
            }
        last_ = activity;
        end_ = cycle + 1;
    }

    /// Closes the stretches that are still open.
    void finish() {
        for (int engine = 0; engine < ENGINES; engine++) close(engine, end_);
    }

    uint64_t states[ENGINES][STATES] = {};  // cycles of each engine in each state
    std::vector<TraceEvent> events;
    uint64_t dropped = 0;  // events beyond the limit

  private:
    static constexpr uint64_t STATE_BITS = 0xF0F00FFFF;
    static constexpr int STATE_PLACE[ENGINES] = {0, 4, 8, 12, 24, 32};
    static constexpr int ISSUE_BIT[ENGINES] = {16, 17, 18, 19, 28, 36}, DONE_BIT[ENGINES] = {20, 21, 22, 23, 29, 37};
    static uint8_t state_of(uint64_t activity, int engine) { return activity >> STATE_PLACE[engine] & 15; }

    void close(int engine, uint64_t cycle) {
        const uint8_t state = state_of(last_, engine);
        const uint64_t length = cycle - since_[engine];
        states[engine][state] += length;
        if (length && state) add({since_[engine], uint32_t(length), STATE, uint8_t(engine), state, 0});
        since_[engine] = cycle;
    }

    void add(const TraceEvent& event) {
        if (events.size() < limit_)
            events.push_back(event);
        else
            dropped++;
    }

    uint64_t origin_ = 0, end_ = 0, since_[ENGINES] = {};
    uint64_t last_ = 0;
    size_t limit_ = 0;
};
