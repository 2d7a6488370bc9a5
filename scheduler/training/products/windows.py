"""Products over windows of feature maps: the forward pass (FF) and the input gradient (BP) of convolutions.

Array row r works on image r of a block of `array.rows` images, so that all rows take their activations from the same
addresses: the input is loaded once, and the ACT walk of TENSOR reads the windows out of it (implicit GEMM). A linear
layer is a 1 x 1 window.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil, floor

from hwgen.arch import UserError
from hwgen.arch.config import Array
from hwgen.arch.isa import Dataflow, Format, Target, Walk
from scheduler.array_cost import parts
from scheduler.hazards import Region
from scheduler.training.kernels.emitter import Block, Emitter, Feature
from scheduler.training.products.decisions import Choice, choose
from scheduler.training.products.resident import ResidentWeights, Rings, WeightImage, column_tiles
from scheduler.training.products.window_choices import WindowProblem, window_choices

Pair = tuple[int, int]
"""A number for the height and one for the width."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """Output (out_start + out_step*i) of each axis is the product of inputs in_step*i + in_offset .. + taps - 1."""

    taps: Pair
    in_step: Pair
    in_offset: Pair
    out_start: Pair
    out_step: Pair
    counts: Pair
    """Outputs along height and width."""


def forward_window(kernel: Pair, stride: Pair, padding: Pair, output: Feature) -> Window:
    """The window of a convolution."""
    return Window(
        taps=kernel,
        in_step=stride,
        in_offset=(-padding[0], -padding[1]),
        out_start=(0, 0),
        out_step=(1, 1),
        counts=(output.h, output.w),
    )


@dataclass(frozen=True)
class Phase:
    """Input gradients at `window`'s pixels; `positions` are the kernel positions (ky, kx) in the order of its taps."""

    window: Window
    positions: tuple[tuple[int, int], ...]


def gradient_phases(kernel: Pair, stride: Pair, padding: Pair, source: Feature) -> list[Phase]:
    """Cut the input gradient of a convolution into a product for each remainder, without a wasted multiplication.

    Input pixel h takes part in output (h + padding - ky) / stride for the ky that divide evenly, so pixels with the
    same remainder share their taps. Phases without taps (their gradient is zero) are left out.
    """
    phases = []
    for start_h in range(min(stride[0], source.h)):
        for start_w in range(min(stride[1], source.w)):
            axes = [
                _phase_axis(size, step, pad, start)
                for size, step, pad, start in zip(kernel, stride, padding, (start_h, start_w), strict=True)
            ]
            if not all(taps for taps, _ in axes):
                continue
            window = Window(
                taps=(len(axes[0][0]), len(axes[1][0])),
                in_step=(1, 1),
                in_offset=(axes[0][1], axes[1][1]),
                out_start=(start_h, start_w),
                out_step=stride,
                counts=(ceil((source.h - start_h) / stride[0]), ceil((source.w - start_w) / stride[1])),
            )
            phases.append(Phase(window, tuple((ky, kx) for ky in axes[0][0] for kx in axes[1][0])))
    return phases


def _phase_axis(size: int, stride: int, padding: int, start: int) -> tuple[list[int], int]:
    """Kernel positions of a phase, last first, and the output that the first of them meets for pixel `start`."""
    taps = [k for k in reversed(range(size)) if (start + padding - k) % stride == 0]
    return taps, (start + padding - taps[0]) // stride if taps else 0


def used_values(source: Feature, array: Array) -> int:
    """Values of a word of few channels that the walk must read."""
    return ceil(source.c / array.act_width) * array.act_width


@dataclass(frozen=True)
class Tile:
    """Where a result is: columns `block` .. `block + words - 1`, pixels (h, w + step*i), images of block `images`.

    Its accumulator rows are [pixel][image].
    """

    image: int
    h: int
    w: int
    pixels: int
    block: int
    words: int


@dataclass(frozen=True)
class Progress:
    """Where the recording of a product is, as shares of its tiles or of image rows."""

    share: float
    """Tiles that have been recorded."""
    made: float
    """Rows of the result of which all tiles have been."""
    needs: float
    """Rows of the input that the next tiles need, and some more that are loaded early."""


Epilogue = Callable[[Block, Tile], Block]
"""What happens to a result before it is stored; gives the block to store."""


class WindowProduct:
    """Emits one product over windows. `source` and `target` have the same images, a multiple of `array.rows`."""

    def __init__(self, em: Emitter, rings: Rings, source: Feature, target: Feature, window: Window) -> None:
        self.em, self.source, self.target, self.window = em, source, target, window
        self.array, self.rings = em.arch.array, rings
        if source.n % self.array.rows:
            raise UserError(
                f"the batch of {source.n} must be a multiple of array.rows ({self.array.rows}), one image for each row"
            )
        self._layout()

    def _layout(self) -> None:
        """Words of an image row in a bank, the zeros between rows, rows that fit, output rows of a chunk, its words."""
        window, source = self.window, self.source
        last = (window.counts[1] - 1) * window.in_step[1] + window.in_offset[1] + window.taps[1]
        self.zeros = max(0, -window.in_offset[1], last - source.w) * source.words
        self.pitch = source.row_words + self.zeros
        wanted = (window.counts[0] - 1) * window.in_step[0] + window.taps[0]
        mine, depth = self.rings.act.depth, self.em.arch.scratchpads.act_depth
        fits = [(words - self.zeros) // self.pitch for words in (mine // 2, mine, depth)]
        if fits[0] < 2 * window.taps[0] <= fits[1]:
            fits[0] = fits[1]  # fewer rows are loaded twice, and the first ones again while the last ones are read
        fit = next((rows for rows in fits if rows >= window.taps[0]), 0)
        if not fit:
            raise UserError(
                f"{window.taps[0]} rows of {source.name} take {window.taps[0] * self.pitch} activation words a bank, "
                f"scratchpads.act_depth is {depth}"
            )
        self.slots = min(fit, wanted)
        self.chunk = (self.slots - window.taps[0]) // window.in_step[0] + 1
        self.area = self.zeros + self.slots * self.pitch

    def choices(self, image: WeightImage) -> list[Choice]:
        """The ways to compute it. Raises `UserError` if a column block of weights does not fit."""
        window, array, depth = self.window, self.array, self.em.arch.scratchpads.wgt_depth
        image = self.narrow(image)
        if image.slots > depth:
            raise UserError(
                f"{image.name} needs {image.slots} weight words a column block, scratchpads.wgt_depth is {depth}"
            )
        sizes = [count for size, times in parts(window.counts[0], self.chunk) for count in [size] * times]
        problem = WindowProblem(
            image_blocks=self.source.n // array.rows,
            height=window.counts[0],
            width=window.counts[1],
            chunks=len(sizes),
            row_loads=sum((size - 1) * window.in_step[0] + window.taps[0] for size in sizes),
            row_beats=self.pitch,
            depth=image.depth,
            blocks=image.blocks,
            group=array.lanes if image.pattern is None else image.pattern.m,
            group_words=1 if image.pattern is None else ceil(image.pattern.n / array.lanes),
            slots=image.slots,
            beats=image.beats,
            wgt_depth=self.rings.wgt.depth,
        )
        return window_choices(self.em.arch, problem)

    def emit(self, image: WeightImage, epilogue: Epilogue | None = None, choice: Choice | None = None) -> None:
        """Record all tiles, cut as `choice` (the best one if None) says; results are stored to `target` as operands."""
        for _ in self.parts(image, epilogue, choice):
            pass

    def parts(
        self, image: WeightImage, epilogue: Epilogue | None = None, choice: Choice | None = None
    ) -> Iterator[Progress]:
        """The same bit by bit, between which other products may be recorded."""
        image = self.image = self.narrow(image)
        self.choice = choice or choose(self.choices(image))[0]
        weights = self.rings.weights(self.em, image, self.choice.cols)
        for start in range(0, self.source.n, self.array.rows):
            for first in range(0, self.window.counts[0], self.chunk):
                rows = range(first, min(first + self.chunk, self.window.counts[0]))
                yield from self._chunk(start, rows, weights, epilogue)

    def _progress(self, start: int, rows: range, done: float) -> Progress:
        """When a share of the tiles of a chunk has been recorded."""
        height, blocks = self.window.counts[0], self.source.n // self.array.rows
        block, alone = start // self.array.rows, self.choice.cols >= self.image.blocks
        share = rows.start + done * len(rows)
        made = floor(share) if alone else rows.start
        ahead = (self.chunk * self.window.in_step[0] + self.window.taps[0]) / self.source.h
        return Progress(
            share=(block + share / height) / blocks,
            made=(block + made / height) / blocks,
            needs=(block + min(1.0, share / height + ahead)) / blocks,
        )

    def narrow(self, image: WeightImage) -> WeightImage:
        """Few channels in a word: the rest of the word is left out, if one run and one jump can tell the walk so."""
        cols = self.array.cols
        used = used_values(self.source, self.array)
        fits = not image.run and image.pattern is None and self.source.words == 1 and min(self.window.taps) == 1
        return image.narrowed(used, cols) if fits and used < cols else image

    def _chunk(
        self, start: int, rows: range, weights: ResidentWeights, epilogue: Epilogue | None
    ) -> Iterator[Progress]:
        """Output rows whose inputs are in the banks together: column tiles outside, so that weights stay. The next
        chunk gets other words, if there is room, so that it is loaded meanwhile.
        """
        area, loaded = self.rings.act.take(self.area), 0
        self._pad(area, self.zeros)
        base = rows.start * self.window.in_step[0] + self.window.in_offset[0]
        tiles, step = list(column_tiles(self.image, self.choice.cols)), self.choice.interleave[0]
        done, count = 0, len(tiles) * len(rows) * ceil(self.window.counts[1] / step)
        for block, words in tiles:
            held = weights.get(block, words)
            for row in rows:
                slot = (row - rows.start) * self.window.in_step[0]
                for column in range(0, self.window.counts[1], step):
                    pixels = min(step, self.window.counts[1] - column)
                    tile = Tile(start, *self._pixel(row, column), pixels, block, words)
                    yield self._progress(start, rows, done / count)
                    for number in range(loaded, slot + self.window.taps[0]):
                        self._load_row(area, number, start, base + number)
                    loaded = max(loaded, slot + self.window.taps[0])
                    self._tile(area, slot, column, tile, held, epilogue)
                    done += 1

    def _pixel(self, row: int, column: int) -> tuple[int, int]:
        window = self.window
        return window.out_start[0] + row * window.out_step[0], window.out_start[1] + column * window.out_step[1]

    def _load_row(self, area: int, slot: int, start: int, h: int) -> None:
        """One image row of every image of the block, zeros behind it; zeros alone outside the image."""
        addr = area + self.zeros + slot * self.pitch
        if not 0 <= h < self.source.h:
            self._pad(addr, self.pitch)
            return
        source, beat = self.source, self.em.arch.beat_bytes
        self.em.load(
            Target.ACT_ROWS,
            addr,
            self.em.region(source, start, h, 1),
            Region("act", addr, addr + self.pitch),
            rows=self.array.rows,
            beats=source.row_words,
            pad=self.zeros,
            dram_addr=source.address + (start * source.image_words + h * source.row_words) * beat,
            row_stride=source.image_words * beat,
        )

    def _pad(self, addr: int, words: int) -> None:
        if words:
            region = Region("act", addr, addr + words)
            self.em.load(Target.ACT_ROWS, addr, None, region, rows=self.array.rows, pad=words)

    def _tile(self, area: int, slot: int, column: int, tile: Tile, held: Region, epilogue: Epilogue | None) -> None:
        """One TENSOR instruction and what follows it."""
        window, source, image = self.window, self.source, self.image
        unit = self.array.cols // self.array.act_width
        self.em.begin_chunk()
        first = area + self.zeros + slot * self.pitch
        left = (column * window.in_step[1] + window.in_offset[1]) * source.words
        result = self.em.take(tile.pixels * self.array.rows, tile.words)
        end = first + window.taps[0] * self.pitch
        sparse = image.pattern is not None
        self.em.tensor(
            [Region("act", first - self.zeros, end), held, *([Region("idx", held.start, held.stop)] if sparse else [])],
            [result.region],
            dataflow=Dataflow.OUTPUT_STATIONARY,
            sparse=sparse,
            first=1,
            last=1,
            n=image.pattern.n if sparse else 0,
            m=image.pattern.m if sparse else 0,
            tile_cols=tile.words,
            tile_rows=tile.pixels,
            groups=image.depth // (image.pattern.m if sparse else self.array.lanes),
            rows=result.rows,
            act_addr=(first + left) * unit,
            act_stride=window.in_step[1] * source.words * unit,
            wgt_addr=held.start,
            acc_addr=result.addr,
            acc_stride=result.stride,
            walk=Walk.ACT,
            **self._walk(unit),
        )
        self._store(epilogue(result, tile) if epilogue else result, tile)

    def _walk(self, unit: int) -> dict[str, int]:
        """Run and jump over a row of taps, or over each tap if only part of its word is used."""
        taps, words = self.window.taps, self.source.words
        if self.image.run is None:
            return {"run": taps[1] * words * unit, "jump": (self.pitch - taps[1] * words) * unit}
        run = self.image.run[0] // self.array.act_width
        return {"run": run, "jump": (words if taps[0] == 1 else self.pitch) * unit - run}

    def _store(self, result: Block, tile: Tile) -> None:
        """A STORE for each pixel: the same pixel of all images."""
        target, beat = self.target, self.em.arch.beat_bytes
        for pixel in range(tile.pixels):
            w = tile.w + pixel * self.window.out_step[1]
            word = tile.image * target.image_words + tile.h * target.row_words + w * target.words + tile.block
            self.em.store(
                result.part(pixel * self.array.rows, self.array.rows),
                target.address + word * beat,
                target.image_words * beat,
                self.em.region(target, tile.image, tile.h, 1),
                Format.OPERAND,
            )
