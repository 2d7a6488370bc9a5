// hwgen/attention/weighted.py: WeightedSum.
#pragma once

#include "base.h"

namespace attention {

struct WeightedCommand {
    bool last;  // pass of its row
};

/// Words and their weights in, sums out; its pipeline waits when the sums of the row before have not left.
class WeightedSum {
  public:
    explicit WeightedSum(const Sizes& sizes) : depth_(sizes.weighted_latency), lanes_(sizes.output_lanes) {}

    bool offers() const { return left_ != 0; }
    bool offers_last() const { return left_ == 1; }

    /// One cycle. command, word: what is offered or null; taken: the sums that are offered are.
    void step(const WeightedCommand* command, const Word* word, bool weights, const Shape& shape, bool taken) {
        const uint64_t out = uint64_t(1) << (depth_ - 1);
        const bool free = left_ == 0 || (left_ == 1 && taken);
        const bool ends = valid_ & ends_ & out, go = !ends || free;
        ready = command && weights && go;
        const bool take = ready && word, whole = take && word->part + 1 == shape.parts;
        word_taken = take;
        weights_taken = take && whole;
        command_taken = take && word->last;
        if (taken) left_--;
        if (!go) return;
        if (ends) left_ = shape.head_size / lanes_;
        valid_ = (valid_ << 1 | uint64_t(take)) & (2 * out - 1);
        ends_ = (ends_ << 1 | uint64_t(take && word->last && command->last)) & (2 * out - 1);
    }

    bool ready = false, word_taken = false, weights_taken = false, command_taken = false;

  private:
    uint32_t depth_, lanes_, left_ = 0;
    uint64_t valid_ = 0, ends_ = 0;  // of the words in the pipeline, the youngest lowest
};

}  // namespace attention
