// hwgen/pruning/radix_select.py, keep.py, eliminate.py: parts of the top-k engine, with what data decide as facts.
#pragma once

#include "base.h"

namespace attention {

/// eliminate.py: ZeroEliminator, with the beats counted only.
class Eliminator {
  public:
    Eliminator(uint32_t width, uint32_t stages) : width_(width), stages_(stages) {}

    bool valid() const { return control_[stages_].valid && (control_[stages_].over || control_[stages_].last); }
    bool spills() const { return control_[stages_].over && control_[stages_].last && !flush_; }
    uint32_t count() const {
        return control_[stages_].over && !flush_ ? width_ : control_[stages_].fill;
    }
    bool last() const { return control_[stages_].last && !spills(); }
    bool busy() const {
        bool inside = held_ != 0;
        for (uint32_t stage = 0; stage <= stages_; stage++) inside |= control_[stage].valid;
        return inside;
    }
    bool advances(bool taken) const { return !valid() || (taken && !spills()); }

    /// One cycle. offered: a beat with `count` items is.
    void step(bool offered, uint32_t count, bool last, bool taken) {
        const bool advance = advances(taken), flush = spills();
        if (taken) flush_ = flush;
        if (!advance) return;
        const Control ranked = control_[0];
        for (uint32_t stage = stages_; stage > 1; stage--) control_[stage] = control_[stage - 1];
        const uint32_t total = held_ + ranked.fill;
        control_[1] = ranked;
        control_[1].over = total > width_;
        control_[1].fill = control_[1].over ? total - width_ : total;
        if (ranked.valid) held_ = ranked.last ? 0 : control_[1].fill;
        control_[0] = {offered, last, false, count};
    }

  private:
    struct Control {
        bool valid, last, over;
        uint32_t fill;  // items of the beat, then items that are held behind it
    };
    uint32_t width_, stages_, held_ = 0;
    bool flush_ = false;
    Control control_[8] = {};  // behind the ranks, then behind each stage of the network
};

/// A vector for the top-k engine.
struct SelectCommand {
    uint32_t length;
    const RowFacts* facts;
};

/// radix_select.py: RadixSelect. Facts say how many elements each pass behind the arrival goes through.
class RadixSearch {
  public:
    RadixSearch(uint32_t width, uint32_t decide, uint32_t gap, const uint32_t* passes)
        : width_(width), decide_(decide), gap_(gap), passes_(passes) {}

    bool takes_command() const { return state_ == COMMAND; }
    bool arrives() const { return state_ == ARRIVE; }
    bool last_word() const { return left_ <= width_; }
    bool found() const { return state_ == FOUND; }
    /// What it searches; it is there while `found`.
    const SelectCommand& vector() const { return vector_; }

    /// One cycle. command: what is offered or null; word: one arrives; taken: what is found would be.
    void step(const SelectCommand* command, bool word, bool taken) {
        if (timer_ && --timer_) return;
        switch (state_) {
            case COMMAND:
                if (!command) return;
                vector_ = *command;
                left_ = command->length;
                pass_ = 0;
                state_ = ARRIVE;
                return;
            case ARRIVE:
                if (word) step_pass();
                return;
            case PASS:
                step_pass();
                return;
            case DECIDE:
                decide();
                return;
            case WAIT:
                state_ = PASS;
                return;
            case FOUND:
                if (taken) state_ = COMMAND;
        }
    }

  private:
    enum State { COMMAND, ARRIVE, DECIDE, WAIT, PASS, FOUND };

    void decide() {
        if (pass_ == vector_.facts->passes_count) {
            state_ = FOUND;
            return;
        }
        left_ = passes_[vector_.facts->passes + pass_++];
        state_ = pass_ > 1 && gap_ ? WAIT : PASS;
        timer_ = state_ == WAIT ? gap_ : 0;
    }

    void step_pass() {
        if (left_ <= width_) {
            state_ = DECIDE;
            timer_ = decide_;
        } else
            left_ -= width_;
    }

    uint32_t width_, decide_, gap_;
    const uint32_t* passes_;
    State state_ = COMMAND;
    SelectCommand vector_{};
    uint32_t timer_ = 0, left_ = 0, pass_ = 0;
};

/// keep.py: KeepFilter.
class KeepFilter {
  public:
    KeepFilter(uint32_t width, const uint32_t* indices) : width_(width), indices_(indices) {}

    /// A word of the vector: elements of it that go on.
    struct Beat {
        bool valid, last;
        uint32_t count;
        const RowFacts* facts;
    };

    bool takes() const { return !running_ && !compared_.valid; }
    bool busy() const { return running_ || compared_.valid || beat_.valid; }
    const Beat& beat() const { return beat_; }

    /// One cycle. taken: the beat that is offered is; found: a vector or null.
    void step(bool taken, const SelectCommand* found) {
        const bool offer = !beat_.valid || taken, moves = !compared_.valid || offer, begins = found && takes();
        if (offer) beat_ = compared_;
        if (moves) {
            compared_.valid = running_;
            if (running_) compare();
        }
        if (!begins) return;
        running_ = true;
        facts_ = found->facts;
        left_ = found->length;
        word_ = next_ = 0;
    }

  private:
    void compare() {
        compared_ = {true, left_ <= width_, kept_in_word(), facts_};
        running_ = !compared_.last;
        left_ -= std::min(left_, width_);
        word_++;
    }

    uint32_t kept_in_word() {
        const uint32_t* kept = indices_ + facts_->kept;
        const uint32_t before = next_;
        while (next_ < facts_->kept_count && kept[next_] < (word_ + 1) * width_) next_++;
        return next_ - before;
    }

    uint32_t width_;
    const uint32_t* indices_;
    const RowFacts* facts_ = nullptr;
    Beat compared_{}, beat_{};
    bool running_ = false;
    uint32_t left_ = 0, word_ = 0, next_ = 0;
};

}  // namespace attention
