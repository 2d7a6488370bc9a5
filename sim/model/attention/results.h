// hwgen/attention/results.py, writer.py: sums to outputs in memory.
#pragma once

#include "base.h"
#include "memory.h"

namespace attention {

struct WriteCommand {
    uint64_t address;
    bool zero;
};

/// writer.py: Writer.
class Writer {
  public:
    explicit Writer(const Sizes& sizes)
        : requests_(sizes.write_requests), beat_(sizes.beat_bytes), word_(OUTPUT_BYTES * sizes.output_lanes),
          lanes_(sizes.output_lanes), page_(sizes.page_bytes) {}

    bool busy() const { return packing_ || flush_ || beat_valid_ || requests_.valid(); }

    /// One cycle. command: what is offered or null. words: outputs are offered.
    void step(Memory& memory, const WriteCommand* command, bool words, uint32_t head_size) {
        beat_written = beat_valid_ && memory.write_data_ready;
        if (beat_written) memory.write_beat();
        const bool room = !beat_valid_ || beat_written, idle = !packing_ && !flush_ && !second_;
        const bool ready = packing_ && !second_ && room, take = ready && (zero_ || words);
        word_taken = take && !zero_;
        if (requests_.valid() && memory.write_ready) {
            memory.write_request(requests_.front());
            requests_.pop();
        }
        command_taken = idle && command && requests_.ready();
        const bool more = second_ && requests_.ready(), flushing = flush_ && room;
        bool full = flushing;
        if (take) {
            const uint32_t end = place_ + word_;
            const bool crossing = end >= beat_, last = words_ == 1;
            full |= crossing || last;
            words_--;
            place_ = crossing ? end - beat_ : end;
            packing_ = !last;
            flush_ = last && end > beat_;
        } else if (flushing)
            flush_ = false;
        if (room) beat_valid_ = full;
        if (more) requests_.push(more_), second_ = false;
        if (command_taken) begin(*command, head_size);
        requests_.tick();
    }

    bool word_taken = false, command_taken = false, beat_written = false;

  private:
    /// A burst, or two where the row crosses a page.
    void begin(const WriteCommand& command, uint32_t head_size) {
        const uint32_t offset = uint32_t(command.address % beat_), bytes = OUTPUT_BYTES * head_size;
        const uint32_t total = (offset + bytes + beat_ - 1) / beat_;
        const uint32_t left = page_ / beat_ - uint32_t(command.address % page_) / beat_;
        const uint32_t first = std::min(total, left);
        requests_.push(first);
        more_ = total - first;
        second_ = more_ != 0;
        place_ = offset;
        words_ = head_size / lanes_;
        zero_ = command.zero;
        packing_ = true;
    }

    Queue<uint32_t> requests_;
    uint32_t beat_, word_, lanes_, page_, place_ = 0, words_ = 0, more_ = 0;
    bool zero_ = false, packing_ = false, flush_ = false, second_ = false, beat_valid_ = false;
};

/// results.py: ResultStage.
class ResultStage {
  public:
    explicit ResultStage(const Sizes& sizes)
        : empties(sizes.slots), writer(sizes), commands_(sizes.write_commands), rows_(sizes.write_commands),
          outputs_(sizes.outputs), depth_(sizes.outputs), latency_(sizes.output_latency) {}

    bool may_begin() const { return commands_.ready() && rows_.ready(); }
    /// Bits of the halves of the buffers that rows without their sums use.
    unsigned used() const { return unsigned(used_[0] != 0) | unsigned(used_[1] != 0) << 1; }
    bool takes_sums() const { return inside_ != depth_; }
    bool busy() const { return empties.valid() || commands_.valid() || rows_.valid() || inside_ != 0 || writer.busy(); }

    /// One cycle. begins: the row of this slot, or null; zeros: address of a row of a head that is gone, or null;
    /// sums, last: they are taken; places: rows by slot.
    void step(Memory& memory, const uint32_t* begins, const uint64_t* zeros, bool sums, bool last,
              const std::vector<RowPlace>& places, uint32_t head_size) {
        writer.step(memory, commands_.valid() ? &commands_.front() : nullptr, outputs_.valid(), head_size);
        const bool gives = writer.word_taken, ready = commands_.ready();
        inside_ += uint32_t(sums) - uint32_t(gives);
        if (gives) outputs_.pop();
        if (writer.command_taken) commands_.pop();
        scaling_ = scaling_ << 1 | uint64_t(sums);
        if (scaling_ >> latency_ & 1) outputs_.push(0);
        if (sums && last) {
            used_[rows_.front()]--;
            rows_.pop();
        }
        if (begins) {
            rows_.push(places[*begins].side);
            used_[places[*begins].side]++;
        }
        empty_done = ready && !begins && empties.valid() ? int(empties.front()) : -1;
        if (empty_done >= 0) empties.pop();
        zeros_taken = ready && !begins && !empties.valid() && zeros;
        if (begins)
            commands_.push({places[*begins].output, false});
        else if (empty_done >= 0)
            commands_.push({places[empty_done].output, true});
        else if (zeros_taken)
            commands_.push({*zeros, true});
        commands_.tick();
        rows_.tick();
        outputs_.tick();
    }

    Queue<uint32_t> empties;
    Writer writer;
    int empty_done = -1;  // slot
    bool zeros_taken = false;

  private:
    Queue<WriteCommand> commands_;
    Queue<uint32_t> rows_;  // halves of the buffers
    Queue<char> outputs_;
    uint32_t depth_, latency_, inside_ = 0, used_[2] = {};
    uint64_t scaling_ = 0;
};

}  // namespace attention
