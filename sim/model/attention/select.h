// hwgen/attention/select.py and serial.py, hwgen/pruning/radix_select.py, keep.py, eliminate.py: which values are kept.
#pragma once

#include "base.h"
#include "weights.h"

namespace attention {

/// One row of the selection.
struct SelectCommand {
    uint32_t keys;
    const RowFacts* facts;
};

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

/// select.py: ValueSelection.
class ValueSelection {
  public:
    ValueSelection(const Sizes& sizes, const uint32_t* indices, const uint32_t* passes)
        : commands(sizes.select_commands), eliminator_(sizes.selection_width, sizes.routing), width_(sizes.selection_width),
          parts_(sizes.softmax_lanes / sizes.selection_width), decide_(sizes.decide), gap_(sizes.candidate_gap), indices_(indices), passes_(passes) {}

    bool takes_words() const { return state_ == ARRIVE && (part_ + 1 == parts_ || pass_left_ <= width_); }
    /// A kept key, or a word of e.
    bool offers() const { return eliminator_.valid(); }
    bool offers_marks(bool hold) const { return hold && beat_ && (beat_last_ || beat_part_ + 1 == parts_); }
    Marks marks() const { return {beat_row_, marks_, beat_last_}; }
    Index offered() const {
        const bool end = place_ + 1 >= eliminator_.count();
        const bool none = eliminator_.count() == 0;
        return {none ? 0 : indices_[given_], eliminator_.last() && end, none};
    }
    bool busy() const {
        return full_ || command_ || state_ != COMMAND || running_ || compared_ || beat_ || eliminator_.busy() || offers();
    }

    /// One cycle. word: a word of e is offered; taken: the key, or with `hold` the word of marks, that is offered is.
    void step(bool word, bool hold, bool taken) {
        if (hold)
            give_marks(taken);
        else
            give(taken);
        mark(hold);
        search(word);
        count();
        commands.tick();
    }

    Queue<SelectCommand> commands;

  private:
    enum State { COMMAND, ARRIVE, DECIDE, WAIT, PASS, FOUND };

    /// OneByOne behind the eliminator.
    void give(bool taken) {
        const bool end = taken && place_ + 1 >= eliminator_.count();
        const bool last = end && eliminator_.last();
        if (taken) place_ = end ? 0 : place_ + 1, given_++;
        beat_taken_ = beat_ && eliminator_.advances(end);
        eliminator_.step(beat_, beat_count_, beat_last_, end);
        if (last) next_given();
    }

    /// Words of e again.
    void give_marks(bool taken) {
        beat_taken_ = beat_ && (taken || !offers_marks(true));
        if (!beat_taken_) return;
        beat_part_ = taken ? 0 : beat_part_ + 1;
        if (taken) marks_ = beat_last_ ? 0 : marks_ + 1;
    }

    /// keep.py: KeepFilter.
    void mark(bool hold) {
        const bool offer = !beat_ || beat_taken_, moves = !compared_ || offer;
        found_ready_ = !running_ && !compared_;
        if (offer) {
            beat_ = compared_;
            beat_last_ = compared_last_;
            beat_count_ = compared_count_;
            beat_row_ = compared_row_;
        }
        if (moves) {
            compared_ = running_;
            if (running_) {
                compared_row_ = marked_;
                compared_last_ = left_ <= width_;
                compared_count_ = kept_in_word();
                running_ = !compared_last_;
                left_ -= std::min(left_, width_);
                word_++;
            }
        }
        if (state_ == FOUND && found_ready_) {
            running_ = true;
            marked_ = search_facts_;
            left_ = length_;
            word_ = next_kept_ = 0;
            if (hold) return;
            rows_.push_back(marked_);
            if (rows_.size() == 1) given_ = marked_->kept;
        }
    }

    uint32_t kept_in_word() {
        const uint32_t* kept = indices_ + marked_->kept;
        const uint32_t before = next_kept_;
        while (next_kept_ < marked_->kept_count && kept[next_kept_] < (word_ + 1) * width_) next_kept_++;
        return next_kept_ - before;
    }

    void next_given() {
        rows_.erase(rows_.begin());
        if (!rows_.empty()) given_ = rows_.front()->kept;
    }

    /// radix_select.py: RadixSelect.
    void search(bool word) {
        command_ready_ = state_ == COMMAND;
        if (timer_ && --timer_) return;
        switch (state_) {
            case COMMAND:
                if (!command_) return;
                search_facts_ = command_facts_;
                length_ = pass_left_ = command_keys_;
                pass_ = 0;
                state_ = ARRIVE;
                return;
            case ARRIVE:
                if (!word) return;
                part_ = takes_words() ? 0 : part_ + 1;
                step_pass();
                return;
            case PASS:
                step_pass();
                return;
            case DECIDE:
                if (pass_ == search_facts_->passes_count) {
                    state_ = FOUND;
                    return;
                }
                pass_left_ = passes_[search_facts_->passes + pass_++];
                state_ = pass_ > 1 && gap_ ? WAIT : PASS;
                timer_ = state_ == WAIT ? gap_ : 0;
                return;
            case WAIT:
                state_ = PASS;
                return;
            case FOUND:
                if (found_ready_) state_ = COMMAND;
        }
    }

    void step_pass() {
        if (pass_left_ <= width_) {
            state_ = DECIDE;
            timer_ = decide_;
        } else
            pass_left_ -= width_;
    }

    /// The count of a row, a cycle ahead of its top-k command.
    void count() {
        const bool takes = !full_ && (!command_ || command_ready_) && commands.valid();
        if (command_ready_) command_ = false;
        if (full_) {
            full_ = false;
            command_ = true;
            command_facts_ = counted_.facts;
            command_keys_ = counted_.keys;
        }
        if (takes) {
            full_ = true;
            counted_ = commands.front();
            commands.pop();
        }
    }

    Eliminator eliminator_;
    uint32_t width_, parts_, decide_, gap_, part_ = 0;
    const uint32_t *indices_, *passes_;
    State state_ = COMMAND;
    uint32_t timer_ = 0, length_ = 0, pass_left_ = 0, pass_ = 0, command_keys_ = 0;
    bool full_ = false, command_ = false, command_ready_ = false, found_ready_ = false;
    const RowFacts *search_facts_ = nullptr, *command_facts_ = nullptr, *marked_ = nullptr;
    const RowFacts *compared_row_ = nullptr, *beat_row_ = nullptr;
    SelectCommand counted_{};
    uint32_t left_ = 0, word_ = 0, next_kept_ = 0, compared_count_ = 0, beat_count_ = 0, place_ = 0, given_ = 0;
    bool running_ = false, compared_ = false, compared_last_ = false, beat_ = false, beat_last_ = false;
    bool beat_taken_ = false;
    uint32_t beat_part_ = 0, marks_ = 0;  // part of a word of e, and its number
    std::vector<const RowFacts*> rows_;  // whose keys are under way behind the marks
};

}  // namespace attention
