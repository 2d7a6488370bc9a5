// The way of earlier sums in hwgen/array/engine.py: beats of a weight-stationary tile read them a few cycles later.
#pragma once

#include "acc.h"

class Sums {
  public:
    bool at(Cycle now) const { return next() <= now; }
    Cycle next() const { return runs_.empty() ? NEVER : runs_.front().when; }
    uint32_t address() const { return runs_.front().address; }

    /// `count` words from `address` on are read in as many cycles from `when` on.
    void add(Cycle when, uint32_t address, Cycle count) { runs_.push({when, address, count}); }

    /// Forgets what is read before cycle `until`.
    void pass(Cycle until) {
        while (next() < until) {
            Run& run = runs_.front();
            const Cycle passed = std::min(until - run.when, run.count);
            run.when += passed;
            run.address += uint32_t(passed);
            run.count -= passed;
            if (run.count == 0) runs_.pop();
        }
    }

    /// First cycle that does not go on reading the bank of `address` without a gap.
    Cycle same_bank_until(const AccPorts& acc) const {
        Cycle until = next();
        for (size_t i = 0; i < runs_.size(); i++) {
            const Run& run = runs_[i];
            if (run.when != until || acc.bank(run.address) != acc.bank(address())) break;
            const bool whole = acc.bank(run.address + uint32_t(run.count) - 1) == acc.bank(address());
            until += whole ? run.count : 1;
            if (!whole) break;
        }
        return until;
    }

  private:
    struct Run {
        Cycle when;
        uint32_t address;
        Cycle count;
    };
    Fifo<Run> runs_;
};
