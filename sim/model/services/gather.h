// hwgen/attention/services/gather.py: rows that a list names, copied one behind the other.
#pragma once

#include "ports.h"

namespace services {

class GatherJob {
  public:
    GatherJob(const Sizes& sizes, const uint32_t* indices)
        : beat_(sizes.beat_bytes), per_beat_(beat_ / isa::INDEX_BYTES), lists_(sizes.index_beats),
          room_(sizes.index_beats), indices_(indices) {}

    bool busy() const { return rows_ || indexed_.there || multiplied_.there || placed_.there || copies_; }
    void start(const Job& job) {
        fields_ = job.fields;
        list_ = fields_.index_addr;
        listed_ = beats_of(fields_.rows * isa::INDEX_BYTES, beat_);
        rows_ = copies_ = uint32_t(fields_.rows);
        copy_ = fields_.dst_addr;
        next_ = indices_ + job.facts.kept;
    }

    void step(SpanReader& reads, WritePort& writes) {
        WriteChannel& channel = writes.channels[0];
        const bool there = reads.valid(), table = there && reads.table();
        const bool beat = there && !table && channel.takes_beat();
        const bool asks = listed_ && room_, asked = asks && reads.takes_span();
        const bool freed = rows(reads, asks);
        if (asked) {
            reads.ask({list_, 1, true});
            list_ += beat_;
            listed_--;
        }
        room_ += uint32_t(freed) - uint32_t(asked);
        if (table) lists_.push(0);
        if (beat) channel.push_beat();
        if (table || beat) reads.take();
        if (copies_ && channel.takes_span()) {
            channel.push_span({copy_, uint32_t(fields_.row_beats), false});
            copy_ += fields_.dst_stride;
            copies_--;
        }
        lists_.tick();
    }

  private:
    /// An index on its way to the address of its row.
    struct Row {
        bool there;
        uint32_t index;
    };

    /// Index, product, address, row; `asks`: the list has the port. Gives whether a beat of the list has been used up.
    bool rows(SpanReader& reads, bool asks) {
        const bool leaves = placed_.there && reads.takes_span() && !asks;
        if (leaves)
            reads.ask({fields_.src_addr + placed_.index * fields_.src_stride, uint32_t(fields_.row_beats), false});
        if (placed_.there && !leaves) return false;
        const bool here = lists_.valid() && rows_;
        placed_ = multiplied_;
        multiplied_ = indexed_;
        indexed_ = {here, here ? *next_ : 0};
        if (!here) return false;
        const bool freed = place_ == per_beat_ - 1 || rows_ == 1;
        place_ = freed ? 0 : place_ + 1;
        next_++;
        rows_--;
        if (freed) lists_.pop();
        return freed;
    }

    uint32_t beat_, per_beat_;
    Queue<char> lists_;
    uint32_t room_, listed_ = 0, rows_ = 0, copies_ = 0, place_ = 0;
    const uint32_t* indices_;
    const uint32_t* next_ = nullptr;
    uint64_t list_ = 0, copy_ = 0;
    Row indexed_{}, multiplied_{}, placed_{};
    isa::Fields fields_{};
};

}  // namespace services
