// hwgen/memory/place.py: where each beat of a LOAD or FILL goes, as far as it decides about time.
#pragma once

#include "base.h"

/// Who takes a beat, and may have to wait for it; entries of curves go the way of beats for the banks, which never wait.
enum class Sink { BANKS, INDICES, ACC };

class Placer {
  public:
    explicit Placer(const Sizes& sizes) : sizes_(sizes), period_(sizes.packed_slots + 1) {}

    bool active() const { return rows_left_ != 0; }
    bool memory() const { return beats_left_ != 0; }
    bool row_end() const { return beats_left_ + pad_left_ == 1; }
    bool last() const { return row_end() && rows_left_ == 1; }
    bool drop() const { return drops_ && x_ * sizes_.cols / chunk_ >= sizes_.rows; }
    Sink sink() const {
        if (packed_) return x_ % period_ == period_ - 1 ? Sink::INDICES : Sink::BANKS;
        return sink_;
    }
    Sink previous_sink() const {
        if (packed_) return x_ % period_ == 0 ? Sink::INDICES : Sink::BANKS;
        return sink_;
    }
    /// Accumulator word of this beat, of the one before it, of the last of its row.
    uint32_t word() const { return word_at(x_); }
    uint32_t previous_word() const { return word_at(x_ - 1); }
    uint32_t last_word() const { return word_at(uint64_t(beats_ + pad_) - 1); }

    void start(const Instruction& item) {
        using namespace isa;
        const unsigned target = item.get(Load::target);
        sink_ = target == Target::ACC32 || target == Target::ACC16 ? Sink::ACC
                : target == Target::IDX                            ? Sink::INDICES
                                                                   : Sink::BANKS;
        packed_ = target == Target::PACKED;
        halves_ = target == Target::ACC32 ? 2 : 1;
        stride_ = uint32_t(item.get(Load::stride));
        base_ = uint32_t(item.get(Load::addr));
        beats_ = beats_left_ = item.get(Load::beats) * item.get(Load::planes);
        pad_ = pad_left_ = item.get(Load::pad);
        rows_left_ = item.get(Load::rows);
        x_ = 0;
        chunk_ = 1u << item.get(Load::chunk_log2);
        const uint64_t last_bank = uint64_t(beats_ + pad_ - 1) * sizes_.cols / chunk_;
        drops_ = target == Target::ACT_CHUNKS && stride_ == 0 && last_bank >= sizes_.rows;
    }

    void next() { skip(1); }

    /// Beats from this one on that come from memory if this one does, and of which none is dropped or all are; they go
    /// to one sink (PACKED: to both in turn). The last of the instruction is not one of them.
    Cycle quiet() const {
        if (plain() && !pad_) return beats_left_ + (rows_left_ - 1) * beats_ - 1;
        const Cycle row = (beats_left_ ? beats_left_ : pad_left_) - 1;
        if (!drops_ || drop()) return row;
        return std::min<Cycle>(row, (uint64_t(sizes_.rows) * chunk_ + sizes_.cols - 1) / sizes_.cols - x_);
    }

    /// Beats before the next one of indices, and from there to the one after it.
    Cycle until_indices() const {
        if (packed_) return period_ - 1 - Cycle(x_ % period_);
        return sink_ == Sink::INDICES ? 0 : NEVER;
    }
    Cycle indices_period() const { return sink_ == Sink::INDICES ? 1 : packed_ ? Cycle(period_) : NEVER; }

    void skip(Cycle beats) {
        Cycle& left = beats_left_ ? beats_left_ : pad_left_;
        x_ += beats;
        if (beats < left || (&left == &beats_left_ && pad_ && beats == left)) {
            left -= beats;
            return;
        }
        // Rows end only in loads without padding, or one by one.
        const Cycle done = pad_ ? beats_ + pad_ : beats_ - beats_left_ + beats, length = beats_ + pad_;
        rows_left_ -= done / length;
        base_ += uint32_t(done / length) * stride_;
        x_ = uint64_t(done % length);
        beats_left_ = beats_ - (pad_ ? 0 : Cycle(x_));
        pad_left_ = pad_;
    }

  private:
    bool plain() const { return sink_ != Sink::ACC && !drops_; }
    uint32_t word_at(uint64_t x) const { return base_ + uint32_t(x / halves_); }

    const Sizes& sizes_;
    const uint32_t period_;  // beats of PACKED that belong together, the last of them indices
    Sink sink_ = Sink::BANKS;
    bool packed_ = false, drops_ = false;  // drops_: some beats of a row are dropped
    uint32_t halves_ = 1, chunk_ = 1, stride_ = 0, base_ = 0;
    uint64_t x_ = 0;  // beats of the row that have gone
    Cycle beats_ = 0, pad_ = 0, beats_left_ = 0, pad_left_ = 0, rows_left_ = 0;
};
