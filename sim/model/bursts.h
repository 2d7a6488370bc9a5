// hwgen/memory/bursts.py: bursts of a strided block of external memory.
#pragma once

#include "base.h"

/// `rows` rows, `stride` beats apart, of `planes` runs, `plane_stride` beats apart, of `beats` beats; the first of them
/// is beat number `address`.
struct Block {
    uint64_t address, stride, plane_stride;
    Cycle rows, planes, beats;
    bool tag;  // whatever its bursts are to say

    /// Makes runs of a row that follow one another one long run; true if there is one run.
    bool join_planes() {
        if (planes != 1 && plane_stride != uint64_t(beats)) return false;
        beats *= planes;
        planes = 1;
        return true;
    }

    /// The same with runs, and then rows, that follow one another as one long run.
    Block merged() const {
        Block block = *this;
        if (!block.join_planes() || stride != uint64_t(block.beats)) return block;
        block.beats *= rows;
        block.rows = 1;
        return block;
    }
};

class Bursts {
  public:
    explicit Bursts(const Sizes& sizes)
        : page_(sizes.page_bytes / sizes.beat_bytes), longest_(std::min(sizes.burst_beats, page_)) {}

    bool active() const { return active_; }
    /// Of the burst that is offered: beats, tag, whether it is the last one of its block.
    uint32_t beats() const { return uint32_t(std::min<Cycle>(beats_left_, room())); }
    bool tag() const { return block_.tag; }
    bool last() const { return beats_left_ <= room() && planes_left_ == 1 && rows_left_ == 1; }

    void start(const Block& block) {
        active_ = true;
        block_ = block;
        address_ = run_ = block.address;
        beats_left_ = block.beats;
        planes_left_ = block.planes;
        rows_left_ = block.rows;
    }

    void next() {
        const uint32_t count = beats();
        address_ += count;
        beats_left_ -= count;
        if (beats_left_) return;
        run_ += block_.plane_stride;
        if (--planes_left_ == 0) {
            run_ = block_.address += block_.stride;
            planes_left_ = block_.planes;
            active_ = --rows_left_ != 0;
        }
        address_ = run_;
        beats_left_ = block_.beats;
    }

  private:
    Cycle room() const { return std::min<Cycle>(longest_, page_ - address_ % page_); }

    const uint32_t page_, longest_;
    bool active_ = false;
    Block block_{};
    uint64_t address_ = 0, run_ = 0;  // of the next burst, of its run
    Cycle beats_left_ = 0, planes_left_ = 0, rows_left_ = 0;
};
