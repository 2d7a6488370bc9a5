// hwgen/attention/passes.py, loader.py: passes over keys in their order; heads of keys and values that are held.
#pragma once

#include "base.h"

namespace attention {

/// passes.py: PassIssue.
class PassIssue {
  public:
    explicit PassIssue(const Sizes& sizes)
        : fetches(2 * sizes.passes_ahead), products(sizes.passes_ahead), reads(sizes.passes_ahead),
          queries(2 * sizes.passes_ahead), low(sizes.slots), places(sizes.slots),
          free_((uint64_t(1) << sizes.slots) - 1), all_(free_) {}

    bool empty() const { return free_ == all_; }
    /// Bits of the halves of the buffers that rows in slots use.
    unsigned used() const {
        const uint64_t busy = all_ & ~free_;
        return unsigned((busy & ~sides_) != 0) | unsigned((busy & sides_) != 0) << 1;
    }
    /// The read of held keys that is offered, or null.
    const BufferRead* read() const {
        return reads.valid() && (reads.front().low || arrived_) ? &reads.front() : nullptr;
    }

    /// One cycle. row: what is offered, or null; there: its keys are held, or are fetched. load: a plane to fetch, or
    /// null. query: one has arrived. read_taken: of `read`. release: bits of slots.
    void step(const isa::JobFields& job, const RowPlace* row, bool there, const FetchCommand* load, bool query,
              bool read_taken, uint64_t release) {
        const bool room =
            fetches.ready() && products.ready() && queries.ready() && reads.ready() && !load;
        const bool takes_low = low.valid() && !begun_ && room;
        const bool takes_row = row && !low.valid() && !begun_ && room && free_ && there;
        const bool pushes = begun_ && room;
        const bool uses = read_taken && !reads.front().low;
        if (read_taken) reads.pop();
        if (query) queries.pop();
        arrived_ = job.hold ? arrived_ + query - uses : 0;
        if (load && fetches.ready()) fetches.push(*load);
        taken = -1;
        const uint64_t before = free_;
        free_ |= release;
        if (takes_row)
            take(job, *row, uint32_t(__builtin_ctzll(before)));
        else if (takes_low) {
            const uint32_t slot = low.front();
            const RowPlace& place = places[slot];
            low.pop();
            multiply(job, slot, true, {place.key_low, LOW_BITS, place.keys, picks(job), picks(job), false});
        } else if (pushes) {
            const RowPlace& place = places[own_];
            begun_ = false;
            multiply(job, own_, false, {place.key, uint32_t(job.key_bits), place.keys, false, false, false});
        }
    }
    /// Queues that others write or read.
    void tick() {
        fetches.tick();
        products.tick();
        reads.tick();
        queries.tick();
        low.tick();
    }

    Queue<FetchCommand> fetches;
    Queue<ProductCommand> products;
    Queue<BufferRead> reads;
    Queue<uint32_t> queries, low;
    std::vector<RowPlace> places;  // of the row in each slot
    int taken = -1;                // slot that a row takes

  private:
    void take(const isa::JobFields& job, const RowPlace& row, uint32_t slot) {
        own_ = slot;
        taken = int(slot);
        places[own_] = row;
        free_ &= ~(uint64_t(1) << own_);
        sides_ = (sides_ & ~(uint64_t(1) << own_)) | uint64_t(row.side) << own_;
        begun_ = true;
        queries.push(own_);
        fetches.push({row.query, uint32_t(job.query_bits), 1, false, false, true});
    }

    static bool picks(const isa::JobFields& job) { return job.key_mode == isa::KeyMode::KEY; }

    void multiply(const isa::JobFields& job, uint32_t slot, bool low_pass, const FetchCommand& fetch) {
        products.push({slot, places[slot].keys, low_pass});
        if (job.hold)
            reads.push({places[slot].keys, low_pass && picks(job), low_pass});
        else
            fetches.push(fetch);
    }

    uint64_t free_, all_, sides_ = 0;
    uint32_t own_ = 0, arrived_ = 0;
    bool begun_ = false;
};

/// loader.py: HeadLoader. `offered`: the plane that it asks for; it is the side of that plane which takes it.
class HeadLoader {
  public:
    static constexpr int KEYS = 0, VALUES = 1;

    void start(const isa::JobFields& job) {
        ready = first_ = side_ = plane_ = 0;
        state_ = WAIT;
        const uint64_t bases[] = {job.k_addr, job.k_low_addr, job.v_addr, job.v_low_addr};
        std::copy(bases, bases + 4, addresses_);
    }

    /// The side and command of the plane that is asked for, or -1. A plane that is not wanted is passed over.
    int offered(const isa::JobFields& job, FetchCommand& command) const {
        if (state_ != PLANES || !wanted(job)) return -1;
        const uint32_t bits = plane_ % 2 ? LOW_BITS : uint32_t(plane_ ? job.value_bits : job.key_bits);
        command = {addresses_[plane_], bits, uint32_t(job.keys), false, false, false};
        return plane_ / 2;
    }

    /// One cycle. at: head of the row that comes next, or -1; used: halves of the buffers; sent: the plane that is
    /// asked for is taken; loaded: planes whose last word is written.
    void step(const isa::JobFields& job, uint32_t alive, bool halves, int at, unsigned used, bool sent,
              uint32_t loaded) {
        const bool arrived = coming_ == 0;
        coming_ += uint32_t(sent) - loaded;
        const uint32_t group = (1u << job.group) - 1;
        if (state_ == WAIT) {
            const bool room = at >= 0 && ready <= uint32_t(at) + halves && !(used >> side_ & 1);
            if (!room || first_ >= job.heads || !job.hold) return;
            if (alive >> first_ & group)
                state_ = PLANES;
            else
                done(job, halves);
        } else if (state_ == PLANES) {
            if (!sent && wanted(job)) return;
            if (plane_ == 3) state_ = ARRIVE;
            plane_ = (plane_ + 1) % 4;
        } else if (arrived) {
            done(job, halves);
            state_ = WAIT;
        }
    }

    uint32_t ready = 0;  // heads below have been loaded

  private:
    enum State { WAIT, PLANES, ARRIVE };

    bool wanted(const isa::JobFields& job) const {
        if (plane_ == 1) return job.key_low && job.key_mode != isa::KeyMode::NEVER;
        if (plane_ == 3) return job.value_low && job.value_mode != isa::ValueMode::NEVER;
        return true;
    }

    void done(const isa::JobFields& job, bool halves) {
        ready++;
        first_ += uint32_t(job.group);
        side_ ^= uint32_t(halves);
        const uint64_t strides[] = {job.k_stride, job.k_low_stride, job.v_stride, job.v_low_stride};
        for (int plane = 0; plane < 4; plane++) addresses_[plane] += strides[plane];
    }

    State state_ = WAIT;
    uint64_t addresses_[4] = {};
    uint32_t first_ = 0, side_ = 0, plane_ = 0, coming_ = 0;
};

}  // namespace attention
