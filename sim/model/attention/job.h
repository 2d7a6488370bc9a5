// hwgen/attention/job.py, issue.py: from the descriptor of a job to its rows.
#pragma once

#include "base.h"

namespace attention {

/// job.py: JobReader, of jobs that are not refused.
class JobReader {
  public:
    explicit JobReader(const Sizes& sizes)
        : beat_(sizes.beat_bytes), descriptor_(std::max(1u, isa::JOB_BYTES / sizes.beat_bytes)) {}

    bool busy() const { return state_ != IDLE; }
    /// Beats of the request that is offered.
    uint32_t wants() const {
        return (state_ == DESCRIPTOR && asked_ != descriptor_) || (state_ == TABLES && asked_ != total_);
    }
    bool starts() const { return state_ == TABLES && asked_ == total_; }

    /// One cycle. command: the job whose address is offered, or null. True if it is taken.
    bool step(const isa::JobFields* command, const isa::JobFields& job, bool asked, bool arrives, bool finished) {
        const bool descriptor_there = arrived_ == descriptor_, starts = this->starts();
        asked_ += asked;
        arrived_ += arrives;
        switch (state_) {
            case IDLE:
                asked_ = arrived_ = 0;
                if (command) state_ = DESCRIPTOR;
                return command != nullptr;
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
                if (starts) state_ = RUNNING;
                break;
            case RUNNING:
                if (finished) state_ = IDLE;
        }
        return false;
    }

  private:
    enum State { IDLE, DESCRIPTOR, CHECK, TABLES, RUNNING };
    uint32_t beats(uint32_t bytes) const { return (bytes + beat_ - 1) / beat_; }

    uint32_t beat_, descriptor_, asked_ = 0, arrived_ = 0, total_ = 0;
    State state_ = IDLE;
};

/// issue.py: RowIssue.
class RowIssue {
  public:
    bool valid() const { return running_; }
    const RowPlace& row() const { return row_; }

    void start(const isa::JobFields& job, uint32_t alive, bool halves) {
        row_ = {job.q_addr, job.k_addr, job.k_low_addr, job.v_addr, job.v_low_addr, job.out_addr, 0, 0, 0, 0, 0, false};
        head_query_ = job.q_addr;
        head_output_ = job.out_addr;
        query_ = member_ = 0;
        halves_ = halves;
        running_ = true;
        number_ = 0;
        look(job, alive);
    }

    /// The row that is offered is taken.
    void next(const isa::JobFields& job, uint32_t alive) {
        if (!row_.zero) number_++;
        row_.query += job.head_size * job.query_bits / 8;
        row_.output += job.out_stride;
        if (++query_ == job.queries) next_head(job);
        look(job, alive);
    }

  private:
    void next_head(const isa::JobFields& job) {
        query_ = 0;
        running_ = ++row_.head != job.heads;
        row_.query = head_query_ += job.q_stride;
        row_.output = head_output_ += OUTPUT_BYTES * job.head_size;
        if (++member_ != job.group) return;
        member_ = 0;
        row_.kv_head++;
        row_.side ^= uint32_t(halves_);
        row_.key += job.k_stride;
        row_.key_low += job.k_low_stride;
        row_.value += job.v_stride;
        row_.value_low += job.v_low_stride;
    }

    void look(const isa::JobFields& job, uint32_t alive) {
        const uint64_t seen = job.offset + query_ + 1;
        row_.keys = uint32_t(job.causal ? std::min<uint64_t>(seen, job.keys) : job.keys);
        row_.zero = !(alive >> row_.head & 1);
        row_.number = number_;
    }

    RowPlace row_{};
    uint64_t head_query_ = 0, head_output_ = 0;
    uint32_t query_ = 0, member_ = 0, number_ = 0;
    bool halves_ = false, running_ = false;
};

}  // namespace attention
