// hwgen/attention/values.py, weights.py: what is fetched of the values of rows, passes of weighted sums, weights.
#pragma once

#include "base.h"
#include "finish.h"
#include "select.h"
#include "weighted.h"

namespace attention {

/// weights.py: KeptList and KeptWeights.
class KeptWeights {
  public:
    KeptWeights(const Sizes& sizes, const uint32_t* indices)
        : indices_queue(sizes.value_indices), indices_(indices) {}

    /// One cycle. enable: a pass of `row` is under way. kept: the key that the selection offers, or null. weights: there
    /// is room for one.
    void step(bool enable, bool again, const RowFacts* row, const Index* kept, bool weights, bool held, uint32_t group) {
        key_taken = weights_given = pass_done = false;
        const bool room = indices_queue.ready(), both = room && weights;
        const bool close = held && closing_ && both;
        if (close) give({index_, true});
        if (enable && !closing_ && (replay_ || kept)) {
            const Index item = replay_ ? Index{indices_[row->kept + number_], number_ + 1 == row->kept_count} : *kept;
            const bool begins = held && filled_ && (item.index ^ index_) / group != 0;
            const bool full = item.last || count_ + 1 == group;
            if (held ? !begins || both : room && (!full || weights)) {
                if (begins) give({index_, false});
                if (!held) indices_queue.push(item), weights_given = full;
                take(item, held, full, again);
            }
        }
        if (close) closing_ = filled_ = false;
    }

    Queue<Index> indices_queue;
    bool key_taken = false, weights_given = false, pass_done = false;

  private:
    void give(const Index& index) {
        indices_queue.push(index);
        weights_given = true;
    }

    void take(const Index& item, bool held, bool full, bool again) {
        key_taken = !replay_;
        pass_done = item.last;
        index_ = item.index;
        filled_ = held;
        closing_ = held && item.last;
        count_ = full ? 0 : count_ + 1;
        number_ = item.last ? 0 : number_ + 1;
        if (item.last) replay_ = again && !replay_;
    }

    const uint32_t* indices_;
    uint32_t index_ = 0, count_ = 0, number_ = 0;
    bool filled_ = false, closing_ = false, replay_ = false;
};

/// values.py: ValueStage.
class ValueStage {
  public:
    ValueStage(const Sizes& sizes, const uint32_t* indices)
        : certain(sizes.slots), rows(sizes.slots), fetches(sizes.value_commands), commands(sizes.value_commands),
          reads(sizes.value_commands), weights(sizes.reads_in_flight), kept(sizes, indices), reader_(sizes) {}

    /// One cycle. refined: bits of rows whose keys had LSBs. offered: a kept key, or null. may_begin: of the results.
    void step(const isa::JobFields& job, bool prunes, unsigned refined, const Index* offered, bool may_begin,
              uint32_t group, const std::vector<RowPlace>& places, const RowFacts* facts) {
        fetch(job, prunes, refined, places);
        pass(job, prunes, refined, offered, may_begin, group, places, facts);
        reader_.words.tick();
    }
    /// Queues that others write or read.
    void tick() {
        certain.tick();
        rows.tick();
        fetches.tick();
        commands.tick();
        reads.tick();
        weights.tick();
        kept.indices_queue.tick();
    }

    Queue<uint32_t> certain, rows;
    Queue<FetchCommand> fetches;
    Queue<WeightedCommand> commands;
    Queue<BufferRead> reads;
    Queue<char> weights;
    KeptWeights kept;
    bool begins = false;
    uint32_t begins_slot = 0;

  private:
    bool exact(const isa::JobFields& job, unsigned refined, uint32_t slot) const {
        const bool with_keys = job.value_mode == isa::ValueMode::WITH_KEYS && refined >> slot & 1;
        return job.value_low && (job.value_mode == isa::ValueMode::ALWAYS || with_keys);
    }

    /// MSBs, then LSBs.
    void fetch(const isa::JobFields& job, bool prunes, unsigned refined, const std::vector<RowPlace>& places) {
        if (!certain.valid()) return;
        if (job.hold) {
            certain.pop();
            return;
        }
        if (!fetches.ready()) return;
        const uint32_t slot = certain.front();
        const RowPlace& place = places[slot];
        const bool both = exact(job, refined, slot);
        fetches.push({fetch_low_ ? place.value_low : place.value, fetch_low_ ? LOW_BITS : uint32_t(job.value_bits),
                      place.keys, prunes, false, false});
        if (fetch_low_ || !both) certain.pop();
        fetch_low_ = both && !fetch_low_;
    }

    void pass(const isa::JobFields& job, bool prunes, unsigned refined, const Index* offered, bool may_begin,
              uint32_t group, const std::vector<RowPlace>& places, const RowFacts* facts) {
        const bool row = rows.valid();
        const uint32_t slot = row ? rows.front() : 0;
        const RowPlace& place = places[slot];
        const bool both = row && exact(job, refined, slot), telling = row && told_;
        cut(!prunes, group);
        kept.step(telling && prunes, both, &facts[place.number], offered, weights.ready(), job.hold, group);
        if (kept.weights_given) weights.push(0);
        reader_.step(telling && !prunes ? &slot : nullptr, place.keys);
        const bool ends = telling && (prunes ? kept.pass_done : reader_.row_taken);
        const bool fires = row && !told_ && (low_ || may_begin) && commands.ready() && reads.ready();
        begins = fires && !low_;
        begins_slot = slot;
        if (fires) {
            commands.push({low_ || !both});
            if (job.hold) reads.push({place.keys, prunes, low_});
            told_ = true;
        }
        if (!ends) return;
        if (low_ || !both) rows.pop();
        told_ = false;
        low_ = both && !low_;
    }

    /// weights.py: WordWeights.
    void cut(bool words, uint32_t group) {
        if (!words || !reader_.words.valid() || !weights.ready()) return;
        const bool end = place_ + group >= reader_.words.front().count;
        place_ = end ? 0 : place_ + group;
        if (end) reader_.words.pop();
        weights.push(0);
    }

    RowReader reader_;
    uint32_t place_ = 0;
    bool fetch_low_ = false, told_ = false, low_ = false;
};

}  // namespace attention
