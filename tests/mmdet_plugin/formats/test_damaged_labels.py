"""Damaged or doubtful labels are refused with their file and place, or told in a note."""

from pathlib import Path

import pytest
from PIL import Image

from backbones import UserError
from mmdet_plugin.formats import READERS, Folder, detect
from mmdet_plugin.formats.output import write
from tests.mmdet_plugin.formats.label_files import (
    BOX,
    HEIGHT,
    WIDTH,
    cvat_file,
    draw,
    labelme_file,
    labelme_shape,
    save,
    voc_file,
    voc_object,
    yolo_box,
)

# a document type whose entities grow when they are read
BOMB = '<!DOCTYPE a [<!ENTITY x "boom"><!ENTITY y "&x;&x;&x;">]>\n<annotation><filename>&y;</filename></annotation>'


def yolo(src: Path, line: str, names: str | None = 'cat\n') -> str:
    draw(src / 'a.png')
    save(src / 'a.txt', f'0 {yolo_box(*BOX)}\n{line}\n')
    if names is not None:
        save(src / 'classes.txt', names)
    return 'yolo'


def voc(src: Path, objects: str, **options: str) -> str:
    draw(src / 'JPEGImages/a.jpg')
    voc_file(src / 'Annotations/a.xml', objects, **options)
    return 'voc'


def labelme(src: Path, shape: dict, **more: object) -> str:
    draw(src / 'a.png')
    labelme_file(src / 'a.json', [shape], **more)
    return 'labelme'


def cvat(src: Path, shape: str) -> str:
    draw(src / 'a.png')
    cvat_file(src / 'a.xml', f'<image name="a.png" width="{WIDTH}" height="{HEIGHT}">{shape}</image>')
    return 'cvat'


def in_gbk(src: Path) -> str:
    yolo(src, '')
    (src / 'classes.txt').write_bytes('dog\n狗和猫\n'.encode('gbk'))
    return 'yolo'


def lost_label(src: Path) -> str:
    yolo(src, '')
    save(src / 'lost.txt', f'0 {yolo_box(*BOX)}\n')
    return 'yolo'


def with_yaml(src: Path, text: str) -> str:
    yolo(src, '')
    save(src / 'data.yaml', text)
    return 'yolo'


def two_images(src: Path) -> str:
    yolo(src, '')
    draw(src / 'a.jpg')
    return 'yolo'


def in_two_splits(src: Path) -> str:
    return with_yaml(src, 'train: .\nval: .\nnames: [cat]\n')


def turned(src: Path) -> str:
    labelme(src, labelme_shape('rectangle', [[1, 1], [9, 9]]))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(src / 'a.png').convert('RGB').save(src / 'a.jpg', exif=exif)
    labelme_file(src / 'a.json', [], imagePath='a.jpg')
    return 'labelme'


def bomb(src: Path) -> str:
    voc(src, '')
    save(src / 'Annotations/a.xml', BOMB)
    return 'voc'


def cut_off(src: Path) -> str:
    voc(src, '')
    save(src / 'Annotations/b.xml', '<annotation>')
    return 'voc'


def without_image(src: Path) -> str:
    voc(src, '')
    voc_file(src / 'Annotations/b.xml', '')
    return 'voc'


def video(src: Path) -> str:
    cvat(src, '')
    cvat_file(src / 'a.xml', '<track/>')
    return 'cvat'


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda s: yolo(s, '7 0.5 0.5 0.1 0.1'), r'a\.txt: line 2: class 7 is not among the 1 class names'),
        (lambda s: yolo(s, '0 0.5 0.5 0.1'), r'a\.txt: line 2: it has 4 numbers: a box has 5'),
        (lambda s: yolo(s, '0 0.5 0.5 0.1 0.1 0.9'), r'a\.txt: line 2: it has 6 numbers'),
        (lambda s: yolo(s, '0 0,5 0.5 0.1 0.1'), r"a\.txt: line 2 is malformed: could not convert .*'0,5'"),
        (lambda s: yolo(s, '0 nan 0.5 0.1 0.1'), r'a\.txt: line 2: nan is not a number'),
        (lambda s: yolo(s, '0 30 20 10 10'), r'a\.txt: line 2: 30 is not between 0 and 1'),
        (lambda s: yolo(s, '', names=None), 'no class names: write classes.txt'),
        (lambda s: yolo(s, '', names='cat\n\ndog\n'), r"classes\.txt: a class has the name ''"),
        (lambda s: yolo(s, '', names='cat\ncat\n'), "2 classes have the name 'cat'"),
        (in_gbk, r'classes\.txt: line 2 is not UTF-8: save it as UTF-8'),
        (lost_label, r'label files without an image: 1, the first is .*lost\.txt'),
        (two_images, r'a\.txt belongs to .*a\.jpg and to .*a\.png'),
        (lambda s: with_yaml(s, 'train: .\nnames: [cat]\nkpt_shape: [17, 3]'), r'data\.yaml: it has keypoints'),
        (lambda s: with_yaml(s, 'train: .\nnames: [no, cat]'), r'data\.yaml: a class has the name False'),
        (lambda s: with_yaml(s, 'train: .\nnames: [cat]\nnc: 2'), r'data\.yaml: nc is 2, and names has 1 classes'),
        (lambda s: with_yaml(s, 'train: .\nval: nowhere\nnames: [cat]'), r'data\.yaml: val: nowhere is not there'),
        (lambda s: with_yaml(s, 'names: [cat'), r'data\.yaml: it is not YAML'),
        (in_two_splits, r'a\.png is both in train and in val'),
        (lambda s: voc(s, '<object><name>cat</name></object>'), r'a\.xml: object 1: <object> has no <bndbox/xmin>'),
        (lambda s: voc(s, voc_object('', (1, 1, 5, 5))), r'a\.xml: object 1: <object> has no <name>, or an empty one'),
        (lambda s: voc(s, voc_object('cat', (9, 1, 5, 5))), r'a\.xml: object 1: its box ends at \(5, 5\)'),
        (
            lambda s: voc(s, voc_object('cat', (70, 1, 90, 5))),
            r'a\.xml: object 1: it reaches from .* outside its image',
        ),
        (
            lambda s: voc(s, '', size='<size><width>40</width><height>60</height></size>'),
            r'a\.jpg has 60x40 pixels, and its label file says 40x60: put the image there',
        ),
        (bomb, r'a\.xml: it has a DOCTYPE \(a\)'),
        (cut_off, r'b\.xml: it is not XML'),
        (without_image, r"b\.xml: 'b\.jpg' is not in"),
        (lambda s: labelme(s, dict(label='cat')), r"a\.json: shape 1 has no 'points'"),
        (lambda s: labelme(s, labelme_shape('polygon', [[1, 1], [2, 2]])), r'shape 1: a polygon needs three points'),
        (lambda s: labelme(s, labelme_shape('cube', [[1, 1]])), r"shape 1: its type is 'cube'"),
        (turned, r'a\.jpg has 40x60 pixels, since EXIF turns it, .* says 60x40: remove the EXIF orientation'),
        (lambda s: cvat(s, '<mask label="dog" rle="1, 2" left="0" top="0" width="2" height="2"/>'), 'cover 3 pixels'),
        (lambda s: cvat(s, '<polygon label="dog" points="1,1;2"/>'), r'a\.xml: image a\.png: polygon 1 is malformed'),
        (video, r'a\.xml: it has the tracks of a video'),
    ],
)
def test_a_damaged_label_is_refused_with_its_file_and_place(make, message, tmp_path):
    src, out = tmp_path / 'src', tmp_path / 'out'
    name = make(src)
    with pytest.raises(UserError, match=message) as caught:
        write(READERS[name](Folder(src)), src, out, None, 0.5, 0)
    assert len(str(caught.value).splitlines()) == 1 and not out.exists()


def test_an_image_that_exif_turns_has_the_size_that_training_loads(tmp_path):
    src = tmp_path / 'src'
    yolo(src, '')
    pixels = Image.open(draw(src / 'b.png', height=WIDTH, width=HEIGHT))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn: 40x60 becomes 60x40
    pixels.save(src / 'b.jpg', exif=exif)
    (src / 'b.png').unlink()
    save(src / 'b.txt', f'0 {yolo_box(*BOX)}\n')
    dataset, *_ = write(READERS['yolo'](Folder(src)), src, tmp_path / 'out', None, 0.5, 0)
    assert [image.size for image in dataset.images] == [(HEIGHT, WIDTH)] * 2
    (note,) = (note for note in dataset.notes if 'EXIF' in note)
    assert note.startswith('images that EXIF turns when they are loaded: 1, the first is ') and 'b.jpg' in note


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_class_names_of_any_language_are_read(encoding, tmp_path):
    yolo(tmp_path, '')
    (tmp_path / 'classes.txt').write_bytes('狗和猫\r\nchien épagneul\r\n'.encode(encoding))
    assert READERS['yolo'](Folder(tmp_path)).categories == ['狗和猫', 'chien épagneul']


def test_all_damaged_files_are_listed_at_once(tmp_path):
    src = tmp_path / 'src'
    save(src / 'classes.txt', 'cat\n')
    for name in 'abc':
        draw(src / f'{name}.png')
        save(src / f'{name}.txt', '0 0.5\n' if name != 'b' else f'0 {yolo_box(*BOX)}\n')
    with pytest.raises(UserError) as caught:
        READERS['yolo'](Folder(src))
    first, *lines = str(caught.value).splitlines()
    assert first == '2 problems'
    assert all(f'{name}.txt: line 1' in line for name, line in zip('ac', lines, strict=True))


def test_a_folder_of_unknown_or_several_formats_is_not_guessed(tmp_path):
    draw(tmp_path / 'none/a.png')
    with pytest.raises(UserError, match='has no labels of a known format: name one of coco, cvat'):
        detect(Folder(tmp_path / 'none'))
    yolo(tmp_path / 'both', '')
    voc(tmp_path / 'both', voc_object('cat', (1, 1, 5, 5)))
    with pytest.raises(UserError, match='may be voc or yolo'):
        detect(Folder(tmp_path / 'both'))
