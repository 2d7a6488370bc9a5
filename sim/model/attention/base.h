// What all blocks of the attention model share: sizes, queues, jobs and what is known of their rows.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "attention_isa.h"

namespace attention {

using Cycle = int64_t;
constexpr uint32_t CHUNK = 16, UNIT_BYTES = 4, OUTPUT_BYTES = 2, LOW_BITS = isa::LOW_BITS;

/// `AttentionSizes`, latencies of the components and depths of their queues; the same fields in the same order as in
/// `sim/attention/library.py`.
struct Sizes {
    uint32_t multipliers, beat_bytes, softmax_lanes, selection_width, output_lanes, max_length;
    uint32_t buffer_words, slots, reads_in_flight, selectors;
    uint32_t products_latency;    // from the last word of a pass to its result
    uint32_t old_latency;         // from a word of an LSB pass to the read of its old scores
    uint32_t softmax_latency;     // from the address of the last word of scores to what the row sums up to
    uint32_t running_latency;     // from the sum of a tile to what the next one begins with
    uint32_t weighted_latency;    // from a word of values to what it adds
    uint32_t rescale_turns;       // cycles in which sums go through the multipliers
    uint32_t output_latency;      // from sums to outputs
    uint32_t importance_latency;  // from a word of e to its sums
    uint32_t decide, candidate_gap, routing, refine_routing;  // of the top-k engine; stages of eliminators behind ranks
    uint32_t passes_ahead, spans_ahead, loads, refine_indices, value_commands, value_indices, value_marks;
    uint32_t reader_depth, select_commands, write_commands, outputs, write_requests, owners, page_bytes;
};

/// Elements of a plane row: power of two that holds a head, rows of a full word, words of a row.
struct Shape {
    uint32_t group, parts, head_size;
    Shape() = default;
    Shape(const Sizes& sizes, uint32_t head) : head_size(head) {
        uint32_t slots = CHUNK;
        while (slots < head) slots *= 2;
        group = std::max(1u, sizes.multipliers / slots);
        parts = (head + sizes.multipliers - 1) / sizes.multipliers;
    }
    uint32_t words(uint32_t rows) const { return (rows + group - 1) / group * parts; }
};

/// What data decide about a row. kept, picked: places of its kept values with e > 0, of its keys whose LSBs are fetched
/// one by one. passes: elements that each pass of the selection goes through after the arrival. keys: in its range, if
/// not as many as the job says. grown: of a tile, its maximum is larger than before. Tiles have facts of their own.
struct RowFacts {
    uint32_t seen, low;
    uint32_t kept, kept_count, passes, passes_count, picked, picked_count;
    uint32_t keys, grown;
};

/// hwgen/lib/streams.py: Queue. What is pushed or popped in a cycle shows in the next one.
template <class T>
class Queue {
  public:
    explicit Queue(size_t depth) : items_(depth) {}
    bool ready() const { return level_ != items_.size(); }
    bool valid() const { return level_ != 0; }
    size_t level() const { return level_; }
    size_t depth() const { return items_.size(); }
    const T& front() const { return items_[head_]; }
    void push(const T& item) {
        const size_t place = head_ + level_;
        items_[place < items_.size() ? place : place - items_.size()] = item;
        pushed_ = 1;
    }
    void pop() { popped_ = 1; }
    void tick() {
        if (popped_ && ++head_ == items_.size()) head_ = 0;
        level_ += pushed_ - popped_;
        pushed_ = popped_ = 0;
    }

  private:
    std::vector<T> items_;
    size_t head_ = 0, level_ = 0, pushed_ = 0, popped_ = 0;
};

/// A word of elements or of weights on its way.
struct Word {
    uint32_t part;
    bool query, last;
};

struct Index {
    uint32_t index;
    bool last, none;  // none: there is no row
};

struct FetchCommand {
    uint64_t address;
    uint32_t bits, rows;
    bool gather, single, query;
};

struct ProductCommand {
    uint32_t slot, keys;
    bool low;
};

struct BufferRead {
    uint32_t rows;
    bool gather, low;
};

/// hwgen/attention/rows.py: RowPlace, of a row or a tile. number: in the facts.
struct RowPlace {
    uint64_t query, key, key_low, value, value_low, output;
    uint32_t head, kv_head, keys, side, number;
    bool zero, first, last;
};

inline uint32_t log2_of(uint32_t power) {
    uint32_t log2 = 0;
    while (power >> log2 > 1) log2++;
    return log2;
}

}  // namespace attention
