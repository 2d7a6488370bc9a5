// hwgen/attention/engine.py and memory_port.py: the attention engine, its core behind a port of the memory.
#pragma once

#include <memory>

#include "../memory_timing.h"
#include "attention/core.h"
#include "base.h"
#include "services/core.h"

/// The jobs of a program's ATTEND instructions in their order, those of attention and those beside it, and what data
/// decide about them.
struct AttendJobs {
    const attention::Job* jobs;
    uint64_t count;
    const attention::RowFacts* facts;
    const uint32_t *indices, *passes;
    const services::Job* services;
    const uint32_t *service_items, *service_passes;
};

/// Numbers of the engine's parts; zeros if there is none.
struct AttendSizes {
    attention::Sizes attention;
    services::Sizes services;
};

/// memory_port.py: MemoryPort. Registers for addresses and beats to write between the core and the memory.
class AttendPort final : public attention::Memory {
  public:
    static constexpr int READ = 2, WRITE = 1;  // ports of the memory

    explicit AttendPort(uint32_t outstanding)
        : outstanding_(outstanding), lengths_(std::max(2u, outstanding)) {}

    /// The memory as it is in the cycle at hand; then the cores are stepped, then `step` is called.
    void look(MemoryTiming& memory) {
        memory_ = &memory;
        const WriteTiming& write = memory_->write[WRITE];
        address_goes_ = address_ && memory_->read[READ].ar_ready;
        write_address_goes_ = write_address_ && write.aw_ready;
        beat_goes_ = beat_ && write.w_ready;
        showing_ = memory_->read[READ].r_valid;
        read_ready = !address_ || address_goes_;
        write_ready = (!write_address_ || write_address_goes_) && writes_ != outstanding_;
        write_data_ready = (!beat_ || beat_goes_) && lengths_.valid();
    }
    void show(Cycle) override {}  // `look` has
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

/// engine.py: AttentionEngine.
class AttendEngine {
  public:
    explicit AttendEngine(const Sizes& sizes) : outstanding_(sizes.outstanding), port_(outstanding_) {}

    /// Begins a run with these jobs.
    void start(const AttendSizes& sizes, const AttendJobs& jobs) {
        counters_.assign(std::max<size_t>(1, jobs.count), attention::Counters{});
        port_ = AttendPort(outstanding_);
        if (sizes.attention.multipliers) {
            core_ = std::make_unique<attention::Core>(sizes.attention, port_, jobs.jobs, jobs.count, 0, jobs.facts,
                                                      jobs.indices, jobs.passes, counters_.data());
            services_ =
                std::make_unique<services::Core>(sizes.services, port_, jobs.service_items, jobs.service_passes);
        }
        next_service_ = jobs.services;
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
        if (state == IDLE && command) {
            outcome.taken = true;
            attends_ = command->get(isa::Attend::job) == isa::Job::ATTENTION;
            state_ = BEGIN;
        }
        if (state == BEGIN) state_ = RUNNING;
        if (state == END && drained) {
            outcome.done = true;
            state_ = IDLE;
        }
        port_.look(memory);
        const bool attended = attend(state == BEGIN && attends_), served = serve(state);
        outcome.reads = port_.reads();
        outcome.moves = port_.reads() || port_.writes() || working;
        written_ += port_.writes();
        port_.step(cycle);
        if (state == RUNNING && (attended || served)) state_ = END;
        return outcome;
    }

  private:
    enum State { IDLE, BEGIN, RUNNING, END };
    static constexpr unsigned REST = 64;  // cycles in which what a job leaves behind in the core comes to rest

    /// The core of attention, while it has a job or comes to rest. begins: a job is offered. Gives whether one ends.
    bool attend(bool begins) {
        rest_ = attends_ && busy() ? REST : rest_ - (rest_ != 0);
        if (begins) core_->release();
        if (!rest_) return false;
        const size_t done = core_->done();
        core_->step();
        was_odd_ = odd_;
        odd_ = core_->begun() && core_->counters().products_busy & 1;
        return core_->done() != done;
    }

    /// The core of the jobs beside attention; gives whether one ends.
    bool serve(State state) {
        if (attends_ || (state != BEGIN && state != RUNNING)) return false;
        return services_->step(state == BEGIN ? next_service_++ : nullptr);
    }

    uint32_t outstanding_;
    AttendPort port_;
    std::vector<attention::Counters> counters_;
    std::unique_ptr<attention::Core> core_;
    std::unique_ptr<services::Core> services_;
    const services::Job* next_service_ = nullptr;
    State state_ = IDLE;
    bool attends_ = false, odd_ = false, was_odd_ = false;
    unsigned rest_ = 0;
    uint64_t written_ = 0;
};
