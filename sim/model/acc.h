// hwgen/memory/acc.py: who may use the banks of the accumulator scratchpad in a cycle.
#pragma once

#include "base.h"

/// Ports ask in the order of their urgency; `clear` starts a cycle.
class AccPorts {
  public:
    explicit AccPorts(const Sizes& sizes)
        : mask_(sizes.acc_depth - 1), shift_(log2_of(sizes.acc_depth / sizes.acc_banks)), split_(sizes.acc_halves - 1) {}

    /// Banks of the words `low` to `high`, a bit for each.
    uint32_t banks(uint32_t low, uint32_t high) const {
        if (low == high) return 1u << bank(low);
        return (2u << (bank(high) | split_)) - (1u << (bank(low) & ~split_));
    }

    /// Banks that have been asked for in this cycle.
    uint32_t reads() const { return reads_; }
    uint32_t writes() const { return writes_; }

    void clear() { reads_ = writes_ = 0; }
    /// True if no more urgent port wants the bank.
    bool read(uint32_t address) { return ask(reads_, address); }
    bool write(uint32_t address) { return ask(writes_, address); }

  private:
    /// The top bits of the address; if banks are in halves also its lowest bit.
    uint32_t bank(uint32_t address) const { return (address & mask_) >> shift_ << split_ | (address & split_); }

    bool ask(uint32_t& wanted, uint32_t address) const {
        const uint32_t mask = 1u << bank(address);
        const bool free = !(wanted & mask);
        wanted |= mask;
        return free;
    }

    const uint32_t mask_, shift_, split_;
    uint32_t reads_ = 0, writes_ = 0;
};
