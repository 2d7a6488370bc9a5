// hwgen/vector/engine.py: the vector engine.
#pragma once

#include "account.h"
#include "walk.h"

/// The words of a block, a step at a time: one word, or two of a row.
class Steps {
  public:
    bool active() const { return walker_.active(); }
    bool first() const { return walker_.first(); }
    bool last() const { return walker_.last(); }
    Cycle left() const { return walker_.left(); }

    /// `pace`: words of a row in a step; if `hold`, they are all its first one.
    void start(uint32_t addr, Cycle rows, uint32_t stride, Cycle words, bool hold, uint32_t pace) {
        walker_.start(addr, {(words + pace - 1) / pace, hold ? 0 : pace}, {rows, stride});
        pairs_ = pace == 2 && !hold;
        odd_ = words % 2;
        forget();
    }

    /// Moves through `ask` the words of the step that have not moved yet, notes in `any` if one does; whether all have.
    template <class Ask>
    bool move(Ask ask, bool& any) {
        const bool pair = pairs_ && !(odd_ && walker_.ends(0));
        for (int word = 0; word <= pair; word++)
            if (!moved_[word]) any |= moved_[word] = ask(walker_.word() + word);
        return moved_[0] && (moved_[1] || !pair);
    }
    void forget() { moved_[0] = moved_[1] = false; }
    bool begun() const { return moved_[0] || moved_[1]; }

    void next() {
        forget();
        walker_.next();
    }
    void skip(Cycle steps) { walker_.skip(steps); }
    uint32_t banks(const AccPorts& acc) const { return walker_.banks(acc, pairs_ && !odd_); }

  private:
    Walker walker_;
    bool pairs_ = false, odd_ = false;    // steps have two words, rows end with a step of one
    bool moved_[2] = {};                  // words of the step
};

/// While nobody else uses its banks it only notes how many cycles there were, and catches up before something shows.
class VectorEngine {
  public:
    VectorEngine(const Sizes& sizes, AccPorts& acc, Account& account)
        : latency_(sizes.vector_latency), pace_(sizes.vector_words), shared_(acc), own_(sizes), account_(account) {}

    bool accepts() const { return !active(); }
    bool busy() const { return active() || level_; }
    /// First cycle in which it may end an instruction, or accept one that it could not accept before.
    Cycle until() const { return busy() ? until_ : NEVER; }
    /// Banks that it may read, may write, before it accepts the next instruction; a bit for each.
    uint32_t reads_banks() const { return active() ? reads_banks_ : 0; }
    uint32_t writes_banks() const { return busy() ? writes_banks_ : 0; }

    /// One cycle, in which it is busy or is offered `command`. `alone`: nobody else uses its banks.
    Outcome step(Cycle now, const Instruction* command, bool alone) {
        if (alone && now < until_ && !(command && accepts())) return {};
        catch_up(now);
        const bool takes = command && accepts();
        Outcome outcome = pass(now, alone ? own_ : shared_);
        outcome.taken = takes;
        next_ = now + 1;
        if (takes) start(*command);
        until_ = alone ? next_ + quiet() : next_;
        return outcome;
    }

  private:
    struct Source {
        Steps steps;
        bool reads = false, once = false;
        bool needed() const { return reads && (steps.first() || !once); }
    };
    static constexpr int SOURCES = 3;

    bool active() const { return sources_[0].steps.active(); }
    /// Whether it asks for the words of a step.
    bool wants() const { return active() && (sources_[0].steps.first() ? level_ == 0 : level_ <= latency_); }

    /// Cycles from `next_` on in which certainly no instruction ends and none more could be accepted.
    Cycle quiet() const {
        Cycle cycles = active() ? sources_[0].steps.left() : NEVER;
        if (level_) cycles = std::min(cycles, std::max<Cycle>(ready_.next() - next_, 0) + target_.left() - 1);
        return cycles;
    }

    /// Passes the cycles before `now`, in which it was alone.
    void catch_up(Cycle now) {
        if (!busy()) next_ = now;
        while (next_ < now) {
            const Cycle cycles = std::min(streaming(), now - next_);
            if (cycles > 0) {
                stream(cycles);
                next_ += cycles;
            } else {
                pass(next_, own_);
                next_++;
            }
        }
    }

    /// Cycle `now`; `acc` has the ports of others that are more urgent.
    Outcome pass(Cycle now, AccPorts& acc) {
        Outcome outcome;
        if (!busy()) return outcome;
        if (&acc == &own_) acc.clear();
        const bool wanted = wants();
        write(now, acc, outcome);
        account_.show(VECTOR, now, outcome.moves ? Shown::BUSY : Shown::STALLED);
        if (wanted)
            read(now, acc);
        else
            for (Source& source : sources_) source.steps.forget();
        return outcome;
    }

    void write(Cycle now, AccPorts& acc, Outcome& outcome) {
        if (!ready_.at(now)) return;
        if (!target_.move([&](uint32_t word) { return acc.write(word); }, outcome.moves)) return;
        outcome.done = target_.last();
        ready_.take();
        target_.next();
        level_--;
    }

    void read(Cycle now, AccPorts& acc) {
        bool all = true, any = false;
        for (Source& source : sources_)
            if (source.needed()) all &= source.steps.move([&](uint32_t word) { return acc.read(word); }, any);
        if (!all) return;
        if (sources_[0].steps.first()) target_ = next_target_;
        ready_.add(now + latency_);
        level_++;
        for (Source& source : sources_) source.steps.next();
    }

    /// Cycles from `next_` on that each take a step and write a word, none of them the last.
    Cycle streaming() const {
        if (!wants() || sources_[0].steps.first() || own_conflict_ || !ready_.at(next_)) return 0;
        if (target_.begun()) return 0;
        for (const Source& source : sources_)
            if (source.steps.begun()) return 0;
        if (ready_.length() != level_ || ready_.next() + level_ != next_ + latency_) return 0;
        return std::min(sources_[0].steps.left(), target_.left()) - 1;
    }

    void stream(Cycle cycles) {
        account_.show(VECTOR, next_, Shown::BUSY);
        ready_.shift(cycles, 0);
        target_.skip(cycles);
        for (Source& source : sources_) source.steps.skip(cycles);
    }

    void start(const Instruction& item) {
        using namespace isa;
        const Cycle rows = item.get(Vector::rows), words = item.get(Vector::words);
        const Field fields[SOURCES][3] = {{Vector::x_addr, Vector::x_stride, Vector::x_hold},
                                          {Vector::y_addr, Vector::y_stride, Vector::y_hold},
                                          {Vector::z_addr, Vector::z_stride, Vector::z_hold}};
        uint32_t block[SOURCES][3];
        for (int i = 0; i < SOURCES; i++) {
            for (int part = 0; part < 3; part++) block[i][part] = uint32_t(item.get(fields[i][part]));
            const auto& [addr, stride, hold] = block[i];
            sources_[i].steps.start(addr, rows, stride, words, hold, pace_);
            sources_[i].reads = SOURCES_READ[item.get(Vector::operation)] > i;
            sources_[i].once = hold && stride == 0;
            for (int earlier = 0; earlier < i; earlier++)
                sources_[i].reads &= !std::equal(block[i], block[i] + 3, block[earlier]);
        }
        const uint32_t stride = uint32_t(item.get(Vector::d_stride)), writing = level_ ? target_.banks(own_) : 0;
        next_target_.start(uint32_t(item.get(Vector::d_addr)), rows, stride, words, false, pace_);
        writes_banks_ = writing | next_target_.banks(own_);
        look_at_sources();
    }

    /// Finds the banks that the instruction reads, and whether two sources may want the same one in every step.
    void look_at_sources() {
        uint32_t moving = 0;
        reads_banks_ = 0;
        own_conflict_ = false;
        for (const Source& source : sources_) {
            const uint32_t banks = source.reads ? source.steps.banks(own_) : 0;
            reads_banks_ |= banks;
            if (source.once) continue;
            own_conflict_ |= (moving & banks) != 0;
            moving |= banks;
        }
    }

    const Cycle latency_;
    const uint32_t pace_;
    AccPorts &shared_, own_;
    Account& account_;
    Source sources_[SOURCES];
    Steps target_, next_target_;  // words to be written by the steps that were taken, by those to come
    Pulses ready_;                 // cycles from which results may be written
    Cycle level_ = 0;              // steps taken whose word is not written
    Cycle next_ = 0, until_ = 0;   // first cycle that has not passed here; see `until`
    uint32_t reads_banks_ = 0, writes_banks_ = 0;
    bool own_conflict_ = false;  // two sources may want the same bank
};
