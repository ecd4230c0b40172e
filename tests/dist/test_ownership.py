import itertools

import numpy as np

from infodcl_dist.parallel.ownership import NOTHING, Block, Span, column_layout, column_spans, row_layout, row_spans


def test_the_pieces_recombine_exactly():
    visited = 0
    for spans_of in (row_spans, column_spans):
        for size in (*range(33), 1000, 1001, 10**9 + 7):
            for world_size in (1, 2, 3, 4, 7, 8, 64):
                spans = spans_of(size, world_size)
                assert len(spans) == world_size
                assert spans[0].start == 0
                assert spans[-1].stop == size
                assert all(a.stop == b.start for a, b in itertools.pairwise(spans))
                assert all(span.size >= 0 for span in spans)
                visited += 1
    assert visited == 2 * 36 * 7


def test_rows_are_equal_blocks_and_columns_differ_by_one_at_most():
    for size in range(1, 40):
        for world_size in (1, 2, 3, 4, 7):
            rows = [span.size for span in row_spans(size, world_size)]
            assert rows == sorted(rows, reverse=True)
            assert rows[0] == -(-size // world_size)
            columns = [span.size for span in column_spans(size, world_size)]
            assert max(columns) - min(columns) <= 1


def test_two_layouts_share_every_element_once():
    """Each rank's blocks cut by every other layout's blocks: parts add up to the whole, each where it should lie."""
    visited = 0
    for rows, width in ((16, 8), (5, 6), (3, 2), (1, 1)):
        everything = Block(Span(0, rows), Span(0, width))
        for world_size in (1, 2, 3, 4, 7):
            by_row, by_column = row_layout(rows, width, world_size), column_layout(rows, width, world_size)
            seen = np.zeros((rows, width), dtype=int)
            for one in by_row:
                for other in by_column:
                    part = one.within(other)
                    seen[part.slices_of(everything)] += 1
                    assert seen[one.slices_of(everything)][part.slices_of(one)].shape == part.shape
            assert (seen == 1).all()
            assert all(block.within(NOTHING).shape[0] == 0 for block in by_row)
            visited += 1
    assert visited == 20
