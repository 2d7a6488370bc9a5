// hwgen/control/counters.py and the `activity` port of hwgen/top.py: what a run is told about afterwards.
//
// Every engine is followed on its own, so that one may be told about later than the others; `sim/cycles.py` puts the
// events in order.
#pragma once

#include "../trace_log.h"
#include "base.h"

/// The counter registers; the same fields in the same order as `sim.cycles.COUNTERS`.
struct Counters {
    uint64_t cycles, read_beats, write_beats, busy[ENGINES], tensor[8];
};

/// States of the engines other than the tensor engine on `activity`.
namespace Shown {
enum : uint8_t { IDLE, BUSY, WAITING, STALLED };
}

class Account {
  public:
    /// Keeps `limit` events, those of states only if `stretches`.
    Account(Cycle origin, Cycle first, uint64_t limit, bool stretches)
        : origin_(origin), limit_(limit), stretches_(stretches) {
        for (Track& track : shown_) track.since = origin;
        for (Track* track : {&tensor_, &tensor_busy_, &read_}) track->since = first;
    }

    /// An engine is in `state` on the `activity` port from cycle `now` on.
    void show(int engine, Cycle now, uint8_t state) {
        Track& track = shown_[engine];
        if (track.value == state) return;
        if (stretches_ && track.value && now > track.since)
            add({uint64_t(track.since - origin_), uint32_t(now - track.since), TraceLog::STATE, uint8_t(engine),
                 uint8_t(track.value), 0});
        track.set(now, state, states[engine]);
    }

    /// The tensor engine is in `state` from cycle `now` on; `waiting`: engines that its next instruction waits for.
    void show_tensor(Cycle now, bool busy, unsigned waiting, uint32_t state) {
        using namespace isa::TensorState;
        const uint32_t reason = waiting & (1 << LOAD | 1 << STORE | 1 << FILL_ENGINE | 1 << ATTEND) ? MEMORY : TOKENS;
        show(TENSOR, now, uint8_t(busy || !waiting ? state : reason));
        tensor_.set(now, state == isa::TensorState::IDLE && waiting ? reason : state, counters.tensor);
        tensor_busy_.set(now, busy, flags_);
    }

    /// How many beats come from memory in each cycle from `now` on.
    void show_read(Cycle now, uint32_t beats) { read_.set(now, beats, reads_); }

    /// Bits of engines that take an instruction, that end one, in cycle `now`.
    void pulse(Cycle now, unsigned taken, unsigned done) {
        for (int engine = 0; engine < ENGINES; engine++) {
            const uint64_t cycle = uint64_t(now - origin_);
            if (taken >> engine & 1) add({cycle, 0, TraceLog::ISSUE, uint8_t(engine), 0, 0});
            if (done >> engine & 1) add({cycle, 0, TraceLog::DONE, uint8_t(engine), 0, 0});
        }
    }

    /// The run, which began in cycle `first`, ended in the cycle before `end`; ATTEND has written `attend_writes` beats.
    void finish(Cycle first, Cycle end, uint64_t attend_writes) {
        for (int engine = 0; engine < ENGINES; engine++) {
            show(engine, end, shown_[engine].value ? Shown::IDLE : Shown::BUSY);  // ends the last stretch
            shown_[engine].since = end;
        }
        tensor_.set(end, ~0u, counters.tensor);
        tensor_busy_.set(end, ~0u, flags_);
        read_.set(end, ~0u, reads_);
        counters.cycles = uint64_t(end - first);
        counters.read_beats = reads_[1] + 2 * reads_[2] + 3 * reads_[3];
        counters.write_beats = states[STORE][Shown::BUSY] + attend_writes;
        for (int engine = 0; engine < ENGINES; engine++)
            counters.busy[engine] = states[engine][Shown::BUSY] + states[engine][Shown::STALLED];
        counters.busy[TENSOR] = flags_[1];
    }

    Counters counters{};
    uint64_t states[ENGINES][TraceLog::STATES] = {};  // cycles of each engine in each state
    std::vector<TraceEvent> events;
    uint64_t dropped = 0;  // events beyond the limit

  private:
    /// A value, and since when it holds.
    struct Track {
        uint32_t value = 0;
        Cycle since = 0;

        /// Another value from cycle `now` on; the cycles of the old one are added to its count.
        void set(Cycle now, uint32_t next, uint64_t* counts) {
            if (next == value) return;
            counts[value] += uint64_t(now - since);
            value = next;
            since = now;
        }
    };

    void add(const TraceEvent& event) {
        if (events.size() < limit_)
            events.push_back(event);
        else
            dropped++;
    }

    Cycle origin_;
    size_t limit_;
    bool stretches_;
    Track shown_[ENGINES], tensor_, tensor_busy_, read_;
    uint64_t flags_[2] = {}, reads_[4] = {};
};
