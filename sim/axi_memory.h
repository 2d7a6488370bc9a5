// External memory behind the accelerator's AXI4 master port, with protocol checks.
//
// One object serves one port. A cycle is `drive` (set the slave's outputs), evaluation of the design, `sample` (look at the
// handshakes before the clock edge). When it answers is up to `MemoryTiming`, here are data, answers and checks.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

#include "memory_timing.h"

class AxiMemory {
  public:
    void attach(uint8_t* image, const MemorySettings& settings, size_t beat_bytes) {
        image_ = image;
        set_ = settings;
        timing_.start(settings, beat_bytes);
        beats_read = beats_written = 0;
    }

    /// Sets the slave's side of the port for cycle `now`.
    template <class Top>
    void drive(Top& top, uint64_t now) {
        timing_.drive(now);
        if (timing_.r_new) offer_read(top);
        if (timing_.b_new) offer_answer(top);
        top.m_axi_gmem_arready = timing_.ar_ready;
        top.m_axi_gmem_rvalid = timing_.r_valid;
        top.m_axi_gmem_awready = timing_.aw_ready;
        top.m_axi_gmem_wready = timing_.w_ready;
        top.m_axi_gmem_bvalid = timing_.b_valid;
    }

    /// Takes the handshakes of cycle `now`; call it after evaluation and before the clock edge.
    template <class Top>
    void sample(Top& top, uint64_t now) {
        const Address ar{uint64_t(top.m_axi_gmem_araddr), uint32_t(top.m_axi_gmem_arlen), uint32_t(top.m_axi_gmem_arid)};
        const Address aw{uint64_t(top.m_axi_gmem_awaddr), uint32_t(top.m_axi_gmem_awlen), 0};
        if (steady(held_ar_, top.m_axi_gmem_arvalid, timing_.ar_ready, ar, "AR", now))
            take_read(ar, top.m_axi_gmem_arsize, top.m_axi_gmem_arburst, sizeof(top.m_axi_gmem_rdata), now);
        if (timing_.r_valid && top.m_axi_gmem_rready) pop_read();
        sample_write_data(top, now);
        if (steady(held_aw_, top.m_axi_gmem_awvalid, timing_.aw_ready, aw, "AW", now))
            take_write(aw, top.m_axi_gmem_awsize, top.m_axi_gmem_awburst, sizeof(top.m_axi_gmem_wdata), now);
        if (timing_.b_valid && top.m_axi_gmem_bready) timing_.take_answer();
    }

    /// True when no transaction is under way.
    bool idle() const { return timing_.idle(); }

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
        uint32_t beat = 0;           // next beat
        uint8_t response = 0;        // worst answer so far (writes)
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
        timing_.take_read(at.len + 1, at.id, now);
        made.data.resize((at.len + 1) * bytes, 0xEE);
        made.marks.resize(at.len + 1);
        for (uint32_t i = 0; i <= at.len; i++) {  // read now: a write that has not been answered is not seen
            made.marks[i] = response(at.addr + i * bytes, bytes);
            if (!made.marks[i]) std::memcpy(&made.data[i * bytes], image_ + (at.addr - set_.base) + i * bytes, bytes);
        }
        reads_.push_back(std::move(made));
    }

    template <class Top>
    void offer_read(Top& top) {
        const Burst& burst = reads_.front();
        const size_t bytes = sizeof(top.m_axi_gmem_rdata);
        std::memcpy(&top.m_axi_gmem_rdata, &burst.data[burst.beat * bytes], bytes);
        top.m_axi_gmem_rresp = burst.marks[burst.beat];
        top.m_axi_gmem_rlast = timing_.r_last();
        top.m_axi_gmem_rid = timing_.r_id();
    }

    void pop_read() {
        timing_.take_read_beat();
        beats_read++;
        if (reads_.front().beat++ == reads_.front().at.len) reads_.pop_front();
    }

    void take_write(const Address& at, uint32_t size, uint32_t burst, size_t bytes, uint64_t now) {
        check(at, size, burst, bytes, "AW", now);
        Burst made;
        made.at = at;
        timing_.take_write(at.len + 1);
        made.data.resize((at.len + 1) * bytes);
        made.marks.resize((at.len + 1) * bytes);
        writes_.push_back(std::move(made));
    }

    template <class Top>
    void sample_write_data(Top& top, uint64_t now) {
        const bool valid = top.m_axi_gmem_wvalid;
        if (held_w_.waiting || (valid && !timing_.w_ready)) {
            const auto* bytes = reinterpret_cast<const uint8_t*>(&top.m_axi_gmem_wdata);
            WriteBeat beat{{bytes, bytes + sizeof(top.m_axi_gmem_wdata)}, bool(top.m_axi_gmem_wlast)};
            steady(held_w_, valid, timing_.w_ready, beat, "W", now);
        }
        if (!valid || !timing_.w_ready) return;
        Burst& burst = writes_.front();
        const size_t bytes = sizeof(top.m_axi_gmem_wdata), at = burst.beat * bytes;
        std::memcpy(&burst.data[at], &top.m_axi_gmem_wdata, bytes);
        const auto* strobe = reinterpret_cast<const uint8_t*>(&top.m_axi_gmem_wstrb);
        for (size_t i = 0; i < bytes; i++) burst.marks[at + i] = strobe[i / 8] >> (i % 8) & 1;
        burst.response = std::max(burst.response, response(burst.at.addr + at, bytes));
        burst.beat++;
        beats_written++;
        const bool last = timing_.take_write_beat(now);
        if (last != bool(top.m_axi_gmem_wlast)) complain(now, last ? "WLAST is missing" : "WLAST came early");
        if (!last) return;
        answers_.push_back(std::move(burst));
        writes_.pop_front();
    }

    template <class Top>
    void offer_answer(Top& top) {
        apply(answers_.front(), sizeof(top.m_axi_gmem_wdata));  // only now may anyone rely on it
        top.m_axi_gmem_bresp = answers_.front().response;
        answers_.pop_front();
    }

    void apply(const Burst& burst, size_t bytes) {
        for (size_t i = 0; i < burst.data.size(); i++) {
            const uint64_t beat = burst.at.addr + i / bytes * bytes;
            if (burst.marks[i] && !response(beat, bytes)) image_[burst.at.addr - set_.base + i] = burst.data[i];
        }
    }

    uint8_t* image_ = nullptr;
    MemorySettings set_{};
    MemoryTiming timing_;
    std::deque<Burst> reads_, writes_, answers_;
    Held<Address> held_ar_, held_aw_;
    Held<WriteBeat> held_w_;
};
