// hwgen/attention/services/quantize.py, align.py; hwgen/quantization: rows of operands become planes of integers.
#pragma once

#include "ports.h"

namespace services {

/// A row of a head: bytes of a beat in which it, and the planes of its head, start.
struct Piece {
    uint32_t offset, places[WritePort::CHANNELS];
    bool last;  // of its head
};

/// quantize.py: QuantizeIssue.
class QuantizeIssue {
  public:
    explicit QuantizeIssue(const Sizes& sizes) : beat_(sizes.beat_bytes) {}

    bool busy() const { return state_ != IDLE; }
    void start(const Job& job) {
        job_ = &job;
        head_ = 0;
        source_ = job.fields.src_addr;
        planes_[0] = job.fields.msb_addr;
        planes_[1] = job.fields.low_addr;
        state_ = STEPS;
    }

    void step(SpanReader& reads, WritePort& writes, Queue<Piece>& pieces) {
        switch (state_) {
            case IDLE:
                return;
            case STEPS:
                if (reads.takes_span()) steps(reads);
                return;
            case HEAD:
                head(writes);
                return;
            case ROWS:
                if (reads.takes_span() && pieces.ready()) row(reads, pieces);
        }
    }

  private:
    enum State { IDLE, STEPS, HEAD, ROWS };

    uint32_t beats(uint64_t address, uint64_t bytes) const { return beats_of(address % beat_ + bytes, beat_); }

    void steps(SpanReader& reads) {
        const isa::Fields& fields = job_->fields;
        reads.ask({fields.steps_addr, beats(fields.steps_addr, fields.heads * isa::STEP_BYTES), true});
        state_ = HEAD;
    }

    void head(WritePort& writes) {
        const uint64_t group = job_->fields.group, queries = job_->alive >> head_ * group;
        if (head_ == job_->fields.heads) {
            state_ = IDLE;
        } else if (!(queries & ((1u << group) - 1))) {
            next_head();
        } else if (announce(writes)) {
            row_ = 0;
            row_source_ = source_;
            state_ = ROWS;
        }
    }

    /// Both planes of a head, or none.
    bool announce(WritePort& writes) {
        const isa::Fields& fields = job_->fields;
        const uint64_t elements = fields.head_size * fields.rows, bits[] = {fields.bits, isa::LOW_BITS};
        const int count = fields.split ? 2 : 1;
        for (int plane = 0; plane < count; plane++)
            if (!writes.channels[plane].takes_span()) return false;
        for (int plane = 0; plane < count; plane++) {
            const uint64_t address = planes_[plane];
            writes.channels[plane].push_span({address, beats(address, elements * bits[plane] / 8), false});
        }
        return true;
    }

    void row(SpanReader& reads, Queue<Piece>& pieces) {
        const isa::Fields& fields = job_->fields;
        const bool last = ++row_ == fields.rows;
        reads.ask({row_source_, beats(row_source_, fields.head_size * isa::OPERAND_BYTES), false});
        pieces.push({place(row_source_), {place(planes_[0]), place(planes_[1])}, last});
        row_source_ += fields.src_stride;
        if (!last) return;
        next_head();
        state_ = HEAD;
    }
    uint32_t place(uint64_t address) const { return uint32_t(address % beat_); }

    void next_head() {
        const isa::Fields& fields = job_->fields;
        head_++;
        source_ += fields.head_size * isa::OPERAND_BYTES;
        planes_[0] += fields.msb_stride;
        planes_[1] += fields.low_stride;
    }

    uint32_t beat_, head_ = 0, row_ = 0;
    State state_ = IDLE;
    const Job* job_ = nullptr;
    uint64_t source_ = 0, row_source_ = 0, planes_[WritePort::CHANNELS] = {};
};

/// Operands of a piece; half: of the lanes only the lower half count. last: of the last piece of a head.
struct PieceWord {
    uint32_t places[WritePort::CHANNELS];
    bool half, last;
};

/// align.py: Aligner.
class Aligner {
  public:
    explicit Aligner(const Sizes& sizes)
        : beat_(sizes.beat_bytes), lanes_(sizes.quantizer_lanes), word_(lanes_ * isa::OPERAND_BYTES) {}

    bool busy() const { return full_ || offers_; }
    bool offers() const { return offers_; }
    const PieceWord& word() const { return out_; }

    /// One cycle. taken: the word that is offered is; there: a beat is. Gives whether the beat is taken.
    bool step(uint32_t head_size, Queue<Piece>& pieces, bool taken, bool there) {
        const uint32_t here = begun_ ? left_ : (head_size + lanes_ - 1) / lanes_;
        const bool over = here == 1, half = over && head_size % lanes_, room = !offers_ || taken;
        const uint32_t place = begun_ || !pieces.valid() ? reached_ : pieces.front().offset;
        const uint32_t end = place + (half ? word_ / 2 : word_);
        const bool spans = end > beat_, drains = end >= beat_ || over;
        const bool emit = full_ && pieces.valid() && room && (there || !spans);
        const bool came = there && (!full_ || (emit && (spans || drains)));
        if (room) offers_ = emit;
        if (emit && spans)
            full_ = !over;
        else if (!full_ || (emit && drains))
            full_ = came;
        if (!emit) return came;
        const Piece& piece = pieces.front();
        out_ = {{piece.places[0], piece.places[1]}, half, over && piece.last};
        begun_ = !over;
        left_ = here - 1;
        reached_ = end % beat_;
        if (over) pieces.pop();
        return came;
    }

  private:
    uint32_t beat_, lanes_, word_, left_ = 0, reached_ = 0;
    bool full_ = false, begun_ = false, offers_ = false;
    PieceWord out_{};
};

/// packer.py: PlanePacker, of elements of `bits` bits.
class PlanePacker {
  public:
    explicit PlanePacker(const Sizes& sizes) : beat_(sizes.beat_bytes), lanes_(sizes.quantizer_lanes) {}

    bool busy() const { return full_ || flush_ || offers_ || !first_; }
    bool offers() const { return offers_; }
    bool ready() const { return !full_ || take_; }

    /// What becomes of the beat that is offered in the cycle at hand.
    void look(bool taken) {
        room_ = !offers_ || taken;
        take_ = full_ && room_ && !flush_;
    }
    /// One cycle. word: what is taken, or null; offset: byte of a beat in which its segment starts.
    void step(uint32_t bits, const PieceWord* word, int plane) {
        const bool takes_word = ready();
        const uint32_t size = lanes_ * bits / 8, position = first_ ? word_.places[plane] : fill_;
        const uint32_t end = position + (word_.half ? size / 2 : size);
        const bool crossing = end >= beat_, flushing = flush_ && room_;
        if (room_) offers_ = flush_ || (take_ && (crossing || word_.last));
        if (flushing) flush_ = false;
        if (take_) {
            first_ = word_.last;
            fill_ = end - (crossing ? beat_ : 0);
            flush_ = word_.last && end > beat_;
        }
        if (!takes_word) return;
        full_ = word != nullptr;
        if (word) word_ = *word;
    }

  private:
    uint32_t beat_, lanes_, fill_ = 0;
    bool full_ = false, first_ = true, flush_ = false, offers_ = false, room_ = false, take_ = false;
    PieceWord word_{};
};

/// quantizer.py: Quantizer.
class Quantizer {
  public:
    explicit Quantizer(const Sizes& sizes)
        : packers_{PlanePacker(sizes), PlanePacker(sizes)}, line_(sizes.integer_latency),
          queue_(sizes.integer_latency + 2) {}

    bool ready() const { return under_way_ != queue_.depth(); }
    bool busy() const { return under_way_ || packers_[0].busy() || packers_[1].busy(); }

    /// One cycle. word: what is taken, or null.
    void step(const isa::Fields& fields, const PieceWord* word, WritePort& writes) {
        for (int plane = 0; plane < WritePort::CHANNELS; plane++) {
            const bool goes = packers_[plane].offers() && writes.channels[plane].takes_beat();
            if (goes) writes.channels[plane].push_beat();
            packers_[plane].look(goes);
        }
        const bool leaves = queue_.valid() && packers_[0].ready() && (packers_[1].ready() || !fields.split);
        const PieceWord* packed = leaves ? &queue_.front() : nullptr;
        packers_[0].step(uint32_t(fields.bits), packed, 0);
        packers_[1].step(isa::LOW_BITS, fields.split ? packed : nullptr, 1);
        if (leaves) queue_.pop();
        under_way_ += uint32_t(word != nullptr) - uint32_t(leaves);
        Entry& entry = line_[place_];
        if (entry.there) queue_.push(entry.word);
        entry = {word != nullptr, word ? *word : PieceWord{}};
        place_ = (place_ + 1) % line_.size();
        queue_.tick();
    }

  private:
    struct Entry {
        bool there;
        PieceWord word;
    };
    PlanePacker packers_[WritePort::CHANNELS];
    std::vector<Entry> line_;  // multipliers and conversion
    Queue<PieceWord> queue_;
    uint32_t under_way_ = 0;
    size_t place_ = 0;
};

/// quantize.py: QuantizeJob.
class QuantizeJob {
  public:
    explicit QuantizeJob(const Sizes& sizes)
        : issue_(sizes), pieces_(sizes.reads_in_flight), aligner_(sizes), quantizer_(sizes) {}

    bool busy() const { return issue_.busy() || pieces_.valid() || aligner_.busy() || quantizer_.busy(); }
    void start(const Job& job) { issue_.start(job), fields_ = job.fields; }

    void step(SpanReader& reads, WritePort& writes) {
        const bool taken = aligner_.offers() && quantizer_.ready();
        quantizer_.step(fields_, taken ? &aligner_.word() : nullptr, writes);
        const bool table = reads.valid() && reads.table();
        const bool came = aligner_.step(uint32_t(fields_.head_size), pieces_, taken, reads.valid() && !table);
        if (table || came) reads.take();
        issue_.step(reads, writes, pieces_);
        pieces_.tick();
    }

  private:
    QuantizeIssue issue_;
    Queue<Piece> pieces_;
    Aligner aligner_;
    Quantizer quantizer_;
    isa::Fields fields_{};
};

}  // namespace services
