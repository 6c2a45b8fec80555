"""Every scan order reads a map by its definition and restores any sequence exactly, for all sizes up to 9x9."""

from itertools import pairwise, product

import pytest
import torch
from torch import Tensor

from backbones import UserError
from backbones.ops.scan_orders import ORDERS, Windows, get_order

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
NAMES = [*ORDERS, 'windows1', 'windows4', 'windows4_reversed']
SIZES = list(product(range(1, 10), repeat=2))
STEPS = {(0, 1): 1, (0, -1): 2, (-1, 0): 3, (1, 0): 4}  # PlainMamba's number of each step (down, right)


def path(name: str, height: int, width: int) -> list[tuple[int, int]]:
    """The cells ``(i, j)`` of a map, in the order as it is defined; cells outside the map are padding."""
    kind, *rest = name.split('_')
    rows, columns = range(height), range(width)
    if kind == 'rows':
        cells = [(i, j) for i in rows for j in columns]
    elif kind == 'columns':
        cells = [(i, j) for j in columns for i in rows]
    elif kind == 'snake' and rest[0] == 'rows':
        cells = [(i, j if i % 2 == 0 else width - 1 - j) for i in rows for j in columns]
    elif kind == 'snake':
        cells = [(i if j % 2 == 0 else height - 1 - i, j) for j in columns for i in rows]
    else:
        size = int(kind.removeprefix('windows'))
        corners = product(range(0, height, size), range(0, width, size))
        cells = [(top + i, left + j) for top, left in corners for i in range(size) for j in range(size)]
    return cells[::-1] if rest[-1:] == ['reversed'] else cells


def numbered(height: int, width: int) -> Tensor:
    """Two maps of different values, none of which is 0."""
    return torch.arange(1, 2 * height * width * 3 + 1, device=DEVICE).view(2, height, width, 3)


@pytest.mark.parametrize('name', NAMES)
def test_a_map_is_read_cell_by_cell_in_the_defined_order(name):
    for height, width in SIZES:
        x = numbered(height, width)
        inside = [(i < height and j < width, i, j) for i, j in path(name, height, width)]
        expected = [x[:, i, j] if there else torch.zeros_like(x[:, 0, 0]) for there, i, j in inside]
        assert torch.equal(get_order(name).read(x), torch.stack(expected, 1)), (height, width)


@pytest.mark.parametrize('name', NAMES)
def test_a_map_is_restored_exactly(name):
    order = get_order(name)
    for height, width in SIZES:
        x = numbered(height, width)
        assert torch.equal(order.restore(order.read(x), height, width), x), (height, width)


@pytest.mark.parametrize('name', NAMES)
def test_any_sequence_is_restored_cell_by_cell_and_padding_is_dropped(name):
    for height, width in SIZES:
        cells = path(name, height, width)
        y = numbered(1, len(cells))[:, 0]
        expected = torch.zeros(2, height, width, 3, dtype=y.dtype, device=DEVICE)
        for step, (i, j) in enumerate(cells):
            if i < height and j < width:
                expected[:, i, j] = y[:, step]
        assert torch.equal(get_order(name).restore(y, height, width), expected), (height, width)


def test_only_rows_and_columns_have_a_code_for_triton():
    codes = {name: order.code for name, order in ORDERS.items() if order.code is not None}
    assert codes == dict(rows=0, columns=1, rows_reversed=2, columns_reversed=3)
    assert Windows(size=3).code is None


def test_vmamba_reads_a_map_of_two_rows_in_its_four_orders():
    x = torch.arange(6).view(1, 2, 3, 1)
    read = [
        ''.join(map(str, ORDERS[name].read(x).flatten().tolist()))
        for name in ('rows', 'columns', 'rows_reversed', 'columns_reversed')
    ]
    assert read == ['012345', '031425', '543210', '524130']


@pytest.mark.parametrize('name', ['snake_rows', 'snake_columns', 'snake_rows_reversed', 'snake_columns_reversed'])
def test_a_snake_moves_between_neighbours_and_reports_each_direction(name):
    for height, width in SIZES:
        cells = path(name, height, width)
        steps = [STEPS[i - before_i, j - before_j] for (before_i, before_j), (i, j) in pairwise(cells)]
        directions = ORDERS[name].directions(height, width)
        assert directions.dtype == torch.long and directions.tolist() == [0, *steps], (height, width)


@pytest.mark.parametrize('name', NAMES)
def test_a_reversed_order_is_the_same_order_from_the_other_end(name):
    order, x = get_order(name), numbered(7, 8)
    assert torch.equal(order.reversed.read(x), order.read(x).flip(1))
    assert order.reversed.reversed == order != order.reversed
    if not name.endswith('_reversed'):
        assert order.reversed == get_order(f'{name}_reversed')


@pytest.mark.parametrize('name', NAMES)
def test_gradients_pass_through_reading_and_restoring(name):
    order = get_order(name)
    x = torch.randn(2, 7, 9, 3, dtype=torch.double, device=DEVICE, requires_grad=True)
    y = order.read(x)
    grad = torch.randn_like(y, requires_grad=True)
    assert torch.equal(torch.autograd.grad(y, x, grad)[0], order.restore(grad, 7, 9))
    restored = order.restore(grad, 7, 9)
    assert torch.equal(torch.autograd.grad(restored, grad, x)[0], y)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64, torch.bool])
def test_values_keep_their_dtype_and_bits(dtype):
    x = torch.randn(2, 8, 9, 3, device=DEVICE).to(dtype)
    for name in NAMES:
        y = get_order(name).read(x)
        assert y.dtype == dtype and torch.equal(get_order(name).restore(y, 8, 9), x), name


def test_maps_with_other_strides_and_empty_batches_work():
    x = torch.randn(2, 3, 8, 9, device=DEVICE).permute(0, 2, 3, 1)  # like the output of a convolution
    for name in NAMES:
        order = get_order(name)
        assert torch.equal(order.read(x), order.read(x.contiguous())), name
        assert order.restore(order.read(x[:0]), 8, 9).shape == (0, 8, 9, 3), name


def test_reading_rows_and_restoring_rows_or_columns_copies_nothing():
    x = torch.randn(1, 4, 5, 2, device=DEVICE)
    rows, columns = ORDERS['rows'], ORDERS['columns']
    assert rows.restore(rows.read(x), 4, 5).data_ptr() == x.data_ptr()
    y = columns.read(x)
    assert columns.restore(y, 4, 5).data_ptr() == y.data_ptr()


@pytest.mark.parametrize('name', ['snake_columns_reversed', 'windows4'])
def test_a_compiled_order_gives_the_same_result_without_a_graph_break(name):
    order = get_order(name)
    there_and_back = torch.compile(
        lambda x: order.restore(2 * order.read(x), *x.shape[1:3]), fullgraph=True, dynamic=True, backend='aot_eager'
    )
    x = torch.randn(1, 9, 7, 2, device=DEVICE, requires_grad=True)
    y = there_and_back(x)
    y.sum().backward()
    assert torch.equal(y, 2 * x) and torch.equal(x.grad, torch.full_like(x, 2))


def test_a_map_smaller_than_a_window_is_read_row_by_row_with_zeros_in_between():
    x = torch.arange(1, 5, device=DEVICE).view(1, 2, 2, 1)
    assert get_order('windows3').read(x).flatten().tolist() == [1, 2, 0, 3, 4, 0, 0, 0, 0]
    assert get_order('windows3_reversed').read(x).flatten().tolist() == [0, 0, 0, 0, 4, 3, 0, 2, 1]


@pytest.mark.parametrize(
    ('name', 'near'), [('row', 'rows'), ('rows_reverse', 'rows_reversed'), ('windows0', 'windows7'), (['rows'], 'rows')]
)
def test_an_unknown_order_is_refused_with_the_nearest_one(name, near):
    with pytest.raises(UserError) as error:
        get_order(name)
    assert str(error.value).startswith(f'unknown scan order {name!r} (did you mean {near!r}?); known: rows, columns,')


def test_every_name_gives_its_order():
    assert all(get_order(name) == order for name, order in ORDERS.items())
    assert get_order('windows12_reversed') == Windows(size=12, backward=True)
