// hwgen/array/feed.py: when activations reach the rings and stationary weights the weight buffers.
#pragma once

#include "tile.h"

/// ActivationFeeder; positions do not wrap here.
class Feeder {
  public:
    explicit Feeder(const Sizes& sizes) : width_(sizes.act_width) {}

    Fifo<Tile> tiles;
    Cycle fetched() const { return fetched_; }

    void step(Cycle released) {
        if (tiles.empty()) return;
        const Tile& tile = tiles.front();
        if (!room(released) || ++block_ != tile.tile_rows) return;
        block_ = 0;
        fetched_ += width_;
        if (++words_ != tile.fetches) return;
        words_ = 0;
        tiles.pop();
    }

    /// Cycles until the tile is fetched, but the last.
    Cycle quiet(Cycle released) const {
        if (tiles.empty() || !room(released)) return NEVER;
        return (tiles.front().fetches - words_) * tiles.front().tile_rows - block_ - 1;
    }

    /// Cycles until `position` is in the rings.
    Cycle until(Cycle position, Cycle released) const {
        if (tiles.empty() || !room(released)) return NEVER;
        return (position - fetched_ + width_ - 1) / width_ * tiles.front().tile_rows - block_;
    }

    /// Groups of `group` values, of `beats` beats each, that follow the one that ended in the cycle before and
    /// certainly find their activations when they begin; meanwhile the fetch of a tile does not end.
    Cycle groups(Cycle group, Cycle beats, Cycle released) const {
        if (tiles.empty()) return (fetched_ - released) / group;
        const Tile& tile = tiles.front();
        const bool whole = group % width_ == 0 && released % width_ == 0;
        const bool full = block_ == 0 && fetched_ + width_ > released - group + tile.ring;
        const bool keeps_up = (group + width_ - 1) / width_ * tile.tile_rows <= beats;
        if (!full || !keeps_up || tile.ring - (whole ? 0 : width_ - 1) < 2 * group) return 0;
        return std::max<Cycle>(0, (tile.fetches - words_ - 1) * width_ + fetched_ - released - tile.ring) / group;
    }

    void skip(Cycle cycles, Cycle released) {
        if (tiles.empty() || !room(released)) return;
        const Tile& tile = tiles.front();
        const Cycle room_for = (tile.ring - (fetched_ - released)) / width_ * tile.tile_rows;
        const Cycle steps = std::min(block_ + cycles, room_for), words = steps / tile.tile_rows;
        block_ = uint32_t(steps % tile.tile_rows);
        fetched_ += words * width_;
        words_ += words;
    }

  private:
    bool room(Cycle released) const { return fetched_ - released + width_ <= tiles.front().ring; }

    const Cycle width_;
    Cycle fetched_ = 0, words_ = 0;  // words_: of the tile, fetched
    uint32_t block_ = 0;
};

/// WeightPreloader.
class Preloader {
  public:
    explicit Preloader(const Sizes& sizes) : rows_(sizes.rows), chain_(sizes.chain) {}

    Fifo<Tile> tiles;
    Cycle loaded() const { return loaded_; }

    bool safe() const {
        return !tiles.empty() && offset_ > lead();
    }

    void step(Cycle ended) {
        if (!steps(ended) || ++offset_ != slots()) return;
        offset_ = 0;
        loaded_++;
        tiles.pop();
    }

    /// Cycles until the tile is loaded, but the last.
    Cycle quiet(Cycle ended) const { return steps(ended) ? slots() - offset_ - 1 : NEVER; }
    Cycle until_safe(Cycle ended) const { return steps(ended) ? lead() + 1 - offset_ : NEVER; }

    void skip(Cycle cycles, Cycle ended) {
        if (steps(ended)) offset_ += cycles;
    }

  private:
    bool steps(Cycle ended) const { return !tiles.empty() && loaded_ - ended <= 1; }
    Cycle slots() const { return rows_ * tiles.front().words * tiles.front().tile_cols; }
    /// Slots that must be loaded before beats may start.
    Cycle lead() const { return std::max<Cycle>(tiles.front().tile_cols - chain_, 0) * (rows_ - 1); }

    const Cycle rows_, chain_;
    Cycle offset_ = 0, loaded_ = 0;  // slots of the tile, tiles
};
