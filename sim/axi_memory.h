// External memory behind the accelerator's AXI4 master port, with protocol checks.
//
// One object serves one port. A cycle is `drive` (set the slave's outputs), evaluation of the design, `sample` (look at the
// handshakes before the clock edge). Everything is a function of the settings and the cycle number, so that a model in
// another language can follow it to the cycle; README.md states the rules.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

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

class AxiMemory {
  public:
    void attach(uint8_t* image, const MemorySettings& settings) {
        image_ = image;
        set_ = settings;
        credit_ = 0;
        beats_read = beats_written = 0;
    }

    /// Sets the slave's side of the port for cycle `now`.
    template <class Top>
    void drive(Top& top, uint64_t now) {
        earn();
        const uint64_t stalls = stalled(now);
        top.m_axi_gmem_arready = ar_ready_ = reads_.size() < set_.outstanding && !(stalls & 1);
        offer_read(top, now, stalls & 2);
        top.m_axi_gmem_awready = aw_ready_ = writes_.size() + answers_.size() < set_.outstanding && !(stalls & 4);
        top.m_axi_gmem_wready = w_ready_ = !writes_.empty() && affordable() && !(stalls & 8);
        offer_answer(top, now, stalls & 16);
    }

    /// Takes the handshakes of cycle `now`; call it after evaluation and before the clock edge.
    template <class Top>
    void sample(Top& top, uint64_t now) {
        const Address ar{uint64_t(top.m_axi_gmem_araddr), uint32_t(top.m_axi_gmem_arlen), uint32_t(top.m_axi_gmem_arid)};
        const Address aw{uint64_t(top.m_axi_gmem_awaddr), uint32_t(top.m_axi_gmem_awlen), 0};
        if (steady(held_ar_, top.m_axi_gmem_arvalid, ar_ready_, ar, "AR", now))
            take_read(ar, top.m_axi_gmem_arsize, top.m_axi_gmem_arburst, sizeof(top.m_axi_gmem_rdata), now);
        if (r_valid_ && top.m_axi_gmem_rready) pop_read();
        sample_write_data(top, now);
        if (steady(held_aw_, top.m_axi_gmem_awvalid, aw_ready_, aw, "AW", now))
            take_write(aw, top.m_axi_gmem_awsize, top.m_axi_gmem_awburst, sizeof(top.m_axi_gmem_wdata), now);
        if (b_valid_ && top.m_axi_gmem_bready) b_valid_ = false;
    }

    /// True when no transaction is under way.
    bool idle() const { return reads_.empty() && writes_.empty() && answers_.empty() && !r_valid_ && !b_valid_; }

    /// Reports that the master broke a rule; the first few texts are kept.
    void complain(uint64_t now, const std::string& text) {
        if (error_count++ < 8) errors += "cycle " + std::to_string(now) + ": " + text + "\n";
    }

    uint64_t beats_read = 0, beats_written = 0, error_count = 0;
    std::string errors;

  private:
    struct Address {
        uint64_t addr;
        uint32_t len, id;
        bool operator!=(const Address& other) const { return addr != other.addr || len != other.len || id != other.id; }
    };
    struct Burst {
        Address at;
        uint64_t ready = 0;         // cycle from which it may go on
        uint32_t beat = 0;          // next beat
        uint8_t response = 0;       // worst answer so far (writes)
        std::vector<uint8_t> data;
        std::vector<uint8_t> marks;  // reads: answer of each beat; writes: strobe of each byte
    };
    template <class Payload>
    struct Held {
        bool waiting = false;
        Payload payload{};
    };
    struct WriteBeat {
        std::vector<uint8_t> data;
        bool last = false;
        bool operator!=(const WriteBeat& other) const { return last != other.last || data != other.data; }
    };

    static uint64_t mix(uint64_t x) {  // splitmix64
        x += 0x9E3779B97F4A7C15ull;
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
        x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
        return x ^ (x >> 31);
    }

    /// One bit for each channel that stalls in this cycle; depends on the settings and the cycle alone.
    uint64_t stalled(uint64_t now) const {
        if (set_.stall_every && now % set_.stall_every == set_.stall_every - 1) return 31;
        const uint64_t draw = mix(set_.seed * 0xD1342543DE82EF95ull + now);
        uint64_t bits = 0;
        for (int channel = 0; channel < 5; channel++)
            bits |= uint64_t(((draw >> (12 * channel)) & 4095) < set_.stall_chance[channel]) << channel;
        return bits;
    }

    // Bandwidth: a beat may go while the account is positive and may overdraw it, so that the average rate is exact.
    void earn() {
        if (set_.rate_numerator)
            credit_ = std::min(credit_ + int64_t(set_.rate_numerator), int64_t(set_.rate_numerator));
    }
    bool affordable() const { return !set_.rate_numerator || credit_ > 0; }
    void pay(size_t bytes) { credit_ -= set_.rate_numerator ? int64_t(bytes * set_.rate_denominator) : 0; }

    uint8_t response(uint64_t addr, size_t bytes) const {
        if (addr < set_.base || addr + bytes > set_.base + set_.size) return 3;
        return addr < set_.error_high && addr + bytes > set_.error_low ? 2 : 0;
    }

    template <class Payload>
    bool steady(Held<Payload>& held, bool valid, bool ready, const Payload& payload, const char* name, uint64_t now) {
        if (held.waiting && !valid) complain(now, std::string(name) + "VALID fell before READY");
        if (held.waiting && valid && held.payload != payload) complain(now, std::string(name) + " changed before READY");
        held.waiting = valid && !ready;
        if (held.waiting) held.payload = payload;
        return valid && ready;
    }

    void check(const Address& at, uint32_t size, uint32_t burst, size_t bytes, const char* name, uint64_t now) {
        const uint64_t last = at.addr + uint64_t(at.len + 1) * bytes - 1;
        if ((size_t(1) << size) != bytes) complain(now, std::string(name) + "SIZE is not the width of the bus");
        if (burst != 1) complain(now, std::string(name) + "BURST is not INCR");
        if (at.addr % bytes) complain(now, std::string(name) + "ADDR is not a multiple of the beat");
        if ((at.addr ^ last) >> 12) complain(now, std::string(name) + " burst crosses a 4 KiB boundary");
    }

    void take_read(const Address& at, uint32_t size, uint32_t burst, size_t bytes, uint64_t now) {
        check(at, size, burst, bytes, "AR", now);
        Burst made;
        made.at = at;
        made.ready = now + set_.read_latency;
        made.data.resize((at.len + 1) * bytes, 0xEE);
        made.marks.resize(at.len + 1);
        for (uint32_t i = 0; i <= at.len; i++) {  // read now: a write that has not been answered is not seen
            made.marks[i] = response(at.addr + i * bytes, bytes);
            if (!made.marks[i]) std::memcpy(&made.data[i * bytes], image_ + (at.addr - set_.base) + i * bytes, bytes);
        }
        reads_.push_back(std::move(made));
    }

    template <class Top>
    void offer_read(Top& top, uint64_t now, bool stall) {
        if (!r_valid_ && !reads_.empty() && reads_.front().ready <= now && affordable() && !stall) {
            Burst& burst = reads_.front();
            const size_t bytes = sizeof(top.m_axi_gmem_rdata);
            std::memcpy(&top.m_axi_gmem_rdata, &burst.data[burst.beat * bytes], bytes);
            top.m_axi_gmem_rresp = burst.marks[burst.beat];
            top.m_axi_gmem_rlast = burst.beat == burst.at.len;
            top.m_axi_gmem_rid = burst.at.id;
            pay(bytes);
            r_valid_ = true;
        }
        top.m_axi_gmem_rvalid = r_valid_;
    }

    void pop_read() {
        r_valid_ = false;
        beats_read++;
        if (reads_.front().beat++ == reads_.front().at.len) reads_.pop_front();
    }

    void take_write(const Address& at, uint32_t size, uint32_t burst, size_t bytes, uint64_t now) {
        check(at, size, burst, bytes, "AW", now);
        Burst made;
        made.at = at;
        made.data.resize((at.len + 1) * bytes);
        made.marks.resize((at.len + 1) * bytes);
        writes_.push_back(std::move(made));
    }

    template <class Top>
    void sample_write_data(Top& top, uint64_t now) {
        const bool valid = top.m_axi_gmem_wvalid;
        if (held_w_.waiting || (valid && !w_ready_)) {
            const auto* bytes = reinterpret_cast<const uint8_t*>(&top.m_axi_gmem_wdata);
            WriteBeat beat{{bytes, bytes + sizeof(top.m_axi_gmem_wdata)}, bool(top.m_axi_gmem_wlast)};
            steady(held_w_, valid, w_ready_, beat, "W", now);
        }
        if (!valid || !w_ready_) return;
        Burst& burst = writes_.front();
        const size_t bytes = sizeof(top.m_axi_gmem_wdata), at = burst.beat * bytes;
        std::memcpy(&burst.data[at], &top.m_axi_gmem_wdata, bytes);
        const auto* strobe = reinterpret_cast<const uint8_t*>(&top.m_axi_gmem_wstrb);
        for (size_t i = 0; i < bytes; i++) burst.marks[at + i] = strobe[i / 8] >> (i % 8) & 1;
        burst.response = std::max(burst.response, response(burst.at.addr + at, bytes));
        pay(bytes);
        beats_written++;
        const bool last = burst.beat++ == burst.at.len;
        if (last != bool(top.m_axi_gmem_wlast)) complain(now, last ? "WLAST is missing" : "WLAST came early");
        if (last) finish_write(now);
    }

    void finish_write(uint64_t now) {
        writes_.front().ready = now + set_.write_latency;
        answers_.push_back(std::move(writes_.front()));
        writes_.pop_front();
    }

    template <class Top>
    void offer_answer(Top& top, uint64_t now, bool stall) {
        if (!b_valid_ && !answers_.empty() && answers_.front().ready <= now && !stall) {
            apply(answers_.front(), sizeof(top.m_axi_gmem_wdata));  // only now may anyone rely on it
            top.m_axi_gmem_bresp = answers_.front().response;
            answers_.pop_front();
            b_valid_ = true;
        }
        top.m_axi_gmem_bvalid = b_valid_;
    }

    void apply(const Burst& burst, size_t bytes) {
        for (size_t i = 0; i < burst.data.size(); i++) {
            const uint64_t beat = burst.at.addr + i / bytes * bytes;
            if (burst.marks[i] && !response(beat, bytes)) image_[burst.at.addr - set_.base + i] = burst.data[i];
        }
    }

    uint8_t* image_ = nullptr;
    MemorySettings set_{};
    int64_t credit_ = 0;
    bool ar_ready_ = false, aw_ready_ = false, w_ready_ = false, r_valid_ = false, b_valid_ = false;
    std::deque<Burst> reads_, writes_, answers_;
    Held<Address> held_ar_, held_aw_;
    Held<WriteBeat> held_w_;
};
