// When the external memory answers: latency, bandwidth, bursts in flight and stalls, without any data.
//
// The memory behind the Verilated accelerator (axi_memory.h) and the cycle model (model/) both ask this class, so that
// they agree to the cycle. A cycle is `drive`, then a `take_...` for each handshake, in the order of their declarations.
// There are two read ports, of which a design may use the first alone.
// Everything is a function of the settings and the cycle number; README.md states the rules.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>

/// Settings of the memory; the same fields in the same order as `sim.device.Settings`.
struct MemorySettings {
    uint64_t base, size;                        // byte range that the image covers
    uint64_t rate_numerator, rate_denominator;  // bytes per cycle of all ports together; numerator 0: unlimited
    uint64_t seed;                              // of the random stalls
    uint64_t error_low, error_high;             // byte range that answers SLVERR
    uint32_t read_latency, write_latency;       // cycles from AR to the first beat, from the last beat to B; at least 1
    uint32_t outstanding;                       // bursts in flight of a port in each direction
    uint32_t stall_every;                       // all channels stall in every k-th cycle; 0: never
    uint32_t stall_chance[5];                   // AR, R, AW, W, B: chance of a stall in 1/4096
};

/// The slave's side of the read channels of a port.
class ReadTiming {
  public:
    bool ar_ready = false, r_valid = false;
    bool r_new = false;  // the beat is offered since this cycle

    uint32_t id() const { return bursts_.front().id; }
    bool last() const { return bursts_.front().beats == 1; }
    /// Beats that the first burst lacks.
    uint32_t beats() const { return bursts_.front().beats; }
    size_t size() const { return bursts_.size(); }
    bool idle() const { return bursts_.empty() && !r_valid; }

    /// Whether a new beat may be offered in cycle `now`.
    bool comes(uint64_t now) const { return !r_valid && !bursts_.empty() && bursts_.front().ready <= now; }
    /// Cycles from `now` on until a beat may be offered that may not yet.
    uint64_t wait(uint64_t now) const {
        if (r_valid || bursts_.empty() || bursts_.front().ready <= now) return UINT64_MAX;
        return bursts_.front().ready - now;
    }

    void take(uint64_t ready, uint32_t beats, uint32_t id) { bursts_.push_back({ready, beats, id}); }
    void take_beat() {
        r_valid = false;
        if (--bursts_.front().beats == 0) bursts_.pop_front();
    }
    void skip(uint64_t beats) { bursts_.front().beats -= uint32_t(beats); }

  private:
    struct Burst {
        uint64_t ready;  // cycle from which beats may come
        uint32_t beats, id;
    };
    std::deque<Burst> bursts_;
};

class MemoryTiming {
  public:
    static constexpr int READ_PORTS = 2;

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
        const int first = turn_;
        for (int i = 0; i < READ_PORTS; i++) {
            const int port = first ^ i;
            drive_reads(read[port], port, now, stalls >> (port ? 5 : 0));
        }
        aw_ready = writes_.size() + answers_.size() < set_.outstanding && !(stalls & 4);
        w_ready = !writes_.empty() && affordable() && !(stalls & 8);
        b_new = !b_valid && !answers_.empty() && answers_.front() <= now && !(stalls & 16);
        if (b_new) {
            answers_.pop_front();
            b_valid = true;
        }
    }

    ReadTiming read[READ_PORTS];
    bool aw_ready = false, w_ready = false, b_valid = false;
    bool b_new = false;  // the answer is given since this cycle

    void take_read(int port, uint32_t beats, uint32_t id, uint64_t now) {
        read[port].take(now + set_.read_latency, beats, id);
    }

    void take_read_beat(int port) { read[port].take_beat(); }

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

    /// Whether an address, a beat of write data, would be taken in the next cycle, and whether a port offers a new read
    /// beat, if nothing stalls.
    bool takes_reads(int port) const { return read[port].size() < set_.outstanding; }
    bool takes_writes() const { return writes_.size() + answers_.size() < set_.outstanding; }
    bool takes_data() const { return !writes_.empty() && !broke(); }
    bool streams(int port, uint64_t now) const { return read[port].comes(now) && !broke(); }

    /// Cycles from `now` on, the first that has not been driven, that are all alike: nothing comes that was not there, or
    /// beats of one burst of a port come and go (bits of `reading`, and `writing`), one in every cycle.
    uint64_t quiet(uint64_t now, unsigned reading, bool writing) const {
        if (random_ || set_.stall_every) return idle() && !writing ? FOREVER : 0;
        if (b_valid || (!answers_.empty() && answers_.front() <= now)) return 0;
        uint64_t cycles = answers_.empty() ? FOREVER : answers_.front() - now;
        if (broke()) cycles = std::min<uint64_t>(cycles, -credit_ / set_.rate_numerator);
        if (price_ && (reading || writing) && !steady(moving(reading, writing))) return 0;
        if (writing) cycles = std::min<uint64_t>(cycles, writes_.front() - 1);
        for (int port = 0; port < READ_PORTS; port++) {
            const bool reads = reading >> port & 1;
            if (reads != streams(port, now)) return 0;
            cycles = std::min(cycles, reads ? read[port].beats() - 1 : read[port].wait(now));
        }
        return cycles;
    }

    /// Passes `cycles` of what `quiet` has promised.
    void skip(uint64_t cycles, unsigned reading, bool writing) {
        earn(cycles);
        credit_ -= price_ * moving(reading, writing);
        for (int port = 0; port < READ_PORTS; port++)
            if (reading >> port & 1) read[port].skip(cycles);
        if (reading == 1 || reading == 2) turn_ = reading == 1;
        if (writing) writes_.front() -= cycles;
    }

    /// True when no transaction is under way.
    bool idle() const {
        return read[0].idle() && read[1].idle() && writes_.empty() && answers_.empty() && !b_valid;
    }

    static constexpr uint64_t FOREVER = uint64_t(1) << 60;

  private:
    void drive_reads(ReadTiming& port, int number, uint64_t now, uint32_t stalls) {
        port.ar_ready = port.size() < set_.outstanding && !(stalls & 1);
        port.r_new = port.comes(now) && affordable() && !(stalls & 2);
        if (!port.r_new) return;
        port.r_valid = true;
        credit_ -= price_;
        turn_ = !number;
    }

    /// Beats in a cycle.
    static int moving(unsigned reading, bool writing) { return int(reading & 1) + int(reading >> 1) + int(writing); }

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

    /// One bit for each channel that stalls in this cycle, AR and R of the second port above the others; depends on the
    /// settings and the cycle alone.
    uint32_t stalled(uint64_t now) const {
        if (set_.stall_every && now % set_.stall_every == set_.stall_every - 1) return 127;
        if (!random_) return 0;
        const uint64_t draw = mix(set_.seed * 0xD1342543DE82EF95ull + now), second = mix(draw);
        uint32_t bits = 0;
        for (int channel = 0; channel < 5; channel++) bits |= stalls(draw, channel) << channel;
        for (int channel = 0; channel < 2; channel++) bits |= stalls(second, channel) << (5 + channel);
        return bits;
    }
    uint32_t stalls(uint64_t draw, int channel) const {
        return ((draw >> (12 * channel)) & 4095) < set_.stall_chance[channel];
    }

    MemorySettings set_{};
    int64_t credit_ = 0, price_ = 0;
    bool random_ = false;
    int turn_ = 0;  // read port that may offer its beat first: not the one that offered the last beat
    std::deque<uint32_t> writes_;    // beats that are missing
    std::deque<uint64_t> answers_;  // cycles from which they may be given
};
