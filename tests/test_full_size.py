"""The unmodified recipes run two iterations on real images at full size: 800x1333 pixels, and crops of 512x512.

The data are looked for in ``data/``, and in ``shared/data`` beside the repository, which checkouts may share.
"""

import json

import pytest

from tests.conftest import ROOT, link

pytestmark = pytest.mark.full_size


@pytest.mark.parametrize(
    ('config', 'place', 'name', 'length', 'score'),
    [
        *(
            (
                config,
                'coco',
                'coco',
                ['train_cfg.max_epochs=1', 'train_dataloader.dataset.indices=4', 'val_dataloader.dataset.indices=1'],
                'coco/segm_mAP',
            )
            for config in (
                'mask_rcnn_mambaout_tiny',
                'vmamba/mask_rcnn_vmamba_tiny',
                'vmamba/mask_rcnn_vmamba_tiny_s1l8',
                'efficient_vmamba/mask_rcnn_efficient_vmamba_base',
                'local_mamba/mask_rcnn_local_vim_tiny',
                'local_mamba/mask_rcnn_local_vmamba_tiny',
                'plain_mamba/mask_rcnn_plain_mamba_l1',
                's4nd/mask_rcnn_s4nd_convnext_tiny',
                'vim/mask_rcnn_vim_tiny',
                'vit/mask_rcnn_vit_small',
            )
        ),
        (
            'upernet_mambaout_tiny',
            'ade/ADEChallengeData2016',
            'ADEChallengeData2016',
            ['train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'val_dataloader.dataset.indices=1'],
            'mIoU',
        ),
    ],
)
def test_unmodified_config_trains_validates_and_tests_on_real_images(
    tool, tmp_path, config, place, name, length, score
):
    link(tmp_path, place, name)
    path, work_dir = ROOT / f'configs/{config}.py', tmp_path / 'work'
    length = [*length, length[-1].replace('val_', 'test_'), 'default_hooks.logger.interval=1']
    if score == 'coco/segm_mAP':
        length.append('model.test_cfg.rcnn.score_thr=0')  # after two steps, all scores may be low
    options = ['--work-dir', work_dir, '--cfg-options', *length, 'model.backbone.init_cfg=None']
    trained = tool('train.py', path, *options, cwd=tmp_path)
    assert trained.returncode == 0, trained.stdout[-3000:]
    assert 'THE GLOBAL BATCH IS 2' in trained.stdout and f'{score}: ' in trained.stdout
    losses = [
        json.loads(line)['loss'] for line in next(work_dir.glob('*/vis_data/scalars.json')).open() if '"loss"' in line
    ]
    assert len(losses) == 2
    checkpoint = work_dir / (work_dir / 'last_checkpoint').read_text()
    tested = tool('test.py', path, checkpoint, '--json', tmp_path / 'scores.json', *options, cwd=tmp_path)
    assert tested.returncode == 0, tested.stdout[-3000:]
    assert score in json.loads((tmp_path / 'scores.json').read_text())
