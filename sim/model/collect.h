// hwgen/array/collect.py: results leave the drain buffers and reach the accumulator scratchpad.
#pragma once

#include "beats.h"

/// ResultCollector. `valid` and `flushed` hold the cycles in which a word, the end of a silent tile, is at its input.
class Collector {
  public:
    Fifo<Result> results;
    Pulses valid, flushed;

    Cycle ended() const { return ended_; }
    Cycle written() const { return row_ * (results.empty() ? 0 : results.front().tile_cols) + column_; }
    bool done() const { return done_; }
    bool writes(Cycle now) const { return valid.at(now); }
    uint32_t address() const {
        return results.front().acc_addr + uint32_t(row_) * results.front().acc_stride + column_;
    }

    Cycle left_in_row() const { return results.front().tile_cols - column_; }
    /// Words from this one to the last of its tile.
    Cycle left() const { return (results.front().rows - row_) * results.front().tile_cols - column_; }

    /// Words of this tile that come from cycle `now` on without a gap.
    Cycle coming(Cycle now) const { return valid.at(now) ? std::min(valid.length(), left()) : 0; }

    /// Cycles from `now` on in each of which the same happens: nothing, or a word comes that does not end its tile.
    Cycle quiet(Cycle now) const {
        if (done_ || flushed.at(now)) return 0;
        const Cycle cycles = flushed.next() - now;
        if (valid.at(now)) return std::min({cycles, valid.length(), left() - 1});
        if (flushes_ != 0 && !results.empty() && results.front().silent) return 0;
        return std::min(cycles, valid.next() - now);
    }

    void skip(Cycle now, Cycle cycles) {
        if (!valid.at(now)) return;
        valid.take(cycles);
        const Cycle cols = results.front().tile_cols, column = column_ + cycles;
        row_ += column / cols;
        column_ = uint32_t(column % cols);
    }

    void step(Cycle now) {
        const bool flush = flushed.at(now);
        done_ = false;
        if (valid.at(now)) {
            valid.take();
            take_word();
        } else if (flushes_ != 0 && !results.empty() && results.front().silent) {
            flushes_--;
            end();
        }
        if (flush) {
            flushed.take();
            flushes_++;
        }
    }

  private:
    void take_word() {
        if (++column_ != results.front().tile_cols) return;
        column_ = 0;
        if (++row_ != results.front().rows) return;
        row_ = 0;
        end();
    }

    void end() {
        ended_ += results.front().stationary;
        results.pop();
        done_ = true;
    }

    Cycle row_ = 0, ended_ = 0, flushes_ = 0;
    uint32_t column_ = 0;
    bool done_ = false;
};
