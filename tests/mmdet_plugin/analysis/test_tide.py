"""TIDE's kinds of errors: single cases by their definitions, and the numbers of the authors' program on random data."""

import numpy as np
import pytest
from pycocotools import mask as rle

from mmdet_plugin.analysis.tide import KINDS, concatenate, error_costs, error_counts, match_image

OBJECTS = np.array([[0, 0, 10, 10], [50, 0, 10, 10]], float)  # x, y, width, height; classes 0 and 1


def overlaps(boxes: np.ndarray, others: np.ndarray, crowd: bool = False) -> np.ndarray:
    found = rle.iou(boxes, others, [crowd] * len(others)) if len(boxes) and len(others) else []
    return np.reshape(found, (len(boxes), len(others)))


def match(boxes: list, labels: list[int], objects: np.ndarray = OBJECTS, truth: tuple = (0, 1), crowds: tuple = ()):
    """Match detections with falling scores."""
    boxes, regions = np.array(boxes, float).reshape(-1, 4), np.array(crowds, float).reshape(-1, 4)
    return match_image(
        np.linspace(0.9, 0.1, len(boxes)),
        np.array(labels, int),
        np.array(truth, int),
        overlaps(boxes, objects),
        np.zeros(len(regions), int),
        overlaps(boxes, regions, True),
    )


@pytest.mark.parametrize(
    ('box', 'label', 'kind'),
    [
        ([0, 0, 10, 10], 0, None),
        ([0, 0, 10, 10], 1, 'Classification'),
        ([0, 5, 10, 10], 0, 'Localization'),  # IoU 1/3
        ([0, 5, 10, 10], 1, 'Both'),
        ([0, 9, 10, 10], 0, 'Background'),  # IoU 1/19
        ([0, 9, 10, 10], 1, 'Background'),
        ([0, 8.1, 10, 10], 0, 'Localization'),  # IoU 0.105
    ],
)
def test_a_detection_has_the_kind_of_its_definition(box, label, kind):
    (number,) = match([box], [label]).kinds
    assert (None if number < 0 else KINDS[number]) == kind


def test_a_second_detection_of_a_found_object_is_a_duplicate():
    matches = match([[0, 0, 10, 10], [0, 1, 10, 10]], [0, 0])
    assert [KINDS[kind] for kind in matches.kinds if kind >= 0] == ['Duplicate']


def test_an_object_is_missed_only_if_no_error_would_find_it():
    assert match([[0, 5, 10, 10]], [0]).missed.tolist() == [False, True]
    assert match([[0, 5, 10, 10]], [1]).missed.tolist() == [True, True]


def test_only_the_first_of_several_errors_with_one_target_can_be_mended():
    assert match([[0, 5, 10, 10], [0, 4, 10, 10]], [0, 0]).fixes.tolist() == [True, False]


def test_a_detection_in_a_crowd_of_its_class_does_not_count():
    crowd = ([90, 0, 30, 30],)
    assert match([[95, 5, 10, 10]], [0], crowds=crowd).ignored.tolist() == [True]
    assert match([[95, 5, 10, 10]], [1], crowds=crowd).ignored.tolist() == [False]


def test_an_image_without_objects_has_errors_of_background_alone():
    matches = match([[0, 0, 10, 10], [0, 0, 10, 10]], [0, 1], objects=np.zeros((0, 4)), truth=())
    assert [KINDS[kind] for kind in matches.kinds] == ['Background', 'Background']


def test_mending_the_only_error_brings_the_ap_to_100():
    costs = error_costs(match([[0, 0, 10, 10], [50, 5, 10, 10]], [0, 1]), 2)
    assert costs['AP50'] == costs['Localization'] == pytest.approx(50)
    assert costs['Classification'] == costs['Missed'] == 0


def test_a_class_without_objects_is_left_out_of_the_mean():
    matches = match([[0, 0, 10, 10], [50, 0, 10, 10], [80, 0, 10, 10]], [0, 1, 2])
    assert error_costs(matches, 3)['AP50'] == pytest.approx(100)


def random_image(rng: np.random.RandomState, index: int):
    numbers = [rng.randint(0, 5), rng.randint(0, 2), rng.randint(0, 14)]
    objects, crowds, boxes = (np.hstack([rng.rand(n, 2) * 60, 10 + rng.rand(n, 2) * 30]) for n in numbers)
    truth, crowd_labels, labels = (rng.randint(0, 4, n) for n in numbers)
    for box in range(len(boxes)):
        if len(objects) and rng.rand() < 0.8:
            near = rng.randint(len(objects))
            boxes[box] = objects[near] + rng.choice([1, 4, 9]) * (rng.rand(4) - 0.5) * 2
            if rng.rand() < 0.7:
                labels[box] = truth[near]
    scores = np.sort(rng.rand(len(boxes)))[::-1]
    iou, crowd_iou = overlaps(boxes, objects), overlaps(boxes, crowds, True)
    return (scores, labels, truth, iou, crowd_labels, crowd_iou, index), (boxes, objects, crowds)


# The output of tidecv 1.0.1, the authors' program, on 12 images of random_image for each seed: counts and dAP of the
# six kinds, then AP50 and the dAP of false positives and false negatives
AUTHORS = {
    0: (
        [7, 17, 4, 23, 12, 8],
        [4.55420437, 6.994821048, 2.0833924052, 2.5408344204, 5.3264657727, 11.5277180191],
        [37.997026351, 30.0722805797, 17.1224649938],
    ),
    1: (
        [3, 18, 5, 13, 14, 11],
        [3.2453849781, 15.2258140432, 0.9739870748, 1.7894504893, 4.0811707327, 7.0456399313],
        [20.8529813363, 26.4242463865, 11.3556215367],
    ),
    2: (
        [14, 13, 9, 15, 52, 0],
        [10.5204232682, 4.5425466274, 2.0078301723, 1.1013902501, 13.1316344834, 0.0],
        [16.5984278086, 60.1342454587, 4.8717308706],
    ),
}


@pytest.mark.parametrize('seed', AUTHORS)
def test_counts_and_costs_are_those_of_the_authors_program(seed):
    rng = np.random.RandomState(seed)
    matches = concatenate([match_image(*random_image(rng, index)[0]) for index in range(12)])
    counts, costs, others = AUTHORS[seed]
    assert error_counts(matches, 4).sum(1).tolist() == counts
    found = error_costs(matches, 4)
    assert [found[kind] for kind in KINDS] == pytest.approx(costs, abs=1e-9)
    assert [found[k] for k in ('AP50', 'False positives', 'False negatives')] == pytest.approx(others, abs=1e-9)
