// sim/attention/block.py: the memory behind the ports of a core; hwgen/attention/read_port.py: who gets its beats.
#pragma once

#include "base.h"

namespace attention {

/// Settings of the memory. stalls: a byte for each cycle, over and over; bits 0 to 3 stop beats, read requests, write
/// requests and written beats.
struct MemorySettings {
    uint32_t latency;
    uint32_t stall_cycles;
    const uint8_t* stalls;
};

/// What is behind the ports of the core.
class Memory {
  public:
    virtual ~Memory() = default;
    /// What the core sees in a cycle; after it the core says what it does.
    virtual void show(Cycle now) = 0;
    bool showing() const { return showing_; }
    virtual void take_beat() = 0;
    virtual void request(Cycle now, uint32_t beats) = 0;
    virtual void write_beat() = 0;
    virtual void write_request(uint32_t beats) = 0;

    bool read_ready = false, write_ready = false, write_data_ready = false;

  protected:
    bool showing_ = false;
};

/// Beats come in the order of the requests, `latency` cycles behind them at the earliest; one that shows stays.
class BlockMemory final : public Memory {
  public:
    explicit BlockMemory(const MemorySettings& settings) : settings_(settings) {}

    void show(Cycle now) override {
        const unsigned stalls = settings_.stall_cycles ? settings_.stalls[now % settings_.stall_cycles] : 0;
        showing_ = showing_ || (head_ != bursts_.size() && bursts_[head_].ready <= now && !(stalls & 1));
        read_ready = !(stalls & 2);
        write_ready = !(stalls & 4);
        write_data_ready = !(stalls & 8) && announced_ != 0;
    }

    void take_beat() override {
        showing_ = false;
        if (--bursts_[head_].beats == 0) head_++;
        if (head_ == bursts_.size()) bursts_.clear(), head_ = 0;
    }
    void request(Cycle now, uint32_t beats) override { bursts_.push_back({now + settings_.latency, beats}); }
    void write_beat() override { announced_--; }
    void write_request(uint32_t beats) override { announced_ += beats; }

  private:
    struct Burst {
        Cycle ready;
        uint32_t beats;
    };
    MemorySettings settings_;
    std::vector<Burst> bursts_;
    size_t head_ = 0;
    uint64_t announced_ = 0;
};

/// hwgen/attention/read_port.py: ReadPort. Clients are numbered in the order in which they are served.
class ReadPort {
  public:
    static constexpr int CLIENTS = 3;
    explicit ReadPort(const Sizes& sizes) : owners_(sizes.owners) {}

    /// The client whose request is taken, or -1; `wants` has the beats of each, 0 for none.
    int arbitrate(const Memory& memory, const uint32_t (&wants)[CLIENTS]) const {
        if (!((!offered_ || memory.read_ready) && owners_.ready())) return -1;
        for (int client = 0; client < CLIENTS; client++)
            if (wants[client]) return client;
        return -1;
    }
    /// The client that a beat of the memory belongs to.
    int owner() const { return owners_.valid() ? owners_.front().client : -1; }

    /// granted: of `arbitrate`. taken: a beat went to its owner.
    void step(Memory& memory, Cycle now, int granted, uint32_t beats, bool taken) {
        if (taken) {
            const uint32_t here = begun_ ? left_ : owners_.front().beats - 1;
            left_ = here - 1;
            begun_ = here != 0;
            if (here == 0) owners_.pop();
            memory.take_beat();
        }
        if (offered_ && memory.read_ready) memory.request(now, offered_), offered_ = 0;
        if (granted >= 0) {
            owners_.push({granted, beats});
            offered_ = beats;
        }
        owners_.tick();
    }

  private:
    struct Owner {
        int client;
        uint32_t beats;
    };
    Queue<Owner> owners_;
    uint32_t offered_ = 0, left_ = 0;
    bool begun_ = false;
};

}  // namespace attention
