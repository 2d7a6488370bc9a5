// hwgen/vector/engine.py: the vector engine.
#pragma once

#include "walk.h"

class VectorEngine {
  public:
    VectorEngine(const Sizes& sizes, AccPorts& acc) : latency_(sizes.vector_latency), acc_(acc) {}

    bool accepts() const { return !active(); }
    bool busy() const { return active() || level_; }

    Outcome step(Cycle now, const Instruction* command) {
        const bool wanted = wants();
        Outcome outcome = write(now);
        outcome.taken = command && accepts();
        if (wanted)
            read(now);
        else
            for (Source& source : sources_) source.taken = false;
        if (outcome.taken) start(*command);
        return outcome;
    }

    bool writes(Cycle now) const { return ready_.at(now); }

    /// Cycles from `now` on in each of which it takes a step or not, and writes a word or not, as in the first of them.
    Cycle quiet(Cycle now) const {
        if (!busy()) return NEVER;
        const bool steps = wants();
        Cycle cycles = NEVER;
        if (steps && (sources_[0].walker.first() || conflicts() || ready_.length_or_zero() != level_)) return 0;
        if (steps) cycles = sources_[0].walker.left() - 1;
        if (!writes(now)) return std::min(cycles, ready_.next() - now);
        if (steps && ready_.next() + level_ != now + latency_) return 0;
        return std::min(cycles, (steps ? target_.left() : std::min(ready_.length(), target_.left())) - 1);
    }

    void skip(Cycle now, Cycle cycles) {
        const bool steps = wants(), writing = writes(now);
        if (steps) {
            ready_.add(now + latency_, cycles);
            for (Source& source : sources_) source.walker.skip(cycles);
            level_ += cycles;
        }
        if (writing) {
            ready_.take(cycles);
            target_.skip(cycles);
            level_ -= cycles;
        }
    }

    /// Banks that it may read and write as long as it is quiet.
    uint32_t reads_banks() const {
        uint32_t banks = 0;
        if (wants())
            for (const Source& source : sources_)
                if (source.needed()) banks |= source.walker.banks(acc_);
        return banks;
    }
    uint32_t writes_banks() const { return level_ ? target_.banks(acc_) : 0; }

  private:
    struct Source {
        Walker walker;
        bool reads = false, once = false, taken = false;
        bool needed() const { return reads && (walker.first() || !once); }
    };
    static constexpr int SOURCES = 3;

    bool active() const { return sources_[0].walker.active(); }
    /// Whether it asks for the words of a step.
    bool wants() const { return active() && (sources_[0].walker.first() ? level_ == 0 : level_ <= latency_); }

    Outcome write(Cycle now) {
        if (!writes(now) || !acc_.write(target_.word())) return {};
        Outcome outcome;
        outcome.done = target_.last();
        outcome.moves = true;
        ready_.take();
        target_.next();
        level_--;
        return outcome;
    }

    void read(Cycle now) {
        bool all = true;
        for (Source& source : sources_) {
            source.taken = !source.needed() || source.taken || acc_.read(source.walker.word());
            all &= source.taken;
        }
        if (!all) return;
        if (sources_[0].walker.first()) target_ = next_target_;
        ready_.add(now + latency_);
        level_++;
        for (Source& source : sources_) {
            source.taken = false;
            source.walker.next();
        }
    }

    /// Whether two sources may want the same bank, or one lacks words that it wanted before.
    bool conflicts() const {
        uint32_t banks = 0;
        for (const Source& source : sources_) {
            const uint32_t more = source.needed() ? source.walker.banks(acc_) : 0;
            if (source.taken || more & banks) return true;
            banks |= more;
        }
        return false;
    }

    void start(const Instruction& item) {
        using namespace isa;
        const uint32_t operation = uint32_t(item.get(Vector::operation));
        const Cycle rows = item.get(Vector::rows), words = item.get(Vector::words);
        const Field fields[SOURCES][3] = {{Vector::x_addr, Vector::x_stride, Vector::x_hold},
                                          {Vector::y_addr, Vector::y_stride, Vector::y_hold},
                                          {Vector::z_addr, Vector::z_stride, Vector::z_hold}};
        for (int i = 0; i < SOURCES; i++) {
            const uint32_t stride = uint32_t(item.get(fields[i][1]));
            const bool hold = item.get(fields[i][2]);
            sources_[i].walker.start(uint32_t(item.get(fields[i][0])), {words, !hold}, {rows, stride});
            sources_[i].reads = SOURCES_READ[operation] > i;
            sources_[i].once = hold && stride == 0;
        }
        const uint32_t stride = uint32_t(item.get(Vector::d_stride));
        next_target_.start(uint32_t(item.get(Vector::d_addr)), {words, 1}, {rows, stride});
    }

    const Cycle latency_;
    AccPorts& acc_;
    Source sources_[SOURCES];
    Walker target_, next_target_;  // words to be written by the steps that were taken, by those to come
    Pulses ready_;                 // cycles from which results may be written
    Cycle level_ = 0;              // steps taken whose word is not written
};
