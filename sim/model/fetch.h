// hwgen/control/fetch.py and arbiter.py: reading the program, and whose read request is next.
#pragma once

#include "base.h"

class Fetch {
  public:
    explicit Fetch(const Sizes& sizes) : beat_bytes_(sizes.beat_bytes), burst_(sizes.fetch_burst) {}

    void start(uint64_t address, uint32_t count) {
        pc_ = part_ = in_flight_ = level_ = 0;
        address_ = address / beat_bytes_;
        count_ = count;
        left_ = (uint64_t(count) * INSTRUCTION + beat_bytes_ - 1) / beat_bytes_;
    }

    /// Beats of the burst that is asked for, 0 if none is.
    uint32_t request() const {
        if (!left_ || in_flight_ + level_ > burst_) return 0;
        return uint32_t(std::min<uint64_t>(left_, burst_ - address_ % burst_));
    }
    bool busy() const { return request() || in_flight_; }
    bool finished() const { return pc_ == count_; }
    uint32_t pc() const { return pc_; }

    /// Whether the instruction at `pc` is at the output.
    bool offers() const { return level_ && !finished() && (beat_bytes_ >= INSTRUCTION || part_ == parts() - 1); }

    /// Whether it changes in the next cycle although no beat arrives and its request is not taken.
    bool moves(bool takes) const {
        const bool joins = beat_bytes_ < INSTRUCTION && level_ && !finished() && part_ != parts() - 1;
        return joins || (takes && offers());
    }

    /// `requested`: its request is taken. `arrived`: a beat for it is on the bus. `taken`: the instruction goes.
    void step(bool requested, bool arrived, bool taken) {
        const uint32_t beats = requested ? request() : 0;
        const bool used = uses_beat(taken);
        left_ -= beats;
        address_ += beats;
        in_flight_ += beats - uint32_t(arrived);
        level_ += uint32_t(arrived) - uint32_t(used);
        pc_ += taken;
    }

  private:
    static constexpr uint32_t INSTRUCTION = sizeof(Instruction);
    uint32_t parts() const { return INSTRUCTION / beat_bytes_; }

    /// Whether the first beat of the queue goes.
    bool uses_beat(bool taken) {
        if (beat_bytes_ >= INSTRUCTION) {
            const uint32_t slots = beat_bytes_ / INSTRUCTION;
            return taken && pc_ % slots == slots - 1;
        }
        const bool used = level_ && !finished() && (taken || part_ != parts() - 1);
        if (used) part_ = (part_ + 1) % parts();
        return used;
    }

    const uint32_t beat_bytes_, burst_;
    uint64_t address_ = 0, left_ = 0;  // in beats
    uint32_t count_ = 0, pc_ = 0, part_ = 0, in_flight_ = 0, level_ = 0;
};

/// ReadArbiter: a register for the request, filled by fetch (0) and load (1) in turn.
class Arbiter {
  public:
    bool valid() const { return beats_ != 0; }
    uint32_t beats() const { return beats_; }
    uint32_t id() const { return id_; }

    /// Whether it changes in the next cycle; `leaves`: the memory takes a request.
    bool moves(uint32_t fetch, uint32_t load, bool leaves) const { return valid() ? leaves : fetch || load; }

    /// Takes a request if there is room; returns who it was from, or -1. `left`: the memory takes the one it holds.
    int step(uint32_t fetch, uint32_t load, bool left) {
        if (beats_ && !left) return -1;
        beats_ = 0;
        if (!fetch && !load) return -1;
        id_ = fetch && load ? load_next_ : load != 0;
        beats_ = id_ ? load : fetch;
        load_next_ = !id_;
        return int(id_);
    }

  private:
    uint32_t beats_ = 0, id_ = 0;
    bool load_next_ = false;
};
