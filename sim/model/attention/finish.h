// hwgen/attention/finish.py and rows.py: words of e, to importance and to the value selection.
#pragma once

#include "base.h"
#include "select.h"

namespace attention {

/// rows.py: RowReader.
class RowReader {
  public:
    struct RowWord {
        uint32_t slot, count;
        bool last;
    };

    explicit RowReader(const Sizes& sizes) : words(sizes.reader_depth), lanes_(sizes.softmax_lanes) {}

    /// One cycle: the row that is offered, or null.
    void step(const uint32_t* slot, uint32_t keys) {
        const bool asks = slot && words.level() + uint32_t(coming_) < depth();
        if (coming_) words.push(tag_);
        coming_ = asks;
        row_taken = false;
        if (!asks) return;
        const bool last = (number_ + 1) * lanes_ >= keys;
        tag_ = {*slot, last ? keys - number_ * lanes_ : lanes_, last};
        number_ = last ? 0 : number_ + 1;
        row_taken = last;
    }
    size_t depth() const { return words.depth(); }
    bool asks() const { return coming_; }

    Queue<RowWord> words;
    bool row_taken = false;

  private:
    uint32_t lanes_, number_ = 0;
    bool coming_ = false;
    RowWord tag_{};
};

/// finish.py: FinishStage.
class FinishStage {
  public:
    FinishStage(const Sizes& sizes, const uint32_t* indices, const uint32_t* passes)
        : rows(sizes.slots), selections_(sizes.selectors, ValueSelection(sizes, indices, passes)), reader_(sizes),
          lanes_(sizes.softmax_lanes), latency_(sizes.importance_latency) {}

    bool busy() const {
        bool selecting = false;
        for (const ValueSelection& selection : selections_) selecting |= selection.busy();
        return rows.valid() || reader_.words.valid() || selecting || left_ || under_way_;
    }
    /// The selection of the row whose kept keys come next.
    const ValueSelection& selection() const { return selections_[give_]; }
    /// The sweep over importance.
    void start(uint32_t keys) { left_ = keys; }

    /// One cycle. taken: the kept key, or with `hold` the word of marks, that is offered is.
    void step(bool prunes, bool importance, bool hold, bool taken, const std::vector<RowPlace>& places, const RowFacts* facts) {
        const bool word = reader_.words.valid(), word_taken = word && (!prunes || selections_[feed_].takes_words());
        read = word_taken && reader_.words.front().last ? int(reader_.words.front().slot) : -1;
        if (word_taken) reader_.words.pop();
        const bool tells = rows.valid() && prunes && !told_ && selections_[tell_].commands.ready();
        const bool reads = rows.valid() && (told_ || !prunes) && !left_;
        const uint32_t slot = rows.valid() ? rows.front() : 0;
        if (tells) selections_[tell_].commands.push({places[slot].keys, &facts[places[slot].number]});
        reader_.step(reads ? &slot : nullptr, places[slot].keys);
        if (reader_.row_taken) rows.pop();
        told_ = !reader_.row_taken && (told_ || tells);
        select(word && prunes, hold, taken);
        if (tells) tell_ = next(tell_);
        if (read >= 0) feed_ = next(feed_);
        const bool adds = (word_taken && importance) || left_;
        under_way_ = (under_way_ << 1 | uint64_t(adds)) & ((uint64_t(2) << latency_) - 1);
        left_ -= std::min(left_, lanes_);
        reader_.words.tick();
    }

    Queue<uint32_t> rows;
    int read = -1;  // slot of which all words have been read

  private:
    /// Rows take turns.
    uint32_t next(uint32_t turn) const { return turn + 1 == selections_.size() ? 0 : turn + 1; }

    void select(bool word, bool hold, bool taken) {
        const bool last = taken && (hold ? selection().marks().last : selection().offered().last);
        for (uint32_t turn = 0; turn < selections_.size(); turn++)
            selections_[turn].step(word && turn == feed_, hold, taken && turn == give_);
        if (last) give_ = next(give_);
    }

    std::vector<ValueSelection> selections_;
    RowReader reader_;
    uint32_t tell_ = 0, feed_ = 0, give_ = 0;
    uint32_t lanes_, latency_, left_ = 0;
    uint64_t under_way_ = 0;
    bool told_ = false;
};

}  // namespace attention
