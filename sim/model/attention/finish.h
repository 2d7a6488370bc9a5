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
        : rows(sizes.slots), selection(sizes, indices, passes), reader_(sizes), lanes_(sizes.softmax_lanes),
          latency_(sizes.importance_latency) {}

    bool busy() const {
        return rows.valid() || reader_.words.valid() || selection.busy() || left_ || under_way_;
    }
    /// The sweep over importance.
    void start(uint32_t keys) { left_ = keys; }

    /// One cycle. taken: the kept key, or with `hold` the word of marks, that is offered is.
    void step(bool prunes, bool importance, bool hold, bool taken, const std::vector<RowPlace>& places, const RowFacts* facts) {
        const bool word = reader_.words.valid(), word_taken = word && (!prunes || selection.takes_words());
        read = word_taken && reader_.words.front().last ? int(reader_.words.front().slot) : -1;
        if (word_taken) reader_.words.pop();
        const bool tells = rows.valid() && prunes && !told_ && selection.commands.ready();
        const bool reads = rows.valid() && (told_ || !prunes) && !left_;
        const uint32_t slot = rows.valid() ? rows.front() : 0;
        if (tells) selection.commands.push({places[slot].keys, &facts[places[slot].number]});
        reader_.step(reads ? &slot : nullptr, places[slot].keys);
        if (reader_.row_taken) rows.pop();
        told_ = !reader_.row_taken && (told_ || tells);
        selection.step(word && prunes, hold, taken);
        const bool adds = (word_taken && importance) || left_;
        under_way_ = (under_way_ << 1 | uint64_t(adds)) & ((uint64_t(2) << latency_) - 1);
        left_ -= std::min(left_, lanes_);
        reader_.words.tick();
    }

    Queue<uint32_t> rows;
    ValueSelection selection;
    int read = -1;  // slot of which all words have been read

  private:
    RowReader reader_;
    uint32_t lanes_, latency_, left_ = 0;
    uint64_t under_way_ = 0;
    bool told_ = false;
};

}  // namespace attention
