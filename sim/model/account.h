// hwgen/control/counters.py and the `activity` port of hwgen/top.py: what a run is told about afterwards.
#pragma once

#include "../trace_log.h"
#include "base.h"

/// The counter registers; the same fields in the same order as `sim.cycles.COUNTERS`.
struct Counters {
    uint64_t cycles, read_beats, write_beats, busy[ENGINES], tensor[8];
};

/// What happens in a cycle, beside instructions that begin and end.
struct Seen {
    unsigned busy = 0;     // bit e: engine e executes
    unsigned moves = 0;    // bit e: engine e moves a word or beat (TENSOR: 0)
    unsigned waiting = 0;  // 4 bits for each engine: engines whose token its next instruction lacks
    uint32_t state = 0;    // TensorState of the tensor engine
    bool read = false;     // a beat comes from memory

    bool operator==(const Seen& other) const {
        return busy == other.busy && moves == other.moves && waiting == other.waiting && state == other.state &&
               read == other.read;
    }
};

class Account {
  public:
    Account(Cycle first, uint64_t event_limit) : since_(first) { log.start(0, event_limit); }

    const Seen& last() const { return last_; }

    /// What happens in cycle `now`; cycles that are not told are as the one before. `taken`, `done`: bits of engines.
    void see(Cycle now, const Seen& seen, unsigned taken, unsigned done) {
        if (!(seen == last_)) {
            count(now);
            last_ = seen;
            activity_ = activity();
        } else if (!(taken | done)) {
            return;
        }
        log.sample(activity_ | taken << 16 | done << 20, uint64_t(now));
    }

    /// The run ended in the cycle before `end`.
    void finish(Cycle end) {
        count(end);
        log.sample(activity_, uint64_t(end - 1));
        log.finish();
    }

    Counters counters{};
    TraceLog log;

  private:
    enum { IDLE, BUSY, WAITING, STALLED };
    static constexpr unsigned MEMORY_ENGINES = 1 << LOAD | 1 << STORE;

    void count(Cycle now) {
        using namespace isa::TensorState;
        const uint64_t cycles = uint64_t(now - since_);
        const unsigned waiting = last_.waiting >> 4 * TENSOR & 15;
        uint32_t state = last_.state;
        if (state == isa::TensorState::IDLE && waiting) state = waiting & MEMORY_ENGINES ? MEMORY : TOKENS;
        counters.cycles += cycles;
        if (last_.read) counters.read_beats += cycles;
        if (last_.moves >> STORE & 1) counters.write_beats += cycles;
        for (int engine = 0; engine < ENGINES; engine++)
            if (last_.busy >> engine & 1) counters.busy[engine] += cycles;
        counters.tensor[state] += cycles;
        since_ = now;
    }

    uint32_t activity() const {
        using namespace isa::TensorState;
        uint32_t activity = 0;
        for (int engine = 0; engine < ENGINES; engine++) {
            const bool busy = last_.busy >> engine & 1, moves = last_.moves >> engine & 1;
            const unsigned waiting = last_.waiting >> 4 * engine & 15;
            uint32_t shown = busy ? (moves ? BUSY : STALLED) : waiting ? WAITING : IDLE;
            if (engine == TENSOR) shown = busy || !waiting ? last_.state : waiting & MEMORY_ENGINES ? MEMORY : TOKENS;
            activity |= shown << 4 * engine;
        }
        return activity;
    }

    Seen last_;
    Cycle since_;
    uint32_t activity_ = 0;
};
