// hwgen/attention/weighted.py: WeightedSum.
#pragma once

#include "base.h"

namespace attention {

/// first, last: pass of its row. rescale: the sums are multiplied before.
struct WeightedCommand {
    bool first, last, rescale;
};

/// Words and their weights in, sums out; its pipeline waits when the sums of the row before have not left.
class WeightedSum {
  public:
    explicit WeightedSum(const Sizes& sizes) : depth_(sizes.weighted_latency), lanes_(sizes.output_lanes), turns_(sizes.rescale_turns) {}

    bool offers() const { return left_ != 0; }
    bool offers_last() const { return left_ == 1; }

    /// One cycle. command, word: what is offered or null; taken: the sums that are offered are.
    void step(const WeightedCommand* command, const Word* word, bool weights, const Shape& shape, bool taken) {
        const uint64_t out = uint64_t(1) << (depth_ - 1);
        const bool free = left_ == 0 || (left_ == 1 && taken);
        const bool ends = valid_ & ends_ & out, wanted = valid_ & scales_ & out;
        const bool go = !(ends && !free) && !(wanted && !scaled_);
        ready = command && weights && go;
        const bool take = ready && word, whole = take && word->part + 1 == shape.parts;
        word_taken = take;
        weights_taken = take && whole;
        command_taken = take && word->last;
        scale(wanted, go && whole_ & out);
        if (taken) left_--;
        if (!go) return;
        if (ends) left_ = shape.head_size / lanes_;
        valid_ = (valid_ << 1 | uint64_t(take)) & (2 * out - 1);
        ends_ = (ends_ << 1 | uint64_t(take && word->last && command->last)) & (2 * out - 1);
        scales_ = (scales_ << 1 | uint64_t(take && begins_ && command->rescale && !command->first)) & (2 * out - 1);
        whole_ = (whole_ << 1 | uint64_t(whole)) & (2 * out - 1);
        if (whole) begins_ = word->last;
    }

    bool ready = false, word_taken = false, weights_taken = false, command_taken = false;

  private:
    /// The sums go once through the multipliers, when those of the row before have left.
    void scale(bool wanted, bool done) {
        if (turn_)
            scaled_ = --turn_ == 0;
        else if (wanted && !scaled_ && left_ == 0)
            turn_ = turns_;
        if (wanted && done) scaled_ = false;
    }

    uint32_t depth_, lanes_, turns_, left_ = 0, turn_ = 0;
    uint64_t valid_ = 0, ends_ = 0, scales_ = 0, whole_ = 0;  // of the words in the pipeline, the youngest lowest
    bool begins_ = true, scaled_ = false;
};

}  // namespace attention
