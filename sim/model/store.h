// hwgen/memory/store.py and narrow.py: the store engine.
#pragma once

#include "../memory_timing.h"
#include "acc.h"
#include "bursts.h"
#include "walk.h"

/// StoreReader: accumulator words become beats. A beat is in the buffer, or on its way, from its read on.
class StoreReader {
  public:
    StoreReader(const Sizes& sizes, AccPorts& acc) : acc_(acc), latency_(sizes.store_latency), room_(sizes.store_buffer) {}

    bool active() const { return walker_.active(); }
    bool offers(Cycle now) const { return beats_.at(now); }

    void start(const Instruction& item) {
        using namespace isa;
        walker_.start(item.get(Store::rows), item.get(Store::words), uint32_t(item.get(Store::addr)),
                      uint32_t(item.get(Store::stride)));
        wide_ = item.get(Store::format) == Format::FP32;
    }

    /// `announced`: beats of a burst that got its address. `taken`: the beat that is offered goes.
    void step(Cycle now, uint32_t announced, bool taken) {
        const bool read = wants() && acc_.read(walker_.word());
        const Cycle beats = read ? (wide_ ? 2 : 1) : 0;
        splitting_ = read && wide_;
        ahead_ += Cycle(announced) - beats;
        used_ += beats - Cycle(taken);
        if (taken) beats_.take();
        if (!read) return;
        beats_.add(now + latency_, beats);
        walker_.next();
    }

    /// Cycles from `now` on in each of which the same happens, if a beat goes in each of them or in none (`writing`).
    Cycle quiet(Cycle now, bool writing) const {
        if (splitting_ || wants() != writing || (writing && !steady(now))) return 0;
        if (writing) return std::min(walker_.left() - 1, ahead_);
        return offers(now) ? NEVER : beats_.next() - now;
    }

    void skip(Cycle cycles, bool writing) {
        if (!writing) return;
        beats_.shift(cycles);
        ahead_ -= cycles;
        walker_.skip(cycles);
    }

    /// Banks that it may read.
    uint32_t reads_banks() const { return wants() ? walker_.banks(acc_) : 0; }

  private:
    /// Whether the last cycle gave the last of the beats that are on their way, one after the other.
    bool steady(Cycle now) const {
        return !wide_ && beats_.length() == used_ && beats_.next() + used_ == now + latency_;
    }
    bool wants() const { return walker_.active() && ahead_ > 0 && used_ + 2 <= room_ && !splitting_; }

    AccPorts& acc_;
    const Cycle latency_, room_;
    Walker walker_;
    Pulses beats_;
    Cycle ahead_ = 0, used_ = 0;
    bool wide_ = false, splitting_ = false;
};

class StoreEngine {
  public:
    StoreEngine(const Sizes& sizes, AccPorts& acc) : sizes_(sizes), bursts_(sizes), reader_(sizes, acc) {}

    bool busy() const { return has_job_ || bursts_.active() || !owners_.empty(); }

    bool accepts() const { return !has_job_; }
    /// Whether a beat goes in the next cycle.
    bool writes(Cycle now, const MemoryTiming& memory) const {
        return reader_.offers(now) && !lengths_.empty() && memory.takes_data();
    }
    uint32_t reads_banks() const { return reader_.reads_banks(); }

    /// Cycles from `now` on in each of which the same happens.
    Cycle quiet(Cycle now, bool writing, const MemoryTiming& memory) const {
        const bool sets_up = has_job_ && room() && !bursts_.active();
        const bool address = address_ ? memory.takes_writes() : bursts_.active() && owners_.size() < sizes_.outstanding;
        if (sets_up || address || (!reader_.active() && !jobs_.empty())) return 0;
        return reader_.quiet(now, writing);
    }

    void skip(Cycle cycles, bool writing) {
        reader_.skip(cycles, writing);
        if (writing) lengths_.front() -= uint32_t(cycles);
    }

    Outcome step(Cycle now, const Instruction* command, MemoryTiming& memory) {
        Outcome outcome;
        const bool address = address_ && memory.aw_ready, has_room = room();
        const bool burst = bursts_.active() && (!address_ || address) && owners_.size() < sizes_.outstanding;
        outcome.moves = reader_.offers(now) && !lengths_.empty() && memory.w_ready;
        outcome.done = memory.b_valid && owners_.front();
        reader_.step(now, address ? address_ : 0, outcome.moves);
        if (!reader_.active() && !jobs_.empty()) next_words();
        if (memory.b_valid) answer(memory);
        if (outcome.moves) write(now, memory);
        if (address) announce(memory);
        if (burst) next_burst();
        outcome.taken = set_up(command, has_room);
        return outcome;
    }

  private:
    bool room() const { return jobs_.size() < std::max(2u, sizes_.queue_depth); }

    void next_words() {
        reader_.start(jobs_.front());
        jobs_.pop();
    }

    void answer(MemoryTiming& memory) {
        owners_.pop();
        memory.take_answer();
    }

    void write(Cycle now, MemoryTiming& memory) {
        memory.take_write_beat(now);
        if (--lengths_.front() == 0) lengths_.pop();
    }

    void announce(MemoryTiming& memory) {
        lengths_.push(address_);
        memory.take_write(address_);
        address_ = 0;
    }

    void next_burst() {
        address_ = bursts_.beats();
        owners_.push(bursts_.last());
        bursts_.next();
    }

    /// Gives the checked instruction to both sides and takes the next one; true if it did.
    bool set_up(const Instruction* command, bool has_room) {
        if (has_job_ && has_room && !bursts_.active()) {
            bursts_.start(block());
            jobs_.push(job_);
            has_job_ = false;
        }
        if (has_job_ || !command) return false;
        job_ = *command;
        return has_job_ = true;
    }

    Block block() const {
        using namespace isa;
        const Cycle beats = job_.get(Store::words) * (job_.get(Store::format) == Format::FP32 ? 2 : 1);
        Block block{};
        block.address = job_.get(Store::dram_addr) / sizes_.beat_bytes;
        block.stride = job_.get(Store::row_stride) / sizes_.beat_bytes;
        block.rows = job_.get(Store::rows);
        block.planes = 1;
        block.beats = beats;
        return block.merged();
    }

    const Sizes& sizes_;
    Bursts bursts_;
    StoreReader reader_;
    Fifo<Instruction> jobs_;
    Fifo<uint32_t> lengths_;  // beats that each burst with an address still lacks
    Fifo<uint8_t> owners_;    // whether each burst without an answer is the last one of its instruction
    Instruction job_{};
    bool has_job_ = false;
    uint32_t address_ = 0;  // beats of the burst that is offered
};
