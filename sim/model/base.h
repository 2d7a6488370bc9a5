// What all blocks of the cycle model share: cycles, the architecture's numbers, queues and instructions.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "isa.h"

using Cycle = int64_t;
constexpr Cycle NEVER = INT64_MAX / 4;

constexpr int LOAD = isa::Engine::LOAD, TENSOR = isa::Engine::TENSOR, VECTOR = isa::Engine::VECTOR,
              STORE = isa::Engine::STORE, FILL_ENGINE = isa::Engine::FILL, ATTEND = isa::Engine::ATTEND, ENGINES = 6;
constexpr unsigned ALL_ENGINES = (1u << ENGINES) - 1;

/// Of masks of engines side by side, one for each engine, that of `engine`.
inline unsigned mask_of(uint64_t masks, int engine) { return unsigned(masks >> ENGINES * engine) & ALL_ENGINES; }

/// Numbers of an architecture and latencies of its components; the same fields in the same order as in
/// `sim/cycle_library.py`.
struct Sizes {
    uint32_t rows, lanes, cols, act_width, act_buffer, interleave_max;
    uint32_t chain;                        // cycles from an addend to the sum that may take the next one
    uint32_t read_stage, write_stage;      // of an element, from its control
    uint32_t head_latency, south_latency;  // of a row head, of the way from the last row to a straight word
    uint32_t tile_queue;                   // tiles that wait in front of each sequencer
    uint32_t acc_depth, acc_banks, acc_halves;
    uint32_t drain;  // result words that leave the array in a cycle
    uint32_t beat_bytes, burst_beats, page_bytes, outstanding;
    uint32_t queue_depth, in_flight;  // instructions that wait, that are issued and not done, for each engine
    uint32_t fetch_burst;             // beats of a full burst of program
    uint32_t store_latency, store_buffer;  // cycles from an accepted read to its beat, beats that fit between
    uint32_t store_output;                 // beats that fit at the end of the path
    uint32_t packed_latency;               // cycles after which the length of a PACKED sequence is known
    uint32_t packed_slots;                 // slots that share a beat of indices
    uint32_t rank_base, rank_per_slot;     // steps in which the reducer ranks a group
    uint32_t vector_latency;               // cycles from an accepted read to the write of its result
    uint32_t vector_words;                 // words of a row in a step of the vector engine
};

inline uint32_t log2_of(uint32_t power) {
    uint32_t log2 = 0;
    while (power >> log2 > 1) log2++;
    return log2;
}

/// One encoded instruction.
struct Instruction {
    uint64_t words[4];

    uint64_t get(isa::Field field) const {
        const unsigned word = field.offset / 64, shift = field.offset % 64;
        uint64_t value = words[word] >> shift;
        if (shift + field.width > 64) value |= words[word + 1] << (64 - shift);
        return value & ((uint64_t(1) << field.width) - 1);
    }
    int64_t get_signed(isa::Field field) const {
        const unsigned spare = 64 - field.width;
        return int64_t(get(field) << spare) >> spare;
    }
    unsigned opcode() const { return words[0] & 0xFF; }
    unsigned wait() const { return words[0] >> 8 & ALL_ENGINES; }
    unsigned signal() const { return words[0] >> 16 & ALL_ENGINES; }
};

/// What an engine did in a cycle: it took the instruction that was offered, ended one, moved a word or beat to where it
/// belongs, took a beat from memory.
struct Outcome {
    bool taken = false, done = false, moves = false, reads = false;
};

/// A first-in first-out queue without limit; whoever writes looks at `size` first.
template <class T>
class Fifo {
  public:
    bool empty() const { return head_ == tail_; }
    size_t size() const { return tail_ - head_; }
    T& front() { return items_[head_ & mask_]; }
    const T& front() const { return items_[head_ & mask_]; }
    const T& operator[](size_t i) const { return items_[(head_ + i) & mask_]; }
    T& back() { return items_[(tail_ - 1) & mask_]; }
    void pop() { head_++; }
    void push(const T& item) {
        if (size() > mask_) grow();
        items_[tail_++ & mask_] = item;
    }

  private:
    void grow() {
        std::vector<T> larger(2 * items_.size());
        for (size_t i = 0; i < size(); i++) larger[i] = items_[(head_ + i) & mask_];
        tail_ = size();
        head_ = 0;
        items_.swap(larger);
        mask_ = items_.size() - 1;
    }

    std::vector<T> items_ = std::vector<T>(16);
    size_t head_ = 0, tail_ = 0, mask_ = 15;
};

/// Moments at which a flag is high, in ascending order, as stretches of cycles.
class Pulses {
  public:
    void add(Cycle first, Cycle count = 1) {
        if (!runs_.empty() && runs_.back().first + runs_.back().count == first)
            runs_.back().count += count;
        else
            runs_.push({first, count});
    }

    /// Whether the flag is high in cycle `now`.
    bool at(Cycle now) const { return !runs_.empty() && runs_.front().first <= now; }

    /// Forgets the next `count` cycles in which it is high, which are those from `first` of its first stretch on.
    void take(Cycle count = 1) {
        Run& run = runs_.front();
        run.first += count;
        run.count -= count;
        if (run.count == 0) runs_.pop();
    }

    /// Takes `cycles` from the front of the only stretch, and adds as many and `more` at its end.
    void shift(Cycle cycles, Cycle more) {
        runs_.front().first += cycles;
        runs_.front().count += more;
    }

    /// First cycle in which it is high, and the number of such cycles that follow without a gap.
    Cycle next() const { return runs_.empty() ? NEVER : runs_.front().first; }
    Cycle length() const { return runs_.front().count; }
    Cycle length_or_zero() const { return runs_.empty() ? 0 : runs_.front().count; }

  private:
    struct Run {
        Cycle first, count;
    };
    Fifo<Run> runs_;
};
