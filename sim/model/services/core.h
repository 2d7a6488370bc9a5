// hwgen/attention/services/core.py, descriptor.py: all jobs beside attention, in front of the ports.
#pragma once

#include "gather.h"
#include "quantize.h"
#include "rank.h"
#include "state.h"

namespace services {

/// What a job took; as `sim.attention.services_block.ServiceRun`.
struct Counters {
    uint64_t cycles, read_beats, write_beats;
};

class Core {
  public:
    Core(const Sizes& sizes, Memory& memory, const uint32_t* items, const uint32_t* passes)
        : memory_(memory), reads_(sizes), writes_(sizes), quantize_(sizes), gather_(sizes, items),
          rank_(sizes, items, passes), moves_(sizes),
          descriptor_(std::max(1u, isa::SERVICE_BYTES / sizes.beat_bytes)) {}

    /// One cycle. command: the job that is offered or null, which no other may be under way for; not refused. Gives
    /// whether a job ends.
    bool step(const Job* command) {
        memory_.show(now_);
        reads_.look(memory_);
        const bool done = running_ && !inside(), ran = running_;
        const bool starts = !ran && read(command);
        if (ran) run();
        if (starts) start();
        counters.write_beats += writes_.step(memory_);
        counters.read_beats += reads_.step(memory_, now_);
        running_ = starts || (ran && !done);
        now_++;
        counters.cycles = uint64_t(now_);
        return done;
    }

    Counters counters{};  // since the first cycle

  private:
    enum State { IDLE, SORT, ASK, WAIT };

    bool inside() const {
        return reads_.busy() || writes_.busy() || quantize_.busy() || gather_.busy() || rank_.busy() || moves_.busy();
    }

    void run() {
        switch (job_->kind) {
            case isa::Kind::QUANTIZE:
                return quantize_.step(reads_, writes_);
            case isa::Kind::GATHER:
                return gather_.step(reads_, writes_);
            case isa::Kind::SELECT:
            case isa::Kind::TOPK:
                return rank_.step(reads_, writes_);
            case isa::Kind::SAVE:
            case isa::Kind::RESTORE:
                return moves_.step(reads_, writes_);
        }
    }

    void start() {
        switch (job_->kind) {
            case isa::Kind::QUANTIZE:
                return quantize_.start(*job_);
            case isa::Kind::GATHER:
                return gather_.start(*job_);
            case isa::Kind::SELECT:
            case isa::Kind::TOPK:
                return rank_.start(*job_);
            case isa::Kind::SAVE:
            case isa::Kind::RESTORE:
                return moves_.start(*job_);
        }
    }

    /// descriptor.py: ServiceReader; gives whether the job starts.
    bool read(const Job* command) {
        const bool whole = arrived_ == descriptor_;
        if (reads_.valid()) reads_.take(), arrived_++;
        switch (state_) {
            case IDLE:
                arrived_ = 0;
                if (command) job_ = command, state_ = SORT;
                return false;
            case SORT:
                state_ = job_->kind == isa::Kind::RESET ? IDLE : ASK;
                return state_ == IDLE;
            case ASK:
                if (!reads_.takes_span()) return false;
                reads_.ask({job_->address, descriptor_, true});
                state_ = WAIT;
                return false;
            case WAIT:
                if (whole) state_ = IDLE;
                return whole;
        }
        return false;
    }

    Memory& memory_;
    SpanReader reads_;
    WritePort writes_;
    QuantizeJob quantize_;
    GatherJob gather_;
    RankJob rank_;
    StateJob moves_;
    uint32_t descriptor_, arrived_ = 0;  // beats
    State state_ = IDLE;
    const Job* job_ = nullptr;
    bool running_ = false;
    Cycle now_ = 0;
};

}  // namespace services
