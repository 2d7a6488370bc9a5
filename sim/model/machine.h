// hwgen/top.py, control.py, run.py and counters.py: the whole accelerator, cycle by cycle.
#pragma once

#include "../memory_timing.h"
#include "account.h"
#include "attend.h"
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
    uint64_t event_limit, state_events;  // events to keep; whether changes of state are among them
    AttendJobs attend;
};

class Machine {
  public:
    /// `every_cycle`: pass cycles one by one, however alike they are.
    /// `attend`: numbers of the attention engine; of use only for programs with ATTEND.
    Machine(const Sizes& sizes, const AttendSizes& attend, bool every_cycle)
        : sizes_(sizes), attend_sizes_(attend), every_cycle_(every_cycle), acc_(sizes_), fetch_(sizes_),
          queues_(sizes_, nullptr), load_(sizes_, acc_), fill_(sizes_, acc_), tensor_(sizes_, acc_, every_cycle_),
          vector_(sizes_, acc_, account_), store_(sizes_, acc_), attend_(sizes_), account_(0, 0, 0, false) {}

    /// Begins a run; the one before must have ended. What the engines remember of it stays.
    void start(const MemorySettings& memory, const Job& job) {
        origin_ = now_ + PAUSE - Cycle(job.first_cycle);
        now_ += PAUSE;
        ended_ = false;
        memory_ = MemoryTiming();
        memory_.start(memory, sizes_.beat_bytes);
        fetch_.start(job.address, uint32_t(job.count));
        queues_ = Queues(sizes_, job.program);
        attend_.start(attend_sizes_, job.attend);
        first_ = now_;
        last_ = Moves();
        account_ = Account(origin_, now_, job.event_limit, job.state_events != 0);
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
        const unsigned busy = busy_;
        const int requester = request();
        const bool for_fetch = port().r_valid && port().id() == FETCH_ID;
        Pulse pulse;
        last_ = step_engines(requester == LOAD_ID, request_fill(), pulse);
        last_.read |= unsigned(for_fetch);
        for (int number = 0; number < MemoryTiming::READ_PORTS; number++)
            if (last_.read >> number & 1) memory_.take_read_beat(number);
        tell(pulse);
        const bool fetched = fetch_.offers() && queues_.accepts();
        const bool changed = queues_.step(pulse.taken, pulse.done, fetched ? int64_t(fetch_.pc()) : -1);
        fetch_.step(requester == FETCH_ID, for_fetch, fetched);
        now_++;
        busy_ = busy_engines();
        same_ = !changed && !for_fetch && busy_ == busy && !ended_;
        if (ended_) account_.finish(first_, now_, attend_.written());
    }

    /// Bits of engines that take what they are offered, that end an instruction.
    struct Pulse {
        unsigned taken = 0, done = 0;
        void note(int engine, const Outcome& outcome) {
            taken |= unsigned(outcome.taken) << engine;
            done |= unsigned(outcome.done) << engine;
        }
    };

    /// What moves in a cycle: a beat from memory (bit 0: of program or LOAD, 1: of FILL, 2: of ATTEND), a word of the
    /// load engine, of that of FILL, a beat of the store engine, anything of the attention engine.
    struct Moves {
        unsigned read = 0;
        bool load = false, fill = false, store = false, attend = false;
    };

    /// The engines in the order of their claim to the accumulators; those that have nothing to do are left out.
    Moves step_engines(bool requested, bool fill_requested, Pulse& pulse) {
        const unsigned active = busy_ | queues_.offered();
        const bool shared = active & (1 << VECTOR | 1 << STORE) || load_.uses_acc() || fill_.uses_acc();
        const bool arrived = port().r_valid && port().id() == LOAD_ID;
        Moves moves;
        pulse.note(TENSOR, {queues_.offer(TENSOR) && tensor_.accepts(), tensor_.done()});
        state_ = tensor_.step(now_, queues_.offer(TENSOR), shared);
        if (active >> VECTOR & 1) pulse.note(VECTOR, vector_.step(now_, queues_.offer(VECTOR), vector_is_alone()));
        if (active >> STORE & 1) {
            const Outcome store = store_.step(now_, queues_.offer(STORE), memory_, uint64_t(now()));
            pulse.note(STORE, store);
            moves.store = store.moves;
        }
        if (active >> LOAD & 1) {
            const Outcome load = load_.step(now_, queues_.offer(LOAD), requested, arrived, arrived && port().last());
            pulse.note(LOAD, load);
            moves.load = load.moves;
            moves.read = unsigned(load.reads);
        }
        if (active >> FILL_ENGINE & 1) {
            const bool come = fill_port().r_valid;
            const Outcome fill =
                fill_.step(now_, queues_.offer(FILL_ENGINE), fill_requested, come, come && fill_port().last());
            pulse.note(FILL_ENGINE, fill);
            moves.fill = fill.moves;
            moves.read |= unsigned(fill.reads) << 1;
        }
        if (active >> ATTEND & 1 || attend_.active()) {
            const Outcome attend = attend_.step(queues_.offer(ATTEND), memory_, uint64_t(now()));
            pulse.note(ATTEND, attend);
            moves.attend = attend.moves;
            moves.read |= unsigned(attend.reads) << 2;
        }
        return moves;
    }

    /// Whether nobody else may use the vector engine's banks in this cycle, or later before another engine is stepped.
    bool vector_is_alone() {
        if (every_cycle_) return false;
        const uint32_t reads = acc_.reads() | tensor_.reads_banks() | store_.reads_banks();
        const uint32_t writes = acc_.writes() | tensor_.writes_banks() | load_.writes_banks() | fill_.writes_banks();
        return !(vector_.reads_banks() & reads) && !(vector_.writes_banks() & writes);
    }

    /// Notes the cycle; the vector engine tells itself what it does while it is busy.
    void tell(const Pulse& pulse) {
        const uint64_t waiting = queues_.waiting();
        const auto state = [&](int engine, bool moves) -> uint8_t {
            if (busy_ >> engine & 1) return moves ? Shown::BUSY : Shown::STALLED;
            return mask_of(waiting, engine) ? Shown::WAITING : Shown::IDLE;
        };
        account_.show(LOAD, now_, state(LOAD, last_.load));
        account_.show(FILL_ENGINE, now_, state(FILL_ENGINE, last_.fill));
        account_.show_tensor(now_, busy_ >> TENSOR & 1, mask_of(waiting, TENSOR), state_);
        if (!(busy_ >> VECTOR & 1)) account_.show(VECTOR, now_, state(VECTOR, false));
        account_.show(STORE, now_, state(STORE, last_.store));
        account_.show(ATTEND, now_, state(ATTEND, last_.attend));
        account_.show_read(now_, (last_.read & 1) + (last_.read >> 1 & 1) + (last_.read >> 2));
        if (pulse.taken | pulse.done) account_.pulse(now_, pulse.taken, pulse.done);
    }

    /// Cycles from now on in each of which the same happens as in the last one; FOREVER if nothing happens any more.
    Cycle quiet() {
        if (attend_.active()) return 0;
        if (port().r_valid && (load_.reads() || port().id() != LOAD_ID)) return 0;
        if (fill_port().r_valid && fill_.reads()) return 0;
        const bool loads = memory_.streams(0, uint64_t(now())) && load_.reads() && port().id() == LOAD_ID;
        const bool fills = memory_.streams(1, uint64_t(now())) && fill_.reads();
        const unsigned reading = unsigned(loads) | unsigned(fills) << 1;
        const bool writing = store_.writes(now_, memory_);
        if (reading != last_.read || writing != last_.store || moves()) return 0;
        Cycle cycles = Cycle(memory_.quiet(uint64_t(now()), reading, writing));
        if (cycles > 0) cycles = std::min(cycles, load_.quiet(loads, last_.load));
        if (cycles > 0) cycles = std::min(cycles, fill_.quiet(fills, last_.fill));
        if (cycles > 0) cycles = std::min(cycles, store_.quiet(now_, writing, memory_));
        if (cycles > 0) cycles = std::min({cycles, vector_.until() - now_, tensor_.until() - now_});
        return cycles <= 0 || conflict() ? 0 : cycles;
    }

    bool moves() const {
        const unsigned accepts =
            bits(load_.accepts(), tensor_.accepts(), vector_.accepts(), store_.accepts(), fill_.accepts(),
                 attend_.accepts());
        return arbiter_.moves(fetch_.request(), load_.request(), memory_.takes_reads(0)) ||
               (fill_.request() && memory_.takes_reads(1)) || fetch_.moves(queues_.accepts()) || queues_.moves(accepts);
    }

    /// Whether two engines might want the same bank before one of them is stepped.
    bool conflict() {
        const uint32_t reads = store_.reads_banks(), loaded = load_.writes_banks(), filled = fill_.writes_banks();
        const uint32_t writes = loaded | filled;
        if ((reads && reads & tensor_.reads_banks()) || (writes && writes & tensor_.writes_banks())) return true;
        if (loaded & filled) return true;
        return busy_ >> VECTOR & 1 && !vector_is_alone();
    }

    void skip(Cycle cycles) {
        memory_.skip(uint64_t(cycles), last_.read, last_.store);
        load_.skip(now_, cycles, last_.read & 1);
        fill_.skip(now_, cycles, last_.read >> 1 & 1);
        store_.skip(cycles, last_.store);
        now_ += cycles;
    }

    static constexpr int FETCH_ID = 0, LOAD_ID = 1;

    /// A bit for each engine.
    static unsigned bits(bool load, bool tensor, bool vector, bool store, bool fill, bool attend) {
        return unsigned(load) << LOAD | unsigned(tensor) << TENSOR | unsigned(vector) << VECTOR |
               unsigned(store) << STORE | unsigned(fill) << FILL_ENGINE | unsigned(attend) << ATTEND;
    }

    bool complete() const { return !busy_ && !fetch_.busy() && fetch_.finished() && queues_.empty(); }

    unsigned busy_engines() const {
        return bits(load_.busy(), tensor_.busy(), vector_.busy(), store_.busy(), fill_.busy(), attend_.busy());
    }

    /// The read request goes to the memory, the next one to the arbiter; returns whose it is, or -1.
    int request() {
        const bool leaves = arbiter_.valid() && port().ar_ready;
        if (leaves) memory_.take_read(0, arbiter_.beats(), arbiter_.id(), uint64_t(now()));
        return arbiter_.step(fetch_.request(), load_.request(), leaves);
    }

    /// The request of FILL goes to the memory; true if there is one and it is taken.
    bool request_fill() {
        const bool leaves = fill_.request() && fill_port().ar_ready;
        if (leaves) memory_.take_read(1, fill_.request(), LOAD_ID, uint64_t(now()));
        return leaves;
    }

    /// Read channels of program and LOAD, of FILL.
    const ReadTiming& port() const { return memory_.read[0]; }
    const ReadTiming& fill_port() const { return memory_.read[1]; }

    const Sizes sizes_;
    const AttendSizes attend_sizes_;
    const bool every_cycle_;
    Cycle now_ = 0, origin_ = 0, first_ = 0;  // since power-up; cycle 0 of the run; its first cycle
    bool ended_ = false, same_ = false;  // same_: the last cycle may be one of many
    unsigned busy_ = 0;                  // bits of engines
    uint32_t state_ = 0;                 // TensorState
    Moves last_;                         // what moved in the last cycle
    MemoryTiming memory_;
    AccPorts acc_;
    Arbiter arbiter_;
    Fetch fetch_;
    Queues queues_;
    LoadEngine load_, fill_;
    TensorEngine tensor_;
    VectorEngine vector_;
    StoreEngine store_;
    AttendEngine attend_;
    Account account_;
};
