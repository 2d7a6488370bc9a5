// hwgen/memory/load.py: the load engines. The fields of FILL are those of LOAD.
#pragma once

#include "acc.h"
#include "bursts.h"
#include "place.h"

class LoadEngine {
  public:
    LoadEngine(const Sizes& sizes, AccPorts& acc) : sizes_(sizes), acc_(acc), bursts_(sizes), placer_(sizes) {}

    /// Beats of the burst that is asked for, 0 if none is.
    uint32_t request() const { return request_; }
    bool busy() const {
        return waiting_ || has_job_ || placer_.active() || !places_.empty() || pending_ || beat_ || outstanding_;
    }
    bool accepts() const { return !waiting_; }
    /// Whether it takes a beat from memory in the next cycle, if there is one and nobody holds up the beat before.
    bool reads() const { return placer_.active() && placer_.memory(); }

    /// One cycle. `requested`: its request is taken. `arrived`: a beat for it is on the bus; `last`: of its burst.
    Outcome step(Cycle now, const Instruction* command, bool requested, bool arrived, bool last) {
        Outcome outcome;
        const bool free = !beat_ || taken(now), room = has_room();
        outcome.moves = beat_ && free;
        outcome.done = pending_ && free;
        outcome.reads = arrived && reads() && free;
        if (free) receive(outcome.reads);
        if (!placer_.active() && !places_.empty()) next_places();
        if (requested) request_ = 0;
        const bool burst = can_request();
        if (burst) next_burst();
        outcome.taken = set_up(command, room);
        outstanding_ += int(burst) - int(outcome.reads && last);
        return outcome;
    }

    /// Cycles in each of which the same happens, as in one that wrote a beat or not (`wrote`).
    Cycle quiet(bool reading, bool wrote) const {
        const bool moves = pending_ || can_start(has_room()) || (waiting_ && !has_job_) || can_request();
        if (moves || (!placer_.active() && !places_.empty()) || beat_ != wrote) return 0;
        if (!flows(reading)) return beat_ ? 0 : NEVER;
        const bool same_sink = !beat_ || (sink_ == Sink::ACC) == (placer_.sink() == Sink::ACC);
        return beat_ != placer_.drop() && same_sink && !indices_wait() ? placer_.quiet() : 0;
    }

    void skip(Cycle now, Cycle cycles, bool reading) {
        if (!flows(reading)) return;
        if (beat_ && sink_ == Sink::INDICES) indices_free_ = now + index_words_;
        const Cycle first = placer_.until_indices() + 1, period = placer_.indices_period();
        if (first < cycles) indices_free_ = now + first + (cycles - 1 - first) / period * period + index_words_;
        placer_.skip(cycles);
        sink_ = placer_.previous_sink();
        word_ = placer_.previous_word();
    }

    /// Whether it may write to the accumulators in the next cycle.
    bool uses_acc() const { return beat_ && sink_ == Sink::ACC; }

    /// Banks that it may write as long as it is quiet.
    uint32_t writes_banks() const {
        if (!uses_acc()) return 0;
        const bool more = placer_.active() && placer_.sink() == Sink::ACC;
        return acc_.banks(word_, word_) | (more ? acc_.banks(placer_.word(), placer_.last_word()) : 0);
    }

  private:
    bool has_room() const { return places_.size() < sizes_.queue_depth; }
    bool can_request() const { return bursts_.active() && !request_ && outstanding_ != sizes_.outstanding; }
    bool can_start(bool room) const { return has_job_ && room && !(bursts_.active() && reads_memory()); }
    bool reads_memory() const { return job_.get(isa::Load::beats) != 0; }
    /// Whether a beat is placed in every cycle.
    bool flows(bool reading) const { return placer_.active() && (reading || !placer_.memory()); }

    /// Whether its sink takes the beat.
    bool taken(Cycle now) {
        if (sink_ == Sink::ACC) return acc_.write(word_);
        if (sink_ == Sink::BANKS) return true;
        if (now < indices_free_) return false;
        indices_free_ = now + index_words_;
        return true;
    }

    /// Whether beats of indices have to wait for one another, if beats flow.
    bool indices_wait() const { return placer_.indices_period() < index_words_; }

    void receive(bool read) {
        const bool place = placer_.active() && (read || !placer_.memory());
        beat_ = place && !placer_.drop();
        pending_ = place && placer_.last();
        if (!place) return;
        sink_ = placer_.sink();
        word_ = placer_.word();
        placer_.next();
    }

    void next_places() {
        placer_.start(places_.front());
        places_.pop();
    }

    void next_burst() {
        request_ = bursts_.beats();
        bursts_.next();
    }

    /// LoadSetup: an instruction goes to both sides, another one to where it was, and one is taken; true if it was.
    bool set_up(const Instruction* command, bool room) {
        if (can_start(room)) {
            if (reads_memory()) bursts_.start(block());
            places_.push(job_);
            has_job_ = false;
        }
        const bool ready = !waiting_ || !has_job_;
        if (!has_job_ && waiting_) {
            job_ = command_;
            has_job_ = true;
            waiting_ = false;
        }
        if (!ready || !command) return false;
        command_ = *command;
        return waiting_ = true;
    }

    Block block() const {
        using namespace isa;
        Block block{};
        block.address = job_.get(Load::dram_addr) / sizes_.beat_bytes;
        block.stride = job_.get(Load::row_stride) / sizes_.beat_bytes;
        block.plane_stride = job_.get(Load::plane_stride) / sizes_.beat_bytes;
        block.rows = job_.get(Load::rows);
        block.planes = job_.get(Load::planes);
        block.beats = job_.get(Load::beats);
        return block.merged();
    }

    const Sizes& sizes_;
    const Cycle index_words_ = 4 / sizes_.lanes;  // of a beat of indices, which are written one a cycle
    AccPorts& acc_;
    Bursts bursts_;
    Placer placer_;
    Fifo<Instruction> places_;
    Instruction command_{}, job_{};  // taken, and checked
    bool waiting_ = false, has_job_ = false;
    bool beat_ = false, pending_ = false;  // a beat waits for its sink; it is the last of its instruction
    Sink sink_ = Sink::BANKS;              // of the beat
    uint32_t word_ = 0, request_ = 0, outstanding_ = 0;
    Cycle indices_free_ = 0;  // when the next beat of indices can be taken
};
