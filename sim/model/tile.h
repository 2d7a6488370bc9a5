// hwgen/array/tile.py: a tensor instruction with everything derived from it, and its admission.
#pragma once

#include "base.h"

struct Tile {
    bool stationary, first, last, same;
    uint32_t group, words, tile_cols, tile_rows, ring, hop;
    uint32_t acc_addr, acc_stride;
    Cycle rows, steps, fetches;
    uint32_t area() const { return tile_cols * tile_rows; }
    bool reads_sums() const { return stationary && !first; }
    /// Accumulator word of the result.
    uint32_t word(Cycle row, uint32_t column) const { return acc_addr + uint32_t(row) * acc_stride + column; }
};

inline uint32_t ring_of(const Sizes& sizes, uint32_t tile_rows) {
    uint32_t blocks = 1;
    while (blocks < tile_rows) blocks *= 2;
    return std::max(1u, sizes.act_buffer / blocks);
}

inline Tile derive(const Sizes& sizes, const Instruction& item, const Tile& previous) {
    using namespace isa;
    const bool sparse = item.get(Tensor::sparse);
    Tile tile{};
    tile.stationary = item.get(Tensor::dataflow) == Dataflow::WEIGHT_STATIONARY;
    tile.first = item.get(Tensor::first);
    tile.last = item.get(Tensor::last);
    tile.tile_cols = item.get(Tensor::tile_cols);
    tile.tile_rows = item.get(Tensor::tile_rows);
    tile.rows = item.get(Tensor::rows);
    tile.acc_addr = item.get(Tensor::acc_addr);
    tile.acc_stride = item.get(Tensor::acc_stride);
    tile.group = sparse ? item.get(Tensor::m) : sizes.lanes;
    tile.words = sparse ? (item.get(Tensor::n) + sizes.lanes - 1) / sizes.lanes : 1;
    tile.steps = tile.stationary ? tile.rows : Cycle(item.get(Tensor::groups));
    tile.fetches = (tile.steps * tile.group + sizes.act_width - 1) / sizes.act_width;
    tile.ring = ring_of(sizes, tile.tile_rows);
    tile.hop = tile.stationary ? (tile.words - 1) * std::max(tile.tile_cols, sizes.chain) + sizes.chain + 1 : 1;
    tile.same = previous.stationary && previous.tile_cols == tile.tile_cols && previous.acc_addr == tile.acc_addr &&
                previous.acc_stride == tile.acc_stride;
    return tile;
}

/// TileAdmission: takes an instruction, derives, checks, hands over.
class Admission {
  public:
    explicit Admission(const Sizes& sizes) : sizes_(sizes) {}

    bool accepts() const { return state_ == TAKE; }
    bool offers() const { return state_ == ADMIT && ready_; }
    bool changing() const { return state_ == ADMIT && !ready_; }
    const Tile& tile() const { return tile_; }
    uint32_t hop() const { return hop_; }

    /// Cycles in which nothing happens here as long as `room`, `ended` and `issued` stay.
    Cycle quiet(bool room, bool ended, bool issued) const {
        if (state_ == TAKE) return NEVER;
        return state_ == ADMIT && !(ready_ ? room : may_change(ended, issued)) ? NEVER : 0;
    }

    /// `command`: an instruction is offered. `room`: the tile can be handed over. `ended`: no tile is under way.
    /// `issued`: all beats have entered the array.
    void step(const Instruction* command, bool room, bool ended, bool issued) {
        switch (state_) {
            case TAKE:
                if (!command) return;
                command_ = *command;
                state_ = DERIVE;
                return;
            case DERIVE:
                tile_ = derive(sizes_, command_, previous_);
                state_ = CHECK;
                return;
            case CHECK:
                ready_ = tile_.hop == hop_ && tile_.ring == previous_.ring;
                state_ = ADMIT;
                return;
            case ADMIT:
                admit(room, ended, issued);
        }
    }

  private:
    bool may_change(bool ended, bool issued) const { return ended || (issued && tile_.hop == hop_); }

    void admit(bool room, bool ended, bool issued) {
        const bool handed = ready_ && room;
        if (may_change(ended, issued)) {
            hop_ = tile_.hop;
            ready_ = true;
        }
        if (!handed) return;
        previous_ = tile_;
        state_ = TAKE;
    }

    const Sizes& sizes_;
    enum { TAKE, DERIVE, CHECK, ADMIT } state_ = TAKE;
    Instruction command_{};
    Tile tile_{}, previous_{};
    uint32_t hop_ = 1;
    bool ready_ = false;
};
