// hwgen/memory/store.py and store_setup.py: the store engine.
#pragma once

#include "../memory_timing.h"
#include "bursts.h"
#include "reader.h"

class StoreEngine {
  public:
    StoreEngine(const Sizes& sizes, AccPorts& acc) : sizes_(sizes), bursts_(sizes), reader_(sizes, acc) {}

    bool busy() const { return has_job_ || measured_ != NEVER || bursts_.active() || !owners_.empty(); }
    bool accepts() const { return !has_job_ && measured_ == NEVER; }
    /// Whether a beat goes in the next cycle.
    bool writes(Cycle now, const MemoryTiming& memory) const {
        return offers(now) && memory.takes_data(PORT);
    }
    uint32_t reads_banks() const { return reader_.reads_banks(); }

    /// `cycle`: `now` as the memory counts.
    Outcome step(Cycle now, const Instruction* command, MemoryTiming& memory, uint64_t cycle) {
        Outcome outcome;
        const bool has_room = room();
        const bool address = address_.left && memory.write[PORT].aw_ready;
        const bool burst = bursts_.active() && (!address_.left || address) && owners_.size() < sizes_.outstanding;
        outcome.moves = offers(now) && memory.write[PORT].w_ready;
        outcome.done = memory.write[PORT].b_valid && owners_.front();
        reader_.step(now, outcome.moves, shaped());
        if (memory.write[PORT].b_valid) answer(memory);
        if (outcome.moves) write(memory, cycle);
        if (address) announce(memory);
        if (burst) next_burst();
        outcome.taken = set_up(now, command, has_room);
        return outcome;
    }

    /// Cycles from `now` on in each of which the same happens.
    Cycle quiet(Cycle now, bool writing, const MemoryTiming& memory) const {
        const bool sets_up = has_job_ && room() && !bursts_.active();
        const bool free = owners_.size() < sizes_.outstanding;
        const bool address = address_.left ? memory.takes_writes(PORT) : bursts_.active() && free;
        return sets_up || address ? 0 : std::min(reader_.quiet(now, writing, shaped()), measured_ - now);
    }

    void skip(Cycle cycles, bool writing) {
        reader_.skip(cycles, writing, shaped());
        if (writing) lengths_.front().left -= uint32_t(cycles);
    }

  private:
    static constexpr int PORT = 0;  // of the memory

    /// A burst: beats that it lacks, and whether they come through the path.
    struct Length {
        uint32_t left = 0;
        bool shaped = false;
    };

    /// Whether the next beat to be written comes through the path, and whether it is there.
    bool shaped() const { return !lengths_.empty() && lengths_.front().shaped; }
    bool offers(Cycle now) const { return !lengths_.empty() && reader_.offers(now, shaped()); }
    /// Whether there is room for the words of the job.
    bool room() const { return has_job_ && reader_.accepts(job_); }

    void answer(MemoryTiming& memory) {
        owners_.pop();
        memory.take_answer(PORT);
    }

    void write(MemoryTiming& memory, uint64_t cycle) {
        memory.take_write_beat(PORT, cycle);
        if (--lengths_.front().left == 0) lengths_.pop();
    }

    void announce(MemoryTiming& memory) {
        lengths_.push(address_);
        memory.take_write(PORT, address_.left);
        address_ = {};
    }

    void next_burst() {
        address_ = {bursts_.beats(), bursts_.tag()};
        owners_.push(bursts_.last());
        bursts_.next();
    }

    /// StoreSetup: gives the checked instruction to both sides and takes the next one; true if it did. How long
    /// sequences of PACKED are is known only after some cycles.
    bool set_up(Cycle now, const Instruction* command, bool has_room) {
        if (measured_ == now) {
            measured_ = NEVER;
            return !(has_job_ = true);
        }
        if (has_job_ && has_room && !bursts_.active()) {
            bursts_.start(block());
            reader_.push(job_);
            has_job_ = false;
        }
        if (!accepts() || !command) return false;
        job_ = *command;
        has_job_ = job_.get(isa::Store::format) != isa::Format::PACKED;
        if (!has_job_) measured_ = now + sizes_.packed_latency - 1;
        return true;
    }

    Block block() const {
        using namespace isa;
        const unsigned format = unsigned(job_.get(Store::format));
        const Cycle rows = job_.get(Store::rows), words = job_.get(Store::words), cols = sizes_.cols;
        const bool transpose = job_.get(Store::transpose);
        Block block{};
        block.address = job_.get(Store::dram_addr) / sizes_.beat_bytes;
        block.stride = uint64_t(job_.get_signed(Store::plane_stride) / int64_t(sizes_.beat_bytes));
        block.rows = job_.get(Store::planes);
        block.plane_stride = job_.get(Store::row_stride) / sizes_.beat_bytes;
        block.tag = Shape(job_).shaped();
        if (format == Format::FP32 || format == Format::OPERAND) {
            block.planes = transpose ? words * cols : rows;
            block.beats = transpose ? 1 : format == Format::FP32 ? 2 * words : words;
        } else {
            block.planes = transpose ? rows / cols : words;
            block.beats = transpose ? words * cols : rows;
        }
        if (format == Format::PACKED)
            block.beats = packed_beats(block.beats);
        else
            block.join_planes();
        return block;
    }

    /// PackedLength: beats of a sequence of `values` beats when it is reduced.
    Cycle packed_beats(Cycle values) const {
        const Cycle n = job_.get(isa::Store::n), m = job_.get(isa::Store::m), slots = sizes_.packed_slots;
        const Cycle kept = values / m * ((n + sizes_.lanes - 1) / sizes_.lanes * sizes_.lanes);
        return (kept + slots - 1) / slots * (slots + 1);
    }

    const Sizes& sizes_;
    Bursts bursts_;
    StoreReader reader_;
    Fifo<Length> lengths_;  // bursts with an address whose beats have not all been written
    Fifo<uint8_t> owners_;  // whether each burst without an answer is the last one of its instruction
    Instruction job_{};
    bool has_job_ = false;
    Cycle measured_ = NEVER;  // cycle in which the length of a PACKED instruction is known
    Length address_;          // of the burst that is offered
};
