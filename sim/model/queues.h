// hwgen/control/dispatch.py and queue.py: from fetched instructions to commands that may start.
#pragma once

#include "base.h"

/// TokenBank: `available(b)` has a bit for each engine of which engine b has a token.
class Tokens {
  public:
    unsigned available(int sink) const { return available_[sink]; }

    void give(int source, unsigned sinks) {
        for (int sink = 0; sink < ENGINES; sink++)
            if (sinks >> sink & 1) change(source, sink, 1);
    }
    void take(int sink, unsigned sources) {
        for (int source = 0; source < ENGINES; source++)
            if (sources >> source & 1) change(source, sink, -1);
    }

  private:
    void change(int source, int sink, int by) {
        count_[source][sink] += by;
        available_[sink] = (available_[sink] & ~(1u << source)) | unsigned(count_[source][sink] != 0) << source;
    }

    int count_[ENGINES][ENGINES] = {};
    unsigned available_[ENGINES] = {};
};

/// Dispatch, the EngineQueue of every engine, and the tokens.
class Queues {
  public:
    Queues(const Sizes& sizes, const uint8_t* program)
        : depth_(sizes.queue_depth), in_flight_(sizes.in_flight), program_(program) {}

    Instruction instruction(uint32_t pc) const {
        Instruction item;
        std::memcpy(&item, program_ + size_t(pc) * sizeof item, sizeof item);
        return item;
    }

    /// Whether dispatch takes the instruction that fetch offers.
    bool accepts() const { return target_ < 0 || entries_[target_].size() < depth_; }
    bool empty() const {
        bool all = target_ < 0;
        for (int engine = 0; engine < ENGINES; engine++) all &= entries_[engine].empty() && issued_[engine].empty();
        return all;
    }
    /// Engines whose token the next instruction lacks, for each engine; see `mask_of`.
    uint64_t waiting() const { return waiting_; }
    /// Bits of engines that are offered an instruction, and that instruction or null.
    unsigned offered() const { return offered_; }
    const Instruction* offer(int engine) const { return offered_ >> engine & 1 ? &heads_[engine] : nullptr; }
    /// Oldest instruction of an engine that is not done, or -1.
    int64_t oldest(int engine) const {
        if (!issued_[engine].empty()) return issued_[engine].front().pc;
        return entries_[engine].empty() ? -1 : int64_t(entries_[engine].front());
    }
    /// Next instruction of an engine that is not issued, or -1.
    int64_t next(int engine) const { return entries_[engine].empty() ? -1 : int64_t(entries_[engine].front()); }

    /// Whether something changes in the next cycle; `accepts`: bits of engines that would take an instruction.
    bool moves(unsigned accepts) const {
        return (target_ >= 0 && entries_[target_].size() < depth_) || accepts & offered_;
    }

    /// One cycle: bits of engines that take what they are offered and that end one; the fetched instruction or -1.
    /// True if anything changed.
    bool step(unsigned taken, unsigned done, int64_t fetched) {
        const bool leaves = target_ >= 0 && entries_[target_].size() < depth_;
        if (taken | done)
            for (int engine = 0; engine < ENGINES; engine++) {
                if (done >> engine & 1) finish(engine);
                if (taken >> engine & 1) issue(engine);
            }
        if (leaves) {
            entries_[target_].push(held_);
            if (entries_[target_].size() == 1) heads_[target_] = instruction(held_);
            target_ = -1;
        }
        if (fetched >= 0) hold(uint32_t(fetched));
        if (!(taken || done || leaves)) return fetched >= 0;
        look();
        return true;
    }

  private:
    void hold(uint32_t pc) {
        held_ = pc;
        target_ = isa::ENGINE_OF[instruction(pc).opcode()];
    }

    void issue(int engine) {
        tokens_.take(engine, heads_[engine].wait());
        issued_[engine].push({entries_[engine].front(), heads_[engine].signal()});
        entries_[engine].pop();
        if (!entries_[engine].empty()) heads_[engine] = instruction(entries_[engine].front());
    }

    void finish(int engine) {
        tokens_.give(engine, issued_[engine].front().signal);
        issued_[engine].pop();
    }

    /// Finds out what waits and what is offered in the next cycle.
    void look() {
        waiting_ = offered_ = 0;
        for (int engine = 0; engine < ENGINES; engine++) {
            if (entries_[engine].empty()) continue;
            const unsigned lacks = heads_[engine].wait() & ~tokens_.available(engine);
            waiting_ |= uint64_t(lacks) << ENGINES * engine;
            offered_ |= unsigned(!lacks && issued_[engine].size() < in_flight_) << engine;
        }
    }

    struct Issued {
        uint32_t pc;
        unsigned signal;
    };
    size_t depth_, in_flight_;
    const uint8_t* program_;
    Tokens tokens_;
    Fifo<uint32_t> entries_[ENGINES];
    Instruction heads_[ENGINES];  // first of each queue
    Fifo<Issued> issued_[ENGINES];
    uint64_t waiting_ = 0;
    unsigned offered_ = 0;
    uint32_t held_ = 0;
    int target_ = -1;  // engine of the held instruction
};
