// The cycle model of the jobs beside attention as a library; `sim/attention/services_model.py` calls the functions at the end.
#include "core.h"

extern "C" {
uint32_t services_bytes(int which) {
    using namespace services;
    const uint32_t sizes[] = {sizeof(Sizes), sizeof(attention::MemorySettings), sizeof(Job), sizeof(Counters)};
    return sizes[which];
}
/// Runs a job; gives whether it ended within `limit` cycles.
int services_run(const services::Sizes* sizes, const attention::MemorySettings* memory, const services::Job* job,
                 const uint32_t* items, const uint32_t* passes, services::Counters* counters, uint64_t limit) {
    attention::BlockMemory behind(*memory);
    services::Core core(*sizes, behind, items, passes);
    bool ended = false;
    while (!ended && core.counters.cycles < limit) ended = core.step(core.counters.cycles ? nullptr : job);
    *counters = core.counters;
    return ended;
}
}
