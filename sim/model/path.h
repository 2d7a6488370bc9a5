// hwgen/memory/path.py: rounded words that are transposed, reduced to N:M, or both.
#pragma once

#include "reduce.h"
#include "transpose.h"

/// What becomes of the beats of a STORE between the accumulators and memory.
struct Shape {
    bool transpose = false, packed = false;
    uint32_t n = 0, m = 0;

    Shape() = default;
    explicit Shape(const Instruction& item) {
        transpose = item.get(isa::Store::transpose);
        packed = item.get(isa::Store::format) == isa::Format::PACKED;
        n = packed ? uint32_t(item.get(isa::Store::n)) : 0;
        m = packed ? uint32_t(item.get(isa::Store::m)) : 0;
    }
    /// Whether its beats go through the path.
    bool shaped() const { return transpose || packed; }
    bool reduced_alike(const Shape& other) const { return packed == other.packed && n == other.n && m == other.m; }
};

class BeatPath {
  public:
    explicit BeatPath(const Sizes& sizes) : room_(sizes.store_output), transposer_(sizes), reducer_(sizes) {}

    bool busy() const { return transposer_.busy() || reducer_.busy(); }
    bool offers() const { return queued_ != 0; }
    Cycle queued() const { return queued_; }

    /// The reduction of the beats to come.
    void start(const Shape& shape) {
        packed_ = shape.packed;
        if (packed_) reducer_.start(shape.n, shape.m);
    }

    /// `offered`: a beat is; `transpose` and `end` (of its sequence) are its flags. `taken`: the first one of the queue
    /// goes. True if the beat that is offered is taken.
    bool step(bool offered, bool transpose, bool end, bool taken) {
        const bool room = queued_ != room_, turned = transposer_.offers(), full = transposer_.busy();
        const bool ready = packed_ ? reducer_.accepts() : room;
        const bool comes = offered && (transpose ? transposer_.accepts() : ready && !full);
        const bool middle = ready && (turned || (comes && !transpose));
        const bool enters = packed_ ? reducer_.offers() && room : middle;
        if (packed_) reducer_.step(middle, turned ? transposer_.end() : end, enters);
        transposer_.step(comes && transpose, end, turned && ready);
        queued_ += Cycle(enters) - Cycle(taken);
        return comes;
    }

    /// `cycles` in each of which a beat leaves the queue and nothing else happens.
    void skip(Cycle cycles) { queued_ -= cycles; }

  private:
    const Cycle room_;
    Transposer transposer_;
    Reducer reducer_;
    bool packed_ = false;
    Cycle queued_ = 0;
};
