// When the external memory answers: latency, bandwidth, bursts in flight and stalls, without any data.
//
// The memory behind the Verilated accelerator (axi_memory.h) and the cycle model (model/) both ask this class, so that
// they agree to the cycle. A cycle is `drive`, then a `take_...` for each handshake, in the order of their declarations.
// There are three read ports (program and LOAD, FILL, ATTEND) and two write ports (STORE, ATTEND); a design may lack
// those of FILL and ATTEND.
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

/// The slave's side of the write channels of a port.
struct WriteTiming {
    bool aw_ready = false, w_ready = false, b_valid = false;
    bool b_new = false;             // the answer is given since this cycle
    std::deque<uint32_t> bursts;    // beats that are missing
    std::deque<uint64_t> answers;   // cycles from which they may be given

    size_t size() const { return bursts.size() + answers.size(); }
    bool idle() const { return !size() && !b_valid; }
};

class MemoryTiming {
  public:
    static constexpr int READ_PORTS = 3, WRITE_PORTS = 2;

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
            const int port = (first + i) % READ_PORTS;
            drive_reads(read[port], port, now, stalls >> READ_STALLS[port]);
        }
        for (int port = 0; port < WRITE_PORTS; port++) drive_writes(write[port], now, stalls >> WRITE_STALLS[port]);
    }

    ReadTiming read[READ_PORTS];
    WriteTiming write[WRITE_PORTS];

    void take_read(int port, uint32_t beats, uint32_t id, uint64_t now) {
        read[port].take(now + set_.read_latency, beats, id);
    }

    void take_read_beat(int port) { read[port].take_beat(); }

    /// True when this beat was the last of its burst.
    bool take_write_beat(int port, uint64_t now) {
        credit_ -= price_;
        if (--write[port].bursts.front()) return false;
        write[port].bursts.pop_front();
        write[port].answers.push_back(now + set_.write_latency);
        return true;
    }

    void take_write(int port, uint32_t beats) { write[port].bursts.push_back(beats); }

    void take_answer(int port) { write[port].b_valid = false; }

    // Without these the memory is driven cycle by cycle; with them a caller passes many equal cycles at once.

    /// Whether an address, a beat of write data, would be taken in the next cycle, and whether a port offers a new read
    /// beat, if nothing stalls.
    bool takes_reads(int port) const { return read[port].size() < set_.outstanding; }
    bool takes_writes(int port) const { return write[port].size() < set_.outstanding; }
    bool takes_data(int port) const { return !write[port].bursts.empty() && !broke(); }
    bool streams(int port, uint64_t now) const { return read[port].comes(now) && !broke(); }

    /// Cycles from `now` on, the first that has not been driven, that are all alike: nothing comes that was not there, or
    /// beats of one burst of a port come and go (bits of `reading` and `writing`), one in every cycle.
    uint64_t quiet(uint64_t now, unsigned reading, unsigned writing) const {
        if (random_ || set_.stall_every) return idle() && !writing ? FOREVER : 0;
        uint64_t cycles = FOREVER;
        for (int port = 0; port < WRITE_PORTS; port++) {
            const WriteTiming& channels = write[port];
            if (channels.b_valid || (!channels.answers.empty() && channels.answers.front() <= now)) return 0;
            if (!channels.answers.empty()) cycles = std::min(cycles, channels.answers.front() - now);
            if (writing >> port & 1) cycles = std::min<uint64_t>(cycles, channels.bursts.front() - 1);
        }
        if (broke()) cycles = std::min<uint64_t>(cycles, -credit_ / set_.rate_numerator);
        if (price_ && (reading || writing) && !steady(moving(reading, writing))) return 0;
        for (int port = 0; port < READ_PORTS; port++) {
            const bool reads = reading >> port & 1;
            if (reads != streams(port, now)) return 0;
            cycles = std::min(cycles, reads ? read[port].beats() - 1 : read[port].wait(now));
        }
        return cycles;
    }

    /// Passes `cycles` of what `quiet` has promised.
    void skip(uint64_t cycles, unsigned reading, unsigned writing) {
        earn(cycles);
        credit_ -= price_ * moving(reading, writing);
        for (int port = 0; port < READ_PORTS; port++) {
            if (reading >> port & 1) read[port].skip(cycles);
            if (reading == 1u << port) turn_ = (port + 1) % READ_PORTS;
        }
        for (int port = 0; port < WRITE_PORTS; port++)
            if (writing >> port & 1) write[port].bursts.front() -= cycles;
    }

    /// True when no transaction is under way.
    bool idle() const {
        bool all = true;
        for (const ReadTiming& port : read) all &= port.idle();
        for (const WriteTiming& port : write) all &= port.idle();
        return all;
    }

    static constexpr uint64_t FOREVER = uint64_t(1) << 60;

  private:
    void drive_reads(ReadTiming& port, int number, uint64_t now, uint32_t stalls) {
        port.ar_ready = port.size() < set_.outstanding && !(stalls & 1);
        port.r_new = port.comes(now) && affordable() && !(stalls & 2);
        if (!port.r_new) return;
        port.r_valid = true;
        credit_ -= price_;
        turn_ = (number + 1) % READ_PORTS;
    }

    void drive_writes(WriteTiming& port, uint64_t now, uint32_t stalls) {
        port.aw_ready = port.size() < set_.outstanding && !(stalls & 1);
        port.w_ready = !port.bursts.empty() && affordable() && !(stalls & 2);
        port.b_new = !port.b_valid && !port.answers.empty() && port.answers.front() <= now && !(stalls & 4);
        if (!port.b_new) return;
        port.answers.pop_front();
        port.b_valid = true;
    }

    /// Beats in a cycle.
    static int moving(unsigned reading, unsigned writing) {
        int count = 0;
        for (unsigned bits = reading | writing << READ_PORTS; bits; bits &= bits - 1) count++;
        return count;
    }

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

    /// Where AR and R of each read port, AW, W and B of each write port are in `stalled`.
    static constexpr int READ_STALLS[READ_PORTS] = {0, 5, 7}, WRITE_STALLS[WRITE_PORTS] = {2, 9};

    /// One bit for each channel that stalls in this cycle: the five of the first port, AR and R of that of FILL, the five
    /// of that of ATTEND; depends on the settings and the cycle alone.
    uint32_t stalled(uint64_t now) const {
        if (set_.stall_every && now % set_.stall_every == set_.stall_every - 1) return (1 << 12) - 1;
        if (!random_) return 0;
        const uint64_t draw = mix(set_.seed * 0xD1342543DE82EF95ull + now), second = mix(draw), third = mix(second);
        uint32_t bits = 0;
        for (int channel = 0; channel < 5; channel++) bits |= stalls(draw, channel) << channel;
        for (int channel = 0; channel < 2; channel++) bits |= stalls(second, channel) << (5 + channel);
        for (int channel = 0; channel < 5; channel++) bits |= stalls(third, channel) << (7 + channel);
        return bits;
    }
    uint32_t stalls(uint64_t draw, int channel) const {
        return ((draw >> (12 * channel)) & 4095) < set_.stall_chance[channel];
    }

    MemorySettings set_{};
    int64_t credit_ = 0, price_ = 0;
    bool random_ = false;
    int turn_ = 0;  // read port that may offer its beat first: not the one that offered the last beat
};
