// hwgen/top.py, control.py, run.py and counters.py: the whole accelerator, cycle by cycle.
#pragma once

#include "../memory_timing.h"
#include "account.h"
#include "fetch.h"
#include "load.h"
#include "queues.h"
#include "store.h"
#include "tensor.h"
#include "vector.h"

/// A program with its place in memory.
struct Job {
    const uint8_t* program;
    uint64_t address, count;
    uint64_t first_cycle;  // cycle of the log in which the run is under way first
    uint64_t event_limit;
};

class Machine {
  public:
    /// `every_cycle`: pass cycles one by one, however alike they are.
    Machine(const Sizes& sizes, bool every_cycle)
        : sizes_(sizes), every_cycle_(every_cycle), acc_(sizes_), fetch_(sizes_), queues_(sizes_, nullptr),
          load_(sizes_, acc_), tensor_(sizes_, acc_, every_cycle_), vector_(sizes_, acc_), store_(sizes_, acc_),
          account_(0, 0) {}

    /// Begins a run; the one before must have ended. What the engines remember of it stays.
    void start(const MemorySettings& memory, const Job& job) {
        origin_ = now_ + PAUSE - Cycle(job.first_cycle);
        now_ += PAUSE;
        ended_ = false;
        memory_ = MemoryTiming();
        memory_.start(memory, sizes_.beat_bytes);
        fetch_.start(job.address, uint32_t(job.count));
        queues_ = Queues(sizes_, job.program);
        account_ = Account(now(), job.event_limit);
    }

    enum Ending { LIMIT, ENDED, HUNG };

    /// Runs until the program has ended, until cycle `limit`, or until it is clear that nothing will happen any more.
    Ending run(Cycle limit) {
        while (!ended_ && now() < limit) {
            step();
            const Cycle cycles = same_ ? quiet() : 0;
            if (cycles >= Cycle(MemoryTiming::FOREVER) && !complete()) return HUNG;
            if (cycles > 0 && !every_cycle_) skip(std::min(cycles, limit - now()));
        }
        return ended_ ? ENDED : LIMIT;
    }

    /// Cycle of the run.
    Cycle now() const { return now_ - origin_; }
    const Queues& queues() const { return queues_; }
    Account& account() { return account_; }

  private:
    static constexpr Cycle PAUSE = 1000;  // cycles between runs: more than anything takes to come to rest

    void step() {
        memory_.drive(uint64_t(now()));
        acc_.clear();
        ended_ = complete();
        const int requester = request();
        const bool for_fetch = memory_.r_valid && memory_.r_id() == FETCH_ID;
        Seen seen{busy_, 0, queues_.waiting(), 0, for_fetch};
        Begun begun{0, 0};
        step_engines(requester == LOAD_ID, seen, begun);
        if (seen.read) memory_.take_read_beat();
        const bool fetched = fetch_.offers() && queues_.accepts();
        const bool changed = queues_.step(begun.taken, begun.done, fetched ? int64_t(fetch_.pc()) : -1);
        fetch_.step(requester == FETCH_ID, for_fetch, fetched);
        account_.see(now(), seen, begun.taken, begun.done);
        now_++;
        busy_ = busy_engines();
        same_ = !changed && !for_fetch && busy_ == seen.busy && !ended_;
        if (ended_) account_.finish(now());
    }

    /// Bits of engines that take what they are offered, that end an instruction.
    struct Begun {
        unsigned taken, done;
    };

    /// The engines in the order of their claim to the accumulators; those that have nothing to do are left out.
    void step_engines(bool requested, Seen& seen, Begun& begun) {
        const auto note = [&](int engine, const Outcome& outcome) {
            begun.taken |= unsigned(outcome.taken) << engine;
            begun.done |= unsigned(outcome.done) << engine;
            seen.moves |= unsigned(outcome.moves) << engine;
            seen.read |= outcome.reads;
        };
        const unsigned active = busy_ | queues_.offered();
        const bool shared = active & (1 << VECTOR | 1 << STORE) || load_.uses_acc();
        const bool arrived = memory_.r_valid && memory_.r_id() == LOAD_ID;
        note(TENSOR, {queues_.offer(TENSOR) && tensor_.accepts(), tensor_.done()});
        seen.state = tensor_.step(now_, queues_.offer(TENSOR), shared);
        if (active >> VECTOR & 1) note(VECTOR, vector_.step(now_, queues_.offer(VECTOR)));
        if (active >> STORE & 1) note(STORE, store_.step(now_, queues_.offer(STORE), memory_, uint64_t(now())));
        if (active >> LOAD & 1)
            note(LOAD, load_.step(now_, queues_.offer(LOAD), requested, arrived, arrived && memory_.r_last()));
    }

    /// Cycles from now on in each of which the same happens as in the last one; FOREVER if nothing happens any more.
    Cycle quiet() const {
        if (memory_.r_valid && (load_.reads() || memory_.r_id() != LOAD_ID)) return 0;
        const bool reading = memory_.streams(uint64_t(now())) && load_.reads() && memory_.r_id() == LOAD_ID;
        const bool writing = store_.writes(now_, memory_), working = vector_.writes(now_);
        const unsigned last = account_.last().moves, moving = unsigned(writing) << STORE | unsigned(working) << VECTOR;
        if (reading != account_.last().read || moving != (last & ~(1u << LOAD)) || moves()) return 0;
        Cycle cycles = Cycle(memory_.quiet(uint64_t(now()), reading, writing));
        if (cycles > 0) cycles = std::min(cycles, load_.quiet(reading, last >> LOAD & 1));
        if (cycles > 0) cycles = std::min(cycles, store_.quiet(now_, writing, memory_));
        if (cycles > 0) cycles = std::min({cycles, vector_.quiet(now_), tensor_.until() - now_});
        return cycles <= 0 || conflict(cycles) ? 0 : cycles;
    }

    bool moves() const {
        const unsigned accepts = unsigned(load_.accepts()) << LOAD | unsigned(tensor_.accepts()) << TENSOR |
                                 unsigned(vector_.accepts()) << VECTOR | unsigned(store_.accepts()) << STORE;
        return arbiter_.moves(fetch_.request(), load_.request(), memory_.takes_reads()) ||
               fetch_.moves(queues_.accepts()) || queues_.moves(accepts);
    }

    /// Whether two engines might want the same bank in the next `cycles`.
    bool conflict(Cycle cycles) const {
        const uint32_t vector_reads = vector_.reads_banks(), store_reads = store_.reads_banks();
        const uint32_t vector_writes = vector_.writes_banks(), load_writes = load_.writes_banks();
        if (vector_reads & store_reads || vector_writes & load_writes) return true;
        const uint32_t reads = vector_reads | store_reads, writes = vector_writes | load_writes;
        return (reads && reads & tensor_.reads_banks()) || (writes && writes & tensor_.writes_banks(now_, cycles));
    }

    void skip(Cycle cycles) {
        const bool reading = account_.last().read, writing = account_.last().moves >> STORE & 1;
        memory_.skip(uint64_t(cycles), reading, writing);
        load_.skip(now_, cycles, reading);
        vector_.skip(now_, cycles);
        store_.skip(cycles, writing);
        now_ += cycles;
    }

    static constexpr int FETCH_ID = 0, LOAD_ID = 1;

    bool complete() const { return !busy_ && !fetch_.busy() && fetch_.finished() && queues_.empty(); }

    unsigned busy_engines() const {
        return unsigned(load_.busy()) << LOAD | unsigned(tensor_.busy()) << TENSOR | unsigned(vector_.busy()) << VECTOR |
               unsigned(store_.busy()) << STORE;
    }

    /// The read request goes to the memory, the next one to the arbiter; returns whose it is, or -1.
    int request() {
        const bool leaves = arbiter_.valid() && memory_.ar_ready;
        if (leaves) memory_.take_read(arbiter_.beats(), arbiter_.id(), uint64_t(now()));
        return arbiter_.step(fetch_.request(), load_.request(), leaves);
    }

    const Sizes sizes_;
    const bool every_cycle_;
    Cycle now_ = 0, origin_ = 0;         // since power-up; when the run would have been in cycle 0
    bool ended_ = false, same_ = false;  // same_: the last cycle may be one of many
    unsigned busy_ = 0;                  // bits of engines
    MemoryTiming memory_;
    AccPorts acc_;
    Arbiter arbiter_;
    Fetch fetch_;
    Queues queues_;
    LoadEngine load_;
    TensorEngine tensor_;
    VectorEngine vector_;
    StoreEngine store_;
    Account account_;
};
