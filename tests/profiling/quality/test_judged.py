"""What is made of the judge's answers, by hand; the judge itself is tested elsewhere (`make judge`)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rushes.errors import InvalidRequest
from rushes.models.judge import load_judge
from rushes.profiling.bench.judging import judge_sets
from rushes.profiling.quality.frechet import MAX_WIDTH
from rushes.profiling.quality.judged import ATTRIBUTES, JUDGE_FOLDER, ClipJudge, Share
from rushes.profiling.quality.latents import relative_l1, relative_l1_curve


@pytest.fixture(scope="module")
def judge() -> ClipJudge:
    return ClipJudge()


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (33, 64, 96, 3)).astype(np.uint8)


def test_a_clip_is_read_as_the_judge_reads_its_video(judge: ClipJudge, clip: np.ndarray) -> None:
    video = torch.from_numpy(clip).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    with torch.no_grad():
        expected = {name: int(logits.argmax()) for name, logits in load_judge(JUDGE_FOLDER)(video).items()}
    assert judge.read(clip) == expected


def test_features_of_a_batch_are_those_of_its_clips(judge: ClipJudge, clip: np.ndarray) -> None:
    clips = torch.from_numpy(np.stack([clip, 255 - clip, clip[::-1]]))
    together = judge.features(clips)
    assert together.shape == (3, MAX_WIDTH)
    for one, features in zip(clips, together, strict=True):
        assert judge.features(one[None])[0] == pytest.approx(features, abs=1e-4)
    assert not np.allclose(together[0], together[1], atol=1e-2)


def test_one_wrong_attribute_fails_the_whole(judge: ClipJudge, clip: np.ndarray) -> None:
    read = judge.read(clip)
    asked = [read, {**read, "motion": (read["motion"] + 1) % 14}]
    found = judge_sets({"ours": [clip, clip], "again": [clip, clip]}, asked, judge)
    shares = {name: share.share for name, share in found["ours"].adherence.items()}
    assert shares == {**dict.fromkeys(ATTRIBUTES, 1.0), "motion": 0.5, "all": 0.5}
    assert found["ours"].adherence["all"].chance == pytest.approx(1 / (104 * 14 * 14 * 7 * 3))
    assert (found["ours"].distance, found["again"].distance) == (None, None), "too few clips"


def test_a_clip_of_another_length_is_refused(judge: ClipJudge) -> None:
    assert not judge.can_read(17)
    with pytest.raises(InvalidRequest, match="the judge reads clips of 33 frames, got 17"):
        judge.read(np.zeros((17, 128, 192, 3), np.uint8))


def test_wilsons_interval() -> None:
    low, high = Share(right=8, num=10, chance=0.1).interval
    assert (low, high) == pytest.approx((0.490, 0.943), abs=1e-3)
    assert Share(right=2, num=2, chance=0.1).interval[1] == 1.0


def test_the_relative_l1_of_latents() -> None:
    a = torch.tensor([[1.0, -3.0]])
    assert relative_l1(a, a) == 0.0
    assert relative_l1(a, torch.tensor([[2.0, -3.0]])) == pytest.approx(0.25)
    assert relative_l1_curve([a, a], [a, 2 * a]) == [0.0, 1.0]
