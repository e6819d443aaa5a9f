"""Figures of merit against independent referees: SciPy, scikit-image, brute force, and cases solved by
hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats
from skimage.data import astronaut
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from recognition.evaluation import metrics

# Few distinct values, so that ties are common: that is where thresholds go wrong.
SCORES = st.lists(st.integers(-6, 6).map(lambda n: n / 4), min_size=1, max_size=30)

# The machine may be busy: only the answer is tested here, not how long it takes.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def picture(size: int = 64) -> np.ndarray:
    return np.asarray(astronaut()[40 : 40 + size, 180 : 180 + size])


def test_wilson_agrees_with_scipy() -> None:
    for successes, trials in ((0, 10), (1, 10), (5, 10), (10, 10), (3, 3000), (2999, 3000)):
        ours = metrics.wilson(successes, trials)
        referee = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
        assert (ours.low, ours.high) == pytest.approx((referee.low, referee.high), abs=1e-9)


def test_wilson_refuses_more_successes_than_trials() -> None:
    for successes, trials in ((1, 0), (3, 2), (-1, 5)):
        with pytest.raises(ValueError, match="successes"):
            metrics.wilson(successes, trials)


@PATIENT
@given(scores=SCORES, seed=st.integers(0, 1000))
def test_no_threshold_classifies_better_than_the_best_threshold(scores: list[float], seed: int) -> None:
    same = np.random.default_rng(seed).random(len(scores)) < 0.5
    s = np.array(scores)
    best = np.mean((s >= metrics.best_threshold(s, same)) == same)
    for threshold in [*np.unique(s), np.inf]:
        assert best >= np.mean((s >= threshold) == same)


def test_a_fold_is_judged_at_the_threshold_of_the_others() -> None:
    # Folds 0 and 1 part at 0.5. Fold 2 parts at 0.1, which its own threshold would see and the others'
    # cannot.
    scores = np.array([0.9, 0.2, 0.8, 0.3, 0.15, 0.05])
    same = np.array([1, 0, 1, 0, 1, 0], bool)
    result = metrics.fold_accuracy(scores, same, [0, 0, 1, 1, 2, 2])
    assert result.accuracies[2] == 0.5
    assert 0.3 < result.thresholds[2] < 0.8


def test_one_fold_alone_has_no_accuracy() -> None:
    with pytest.raises(ValueError, match="one fold"):
        metrics.fold_accuracy([0.1, 0.9], [False, True], [0, 0])


@PATIENT
@given(scores=SCORES, rate=st.floats(0, 1))
def test_the_threshold_at_a_rate_keeps_it_and_no_lower_one_does(scores: list[float], rate: float) -> None:
    s = np.array(scores)
    threshold = metrics.threshold_at(s, rate)
    assert np.mean(s >= threshold) <= rate + 1e-9
    lower = s[s < threshold]
    if lower.size:
        assert np.mean(s >= lower.max()) > rate


def test_a_threshold_keeps_its_rate_when_scores_are_compared_in_float32() -> None:
    scores = np.random.default_rng(0).random(1000).astype(np.float32)
    assert np.mean(scores >= metrics.threshold_at(scores, 0.01)) == 0.01


def test_fnmr_at_fmr_counts_by_hand() -> None:
    impostor = np.arange(1000) / 1000  # 0 to 0.999
    genuine = np.array([0.9895, 0.9985, 1.2, 1.3])
    at = metrics.fnmr_at_fmr(genuine, impostor, 1e-2)  # ten impostors, 0.990 to 0.999, may pass
    assert at.reached == pytest.approx(0.01)
    assert 0.989 < at.threshold <= 0.99
    assert at.rate == 0.0 if at.threshold <= 0.9895 else at.rate == 0.25
    assert (at.trials, at.impostor_trials) == (4, 1000)
    assert at.interval.low <= at.rate <= at.interval.high


def test_a_rate_below_one_in_all_impostors_lets_none_in() -> None:
    at = metrics.fnmr_at_fmr([0.95, 0.99], np.linspace(0, 0.97, 100), 1e-4)
    assert at.reached == 0.0
    assert at.rate == 0.5


def test_the_bootstrap_covers_the_true_rate_and_narrows_with_trials() -> None:
    rng = np.random.default_rng(1)

    def interval(n: int) -> metrics.Interval:
        return metrics.bootstrap_fnmr(rng.normal(2, 1, n), rng.normal(0, 1, n), 1e-2, rng, rounds=200)

    truth = stats.norm.cdf(stats.norm.ppf(0.99) - 2)
    few, many = interval(300), interval(6000)
    assert many.low < truth < many.high
    assert many.high - many.low < few.high - few.low


@PATIENT
@given(genuine=SCORES, impostor=SCORES)
def test_auc_is_the_area_under_the_roc_and_the_mann_whitney_statistic(
    genuine: list[float], impostor: list[float]
) -> None:
    fmr, tmr, thresholds = metrics.roc(genuine, impostor)
    assert (fmr[0], tmr[0], fmr[-1], tmr[-1]) == (0, 0, 1, 1)
    assert np.all(np.diff(fmr) >= 0) and np.all(np.diff(tmr) >= 0) and np.all(np.diff(thresholds) < 0)
    area = metrics.auc(genuine, impostor)
    assert area == pytest.approx(np.trapezoid(tmr, fmr))
    u = stats.mannwhitneyu(genuine, impostor).statistic
    assert area == pytest.approx(u / (len(genuine) * len(impostor)))


def test_a_mated_search_that_ranks_someone_else_first_is_a_miss_at_any_threshold() -> None:
    mate, other = [0.9, 0.9, 0.3], [0.95, 0.2, 0.1]
    assert metrics.identification_misses(mate, other, -1.0) == 1
    assert metrics.identification_misses(mate, other, 0.5) == 2
    at = metrics.fnir_at_fpir(mate, other, np.linspace(0, 0.4, 100), 0.01)
    assert at.rate == pytest.approx(2 / 3)
    assert at.reached <= 0.01


def test_a_search_that_ranks_another_level_with_the_mate_is_a_miss() -> None:
    assert metrics.identification_misses([0.7], [0.7], 0.5) == 1


@PATIENT
@given(fpir=st.floats(1e-6, 0.5), gallery=st.integers(1, 100_000))
def test_fmr_for_fpir_inverts_fpir_of_gallery(fpir: float, gallery: int) -> None:
    assert metrics.fpir_of_gallery(metrics.fmr_for_fpir(fpir, gallery), gallery) == pytest.approx(
        fpir, rel=1e-6
    )


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10_000), strength=st.sampled_from([1.0, 20.0, 200.0]))
def test_ssim_and_psnr_agree_with_scikit_image(seed: int, strength: float) -> None:
    reference = picture()
    noise = np.random.default_rng(seed).normal(0, strength, reference.shape)
    noisy = np.clip(reference + noise, 0, 255).round().astype(np.uint8)
    referee = structural_similarity(
        noisy,
        reference,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
    )
    assert metrics.ssim(noisy, reference) == pytest.approx(referee, abs=1e-9)
    assert metrics.psnr(noisy, reference) == pytest.approx(
        peak_signal_noise_ratio(reference, noisy), abs=1e-9
    )


def test_a_picture_is_wholly_like_itself() -> None:
    assert metrics.ssim(picture(), picture()) == pytest.approx(1.0)
    assert metrics.psnr(picture(), picture()) == np.inf


def test_pictures_of_different_shapes_are_not_compared() -> None:
    with pytest.raises(ValueError, match="shapes"):
        metrics.ssim(picture(64), picture(32))


def test_templates_whose_scores_never_meet_are_fully_linkable() -> None:
    d_sys = metrics.unlinkability(np.linspace(0.8, 1, 1000), np.linspace(0, 0.2, 1000))
    assert d_sys == pytest.approx(1.0)


def test_d_sys_of_half_overlapping_uniform_scores_is_one_half() -> None:
    # On [0, 0.5] only mated scores lie, D = 1; on [0.5, 1] the densities are equal, D = 0. Gomez-Barrero,
    # eq. 6.
    rng = np.random.default_rng(0)
    mated, non_mated = rng.uniform(0, 1, 200_000), rng.uniform(0.5, 1.5, 200_000)
    assert metrics.unlinkability(mated, non_mated) == pytest.approx(0.5, abs=0.02)


def test_scores_of_one_distribution_are_hardly_linkable() -> None:
    rng = np.random.default_rng(0)
    assert metrics.unlinkability(rng.normal(size=100_000), rng.normal(size=100_000)) < 0.03


def test_the_bootstrap_over_people_is_wide_where_one_person_makes_all_the_errors() -> None:
    rng = np.random.default_rng(0)
    mate, other = np.full(200, 0.9), np.full(200, 0.1)
    mate[:40] = 0.2  # one in five searches fails at any threshold between
    impostors, strangers = rng.uniform(0, 0.5, 2000), np.arange(2000)
    spread = metrics.bootstrap_fnir(
        mate, other, impostors, 0.01, rng, mated_person=np.arange(200) % 50, stranger=strangers
    )
    one = metrics.bootstrap_fnir(
        mate, other, impostors, 0.01, rng, mated_person=np.arange(200) // 40, stranger=strangers
    )
    assert spread.low <= 0.2 <= spread.high and one.low <= 0.2 <= one.high
    assert one.high - one.low > 2 * (spread.high - spread.low)


def test_the_bootstrap_moves_the_threshold_with_the_strangers() -> None:
    rng = np.random.default_rng(1)
    mate = rng.uniform(0.3, 0.7, 500)
    impostors = np.concatenate([np.full(99, 0.1), [0.6]])  # one stranger decides the threshold, when drawn
    interval = metrics.bootstrap_fnir(
        mate, np.zeros(500), impostors, 0.005, rng, mated_person=np.arange(500), stranger=np.arange(100)
    )
    assert interval.low == 0.0 and interval.high > 0.6
