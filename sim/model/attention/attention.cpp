// The cycle model of the attention core as a library; `sim/attention/model.py` calls the functions at the end.
#include "core.h"

extern "C" {
uint32_t attention_bytes(int which) {
    using namespace attention;
    const uint32_t sizes[] = {sizeof(Sizes), sizeof(MemorySettings), sizeof(Job), sizeof(RowFacts), sizeof(Counters)};
    return sizes[which];
}
/// Runs `count` jobs one after the other; gives whether they ended within `limit` cycles.
int attention_run(const attention::Sizes* sizes, const attention::MemorySettings* memory, const attention::Job* jobs,
                  uint64_t count, const attention::RowFacts* facts, const uint32_t* indices, const uint32_t* passes,
                  attention::Counters* counters, uint64_t limit) {
    attention::BlockMemory behind(*memory);
    attention::Core core(*sizes, behind, jobs, count, count, facts, indices, passes, counters);
    while (!core.ended() && core.now() < attention::Cycle(limit)) core.step();
    return core.ended();
}
}
