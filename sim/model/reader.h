// hwgen/memory/narrow.py and path.py: accumulator words become beats, straight, transposed or reduced.
#pragma once

#include "reduce.h"
#include "transpose.h"
#include "walk.h"

class StoreReader {
  public:
    StoreReader(const Sizes& sizes, AccPorts& acc)
        : sizes_(sizes), latency_(sizes.store_latency), room_(sizes.store_buffer), acc_(acc), transposer_(sizes),
          reducer_(sizes) {}

    /// Whether nothing is inside.
    bool idle() const { return used_ == 0 && !walker_.active() && !path_busy(); }
    /// Whether a job begins: at the end of a cycle in whose beginning the reader was `idle` or not.
    bool accepts(const Instruction& item, bool idle) const {
        return !walker_.active() && (idle || path_ == Path(item));
    }

    void start(const Instruction& item) {
        using namespace isa;
        const Cycle rows = item.get(Store::rows), words = item.get(Store::words), cols = sizes_.cols;
        const uint32_t addr = uint32_t(item.get(Store::addr)), stride = uint32_t(item.get(Store::stride));
        const unsigned format = unsigned(item.get(Store::format));
        path_ = Path(item);
        wide_ = format == Format::FP32;
        if (wide_ || (format == Format::OPERAND && !path_.transpose))
            walker_.start(addr, {words, 1}, {rows, stride});
        else if (path_.transpose)
            walker_.start(addr, {cols, stride}, {words, 1}, {rows / cols, uint32_t(cols) * stride});
        else
            walker_.start(addr, {rows, stride}, {words, 1});
        if (path_.packed) reducer_.start(path_.n, path_.m);
        banks_ = walker_.banks(acc_);
    }

    /// Whether a beat is offered to memory.
    bool offers(Cycle now) const {
        if (path_.packed) return reducer_.offers();
        return path_.transpose ? transposer_.offers() : beats_.at(now);
    }

    /// `taken`: the beat that is offered goes.
    void step(Cycle now, bool taken) {
        const bool leaves = move(now, taken), read = wants() && acc_.read(walker_.word());
        const Cycle beats = read ? (wide_ ? 2 : 1) : 0;
        splitting_ = read && wide_;
        used_ += beats - Cycle(leaves);
        if (leaves) beats_.take();
        if (!read) return;
        beats_.add(now + latency_, beats);
        if (path_.packed) ends_.push(walker_.ends(path_.transpose ? 1 : 0));
        walker_.next();
    }

    /// Cycles from `now` on in each of which the same happens, if a beat goes in each of them or in none (`writing`).
    Cycle quiet(Cycle now, bool writing) const {
        if (path_.packed) return idle() ? NEVER : 0;
        if (path_.transpose) {
            if (writing && steady(now)) return std::min(transposer_.quiet(), walker_.left() - 1);
            return idle() ? NEVER : 0;
        }
        if (!writing) return wants() || splitting_ ? 0 : offers(now) ? NEVER : beats_.next() - now;
        if (!steady(now)) return 0;
        return (walker_.left() - 1) * (wide_ ? 2 : 1);
    }

    void skip(Cycle cycles, bool writing) {
        if (!writing) return;
        const Cycle reads = wide_ ? (cycles + !splitting_) / 2 : cycles, beats = wide_ ? 2 * reads : reads;
        beats_.shift(cycles, beats - cycles);
        used_ += beats - cycles;
        splitting_ ^= wide_ && cycles % 2;
        walker_.skip(reads);
        if (path_.transpose) transposer_.skip(cycles);
    }

    /// Banks that it may read.
    uint32_t reads_banks() const { return walker_.active() ? banks_ : 0; }

  private:
    /// The way of beats to memory.
    struct Path {
        bool transpose = false, packed = false;
        uint32_t n = 0, m = 0;

        Path() = default;
        explicit Path(const Instruction& item) {
            transpose = item.get(isa::Store::transpose);
            packed = item.get(isa::Store::format) == isa::Format::PACKED;
            n = packed ? uint32_t(item.get(isa::Store::n)) : 0;
            m = packed ? uint32_t(item.get(isa::Store::m)) : 0;
        }
        bool operator==(const Path& other) const {
            return transpose == other.transpose && packed == other.packed && n == other.n && m == other.m;
        }
    };

    /// Whether the beats that are on their way came one after the other until the last cycle, and more are to come.
    bool steady(Cycle now) const {
        return walker_.active() && beats_.length() == used_ && used_ - splitting_ + 2 <= room_ &&
               beats_.next() + used_ == now + latency_ + splitting_;
    }
    bool wants() const { return walker_.active() && used_ + 2 <= room_ && !splitting_; }
    bool path_busy() const { return transposer_.busy() || reducer_.busy(); }

    /// Moves beats along the path; true if one leaves the buffer. `taken`: one goes to memory.
    bool move(Cycle now, bool taken) {
        const bool offered = beats_.at(now), middle = path_.transpose ? transposer_.offers() : offered;
        const bool middle_goes = path_.packed ? middle && reducer_.accepts() : taken;
        const bool leaves = path_.transpose ? offered && transposer_.accepts() : middle_goes;
        bool end = false;
        if (leaves && path_.packed) {
            end = ends_.front();
            ends_.pop();
        }
        if (path_.packed) reducer_.step(middle_goes, path_.transpose ? transposer_.end() : end, taken);
        if (path_.transpose) transposer_.step(leaves, end, middle_goes);
        return leaves;
    }

    const Sizes& sizes_;
    const Cycle latency_, room_;
    AccPorts& acc_;
    Transposer transposer_;
    Reducer reducer_;
    Path path_;
    Walker walker_;
    Pulses beats_;        // cycles from which beats are in the buffer, of those that have been read
    Fifo<uint8_t> ends_;  // PACKED: whether each of them is the last of a sequence
    Cycle used_ = 0;      // how many there are
    uint32_t banks_ = 0;  // of all words of the job
    bool wide_ = false, splitting_ = false;
};
