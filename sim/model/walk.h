// hwgen/memory/walk.py and nest.py: words of a block in the order in which loops visit them.
#pragma once

#include "acc.h"

/// One loop: how often it goes round, and the words from round to round.
struct Loop {
    Cycle count;
    uint32_t step;
};

/// Up to four loops, the innermost first.
class Walker {
  public:
    bool active() const { return index_ < total_; }
    bool first() const { return index_ == 0; }
    bool last() const { return index_ == total_ - 1; }
    /// Whether the loop, and all inside it, are in their last round.
    bool ends(int loop) const { return loop < 0 || (rounds_[loop] == loops_[loop].count - 1 && ends(loop - 1)); }
    uint32_t word() const { return word_; }
    /// Words from this one to the last.
    Cycle left() const { return total_ - index_; }

    void start(uint32_t addr, Loop inner, Loop middle, Loop outer = {1, 0}, Loop outermost = {1, 0}) {
        loops_[0] = inner;
        loops_[1] = middle;
        loops_[2] = outer;
        loops_[3] = outermost;
        total_ = inner.count * middle.count * outer.count * outermost.count;
        addr_ = addr;
        jump(0);
    }

    void next() {
        index_++;
        for (int i = 0; i < LOOPS; i++) {
            word_ += loops_[i].step;
            if (++rounds_[i] != loops_[i].count) return;
            word_ -= uint32_t(loops_[i].count) * loops_[i].step;
            rounds_[i] = 0;
        }
    }

    void skip(Cycle words) {
        if (rounds_[0] + words >= loops_[0].count) return jump(index_ + words);
        rounds_[0] += words;
        index_ += words;
        word_ += uint32_t(words) * loops_[0].step;
    }

    /// Banks of the words from this one to the last, and of `more` that follow that one, a bit for each, and perhaps of
    /// others of the block.
    uint32_t banks(const AccPorts& acc, uint32_t more = 0) const {
        uint32_t low = addr_, high = addr_ + more;
        for (int i = LOOPS - 1; i > 0; i--) {
            low += uint32_t(rounds_[i]) * loops_[i].step;
            if (loops_[i].count != 1) break;
        }
        for (const Loop& loop : loops_) high += uint32_t(loop.count - 1) * loop.step;
        return acc.banks(low, high);
    }

  private:
    static constexpr int LOOPS = 4;

    void jump(Cycle index) {
        index_ = index;
        word_ = addr_;
        for (int i = 0; i < LOOPS; i++) {
            rounds_[i] = index % loops_[i].count;
            index /= loops_[i].count;
            word_ += uint32_t(rounds_[i]) * loops_[i].step;
        }
    }

    Loop loops_[LOOPS] = {};
    Cycle total_ = 0, index_ = 0, rounds_[LOOPS] = {};
    uint32_t addr_ = 0, word_ = 0;
};
