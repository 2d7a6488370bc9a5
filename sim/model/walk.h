// hwgen/memory/walk.py: words of a strided block, one at a time.
#pragma once

#include "acc.h"

class Walker {
  public:
    bool active() const { return rows_left_ != 0; }
    bool first() const { return first_; }
    bool last() const { return rows_left_ == 1 && words_left_ == 1; }
    uint32_t word() const { return at_; }
    /// Words from this one to the last, to the last of the row.
    Cycle left() const { return (rows_left_ - 1) * words_ + words_left_; }
    Cycle left_in_row() const { return words_left_; }

    /// `hold`: all words of a row are its first one.
    void start(Cycle rows, Cycle words, uint32_t addr, uint32_t stride, bool hold = false) {
        rows_left_ = rows;
        words_ = words_left_ = words;
        at_ = row_ = addr;
        stride_ = stride;
        step_ = !hold;
        first_ = true;
    }

    void next() { skip(1); }

    void skip(Cycle words) {
        first_ = false;
        if (words < words_left_) {
            words_left_ -= words;
            at_ += step_ * uint32_t(words);
            return;
        }
        const Cycle done = words_ - words_left_ + words, rows = done / words_, rest = done % words_;
        rows_left_ -= rows;
        words_left_ = words_ - rest;
        row_ += uint32_t(rows) * stride_;
        at_ = row_ + step_ * uint32_t(rest);
    }

    /// Banks of the words from this one to the last, a bit for each.
    uint32_t banks(const AccPorts& acc) const {
        const uint32_t last = row_ + uint32_t(rows_left_ - 1) * stride_ + step_ * uint32_t(words_ - 1);
        return acc.banks(std::min(at_, last), std::max(at_, last));
    }

  private:
    bool first_ = false;
    Cycle rows_left_ = 0, words_left_ = 0, words_ = 0;
    uint32_t at_ = 0, row_ = 0, stride_ = 0, step_ = 1;
};
