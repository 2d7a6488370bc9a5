// The way of earlier sums in hwgen/array/engine.py: beats of a weight-stationary tile read them a few cycles later.
#pragma once

#include "acc.h"

constexpr uint32_t NOWHERE = ~0u;

class Sums {
  public:
    /// `count` words from `address` on are read in as many cycles from `when` on.
    void add(Cycle when, uint32_t address, Cycle count) { runs_.push({when, address, count}); }

    /// Word that is read in cycle `now`, or NOWHERE.
    uint32_t at(Cycle now) const {
        for (size_t i = 0; i < runs_.size() && runs_[i].when <= now; i++)
            if (now < runs_[i].when + runs_[i].count) return runs_[i].address + uint32_t(now - runs_[i].when);
        return NOWHERE;
    }

    /// Forgets what is read before cycle `until`.
    void pass(Cycle until) {
        while (!runs_.empty() && runs_.front().when + runs_.front().count <= until) runs_.pop();
    }

    /// Banks of all the words, a bit for each.
    uint32_t banks(const AccPorts& acc) const {
        uint32_t banks = 0;
        for (size_t i = 0; i < runs_.size(); i++)
            banks |= acc.banks(runs_[i].address, runs_[i].address + uint32_t(runs_[i].count) - 1);
        return banks;
    }

  private:
    struct Run {
        Cycle when;
        uint32_t address;
        Cycle count;
    };
    Fifo<Run> runs_;
};
