"""The scan orders of each block of LocalMamba's models (arXiv 2403.09338), found by its authors' search.

The names are those of the code: ``h`` reads rows, ``v`` columns, ``w2`` and ``w7`` windows of 2x2 and 7x7 cells,
each with ``_flip`` from the other end. The i-th S6 in a block's weights belongs to the i-th name of
its list.
"""

from collections.abc import Sequence

ORDERS = dict(h='rows', v='columns', w2='windows2', w7='windows7')  # our names of the orders


def scan_orders(directions: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Names of scan orders, as in :data:`backbones.ops.scan_orders.ORDERS`, for each block."""
    names = {
        short + flip: ours + end for short, ours in ORDERS.items() for flip, end in (('', ''), ('_flip', '_reversed'))
    }
    return tuple(tuple(names[direction] for direction in block.split()) for block in directions)


# official repository, classification/lib/models/local_vim.py
LOCAL_VIM = scan_orders(
    (
        *('h v_flip w7 w7_flip', 'h_flip w2_flip w7 w7_flip', 'h h_flip v w7', 'h h_flip v v_flip'),
        *('h h_flip v v_flip', 'h h_flip v v_flip', 'h_flip v v_flip w7', 'h_flip v v_flip w2_flip'),
        *('h h_flip v v_flip', 'h h_flip v v_flip', 'h v v_flip w2', 'h v v_flip w2_flip'),
        *('h h_flip v_flip w7', 'h_flip v v_flip w2', 'h h_flip v v_flip', 'h v w2 w2_flip'),
        *('v v_flip w2 w7', 'h h_flip v w2', 'h h_flip w2_flip w7', 'v v_flip w2 w2_flip'),
    )
)
LOCAL_VIM_SMALL = scan_orders(('h h_flip w2 w2_flip',) * 20)  # not searched
# official repository, classification/lib/models/local_vmamba.py
LOCAL_VMAMBA_TINY = scan_orders(
    (
        *('h h_flip w7 w7_flip', 'h_flip v_flip w2 w2_flip'),
        *('h_flip v_flip w2_flip w7', 'h_flip v v_flip w2'),
        *('h h_flip v_flip w2_flip', 'h_flip v_flip w2 w2_flip', 'h w2_flip w7 w7_flip', 'h h_flip v v_flip'),
        *('h v_flip w7 w7_flip', 'h_flip v w2 w7_flip', 'v v_flip w2 w7_flip', 'h h_flip v_flip w2_flip'),
        'v_flip w2_flip w7 w7_flip',
        *('h_flip v_flip w2_flip w7_flip', 'h_flip v w7 w7_flip'),
    )
)
LOCAL_VMAMBA_SMALL = scan_orders(
    (
        *('h v v_flip w7_flip', 'h h_flip v w7'),
        *('h_flip v v_flip w7', 'h_flip v w2_flip w7'),
        *('h_flip v w2_flip w7', 'h_flip v_flip w2 w7_flip', 'h_flip v v_flip w7', 'h v v_flip w7', 'h v v_flip w7'),
        *('h v v_flip w7_flip', 'h h_flip v v_flip', 'h v v_flip w2', 'v v_flip w2_flip w7', 'h h_flip v w2'),
        *('h_flip v v_flip w7_flip', 'h h_flip v v_flip', 'h v v_flip w7_flip', 'h v v_flip w7_flip'),
        *('h h_flip v_flip w7', 'h_flip v_flip w2_flip w7', 'h_flip v v_flip w7_flip', 'v v_flip w7 w7_flip'),
        *('h v v_flip w7_flip', 'h_flip v v_flip w2', 'h v v_flip w2_flip', 'h h_flip v w7', 'h h_flip w7 w7_flip'),
        *('h v_flip w2 w2_flip', 'h v_flip w2 w7', 'h v v_flip w7_flip', 'h_flip v w2_flip w7'),
        *('h_flip v_flip w7 w7_flip', 'h v w7 w7_flip'),
    )
)
