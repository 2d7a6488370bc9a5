// hwgen/attention/services/bursts.py, read.py, write.py: spans of beats through the ports.
#pragma once

#include "base.h"

namespace services {

struct Span {
    uint64_t address;
    uint32_t beats;
    bool table;
};

/// bursts.py: Bursts.
class Bursts {
  public:
    Bursts(const Sizes& sizes, uint32_t longest)
        : beat_(sizes.beat_bytes), page_(std::max(1u, sizes.page_bytes / sizes.beat_bytes)), longest_(longest) {}

    uint32_t beats() const {
        return std::min(std::min(left_, longest_), page_ - uint32_t(following_ % page_));
    }
    bool valid(uint32_t room) const { return left_ && beats() <= room; }
    bool ready(bool fires) const { return !left_ || (fires && left_ == beats()); }
    bool busy() const { return left_ != 0; }
    bool table() const { return table_; }

    /// One cycle. span: taken or null; fires: the burst that is offered is taken.
    void step(const Span* span, bool fires) {
        if (fires) {
            const uint32_t count = beats();
            following_ += count;
            left_ -= count;
        }
        if (!span) return;
        following_ = span->address / beat_;
        left_ = span->beats;
        table_ = span->table;
    }

  private:
    uint32_t beat_, page_, longest_, left_ = 0;
    uint64_t following_ = 0;
    bool table_ = false;
};

/// read.py: SpanReader.
class SpanReader {
  public:
    explicit SpanReader(const Sizes& sizes)
        : bursts_(sizes, std::max(1u, sizes.reads_in_flight / 4)), owners_(sizes.reads_in_flight),
          beats_(sizes.reads_in_flight), depth_(sizes.reads_in_flight), free_(depth_) {}

    /// What the memory shows in the cycle at hand; before anything else.
    void look(const Memory& memory) { fires_ = bursts_.valid(free_) && memory.read_ready; }
    bool takes_span() const { return bursts_.ready(fires_); }
    /// A beat that has come, and what it is for.
    bool valid() const { return beats_.valid(); }
    bool table() const { return beats_.front(); }
    bool busy() const { return bursts_.busy() || free_ != depth_; }

    void ask(const Span& span) { span_ = span, asked_ = true; }
    void take() { taken_ = true; }

    /// One cycle; gives whether a beat came.
    bool step(Memory& memory, Cycle now) {
        const bool comes = memory.showing();
        if (comes) arrive(memory);
        const uint32_t beats = fires_ ? bursts_.beats() : 0;
        if (fires_) {
            memory.request(now, beats);
            owners_.push({beats, bursts_.table()});
        }
        if (taken_) beats_.pop();
        free_ += uint32_t(taken_) - beats;
        bursts_.step(asked_ ? &span_ : nullptr, fires_);
        asked_ = taken_ = false;
        owners_.tick();
        beats_.tick();
        return comes;
    }

  private:
    struct Owner {
        uint32_t beats;
        bool table;
    };

    void arrive(Memory& memory) {
        beats_.push(owners_.front().table);
        if (++come_ == owners_.front().beats) {
            come_ = 0;
            owners_.pop();
        }
        memory.take_beat();
    }

    Bursts bursts_;
    Queue<Owner> owners_;
    Queue<char> beats_;
    uint32_t depth_, free_, come_ = 0;
    Span span_{};  // asked for in the cycle at hand
    bool fires_ = false, asked_ = false, taken_ = false;
};

/// write.py: WriteChannel.
class WriteChannel {
  public:
    explicit WriteChannel(const Sizes& sizes)
        : spans_(sizes.write_spans), beats_(2 * sizes.write_burst), bursts_(sizes, sizes.write_burst) {}

    bool takes_span() const { return spans_.ready(); }
    bool takes_beat() const { return beats_.ready(); }
    bool busy() const { return spans_.valid() || bursts_.busy() || beats_.valid(); }
    /// Beats of the burst that is offered, or 0.
    uint32_t offered() const { return bursts_.valid(waiting_) ? bursts_.beats() : 0; }

    void push_span(const Span& span) { spans_.push(span); }
    void push_beat() { beats_.push(0), came_ = true; }
    void pop_beat() { beats_.pop(); }

    /// One cycle. fires: the burst that is offered is taken.
    void step(bool fires) {
        const uint32_t gone = fires ? bursts_.beats() : 0;
        const bool takes = spans_.valid() && bursts_.ready(fires);
        bursts_.step(takes ? &spans_.front() : nullptr, fires);
        if (takes) spans_.pop();
        waiting_ += uint32_t(came_) - gone;
        came_ = false;
        spans_.tick();
        beats_.tick();
    }

  private:
    Queue<Span> spans_;
    Queue<char> beats_;
    Bursts bursts_;
    uint32_t waiting_ = 0;  // beats that no burst has yet
    bool came_ = false;
};

/// write.py: WritePort.
class WritePort {
  public:
    static constexpr int CHANNELS = 2;
    explicit WritePort(const Sizes& sizes)
        : channels{WriteChannel(sizes), WriteChannel(sizes)}, requests_(sizes.write_bursts),
          owners_(sizes.write_bursts) {}

    bool busy() const {
        return channels[0].busy() || channels[1].busy() || requests_.valid() || owners_.valid() || beat_;
    }

    /// One cycle; gives whether a beat was written.
    bool step(Memory& memory) {
        const bool written = beat_ && memory.write_data_ready;
        if (written) memory.write_beat();
        if (requests_.valid() && memory.write_ready) {
            memory.write_request(requests_.front());
            requests_.pop();
        }
        const int first = channels[0].offered() ? 0 : 1;
        const uint32_t offered = channels[first].offered();
        const bool fires = offered && requests_.ready() && owners_.ready();
        if (fires) {
            requests_.push(offered);
            owners_.push({first, offered});
        }
        if (!beat_ || written) move();
        for (int number = 0; number < CHANNELS; number++) channels[number].step(fires && number == first);
        requests_.tick();
        owners_.tick();
        return written;
    }

    WriteChannel channels[CHANNELS];

  private:
    struct Owner {
        int channel;
        uint32_t beats;
    };

    /// A beat of the burst at hand goes to the register.
    void move() {
        beat_ = owners_.valid();
        if (!beat_) return;
        channels[owners_.front().channel].pop_beat();
        if (++moved_ != owners_.front().beats) return;
        moved_ = 0;
        owners_.pop();
    }

    Queue<uint32_t> requests_;
    Queue<Owner> owners_;
    uint32_t moved_ = 0;
    bool beat_ = false;
};

}  // namespace services
