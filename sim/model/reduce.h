// hwgen/reducer: when the N:M reducer takes beats and gives slots.
#pragma once

#include "base.h"

/// SkidBuffer without its contents.
class Skid {
  public:
    bool accepts() const { return !spare_; }
    bool offers() const { return front_; }

    void step(bool comes, bool taken) {
        if (!front_ || taken) {
            front_ = spare_ || comes;
            spare_ = false;
        } else if (comes) {
            spare_ = true;
        }
    }

  private:
    bool front_ = false, spare_ = false;
};

/// SlotPacker: a beat of indices behind every four slots.
class Packer {
  public:
    explicit Packer(const Sizes& sizes) : slots_(sizes.packed_slots) {}

    bool busy() const { return count_ || ended_; }
    bool offers(bool slot) const { return last() || ended_ || slot; }
    bool accepts(bool ready) const { return ready && !last() && !ended_; }

    /// A beat goes; `end`: its slot is the last of its sequence.
    void step(bool end) {
        if (last()) {
            count_ = 0;
            ended_ = false;
            return;
        }
        count_++;
        ended_ |= end;
    }

  private:
    bool last() const { return count_ == slots_; }

    const uint32_t slots_;
    uint32_t count_ = 0;
    bool ended_ = false;
};

class Reducer {
  public:
    explicit Reducer(const Sizes& sizes) : sizes_(sizes), packer_(sizes) {}

    /// N and M of the groups to come.
    void start(uint32_t n, uint32_t m) {
        slots_ = (n + sizes_.lanes - 1) / sizes_.lanes * sizes_.lanes;
        rank_steps_ = sizes_.rank_base + n * sizes_.rank_per_slot;
        m_ = m;
    }

    bool busy() const { return position_ || groups_ || slot_ || packer_.busy() || buffer_.offers(); }
    bool accepts() const { return !complete() || left_ == 0 || leaving(); }
    bool offers() const { return buffer_.offers(); }

    /// `comes`: a beat is taken; `end`: it is the last of its sequence. `taken`: the beat that is offered goes.
    void step(bool comes, bool end, bool taken) {
        const bool moves = accepts(), load = moves && complete(), picks = pick(), leaves = leaving();
        const bool packs = packer_.offers(slot_) && buffer_.accepts(), slot_goes = packer_.accepts(buffer_.accepts());
        buffer_.step(packs, taken);
        if (packs) packer_.step(slot_ && slot_end_ && slot_goes);
        if (slot_goes) slot_ = false;
        if (picks) give_slot(leaves);
        if (load) {
            ranked_.pop();
            left_ = slots_;
        }
        if (comes) take(end);
        steps_ += moves;
    }

  private:
    bool complete() const { return !ranked_.empty() && ranked_.front() == steps_; }
    bool pick() const { return left_ && (!slot_ || packer_.accepts(buffer_.accepts())); }
    bool leaving() const { return left_ == 1 && pick(); }

    void give_slot(bool last) {
        slot_ = true;
        slot_end_ = last && ends_.front();
        left_--;
        if (!last) return;
        ends_.pop();
        groups_--;
    }

    void take(bool end) {
        if (++position_ != m_) return;
        position_ = 0;
        ranked_.push(steps_ + rank_steps_);
        ends_.push(end);
        groups_++;
    }

    const Sizes& sizes_;
    Packer packer_;
    Skid buffer_;
    Fifo<Cycle> ranked_;   // number of the step before which each group is known
    Fifo<uint8_t> ends_;   // whether each group is the last of its sequence
    Cycle steps_ = 0;      // steps that the ranking has made
    uint32_t slots_ = 1, rank_steps_ = 1, m_ = 1;
    uint32_t position_ = 0, groups_ = 0, left_ = 0;  // left_: slots of the group that leaves
    bool slot_ = false, slot_end_ = false;           // at the packer's input
};
