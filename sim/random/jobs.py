"""Jobs of random programs: a matrix product with the loads that feed it, vector work on the result, and stores."""

from hwgen.arch.isa import Dataflow, Opcode
from sim.random.draft import SPARE, Block, Draft
from sim.random.operands import (
    Operand,
    activations,
    choose_walk,
    draw_pattern,
    group_of,
    grouped_activations,
    ignored_walk,
    most_groups,
    ring_blocks,
    weights,
    words_of,
)
from sim.random.results import store, vector


class JobBuilder(Draft):
    """Collects the jobs of one program."""

    def add_job(self) -> None:
        """One product, output or weight stationary, in one to three parts; then vector work and one or two stores."""
        result = self._output_stationary() if self.chance(0.5) else self._weight_stationary()
        for _ in range(self.draw(0, 2)):
            result = vector(self, result)
        for _ in range(self.draw(1, 2)):
            store(self, result)

    def _output_stationary(self) -> Block:
        array, parts = self.arch.array, self.draw(1, 3)
        patterns = [draw_pattern(self) for _ in range(parts)]
        tile_rows = self.draw(1, ring_blocks(self, patterns))
        tile_cols = self.draw(1, array.interleave_max // tile_rows)
        rows = self.draw(1, min(tile_rows * array.rows, self.arch.scratchpads.acc_depth // (tile_cols + SPARE)))
        result = self.place(rows, tile_cols)
        for part, pattern in enumerate(patterns):
            groups, walk = self.draw(1, most_groups(self, pattern, tile_rows, tile_cols)), choose_walk(self)
            act = activations(self, groups * group_of(self, pattern), tile_rows, walk)
            wgt = weights(self, pattern, groups, tile_cols, walk)
            last = part == parts - 1
            shape = {"tile_rows": tile_rows, "first": int(part == 0), "last": int(last), **ignored_walk(self, walk)}
            self._tensor(result, act, wgt, writes=[result] if last else [], **shape)
        return result

    def _weight_stationary(self) -> Block:
        array, pattern = self.arch.array, draw_pattern(self)
        tile_cols = self.draw(1, min(array.interleave_max, array.weight_buffer // words_of(self, pattern)))
        limit = self.arch.scratchpads.act_depth * array.cols // group_of(self, pattern)
        rows = self.draw(1, min(40, limit, self.arch.scratchpads.acc_depth // (tile_cols + SPARE)))
        result = self.place(rows, tile_cols)
        continued = self.chance(0.4)
        if continued:
            self.load_acc(result)
        for part in range(self.draw(1, 3)):
            act = grouped_activations(self, pattern, rows)
            wgt = weights(self, pattern, self.draw(1, array.rows), tile_cols)
            first = part == 0 and not continued
            shape = {"tile_rows": 1, "first": int(first), "last": 1, "dataflow": Dataflow.WEIGHT_STATIONARY}
            self._tensor(result, act, wgt, reads=[] if first else [result], writes=[result], **shape)
        return result

    def _tensor(self, result: Block, act: Operand, wgt: Operand, *, writes, reads=(), **shape: int) -> None:
        fields = {**shape, **act.fields, **wgt.fields, "rows": result.rows}
        fields |= {"acc_addr": result.addr, "acc_stride": result.stride}
        touched = [*act.reads, *wgt.reads, *(block.access for block in reads)]
        self.add(Opcode.TENSOR, touched, [block.access for block in writes], **fields)
