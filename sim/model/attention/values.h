// hwgen/attention/values.py: what is fetched of the values of rows, passes of weighted sums, their weights.
#pragma once

#include "base.h"
#include "finish.h"
#include "select.h"
#include "weighted.h"
#include "weights.h"

namespace attention {

/// values.py: ValueStage.
class ValueStage {
  public:
    ValueStage(const Sizes& sizes, const uint32_t* indices_list)
        : certain(sizes.slots), rows(sizes.slots), fetches(sizes.value_commands), commands(sizes.value_commands),
          reads(sizes.value_commands), weights(sizes.reads_in_flight), indices(sizes.value_indices), kept(indices_list),
          groups(sizes, indices_list), reader_(sizes), lanes_(sizes.softmax_lanes) {}

    /// One cycle. refined: bits of rows whose keys had LSBs. offered: a kept key, or null; marks: a word of e, or null.
    /// may_begin: of the results.
    void step(const isa::JobFields& job, bool prunes, unsigned refined, const Index* offered, const Marks* marks,
              bool may_begin, uint32_t group, const std::vector<RowPlace>& places, const RowFacts* facts) {
        const bool fetched = fetch(job, prunes, refined, places);
        pass(job, prunes, refined, offered, marks, may_begin, ahead_ || fetched, group, places, facts);
        ahead_ += uint32_t(fetched) - uint32_t(begins_tile_);
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
        indices.tick();
    }

    Queue<uint32_t> certain, rows;
    Queue<FetchCommand> fetches;
    Queue<WeightedCommand> commands;
    Queue<BufferRead> reads;
    Queue<char> weights;
    Queue<Index> indices;
    KeptWeights kept;
    GroupWeights groups;
    bool begins = false, leaves = false;  // all e of the row have been read
    uint32_t slot = 0;

  private:
    bool exact(const isa::JobFields& job, unsigned refined, uint32_t slot) const {
        const bool with_keys = job.value_mode == isa::ValueMode::WITH_KEYS && refined >> slot & 1;
        return job.value_low && (job.value_mode == isa::ValueMode::ALWAYS || with_keys);
    }

    /// MSBs, then LSBs; whether a row has its fetches.
    bool fetch(const isa::JobFields& job, bool prunes, unsigned refined, const std::vector<RowPlace>& places) {
        if (!certain.valid()) return false;
        if (job.hold) {
            certain.pop();
            return true;
        }
        if (!fetches.ready()) return false;
        const uint32_t slot = certain.front();
        const RowPlace& place = places[slot];
        const bool both = exact(job, refined, slot);
        fetches.push({fetch_low_ ? place.value_low : place.value, fetch_low_ ? LOW_BITS : uint32_t(job.value_bits),
                      place.keys, prunes, false, false});
        const bool done = fetch_low_ || !both;
        if (done) certain.pop();
        fetch_low_ = !done;
        return done;
    }

    void pass(const isa::JobFields& job, bool prunes, unsigned refined, const Index* offered, const Marks* marks,
              bool may_begin, bool fetched, uint32_t group, const std::vector<RowPlace>& places,
              const RowFacts* facts) {
        const bool row = rows.valid();
        slot = row ? rows.front() : 0;
        const RowPlace& place = places[slot];
        const bool both = row && exact(job, refined, slot), telling = row && told_;
        cut(!prunes, group);
        weigh(job.hold, telling && prunes, both, &facts[place.number], offered, marks, place.keys, group);
        reader_.step(telling && !prunes ? &slot : nullptr, place.keys);
        const bool listed = job.hold ? groups.pass_done : kept.pass_done;
        const bool ends = telling && (prunes ? listed : reader_.row_taken);
        const bool may = low_ || (fetched && (may_begin || !place.last));
        const bool fires = row && !told_ && may && commands.ready() && reads.ready();
        begins_tile_ = fires && !low_;
        begins = begins_tile_ && place.last;
        leaves = ends && (low_ || !both);
        if (fires) {
            commands.push({!low_ && place.first, (low_ || !both) && place.last, !low_ && facts[place.number].grown});
            if (job.hold) reads.push({place.keys, prunes, low_});
            told_ = true;
        }
        if (!ends) return;
        if (leaves) rows.pop();
        told_ = false;
        low_ = both && !low_;
    }

    /// Weights of a row that keeps some of its values.
    void weigh(bool hold, bool enable, bool again, const RowFacts* row, const Index* offered, const Marks* marks,
               uint32_t keys, uint32_t group) {
        const bool room = weights.ready();
        if (hold)
            groups.step(enable, again, row, marks, (keys + lanes_ - 1) / lanes_, indices, room, group);
        else
            kept.step(enable, again, row, offered, indices, room, group);
        if (hold ? groups.weights_given : kept.weights_given) weights.push(0);
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
    uint32_t lanes_, place_ = 0, ahead_ = 0;
    bool fetch_low_ = false, told_ = false, low_ = false, begins_tile_ = false;
};

}  // namespace attention
