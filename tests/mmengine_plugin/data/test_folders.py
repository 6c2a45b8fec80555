"""Folders with links are read to their end, for detection and segmentation alike."""

from mmengine.registry import DATASETS

from mmengine_plugin.data.folders import files_below
from tests.mmseg_plugin.data.test_folders import settings, write


def test_a_folder_of_masks_that_links_to_its_parent_is_read_once(tmp_path):
    write(tmp_path, 'i/0.png', 'm/0.png', 'i/deep/1.png', 'm/deep/1.png')
    for folder in ('i', 'm'):
        (tmp_path / folder / 'again').symlink_to(tmp_path / folder)
    write(tmp_path, 'i/.hidden.png')
    assert sorted(files_below(str(tmp_path / 'i'))) == ['.hidden.png', '0.png', 'deep/1.png']
    dataset = DATASETS.build(settings(tmp_path))
    paths = [dataset.get_data_info(index)['img_path'] for index in range(len(dataset))]
    assert paths == [f'{tmp_path}/i/0.png', f'{tmp_path}/i/deep/1.png']
