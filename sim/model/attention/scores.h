// hwgen/attention/products.py, score_stage.py: from the last word of a pass over keys to a row whose e is final.
#pragma once

#include "base.h"

namespace attention {

/// score_stage.py: ScoreStage, with the pipelines of Products and Softmax.
class ScoreStage {
  public:
    explicit ScoreStage(const Sizes& sizes)
        : waiting_(sizes.slots), products_(sizes.slots + 1), sums_(sizes.slots + 1),
          products_latency_(sizes.products_latency), softmax_latency_(sizes.softmax_latency),
          lanes_(sizes.softmax_lanes) {}

    /// Products take the last word of a pass.
    void pass_ends(Cycle now, uint32_t slot) { products_.push({now + products_latency_, slot}); }
    void taken(uint32_t slot) { refined &= ~(1u << slot); }

    /// One cycle; `low`, `final_row`, `empty`, `certain`: slots, or -1.
    void step(Cycle now, const isa::JobFields& job, const std::vector<RowPlace>& places, const RowFacts* facts) {
        low = final_row = empty = certain = -1;
        const bool undecided = job.key_low && job.key_mode == isa::KeyMode::ROW;
        int judged = -1;
        if (sums_.valid() && sums_.front().cycle == now) {
            judged = int(sums_.front().slot);
            sums_.pop();
            const bool confident = !facts[places[judged].number].low;
            if (undecided && !(refined >> judged & 1) && !confident)
                low = judged;
            else
                final_row = judged;
        }
        if (undecided) certain = final_row;
        if (products_.valid() && products_.front().cycle == now) {
            const uint32_t slot = products_.front().slot;
            products_.pop();
            result(job, slot, facts[places[slot].number].seen, undecided);
        }
        words(now, places);
        if (low >= 0) refined |= 1u << low;
        waiting_.tick();
        products_.tick();
        sums_.tick();
    }

    unsigned refined = 0;  // bits of slots
    int low = -1, final_row = -1, empty = -1, certain = -1;

  private:
    struct Moment {
        Cycle cycle;
        uint32_t slot;
    };

    void result(const isa::JobFields& job, uint32_t slot, bool seen, bool undecided) {
        if (!seen)
            empty = int(slot);
        else if (job.key_low && job.key_mode == isa::KeyMode::ALWAYS && !(refined >> slot & 1))
            low = int(slot);
        else {
            waiting_.push(slot);
            if (!undecided) certain = int(slot);
        }
    }

    void words(Cycle now, const std::vector<RowPlace>& places) {
        if (!waiting_.valid()) return;
        const uint32_t slot = waiting_.front();
        if (++number_ * lanes_ < places[slot].keys) return;
        number_ = 0;
        waiting_.pop();
        sums_.push({now + softmax_latency_, slot});
    }

    Queue<uint32_t> waiting_;
    Queue<Moment> products_, sums_;
    Cycle products_latency_, softmax_latency_;
    uint32_t lanes_, number_ = 0;
};

}  // namespace attention
