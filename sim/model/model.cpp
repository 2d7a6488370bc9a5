// The cycle model as a library; `sim/cycles.py` calls the functions at the end.
#include <memory>

#include "machine.h"

static Machine& machine(void* handle) { return *static_cast<Machine*>(handle); }

extern "C" {
uint32_t model_bytes(int which) {
    const uint32_t sizes[] = {sizeof(Sizes), sizeof(AttendSizes), sizeof(Job)};
    return sizes[which];
}
void* model_new(const Sizes* sizes, const AttendSizes* attend, int every_cycle) {
    return new Machine(*sizes, *attend, every_cycle != 0);
}
void model_start(void* m, const MemorySettings* memory, const Job* job) { machine(m).start(*memory, *job); }
void model_free(void* m) { delete &machine(m); }
int model_run(void* m, uint64_t limit) { return machine(m).run(Cycle(limit)); }
uint64_t model_now(void* m) { return uint64_t(machine(m).now()); }
void model_counters(void* m, uint64_t* values) {
    std::memcpy(values, &machine(m).account().counters, sizeof(Counters));
}
void model_states(void* m, uint64_t* cycles) {
    std::memcpy(cycles, machine(m).account().states, sizeof(Account::states));
}
uint64_t model_events(void* m, const TraceEvent** events, uint64_t* dropped) {
    const Account& account = machine(m).account();
    *events = account.events.data();
    *dropped = account.dropped;
    return account.events.size();
}
/// For each engine the oldest instruction that is not done (-1: none), the next to start, and the engines it waits for.
void model_queues(void* m, int64_t* values) {
    const Queues& queues = machine(m).queues();
    for (int engine = 0; engine < ENGINES; engine++, values += 3) {
        values[0] = queues.oldest(engine);
        values[1] = queues.next(engine);
        values[2] = mask_of(queues.waiting(), engine);
    }
}
}
