// hwgen/attention/engine.py and memory_port.py: the attention engine, its core behind a port of the memory.
#pragma once

#include <memory>

#include "../memory_timing.h"
#include "attention/core.h"
#include "base.h"

/// The jobs of a program's ATTENTION instructions in their order, and what data decide about their rows.
struct AttentionJobs {
    const attention::Job* jobs;
    uint64_t count;
    const attention::RowFacts* facts;
    const uint32_t *indices, *passes;
};

/// memory_port.py: MemoryPort. Registers for addresses and beats to write between the core and the memory.
class AttendPort final : public attention::Memory {
  public:
    static constexpr int READ = 2, WRITE = 1;  // ports of the memory

    explicit AttendPort(uint32_t outstanding)
        : outstanding_(outstanding), lengths_(std::max(2u, outstanding)) {}

    /// The memory as it is in the cycle at hand; then the core is stepped, then `step` is called.
    void look(MemoryTiming& memory) { memory_ = &memory; }

    void show(Cycle) override {
        const WriteTiming& write = memory_->write[WRITE];
        address_goes_ = address_ && memory_->read[READ].ar_ready;
        write_address_goes_ = write_address_ && write.aw_ready;
        beat_goes_ = beat_ && write.w_ready;
        showing_ = memory_->read[READ].r_valid;
        read_ready = !address_ || address_goes_;
        write_ready = (!write_address_ || write_address_goes_) && writes_ != outstanding_;
        write_data_ready = (!beat_ || beat_goes_) && lengths_.valid();
    }
    void take_beat() override { beat_taken_ = true; }
    void request(Cycle, uint32_t beats) override { requested_ = beats; }
    void write_beat() override { beat_given_ = true; }
    void write_request(uint32_t beats) override { write_requested_ = beats; }

    bool drained() const { return !reads_ && !writes_; }
    /// What goes through in the cycle at hand.
    bool reads() const { return beat_taken_; }
    bool writes() const { return beat_goes_; }

    /// Handshakes of the cycle, which is number `now` of the memory; the memory is told of beats that it gives by
    /// whoever asks `reads`.
    void step(uint64_t now) {
        MemoryTiming& memory = *memory_;
        const bool ends = beat_taken_ && memory.read[READ].last();
        if (address_goes_) memory.take_read(READ, address_, 0, now);
        if (beat_goes_) memory.take_write_beat(WRITE, now);
        if (write_address_goes_) {
            memory.take_write(WRITE, write_address_);
            lengths_.push(write_address_);
        }
        const bool answered = memory.write[WRITE].b_valid;
        if (answered) memory.take_answer(WRITE);
        if (beat_given_ && ++sent_ == lengths_.front()) {
            sent_ = 0;
            lengths_.pop();
        }
        beat_ = beat_given_ || (beat_ && !beat_goes_);
        if (address_goes_) address_ = 0;
        if (write_address_goes_) write_address_ = 0;
        if (requested_) address_ = requested_;
        if (write_requested_) write_address_ = write_requested_;
        reads_ += (requested_ != 0) - ends;
        writes_ += (write_requested_ != 0) - answered;
        lengths_.tick();
        beat_taken_ = beat_given_ = false;
        requested_ = write_requested_ = 0;
    }

  private:
    uint32_t outstanding_;
    MemoryTiming* memory_ = nullptr;
    attention::Queue<uint32_t> lengths_;
    uint32_t address_ = 0, write_address_ = 0;  // beats of the burst that is offered
    uint32_t sent_ = 0, reads_ = 0, writes_ = 0;
    bool beat_ = false;
    // Of the cycle at hand.
    uint32_t requested_ = 0, write_requested_ = 0;
    bool address_goes_ = false, write_address_goes_ = false, beat_goes_ = false, beat_taken_ = false;
    bool beat_given_ = false;
};

/// engine.py: AttentionEngine, for jobs ATTENTION and RESET.
class AttendEngine {
  public:
    explicit AttendEngine(const Sizes& sizes) : outstanding_(sizes.outstanding), port_(outstanding_) {}

    /// Begins a run with these jobs; `sizes` of the engine, zeros if there is none.
    void start(const attention::Sizes& sizes, const AttentionJobs& jobs) {
        counters_.assign(std::max<size_t>(1, jobs.count), attention::Counters{});
        port_ = AttendPort(outstanding_);
        if (sizes.multipliers) core_ = std::make_unique<attention::Core>(sizes, port_, jobs.jobs, jobs.count, 0, jobs.facts, jobs.indices,
                                                  jobs.passes, counters_.data());
        state_ = IDLE;
        rest_ = 0;
        odd_ = was_odd_ = false;
        written_ = 0;
    }

    bool busy() const { return state_ != IDLE; }
    bool accepts() const { return state_ == IDLE; }
    /// Whether cycles may differ.
    bool active() const { return busy() || rest_ != 0; }
    uint64_t written() const { return written_; }

    /// `cycle` of the memory.
    Outcome step(const Instruction* command, MemoryTiming& memory, uint64_t cycle) {
        Outcome outcome;
        const State state = state_;
        const bool drained = port_.drained(), working = odd_ != was_odd_;
        switch (state) {
            case IDLE:
                outcome.taken = command != nullptr;
                if (!command) break;
                attends_ = command->get(isa::Attend::job) == isa::Job::ATTENTION;
                state_ = BEGIN;
                break;
            case BEGIN:
                if (attends_) core_->release();
                waited_ = 0;
                state_ = RUNNING;
                break;
            case END:
                outcome.done = drained;
                if (drained) state_ = IDLE;
                break;
            case RUNNING:
                break;
        }
        const size_t done = core_->done();
        port_.look(memory);
        core_->step();
        outcome.reads = port_.reads();
        outcome.moves = port_.reads() || port_.writes() || working;
        written_ += port_.writes();
        port_.step(cycle);
        if (state == RUNNING && (attends_ ? core_->done() != done : ++waited_ == RESET_CYCLES)) state_ = END;
        was_odd_ = odd_;
        odd_ = core_->begun() && core_->counters().products_busy & 1;
        rest_ = busy() ? REST : rest_ - (rest_ != 0);
        return outcome;
    }

  private:
    enum State { IDLE, BEGIN, RUNNING, END };
    static constexpr unsigned RESET_CYCLES = 2;  // from the cycle behind the command on, as services/core.py takes
    static constexpr unsigned REST = 64;         // cycles in which what a job leaves behind comes to rest

    uint32_t outstanding_;
    AttendPort port_;
    std::vector<attention::Counters> counters_;
    std::unique_ptr<attention::Core> core_;
    State state_ = IDLE;
    bool attends_ = false, odd_ = false, was_odd_ = false;
    unsigned waited_ = 0, rest_ = 0;
    uint64_t written_ = 0;
};
