// hwgen/attention/weights.py: weights of values in the order in which values arrive, from what is kept of a row.
#pragma once

#include "base.h"

namespace attention {

/// KeptList and KeptWeights: kept keys, for values that are fetched.
class KeptWeights {
  public:
    explicit KeptWeights(const uint32_t* indices) : indices_(indices) {}

    /// One cycle. enable: a pass of `row` is under way, again: of two. kept: the key that the selection offers, or null.
    /// weights: there is room for one.
    void step(bool enable, bool again, const RowFacts* row, const Index* kept, Queue<Index>& indices, bool weights,
              uint32_t group) {
        taken = weights_given = pass_done = false;
        if (!enable || !(replay_ || kept) || !indices.ready()) return;
        const Index item = replay_ ? again_item(*row) : *kept;
        const bool full = item.last || count_ + 1 == group;
        if (full && !weights) return;
        indices.push(item);
        weights_given = full;
        count_ = full ? 0 : count_ + 1;
        taken = !replay_;
        pass_done = item.last;
        number_ = item.last ? 0 : number_ + 1;
        if (item.last) replay_ = again && !replay_;
    }

    bool taken = false, weights_given = false, pass_done = false;

  private:
    Index again_item(const RowFacts& row) const {
        if (!row.kept_count) return {0, true, true};
        return {indices_[row.kept + number_], number_ + 1 == row.kept_count, false};
    }

    const uint32_t* indices_;
    uint32_t count_ = 0, number_ = 0;
    bool replay_ = false;
};

/// A word of e of a row that keeps some of its values.
struct Marks {
    const RowFacts* row;
    uint32_t number;
    bool last;
};

/// KeptList, a queue and GroupWeights: words of e, for values that are held.
class GroupWeights {
  public:
    GroupWeights(const Sizes& sizes, const uint32_t* indices)
        : words_(sizes.value_marks), lanes_(sizes.softmax_lanes), indices_(indices) {}

    /// One cycle. As for `KeptWeights`; marks: the word that the selection offers, or null; words: of the row.
    void step(bool enable, bool again, const RowFacts* row, const Marks* marks, uint32_t words, Queue<Index>& indices,
              bool weights, uint32_t group) {
        groups(indices, weights, group);
        taken = pass_done = false;
        if (enable && (replay_ || marks) && words_.ready()) {
            const Marks item = replay_ ? Marks{row, number_, number_ + 1 == words} : *marks;
            words_.push(item);
            taken = !replay_;
            pass_done = item.last;
            number_ = item.last ? 0 : number_ + 1;
            if (item.last) replay_ = again && !replay_;
        }
        words_.tick();
    }

    bool taken = false, weights_given = false, pass_done = false;

  private:
    /// The next word of values with a weight; the one before is held back until it is known whether it is the last.
    void groups(Queue<Index>& indices, bool weights, uint32_t group) {
        const bool word = words_.valid();
        const Marks item = word ? words_.front() : Marks{};
        const uint32_t* kept = word ? indices_ + item.row->kept : nullptr;
        const uint32_t end = word ? (item.number + 1) * lanes_ : 0;
        const bool any = word && next_ < item.row->kept_count && kept[next_] < end;
        const bool gives = closing_ || (filled_ && any);
        weights_given = gives && indices.ready() && weights;
        if (gives && !weights_given) return;
        if (gives) {
            indices.push({0, closing_, !filled_});
            filled_ = closing_ = false;
        }
        if (!word) return;
        if (any) {
            const uint32_t place = kept[next_] / group;
            while (next_ < item.row->kept_count && kept[next_] / group == place) next_++;
            filled_ = true;
        }
        const bool ends = next_ == item.row->kept_count || kept[next_] >= end;
        closing_ = ends && item.last;
        if (!ends) return;
        if (item.last) next_ = 0;
        words_.pop();
    }

    Queue<Marks> words_;
    uint32_t lanes_, next_ = 0, number_ = 0;
    const uint32_t* indices_;
    bool filled_ = false, closing_ = false, replay_ = false;
};

}  // namespace attention
