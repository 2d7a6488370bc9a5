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

/// Write channels of a port.
template <class Small, class Address, class Data, class Strobe>
struct WritePins {
    const Address& awaddr;
    const Small &awlen, &awsize, &awburst, &awvalid;
    Small& awready;
    const Data& wdata;
    const Strobe& wstrb;
    const Small &wlast, &wvalid;
    Small &wready, &bresp, &bvalid;
    const Small& bready;
};

#define WRITE_PINS(top, port)                                                                                      \
    make_pins(top.port##_awaddr, top.port##_awlen, top.port##_awsize, top.port##_awburst, top.port##_awvalid,       \
              top.port##_awready, top.port##_wdata, top.port##_wstrb, top.port##_wlast, top.port##_wvalid,          \
              top.port##_wready, top.port##_bresp, top.port##_bvalid, top.port##_bready)

template <class Small, class Address, class Data, class Strobe>
WritePins<Small, Address, Data, Strobe> make_pins(Address& awaddr, Small& awlen, Small& awsize, Small& awburst,
                                                  Small& awvalid, Small& awready, Data& wdata, Strobe& wstrb,
                                                  Small& wlast, Small& wvalid, Small& wready, Small& bresp,
                                                  Small& bvalid, Small& bready) {
    return {awaddr, awlen, awsize, awburst, awvalid, awready, wdata, wstrb, wlast, wvalid, wready, bresp, bvalid, bready};
}

/// Whether a design has the port of FILL, that of ATTEND.
template <class Top, class = void>
struct HasFill : std::false_type {};
template <class Top>
struct HasFill<Top, std::void_t<decltype(std::declval<Top&>().m_axi_fill_arvalid)>> : std::true_type {};
template <class Top, class = void>
struct HasAttend : std::false_type {};
template <class Top>
struct HasAttend<Top, std::void_t<decltype(std::declval<Top&>().m_axi_attend_arvalid)>> : std::true_type {};

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
        drive_writes(WRITE_PINS(top, m_axi_gmem), 0);
        if constexpr (HasAttend<Top>::value) {
            drive_reads(READ_PINS(top, m_axi_attend), 2);
            drive_writes(WRITE_PINS(top, m_axi_attend), 1);
        }
    }

    /// Takes the handshakes of cycle `now`; call it after evaluation and before the clock edge.
    template <class Top>
    void sample(Top& top, uint64_t now) {
        sample_reads(READ_PINS(top, m_axi_gmem), 0, now);
        if constexpr (HasFill<Top>::value) sample_reads(READ_PINS(top, m_axi_fill), 1, now);
        sample_writes(WRITE_PINS(top, m_axi_gmem), 0, now);
        if constexpr (HasAttend<Top>::value) {
            sample_reads(READ_PINS(top, m_axi_attend), 2, now);
            sample_writes(WRITE_PINS(top, m_axi_attend), 1, now);
        }
    }

    /// True when the master offers something.
    template <class Top>
    static bool valid(const Top& top) {
        bool others = false;
        if constexpr (HasFill<Top>::value) others |= top.m_axi_fill_arvalid;
        if constexpr (HasAttend<Top>::value)
            others |= top.m_axi_attend_arvalid || top.m_axi_attend_awvalid || top.m_axi_attend_wvalid;
        return others || top.m_axi_gmem_arvalid || top.m_axi_gmem_awvalid || top.m_axi_gmem_wvalid;
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
        std::vector<uint8_t> data, strobes;
        bool last = false;
        bool operator!=(const WriteBeat& other) const {
            return last != other.last || data != other.data || strobes != other.strobes;
        }
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

    template <class Pins>
    void drive_writes(Pins pins, int port) {
        if (timing_.write[port].b_new) offer_answer(pins, port);
        pins.awready = timing_.write[port].aw_ready;
        pins.wready = timing_.write[port].w_ready;
        pins.bvalid = timing_.write[port].b_valid;
    }

    template <class Pins>
    void sample_writes(Pins pins, int port, uint64_t now) {
        const Address aw{uint64_t(pins.awaddr), uint32_t(pins.awlen), 0};
        sample_write_data(pins, port, now);
        if (steady(held_aw_[port], pins.awvalid, timing_.write[port].aw_ready, aw, "AW", now)) {
            check(aw, pins.awsize, pins.awburst, sizeof(pins.wdata), "AW", now);
            take_write(aw, port, sizeof(pins.wdata));
        }
        if (timing_.write[port].b_valid && pins.bready) timing_.take_answer(port);
    }

    void take_write(const Address& at, int port, size_t bytes) {
        Burst made;
        made.at = at;
        timing_.take_write(port, at.len + 1);
        made.data.resize((at.len + 1) * bytes);
        made.marks.resize((at.len + 1) * bytes);
        writes_[port].push_back(std::move(made));
    }

    template <class Pins>
    void sample_write_data(Pins pins, int port, uint64_t now) {
        const bool valid = pins.wvalid, ready = timing_.write[port].w_ready;
        const auto* data = reinterpret_cast<const uint8_t*>(&pins.wdata);
        const auto* strobes = reinterpret_cast<const uint8_t*>(&pins.wstrb);
        const size_t bytes = sizeof(pins.wdata);
        if (held_w_[port].waiting || (valid && !ready)) {
            WriteBeat beat{{data, data + bytes}, {strobes, strobes + (bytes + 7) / 8}, bool(pins.wlast)};
            steady(held_w_[port], valid, ready, beat, "W", now);
        }
        if (!valid || !ready) return;
        Burst& burst = writes_[port].front();
        const size_t at = burst.beat * bytes;
        std::memcpy(&burst.data[at], data, bytes);
        for (size_t i = 0; i < bytes; i++) burst.marks[at + i] = strobes[i / 8] >> (i % 8) & 1;
        burst.response = std::max(burst.response, response(burst.at.addr + at, bytes));
        burst.beat++;
        beats_written++;
        const bool last = timing_.take_write_beat(port, now);
        if (last != bool(pins.wlast)) complain(now, last ? "WLAST is missing" : "WLAST came early");
        if (!last) return;
        answers_[port].push_back(std::move(burst));
        writes_[port].pop_front();
    }

    template <class Pins>
    void offer_answer(Pins pins, int port) {
        apply(answers_[port].front(), sizeof(pins.wdata));  // only now may anyone rely on it
        pins.bresp = answers_[port].front().response;
        answers_[port].pop_front();
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
    std::deque<Burst> reads_[MemoryTiming::READ_PORTS], writes_[MemoryTiming::WRITE_PORTS],
        answers_[MemoryTiming::WRITE_PORTS];
    Held<Address> held_ar_[MemoryTiming::READ_PORTS], held_aw_[MemoryTiming::WRITE_PORTS];
    Held<WriteBeat> held_w_[MemoryTiming::WRITE_PORTS];
};
