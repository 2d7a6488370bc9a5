// hwgen/array/collect.py: results leave the drain buffers and reach the accumulator scratchpad.
#pragma once

#include "acc.h"
#include "beats.h"

/// ResultCollector. `valid` and `flushed` hold the cycles in which words, the end of a silent tile, are at its input.
class Collector {
  public:
    Fifo<Result> results;
    Pulses valid, flushed;

    Cycle ended() const { return ended_; }
    /// Steps in which words of this tile have been written; weight stationary, one word in each.
    Cycle written() const { return step_; }
    bool done() const { return done_; }

    /// Steps of this tile that come from cycle `now` on without a gap.
    Cycle coming(Cycle now) const { return valid.at(now) ? std::min(valid.length(), left()) : 0; }

    /// Writes what comes `ahead` steps after the next one.
    void write(Cycle ahead, AccPorts& acc) const {
        const Result& result = results.front();
        const Place place = place_of(result, step_ + ahead);
        const uint32_t base = result.acc_addr + uint32_t(place.row) * result.acc_stride;
        const uint32_t other = place.column ^ result.swap;
        if (place.column < result.tile_cols) acc.write(base + place.column);
        if (place.both && other < result.tile_cols) acc.write(base + result.acc_stride + other);
    }

    /// Banks that the next `steps` may write, a bit for each.
    uint32_t banks(Cycle steps, const AccPorts& acc) const {
        const Result& result = results.front();
        const Place low = place_of(result, step_), high = place_of(result, step_ + steps - 1);
        const uint32_t last = uint32_t(high.row + high.both) * result.acc_stride + result.tile_cols - 1;
        return acc.banks(result.acc_addr + uint32_t(low.row) * result.acc_stride, result.acc_addr + last);
    }

    /// Cycles from `now` on in each of which the same happens: nothing, or words come that do not end their tile.
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
        step_ += cycles;
    }

    void step(Cycle now) {
        const bool flush = flushed.at(now);
        done_ = false;
        if (valid.at(now)) {
            valid.take();
            if (++step_ == results.front().steps) end();
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
    /// What is written in a step: word `column` of output row `row`, and one of the next row if `both` drain.
    struct Place {
        Cycle row;
        uint32_t column;
        bool both;
    };

    static Place place_of(const Result& result, Cycle step) {
        const Cycle turn = step / result.turn_steps, column = step % result.turn_steps;
        if (!result.pairs) return {turn, uint32_t(column), false};
        if (turn < result.rows / 2) return {2 * turn, uint32_t(column), true};
        return {result.rows - 1, uint32_t(step - result.rows / 2 * result.turn_steps), false};
    }

    Cycle left() const { return results.front().steps - step_; }

    void end() {
        ended_ += results.front().stationary;
        results.pop();
        step_ = 0;
        done_ = true;
    }

    Cycle step_ = 0, ended_ = 0, flushes_ = 0;
    bool done_ = false;
};
