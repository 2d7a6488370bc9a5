// External memory behind the accelerator's AXI4 master ports, with protocol checks.
//
// One object serves all ports. A cycle is `drive` (set the slave's outputs), evaluation of the design, `sample` (look at the
// handshakes before the clock edge). When it answers is up to `MemoryTiming`, here are data, answers and checks.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "memory_timing.h"

/// Read channels of a port; `araddr` and `rdata` have the types of their widths.
template <class Small, class Address, class Data>
struct ReadPins {
    const Address& araddr;
    const Small &arlen, &arsize, &arburst, &arid, &arvalid;
    Small& arready;
    Data& rdata;
    Small &rresp, &rlast, &rid, &rvalid;
    const Small& rready;
};

#define READ_PINS(top, port)                                                                                       \
    make_pins(top.port##_araddr, top.port##_arlen, top.port##_arsize, top.port##_arburst, top.port##_arid,          \
              top.port##_arvalid, top.port##_arready, top.port##_rdata, top.port##_rresp, top.port##_rlast,         \
              top.port##_rid, top.port##_rvalid, top.port##_rready)

template <class Small, class Address, class Data>
ReadPins<Small, Address, Data> make_pins(Address& araddr, Small& arlen, Small& arsize, Small& arburst, Small& arid,
                                         Small& arvalid, Small& arready, Data& rdata, Small& rresp, Small& rlast,
                                         Small& rid, Small& rvalid, Small& rready) {
    return {araddr, arlen, arsize, arburst, arid, arvalid, arready, rdata, rresp, rlast, rid, rvalid, rready};
}

/// Whether a design has the port of FILL.
template <class Top, class = void>
struct HasFill : std::false_type {};
template <class Top>
struct HasFill<Top, std::void_t<decltype(std::declval<Top&>().m_axi_fill_arvalid)>> : std::true_type {};

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
        drive_reads(READ_PINS(top, m_axi_gmem), 0);
        if constexpr (HasFill<Top>::value) drive_reads(READ_PINS(top, m_axi_fill), 1);
        if (timing_.b_new) offer_answer(top);
        top.m_axi_gmem_awready = timing_.aw_ready;
        top.m_axi_gmem_wready = timing_.w_ready;
        top.m_axi_gmem_bvalid = timing_.b_valid;
    }

    /// Takes the handshakes of cycle `now`; call it after evaluation and before the clock edge.
    template <class Top>
    void sample(Top& top, uint64_t now) {
        sample_reads(READ_PINS(top, m_axi_gmem), 0, now);
        if constexpr (HasFill<Top>::value) sample_reads(READ_PINS(top, m_axi_fill), 1, now);
        const Address aw{uint64_t(top.m_axi_gmem_awaddr), uint32_t(top.m_axi_gmem_awlen), 0};
        sample_write_data(top, now);
        if (steady(held_aw_, top.m_axi_gmem_awvalid, timing_.aw_ready, aw, "AW", now))
            take_write(aw, top.m_axi_gmem_awsize, top.m_axi_gmem_awburst, sizeof(top.m_axi_gmem_wdata), now);
        if (timing_.b_valid && top.m_axi_gmem_bready) timing_.take_answer();
    }

    /// True when the master offers something.
    template <class Top>
    static bool valid(const Top& top) {
        bool fills = false;
        if constexpr (HasFill<Top>::value) fills = top.m_axi_fill_arvalid;
        return fills || top.m_axi_gmem_arvalid || top.m_axi_gmem_awvalid || top.m_axi_gmem_wvalid;
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

    template <class Pins>
    void drive_reads(Pins pins, int port) {
        if (timing_.read[port].r_new) offer_read(pins, port);
        pins.arready = timing_.read[port].ar_ready;
        pins.rvalid = timing_.read[port].r_valid;
    }

    template <class Pins>
    void sample_reads(Pins pins, int port, uint64_t now) {
        const Address ar{uint64_t(pins.araddr), uint32_t(pins.arlen), uint32_t(pins.arid)};
        if (steady(held_ar_[port], pins.arvalid, timing_.read[port].ar_ready, ar, "AR", now)) {
            check(ar, pins.arsize, pins.arburst, sizeof(pins.rdata), "AR", now);
            take_read(ar, port, sizeof(pins.rdata), now);
        }
        if (timing_.read[port].r_valid && pins.rready) pop_read(port);
    }

    void take_read(const Address& at, int port, size_t bytes, uint64_t now) {
        Burst made;
        made.at = at;
        timing_.take_read(port, at.len + 1, at.id, now);
        made.data.resize((at.len + 1) * bytes, 0xEE);
        made.marks.resize(at.len + 1);
        for (uint32_t i = 0; i <= at.len; i++) {  // read now: a write that has not been answered is not seen
            made.marks[i] = response(at.addr + i * bytes, bytes);
            if (!made.marks[i]) std::memcpy(&made.data[i * bytes], image_ + (at.addr - set_.base) + i * bytes, bytes);
        }
        reads_[port].push_back(std::move(made));
    }

    template <class Pins>
    void offer_read(Pins pins, int port) {
        const Burst& burst = reads_[port].front();
        const size_t bytes = sizeof(pins.rdata);
        std::memcpy(&pins.rdata, &burst.data[burst.beat * bytes], bytes);
        pins.rresp = burst.marks[burst.beat];
        pins.rlast = timing_.read[port].last();
        pins.rid = timing_.read[port].id();
    }

    void pop_read(int port) {
        std::deque<Burst>& reads = reads_[port];
        timing_.take_read_beat(port);
        beats_read++;
        if (reads.front().beat++ == reads.front().at.len) reads.pop_front();
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
    std::deque<Burst> reads_[MemoryTiming::READ_PORTS], writes_, answers_;
    Held<Address> held_ar_[MemoryTiming::READ_PORTS], held_aw_;
    Held<WriteBeat> held_w_;
};
