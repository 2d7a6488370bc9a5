// hwgen/attention/job.py, issue.py: from the descriptor of a job to its rows.
#pragma once

#include "base.h"

namespace attention {

/// job.py: JobReader, of jobs that are not refused; it reads the next one while one runs.
class JobReader {
  public:
    explicit JobReader(const Sizes& sizes)
        : beat_(sizes.beat_bytes), descriptor_(std::max(1u, isa::JOB_BYTES / sizes.beat_bytes)) {}

    bool busy() const { return running_ || state_ != IDLE; }
    /// Records or mask of the job that was started are still to come.
    bool arriving() const { return state_ == ARRIVING; }
    /// Beats of the request that is offered.
    uint32_t wants() const {
        return (state_ == DESCRIPTOR && asked_ != descriptor_) || (state_ == TABLES && asked_ != total_);
    }
    bool starts() const { return state_ == TABLES && asked_ == total_ && !running_; }
    /// A job becomes the one at hand: it is taken while no other runs, or the one before ended a cycle ago.
    bool begins(bool offered) const { return (offered && state_ == IDLE && !running_) || (ended_ && state_ != IDLE); }

    /// One cycle. offered: the address of a job is; job: that is read. True if the address is taken.
    bool step(bool offered, const isa::JobFields& job, bool asked, bool arrives, bool finished) {
        const bool descriptor_there = arrived_ == descriptor_, tables_there = arrived_ == total_;
        const bool starts = this->starts();
        running_ = starts || (running_ && !finished);
        ended_ = finished;
        asked_ += asked;
        arrived_ += arrives;
        switch (state_) {
            case IDLE:
                asked_ = arrived_ = 0;
                if (offered) state_ = DESCRIPTOR;
                return offered;
            case DESCRIPTOR:
                if (descriptor_there) state_ = CHECK;
                break;
            case CHECK:
                asked_ = arrived_ = 0;
                total_ = beats(uint32_t(job.heads) * isa::RECORD_BYTES);
                if (job.masked) total_ += beats((uint32_t(job.keys) + 7) / 8);
                state_ = TABLES;
                break;
            case TABLES:
                if (starts) state_ = ARRIVING;
                break;
            case ARRIVING:
                if (tables_there) state_ = IDLE;
        }
        return false;
    }

  private:
    enum State { IDLE, DESCRIPTOR, CHECK, TABLES, ARRIVING };
    uint32_t beats(uint32_t bytes) const { return (bytes + beat_ - 1) / beat_; }

    uint32_t beat_, descriptor_, asked_ = 0, arrived_ = 0, total_ = 0;
    State state_ = IDLE;
    bool running_ = false, ended_ = false;
};

/// issue.py: RowIssue.
class RowIssue {
  public:
    explicit RowIssue(const Sizes& sizes) : most_(sizes.max_length) {}

    bool valid() const { return running_; }
    const RowPlace& row() const { return row_; }

    void start(const isa::JobFields& job, uint32_t alive, bool halves) {
        row_ = {job.q_addr, job.k_addr, job.k_low_addr, job.v_addr, job.v_low_addr, job.out_addr, 0, 0, 0, 0, 0, false, true, true};
        head_ = row_;
        head_query_ = job.q_addr;
        head_output_ = job.out_addr;
        query_ = member_ = before_ = 0;
        halves_ = halves;
        running_ = true;
        number_ = 0;
        look(job, alive);
    }

    /// The row, or tile, that is offered is taken.
    void next(const isa::JobFields& job, uint32_t alive) {
        if (!row_.zero) number_++;
        if (row_.last)
            next_row(job);
        else
            next_tile(job);
        look(job, alive);
    }

  private:
    void next_tile(const isa::JobFields& job) {
        const uint64_t elements = uint64_t(most_) * job.head_size;
        before_ += most_;
        row_.key += elements * job.key_bits / 8;
        row_.key_low += elements * LOW_BITS / 8;
        row_.value += elements * job.value_bits / 8;
        row_.value_low += elements * LOW_BITS / 8;
    }

    void next_row(const isa::JobFields& job) {
        before_ = 0;
        row_.query += job.head_size * job.query_bits / 8;
        row_.output += job.out_stride;
        if (++query_ == job.queries) next_head(job);
        row_.key = head_.key, row_.key_low = head_.key_low;
        row_.value = head_.value, row_.value_low = head_.value_low;
    }

    void next_head(const isa::JobFields& job) {
        query_ = 0;
        running_ = ++row_.head != job.heads;
        row_.query = head_query_ += job.q_stride;
        row_.output = head_output_ += OUTPUT_BYTES * job.head_size;
        if (++member_ != job.group) return;
        member_ = 0;
        row_.kv_head++;
        row_.side ^= uint32_t(halves_);
        head_.key += job.k_stride;
        head_.key_low += job.k_low_stride;
        head_.value += job.v_stride;
        head_.value_low += job.v_low_stride;
    }

    void look(const isa::JobFields& job, uint32_t alive) {
        const uint64_t seen = job.offset + query_ + 1;
        const uint32_t left = uint32_t(job.causal ? std::min<uint64_t>(seen, job.keys) : job.keys) - before_;
        row_.zero = !(alive >> row_.head & 1);
        row_.first = before_ == 0;
        row_.last = left <= most_ || row_.zero;
        row_.keys = std::min(left, most_);
        row_.number = number_;
    }

    uint32_t most_, before_ = 0;
    RowPlace row_{}, head_{};  // head_: where its planes begin
    uint64_t head_query_ = 0, head_output_ = 0;
    uint32_t query_ = 0, member_ = 0, number_ = 0;
    bool halves_ = false, running_ = false;
};

}  // namespace attention
