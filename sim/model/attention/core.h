// hwgen/attention/core.py, key_side.py, value_side.py: all parts connected. Who takes goes before who gives.
#pragma once

#include "base.h"
#include "fetch.h"
#include "finish.h"
#include "job.h"
#include "memory.h"
#include "passes.h"
#include "results.h"
#include "scores.h"
#include "select.h"
#include "values.h"
#include "weighted.h"

namespace attention {

/// A job: its descriptor, bits of the heads that are alive, the first of its rows in the facts.
struct Job {
    isa::JobFields fields;
    uint64_t alive, first_row;
};

/// As `sim.attention.block.JobRun`; begins: cycle before the first that counts.
struct Counters {
    uint64_t begins, cycles, products_busy, read_beats, write_beats;
};

class Core {
  public:
    /// Jobs are offered one after the other, the first `released` of them, and later those that `release` adds.
    Core(const Sizes& sizes, Memory& memory, const Job* jobs, size_t count, size_t released, const RowFacts* facts,
         const uint32_t* indices, const uint32_t* passes, Counters* counters)
        : sizes_(sizes), memory_(memory), port_(sizes), reader_(sizes), issue_(sizes), passes_(sizes), scores_(sizes, indices),
          finish_(sizes, indices, passes), values_(sizes, indices), weighted_(sizes), results_(sizes),
          key_fetch_(sizes), value_fetch_(sizes), key_loads_(sizes.loads), value_loads_(sizes.loads), jobs_(jobs),
          count_(count), released_(released), all_facts_(facts), counters_(counters) {}

    bool ended() const { return done_ == count_; }
    void release() { released_++; }
    size_t done() const { return done_; }
    /// What is counted of the job at hand or the last one; only if one was begun.
    const Counters& counters() const { return counters_[counted_ - 1]; }
    bool begun() const { return counted_ != 0; }
    Cycle now() const { return now_; }

    void step() {
        memory_.show(now_);
        const bool quiet =
            running_ && passes_.empty() && !issue_.valid() && !finish_.busy() && !results_.busy() && !reader_.arriving();
        const bool done = quiet_ == QUIET, starts = reader_.starts(), offered = taken_ < released_;
        loading_ = loader_.offered(fields_, plane_);
        halves_used_ = results_.used();
        serve_memory();
        values();
        finish_.step(prunes_, fields_.importance, fields_.hold, fields_.hold ? values_.groups.taken : values_.kept.taken,
                     passes_.places, facts_);
        scores();
        keys();
        rows();
        count(offered);
        control(offered, starts, done);
        quiet_ = quiet && !done ? quiet_ + 1 : 0;
        tick();
        now_++;
    }

  private:
    static constexpr unsigned QUIET = 3;
    static constexpr int VALUES = 0, KEYS = 1, READER = 2;  // clients of the port

    void serve_memory() {
        const uint32_t wants[] = {value_fetch_.spans.wants(), key_fetch_.spans.wants(), reader_.wants()};
        const int granted = port_.arbitrate(memory_, wants), owner = memory_.showing() ? port_.owner() : -1;
        for (int client = 0; client < ReadPort::CLIENTS; client++) asked_[client] = client == granted ? wants[client] : 0;
        arrives_ = owner == READER;
        beat_taken_ = arrives_;
        for (int client : {VALUES, KEYS})
            if (owner == client && fetch(client).beats.ready()) {
                fetch(client).beats.push(0);
                beat_taken_ = true;
            }
        port_.step(memory_, now_, granted, granted < 0 ? 0 : wants[granted], beat_taken_);
    }
    RowFetch& fetch(int client) { return client == VALUES ? value_fetch_ : key_fetch_; }

    /// Weighted sums, what feeds them, and what becomes of them.
    void values() {
        const bool hold = fields_.hold, sums = weighted_.offers() && results_.takes_sums();
        const bool last = weighted_.offers_last();
        const Word* word = hold ? (value_buffer_.valid() ? &value_buffer_.word() : nullptr)
                                : (value_fetch_.valid() ? &value_fetch_.word() : nullptr);
        weighted_.step(front(values_.commands), word, values_.weights.valid(), shape_, sums);
        if (weighted_.command_taken) values_.commands.pop();
        if (weighted_.weights_taken) values_.weights.pop();
        const ValueSelection& selection = finish_.selection();
        const bool key = selection.offers();
        const Index offered = key ? selection.offered() : Index{};
        const Marks marks = selection.marks();
        values_.step(fields_, prunes_, scores_.refined, key ? &offered : nullptr,
                     selection.offers_marks(hold) ? &marks : nullptr, results_.may_begin(), shape_.group,
                     passes_.places, facts_);
        const bool zero = issue_.valid() && issue_.row().zero;
        results_.step(memory_, values_.begins ? &values_.slot : nullptr,
                      zero ? &issue_.row().output : nullptr, sums, last, passes_.places, shape_.head_size);
        value_words(hold);
    }

    void value_words(bool hold) {
        Queue<Index>& indices = values_.indices;
        const bool plane = loading_ == HeadLoader::VALUES && value_loads_.ready();
        const FetchCommand* command = hold ? (plane ? &plane_ : nullptr) : front(values_.fetches);
        const bool loads = hold && value_loads_.valid() && value_fetch_.valid();
        value_loaded_ = loads && value_fetch_.word().last;
        value_fetch_.step(command, hold ? nullptr : front(indices), shape_, asked_[VALUES],
                          hold ? loads : weighted_.word_taken);
        const bool taken = value_fetch_.spans.command_taken;
        value_sent_ = hold && taken;
        if (value_sent_) value_loads_.push(0);
        if (!hold && taken) values_.fetches.pop();
        if (value_loaded_) value_loads_.pop();
        if (value_fetch_.spans.index_taken) indices.pop();
        if (!hold) return;
        value_buffer_.step(front(values_.reads), front(indices), shape_, weighted_.word_taken);
        if (value_buffer_.read_taken) values_.reads.pop();
        if (value_buffer_.index_taken) indices.pop();
    }

    /// Who needs LSBs, and whose e is final.
    void scores() {
        scores_.step(now_, fields_, passes_.places, facts_);
        if (scores_.low >= 0) passes_.low.push(uint32_t(scores_.low));
        if (scores_.certain >= 0) values_.certain.push(uint32_t(scores_.certain));
        if (scores_.empty >= 0) results_.empties.push(uint32_t(scores_.empty));
        if (scores_.final_row < 0) return;
        values_.rows.push(uint32_t(scores_.final_row));
        if (finishes()) finish_.rows.push(uint32_t(scores_.final_row));
    }
    bool finishes() const { return prunes_ || fields_.importance; }

    /// Products, and what feeds them.
    void keys() {
        const bool hold = fields_.hold, there = key_fetch_.valid(), query = there && key_fetch_.word().query;
        const Word* word = hold ? (key_buffer_.valid() ? &key_buffer_.word() : nullptr)
                                : (there && !query ? &key_fetch_.word() : nullptr);
        multiplies_ = word && passes_.products.valid();
        if (multiplies_) multiply(*word, passes_.products.front());
        query_there_ = query && key_fetch_.word().last;
        const bool loads = hold && there && !query && key_loads_.valid();
        key_loaded_ = loads && key_fetch_.word().last;
        Queue<Index>& picked = scores_.refine.keys;
        key_fetch_.step(front(passes_.fetches), hold ? nullptr : front(picked), shape_, asked_[KEYS],
                        query || (hold ? loads : multiplies_));
        if (key_fetch_.spans.command_taken) passes_.fetches.pop();
        if (key_loaded_) key_loads_.pop();
        read_taken_ = false;
        if (hold) {
            key_buffer_.step(passes_.read(), front(picked), shape_, multiplies_);
            read_taken_ = key_buffer_.read_taken;
        }
        if (hold ? key_buffer_.index_taken : key_fetch_.spans.index_taken) picked.pop();
    }

    /// Products take a word.
    void multiply(const Word& word, const ProductCommand& pass) {
        if (pass.low && word.part + 1 == shape_.parts) scores_.reads_old(now_, pass.slot);
        if (!word.last) return;
        scores_.pass_ends(now_, pass.slot);
        passes_.products.pop();
    }

    /// Rows go into slots and leave them.
    void rows() {
        const bool plane = loading_ == HeadLoader::KEYS && key_loads_.ready();
        const bool key_sent = plane && passes_.fetches.ready();
        RowPlace row = issue_.row();
        const bool here = issue_.valid() && !row.zero, there = !fields_.hold || row.kv_head < loader_.ready;
        if (here && facts_[row.number].keys) row.keys = facts_[row.number].keys;
        if (key_sent) key_loads_.push(0);
        loader_.step(fields_, alive_, halves_, issue_.valid() ? int(row.kv_head) : -1, passes_.used() | halves_used_,
                     key_sent || value_sent_, uint32_t(key_loaded_) + value_loaded_);
        passes_.step(fields_, here ? &row : nullptr, there, plane ? &plane_ : nullptr, query_there_, read_taken_,
                     released());
        if (passes_.taken >= 0) scores_.taken(uint32_t(passes_.taken));
        if (passes_.taken >= 0 || results_.zeros_taken) issue_.next(fields_, alive_);
    }

    /// Slots whose e has been read by all who need it.
    uint64_t released() {
        const auto bit = [](int slot) { return slot < 0 ? 0 : uint64_t(1) << slot; };
        const uint64_t read = bit(finish_.read), left = weighed_ | bit(values_.leaves ? int(values_.slot) : -1);
        const uint64_t ends = left & (read | ~reading_);
        weighed_ = left & ~ends;
        reading_ = (reading_ | (finishes() ? bit(scores_.final_row) : 0)) & ~read;
        return ends | bit(results_.empty_done);
    }

    void count(bool offered) {
        const bool busy = reader_.busy();
        if (reader_.begins(offered)) counters_[counted_++].begins = uint64_t(busy ? now_ - 1 : now_);
        if (!counted_) return;
        Counters& own = counters_[counted_ - 1];
        own.cycles += busy;
        own.products_busy += multiplies_;
        own.read_beats += beat_taken_;
        own.write_beats += results_.writer.beat_written;
    }

    /// Jobs begin and end.
    void control(bool offered, bool starts, bool done) {
        const Job& read = jobs_[taken_ ? taken_ - 1 : 0];
        if (reader_.step(offered, read.fields, asked_[READER], arrives_, done)) taken_++;
        if (starts) {
            fields_ = read.fields;
            alive_ = uint32_t(read.alive);
            facts_ = all_facts_ + read.first_row;
            prunes_ = fields_.value_keep != uint64_t(1) << isa::KEEP_FRACTION;
            shape_ = Shape(sizes_, uint32_t(fields_.head_size));
            halves_ = 2 * shape_.words(uint32_t(fields_.keys)) <= sizes_.buffer_words;
            issue_.start(fields_, alive_, halves_);
            loader_.start(fields_);
            const bool living = alive_ & ((1u << fields_.heads) - 1);
            if (fields_.importance && living) finish_.start(uint32_t(fields_.keys));
            running_ = true;
        }
        if (done) running_ = false, done_++;
    }

    void tick() {
        passes_.tick();
        values_.tick();
        finish_.rows.tick();
        scores_.refine.rows.tick();
        scores_.refine.keys.tick();
        results_.empties.tick();
        key_loads_.tick();
        value_loads_.tick();
    }

    template <class T>
    static const T* front(const Queue<T>& queue) {
        return queue.valid() ? &queue.front() : nullptr;
    }

    Sizes sizes_;
    Memory& memory_;
    ReadPort port_;
    JobReader reader_;
    RowIssue issue_;
    HeadLoader loader_;
    PassIssue passes_;
    ScoreStage scores_;
    FinishStage finish_;
    ValueStage values_;
    WeightedSum weighted_;
    ResultStage results_;
    RowFetch key_fetch_, value_fetch_;
    RowBuffer key_buffer_, value_buffer_;
    Queue<char> key_loads_, value_loads_;

    const Job* jobs_;
    size_t count_, released_, taken_ = 0, counted_ = 0, done_ = 0;
    const RowFacts* all_facts_;
    const RowFacts* facts_ = nullptr;
    Counters* counters_;
    isa::JobFields fields_{};
    uint32_t alive_ = 0;
    Shape shape_{};
    bool prunes_ = false, halves_ = false, running_ = false;
    unsigned quiet_ = 0;
    uint64_t reading_ = 0, weighed_ = 0;  // bits of slots

    // Of the cycle at hand.
    uint32_t asked_[ReadPort::CLIENTS] = {};
    int loading_ = -1;
    unsigned halves_used_ = 0;
    FetchCommand plane_{};
    bool arrives_ = false, beat_taken_ = false, multiplies_ = false, query_there_ = false, read_taken_ = false;
    bool key_loaded_ = false, value_loaded_ = false, value_sent_ = false;
    Cycle now_ = 0;
};

}  // namespace attention
