// hwgen/memory/transpose.py: when the transposer takes words and gives columns.
#pragma once

#include "base.h"

class Transposer {
  public:
    explicit Transposer(const Sizes& sizes) : cols_(sizes.cols) {}

    bool busy() const { return full_[0] || full_[1] || written_ || offers_; }
    bool accepts() const { return !full_[write_]; }
    bool offers() const { return offers_; }
    /// Whether the column that is offered is the last of a sequence.
    bool end() const { return end_; }

    /// Cycles in which it can take a word and give a column in each, without ending a block.
    Cycle quiet() const {
        if (!offers_ || !full_[read_] || full_[write_]) return 0;
        return cols_ - 1 - std::max(written_, given_);
    }
    void skip(Cycle cycles) {
        written_ += uint32_t(cycles);
        given_ += uint32_t(cycles);
    }

    /// `comes`: a word is taken; `end`: it is the last of a sequence. `taken`: the column that is offered goes.
    void step(bool comes, bool end, bool taken) {
        const bool reads = full_[read_] && (!offers_ || taken);
        if (taken) offers_ = false;
        if (comes && ++written_ == cols_) {
            full_[write_] = true;
            ends_[write_] = end;
            written_ = 0;
            write_ ^= 1;
        }
        if (!reads) return;
        offers_ = true;
        end_ = ++given_ == cols_ && ends_[read_];
        if (given_ != cols_) return;
        full_[read_] = false;
        given_ = 0;
        read_ ^= 1;
    }

  private:
    const uint32_t cols_;
    bool full_[2] = {}, ends_[2] = {}, offers_ = false, end_ = false;
    uint32_t write_ = 0, read_ = 0, written_ = 0, given_ = 0;  // blocks, words in them
};
