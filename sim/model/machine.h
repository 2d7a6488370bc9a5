// hwgen/top.py, control.py, run.py and counters.py: the whole accelerator, cycle by cycle.
#pragma once

#include "../memory_timing.h"
#include "../trace_log.h"
#include "fetch.h"
#include "load.h"
#include "queues.h"
#include "store.h"
#include "tensor.h"
#include "vector.h"

/// The counter registers; the same fields in the same order as `sim.cycles.COUNTERS`.
struct Counters {
    uint64_t cycles, read_beats, write_beats, busy[ENGINES], tensor[8];
};

/// A program with its place in memory.
struct Job {
    const uint8_t* program;
    uint64_t address, count;
    uint64_t first_cycle;  // cycle of the log in which the run is under way first
    uint64_t event_limit;
    uint64_t every_cycle;  // 1: step through every cycle, however alike they are
};

class Machine {
  public:
    Machine(const Sizes& sizes, const MemorySettings& memory, const Job& job)
        : sizes_(sizes), every_cycle_(job.every_cycle != 0), now_(job.first_cycle), acc_(sizes_), fetch_(sizes_), queues_(sizes_, job.program),
          load_(sizes_, acc_), tensor_(sizes_, acc_, every_cycle_), vector_(sizes_, acc_), store_(sizes_, acc_) {
        memory_.start(memory, sizes.beat_bytes);
        log.start(0, job.event_limit);
        fetch_.start(job.address, uint32_t(job.count));
    }

    enum Ending { LIMIT, ENDED, HUNG };

    /// Runs until the program has ended, until cycle `limit`, or until it is clear that nothing will happen any more.
    Ending run(Cycle limit) {
        while (!ended_ && now_ < limit) {
            step();
            const Cycle cycles = same_ ? quiet() : 0;
            if (cycles >= Cycle(MemoryTiming::FOREVER) && !complete()) return HUNG;
            if (cycles > 0 && !every_cycle_) skip(std::min(cycles, limit - now_));
        }
        return ended_ ? ENDED : LIMIT;
    }

    Cycle now() const { return now_; }
    const Queues& queues() const { return queues_; }
    Counters counters{};
    TraceLog log;

  private:
    enum { IDLE, BUSY, WAITING, STALLED };

    void step() {
        memory_.drive(now_);
        acc_.clear();
        const unsigned busy = busy_engines();
        ended_ = complete();
        const unsigned waiting[ENGINES] = {queues_.waiting(0), queues_.waiting(1), queues_.waiting(2), queues_.waiting(3)};
        const Instruction* offers[ENGINES] = {queues_.offer(0), queues_.offer(1), queues_.offer(2), queues_.offer(3)};
        const int requester = request();
        const bool for_load = memory_.r_valid && memory_.r_id() == 1, for_fetch = memory_.r_valid && !for_load;

        unsigned taken = 0, done = unsigned(tensor_.done()) << TENSOR;
        if (offers[TENSOR] && tensor_.accepts()) taken |= 1 << TENSOR;
        if (offers[VECTOR] && vector_.accepts()) taken |= 1 << VECTOR;
        const uint32_t state = tensor_.step(now_, offers[TENSOR]);
        const auto vector = vector_.step(now_, offers[VECTOR]);
        const auto store = store_.step(now_, offers[STORE], memory_);
        const auto load = load_.step(now_, offers[LOAD], requester == LOAD_ID, for_load, for_load && memory_.r_last());
        taken |= unsigned(load.taken) << LOAD | unsigned(store.taken) << STORE;
        done |= unsigned(load.done) << LOAD | unsigned(vector.done) << VECTOR | unsigned(store.done) << STORE;
        if (for_fetch || load.read) memory_.take_read_beat();

        const bool fetched = fetch_.offers() && queues_.accepts();
        const bool changed = queues_.step(taken, done, fetched ? int64_t(fetch_.pc()) : -1);
        fetch_.step(requester == FETCH_ID, for_fetch, fetched);
        now_++;
        last_ = {busy, waiting[TENSOR], state, for_fetch || load.read, load.writes, vector.writes, store.writes};
        count(last_, 1);
        const bool moves[ENGINES] = {load.writes, false, vector.writes, store.writes};
        show(busy, moves, waiting, state, taken, done);
        same_ = !ended_ && !changed && !for_fetch;
    }

    /// Cycles from now on in each of which the same happens as in the last one; FOREVER if nothing happens any more.
    Cycle quiet() const {
        const bool reading = memory_.streams(now_) && load_.reads() && memory_.r_id() == LOAD_ID;
        if (memory_.r_valid && (load_.reads() || memory_.r_id() != LOAD_ID)) return 0;
        const bool writing = store_.writes(now_, memory_);
        if (reading != last_.read || writing != last_.store_writes || vector_.writes(now_) != last_.vector_writes) return 0;
        if (moves()) return 0;
        Cycle cycles = Cycle(memory_.quiet(now_, reading, writing));
        if (cycles <= 0) return 0;
        cycles = std::min(cycles, load_.quiet(now_, reading, last_.load_writes));
        cycles = std::min(cycles, store_.quiet(now_, writing, memory_));
        cycles = std::min({cycles, vector_.quiet(now_), tensor_.until() - now_});
        return cycles <= 0 || busy_engines() != last_.busy || conflict() ? 0 : cycles;
    }

    bool moves() const {
        const unsigned accepts = unsigned(load_.accepts()) << LOAD | unsigned(tensor_.accepts()) << TENSOR |
                                 unsigned(vector_.accepts()) << VECTOR | unsigned(store_.accepts()) << STORE;
        return arbiter_.moves(fetch_.request(), load_.request(), memory_.takes_reads()) ||
               fetch_.moves(queues_.accepts()) || queues_.moves(accepts);
    }

    /// Whether two engines might want the same bank in the next cycles.
    bool conflict() const {
        return overlap(tensor_.reads_bank(), vector_.reads_banks(), store_.reads_banks()) ||
               overlap(tensor_.writes_bank(), vector_.writes_banks(), load_.writes_banks());
    }
    static bool overlap(uint32_t a, uint32_t b, uint32_t c) { return (a & b) | ((a | b) & c); }

    void skip(Cycle cycles) {
        memory_.skip(uint64_t(cycles), last_.read, last_.store_writes);
        load_.skip(now_, cycles, last_.read);
        vector_.skip(now_, cycles);
        store_.skip(cycles, last_.store_writes);
        count(last_, uint64_t(cycles));
        now_ += cycles;
    }

    static constexpr int FETCH_ID = 0, LOAD_ID = 1;

    bool complete() const {
        return !busy_engines() && !fetch_.busy() && fetch_.finished() && queues_.empty();
    }

    unsigned busy_engines() const {
        return unsigned(load_.busy()) << LOAD | unsigned(tensor_.busy()) << TENSOR | unsigned(vector_.busy()) << VECTOR |
               unsigned(store_.busy()) << STORE;
    }

    /// The read request goes to the memory, the next one to the arbiter; returns whose it is, or -1.
    int request() {
        const bool leaves = arbiter_.valid() && memory_.ar_ready;
        if (leaves) memory_.take_read(arbiter_.beats(), arbiter_.id(), now_);
        return arbiter_.step(fetch_.request(), load_.request(), leaves);
    }

    /// What happened in a cycle, for the counters.
    struct Seen {
        unsigned busy, waiting;  // bits of engines; waiting: that the tensor engine waits for
        uint32_t state;
        bool read, load_writes, vector_writes, store_writes;
    };

    void count(const Seen& seen, uint64_t cycles) {
        using namespace isa::TensorState;
        uint32_t state = seen.state;
        if (state == IDLE && seen.waiting) state = seen.waiting & (1 << LOAD | 1 << STORE) ? MEMORY : TOKENS;
        counters.cycles += cycles;
        if (seen.read) counters.read_beats += cycles;
        if (seen.store_writes) counters.write_beats += cycles;
        for (int engine = 0; engine < ENGINES; engine++)
            if (seen.busy >> engine & 1) counters.busy[engine] += cycles;
        counters.tensor[state] += cycles;
    }

    /// The `activity` port.
    void show(unsigned busy, const bool* moves, const unsigned* waiting, uint32_t state, unsigned taken, unsigned done) {
        using namespace isa::TensorState;
        uint32_t activity = taken << 16 | done << 20;
        for (int engine = 0; engine < ENGINES; engine++) {
            uint32_t shown = busy >> engine & 1 ? (moves[engine] ? BUSY : STALLED) : waiting[engine] ? WAITING : IDLE;
            if (engine == TENSOR) {
                const bool memory = waiting[TENSOR] & (1 << LOAD | 1 << STORE), none = busy >> TENSOR & 1;
                shown = none || !waiting[TENSOR] ? state : memory ? uint32_t(MEMORY) : uint32_t(TOKENS);
            }
            activity |= shown << 4 * engine;
        }
        log.sample(activity, uint64_t(now_ - 1));
    }

    const Sizes sizes_;
    const bool every_cycle_;
    Cycle now_;
    bool ended_ = false, same_ = false;  // same_: the last cycle may be one of many
    Seen last_{};
    MemoryTiming memory_;
    AccPorts acc_;
    Arbiter arbiter_;
    Fetch fetch_;
    Queues queues_;
    LoadEngine load_;
    TensorEngine tensor_;
    VectorEngine vector_;
    StoreEngine store_;
};
