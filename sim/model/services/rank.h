// hwgen/attention/services/rank.py, feed.py, kept.py: the top-k engine and the lists that come of it.
#pragma once

#include "../attention/search.h"
#include "lists.h"
#include "ports.h"

namespace services {

/// feed.py: RankFeed.
class RankFeed {
  public:
    explicit RankFeed(const Sizes& sizes)
        : width_(sizes.rank_width), parts_(sizes.beat_bytes / isa::VALUE_BYTES / sizes.rank_width) {}

    /// A word of elements is given to the engine.
    bool valid() const { return valid_; }
    void start(uint32_t length) {
        left_ = length;
        word_ = 0;
        there_ = false;
    }

    /// One cycle. values: they come out of memory; beat: one is there. Gives whether it is taken.
    bool step(bool values, bool beat) {
        const bool takes = left_ && (values ? beat : there_), last = left_ <= width_;
        const bool taken = values && takes && (word_ % parts_ == parts_ - 1 || last);
        there_ = left_ != 0;
        valid_ = takes;
        if (takes) {
            word_++;
            left_ = last ? 0 : left_ - width_;
        }
        return taken;
    }

  private:
    uint32_t width_, parts_, left_ = 0, word_ = 0;
    bool there_ = false, valid_ = false;
};

/// rank.py: RankJob.
class RankJob {
  public:
    RankJob(const Sizes& sizes, const uint32_t* items, const uint32_t* passes)
        : beat_(sizes.beat_bytes), feed_(sizes), search_(sizes.rank_width, sizes.decide, sizes.candidate_gap, passes),
          filter_(sizes.rank_width, items), eliminator_(sizes.rank_width, sizes.routing),
          indices_(sizes, isa::INDEX_BYTES), values_list_(sizes, isa::VALUE_BYTES), compactor_(sizes) {}

    bool busy() const {
        return state_ != IDLE || !search_.takes_command() || filter_.busy() || eliminator_.busy() || survives_ ||
               indices_.busy() || values_list_.busy() || compactor_.busy();
    }
    void start(const Job& job) {
        fields_ = job.fields;
        values_ = job.kind == isa::Kind::TOPK;
        facts_ = job.facts;
        vector_ = {uint32_t(fields_.length), &facts_};
        state_ = READ;
    }

    void step(SpanReader& reads, WritePort& writes) {
        const bool last = lists(writes);
        const bool table = reads.valid() && reads.table(), words = feed_.valid();
        const bool found = search_.found() && filter_.takes(), takes_command = search_.takes_command();
        filter_.step(marks_taken_, found ? &search_.vector() : nullptr);
        search_.step(state_ == COMMAND ? &vector_ : nullptr, words, found);
        const bool taken = feed_.step(values_, reads.valid() && !table);
        if (table || taken) reads.take();
        const bool masked = masks_ == 0;
        if (table) masks_--;
        sequence(reads, writes, masked, takes_command, last);
    }

  private:
    enum State { IDLE, READ, INDICES, VALUES, MASKS, COMMAND, RUN };

    /// What is kept goes to the lists; gives whether the last word does.
    bool lists(WritePort& writes) {
        BeatPacker* packers[] = {&indices_, &values_list_};
        bool goes[2];
        for (int list = 0; list < 2; list++) {
            goes[list] = packers[list]->offers() && writes.channels[list].takes_beat();
            if (goes[list]) writes.channels[list].push_beat();
        }
        const bool ready = indices_.ready(goes[0]) && (values_list_.ready(goes[1]) || !values_);
        const bool taken = eliminator_.valid() && ready, last = eliminator_.last();
        indices_.step(goes[0], taken, eliminator_.count(), last);
        values_list_.step(goes[1], taken && values_, eliminator_.count(), last);
        compactor_.step(taken && fields_.compact, last);
        const attention::KeepFilter::Beat& beat = filter_.beat();
        marks_taken_ = beat.valid && eliminator_.advances(taken);
        survives_ = marks_taken_ && beat.last && fields_.score;
        eliminator_.step(beat.valid, beat.count, beat.last, taken);
        return taken && last;
    }

    /// Spans, then bits of protected tokens, then the engine. masked: these bits are there.
    void sequence(SpanReader& reads, WritePort& writes, bool masked, bool takes_command, bool last) {
        const bool protects = !values_ && fields_.protected_, asks = values_ || protects;
        switch (state_) {
            case IDLE:
                return;
            case READ:
                if (asks && !reads.takes_span()) return;
                if (asks) ask(reads, protects);
                state_ = INDICES;
                return;
            case INDICES:
                if (announce(writes.channels[0], fields_.index_addr, isa::INDEX_BYTES)) state_ = VALUES;
                return;
            case VALUES:
                if (!values_ || announce(writes.channels[1], fields_.value_addr, isa::VALUE_BYTES)) state_ = MASKS;
                return;
            case MASKS:
                if (masked) state_ = COMMAND;
                return;
            case COMMAND:
                if (!takes_command) return;
                feed_.start(vector_.length);
                state_ = RUN;
                return;
            case RUN:
                if (last) state_ = IDLE;
        }
    }

    void ask(SpanReader& reads, bool protects) {
        const uint64_t length = vector_.length;
        const uint32_t beats = values_ ? beats_of(length * isa::VALUE_BYTES, beat_) : beats_of(length, 8 * beat_);
        reads.ask({values_ ? fields_.src_addr : fields_.protect_addr, beats, protects});
        if (protects) masks_ = beats;
    }

    bool announce(WriteChannel& channel, uint64_t address, uint32_t item_bytes) {
        if (!channel.takes_span()) return false;
        channel.push_span({address, beats_of(uint64_t(facts_.kept_count) * item_bytes, beat_), false});
        return true;
    }

    uint32_t beat_;
    RankFeed feed_;
    attention::RadixSearch search_;
    attention::KeepFilter filter_;
    attention::Eliminator eliminator_;
    BeatPacker indices_, values_list_;
    Compactor compactor_;
    isa::Fields fields_{};
    attention::RowFacts facts_{};
    attention::SelectCommand vector_{};
    State state_ = IDLE;
    uint32_t masks_ = 0;
    bool values_ = false, survives_ = false, marks_taken_ = false;
};

}  // namespace services
