"""What kernels work on: blocks of accumulator words, feature maps in external memory, and chunks of them."""

from dataclasses import dataclass, replace

from scheduler.hazards import Region


@dataclass(frozen=True)
class Block:
    """`rows` x `words` accumulator words: word (y, x) is `addr + y*stride + x`; with `hold`, `addr + y*stride`."""

    addr: int
    rows: int
    words: int
    stride: int
    hold: bool = False

    @property
    def region(self) -> Region:
        """From the first to the last word."""
        width = 1 if self.hold else self.words
        return Region("acc", self.addr, self.addr + (self.rows - 1) * self.stride + width)

    def part(self, first: int, rows: int, step: int = 1) -> "Block":
        """Every `step`-th row from `first` on, `rows` of them."""
        return replace(self, addr=self.addr + first * self.stride, rows=rows, stride=step * self.stride)

    def columns(self, first: int, words: int) -> "Block":
        """`words` words of every row from word `first` on."""
        return replace(self, addr=self.addr + first, words=words)

    def reshape(self, rows: int, words: int) -> "Block":
        """The same words in another shape; only for blocks without gaps."""
        if self.hold or self.stride != self.words or rows * words != self.rows * self.words:
            raise ValueError(f"a block of {self.rows} x {self.words} is not one of {rows} x {words}")
        return replace(self, rows=rows, words=words, stride=words)

    def over_rows(self, rows: int) -> "Block":
        """One row repeated for `rows` rows, as a parameter of channels is."""
        return replace(self, rows=rows, stride=0)

    def over_words(self, words: int) -> "Block":
        """One word of each row repeated for `words` words, as a sum over channels is."""
        return replace(self, words=words, hold=True)

    def over(self, block: "Block") -> "Block":
        """One word repeated for a whole block, as a constant is."""
        return self.over_rows(block.rows).over_words(block.words)

    def like(self, block: "Block") -> "Block":
        """Repeated to the shape of a block where it has one row, or one word in a row, and the block has more.

        A single word is held, so that it is read once.
        """
        rows = self.over_rows(block.rows) if self.rows == 1 else self
        single = self.rows == 1 < block.rows or block.words > 1
        return rows.over_words(block.words) if self.words == 1 and single else rows


@dataclass(frozen=True)
class Feature:
    """A tensor [N, H, W, C] of operands in external memory, channels filled up with zeros to whole words.

    `unit` numbers its image rows for hazards: row h of image block b (`array.rows` images) is `unit + b*H + h`. If
    `span` is not 0, another shape of the same values has these numbers, and each access counts as one of all `span`.
    A part of a tensor begins `shift` images after the first one of block 0.
    """

    name: str
    n: int
    h: int
    w: int
    c: int
    words: int
    address: int
    unit: int
    span: int = 0
    shift: int = 0

    @property
    def row_words(self) -> int:
        """Words of one image row."""
        return self.w * self.words

    @property
    def image_words(self) -> int:
        """Words of one image."""
        return self.h * self.row_words


@dataclass(frozen=True)
class Chunk:
    """Columns `w` .. `w + width - 1` of rows `h` .. `h + rows - 1` of images `image` .. `image + images - 1`.

    The images lie in one image block, unless they are single pixels. Less than whole rows are part of one row.
    """

    image: int
    images: int
    h: int
    rows: int
    w: int
    width: int

    @property
    def pixels(self) -> int:
        """Pixels of all images."""
        return self.images * self.rows * self.width
