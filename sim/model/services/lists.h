// hwgen/attention/services/lists.py: words of items become beats of memory and words of importance.
#pragma once

#include "base.h"

namespace services {

/// BeatPacker.
class BeatPacker {
  public:
    BeatPacker(const Sizes& sizes, uint32_t item_bytes) : parts_(sizes.beat_bytes / (item_bytes * sizes.rank_width)) {}

    bool busy() const { return offers_ || part_; }
    bool offers() const { return offers_; }
    bool ready(bool goes) const { return !offers_ || goes; }

    /// One cycle. goes: the beat that is offered is taken; word: one is taken.
    void step(bool goes, bool word, uint32_t count, bool last) {
        const bool ends = last || part_ + 1 == parts_;
        if (ready(goes)) offers_ = word && ends && (count || part_);
        if (word) part_ = ends ? 0 : part_ + 1;
    }

  private:
    uint32_t parts_, part_ = 0;
    bool offers_ = false;
};

/// Compactor.
class Compactor {
  public:
    explicit Compactor(const Sizes& sizes) : parts_(sizes.softmax_lanes / sizes.rank_width), depth_(sizes.row_words) {}

    bool busy() const { return write_ || clearing_; }

    /// One cycle. word: one comes.
    void step(bool word, bool last) {
        const bool ends = last || part_ + 1 == parts_, writes = write_, at_end = address_ == depth_ - 1;
        write_ = (word && ends) || (clearing_ && !at_end);
        if (writes) {
            address_ = at_end ? 0 : address_ + 1;
            if (at_end) clearing_ = false;
        }
        if (!word) return;
        part_ = ends ? 0 : part_ + 1;
        clearing_ = last;
    }

  private:
    uint32_t parts_, depth_, part_ = 0, address_ = 0;
    bool write_ = false, clearing_ = false;
};

}  // namespace services
