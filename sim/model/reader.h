// hwgen/memory/reader.py: accumulator words become beats, on one of two ways.
#pragma once

#include "words.h"

class StoreReader {
  public:
    StoreReader(const Sizes& sizes, AccPorts& acc)
        : sizes_(sizes), acc_(acc), straight_(sizes, acc), shaped_(sizes, acc), path_(sizes) {}

    /// Whether the way through the path is empty but for beats at its end.
    bool idle() const { return !shaped_.busy() && !path_.busy(); }
    /// Whether there is room for the job.
    bool accepts(const Instruction& item) const {
        return (Shape(item).shaped() ? shaped_jobs_ : straight_jobs_).size() < std::max(2u, sizes_.queue_depth);
    }
    void push(const Instruction& item) { (Shape(item).shaped() ? shaped_jobs_ : straight_jobs_).push(item); }

    /// Jobs that begin at the end of a cycle in whose beginning the path was `idle` or not.
    bool starts_straight() const { return !straight_jobs_.empty() && straight_.at_end(); }
    bool starts_shaped(bool idle) const {
        return !shaped_jobs_.empty() && shaped_.at_end() && (idle || shape_.reduced_alike(Shape(shaped_jobs_.front())));
    }

    /// Whether a beat is offered to memory, at the end of the path (`shaped`) or of the straight way.
    bool offers(Cycle now, bool shaped) const { return shaped ? path_.offers() : straight_.offers(now); }

    /// `taken`: a beat of the way that memory waits for goes.
    void step(Cycle now, bool taken, bool shaped) {
        const bool was_idle = idle();
        read(now, taken, shaped);
        if (starts_straight()) {
            straight_.start(straight_jobs_.front(), Shape());
            straight_jobs_.pop();
        }
        if (starts_shaped(was_idle)) {
            shape_ = Shape(shaped_jobs_.front());
            shaped_.start(shaped_jobs_.front(), shape_);
            path_.start(shape_);
            shaped_jobs_.pop();
        }
    }

    /// Cycles from `now` on in each of which the same happens, if a beat goes in each of them or in none (`writing`).
    Cycle quiet(Cycle now, bool writing, bool shaped) const {
        if (!idle() || starts_straight() || starts_shaped(true)) return 0;
        const Cycle cycles = straight_.quiet(now, writing && !shaped);
        return writing && shaped ? std::min(cycles, path_.queued()) : cycles;
    }

    void skip(Cycle cycles, bool writing, bool shaped) {
        if (!writing) return;
        if (shaped)
            path_.skip(cycles);
        else
            straight_.skip(cycles);
    }

    /// Banks that it may read.
    uint32_t reads_banks() const { return straight_.banks() | shaped_.banks(); }

  private:
    /// Of a word on its way to the path.
    struct Flags {
        bool transpose = false, end = false;
    };

    void read(Cycle now, bool taken, bool shaped) {
        const bool first = straight_.wants(), second = !first && shaped_.wants();
        const bool reads = (first || second) && acc_.read(first ? straight_.word() : shaped_.word());
        straight_.step(now, first && reads, taken && !shaped);
        if (idle()) {
            path_.skip(taken && shaped);
            return;
        }
        const bool offered = shaped_.offers(now);
        const Flags flags = offered ? flags_.front() : Flags{};
        const bool leaves = path_.step(offered, flags.transpose, flags.end, taken && shaped);
        if (leaves) flags_.pop();
        if (second && reads) flags_.push({shaped_.transpose(), shaped_.end()});
        shaped_.step(now, second && reads, leaves);
    }

    const Sizes& sizes_;
    AccPorts& acc_;
    WordReader straight_, shaped_;
    BeatPath path_;
    Fifo<Instruction> straight_jobs_, shaped_jobs_;
    Shape shape_;        // of the last job on the path
    Fifo<Flags> flags_;  // of the words that have been read for the path and are not in it
};
