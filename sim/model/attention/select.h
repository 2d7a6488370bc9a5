// hwgen/attention/select.py and serial.py: which values are kept.
#pragma once

#include "base.h"
#include "search.h"
#include "weights.h"

namespace attention {

/// select.py: ValueSelection.
class ValueSelection {
  public:
    ValueSelection(const Sizes& sizes, const uint32_t* indices, const uint32_t* passes)
        : commands(sizes.select_commands), eliminator_(sizes.selection_width, sizes.routing),
          search_(sizes.selection_width, sizes.decide, sizes.candidate_gap, passes),
          filter_(sizes.selection_width, indices), parts_(sizes.softmax_lanes / sizes.selection_width),
          indices_(indices) {}

    bool takes_words() const { return search_.arrives() && (part_ + 1 == parts_ || search_.last_word()); }
    /// A kept key, or a word of e.
    bool offers() const { return eliminator_.valid(); }
    bool offers_marks(bool hold) const {
        const KeepFilter::Beat& beat = filter_.beat();
        return hold && beat.valid && (beat.last || beat_part_ + 1 == parts_);
    }
    Marks marks() const { return {filter_.beat().facts, marks_, filter_.beat().last}; }
    Index offered() const {
        const bool end = place_ + 1 >= eliminator_.count();
        const bool none = eliminator_.count() == 0;
        return {none ? 0 : indices_[given_], eliminator_.last() && end, none};
    }
    bool busy() const {
        return full_ || command_ || !search_.takes_command() || filter_.busy() || eliminator_.busy() || offers();
    }

    /// One cycle. word: a word of e is offered; taken: the key, or with `hold` the word of marks, that is offered is.
    void step(bool word, bool hold, bool taken) {
        const bool beat_taken = hold ? give_marks(taken) : give(taken);
        const bool found = search_.found() && filter_.takes();
        if (found && !hold) {
            rows_.push_back(search_.vector().facts);
            if (rows_.size() == 1) given_ = rows_.front()->kept;
        }
        filter_.step(beat_taken, found ? &search_.vector() : nullptr);
        command_ready_ = search_.takes_command();
        const bool arrives = word && search_.arrives();
        if (arrives) part_ = takes_words() ? 0 : part_ + 1;
        search_.step(command_ ? &offered_command_ : nullptr, arrives, found);
        count();
        commands.tick();
    }

    Queue<SelectCommand> commands;

  private:
    /// OneByOne behind the eliminator. Gives whether the beat of marks is taken.
    bool give(bool taken) {
        const KeepFilter::Beat& beat = filter_.beat();
        const bool end = taken && place_ + 1 >= eliminator_.count();
        const bool last = end && eliminator_.last();
        if (taken) place_ = end ? 0 : place_ + 1, given_++;
        const bool beat_taken = beat.valid && eliminator_.advances(end);
        eliminator_.step(beat.valid, beat.count, beat.last, end);
        if (last) next_given();
        return beat_taken;
    }

    /// Words of e again. Gives whether the beat of marks is taken.
    bool give_marks(bool taken) {
        const KeepFilter::Beat& beat = filter_.beat();
        const bool beat_taken = beat.valid && (taken || !offers_marks(true));
        if (!beat_taken) return false;
        beat_part_ = taken ? 0 : beat_part_ + 1;
        if (taken) marks_ = beat.last ? 0 : marks_ + 1;
        return true;
    }

    void next_given() {
        rows_.erase(rows_.begin());
        if (!rows_.empty()) given_ = rows_.front()->kept;
    }

    /// The count of a row, a cycle ahead of its top-k command.
    void count() {
        const bool takes = !full_ && (!command_ || command_ready_) && commands.valid();
        if (command_ready_) command_ = false;
        if (full_) {
            full_ = false;
            command_ = true;
            offered_command_ = counted_;
        }
        if (takes) {
            full_ = true;
            counted_ = commands.front();
            commands.pop();
        }
    }

    Eliminator eliminator_;
    RadixSearch search_;
    KeepFilter filter_;
    uint32_t parts_, part_ = 0;
    const uint32_t* indices_;
    bool full_ = false, command_ = false, command_ready_ = false;
    SelectCommand counted_{}, offered_command_{};
    uint32_t place_ = 0, given_ = 0;
    uint32_t beat_part_ = 0, marks_ = 0;  // part of a word of e, and its number
    std::vector<const RowFacts*> rows_;   // whose keys are under way behind the marks
};

}  // namespace attention
