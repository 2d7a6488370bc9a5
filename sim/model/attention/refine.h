// hwgen/attention/refine_stage.py, refine.py: keys of rows that are not confident are picked one by one.
#pragma once

#include "base.h"
#include "finish.h"
#include "select.h"

namespace attention {

/// refine_stage.py: RefineStage. `low`, `none`: slots, or -1.
class RefineStage {
  public:
    RefineStage(const Sizes& sizes, const uint32_t* indices)
        : rows(sizes.slots), keys(sizes.refine_indices), reader_(sizes), eliminator_(sizes.softmax_lanes, sizes.refine_routing), begun_(sizes.slots),
          width_(sizes.softmax_lanes), indices_(indices) {}

    /// The slot whose scores are read next.
    int slot() const { return rows.valid() ? int(rows.front()) : -1; }

    /// One cycle. blocked: no word of scores may be asked for.
    void step(bool blocked, const std::vector<RowPlace>& places, const RowFacts* facts) {
        give(places, facts);
        const bool room = !beat_ || eliminator_.advances(beat_goes_);
        const bool word = reader_.words.valid(), take = word && known_ && room;
        eliminator_.step(beat_, beat_count_, beat_last_, beat_goes_);
        if (room) beat_ = take;
        const bool ready = !known_ && !working_;
        if (working_) working_ = false, known_ = true;
        if (take) compare(facts[places[reader_.words.front().slot].number]);
        const bool row = rows.valid(), tells = row && !told_ && ready;
        const uint32_t slot = row ? rows.front() : 0;
        if (tells) working_ = true, begun_.push(slot);
        reader_.step(row && told_ && !blocked ? &slot : nullptr, places[slot].keys);
        if (reader_.row_taken) rows.pop();
        told_ = !reader_.row_taken && (told_ || tells);
        reader_.words.tick();
        begun_.tick();
    }
    bool asks() const { return reader_.asks(); }

    Queue<uint32_t> rows;
    Queue<Index> keys;
    int low = -1, none = -1;

  private:
    /// Keys one by one; the first one announces its row.
    void give(const std::vector<RowPlace>& places, const RowFacts* facts) {
        low = none = -1;
        beat_goes_ = false;
        if (!eliminator_.valid() || !keys.ready()) return;
        const uint32_t slot = begun_.front();
        const RowFacts& row = facts[places[slot].number];
        const bool nothing = eliminator_.count() == 0, end = place_ + 1 >= eliminator_.count();
        const bool last = end && eliminator_.last();
        if (nothing)
            none = int(slot);
        else {
            if (given_ == 0) low = int(slot);
            keys.push({indices_[row.picked + given_], last, false});
        }
        place_ = end ? 0 : place_ + 1;
        given_ = last ? 0 : given_ + 1;
        if (last) begun_.pop();
        beat_goes_ = end;
    }

    /// A word of scores: how many of its keys may matter.
    void compare(const RowFacts& row) {
        const uint32_t before = next_;
        base_ += width_;
        while (next_ < row.picked_count && indices_[row.picked + next_] < base_) next_++;
        beat_count_ = next_ - before;
        beat_last_ = reader_.words.front().last;
        reader_.words.pop();
        if (beat_last_) known_ = false, base_ = next_ = 0;
    }

    RowReader reader_;
    Eliminator eliminator_;
    Queue<uint32_t> begun_;
    uint32_t width_, place_ = 0, given_ = 0, base_ = 0, next_ = 0, beat_count_ = 0;
    const uint32_t* indices_;
    bool told_ = false, known_ = false, working_ = false, beat_ = false, beat_last_ = false, beat_goes_ = false;
};

}  // namespace attention
