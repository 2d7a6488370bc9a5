// hwgen/array/beats.py: whether the next beat of a tile may enter the array.
#pragma once

#include "feed.h"
#include "sums.h"

/// Where the results of a tile go, and in how many steps. Rows take turns, or pairs of rows (`pairs`); the odd row of a
/// pair sends word `column ^ swap`.
struct Result {
    bool silent, stationary, pairs;
    uint32_t swap, tile_cols, acc_addr, acc_stride;
    Cycle rows, turn_steps, steps;

    static Result of(const Sizes& sizes, const Tile& tile) {
        Result result{!tile.last,        tile.stationary, sizes.drain == 2 && !tile.stationary, 0, tile.tile_cols,
                      tile.acc_addr, tile.acc_stride, tile.rows, tile.tile_cols, tile.rows * tile.tile_cols};
        if (!result.pairs) return result;
        result.swap = tile.acc_stride % 2 == 0;
        if (result.swap) result.turn_steps += tile.tile_cols % 2;
        result.steps = tile.rows / 2 * result.turn_steps + tile.rows % 2 * tile.tile_cols;
        return result;
    }
};

/// What the other sequencers show in a cycle.
struct Around {
    Cycle fetched, loaded, ended, written, draining_until;
    Cycle coming;  // steps of the tile being collected that come from this cycle on without a gap
    bool safe, results_room;
};

/// What a beat does beside taking products.
struct Beat {
    bool fire, starts, leaving, sum, emit, flush;
    uint32_t sum_address;
    Result result;
};

class Beats {
  public:
    explicit Beats(const Sizes& sizes)
        : sizes_(sizes), chain_(sizes.chain), width_(sizes.act_width), kept_(sizes.interleave_max, -NEVER) {}

    Fifo<Tile> tiles;
    Cycle released() const { return released_; }
    uint32_t state() const { return state_; }

    Beat step(Cycle now, const Around& around) {
        Beat beat{};
        state_ = isa::TensorState::IDLE;
        if (tiles.empty()) return beat;
        const Tile& tile = tiles.front();
        state_ = obstacle(tile, now, around);
        if (state_ != isa::TensorState::BUSY) return beat;
        beat = describe(tile);
        if (keeps(tile)) kept_[index_] = now;
        advance(tile, beat);
        return beat;
    }

    /// Cycles from `now` on in each of which the same happens, as in the one before.
    Cycle quiet(Cycle now, const Around& around, const Feeder& feeder, const Preloader& preloader) const {
        using namespace isa::TensorState;
        if (tiles.empty()) return state_ == IDLE ? NEVER : 0;
        const Tile& tile = tiles.front();
        const uint32_t state = obstacle(tile, now, around);
        if (state != state_) return 0;
        if (state == BUSY) return firing(tile, now, around, feeder);
        if (state == BUBBLE) return kept_[index_] + chain_ - now;
        if (state == WEIGHTS) return around.loaded == stationary_ ? preloader.until_safe(around.ended) : NEVER;
        if (state == DRAIN) return now <= around.draining_until ? around.draining_until + 1 - now : NEVER;
        if (lacks_activations(tile, around)) return feeder.until(released_ + tile.group, released_);
        return around.coming ? std::max<Cycle>(issued_ + 1 - around.written, 0) : NEVER;
    }

    bool fires() const { return state_ == isa::TensorState::BUSY && !tiles.empty(); }
    bool reads_sums() const { return fires() && tiles.front().reads_sums(); }
    /// Word of the earlier sum that is read by the beat `ahead` beats after the next one of this tile, or NOWHERE.
    uint32_t sum(Cycle ahead) const {
        const Tile& tile = tiles.front();
        const Cycle beat = word_ * tile.area() + index_ + ahead, group = Cycle(tile.words) * tile.area();
        const Cycle column = beat % group;
        return column < tile.area() ? tile.word(step_ + beat / group, uint32_t(column)) : NOWHERE;
    }
    /// Banks of the sums from this row on, a bit for each.
    uint32_t sum_banks(const AccPorts& acc) const {
        const Tile& tile = tiles.front();
        return acc.banks(tile.word(step_, 0), tile.word(tile.rows - 1, tile.tile_cols - 1));
    }
    /// Beats of the word that are to come.
    Cycle left() const { return tiles.front().area() - index_; }

    /// Fires `beats` beats of a word from cycle `now` on, as `quiet` has promised. Returns what each of them does.
    Beat skip(Cycle now, Cycle beats) {
        const Tile& tile = tiles.front();
        Beat beat = describe(tile);
        if (keeps(tile))
            for (Cycle i = 0; i < beats; i++) kept_[index_ + i] = now + i;
        advance(tile, beat, uint32_t(beats));
        return beat;
    }

  private:
    Beat describe(const Tile& tile) const {
        Beat beat{};
        beat.fire = true;
        beat.starts = !running_;
        beat.leaving = start_of_word() && leaves(tile);
        beat.sum = tile.reads_sums() && word_ == 0;
        beat.sum_address = tile.word(step_, index_);
        if (beat.starts || beat.leaving) beat.result = Result::of(sizes_, tile);
        beat.emit = tile.stationary && last_word(tile);
        return beat;
    }

    /// Beats that enter one after the other and do the same, up to the last but one of the word, or to the last group.
    Cycle firing(const Tile& tile, Cycle now, const Around& around, const Feeder& feeder) const {
        if (!running_ || (start_of_word() && leaves(tile))) return 0;
        Cycle beats = tile.area() - 1 - index_;
        const Cycle sums = sums_ready(tile, around);
        if (word_ == 0) beats = std::min(beats, sums);
        if (continues(tile))
            for (Cycle i = 1; i <= beats; i++)
                if (now + i - kept_[index_ + i] < chain_) return i;
        const bool gapless = tile.area() >= chain_ || (tile.stationary && tile.words == 1);
        if (index_ != 0 || word_ != 0 || !gapless) return beats;
        const Cycle group_beats = Cycle(tile.words) * tile.area();
        const Cycle groups = std::min(tile.steps - step_ - 1, feeder.groups(tile.group, group_beats, released_));
        return std::max(beats, std::min(groups, sums / tile.area()) * group_beats);
    }

    /// Beats of first words that find their earlier sums written, one in every cycle from now on.
    Cycle sums_ready(const Tile& tile, const Around& around) const {
        return !tile.reads_sums() || stationary_ == around.ended ? NEVER : around.written - issued_ + around.coming;
    }

    bool lacks_activations(const Tile& tile, const Around& around) const {
        return start_of_word() && word_ == 0 && around.fetched - released_ < tile.group;
    }

    bool start_of_word() const { return index_ == 0; }
    bool last_word(const Tile& tile) const { return word_ == tile.words - 1; }
    bool leaves(const Tile& tile) const {
        return !tile.stationary && tile.last && last_word(tile) && step_ == tile.steps - 1;
    }
    bool keeps(const Tile& tile) const { return tile.stationary ? !last_word(tile) : !leaves(tile); }
    bool continues(const Tile& tile) const {
        return tile.stationary ? word_ != 0 : !(tile.first && word_ == 0 && step_ == 0);
    }

    /// The first reason to wait, or BUSY.
    uint32_t obstacle(const Tile& tile, Cycle now, const Around& around) const {
        using namespace isa::TensorState;
        const bool starting = !running_;
        if (starting && tile.stationary && !loaded(around)) return WEIGHTS;
        if (lacks_activations(tile, around)) return FILL;
        if (tile.reads_sums() && word_ == 0 && !earlier_written(tile, around)) return FILL;
        if (continues(tile) && now - kept_[index_] < chain_) return BUBBLE;
        if (start_of_word() && leaves(tile) && now <= around.draining_until) return DRAIN;
        if (starting && !around.results_room) return DRAIN;
        return BUSY;
    }

    bool loaded(const Around& around) const {
        const Cycle ahead = around.loaded - stationary_;
        return ahead > 0 || (ahead == 0 && around.safe);
    }

    bool earlier_written(const Tile& tile, const Around& around) const {
        const Cycle behind = stationary_ - around.ended;
        return behind == 0 || (behind == 1 && tile.same && around.written > issued_);
    }

    void advance(const Tile& tile, Beat& beat, uint32_t beats = 1) {
        running_ = true;
        if (word_ == 0) issued_ += beats;
        if ((index_ += beats) != tile.area()) return;
        index_ = 0;
        if (++word_ != tile.words) return;
        word_ = 0;
        released_ += tile.group;
        if (++step_ != tile.steps) return;
        beat.flush = !tile.last;
        step_ = issued_ = 0;
        running_ = false;
        released_ = (released_ + width_ - 1) / width_ * width_;
        stationary_ += tile.stationary;
        tiles.pop();
    }

    const Sizes& sizes_;
    const Cycle chain_, width_;
    std::vector<Cycle> kept_;  // cycle in which each sum last entered the adder chain to be kept
    bool running_ = false;
    uint32_t index_ = 0, word_ = 0, state_ = 0;
    Cycle step_ = 0, issued_ = 0, released_ = 0, stationary_ = 0;
};
