// hwgen/array/sequencer.py, drain of collect.py, delays of engine.py and mesh.py: the tensor engine.
#pragma once

#include "collect.h"
#include "feed.h"
#include "sums.h"

/// While all cycles are alike it only notes how many there were, and catches up when one differs.
class TensorEngine {
  public:
    TensorEngine(const Sizes& sizes, AccPorts& acc, bool every_cycle)
        : sizes_(sizes), every_cycle_(every_cycle), acc_(acc), admission_(sizes), feeder_(sizes), preloader_(sizes),
          beats_(sizes) {}

    bool accepts() const { return admission_.accepts(); }
    bool busy() const { return under_way_ != 0 || !admission_.accepts(); }
    bool done() const { return collector_.done(); }
    /// First cycle that may differ from the one before it, if no instruction is accepted.
    Cycle until() const { return until_; }

    /// One cycle. `command`: the instruction that is offered, or null. `shared`: others may use the accumulators too.
    /// Returns the TensorState of the cycle.
    uint32_t step(Cycle now, const Instruction* command, bool shared) {
        const bool differs = now >= until_ || (command && accepts());
        if (differs && now != next_) skip(now - next_);
        if (shared) use_acc(now);
        if (!differs) return state_;
        act(command);
        next_ = now + 1;
        banks_known_ = false;
        until_ = next_ + (every_cycle_ ? 0 : quiet());
        return state_;
    }

    /// Banks that it may read, may write, in the next cycle and before `until`; a bit for each.
    uint32_t reads_banks() { return look_at_banks(), reads_banks_; }
    uint32_t writes_banks() { return look_at_banks(), writes_banks_; }

  private:
    void use_acc(Cycle now) const {
        uint32_t sum = sums_.at(now);
        const Cycle ahead = now - sizes_.read_stage - next_;  // beats since the last one whose sums are in `sums_`
        if (ahead >= 0 && beats_.reads_sums()) sum = beats_.sum(ahead);
        if (sum != NOWHERE) acc_.read(sum);
        if (collector_.valid.at(next_)) collector_.write(now - next_, acc_);
    }

    void look_at_banks() {
        if (banks_known_) return;
        const Cycle cycles = std::max<Cycle>(until_ - next_, 1);
        reads_banks_ = sums_.banks(acc_) | (beats_.reads_sums() ? beats_.sum_banks(acc_) : 0);
        writes_banks_ = collector_.valid.at(next_) ? collector_.banks(cycles, acc_) : 0;
        banks_known_ = true;
    }

    /// Cycle `next_`.
    void act(const Instruction* command) {
        const bool room = has_room(), hand = admission_.offers() && room, ended = under_way_ == 0;
        const bool issued = beats_.tiles.empty();
        const bool changing = admission_.changing(), looking = !admission_.accepts();
        const bool collecting = !collector_.results.empty();
        const Around around = look();
        const Cycle released = beats_.released();
        under_way_ += int(hand) - int(collector_.done());
        sums_.pass(next_ + 1);
        collector_.step(next_);
        send(next_, beats_.step(next_, around), 1);
        preloader_.step(around.ended);
        feeder_.step(released);
        if (hand) hand_over(admission_.tile());
        admission_.step(command, room, ended, issued);
        state_ = status(changing, looking, collecting);
    }

    /// Cycles from `next_` on in each of which the same happens, as in the one before.
    Cycle quiet() const {
        const Around around = look();
        const bool collecting = !collector_.results.empty();
        Cycle cycles = beats_.quiet(next_, around, feeder_, preloader_);
        if (cycles <= 0 || status(admission_.changing(), !admission_.accepts(), collecting) != state_) return 0;
        const bool in_word = !beats_.fires() || cycles <= beats_.left();  // else `beats_` has asked the feeder
        if (in_word) cycles = std::min(cycles, feeder_.quiet(beats_.released()));
        cycles = std::min(cycles, collector_.quiet(next_));
        cycles = std::min(cycles, admission_.quiet(has_room(), under_way_ == 0, beats_.tiles.empty()));
        cycles = std::min(cycles, preloader_.quiet(around.ended));
        return std::max<Cycle>(0, cycles);
    }

    /// Catches up with the `cycles` that `quiet` has promised.
    void skip(Cycle cycles) {
        const Cycle end = next_ + cycles;
        collector_.skip(next_, cycles);
        preloader_.skip(cycles, collector_.ended());
        for (Cycle run; next_ < end; next_ += run) {
            run = end - next_;
            if (beats_.fires()) run = std::min(run, beats_.left());
            feeder_.skip(run, beats_.released());
            if (beats_.fires()) send(next_, beats_.skip(next_, run), run);
        }
        sums_.pass(end);
    }

    bool has_room() const {
        const size_t limit = sizes_.tile_queue;
        return feeder_.tiles.size() < limit && preloader_.tiles.size() < limit && beats_.tiles.size() < limit;
    }

    void hand_over(const Tile& tile) {
        feeder_.tiles.push(tile);
        beats_.tiles.push(tile);
        if (tile.stationary) preloader_.tiles.push(tile);
    }

    Around look() const {
        Around around{};
        around.fetched = feeder_.fetched();
        around.loaded = preloader_.loaded();
        around.safe = preloader_.safe();
        around.ended = collector_.ended();
        around.written = collector_.written();
        around.draining_until = draining_until_;
        around.coming = collector_.coming(next_);
        around.results_room = collector_.results.size() < 2 * sizes_.tile_queue;
        return around;
    }

    /// Sends what each of `count` equal beats from cycle `now` on causes on its way.
    void send(Cycle now, const Beat& beat, Cycle count) {
        if (!beat.fire) return;
        const Cycle tail = now + Cycle(sizes_.rows - 1) * admission_.hop() + sizes_.head_latency;
        if (beat.starts) collector_.results.push(beat.result);
        if (beat.sum) sums_.add(now + sizes_.read_stage, beat.sum_address, count);
        if (beat.emit) collector_.valid.add(tail + sizes_.write_stage + sizes_.south_latency, count);
        if (beat.flush) collector_.flushed.add(tail + 1);
        if (beat.leaving) drain(now, tail - now, beat.result.steps);
    }

    /// DrainSequencer: from when the first sums are in their buffers on, words leave in every cycle. With two links the
    /// next sums may follow at once, because they come later than the last words leave.
    void drain(Cycle now, Cycle way, Cycle steps) {
        const Cycle first = now + sizes_.write_stage + sizes_.drain;
        draining_until_ = (sizes_.drain == 2 ? now + 1 : first) + steps - 1;
        collector_.valid.add(first + way + sizes_.south_latency, steps);
    }

    uint32_t status(bool changing, bool looking, bool collecting) const {
        using namespace isa::TensorState;
        if (beats_.state() != IDLE) return beats_.state();
        if (changing) return DRAIN;
        if (looking) return FILL;
        return collecting ? DRAIN : IDLE;
    }

    const Sizes& sizes_;
    const bool every_cycle_;
    AccPorts& acc_;
    Admission admission_;
    Feeder feeder_;
    Preloader preloader_;
    Beats beats_;
    Collector collector_;
    Sums sums_;
    Cycle next_ = 0, until_ = 0;  // first cycle that has not passed here; first one that may differ
    Cycle under_way_ = 0, draining_until_ = -1;
    bool banks_known_ = false;
    uint32_t reads_banks_ = 0, writes_banks_ = 0, state_ = 0;
};
