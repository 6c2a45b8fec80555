"""``long_sequence.py`` counts what a Transformer block really takes, and gives the paper's figures."""

import matplotlib.image
import pytest
import torch
from timm.models.vision_transformer import Block
from torch.utils.flop_counter import FlopCounterMode

from backbones import MambaOut
from tools.long_sequence import flops, tokens_of


@pytest.mark.parametrize(('tokens', 'dim'), [(196, 384), (1024, 96), (7, 64)])
def test_flops_are_those_of_a_transformer_block(tokens, dim):
    with torch.device('meta'), FlopCounterMode(display=False) as counter:
        Block(dim, num_heads=dim // 32)(torch.empty(1, tokens, dim))
    assert sum(flops(tokens, dim)) == counter.get_total_flops()


def test_both_terms_are_equal_at_the_papers_thresholds():
    for tokens, dim in ((2304, 384), (4608, 768)):
        linear, quadratic = flops(tokens, dim)
        assert linear == quadratic


@pytest.mark.parametrize('size', [(33, 70), (64, 96), (1, 5)])
def test_tokens_are_the_cells_of_each_stage_also_of_odd_sizes(size):
    maps = MambaOut('femto')(torch.rand(1, 3, *size))
    assert [tokens_of(*size, 4 * 2**i) for i in range(4)] == [x.shape[2] * x.shape[3] for x in maps]


def table(text: str) -> list[tuple[str, list[float], str]]:
    """Image, tokens to r, and verdict of each row that was printed."""
    rows = []
    for line in text.split('\n\n')[0].splitlines()[1:]:
        *numbers, verdict = line[21:].split()
        rows.append((line[:21].strip(), [float(n) for n in numbers[1:5]], verdict))
    return rows


def test_without_arguments_it_prints_and_draws_the_papers_cases(tool, tmp_path):
    done = tool('long_sequence.py', cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert table(done.stdout) == [
        ('ImageNet', [196, 384, 2304, 0.085], 'no'),
        ('ImageNet', [196, 768, 4608, 0.043], 'no'),
        ('COCO', [4000, 384, 2304, 1.736], 'yes'),
        ('COCO', [4000, 768, 4608, 0.868], 'no'),
        ('ADE20K', [4096, 384, 2304, 1.778], 'yes'),
        ('ADE20K', [4096, 768, 4608, 0.889], 'no'),
        ('ADE20K, training crop', [1024, 384, 2304, 0.444], 'no'),
        ('ADE20K, training crop', [1024, 768, 4608, 0.222], 'no'),
    ]
    assert 'At width 768 (ViT-B), COCO and ADE20K come near the threshold and stay below it.' in done.stdout
    picture = matplotlib.image.imread(tmp_path / 'work_dirs/long_sequence.png')
    assert min(picture.shape[:2]) > 300 and picture.std() > 0.05  # not blank


@pytest.mark.parametrize(
    ('arch', 'ratios'), [('tiny', [111.111, 13.889, 1.736, 0.289]), ('base', [83.333, 10.417, 1.302, 0.217])]
)
def test_a_pyramid_is_answered_stage_by_stage(arch, ratios, tool, tmp_path):
    done = tool('long_sequence.py', '--arch', arch, '--shape', 800, 1280, '--out', tmp_path / 'a.png', cwd=tmp_path)
    rows = table(done.stdout)
    assert [numbers[0] for _, numbers, _ in rows] == [64000, 16000, 4000, 1000]
    assert [numbers[3] for _, numbers, _ in rows] == ratios
    assert [verdict for *_, verdict in rows] == ['yes', 'yes', 'yes', 'no']
    assert (tmp_path / 'a.png').is_file() and 'ViT' not in done.stdout


def test_exactly_at_the_threshold_a_sequence_is_not_long(tool, tmp_path):
    done = tool('long_sequence.py', '--shape', 96, 192, '--patch', 8, '--width', 48, cwd=tmp_path)
    assert table(done.stdout) == [('96x192', [288, 48, 288, 1.0], 'no')]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--arch', 'tiny', '--width', '96'], '--arch tiny gives patches and widths: leave out --patch and --width'),
        (['--out', 'a.gif'], '--out a.gif must end with .png'),
        (['--shape', '0', '32'], "argument --shape: '0' is not a positive number"),
        (['--arch', 'huge'], "argument --arch: invalid choice: 'huge'"),
    ],
)
def test_what_cannot_be_is_answered(arguments, message, tool, tmp_path):
    done = tool('long_sequence.py', *arguments, cwd=tmp_path)
    assert done.returncode in (1, 2) and message in done.stdout and 'Traceback' not in done.stdout
    assert not list(tmp_path.iterdir())
