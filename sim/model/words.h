// hwgen/memory/words.py and the queue behind it: accumulator words that become beats.
#pragma once

#include "path.h"
#include "walk.h"

class WordReader {
  public:
    WordReader(const Sizes& sizes, const AccPorts& acc)
        : sizes_(sizes), latency_(sizes.store_latency), room_(sizes.store_buffer), acc_(acc) {}

    /// Whether all words of a job have been read; whether beats have not left.
    bool at_end() const { return !walker_.active(); }
    bool busy() const { return walker_.active() || used_; }

    void start(const Instruction& item, const Shape& shape) {
        using namespace isa;
        const Cycle rows = item.get(Store::rows), words = item.get(Store::words), cols = sizes_.cols;
        const uint32_t addr = uint32_t(item.get(Store::addr)), stride = uint32_t(item.get(Store::stride));
        const Loop planes{Cycle(item.get(Store::planes)), uint32_t(words)};
        const unsigned format = unsigned(item.get(Store::format));
        transpose_ = shape.transpose;
        wide_ = format == Format::FP32;
        if (wide_ || (format == Format::OPERAND && !transpose_))
            walker_.start(addr, {words, 1}, {rows, stride}, {1, 0}, planes);
        else if (transpose_)
            walker_.start(addr, {cols, stride}, {words, 1}, {rows / cols, uint32_t(cols) * stride}, planes);
        else
            walker_.start(addr, {rows, stride}, {words, 1}, {1, 0}, planes);
        banks_ = walker_.banks(acc_);
    }

    bool wants() const { return walker_.active() && used_ + 2 <= room_ && !splitting_; }
    uint32_t word() const { return walker_.word(); }
    bool transpose() const { return transpose_; }
    /// Whether the word is the last of a sequence.
    bool end() const { return walker_.ends(transpose_ ? 1 : 0); }
    /// Whether a beat is at the head of the queue.
    bool offers(Cycle now) const { return beats_.at(now); }

    /// `read`: the word has been; `leaves`: a beat has left the queue.
    void step(Cycle now, bool read, bool leaves) {
        const Cycle beats = read ? (wide_ ? 2 : 1) : 0;
        splitting_ = read && wide_;
        used_ += beats - Cycle(leaves);
        if (leaves) beats_.take();
        if (!read) return;
        beats_.add(now + latency_, beats);
        walker_.next();
    }

    /// Cycles from `now` on in each of which the same happens, if a beat leaves in each of them or in none (`leaving`).
    Cycle quiet(Cycle now, bool leaving) const {
        if (!leaving) return wants() || splitting_ ? 0 : offers(now) ? NEVER : beats_.next() - now;
        return steady(now) ? (walker_.left() - 1) * (wide_ ? 2 : 1) : 0;
    }

    /// `cycles` in each of which a beat leaves.
    void skip(Cycle cycles) {
        const Cycle reads = wide_ ? (cycles + !splitting_) / 2 : cycles, beats = wide_ ? 2 * reads : reads;
        beats_.shift(cycles, beats - cycles);
        used_ += beats - cycles;
        splitting_ ^= wide_ && cycles % 2;
        walker_.skip(reads);
    }

    /// Banks that it may read.
    uint32_t banks() const { return walker_.active() ? banks_ : 0; }

  private:
    /// Whether the beats that are on their way came one after the other until the last cycle, and more are to come.
    bool steady(Cycle now) const {
        return walker_.active() && beats_.length() == used_ && used_ - splitting_ + 2 <= room_ &&
               beats_.next() + used_ == now + latency_ + splitting_;
    }

    const Sizes& sizes_;
    const Cycle latency_, room_;
    const AccPorts& acc_;
    Walker walker_;
    Pulses beats_;        // cycles from which beats are in the queue, of those that have been read
    Cycle used_ = 0;      // how many there are
    uint32_t banks_ = 0;  // of all words of the job
    bool wide_ = false, transpose_ = false, splitting_ = false;
};
