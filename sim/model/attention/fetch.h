// hwgen/attention/spans.py, fetch.py, funnel.py: rows of planes out of memory, as words.
#pragma once

#include "base.h"

namespace attention {

/// spans.py: Spans. Rows as stretches of memory; which beats of them are asked for, and when.
class Spans {
  public:
    /// Places are in units of 4 bytes.
    struct Span {
        uint64_t begin, end;
        uint32_t rows, full, tail;
        bool shared, gather, single, query, none, last;
    };

    explicit Spans(const Sizes& sizes)
        : waiting(sizes.spans_ahead),
          beat_units_(log2_of(sizes.beat_bytes / UNIT_BYTES)),
          page_(sizes.page_bytes / sizes.beat_bytes),
          burst_(std::min(std::max(1u, sizes.reads_in_flight / 4), page_)),
          multipliers_(sizes.multipliers),
          credit_(sizes.reads_in_flight) {}

    /// Beats of the burst that is offered, or 0.
    uint32_t wants() const {
        if (!left_) return 0;
        const uint32_t beats = std::min(std::min(left_, burst_), page_ - uint32_t(next_beat_ % page_));
        return beats <= credit_ ? beats : 0;
    }

    /// command, index: what is offered or null. asked: beats of the burst that is taken. freed: a beat left the queue.
    void step(const FetchCommand* command, const Index* index, const Shape& shape, uint32_t asked, bool freed) {
        const bool free = left_ == asked, moves = free && waiting.ready();
        const bool go = !full_[2] || moves;
        credit_ += uint32_t(freed) - asked;
        next_beat_ += asked;
        left_ -= asked;
        if (full_[2] && moves) give(stage_[2]);
        const bool offer = command && (index || !command->gather);
        command_taken = go && offer && (!command->gather || index->last);
        index_taken = go && offer && command->gather;
        if (!go) return;
        if (full_[1]) stage_[2] = stage_[1];
        if (full_[0]) stage_[1] = stage_[0];
        full_[2] = full_[1];
        full_[1] = full_[0];
        full_[0] = offer;
        if (offer) stage_[0] = span(*command, index, shape);
    }

    Queue<Span> waiting;
    bool command_taken = false, index_taken = false;

  private:
    Span span(const FetchCommand& command, const Index* index, const Shape& shape) const {
        Span span{};
        const uint32_t row_units = shape.head_size / CHUNK * (command.bits / 2);
        span.none = command.gather && index->none;
        span.rows = command.gather ? !span.none : command.rows;
        span.last = !command.gather || index->last;
        span.gather = command.gather;
        span.single = command.single;
        span.query = command.query;
        span.begin = command.address / UNIT_BYTES + uint64_t(command.gather ? index->index : 0) * row_units;
        span.end = span.begin + uint64_t(span.rows) * row_units - 1;
        if (shape.parts > 1) {
            const uint32_t tail = (shape.head_size - 1) % multipliers_ + 1;
            span.full = command.bits / 2 * (multipliers_ / CHUNK);
            span.tail = command.bits / 2 * (tail / CHUNK);
        } else {
            span.full = row_units * (span.gather ? 1 : shape.group);
            span.tail = row_units * (span.rows % shape.group);
        }
        return span;
    }

    /// Offers a span, and begins to ask for those of its beats that its forerunner did not ask for.
    void give(Span span) {
        const uint64_t first = span.begin >> beat_units_, last = span.end >> beat_units_;
        span.shared = follows_ && first == previous_;
        waiting.push(span);
        previous_ = last;
        follows_ = !span.last;
        next_beat_ = first + span.shared;
        left_ = span.none ? 0 : uint32_t(last - first + 1 - span.shared);
    }

    uint32_t beat_units_, page_, burst_, multipliers_, credit_;
    uint64_t previous_ = 0, next_beat_ = 0;
    uint32_t left_ = 0;
    bool follows_ = false, full_[3] = {};
    Span stage_[3] = {};
};

/// fetch.py: RowFetch with its funnel.
class RowFetch {
  public:
    explicit RowFetch(const Sizes& sizes)
        : spans(sizes), beats(sizes.reads_in_flight), beat_units_(sizes.beat_bytes / UNIT_BYTES) {
        // As `piece_units` and `Funnel.depth`.
        const uint32_t longest =
            std::max(sizes.multipliers * isa::LONGEST_PLANE, std::min(sizes.multipliers, 128u) * isa::LONGEST_QUERY);
        depth_ = (beat_units_ - 1 + longest / (8 * UNIT_BYTES) + beat_units_ - 1) / beat_units_;
    }

    bool valid() const { return valid_; }
    const Word& word() const { return word_; }

    /// One cycle; see `Spans::step`. word_taken: whoever is offered a word takes it.
    void step(const FetchCommand* command, const Index* index, const Shape& shape, uint32_t asked, bool word_taken) {
        const bool room = !valid_ || word_taken, funnel_room = !piece_valid_ || room;
        Piece next{};
        uint32_t dropped = 0;
        bool ends = false;
        const bool taken = full_ && funnel_room && piece(shape, next, dropped, ends);
        if (room) {
            valid_ = piece_valid_ && piece_.closes;
            if (piece_valid_) word_ = piece_.word;
        }
        if (funnel_room) {
            piece_valid_ = taken;
            if (taken) piece_ = next;
        }
        const bool comes = beats.valid() && (level_ != depth_ || dropped);
        if (comes) beats.pop();
        level_ += uint32_t(comes) - dropped;
        if (!full_ || (taken && ends)) follow();
        spans.step(command, index, shape, asked, comes);
        spans.waiting.tick();
        beats.tick();
    }

    Spans spans;
    Queue<char> beats;

  private:
    struct Piece {
        Word word;
        bool closes;
    };

    /// The next piece of the span at hand, if its beats are there; the last one waits for the span behind it.
    bool piece(const Shape& shape, Piece& next, uint32_t& dropped, bool& ends) {
        const uint32_t rows = span_.gather ? !span_.none : std::min(left_, shape.group);
        const bool done = part_ + 1 == shape.parts;
        ends = done && left_ == rows;
        if (ends && !span_.last && !spans.waiting.valid()) return false;
        const bool tail = shape.parts > 1 ? done : !span_.gather && left_ < shape.group;
        const uint32_t end = place_ + (span_.none ? 0 : tail ? span_.tail : span_.full);
        if (end > level_ * beat_units_) return false;
        const bool release = ends && (span_.last || !spans.waiting.front().shared);
        dropped = (release ? end + beat_units_ - 1 : end) / beat_units_;
        place_ = end % beat_units_;
        const bool last = ends && span_.last;
        next.closes = !span_.gather || span_.single || slot_ + 1 == shape.group || last;
        next.word = {part_, span_.query, last};
        part_ = done ? 0 : part_ + 1;
        if (done) {
            slot_ = next.closes ? 0 : slot_ + 1;
            left_ -= rows;
        }
        return true;
    }

    void follow() {
        full_ = spans.waiting.valid();
        if (!full_) return;
        span_ = spans.waiting.front();
        spans.waiting.pop();
        left_ = span_.rows;
        place_ = span_.none ? 0 : uint32_t(span_.begin % beat_units_);
    }

    uint32_t beat_units_, depth_;
    Spans::Span span_{};
    uint32_t left_ = 0, part_ = 0, slot_ = 0, place_ = 0, level_ = 0;
    bool full_ = false, piece_valid_ = false, valid_ = false;
    Piece piece_{};
    Word word_{};
};

/// hwgen/attention/buffer.py: RowBuffer, of jobs that hold their keys and values.
class RowBuffer {
  public:
    bool valid() const { return full_[1]; }
    const Word& word() const { return words_[1]; }

    /// One cycle; read, index: what is offered or null.
    void step(const BufferRead* read, const Index* index, const Shape& shape, bool word_taken) {
        const bool room = !full_[1] || word_taken, go = !full_[0] || room;
        const Word before = words_[0];
        const bool was = full_[0];
        read_taken = index_taken = false;
        if (go) next(read, index, shape);
        if (room) full_[1] = was, words_[1] = before;
    }

    bool read_taken = false, index_taken = false;

  private:
    void next(const BufferRead* read, const Index* index, const Shape& shape) {
        full_[0] = read && (index || !read->gather);
        if (!full_[0]) return;
        const bool complete = part_ + 1 == shape.parts;
        const bool ends = complete && (read->gather ? index->last : read->rows - counted_ <= shape.group);
        words_[0] = {part_, false, ends};
        read_taken = ends;
        index_taken = read->gather && complete;
        part_ = complete ? 0 : part_ + 1;
        if (complete) counted_ = ends ? 0 : counted_ + shape.group;
    }

    bool full_[2] = {};
    Word words_[2] = {};
    uint32_t part_ = 0, counted_ = 0;
};

}  // namespace attention
