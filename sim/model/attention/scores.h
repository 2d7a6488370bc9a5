// hwgen/attention/products.py, score_stage.py: from the last word of a pass over keys to a row whose e is final.
#pragma once

#include "base.h"
#include "refine.h"

namespace attention {

/// score_stage.py: ScoreStage, with the pipelines of Products and Softmax.
class ScoreStage {
  public:
    ScoreStage(const Sizes& sizes, const uint32_t* indices)
        : refine(sizes, indices), waiting_(sizes.slots), settled_(sizes.slots), products_(sizes.slots + 1),
          sums_(sizes.slots + 1), products_latency_(sizes.products_latency), softmax_latency_(sizes.softmax_latency),
          old_latency_(sizes.old_latency), running_latency_(sizes.running_latency), lanes_(sizes.softmax_lanes) {}

    /// Products take the last word of a pass.
    void pass_ends(Cycle now, uint32_t slot) { products_.push({now + products_latency_, slot}); }
    /// They take the last word of a row of an LSB pass, and will read its old scores.
    void reads_old(Cycle now, uint32_t slot) { old_[(now + old_latency_) % DELAYS] = int(slot) + 1; }
    void taken(uint32_t slot) { refined &= ~(1u << slot); }

    /// One cycle; `low`, `final_row`, `empty`, `certain`: slots, or -1.
    void step(Cycle now, const isa::JobFields& job, const std::vector<RowPlace>& places, const RowFacts* facts) {
        low = final_row = empty = certain = -1;
        const bool picks = job.key_low && job.key_mode == isa::KeyMode::KEY;
        const bool undecided = picks || (job.key_low && job.key_mode == isa::KeyMode::ROW);
        int& old = old_[now % DELAYS];
        refine.step(old && old - 1 == refine.slot(), places, facts);
        old = 0;
        low = refine.low;
        const bool sum = sums_.valid() && sums_.front().cycle == now;
        if (sum) judge(undecided, picks, places, facts);
        if (final_row < 0 && settled_.valid()) {
            final_row = int(settled_.front());
            settled_.pop();
        }
        if (refine.none >= 0) settled_.push(uint32_t(refine.none));
        if (undecided) certain = final_row;
        if (products_.valid() && products_.front().cycle == now) {
            const uint32_t slot = products_.front().slot;
            products_.pop();
            result(job, slot, facts[places[slot].number].seen, undecided);
        }
        words(now, places, !refine.asks(), sum);
        if (low >= 0) refined |= 1u << low;
        waiting_.tick();
        products_.tick();
        sums_.tick();
        settled_.tick();
    }

    RefineStage refine;
    unsigned refined = 0;  // bits of slots
    int low = -1, final_row = -1, empty = -1, certain = -1;

  private:
    struct Moment {
        Cycle cycle;
        uint32_t slot;
    };

    /// What the sum of a row says.
    void judge(bool undecided, bool picks, const std::vector<RowPlace>& places, const RowFacts* facts) {
        const uint32_t slot = sums_.front().slot;
        sums_.pop();
        if (!undecided || refined >> slot & 1 || !facts[places[slot].number].low)
            final_row = int(slot);
        else if (picks)
            refine.rows.push(slot);
        else
            low = int(slot);
    }

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

    void words(Cycle now, const std::vector<RowPlace>& places, bool free, bool sum) {
        const bool coming = coming_ != 0;
        coming_ -= sum;
        if (!waiting_.valid()) return;
        const uint32_t slot = waiting_.front();
        const bool ready = places[slot].first || running_ == running_latency_;
        if (!ready && !coming) running_++;
        if (!ready || !free || ++number_ * lanes_ < places[slot].keys) return;
        number_ = 0;
        waiting_.pop();
        running_ = 0;
        coming_++;
        sums_.push({now + softmax_latency_, slot});
    }

    static constexpr int DELAYS = 32;

    Queue<uint32_t> waiting_, settled_;
    Queue<Moment> products_, sums_;
    int old_[DELAYS] = {};  // slot + 1 of the old scores that are read in each cycle to come
    Cycle products_latency_, softmax_latency_, old_latency_;
    uint32_t running_latency_, lanes_, number_ = 0, running_ = 0;
    uint32_t coming_ = 0;  // sums of rows or tiles that were sent
};

}  // namespace attention
