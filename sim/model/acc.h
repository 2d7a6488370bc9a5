// hwgen/memory/acc.py: who may use the banks of the accumulator scratchpad in a cycle.
#pragma once

#include "base.h"

/// Ports ask in the order of their urgency; `clear` starts a cycle.
class AccPorts {
  public:
    explicit AccPorts(const Sizes& sizes) : mask_(sizes.acc_depth - 1), shift_(log2_of(sizes.acc_depth / sizes.acc_banks)) {}

    uint32_t bank(uint32_t address) const { return (address & mask_) >> shift_; }
    /// Banks of the words `low` to `high`, a bit for each.
    uint32_t banks(uint32_t low, uint32_t high) const { return (2u << bank(high)) - (1u << bank(low)); }

    /// Words that are certainly in the bank of the first, of a block that goes on from `address` with the `left` words of
    /// its row, and then with rows of `cols` words, `stride` apart.
    Cycle same_bank(uint32_t address, Cycle left, Cycle cols, Cycle stride) const {
        const Cycle room = (Cycle(bank(address)) + 1 << shift_) - Cycle(address & mask_) - left;
        if (room < 0) return room + left;
        return stride ? left + room / stride * cols : NEVER;
    }

    void clear() { reads_ = writes_ = 0; }
    /// True if no more urgent port wants the bank.
    bool read(uint32_t address) { return ask(reads_, address); }
    bool write(uint32_t address) { return ask(writes_, address); }

  private:
    bool ask(uint32_t& wanted, uint32_t address) const {
        const uint32_t mask = 1u << bank(address);
        const bool free = !(wanted & mask);
        wanted |= mask;
        return free;
    }

    const uint32_t mask_, shift_;
    uint32_t reads_ = 0, writes_ = 0;
};
