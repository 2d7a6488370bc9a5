// hwgen/attention/services/state.py: SAVE and RESTORE.
#pragma once

#include "lists.h"
#include "ports.h"

namespace services {

class StateJob {
  public:
    explicit StateJob(const Sizes& sizes)
        : beat_(sizes.beat_bytes), width_(sizes.rank_width), parts_(beat_ / (isa::IMPORTANCE_BYTES * width_)),
          packer_(sizes, isa::IMPORTANCE_BYTES), compactor_(sizes) {}

    bool busy() const { return offers_ || left_ || packer_.busy() || compactor_.busy(); }
    void start(const Job& job) {
        fields_ = job.fields;
        restores_ = job.kind == isa::Kind::RESTORE;
        by_head_ = restores_ && fields_.score;
        beats_ = by_head_ ? 1 : beats_of(fields_.length * isa::IMPORTANCE_BYTES, beat_);
        left_ = by_head_ ? 1 : uint32_t(fields_.length);
        word_ = 0;
        there_ = false;
        offers_ = true;
    }

    void step(SpanReader& reads, WritePort& writes) {
        WriteChannel& channel = writes.channels[0];
        const bool goes = packer_.offers() && channel.takes_beat();
        if (goes) channel.push_beat();
        const bool takes = left_ && (restores_ ? reads.valid() : there_ && packer_.ready(goes)), last = left_ <= width_;
        packer_.step(goes, takes && !restores_, std::min(left_, width_), last);
        compactor_.step(takes && restores_ && !by_head_, last);
        if (takes && restores_ && (last || word_ % parts_ == parts_ - 1)) reads.take();
        there_ = left_ != 0;
        if (takes) {
            word_++;
            left_ -= std::min(left_, width_);
        }
        if (offers_) announce(reads, channel);
    }

  private:
    /// What is read or written is announced once.
    void announce(SpanReader& reads, WriteChannel& channel) {
        if (!(restores_ ? reads.takes_span() : channel.takes_span())) return;
        if (restores_)
            reads.ask({fields_.src_addr, beats_, false});
        else
            channel.push_span({fields_.dst_addr, beats_, false});
        offers_ = false;
    }

    uint32_t beat_, width_, parts_, left_ = 0, word_ = 0, beats_ = 0;
    BeatPacker packer_;
    Compactor compactor_;
    isa::Fields fields_{};
    bool restores_ = false, by_head_ = false, there_ = false, offers_ = false;
};

}  // namespace services
