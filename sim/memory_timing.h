// When the external memory answers: latency, bandwidth, bursts in flight and stalls, without any data.
//
// The memory behind the Verilated accelerator (axi_memory.h) and the cycle model (model/) both ask this class, so that
// they agree to the cycle. A cycle is `drive`, then a `take_...` for each handshake, in the order of their declarations.
// Everything is a function of the settings and the cycle number; README.md states the rules.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>

/// Settings of the memory; the same fields in the same order as `sim.device.Settings`.
struct MemorySettings {
    uint64_t base, size;                        // byte range that the image covers
    uint64_t rate_numerator, rate_denominator;  // bytes per cycle, reads and writes together; numerator 0: unlimited
    uint64_t seed;                              // of the random stalls
    uint64_t error_low, error_high;             // byte range that answers SLVERR
    uint32_t read_latency, write_latency;       // cycles from AR to the first beat, from the last beat to B; at least 1
    uint32_t outstanding;                       // bursts in flight in each direction
    uint32_t stall_every;                       // all channels stall in every k-th cycle; 0: never
    uint32_t stall_chance[5];                   // AR, R, AW, W, B: chance of a stall in 1/4096
};

class MemoryTiming {
  public:
    void start(const MemorySettings& settings, size_t beat_bytes) {
        set_ = settings;
        price_ = settings.rate_numerator ? int64_t(beat_bytes * settings.rate_denominator) : 0;
        random_ = false;
        for (uint32_t chance : settings.stall_chance) random_ |= chance != 0;
        credit_ = 0;
    }

    /// Sets the slave's side of the port for cycle `now`.
    void drive(uint64_t now) {
        earn(1);
        const uint32_t stalls = stalled(now);
        ar_ready = reads_.size() < set_.outstanding && !(stalls & 1);
        r_new = !r_valid && !reads_.empty() && reads_.front().ready <= now && affordable() && !(stalls & 2);
        if (r_new) {
            r_valid = true;
            credit_ -= price_;
        }
        aw_ready = writes_.size() + answers_.size() < set_.outstanding && !(stalls & 4);
        w_ready = !writes_.empty() && affordable() && !(stalls & 8);
        b_new = !b_valid && !answers_.empty() && answers_.front() <= now && !(stalls & 16);
        if (b_new) {
            answers_.pop_front();
            b_valid = true;
        }
    }

    bool ar_ready = false, r_valid = false, aw_ready = false, w_ready = false, b_valid = false;
    bool r_new = false, b_new = false;  // the beat, the answer is offered since this cycle

    uint32_t r_id() const { return reads_.front().id; }
    bool r_last() const { return reads_.front().beats == 1; }

    void take_read(uint32_t beats, uint32_t id, uint64_t now) { reads_.push_back({now + set_.read_latency, beats, id}); }

    void take_read_beat() {
        r_valid = false;
        if (--reads_.front().beats == 0) reads_.pop_front();
    }

    /// True when this beat was the last of its burst.
    bool take_write_beat(uint64_t now) {
        credit_ -= price_;
        if (--writes_.front()) return false;
        writes_.pop_front();
        answers_.push_back(now + set_.write_latency);
        return true;
    }

    void take_write(uint32_t beats) { writes_.push_back(beats); }

    void take_answer() { b_valid = false; }

    // Without these the memory is driven cycle by cycle; with them a caller passes many equal cycles at once.

    /// Whether an address, a beat of write data, would be taken in the next cycle, and whether it offers a new read beat,
    /// if nothing stalls.
    bool takes_reads() const { return reads_.size() < set_.outstanding; }
    bool takes_writes() const { return writes_.size() + answers_.size() < set_.outstanding; }
    bool takes_data() const { return !writes_.empty() && !broke(); }
    bool streams(uint64_t now) const { return !r_valid && !reads_.empty() && reads_.front().ready <= now && !broke(); }

    /// Cycles from `now` on, the first that has not been driven, that are all alike: nothing comes that was not there, or
    /// beats of one burst come and go (`reading`, `writing`), one in every cycle.
    uint64_t quiet(uint64_t now, bool reading, bool writing) const {
        if (random_ || set_.stall_every) return idle() && !writing ? FOREVER : 0;
        if (b_valid || reading != streams(now) || (!answers_.empty() && answers_.front() <= now)) return 0;
        uint64_t cycles = answers_.empty() ? FOREVER : answers_.front() - now;
        if (broke()) cycles = std::min<uint64_t>(cycles, -credit_ / set_.rate_numerator);
        if (price_ && (reading || writing) && !steady(int(reading) + int(writing))) return 0;
        if (writing) cycles = std::min<uint64_t>(cycles, writes_.front() - 1);
        if (reading) return std::min<uint64_t>(cycles, reads_.front().beats - 1);
        const bool comes = !r_valid && !reads_.empty() && reads_.front().ready > now;
        return comes ? std::min<uint64_t>(cycles, reads_.front().ready - now) : cycles;
    }

    /// Passes `cycles` of what `quiet` has promised.
    void skip(uint64_t cycles, bool reading, bool writing) {
        earn(cycles);
        credit_ -= price_ * (int(reading) + int(writing));
        if (reading) reads_.front().beats -= cycles;
        if (writing) writes_.front() -= cycles;
    }

    /// True when no transaction is under way.
    bool idle() const { return reads_.empty() && writes_.empty() && answers_.empty() && !r_valid && !b_valid; }

    static constexpr uint64_t FOREVER = uint64_t(1) << 60;

  private:
    struct Read {
        uint64_t ready;  // cycle from which beats may come
        uint32_t beats, id;
    };

    // Bandwidth: a beat may go while the account is positive and may overdraw it, so that the average rate is exact.
    void earn(uint64_t cycles) {
        if (price_) credit_ = std::min(credit_ + int64_t(cycles * set_.rate_numerator), int64_t(set_.rate_numerator));
    }
    bool affordable() const { return !price_ || credit_ > 0; }
    /// Whether nothing can be paid in the next cycle.
    bool broke() const { return price_ && credit_ + int64_t(set_.rate_numerator) <= 0; }
    /// Whether every cycle earns at least what its `beats` cost, so that the account is the same after each of them.
    bool steady(int beats) const { return credit_ >= 0 && price_ * beats <= int64_t(set_.rate_numerator); }

    static uint64_t mix(uint64_t x) {  // splitmix64
        x += 0x9E3779B97F4A7C15ull;
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
        x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
        return x ^ (x >> 31);
    }

    /// One bit for each channel that stalls in this cycle; depends on the settings and the cycle alone.
    uint32_t stalled(uint64_t now) const {
        if (set_.stall_every && now % set_.stall_every == set_.stall_every - 1) return 31;
        if (!random_) return 0;
        const uint64_t draw = mix(set_.seed * 0xD1342543DE82EF95ull + now);
        uint32_t bits = 0;
        for (int channel = 0; channel < 5; channel++)
            bits |= uint32_t(((draw >> (12 * channel)) & 4095) < set_.stall_chance[channel]) << channel;
        return bits;
    }

    MemorySettings set_{};
    int64_t credit_ = 0, price_ = 0;
    bool random_ = false;
    std::deque<Read> reads_;
    std::deque<uint32_t> writes_;    // beats that are missing
    std::deque<uint64_t> answers_;  // cycles from which they may be given
};
